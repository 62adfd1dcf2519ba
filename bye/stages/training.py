"""The stage that fine-tunes."""

from bye.stages.options import (
    DTYPE,
    FAMILY,
    IMAGES,
    MODEL,
    PROCESSES,
    QUANTIZATION,
    SAMPLES,
    SEED,
    THREADS,
    TUNING,
    VALIDATE,
    may,
    need,
    stage,
    switch,
)


@stage(
    "finetune",
    MODEL,
    FAMILY,
    QUANTIZATION,
    DTYPE,
    SAMPLES,
    IMAGES,
    TUNING,
    need("--out", "folder to write what is trained: for lora, a PEFT adapter"),
    need("--log", "CSV file for the loss"),
    may("--epochs", 3, "passes over the samples"),
    may("--batch-size", 16, "samples a step"),
    may("--micro-batch-size", None, "samples in memory at once (default: the batch size)", type=int),
    need("--learning-rate", "peak learning rate; it falls linearly to zero", type=float),
    may("--warmup", 0.0, "share of the steps with a rising learning rate"),
    may("--adam-epsilon", 1e-8, "AdamW's epsilon: gradients far below it hardly count"),
    switch("--cache-features", True, "encode each distinct image once (the vision tower is frozen)"),
    switch("--cache-layers", False, "run the decoder layers below the first trained one once over each sample"),
    switch("--gradient-checkpointing", False, "save memory for time"),
    may("--plain-samples", None, "samples of a fine-tune with the same options, copied if they are these"),
    may("--plain-adapter", None, "its adapter"),
    may("--plain-log", None, "its loss"),
    VALIDATE,
    SEED,
    PROCESSES,
    THREADS,
    methods=(("tuning", "tuning method"),),
)
def finetune(plain_samples, plain_adapter, plain_log, **options):
    """Fine-tune a model by a tuning method; a killed run goes on from its last checkpoint."""
    from bye.training.finetune import finetune, finetune_kept

    if plain_samples is None:
        finetune(**options)
    else:
        finetune_kept(plain_samples=plain_samples, plain_adapter=plain_adapter, plain_log=plain_log, **options)
