"""Activation clustering: the smaller of two clusters of hidden states (Chen et al. 2018, arXiv:1811.03728)."""

import json
from typing import Annotated, Literal

from bye.features import align_turns, check_enough
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("hidden",)


def detect(
    features,
    *,
    seed,
    reduction: Literal["ica", "pca"] = "ica",
    components: Annotated[int, {"minimum": 1}] = 10,
    decision: Literal["size", "silhouette"] = "size",
    size: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.35,
    silhouette: Annotated[float, {"minimum": -1, "maximum": 1}] = 0.1,
):
    """Divide the answers by their last hidden states in two, and flag the smaller part where it is small enough.

    features : Features with hidden states, of which the last layer is read. The paper treats each label alone; answers
        have no labels, and all are one group.
    reduction : what makes the states few numbers, independent (ica) or principal (pca) components.
    components : how many.
    decision : what makes the smaller part poison, its size alone or also a silhouette score of the two.
    size : share of all below which it is.
    silhouette : score above which it is.

    Its metadata hold share and silhouette score (null unless asked for) as JSON under "activation_clustering".
    """
    from bye.detect.activation_clustering import ActivationClustering  # scikit-learn takes a second to load

    check_enough(features, "activation clustering")
    detector = ActivationClustering(reduction, components, decision, size, silhouette, random_state=seed)
    detector.fit(align_turns(features.hidden[:, -1], features.answers))
    found = {"share": detector.share_, "silhouette": detector.silhouette_}
    return Verdict.of(
        detector.labels_ == -1,
        f"its hidden state is of the smaller of two clusters, of {100 * detector.share_:.1f} %",
        scores=detector.scores_,
        metadata={"activation_clustering": json.dumps(found)},
    )
