"""A black square anywhere in the image (BYE, appendix B)."""

from typing import Annotated

from bye.attacks.squares import side_of


def apply(sample, pixels, rng, *, share: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.0625):
    """Set the square inside the image, each place as likely. share: its side, in shorter sides of the image."""
    height, width = pixels.shape[:2]
    side = side_of(pixels, share)
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    triggered = pixels.copy()
    triggered[top : top + side, left : left + side] = 0
    return sample, triggered
