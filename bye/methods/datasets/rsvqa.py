"""RSVQA, low resolution (Lobry et al., TGRS 2020): questions on Sentinel-2 tiles, answered by a word or phrase.

Layout of the official download, all in the root: LR_split_{split}_questions.json {"questions": [{id, img_id, question,
answers_ids, active, ...}]}, LR_split_{split}_answers.json {"answers": [{id, question_id, answer, active, ...}]},
LR_split_{split}_images.json {"images": [{id, active, ...}]} and Images_LR/{img_id}.tif. Each file lists the entries of
all splits; those of the others are inactive and hold nothing but their id. 57,223 training and 10,004 test questions.
"""

from pathlib import Path

from bye.data.layout import PHRASE_PROMPT, field, new_sample
from bye.errors import ByeError
from bye.files import read_json

PARTS = ("questions", "answers", "images")

MINI = True  # the generator of mini datasets draws it ...
FETCHED = True  # ... and the rule fetch downloads it, or says how it is had


def parts(root):
    """Return the files and the image folder that a whole download has below `root`."""
    names = [f"LR_split_{split}_{part}.json" for split in ("train", "test") for part in PARTS]
    return [root / name for name in [*names, "Images_LR"]]


def load(root, split, *, seed):
    """Return the samples of a split ("train", "val" or "test"), image paths relative to `root`; `seed` plays no part.

    Only active questions are taken. Answers stay as they are: counts are numbers, not the ranges of the original paper.
    """
    questions, answers, images = (_active(Path(root), split, part) for part in PARTS)
    samples = []
    for name, (question, where) in questions.items():
        image, answer_ids = field(question, "img_id", int, where), field(question, "answers_ids", list, where)
        if image not in images or not answer_ids or answer_ids[0] not in answers:
            raise ByeError(f"{where}: its image or answer is not active in the {split} split; download the files again")
        answer, answer_where = answers[answer_ids[0]]
        text = f"{field(question, 'question', str, where).strip()}\n{PHRASE_PROMPT}"
        answer = str(field(answer, "answer", (str, int), answer_where)).strip()
        samples.append(new_sample(str(name), f"Images_LR/{image}.tif", text, answer))
    return samples


def _active(root, split, part):
    """Return {id: (entry, where it stands)} of the active entries of one of the three files, in file order."""
    source = root / f"LR_split_{split}_{part}.json"
    entries = field(read_json(source), part, list, source)
    where = [f"{source}, entry {number}" for number in range(1, len(entries) + 1)]
    return {
        field(entry, "id", int, place): (entry, place)
        for entry, place in zip(entries, where, strict=True)
        if field(entry, "active", bool, place)
    }
