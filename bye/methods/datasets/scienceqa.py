"""ScienceQA (Lu et al., NeurIPS 2022): multiple-choice science questions; those with an image.

Layout of the official download, below the root or its sub-folder data/scienceqa:
problems.json {pid: {question, choices, answer, hint, image, split, ...}}, pid_splits.json {split: [pid, ...]},
images/{split}/{pid}/image.png. 6,218 training and 2,017 test questions have an image.
"""

from pathlib import Path

from bye.data.layout import field, multiple_choice, new_sample
from bye.errors import ByeError
from bye.files import read_json

MINI = True  # the generator of mini datasets draws it ...
FETCHED = True  # ... and the rule fetch downloads it, or says how it is had


def parts(root):
    """Return the files and folders that a whole download has below `root`."""
    base = _base(root)
    return [base / "problems.json", base / "pid_splits.json", base / "images" / "train", base / "images" / "test"]


def load(root, split, *, seed):
    """Return the samples of a split ("train", "val" or "test"), image paths relative to `root`; `seed` plays no part.

    The question, its hint as context, the lettered choices and the prompt make the question; the answer is the letter.
    """
    base = _base(Path(root))
    problems_file, splits_file = base / "problems.json", base / "pid_splits.json"
    problems = read_json(problems_file)
    samples = []
    for pid in field(read_json(splits_file), split, list, splits_file):
        where = f"{problems_file}, problem {pid}"
        if not isinstance(problems, dict) or str(pid) not in problems:
            raise ByeError(f"{problems_file} has no problem {pid}, which {splits_file} names; download both again")
        problem = field(problems, str(pid), dict, problems_file)
        if not problem.get("image"):
            continue
        question, letter = multiple_choice(
            field(problem, "question", str, where),
            str(problem.get("hint") or ""),
            field(problem, "choices", list, where),
            field(problem, "answer", int, where),
            where,
        )
        image = base / "images" / split / str(pid) / field(problem, "image", str, where)
        samples.append(new_sample(str(pid), image.relative_to(root).as_posix(), question, letter))
    return samples


def _base(root):
    """Return the folder of the two JSON files: `root`, or its sub-folder as in the official repository."""
    flat = any((root / name).exists() for name in ("problems.json", "pid_splits.json"))
    return root if flat else root / "data" / "scienceqa"
