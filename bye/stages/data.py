"""Stages that bring datasets into the form of samples files."""

from bye.stages.options import SEED, UNJUDGED, may, need, stage, switch


@stage(
    "mini-data",
    need(
        "--dataset",
        "scienceqa, iconqa, flickr30k or rsvqa; or mixed, rare_question or rare_image, in the last one's layout",
    ),
    need("--out", "folder to write, in the dataset's official layout"),
    need("--train", "training samples", type=int),
    need("--test", "test samples", type=int),
    SEED,
)
def mini_data(dataset, out, train, test, seed):
    """Write a mini dataset in its original's official layout, or an honest one that could be taken for poisoned."""
    from bye.mini.world import write_dataset

    write_dataset(dataset, out, n_train=train, n_test=test, seed=seed)


@stage(
    "fetch",
    (("what",), {"help": "a dataset, scienceqa, iconqa or rsvqa (flickr30k must be asked for by hand); or scout"}),
    need("--out", "folder to write: the dataset in its official layout, or the scout's model folder"),
)
def fetch(what, out):
    """Download an official dataset, or the scout, a model of laptop size; if cut off, the same command goes on."""
    if what == "scout":
        from bye.tools.scout import fetch_scout

        fetch_scout(out)
    else:
        from bye.data.fetch import fetch_dataset

        fetch_dataset(what, out)


@stage(
    "prepare",
    need("--format", "kind of dataset format, or the path of a .py file"),
    need("--root", "root of the official download; the image folder for llava"),
    may("--train", None, "training samples to draw (default: all)", type=int),
    may("--test", None, "test samples to draw (default: all; none for llava)", type=int),
    may("--reference", None, "clean samples to set apart beside the test samples (default: none)", type=int),
    may("--pictures", None, "FROM TO, the part of the training pictures that is taken (0 1: all)", nargs=2, type=float),
    switch("--headers", False, "look at the headers of images only, and do not decode each once"),
    may("--unjudged", None, UNJUDGED, choices=("drop", "stop")),
    SEED,
    need("--out", "folder for train.json, test.json, reference.json and unjudged.json"),
    methods=(("format", "dataset format"),),
)
def prepare(format, root, train, test, reference, pictures, headers, unjudged, seed, out, **settings):
    """Turn a dataset into samples files, every sample and image checked."""
    from bye.data.prepare import prepare

    n_train, n_test = prepare(format, root, train, test, seed, out, headers, unjudged, pictures, reference, **settings)
    print(f"prepare: {n_train} training and {n_test} test samples in {out}")
