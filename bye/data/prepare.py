"""From a dataset's official layout, or a user's file, to train.json and test.json."""

from pathlib import Path

from bye.data.layout import draw
from bye.data.samples import validate_samples, write_samples
from bye.errors import ByeError
from bye.methods.datasets import flickr30k, iconqa, llava, rsvqa, scienceqa

LAYOUTS = {"scienceqa": scienceqa, "iconqa": iconqa, "flickr30k": flickr30k, "rsvqa": rsvqa}


def prepare(format, root, json, n_train, n_test, seed, out_dir, test_json=None):
    """Write out_dir/train.json and out_dir/test.json, image paths relative to `root`; return their sizes.

    `format` is scienceqa, iconqa, flickr30k, rsvqa or llava; `json` is the file of llava (with an optional `test_json`
    of its own), and optionally of flickr30k.
    `n_train` and `n_test` samples are drawn by `seed` from the official training and test splits, None means all (the
    paper's sizes, Table 4: scienceqa 6218/2017, iconqa 10000/6316, flickr30k 10000/1000, rsvqa 10000/10004); for llava
    see `bye.methods.datasets.llava.load`. Every image chosen is decoded once, so that a damaged one stops the run here
    and not hours later. Raises ByeError, also when more samples are asked for than there are.
    """
    for what, count, least in (("training", n_train, 1), ("test", n_test, 0)):
        if count is not None and count < least:
            raise ByeError(f"{count} {what} samples are asked for; ask for {least} or more")
    if not Path(root).is_dir():
        raise ByeError(f"dataset folder {root} does not exist; give the folder of the download")
    if format == "llava":
        train, test = llava.load(root, json, test_json, n_train, n_test, seed)
    elif format in LAYOUTS:
        train = _official(format, root, "train", json, n_train, seed)
        test = _official(format, root, "test", json, n_test, seed)
    else:
        raise ByeError(f"unknown dataset format {format!r}; choose one of {', '.join([*LAYOUTS, 'llava'])}")

    like = json if format == "llava" else None
    write_samples(Path(out_dir) / "train.json", train, like)
    write_samples(Path(out_dir) / "test.json", test, like)
    return len(train), len(test)


def check_folder(format, root, json=None):
    """Raise ByeError, naming the first file or folder that is not there, unless `root` holds a whole official download.

    A few looks into folders; no file is read. `json` is as for `prepare`.
    """
    for part in LAYOUTS[format].parts(Path(root), **_extra(format, json)):
        if part.is_dir() and not any(part.iterdir()):
            raise ByeError(f"dataset folder {root} is half there: {part} is empty; copy it again or download the rest")
        if not part.exists():
            raise ByeError(f"dataset folder {root} is half there: {part} is missing; copy it there or download it")


def load_split(format, root, split, json, seed):
    """Return all samples of an official split, "train" or "test", as they stand there, images unchecked."""
    return LAYOUTS[format].load(root, split, seed, **_extra(format, json))


def _extra(format, json):
    return {"json": json} if format == "flickr30k" else {}


def _official(format, root, split, json, count, seed):
    """Return the drawn and checked samples of one official split."""
    what = f"{split} samples of {format} in {root}"
    samples = draw(load_split(format, root, split, json, seed), count, seed, what)
    if count != 0:
        validate_samples(samples, what, root, decode=True)
    return samples
