"""Stages that read features off a fine-tuned model."""

from bye.stages.options import (
    FINETUNED,
    IMAGES,
    PROCESSES,
    SAMPLES,
    SEED,
    THREADS,
    VALIDATE,
    may,
    need,
    stage,
)


@stage(
    "attention",
    *FINETUNED,
    SAMPLES,
    IMAGES,
    need("--out", "attention.parquet to write"),
    may("--batch-size", 32, "samples a forward pass"),
    may("--maps-for", (), "ids whose attention maps to keep", nargs="+", type=str),
    may("--maps-out", None, "npz file for those maps"),
    may(
        "--hidden-layers",
        (-1,),
        "decoder layers whose hidden states to keep, from 0 or from -1, the last (default: -1)",
        nargs="+",
        type=int,
    ),
    VALIDATE,
    PROCESSES,
    THREADS,
)
def attention(**options):
    """Extract what detectors read: attention, hidden states, likelihoods of answers; one forward pass a sample."""
    from bye.extraction.attention import extract

    extract(**options)


@stage(
    "attention-maps",
    *FINETUNED,
    SAMPLES,
    IMAGES,
    need("--labels", "ground truth: figures show clean and poisoned samples"),
    may("--count", 2, "samples of each kind"),
    need("--out", "npz file to write"),
    VALIDATE,
    SEED,
    THREADS,
)
def attention_maps(**options):
    """Extract the attention maps of a few clean and poisoned samples, for figures."""
    from bye.extraction.maps import example_maps

    example_maps(**options)
