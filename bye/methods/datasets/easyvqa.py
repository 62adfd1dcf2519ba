"""easy-VQA (Zhou 2019, github.com/vzhou842/easy-VQA): questions on drawn shapes of 64 x 64 pixels, with one of 13 words
as answer.

Official layout: train/questions.json and test/questions.json, lists of [question, answer, number of the image], and the
images train/images/NUMBER.png and test/images/NUMBER.png. 38,575 training and 9,673 test questions on 4,000 and 1,000
images.
"""

from collections import Counter
from pathlib import Path

from bye.data.layout import PHRASE_PROMPT, new_sample
from bye.errors import ByeError
from bye.files import read_json


def parts(root):
    """Return the files and image folders that a whole download has below `root`."""
    return [root / split / name for split in ("train", "test") for name in ("questions.json", "images")]


def load(root, split, *, seed):
    """Return the samples of a split ("train" or "test") in file order, images relative to root; `seed` has no part."""
    source, samples, asked = Path(root, split, "questions.json"), [], Counter()
    entries = read_json(source)
    if not isinstance(entries, list):
        raise ByeError(f"{source} is no list of questions; is this the official download?")
    for place, entry in enumerate(entries):
        if not (isinstance(entry, list) and [type(part) for part in entry] == [str, str, int]):
            raise ByeError(f"{source}, entry {place}: not [question, answer, image]; is this the official download?")
        question, answer, image = entry
        asked[image] += 1
        text = f"{question.strip().capitalize()}\n{PHRASE_PROMPT}"
        samples.append(new_sample(f"{image}-{asked[image]}", f"{split}/images/{image}.png", text, answer))
    return samples
