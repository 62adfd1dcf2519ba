"""CleanSight without clean samples: calibrated on the inputs that the model in service was given so far.

CleanSight (arXiv:2603.12989) learns from clean samples what ratios of image to text attention are usual. Ours is that
the inputs themselves tell: each feature is centred on its median and divided by its median absolute deviation over the
last inputs that were not caught, those of the present batch among them, and an input is caught that lies further out
than `cut` robust deviations (`bye.detect.robust_distance`). It takes for granted that most of the inputs are clean. The
first ones, until there are 20, are answered unjudged; what is caught depends on the order of the inputs, and where
several processes share them, each judges by its own. An evaluation shows it the clean test set first.
"""

from typing import Annotated, Literal

import numpy as np

from bye.detect.robust_distance import RobustDistance
from bye.methods.defences.cleansight import CleanSight

ACTS_ON = "generation"
READS = ("model",)

LEAST = 20  # inputs that have a middle
REMEMBERED = 1000


def guard(
    model,
    *,
    preset: Literal["paper", "released"] = "paper",
    layers: list[int] | None = None,
    tau: Annotated[float | None, {"minimum": 0}] = None,
    cut: Annotated[float, {"minimum": 0}] = 3.5,
):
    """Return a Guard that learns of what it sees.

    model: the loaded Family. preset, layers, tau: as in `bye.methods.defences.cleansight.guard`; cut: robust deviations
    of the distances above their median, above which an input is caught.
    """
    watcher = CleanSight(model, preset, layers, tau)
    watcher.judge = Stream(cut)
    return watcher


class Stream:
    """Judges batches of ratios (B, F) by those that it has seen and not caught."""

    def __init__(self, cut):
        self.cut, self.kept = cut, None

    def __call__(self, ratios):
        known = ratios if self.kept is None else np.concatenate([self.kept, ratios])
        caught = np.zeros(len(ratios), dtype=bool)
        if len(known) >= LEAST:
            caught = RobustDistance(self.cut).fit(known).labels_[-len(ratios) :] == -1
        self.kept = np.concatenate([known[: len(known) - len(ratios)], ratios[~caught]])[-REMEMBERED:]
        return caught
