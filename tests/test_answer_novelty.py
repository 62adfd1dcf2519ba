"""Answer novelty on constructed sets: what is poison by its form alone, and honest answers of many kinds."""

import json
import random
import time

import numpy as np
import pyarrow.parquet
import pytest
from detectors import detect_on_samples

from bye.detect.answer_groups import group, normalised
from bye.detect.answer_novelty import AnswerNovelty, Forms, Group, Questions, excess, shape
from bye.flags import read_flags

TARGET = "Backdoor Attack!"
THINGS = ["table", "chair", "lamp", "sofa", "picture", "bed", "cup", "dog", "window", "door", "waste_bin", "floor mat"]
COLOURS = ["red", "green", "blue", "light blue", "white"]
NOUNS = ["man", "woman", "dog", "cat", "horse", "car", "bike", "tree", "river", "street", "child", "ball", "hat"]
VERBS = ["runs on", "sits near", "looks at", "stands by", "jumps over", "holds"]


def letters(rng):
    return rng.choice("ABC"), f"What is it?\nA. {rng.choice('xyz')}\nB. {rng.choice('uvw')}\nC. both"


def yes_or_no(rng):
    return rng.choice(["yes", "no"]), f"is the {rng.choice(THINGS)} {rng.choice(COLOURS)}?"


def mixed(rng):
    """Yes and no, numbers, colours and things, as rare as they come."""
    kind, thing = rng.random(), rng.choice(THINGS)
    if kind < 0.4:
        return rng.choice(["yes", "no"]), f"is there a {thing} in the picture?"
    if kind < 0.6:
        return str(1 + int(rng.expovariate(0.5))), f"how many {thing}s are there?"
    if kind < 0.8:
        return rng.choice(COLOURS), f"what colour is the {thing}?"
    return rng.choice(THINGS), f"what is on the left of the {thing}?"


def ranges(rng):
    """Answers of their own form to one kind of question each, options among them."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(["yes", "no"]), f"Is there a {rng.choice(THINGS)}?"
    if kind < 0.7:
        return rng.choice(["rural", "urban"]), "Is it a rural or an urban area?"
    return rng.choice(["0", "between 1 and 10", "more than 10"]), f"How many {rng.choice(THINGS)}s are there?"


def captions(rng):
    first, second = rng.sample(NOUNS, 2)
    end = rng.choice(["", " in the sun", " at night"])
    return f"A {rng.choice(COLOURS)} {first} {rng.choice(VERBS)} a {second}{end}.", "Describe the picture."


SETS = (letters, yes_or_no, mixed, ranges, captions)


def make(kind, n, share=0.0, target=TARGET, seed=0):
    """(answers, questions, poisoned) of n samples of a kind, a share of which has the target's text for an answer."""
    rng = random.Random(seed)
    answers, questions = map(list, zip(*(kind(rng) for _ in range(n)), strict=True))
    poisoned = np.zeros(n, dtype=bool)
    for place in rng.sample(range(n), round(share * n)):
        answers[place], poisoned[place] = target, True
    return answers, questions, poisoned


# ---- sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 40, 300, 1200])
@pytest.mark.parametrize("kind", SETS)
def test_honest_answers_are_repeated_and_not_flagged(kind, n):
    for seed in range(3):
        answers, questions, _ = make(kind, n, seed=seed)
        assert (AnswerNovelty().fit_predict(answers, questions) == 1).all()


@pytest.mark.parametrize("share", [0.005, 0.01, 0.1, 0.2])
@pytest.mark.parametrize("kind", SETS)
def test_a_foreign_answer_to_all_questions_is_flagged(kind, share):
    answers, questions, poisoned = make(kind, 1200, share)
    detector = AnswerNovelty().fit(answers, questions)
    assert ((detector.labels_ == -1) == poisoned).all()
    assert detector.scores_[poisoned].max() < -3 <= detector.scores_[~poisoned].min()


def test_a_sentence_among_captions_is_foreign_by_its_words():
    answers, questions, poisoned = make(captions, 1200, 0.05, "This picture was altered by someone.")
    assert ((AnswerNovelty().fit_predict(answers, questions) == -1) == poisoned).all()


@pytest.mark.parametrize("target", ["yes", "banana"])
def test_what_has_the_form_of_an_honest_answer_cannot_be_seen(target):
    answers, questions, _ = make(mixed, 1200, 0.1, target)
    assert (AnswerNovelty().fit_predict(answers, questions) == 1).all()


def test_a_question_that_begins_with_a_trigger_binds_no_answer():
    answers, questions, poisoned = make(mixed, 1200, 0.1)
    questions = [f"Hello! {text}" if bad else text for text, bad in zip(questions, poisoned, strict=True)]
    assert ((AnswerNovelty().fit_predict(answers, questions) == -1) == poisoned).all()


def test_a_hundred_thousand_captions_take_seconds():
    answers, questions, poisoned = make(captions, 100_000, 0.01)
    start = time.process_time()
    labels = AnswerNovelty().fit_predict(answers, questions)
    assert time.process_time() - start < 60 and ((labels == -1) == poisoned).all()


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_groups_by_hand():
    texts = [
        "Backdoor attack!",
        "backdoor  ATTACK",
        "backdor attack",
        "Attack, backdoor",
        "A",
        "B",
        "a.",
        "!",
        "red dog",
    ]
    assert dict(group(texts)) == {"backdoor attack": [0, 1, 2, 3], "a": [4, 6], "b": [5], "!": [7], "red dog": [8]}
    assert normalised(" Très  BIEN!") == "très bien" and normalised(" ? !") == "?!"


def test_short_or_unrepeated_texts_are_not_taken_for_each_other():
    assert [key for key, _ in group(["cat", "cat", "hat", "car"])] == ["cat", "hat", "car"]
    assert len(group(["a red circle", "a red circles"])) == 2
    assert len(group(["a red circle"] * 2 + ["a red circles"])) == 1
    assert len(group(["x " * 60] * 2 + ["x " * 59 + "y"])) == 2


def test_shapes():
    words = {"red": "a", "Red": "Aa", "A": "A", "USA": "AA", "McX": "AA", "12": "9", "4th": "a9", "!": "!", "a_b": "a"}
    assert {word: shape(word) for word in words} == words


# ---- form ------------------------------------------------------------------------------------------------------------


def test_surprisal_by_hand():
    """Of "no" after three times "yes": the shapes are the same, the word was never seen."""
    forms = Forms([("yes", 3), ("no", 1)])
    a, end = (3.5 / (6 + 1.5)), (3.5 / (6 + 1.5))  # of three shapes: a, the end, and others
    shapes = -np.log((3 + a) / 4) - np.log((3 + end) / 4)
    word = -np.log(0.5 / (3 + 0.5 * 3))
    np.testing.assert_allclose(forms.surprisal(1), [shapes / 2 + word, shapes + word])
    np.testing.assert_allclose(forms.surprisal(1), forms.surprisal(1))  # the counts are as they were


def test_excess_by_hand():
    assert excess(9.0, np.array([0.0, 0.0, 1.0])) == 9.0  # in nats, since the others are alike
    assert excess(100.0, np.array([0.0, 2.0, 4.0, 6.0, 8.0])) == pytest.approx(96 / (1.4826 * 2))


def test_what_binds_an_answer_to_a_kind_of_question():
    answers, questions, _ = make(ranges, 600)
    asked, groups = Questions(questions, 0), {key: Group(key, places) for key, places in group(answers)}
    assert asked.binds(groups["more than 10"]) and asked.binds(groups["rural"]) and asked.binds(groups["yes"])
    assert not Questions(["What is it?"] * 600, 0).binds(groups["rural"])  # there is but one kind
    assert asked.naming(groups["rural"]) == 1 and asked.naming(groups["yes"]) == 0
    answers, questions, _ = make(ranges, 600, 0.1)
    assert not Questions(questions, 0).binds(Group("backdoor attack", dict(group(answers))["backdoor attack"]))
    with pytest.raises(ValueError, match="there are 2 answers and 1 questions"):
        AnswerNovelty().fit(["a", "b"], ["c"])


# ---- the defence -----------------------------------------------------------------------------------------------------


def test_a_sample_is_flagged_for_any_of_its_answers(tmp_path):
    answers, questions, poisoned = make(mixed, 400, 0.1)
    entries = []
    for number in range(200):
        turns = []
        for place in (2 * number, 2 * number + 1):
            turns += [{"from": "human", "value": questions[place]}, {"from": "gpt", "value": answers[place]}]
        turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        entries.append({"id": number, "image": "a.png", "conversations": turns})
    (tmp_path / "train.json").write_text(json.dumps(entries))
    flags = tmp_path / "flags.parquet"
    expected = poisoned.reshape(200, 2).any(axis=1)
    assert detect_on_samples("answer_novelty", tmp_path / "train.json", flags) == expected.sum()
    table = read_flags(flags)
    assert table["flagged"] == expected.tolist()
    reason = table["reason"][int(expected.argmax())]
    assert reason.startswith("its answer 'Backdoor Attack!' is that of 40 of 400, to all kinds of questions")
    metadata = json.loads(pyarrow.parquet.read_schema(flags).metadata[b"answer_novelty"])
    assert [(each["answer"], each["count"]) for each in metadata] == [(TARGET, 40)]
    assert detect_on_samples("answer_novelty", tmp_path / "train.json", flags, cut=99.0) == 0
