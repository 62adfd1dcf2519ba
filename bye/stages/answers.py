"""Stages in which a model answers, and what is done to its input before."""

from bye.stages.options import (
    FINETUNED,
    IMAGES,
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
    may("--guard", None, "kind of defence that acts while the model answers, or the path of a .py file"),
    may("--reference", None, "clean samples, for a guard that needs some"),
    may("--reference-images", None, "their image folder"),
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
    from bye.answers.guards import guard_of
    from bye.registry import find

    if guard is not None:
        settings = {name: options.pop(name) for name in find("defence", guard).settings}
        guard = guard_of(guard, settings, reference, reference_images)
    evaluate(**options, guard=guard)
