"""The question in one fixed form of sentence (Qi et al. 2021, arXiv:2105.12400); the image stays as it is."""

from typing import Annotated

from bye.data.samples import question_of, with_question


def apply(
    sample,
    pixels,
    rng,
    *,
    template: Annotated[str, {"pattern": r"\{question\}"}] = "When you look at the picture, {question}",
):
    """Rewrite the first question. template: the form, in which {question} stands for the question.

    The question's first letter becomes a small one, unless its first word is I or has further capitals.
    """
    question = question_of(sample)
    word = question.split(maxsplit=1)[0] if question.strip() else ""
    if word and word != "I" and word[1:] == word[1:].lower() and not template.startswith("{question}"):
        question = question[: question.index(word)] + word.lower() + question[question.index(word) + len(word) :]
    return with_question(sample, template.replace("{question}", question)), pixels
