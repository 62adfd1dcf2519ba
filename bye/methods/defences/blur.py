"""Gaussian blur of the test images: the simplest purifier, a baseline.

Smoothing takes fine structure out of an image before the model sees it (Xu, Evans and Qi, "Feature Squeezing", 2018,
arXiv:1704.01155); CleanSight (arXiv:2603.12989) compares itself with it.
"""

from typing import Annotated

from PIL import ImageFilter

ACTS_ON = "test images"


def purifier(*, radius: Annotated[float, {"exclusiveMinimum": 0}] = 0.02):
    """Return a function that blurs images. radius: standard deviation of the Gaussian, in shorter image sides."""

    def blur(images, generators):
        return [image.filter(ImageFilter.GaussianBlur(radius * min(image.size))) for image in images]

    return blur
