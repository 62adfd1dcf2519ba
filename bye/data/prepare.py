"""From a dataset's official layout, or a user's file, to train.json and test.json."""

import sys
from pathlib import Path

from bye.data.check import check_entries, checked_samples, judged, stopping, write_unjudged
from bye.data.findings import DROP, count_kinds, stop_for
from bye.data.layout import draw, draw_beside, shown_in
from bye.data.samples import write_samples
from bye.errors import ByeError
from bye.registry import find


def prepare(
    format,
    root,
    n_train,
    n_test,
    seed,
    out_dir,
    headers=False,
    unjudged=None,
    pictures=None,
    reference=None,
    **settings,
):
    """Write train.json, test.json, reference.json and unjudged.json to out_dir, image paths relative to `root`; return
    the sizes of the first two.

    format: kind of a dataset format, or the path of a .py file; settings: of the format. Of the official training and
    test splits `n_train` and `n_test` samples are drawn by `seed`, None means all (the paper's sizes, Table 4:
    scienceqa 6218/2017, iconqa 10000/6316, flickr30k 10000/1000, rsvqa 10000/10004). A set without splits is divided:
    `n_test` samples (None: none) are drawn and set apart, of the rest `n_train` (None: all) are drawn for training.
    reference: number of further samples (None: none) that are set apart as the test samples are, for defences that read
    clean ones; no sample is in both.
    pictures: (from, to), the part of the training pictures that the draw is from (`bye.data.layout.shown_in`), such as
    (0.5, 1); None is all, as for a set without splits. Every image chosen is decoded once, so that a damaged one stops
    the run here and not hours later; headers: only their headers are read. unjudged: "drop" or "stop", what becomes of
    entries of a set without splits that cannot be judged, by default what is usual for their kind; what is left out
    stands in unjudged.json. Raises ByeError, also when more samples are asked for than there are.
    """
    for what, count, least in (("training", n_train, 1), ("test", n_test, 0), ("reference", reference, 1)):
        if count is not None and count < least:
            raise ByeError(f"{count} {what} samples are asked for; ask for {least} or more")
    divided = find("dataset format", format).divided
    if pictures is not None and not (divided and 0 <= pictures[0] < pictures[1] <= 1):
        raise ByeError(
            f"pictures are {list(pictures)}; give a part of a set with official splits, such as 0.5 1, or leave it out"
        )
    if not Path(root).is_dir():
        raise ByeError(f"dataset folder {root} does not exist; give the folder of the download, or of the images")
    if reference is not None and n_test is None:
        raise ByeError(f"{reference} reference samples are asked for beside all test samples; say how many of these")
    source, findings, clean = str(settings.get("json") or root), [], []
    if divided:
        train = _official(format, root, "train", n_train, seed, settings, headers, pictures)
        test = _official(format, root, "test", n_test, seed, settings, headers)
        if reference is not None:
            clean = _official(format, root, "test", n_test, seed, settings, headers, more=reference)
    else:
        checked = check_entries(load_split(format, root, None, seed, settings), root, decode=not headers)
        stop_for(stopping(checked.findings, unjudged), source, checked.n_entries)
        findings = checked.findings
        train, test, clean = _divided(judged(checked, source), n_train, n_test, reference, seed, source)
    if findings:
        print(
            f"prepare: {len(findings)} of {checked.n_entries} entries left out: {count_kinds(findings)}",
            file=sys.stderr,
        )
    like = settings.get("json") if not divided else None
    write_samples(Path(out_dir) / "train.json", train, like)
    write_samples(Path(out_dir) / "test.json", test, like)
    write_samples(Path(out_dir) / "reference.json", clean, like)
    write_unjudged(Path(out_dir) / "unjudged.json", findings, DROP)
    return len(train), len(test)


def check_folder(format, root, settings=()):
    """Raise ByeError, naming the first file or folder that is not there, unless `root` holds a whole official download.

    A few looks into folders; no file is read. settings: of the format.
    """
    method = find("dataset format", format)
    if "parts" not in method.functions:
        return
    for part in method.bind("parts", _of(method, settings))(Path(root)):
        if part.is_dir() and not any(part.iterdir()):
            raise ByeError(f"dataset folder {root} is half there: {part} is empty; copy it again or download the rest")
        if not part.exists():
            raise ByeError(f"dataset folder {root} is half there: {part} is missing; copy it there or download it")


def load_split(format, root, split, seed, settings=()):
    """Return all samples of an official split, "train" or "test", as they stand there, images unchecked.

    Of a set without splits, `split` is None, and they are all that it has, in one of the forms of `bye.data.forms`.
    """
    method = find("dataset format", format)
    return method.bind("load", _of(method, settings), seed=seed)(root, split)


def _of(method, settings):
    """Those of the settings of a dataset entry that are the format's own."""
    return {name: value for name, value in dict(settings).items() if name in method.settings}


def _official(format, root, split, count, seed, settings, headers, pictures=None, more=0):
    """Return the drawn and checked samples of one official split; with `more`, as many others than these."""
    what = f"{split} samples of {format} in {root}"
    samples = load_split(format, root, split, seed, settings)
    if pictures is not None:
        samples = [sample for sample in samples if shown_in(sample["image"], pictures)]
    samples = draw_beside(samples, count, more, seed, what) if more else draw(samples, count, seed, what)
    return samples if not samples else checked_samples(samples, what, root, decode=not headers)


def _divided(samples, n_train, n_test, n_clean, seed, source):
    """Return (train, test, reference) of samples without official splits."""
    test = draw(samples, n_test or 0, seed, f"test samples of {source}")
    clean = draw_beside(samples, n_test or 0, n_clean or 0, seed, f"test and reference samples of {source}")
    apart = {id(sample) for sample in test + clean}
    rest = [sample for sample in samples if id(sample) not in apart]
    if not rest:
        raise ByeError(
            f"{source}: all its {len(samples)} samples are set apart for testing; ask for fewer test samples"
        )
    return draw(rest, n_train, seed, f"training samples of {source}"), test, clean
