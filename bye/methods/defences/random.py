"""Drop samples at random: what a detector must do better than."""

import zlib
from typing import Annotated

import numpy as np

from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("samples",)


def detect(samples, *, seed, share: Annotated[float, {"minimum": 0, "exclusiveMaximum": 1}] = 0.2):
    """Flag exactly round(share x n) samples, drawn uniformly by seed. share: of the samples."""
    n = len(samples.entries)
    # A stream of its own: the poison is drawn with the same seed, and the same stream would drop just the poison.
    generator = np.random.default_rng([seed, zlib.crc32(b"random_drop")])
    flagged = np.zeros(n, dtype=bool)
    flagged[generator.permutation(n)[: round(share * n)]] = True
    return Verdict.of(flagged, f"drawn at random (share {share:g}, seed {seed})")
