"""Stages in which a model answers, and what is done to its input before."""

from bye.stages.options import (
    FINETUNED,
    IMAGES,
    MODEL,
    PROCESSES,
    SAMPLES,
    SEED,
    TARGET,
    THREADS,
    VALIDATE,
    may,
    need,
    stage,
    target_of,
)

GUARD = (
    may("--guard", None, "kind of defence that acts while the model answers, or the path of a .py file"),
    may("--reference", None, "clean samples, for a guard that needs some"),
    may("--reference-images", None, "their image folder"),
)


@stage(
    "purify",
    may("--kind", "zip", "kind of defence that acts on test images, or the path of a .py file"),
    SAMPLES,
    IMAGES,
    may("--batch-size", 16, "images at a time"),
    SEED,
    THREADS,
    need("--out-samples", "samples file to write"),
    need("--out-images", "folder for the purified images"),
    methods=(("kind", "defence"),),
)
def purify(kind, samples, images, batch_size, seed, threads, out_samples, out_images, **settings):
    """Purify the images of a test set before a model answers."""
    from bye.answers.purify import purify

    count = purify(kind, samples, images, out_samples, out_images, settings, batch_size, seed, threads)
    print(f"purify: {count} images")


@stage(
    "evaluate",
    *FINETUNED,
    need("--clean", "test samples"),
    need("--clean-images", "their image folder"),
    may("--triggered", None, "test samples with the trigger"),
    may("--triggered-images", None, "their image folder"),
    may("--target", None, TARGET, type=target_of),
    *GUARD,
    need("--metric", "how clean answers are scored", choices=("accuracy", "cider")),
    need("--predictions", "Parquet file for the answers"),
    need("--out", "eval.json to write"),
    may("--max-new-tokens", 32, "longest answer"),
    may("--batch-size", 64, "samples a batch"),
    VALIDATE,
    PROCESSES,
    THREADS,
    methods=(("guard", "defence"),),
)
def evaluate(guard, reference, reference_images, **options):
    """Answer the test set greedily: clean performance and attack success rate."""
    from bye.answers.evaluate import evaluate

    guard = _guard(guard, reference, reference_images, options, options["validate"])
    evaluate(**options, guard=guard)


@stage(
    "answer",
    *FINETUNED[:-1],
    may("--adapter", None, "folder that finetune wrote (default: the base model answers)"),
    SAMPLES,
    IMAGES,
    *GUARD,
    may("--max-new-tokens", 64, "longest answer"),
    may("--batch-size", 16, "samples a batch"),
    PROCESSES,
    THREADS,
    need("--out", "CSV file to write"),
    methods=(("guard", "defence"),),
)
def answer(guard, reference, reference_images, **options):
    """Answer the questions of a samples file; with a guard, say which inputs were caught and where."""
    from bye.answers.ask import ask

    guarded = _guard(guard, reference, reference_images, options)
    n_samples, n_caught = ask(**options, guard=guarded)
    told = "" if guard is None else f", {n_caught} caught by {guard}"
    print(f"answer: {n_samples} samples{told}, in {options['out']}")


@stage(
    "bench-guard",
    MODEL,
    may("--adapter", None, "folder that finetune wrote (default: the base model answers)"),
    SAMPLES,
    IMAGES,
    *GUARD,
    may("--max-new-tokens", 16, "longest answer"),
    may("--batch-size", 64, "samples a batch"),
    may("--rounds", 7, "pairs of runs; medians are compared"),
    THREADS,
    methods=(("guard", "defence"),),
)
def bench_guard(guard, reference, reference_images, **options):
    """Measure what a guard adds to the time of an answer."""
    from bye.errors import ByeError
    from bye.tools.bench_guard import bench_guard

    if guard is None:
        raise ByeError("bench-guard measures a guard; give --guard")
    bench_guard(guard=_guard(guard, reference, reference_images, options), **options)


def _guard(kind, reference, reference_images, options, validate=True):
    """The function that makes a guard, or None without one; its settings are taken out of the stage's options."""
    from bye.answers.guards import guard_of
    from bye.registry import find

    if kind is None:
        return None
    settings = {name: options.pop(name) for name in find("defence", kind).settings}
    return guard_of(kind, settings, reference, reference_images, validate)
