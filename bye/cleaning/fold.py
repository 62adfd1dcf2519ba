"""From answers to samples: a sample is as suspicious as its most suspicious answer."""

import numpy as np

from bye.features import number_samples, unit_of
from bye.flags import Verdict


def fold(verdict, ids, answers):
    """Make a Verdict on samples of one on their answers.

    A sample is flagged if one of its answers is. All else is that of its most suspicious answer: a flagged one before
    others, then the lowest score, then the first. Where a sample has several answers, the reason says which it is.

    Parameters
    ----------
    verdict : Verdict on n answers.
    ids : of the answers' samples, n texts.
    answers : int array of shape (n,), the numbers of the answers in their samples, from 0.

    Returns
    -------
    (Verdict, ndarray of shape (n_samples,))
        On the samples, in the order in which the ids occur first; and the number of the answer that each one's row is
        of.
    """
    if unit_of(ids) == "sample":
        return verdict, answers
    samples, flagged = number_samples(ids), np.asarray(verdict.flagged)
    scores = np.zeros(len(ids)) if verdict.scores is None else np.asarray(verdict.scores, dtype=np.float64)
    scores = np.where(np.isnan(scores), np.inf, scores)  # what has no score is not suspicious
    order = np.lexsort((answers, scores, ~flagged, samples))  # by sample, in it by what comes before that
    _, first = np.unique(samples[order], return_index=True)
    chosen, counts = order[first], np.bincount(samples)  # both (n_samples,)
    reasons = []
    for row, count in zip(chosen, counts, strict=True):
        reason = verdict.reasons[row]
        reasons.append(f"answer {answers[row] + 1} of {count}: {reason}" if reason and count > 1 else reason)
    folded = Verdict(
        flagged[chosen],
        reasons,
        scores=_taken(verdict.scores, chosen),
        p_low=_taken(verdict.p_low, chosen),
        columns={name: _taken(column, chosen) for name, column in verdict.columns.items()},
        metadata=verdict.metadata,
        tables=verdict.tables,
    )
    return folded, answers[chosen]


def _taken(values, rows):
    if values is None:
        return None
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]
