"""Spectral signatures: the samples furthest along the widest direction of the hidden states (arXiv:1811.00636)."""

from typing import Annotated

from bye.features import align_turns, check_enough
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("hidden",)
TOLD = ("rate",)


def detect(features, *, rate: Annotated[float | None, {"minimum": 0, "maximum": 1}] = None):
    """Flag the 1.5 x rate of the answers that project furthest on the top singular vector of the last hidden states.

    features : Features with hidden states, of which the last layer is read. The paper treats each label alone; answers
        have no labels, and all are one group.
    rate : upper bound of the share of poison, without which nobody is flagged and the scores only rank.
    """
    from bye.detect.spectral import SpectralSignatures  # scikit-learn takes a second to load

    check_enough(features, "spectral signatures")
    detector = SpectralSignatures(rate).fit(align_turns(features.hidden[:, -1], features.answers))
    reason = "its hidden state lies far along the direction in which those of all differ most"
    return Verdict.of(detector.labels_ == -1, reason, scores=detector.scores_)
