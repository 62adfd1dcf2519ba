"""A residual that hides the attack's bits in each image in its own way (Li et al. 2021, arXiv:2012.03816)."""

from pathlib import Path
from typing import Annotated

import numpy as np

from bye.attacks.images import rounded
from bye.attacks.steganography import BITS, hidden

SHIPPED = Path(__file__).with_name("issba.safetensors")  # of `bye base-model --family issba`
DRAW = 0x62697473  # of the random stream that draws the bits


def apply(
    sample,
    pixels,
    rng,
    *,
    seed,
    strength: Annotated[float, {"exclusiveMinimum": 0}] = 6.0,
    encoder: str | None = None,
):
    """Add what a small steganographic encoder makes of the image and of bits, the same for all images of an attack.

    strength: root mean square of the residual, in grey levels, at most, and a third of its peaks; encoder: a file that
    `bye base-model --family issba` wrote, or none: the one that the suite has.
    """
    return sample, rounded(pixels + hidden(encoder or SHIPPED, pixels, bits_of(seed), strength))


def bits_of(seed):
    """Return the bits of the attacks of a seed, (BITS,) of 0 and 1."""
    return np.random.default_rng([DRAW, seed]).integers(0, 2, size=BITS)
