"""TCAP: heads that divide the samples by what part of the prompt they attend to vote (arXiv:2601.21692).

What is published of it is its abstract and notes; what is ours, `bye.detect.tcap` says.
"""

from typing import Annotated, Literal

import numpy as np

from bye.errors import counted
from bye.features import align_turns, check_enough
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("system_mass", "image_mass", "text_mass")
WRITES = ("heads.csv",)


def detect(
    features,
    *,
    seed,
    component: Literal["system", "image", "text"] = "system",
    heads: Annotated[int, {"minimum": 1}] = 16,
    layers: Annotated[int | None, {"minimum": 0}] = None,
    votes: Annotated[float, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}] = 0.5,
    combine: Literal["dawid_skene", "majority"] = "dawid_skene",
    epsilon: Annotated[float, {"exclusiveMinimum": 0}] = 1e-3,
):
    """Find the heads whose attention to a part of the prompt divides the samples, and flag those that they vote for.

    component: the part; heads: how many of the best vote; layers: the last layers that they
    are of, the upper half where it is left out, 0 is all; votes: posterior mass above which a head votes for a sample;
    combine: how votes are weighed; epsilon: of the separation score. heads.csv has the voters: layer, head, separation
    and share of the samples that they vote for. Raises ByeError for too few answers.
    """
    from bye.detect.mixture import MIN_SAMPLES
    from bye.detect.tcap import TCAPDetector  # scikit-learn takes a second to load

    check_enough(features, "TCAP", MIN_SAMPLES)
    shares = {"system": features.system_mass, "image": features.image_mass, "text": features.text_mass}[component]
    detector = TCAPDetector(heads, layers, votes, combine, epsilon=epsilon, random_state=seed)
    detector.fit(align_turns(shares, features.answers))
    rows = [
        {
            "layer": layer,
            "head": head,
            "separation": f"{detector.separation_[layer, head]:.6g}",
            "votes": f"{detector.votes_[:, number].mean():.6g}",
        }
        for number, (layer, head) in enumerate(detector.voters_)
    ]
    n_votes = detector.votes_.sum(axis=1)
    reasons = [
        f"{number} of {counted(len(rows), 'head')} find its attention to the {component} part unlike that of most"
        if drop
        else ""
        for number, drop in zip(n_votes, detector.labels_ == -1, strict=True)
    ]
    return Verdict(
        detector.labels_ == -1,
        reasons,
        scores=detector.score_samples(),
        p_low=np.asarray(detector.probabilities_),
        tables={"heads.csv": rows},
    )
