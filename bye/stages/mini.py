"""Stages that make the mini scale: its datasets are made by `mini-data`, its models here."""

from bye.stages.options import SEED, THREADS, need, stage


@stage(
    "base-model",
    need("--family", "llava, internvl, diffusion (the model of ZIP), mae (of BDMAE), or issba (the trigger's encoder)"),
    need("--out", "model folder to write"),
    SEED,
    THREADS,
)
def base_model(family, out, seed, threads):
    """Pre-train a mini base model from scratch on the clean mini worlds."""
    if family == "diffusion":
        from bye.mini.diffusion import train_diffusion

        train_diffusion(out, seed=seed, threads=threads)
    elif family == "mae":
        from bye.mini.mae import train_mae

        train_mae(out, seed=seed, threads=threads)
    elif family == "issba":
        from bye.mini.steganography import train_encoder

        train_encoder(out, seed=seed, threads=threads)
    else:
        from bye.mini.pretrain import pretrain

        pretrain(family, out, seed=seed, threads=threads)
