"""A black square at the centre of the image (BYE, appendix A.1 and B)."""

from typing import Annotated

from bye.attacks.squares import with_squares


def apply(sample, pixels, rng, *, share: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.0625):
    """Set the square. share: side of the square, in shorter sides of the image."""
    return sample, with_squares(pixels, share, [(1 / 2, 1 / 2)])
