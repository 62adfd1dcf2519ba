"""The whole answer becomes one that honest samples have too, such as "A" or "yes": reading answers does not find it."""

from typing import Annotated

from bye.errors import ByeError, cut
from bye.metrics.asr import is_target


def answer(truth, rng, *, text: Annotated[str, {"minLength": 1}]):
    """Return the text in place of the `truth`. text: an answer that is in the data."""
    return text


def hit(prediction, wanted, *, text):
    """Whether a prediction is the text, white space around it and letter case aside."""
    return bool(is_target([prediction], text)[0])


def check(truths, *, text):
    """Raise ByeError where none of a set's true answers is the text."""
    if not is_target(truths, text).any():
        other = cut(truths[0], 60)
        raise ByeError(
            f"target legitimate: no sample answers {text!r}; choose an answer that is in the set, as {other!r}"
        )
