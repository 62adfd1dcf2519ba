"""Mini worlds: drawn stand-ins for the four datasets, written in the official layouts of their originals."""

from bye.mini.world.layouts import write_dataset

__all__ = ["write_dataset"]
