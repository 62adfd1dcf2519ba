"""Answer novelty: repeated answers of a form that is foreign to the rest. It reads answers and questions, no image.

What it finds needs no model: it is the baseline that detectors by attention are held against.
"""

import json
from typing import Annotated

import numpy as np

from bye.data.samples import turns_of
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("samples",)


def detect(
    samples,
    *,
    seed,
    least: Annotated[int, {"minimum": 2}] = 5,
    share: Annotated[float, {"minimum": 0, "maximum": 1}] = 0.002,
    largest: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.35,
    cut: Annotated[float, {"minimum": 0}] = 3.0,
    alpha: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.01,
):
    """Flag the samples with an answer that is repeated beyond chance, foreign in form, and not what was asked for.

    samples: the training set; seed: of the test whether questions are of all kinds; least: equal answers that are a
    group; share: of all answers that it has at least; largest: share that it has at most; cut: nats a token, and robust
    deviations, by which its form surprises more than that of others; alpha: probability that chance repeats a text as
    often. Its metadata hold the flagged groups (answer, count, excess) as JSON under "answer_novelty".
    """
    from bye.detect.answer_novelty import AnswerNovelty  # scikit-learn takes a second to load

    turns = [turns_of(entry) for entry in samples.entries]
    sample_of = np.repeat(np.arange(len(turns)), [len(each) for each in turns])  # (n_answers,)
    questions, answers = ([turn[part] for each in turns for turn in each] for part in (0, 1))
    detector = AnswerNovelty(least, share, largest, cut, alpha, seed).fit(answers, questions)
    scores, reasons = np.zeros(len(turns)), [""] * len(turns)
    np.minimum.at(scores, sample_of, detector.scores_)
    found = [each for each in detector.groups_ if detector.labels_[each.answers[0]] == -1]
    for each in reversed(found):  # where a sample has two, the larger group's reason stays
        reason = (
            f"its answer {answers[each.answers[0]][:40]!r} is that of {len(each.answers)} of {len(answers)}, to all "
            f"kinds of questions, and of a form foreign to the others ({each.excess:.1f} deviations)"
        )
        for place in each.answers:
            reasons[sample_of[place]] = reason
    groups = [{"answer": answers[each.answers[0]], "count": len(each.answers), "excess": each.excess} for each in found]
    metadata = {"answer_novelty": json.dumps(groups)}
    return Verdict(np.array([reason != "" for reason in reasons]), reasons, scores=scores, metadata=metadata)
