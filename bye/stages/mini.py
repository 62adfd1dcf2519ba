"""Stages that make the mini scale: its datasets are made by `mini-data`, its models here."""

from bye.stages.options import SEED, THREADS, need, stage


@stage(
    "base-model",
    need("--family", "llava, internvl, diffusion (the model of ZIP), or issba (the encoder of the trigger)"),
    need("--out", "model folder to write"),
    SEED,
    THREADS,
)
def base_model(family, out, seed, threads):
    """Pre-train a mini base model from scratch on the clean mini worlds."""
    if family == "diffusion":
        from bye.mini.diffusion import train_diffusion

        train_diffusion(out, seed=seed, threads=threads)
    elif family == "issba":
        from bye.mini.steganography import train_encoder

        train_encoder(out, seed=seed, threads=threads)
    else:
        from bye.mini.pretrain import pretrain

        pretrain(family, out, seed=seed, threads=threads)
