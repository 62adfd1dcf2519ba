"""Two black squares on the horizontal midline, mirror images of each other (BYE, section 5.5)."""

from typing import Annotated

from bye.attacks.squares import with_squares


def apply(sample, pixels, rng, *, share: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.0625):
    """Set the squares. share: side of the square, in shorter sides of the image."""
    return sample, with_squares(pixels, share, [(1 / 2, 1 / 4), (1 / 2, 3 / 4)])
