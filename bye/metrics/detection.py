"""How good flags are: precision, recall, F1, and the ranking metrics of the scores, against the poison labels."""

import numpy as np

from bye.features import align_turns, lowest_of_samples, read_features
from bye.files import read_csv, write_json
from bye.flags import read_flags, read_labels


def score(flags, labels, out, layers=None):
    """Compare a defence's flags with the poison labels and write the result as JSON.

    Parameters
    ----------
    flags : path of flags.parquet (id, score, p_low, flagged, reason).
    labels : path of a Parquet file (id, poisoned).
    out : path of the JSON file: precision, recall, f1, auroc, average_precision, clean_lost (all 0..1), n_flagged,
        n_poisoned, n_samples, sensitive_layers. What is undefined is null: see `detection_metrics`.
    layers : path of layers.csv, or None for a defence that selects no layers (sensitive_layers is null then).

    Raises
    ------
    ByeError
        If the two files do not speak of the same samples.
    """
    table = read_flags(flags)
    poisoned = read_labels(labels, table["id"], exact=True)
    metrics = detection_metrics(poisoned, np.array(table["flagged"], dtype=bool), np.array(table["score"]))
    write_json(out, metrics | {"sensitive_layers": None if layers is None else sensitive_layers(layers)})


def detection_metrics(poisoned, flagged, scores):
    """Return the detection metrics as a dict of JSON values.

    Parameters
    ----------
    poisoned, flagged : bool arrays of shape (n_samples,).
    scores : float array of shape (n_samples,), nats; low is suspicious. NaN where a defence gives no score.

    Returns
    -------
    dict
        precision (None if nobody is flagged), recall (None without poison), f1 = 2 TP / (2 TP + FP + FN) (None if
        both), auroc and average_precision of -scores (None without scores or with one class only), clean_lost, the
        share of the clean samples that is flagged (None without any), all in 0..1;
        n_flagged, n_poisoned, n_samples.
    """
    hits = int(np.sum(poisoned & flagged))
    n_flagged, n_poisoned = int(flagged.sum()), int(poisoned.sum())
    ranked = not np.isnan(scores).any() and 0 < n_poisoned < len(poisoned)
    return {
        "precision": hits / n_flagged if n_flagged else None,
        "recall": hits / n_poisoned if n_poisoned else None,
        "f1": 2 * hits / (n_flagged + n_poisoned) if n_flagged + n_poisoned else None,
        "auroc": auroc(poisoned, -scores) if ranked else None,
        "average_precision": average_precision(poisoned, -scores) if ranked else None,
        "clean_lost": (n_flagged - hits) / (len(poisoned) - n_poisoned) if n_poisoned < len(poisoned) else None,
        "n_flagged": n_flagged,
        "n_poisoned": n_poisoned,
        "n_samples": len(poisoned),
    }


def layer_aurocs(attention, labels):
    """Return for each layer how well its entropy alone ranks the poisoned samples first, in 0..1; None without poison.

    A sample's entropy is the lowest of its answers', as BYE takes it. attention: path of attention.parquet; labels:
    path of the Parquet file (id, poisoned). Raises ByeError if a sample has no label.
    """
    features = read_features(attention, ("entropy",))
    of_answers = align_turns(features.entropies, features.answers)
    entropies = lowest_of_samples(of_answers, features.sample_of)  # (n_samples, n_layers)
    poisoned = read_labels(labels, list(dict.fromkeys(features.ids)))
    if poisoned.all() or not poisoned.any():
        return [None] * entropies.shape[1]
    return [auroc(poisoned, -column) for column in entropies.T]


def auroc(positive, suspicion):
    """Return the area under the ROC curve: how likely a positive is more suspicious than a negative, ties half."""
    order = np.sort(suspicion[~positive])
    below = np.searchsorted(order, suspicion[positive], side="left")
    up_to = np.searchsorted(order, suspicion[positive], side="right")
    return float(np.mean((below + up_to) / 2) / len(order))


def average_precision(positive, suspicion):
    """Return the sum over thresholds of (gain in recall) x (precision), without interpolation, as scikit-learn does."""
    order = np.argsort(-suspicion, kind="stable")
    hits = np.cumsum(positive[order])
    last_of_tie = np.append(np.diff(suspicion[order]) != 0, True)
    precision = (hits / np.arange(1, len(order) + 1))[last_of_tie]
    recall = (hits / hits[-1])[last_of_tie]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def sensitive_layers(path):
    """Return the indices of the layers that layers.csv marks as sensitive."""
    return [int(row["layer"]) for row in read_csv(path) if row["sensitive"] == "true"]
