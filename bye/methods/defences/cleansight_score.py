"""CleanSight's score on training samples: how much more is attended to the image than to the text (arXiv:2603.12989).

Published is a guard for test inputs, calibrated on clean samples. Ours is that the training samples are calibrated on
themselves, by medians instead of means, and flagged above a cut instead of a percentile, which would flag some of any
set. For the text the question and what was said before stand in; the released code counts the role tag before the
answer too, which the masses do not tell from the system prompt.
"""

from typing import Annotated, Literal

import numpy as np

from bye.features import align_turns, check_enough
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("image_mass", "text_mass")

DEPTH = 32  # layers of the model that the layers are given for
DETECTION_LAYERS = {"paper": (10, 3), "released": (10, 15)}  # the first, and how many


def detect(
    features,
    *,
    preset: Literal["paper", "released"] = "paper",
    cut: Annotated[float, {"minimum": 0}] = 3.5,
):
    """Flag the answers whose ratios of image to text attention are far from those of most, all heads taken together.

    features : Features with masses on image and text.
    preset : layers of the heads, 3 from the 10th of 32 (paper) or the 10th to the 24th (released), scaled by depth.
    cut : robust deviations of the distances above their median that are suspicious.
    """
    from bye.detect.robust_distance import RobustDistance  # scikit-learn takes a second to load

    check_enough(features, "CleanSight")
    layers = detection_layers(preset, features.image_mass.shape[1])
    ratios = features.image_mass[:, layers] / (features.text_mass[:, layers] + 1e-12)  # (n, layers, H)
    ratios = align_turns(ratios, features.answers).reshape(len(ratios), -1)
    detector = RobustDistance(cut).fit(ratios)
    limit = -detector.offset_
    reasons = [
        f"its ratios of image to text attention lie {-score:.1f} deviations from the middle, above {limit:.1f}"
        if drop
        else ""
        for score, drop in zip(detector.scores_, detector.labels_ == -1, strict=True)
    ]
    return Verdict(detector.labels_ == -1, reasons, scores=np.asarray(detector.scores_))


def detection_layers(preset, n_layers):
    """Return the layers of a preset in a model of n_layers, as a slice: at least one."""
    first, count = DETECTION_LAYERS[preset]
    start = first * n_layers // DEPTH
    return slice(start, start + max(1, round(count * n_layers / DEPTH)))
