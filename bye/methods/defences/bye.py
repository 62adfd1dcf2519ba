"""BYE: the samples on which attention collapses (Rong et al. 2025, arXiv:2505.16916, Eq. 4 to 8)."""

import json
from typing import Annotated, Literal

import numpy as np

from bye.errors import ByeError, counted
from bye.features import align_turns, lowest_of_samples
from bye.flags import Verdict
from bye.formats import LAYER, names

ACTS_ON = "training set"
READS = ("entropy",)
WRITES = ("layers.csv",)

PAPER_IMAGE_TOKENS = 576  # of LLaVA-1.5: the paper's fixed threshold of 4.5 nats belongs to as many
LAYER_COLUMNS = names(LAYER)


def detect(
    features,
    *,
    seed,
    rule: Literal["paper", "released"] = "paper",
    tau: Annotated[float, {"minimum": 0}] = 2.0,
    over: Literal["bsi", "all"] = "bsi",
    clustering: Literal["gmm", "kmeans", "threshold"] = "gmm",
    threshold: Annotated[float, {"exclusiveMinimum": 0}] = 4.5,
):
    """Find the layers where attention collapses, flag the samples with low entropy there.

    Parameters
    ----------
    features : Features with entropies, comparable between samples that differ in their number of image tokens. Where
        samples have several answers, a sample has the lowest entropy of them in each layer, after those of each turn
        were moved to one median (`bye.features.align_turns`).
    seed : of the mixtures' k-means starts.
    rule : how a layer is found sensitive, by the paper's BSI (Eq. 7) or the released code's margin.
    tau : threshold of that rule.
    over : layers that entropies are averaged over, the sensitive ones (bsi) or all.
    clustering : how the averages are divided, by a Gaussian mixture, k-means or a fixed threshold.
    threshold : cut of the latter in nats for 576 image tokens, scaled by ln T / ln 576 for T.

    Returns
    -------
    Verdict
        With a score (NaN without a sensitive layer), the column mean_entropy (over all layers), and layers.csv: the two
        components (nats), BSI, released_margin = |mu1 - mu2| / (sigma1 + sigma2) of each layer, and whether it is
        sensitive. Its metadata hold the settings, the cut, the mixture and the sensitive layers as JSON under "bye".

    Raises
    ------
    ByeError
        For too few samples or an unknown setting.
    """
    from bye.detect.bye import BYEDetector  # scikit-learn takes a second to load
    from bye.detect.mixture import MIN_SAMPLES

    of_answers, sample_of = align_turns(features.entropies, features.answers), features.sample_of
    entropies = lowest_of_samples(of_answers, sample_of)  # (n_samples, n_layers)
    if len(entropies) < MIN_SAMPLES:
        found = counted(len(entropies), "sample")
        raise ByeError(f"{features.path} has {found}, and BYE needs {MIN_SAMPLES} at least; give a larger set")
    threshold *= np.log(features.n_image_tokens) / np.log(PAPER_IMAGE_TOKENS)
    detector = BYEDetector(rule, tau, clustering, over, threshold, random_state=seed)
    try:
        detector.fit(entropies)
    except ValueError as error:
        raise ByeError(f"setting of the detector: {error}") from None

    selected = [int(layer) for layer in detector.sensitive_layers_]
    flagged = detector.labels_ == -1
    place = f"sensitive layer{'s' if len(selected) > 1 else ''} {' '.join(map(str, selected))}"
    reasons = [
        f"attention entropy {score:.3f} nats in {place}, below the cut at {detector.offset_:.3f}" if drop else ""
        for score, drop in zip(detector.scores_, flagged, strict=True)
    ]
    setting = {
        "rule": rule,
        "tau": tau,
        "layers": over,
        "clustering": clustering,
        "sensitive_layers": selected,
        "cut": float(detector.offset_) if np.isfinite(detector.offset_) else None,
        "mixture": _mixture(detector.gmm_),
    }
    answer_scores = of_answers[:, selected or slice(None)].mean(axis=1)
    lowest = lowest_of_samples(answer_scores, sample_of)
    worst = answer_scores == lowest[sample_of]  # the answers that their samples' scores are of
    scores = np.where(worst, detector.scores_[sample_of], answer_scores)
    return Verdict(
        flagged[sample_of] & worst,
        [reasons[sample] for sample in sample_of],
        scores=scores if selected else None,
        p_low=detector.low_posterior(entropies)[sample_of],
        columns={"mean_entropy": entropies.mean(axis=1)[sample_of]},
        metadata={"bye": json.dumps(setting)},
        tables={"layers.csv": _layers(detector)},
    )


def _layers(detector):
    """The rows of layers.csv."""
    rows = []
    for layer in range(detector.n_features_in_):
        (mu_low, mu_high), (sigma_low, sigma_high) = detector.layer_means_[layer], detector.layer_stds_[layer]
        weight_low, weight_high = detector.layer_weights_[layer]
        numbers = mu_low, sigma_low, weight_low, mu_high, sigma_high, weight_high
        numbers += detector.bsi_[layer], detector.released_margin_[layer]
        sensitive = "true" if layer in detector.sensitive_layers_ else "false"
        rows.append(dict(zip(LAYER_COLUMNS, [layer, *(f"{number:.6g}" for number in numbers), sensitive], strict=True)))
    return rows


def _mixture(gmm):
    if gmm is None:
        return None
    return {
        "means": gmm.means_.reshape(2).tolist(),
        "stds": np.sqrt(gmm.covariances_.reshape(2)).tolist(),
        "weights": gmm.weights_.tolist(),
    }
