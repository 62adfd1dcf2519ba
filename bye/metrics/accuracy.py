"""Exact-match accuracy: the clean performance of the question-answering tasks."""

import numpy as np


def is_correct(predictions, references):
    """Return which predictions equal their reference, as a bool array of shape (n,).

    White space around the text, letter case and one trailing full stop do not count: "A." answers "a". Everything else
    does, so that "The answer is A" is wrong where the task asks for the letter alone.

    Raises ValueError if the two lists differ in length.
    """
    pairs = zip(predictions, references, strict=True)
    return np.array([_normalised(prediction) == _normalised(reference) for prediction, reference in pairs], dtype=bool)


def accuracy(predictions, references):
    """Return the share of correct predictions in per cent (0..100). Raises ValueError without any prediction."""
    correct = is_correct(predictions, references)
    if not len(correct):
        raise ValueError("accuracy of no prediction is undefined")
    return 100.0 * float(correct.mean())


def _normalised(text):
    return text.strip().removesuffix(".").rstrip().casefold()
