"""DAQUAR (Malinowski and Fritz, NeurIPS 2014): questions on photographs of rooms (NYU Depth v2), with short answers.

Official layout: qa.894.raw.train.txt and qa.894.raw.test.txt (or those of 37 classes of objects, qa.37.raw.*), in which
a line with a question, "what is on the desk in the image3 ?", is followed by one with its answer, and the photographs
nyu_depth_images/image3.png. 6,794 training and 5,674 test questions on 795 and 654 photographs.

Also read, as it is handed on by others: one sheet data.csv or qa.csv, or data_train.csv and data_eval.csv, with the
columns question, answer and image_id (or image), and the photographs in images/. One sheet has no split, and two sheets
divide the questions, with the same photographs on both sides. So the photographs are divided anew, by their names alone
(`bye.data.layout.split_of`): all questions on one in five are for testing.
"""

import re
from collections import Counter
from pathlib import Path

from bye.data.images import ENDINGS
from bye.data.layout import PHRASE_PROMPT, field, first_folder, new_sample, split_of
from bye.errors import ByeError
from bye.files import read_csv, read_text

TEXTS = ("qa.894.raw", "qa.37.raw")  # the first that is there is read
SHEETS = (("data.csv",), ("qa.csv",), ("data_train.csv", "data_eval.csv"))  # and of these
IMAGE_FOLDERS = ("nyu_depth_images", "images")
NAMED = re.compile(r"\bimage ?(\d+)\b")
ENDING = re.compile(r"\s*\b((in|on|of|from|at)\s+)?((the|this)\s+)?image ?\d+\s*$")  # "... in the image3"


def parts(root):
    """Return the files and the image folder that a whole download has below `root`."""
    texts, sheets = _texts(root), _sheets(root)
    official = [root / f"{texts or TEXTS[0]}.{split}.txt" for split in ("train", "test")]
    files = sheets if sheets and not texts else official
    folder = next((name for name in IMAGE_FOLDERS if (root / name).is_dir()), IMAGE_FOLDERS[0])
    return [*files, root / folder]


def load(root, split, *, seed):
    """Return the samples of a split ("train" or "test") in file order, images relative to `root`; `seed` plays no part.

    A question loses the name of its photograph at the end, where it has one. Answers stay as they are: several things
    are one answer, "chair, table".
    """
    root = Path(root)
    texts, sheets = _texts(root), _sheets(root)
    if texts:
        entries = _from_text(root / f"{texts}.{split}.txt")
    elif sheets:
        entries = [entry for sheet in sheets for entry in _from_sheet(sheet)]
    else:
        names = ", ".join([f"{text}.{split}.txt" for text in TEXTS] + [names[0] for names in SHEETS])
        raise ByeError(f"{root} has none of the files {names}; give the root of the download")
    folder = first_folder(root, IMAGE_FOLDERS, "images")
    known = {path.stem: path.name for path in sorted((root / folder).iterdir()) if path.suffix.lower() in ENDINGS}
    samples, asked = [], Counter()
    for image, question, answer in entries:
        has_ending = Path(image).suffix.lower() in ENDINGS
        stem = Path(image).stem if has_ending else image
        if not texts and split_of(stem) != split:
            continue
        asked[stem] += 1
        file = image if has_ending else known.get(image, f"{image}.png")
        text = f"{_without_image(question)}?\n{PHRASE_PROMPT}"
        samples.append(new_sample(f"{stem}-{asked[stem]}", f"{folder}/{file}", text, answer))
    return samples


def _texts(root):
    """Return how the names of the official files begin that are there, or None."""
    return next((name for name in TEXTS if any(root.glob(f"{name}.*.txt"))), None)


def _sheets(root):
    """Return the paths of the sheets of which at least one is there, or None."""
    named = ([root / name for name in names] for names in SHEETS)
    return next((sheets for sheets in named if any(sheet.exists() for sheet in sheets)), None)


def _from_text(source):
    """Yield (image, question, answer) of the official file `source`, whose questions and answers alternate."""
    lines = [line.strip() for line in read_text(source).rstrip().splitlines()]
    if len(lines) % 2:
        raise ByeError(f"{source}: line {len(lines)} is a question without an answer; download the file again")
    for number in range(0, len(lines), 2):
        question, answer = lines[number : number + 2]
        named = NAMED.findall(question)
        if not named:
            raise ByeError(f"{source}, line {number + 1}: the question names no image; download the file again")
        yield f"image{named[-1]}", question, _said(answer, "answer", f"{source}, line {number + 2}")


def _from_sheet(source):
    """Yield (image, question, answer) of the rows of a sheet."""
    for number, row in enumerate(read_csv(source), start=1):
        where = f"{source}, row {number}"
        if None in row:  # what is behind the last column
            raise ByeError(f"{where} has more fields than there are columns; put answers with a comma into quotes")
        column = "image_id" if "image_id" in row else "image"
        yield tuple(_said(row.get(key), key, where) for key in (column, "question", "answer"))


def _said(text, key, where):
    """Return a text without the spaces around it; it is an error where nothing is left."""
    return field({key: (text or "").strip() or None}, key, str, where)


def _without_image(question):
    """Return a question without its question mark and without the name of the image at its end."""
    question = question.rstrip("? \t")
    return ENDING.sub("", question) or question
