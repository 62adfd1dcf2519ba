"""DAO and k-distance: the samples with hidden states that have few near them (Huang et al. 2025, arXiv:2502.01385)."""

from typing import Annotated, Literal

from bye.features import align_turns, check_enough
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("hidden",)
TOLD = ("rate",)


def detect(
    features,
    *,
    method: Literal["dao", "k_distance"] = "dao",
    k: Annotated[int, {"minimum": 1}] = 16,
    rate: Annotated[float | None, {"minimum": 0, "maximum": 1}] = None,
):
    """Flag the share `rate` of the answers whose last hidden states are the most outlying among their neighbours.

    features : Features with hidden states, of which the last layer is read.
    method : the outlier score, by density and local dimension (dao) or the distance to the k-th neighbour (k_distance).
    k : number of neighbours.
    rate : share to drop, without which nobody is flagged and the scores only rank.
    """
    from bye.detect.dao import LocalSparsity  # scikit-learn takes a second to load

    check_enough(features, "DAO")
    detector = LocalSparsity(method, k, rate).fit(align_turns(features.hidden[:, -1], features.answers))
    reason = f"its hidden state lies apart from its {k} nearest"
    return Verdict.of(detector.labels_ == -1, reason, scores=detector.scores_)
