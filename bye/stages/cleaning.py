"""Stages that decide what to drop of a training set, divide it, and score the decision."""

from bye.stages.options import DTYPE, FAMILY, LABELS, QUANTIZATION, SAMPLES, SEED, THREADS, TUNING, may, need, stage


@stage(
    "detect",
    may("--kind", "bye", "kind of defence that acts on the training set, or the path of a .py file"),
    may("--attention", None, "attention.parquet of the training samples"),
    may("--samples", None, "training samples, for a defence that reads them"),
    may("--images", None, "their image folder"),
    may("--labels", None, "ground truth, for a defence that reads it (an upper bound)"),
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
    need("--flags", "Parquet file for the flags; what else the defence writes goes beside it"),
    methods=(("kind", "defence"),),
)
def detect(kind, flags, seed, attention, samples, images, labels, reference, reference_images, model, **options):
    """Run a detector on a training set: flag the samples that it finds poisoned."""
    from bye.cleaning.run import FineTunedModel, SampleSet, detect

    loading = {"expected": options.pop("family"), "quantization": options.pop("quantization")}
    loading |= {name: options.pop(name) for name in ("tuning", "dtype")}
    adapter, batch_size, threads = (options.pop(name) for name in ("adapter", "batch_size", "threads"))
    if model is not None and threads:
        import torch

        torch.set_num_threads(threads)
    count = detect(
        kind,
        flags,
        seed,
        options,
        attention=attention,
        samples=None if samples is None else SampleSet(samples, images),
        labels=labels,
        reference=None if reference is None else SampleSet(reference, reference_images),
        model=None if model is None else FineTunedModel(model, adapter, batch_size, loading),
    )
    print(f"detect: {count} samples flagged")


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
