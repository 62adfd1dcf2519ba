"""IconQA (Lu et al., 2021), sub-task choose_txt: multiple-choice questions on abstract diagrams.

Layout of the official download: iconqa/{split}/choose_txt/{id}/image.png and data.json {question, choices, answer,
...}, below the root; the root may also be the folder iconqa itself. 18,946 training and 6,316 test questions.
"""

from pathlib import Path

from bye.data.layout import field, first_folder, multiple_choice, new_sample
from bye.errors import ByeError
from bye.files import read_json

TOPS = ("iconqa/", "", "iconqa_data/iconqa/")  # where the splits may lie below the root

MINI = True  # the generator of mini datasets draws it ...
FETCHED = True  # ... and the rule fetch downloads it, or says how it is had


def parts(root):
    """Return the folders that a whole download has below `root`."""
    splits = ("train/choose_txt", "test/choose_txt")
    top = next((top for top in TOPS for split in splits if (root / top / split).is_dir()), TOPS[0])
    return [root / top / split for split in splits]


def load(root, split, *, seed):
    """Return the samples of a split ("train", "val" or "test"), image paths relative to `root`; `seed` plays no part.

    The question, the lettered choices and the prompt make the question; the answer is the letter. Order: by id.
    """
    root = Path(root)
    places = [f"{top}{split}/choose_txt" for top in TOPS]
    base = root / first_folder(root, places, "questions")
    folders = [entry for entry in base.iterdir() if entry.is_dir()]
    # Ids are numbers without leading zeros: shorter ones first puts them into numerical order.
    folders.sort(key=lambda folder: (len(folder.name), folder.name))
    if not folders:
        raise ByeError(f"{base} is empty; give the root of the official download")
    samples = []
    for folder in folders:
        where = folder / "data.json"
        data = read_json(where)
        question, letter = multiple_choice(
            field(data, "question", str, where),
            "",
            field(data, "choices", list, where),
            field(data, "answer", int, where),
            where,
        )
        image = (folder / "image.png").relative_to(root).as_posix()
        samples.append(new_sample(folder.name, image, question, letter))
    return samples
