"""Stages that decide what to drop of a training set, divide it, and score the decision."""

from bye.stages.options import DTYPE, FAMILY, LABELS, QUANTIZATION, SAMPLES, SEED, THREADS, TUNING, may, need, stage

READ_BY_DETECTORS = (
    may("--attention", None, "attention.parquet of the training samples"),
    may("--samples", None, "training samples, for a defence that reads them"),
    may("--images", None, "their image folder"),
    may("--reference", None, "clean samples, for a defence that needs some"),
    may("--reference-images", None, "their image folder"),
    may("--model", None, "model folder or hub id, for a defence that runs the model"),
    may("--adapter", None, "adapter of the plain fine-tune"),
    FAMILY,
    QUANTIZATION,
    DTYPE,
    TUNING,
    may("--batch-size", 64, "samples a forward pass"),
    SEED,
    THREADS,
)
READ_NAMES = {flags[0][2:].replace("-", "_") for flags, _ in READ_BY_DETECTORS} - {"seed"}
DETECTOR = may("--kind", "bye", "kind of defence that acts on the training set, or the path of a .py file")


@stage(
    "detect",
    DETECTOR,
    *READ_BY_DETECTORS,
    may("--labels", None, "ground truth, for a defence that reads it (an upper bound)"),
    need("--flags", "Parquet file for the flags; what else the defence writes goes beside it"),
    methods=(("kind", "defence"),),
)
def detect(kind, flags, seed, labels, **options):
    """Run a detector on a training set: flag the samples that it finds poisoned."""
    from bye.cleaning.run import detect

    given = _given(options)
    count = detect(kind, flags, seed, options, labels=labels, **given)
    print(f"detect: {count} samples flagged")


@stage(
    "detect-parts",
    DETECTOR,
    *READ_BY_DETECTORS,
    may("--sizes", (40, 100, 300, 1000), "samples of a part; those that are smaller than the set", nargs="+", type=int),
    may("--draws", 5, "parts of each size"),
    need("--out", "CSV file to write"),
    methods=(("kind", "defence"),),
)
def detect_parts(kind, out, seed, sizes, draws, **options):
    """Run a detector on random parts of a training set, and on all of it: of an untouched one, whatever it flags is a
    false alarm."""
    from bye.cleaning.run import detect_parts

    given = _given(options)
    rows = detect_parts(kind, out, seed, options, sizes, draws, **given)
    print(f"detect-parts: {sum(row['flagged'] for row in rows)} samples flagged in {len(rows)} parts")


def _given(options):
    """Take what a detector reads out of a stage's options; what is left are the detector's settings."""
    from bye.cleaning.run import FineTunedModel, SampleSet

    taken = {name: options.pop(name) for name in READ_NAMES if name in options}
    loading = {"expected": taken["family"], **{name: taken[name] for name in ("quantization", "tuning", "dtype")}}
    model, samples, reference = (taken[name] for name in ("model", "samples", "reference"))
    if model is not None and taken["threads"]:
        import torch

        torch.set_num_threads(taken["threads"])
    return {
        "attention": taken["attention"],
        "samples": None if samples is None else SampleSet(samples, taken["images"]),
        "reference": None if reference is None else SampleSet(reference, taken["reference_images"]),
        "model": None if model is None else FineTunedModel(model, taken["adapter"], taken["batch_size"], loading),
    }


@stage(
    "keep",
    SAMPLES,
    need("--flags", "Parquet file with the flags"),
    need("--kept", "samples file for what is kept"),
    need("--dropped", "samples file for what is dropped, with score and reason"),
)
def keep(samples, flags, kept, dropped):
    """Split a samples file by flags, entries as they were."""
    from bye.cleaning.keep import keep

    n_kept, n_dropped = keep(samples, flags, kept, dropped)
    print(f"keep: {n_kept} samples kept, {n_dropped} dropped")


@stage(
    "score",
    need("--flags", "Parquet file with the flags"),
    LABELS,
    may("--layers", None, "layers.csv of a defence that selects layers"),
    need("--out", "detection.json to write"),
)
def score(flags, labels, out, layers):
    """Compare flags with the ground truth."""
    from bye.metrics.detection import score

    score(flags, labels, out, layers=layers)


@stage(
    "entropy-figure",
    need("--flags", "Parquet file with the flags"),
    may("--layers", None, "layers.csv of the detector"),
    may("--labels", None, "ground truth, to colour the samples"),
    need("--out", "picture to write"),
)
def entropy_figure(flags, layers, labels, out):
    """Draw the histogram of the samples' entropy in the sensitive layers."""
    from bye.report.figures import entropy_figure

    entropy_figure(flags, out, labels=labels, layers=layers)
