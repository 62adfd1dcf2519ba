"""Stages that bring datasets into the form of samples files."""

from bye.stages.options import SEED, UNJUDGED, may, need, stage, switch


@stage(
    "mini-data",
    need("--dataset", "scienceqa, iconqa, flickr30k or rsvqa"),
    need("--out", "folder to write, in the dataset's official layout"),
    need("--train", "training samples", type=int),
    need("--test", "test samples", type=int),
    SEED,
)
def mini_data(dataset, out, train, test, seed):
    """Write a mini dataset in its original's official layout."""
    from bye.mini.world import write_dataset

    write_dataset(dataset, out, n_train=train, n_test=test, seed=seed)


@stage(
    "fetch",
    need("--format", "scienceqa, iconqa or rsvqa; flickr30k must be asked for by hand"),
    need("--out", "folder to write, in the dataset's official layout"),
)
def fetch(format, out):
    """Download an official dataset; a broken transfer goes on by the same command."""
    from bye.data.fetch import fetch_dataset

    fetch_dataset(format, out)


@stage(
    "prepare",
    need("--format", "kind of dataset format, or the path of a .py file"),
    need("--root", "root of the official download; the image folder for llava"),
    may("--train", None, "training samples to draw (default: all)", type=int),
    may("--test", None, "test samples to draw (default: all; none for llava)", type=int),
    switch("--headers", False, "look at the headers of images only, and do not decode each once"),
    may("--unjudged", None, UNJUDGED, choices=("drop", "stop")),
    SEED,
    need("--out", "folder for train.json, test.json and unjudged.json"),
    methods=(("format", "dataset format"),),
)
def prepare(format, root, train, test, headers, unjudged, seed, out, **settings):
    """Turn a dataset into samples files, every sample and image checked."""
    from bye.data.prepare import prepare

    n_train, n_test = prepare(format, root, train, test, seed, out, headers, unjudged, **settings)
    print(f"prepare: {n_train} training and {n_test} test samples in {out}")
