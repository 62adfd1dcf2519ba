"""Flip the test images, and shrink them to a random place of a black image: transformations that move a trigger.

Flip and ShrinkPad of Li et al., "Backdoor Attack in the Physical World", 2021, arXiv:2104.02361: a trigger that works
at its place and size alone stops working. What is asked of left and right is then asked of a mirror image; `flip` off
leaves that out.
"""

from typing import Annotated

from PIL import Image, ImageOps

ACTS_ON = "test images"


def purifier(
    *,
    shrink: Annotated[float, {"minimum": 0, "exclusiveMaximum": 1}] = 0.125,
    flip: bool = True,
):
    """Return a function of PIL images and a random generator for each, which draws the place.

    shrink: share of each side that is taken off (the source: 4 of 32 pixels); flip: whether left and right are changed.
    """

    def transform(images, generators):
        return [_moved(image, generator, shrink, flip) for image, generator in zip(images, generators, strict=True)]

    return transform


def _moved(image, generator, shrink, flip):
    """An image of the same size that has the image, smaller, at a random place."""
    size = [max(1, round((1 - shrink) * side)) for side in image.size]
    place = [int(generator.integers(side - part + 1)) for side, part in zip(image.size, size, strict=True)]
    small = image.resize(size, Image.BICUBIC)
    padded = Image.new(image.mode, image.size)
    padded.paste(ImageOps.mirror(small) if flip else small, place)
    return padded
