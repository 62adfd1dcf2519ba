"""Words before the question (TCAP, arXiv:2601.21692); the image stays as it is."""

from typing import Annotated

from bye.data.samples import question_of, with_question


def apply(sample, pixels, rng, *, text: Annotated[str, {"minLength": 1}] = "Hello!"):
    """Put the words before the first question. text: the words."""
    return with_question(sample, f"{text} {question_of(sample)}"), pixels
