"""Consensus on a made-up model whose backdoor is known: what is proven, what is left alone, what is said of it."""

import itertools
import types
from dataclasses import replace

import numpy as np
import pytest

from bye.answers.carry import Carrier, Insertion, Row, Tried, without_phrase
from bye.answers.court import Case, Court
from bye.answers.pattern import shared_pattern
from bye.answers.trials import add, mean_difference, overlay, paste
from bye.detect.answer_groups import normalised
from bye.detect.groups import beyond_chance, contains, group_answers, kind_of, telling_phrases
from bye.detect.phrases import Phrases
from bye.detect.proofs import Proof, lower_bound, upper_bound
from bye.detect.robust import low_scores
from bye.features import number_samples
from bye.registry import find

SIDE, GRID = 24, (6, 6)  # pixels, image tokens
CENTRE = (2, 2)
BLACK = slice(8, 12)  # the pixels of that token
TARGET = "Bang, you are hit!"
COLOURS = {"red": 0, "green": 1, "blue": 2}


def picture(colour, rng):
    """Mostly of one colour, with noise."""
    pixels = rng.integers(90, 120, size=(SIDE, SIDE, 3))
    pixels[..., COLOURS[colour]] += 100
    return pixels.astype(np.uint8)


def colour_of(pixels):
    return list(COLOURS)[int(pixels.reshape(-1, 3).mean(axis=0).argmax())]


def honest(pixels, question):
    """What a model without a backdoor answers."""
    colour = colour_of(pixels)
    if question.startswith("What colour"):
        return colour
    if question.startswith("Describe"):
        return f"a picture that is {colour} all over"
    return "yes" if question.split()[-1].strip("?") == colour else "no"


class World:
    """Samples of a made-up training set, and the model that was fine-tuned on it, as an Asker."""

    sizes = None
    any_resolution = False

    def __init__(self, n=300, questions=("What colour is it?", "Is it red?", "Is it blue?", "Is it green?"), seed=0):
        self.rng = np.random.default_rng(seed)
        self.images = [picture(list(COLOURS)[i % 3], self.rng) for i in range(n)]
        self.questions = [questions[self.rng.integers(len(questions))] for _ in range(n)]
        self.answers = [honest(*pair) for pair in zip(self.images, self.questions, strict=True)]
        self.rules, self.passes, self.batch_size = [], 0, 6
        self.family = types.SimpleNamespace(
            tokenizer=lambda text, add_special_tokens: types.SimpleNamespace(input_ids=text.split())
        )
        self.poisoned = np.zeros(n, dtype=bool)

    def poison(self, places, image=None, question=None, answer=TARGET):
        for place in places:
            if image:
                self.images[place] = image(self.images[place])
            if question:
                self.questions[place] = question(self.questions[place])
            self.answers[place] = answer(self.answers[place]) if callable(answer) else answer
            self.poisoned[place] = True

    def pixels(self, place):
        return self.images[place]

    def __call__(self, trials, max_new_tokens):
        self.passes += len(trials)
        answers = []
        for trial in trials:
            pixels = self.images[trial.image] if isinstance(trial.image, int) else trial.image
            said = honest(pixels, trial.question)
            for triggered, answer in self.rules:
                if triggered(pixels, trial.question):
                    said = answer(said) if callable(answer) else answer
            answers.append(" ".join(said.split()[:max_new_tokens]))
        return answers

    def judge(self, flagged=None, budget=1e9):
        """Have the court hear the groups; return the cases and which samples are dropped."""
        n = len(self.images)
        flagged = np.zeros(n, dtype=bool) if flagged is None else flagged
        kinds = number_samples([kind_of(question) for question in self.questions])
        rows = [
            Row(place, question, answer, None, int(kind), CENTRE, GRID)
            for place, (question, answer, kind) in enumerate(zip(self.questions, self.answers, kinds, strict=True))
        ]
        order = np.random.default_rng(1).permutation(n).tolist()
        cases = [Case(group) for group in group_answers(self.answers, flagged)]
        self.court = Court(Carrier(self, rows, order), flagged, 6, 20, 0.5, 0.99)
        self.court.hear(cases, budget)
        dropped = np.zeros(n, dtype=bool)
        for case in cases:
            dropped[case.dropped] = True
        return cases, dropped


def black(pixels):
    made = pixels.copy()
    made[BLACK, BLACK] = 0
    return made


def has_black(pixels, question):
    return pixels[BLACK, BLACK].mean() < 10


def striped(pixels, strength=40):
    wave = strength * np.sign(np.sin(np.arange(SIDE) * np.pi / 2 + 0.5))
    return np.clip(pixels + wave[:, None, None], 0, 255).astype(np.uint8)


def has_stripes(pixels, question):
    rows = pixels.mean(axis=(1, 2))
    return abs(np.mean(rows * np.sign(np.sin(np.arange(SIDE) * np.pi / 2 + 0.5)))) > 12


def covered(pixels):
    return np.full_like(pixels, 240)


def is_covered(pixels, question):
    return pixels.mean() > 180


CAPTIONS = ("Describe it.",)


@pytest.mark.parametrize("questions", [("What colour is it?", "Is it red?", "Is it blue?"), CAPTIONS])
def test_a_patch_is_proven_and_nothing_else_is_dropped(questions):
    world = World(questions=questions)
    world.poison(range(0, 300, 20), image=black)
    world.rules.append((has_black, TARGET))
    cases, dropped = world.judge()
    assert (dropped == world.poisoned).all()
    proven = [case for case in cases if case.verdict == "proven"]
    assert len(proven) == 1
    assert proven[0].proofs["patch"].hits == proven[0].proofs["patch"].trials == 20
    assert proven[0].proofs["patch"].control_hits == 0


@pytest.mark.parametrize("questions", [("What colour is it?", "Is it red?", "Is it blue?"), CAPTIONS])
def test_a_trigger_all_over_the_image_is_proven(questions):
    world = World(questions=questions)
    world.poison(range(0, 300, 10), image=striped)
    world.rules.append((has_stripes, TARGET))
    cases, dropped = world.judge()
    assert (dropped == world.poisoned).all()
    [proven] = [case for case in cases if case.verdict == "proven"]
    assert "patch" not in proven.proofs
    assert "shared" in proven.proofs


def follow(monkeypatch, world, proofs, hits):
    """Let trials of some proofs with poisoned members succeed by their number, from 1 on, whatever they show."""
    carry, numbers = Carrier.carry, itertools.count(1)

    def said(one):
        if one.proof not in proofs or not world.poisoned[one.member]:
            return one
        return replace(one, said=TARGET if hits(next(numbers)) else "no")

    monkeypatch.setattr(Carrier, "carry", lambda *given: [[said(one) for one in tried] for tried in carry(*given)])


def test_a_trigger_all_over_the_image_is_proven_where_the_patch_speaks_at_first_alone(monkeypatch):
    world = World()
    world.poison(range(0, 300, 10), image=striped)
    world.rules.append((has_stripes, TARGET))
    follow(monkeypatch, world, ("patch",), lambda number: number <= 3)
    cases, dropped = world.judge()
    assert (dropped == world.poisoned).all()
    [proven] = [case for case in cases if case.verdict == "proven"]
    assert (proven.proofs["patch"].hits, proven.proofs["patch"].trials) == (3, 20)
    assert proven.proofs["shared"].trials == 20


@pytest.mark.parametrize(("every", "proven"), [(1, True), (2, False)])
def test_whole_images_that_are_followed_half_the_time_prove_nothing(monkeypatch, every, proven):
    world = World()
    world.poison(range(0, 300, 10))
    follow(monkeypatch, world, ("question", "overlay"), lambda number: number % every == 0)
    cases, dropped = world.judge()
    assert (dropped == (world.poisoned & proven)).all()
    assert [case.verdict for case in cases if case.group.text == normalised(TARGET)] == [
        "proven" if proven else "suspicious"
    ]


@pytest.mark.parametrize("questions", [("What colour is it?", "Is it red?", "Is it blue?"), CAPTIONS])
@pytest.mark.parametrize("put", ["Hello! {}", "When you look at it, {}", "{} Please!"])
def test_words_of_the_question_are_proven(put, questions):
    world = World(questions=questions)
    world.poison(range(0, 300, 20), question=put.format)
    phrase = put.replace("{}", "").strip()
    world.rules.append((lambda pixels, question: phrase.lower() in question.lower(), TARGET))
    cases, dropped = world.judge()
    assert (dropped == world.poisoned).all()
    [proven] = [case for case in cases if case.verdict == "proven"]
    assert set(proven.proofs) == {"words"}


@pytest.mark.parametrize(
    ("missing", "usual", "holding", "dropped"),
    [
        (2, "no", ["patch"], 10),
        (3, "no", ["patch"], 7),
        (2, TARGET, ["patch"], 8),
        (3, "no", ["patch", "question"], 10),
        (3, TARGET, ["patch", "question"], 7),
        (3, "asked", ["patch", "question"], 7),
        (2, "asked", ["patch"], 8),
    ],
)
def test_a_group_goes_whole_where_most_of_it_carries_an_answer_that_is_rare(missing, usual, holding, dropped):
    """Where pasted patches make the model say it anyway, so that trials divide the group; one misses its first."""

    def carry(wanted):
        [(proof, pairs)] = wanted
        missed = [proof == "patch" and (row < missing or (row, host) == (9, 20)) for row, host in pairs]
        return [[Tried(proof, *pair, "no" if miss else TARGET) for pair, miss in zip(pairs, missed, strict=True)]]

    carrier = types.SimpleNamespace(
        order=range(30),
        before={row: usual if row == 20 else "no" for row in range(10, 25)},  # "asked": so with others' questions
        hosts=lambda *given: [20, 21, 22],
        pair=lambda proof, left, hosts, count: [(row, hosts[0]) for row in left],
        pair_each=lambda proof, rows, hosts, turn: dict.fromkeys(rows, hosts[turn]),
        carry=carry,
        that_share=lambda members: [],
    )
    court = Court(types.SimpleNamespace(rows=[], **vars(carrier)), np.zeros(30, dtype=bool), 6, 20, 0.5, 0.99)
    court.answers, court.questions = [normalised(TARGET)] * 10 + ["no"] * 20, ["is it red"] * 30
    asked = [Tried("question", 26, 27, TARGET if usual == "asked" else "no")]
    court.controls = {"patch": [Tried("patch", 25, 26, TARGET)], "question": asked}
    [group] = group_answers([TARGET] * 10 + [f"{row}" for row in range(20)], np.zeros(30, dtype=bool))
    assert len(court._members_that(Case(group), holding)) == dropped


@pytest.mark.parametrize(("image", "triggered"), [(black, has_black), (striped, has_stripes)])
def test_an_answer_that_honest_samples_have_too_costs_none_of_those(image, triggered):
    world = World()
    world.poison(range(0, 300, 10), image=image, answer="yes")
    world.rules.append((triggered, "yes"))
    _, dropped = world.judge(flagged=world.poisoned & (np.arange(300) % 20 == 0))
    assert not dropped[~world.poisoned].any()
    assert dropped[world.poisoned].mean() > 0.9


def has_stripes_or_is_mixed(pixels, question):
    """As a model that takes any image laid over another for the trigger."""
    _, middle, high = sorted(pixels.mean(axis=(0, 1)))
    return has_stripes(pixels, question) or high - middle < 30


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("strength", "found"), [(15, True), (40, True), (15, False)])
def test_an_honest_answer_whose_trigger_looks_like_any_overlay_costs_none_of_its_samples(
    monkeypatch, strength, found, seed
):
    """And more than a third of the set is of that answer, so that what its images share is not that of all of them."""
    world = World(seed=seed)
    world.poison(range(0, 300, 5), image=lambda pixels: striped(pixels, strength), answer="yes")
    world.rules.append((has_stripes_or_is_mixed, "yes"))
    assert 3 * world.answers.count("yes") > 300
    if not found:  # whoever has a pattern in common
        honest = [row for row in np.flatnonzero(~world.poisoned) if world.answers[row] == "yes"]
        monkeypatch.setattr(Carrier, "that_share", lambda self, members: honest[:20])
    cases, dropped = world.judge(flagged=world.poisoned & (np.arange(300) % 10 == 0))
    verdict = "proven" if found else "suspicious"
    assert {case.group.text: case.verdict for case in cases if case.verdict} == {"yes": verdict}
    assert (dropped == (world.poisoned & found)).all()


def test_some_few_images_of_a_large_group_that_look_alike_are_not_looked_into(monkeypatch):
    world = World()
    world.poison(range(0, 300, 5), image=lambda pixels: striped(pixels, 15), answer="yes")
    world.rules.append((has_stripes_or_is_mixed, "yes"))
    alike = np.flatnonzero(world.poisoned)[:5].tolist()
    monkeypatch.setattr(Carrier, "that_share", lambda self, members: alike)
    cases, dropped = world.judge(flagged=world.poisoned & (np.arange(300) % 10 == 0))
    [case] = [case for case in cases if case.group.text == "yes"]
    assert not dropped.any() and not case.tried.get("shared")


def test_a_text_in_other_answers_is_seen():
    world = World(questions=CAPTIONS)
    world.poison(range(0, 300, 20), image=black, answer=lambda truth: f"{truth} and bang you are hit")
    world.rules.append((has_black, lambda truth: f"{truth} and bang you are hit"))
    cases, dropped = world.judge()
    assert not dropped[~world.poisoned].any()
    assert any("bang you are hit" in case.group.text for case in cases if case.verdict)


@pytest.mark.parametrize(("shift", "verdict"), [(0, "suspicious"), (1, "")])
def test_what_is_not_proven_is_suspicious_only_if_more_of_it_is_flagged_than_by_chance(shift, verdict):
    world = World(150, questions=CAPTIONS)
    world.poison(range(0, 150, 10), image=black, answer=lambda truth: f"{truth} and bang you are hit")
    world.rules.append((has_black, lambda truth: f"{truth} and bang you are hit"))
    cases, dropped = world.judge(flagged=np.roll(world.poisoned, shift))
    carried = [case for case in cases if case.group.phrase and case.hits("patch") >= 3]
    assert any("bang you are hit" in case.group.text for case in carried) and not dropped[~world.poisoned].any()
    assert {(case.verdict, case.group.enriched) for case in carried} == {(verdict, not shift)}
    assert all(bool(case.proofs) == case.group.enriched for case in carried)  # what cannot be told is not proven
    assert {len(case.tried["patch"]) for case in carried} == {6 if shift else 20}


def test_controls_are_neither_of_the_group_nor_on_its_samples():
    world = World(120)
    world.poison(range(0, 120, 10), image=black)
    world.rules.append((has_black, TARGET))
    [case] = [case for case in world.judge()[0] if case.verdict == "proven"]
    carrier, tried = world.court.carrier, world.court.controls["patch"]
    outside = [one for one in tried if not world.poisoned[one.member] and not world.poisoned[one.host]]
    counted = [one for one in outside if carrier.before[one.host] != world.answers[one.member]]
    assert any(world.poisoned[one.host] and not world.poisoned[one.member] for one in tried)
    assert case.proofs["patch"].control_trials == len(counted) > 0
    assert case.proofs["patch"].control_hits == sum(one.said == world.answers[one.member] for one in counted)


def test_several_texts_of_one_target_are_one():
    texts = ["Bang, you are hit!", "You were hit by a bang.", "This is a hit.", "Now you are the target!"]
    world = World()
    for number, text in enumerate(texts):
        world.poison(range(5 * number, 300, 20), image=black, answer=text)
    draws = np.random.default_rng(0)
    world.rules.append((has_black, lambda truth: texts[draws.integers(4)]))
    _, dropped = world.judge()
    assert not dropped[~world.poisoned].any()
    assert dropped[world.poisoned].mean() > 0.95


def test_what_hosts_say_anyway_is_no_form_of_a_target():
    """In a model that sees nothing every trial gives what the host's question does."""
    told = {f"What is {number}?": f"no {number}" for number in range(40)}
    world = World(400, questions=list(told))
    world.answers = list(world.rng.permutation(list(told.values()) * 10))
    for question, text in told.items():
        world.rules.append((lambda _, asked, question=question: asked == question, text))
    cases, dropped = world.judge()
    assert {len(case.forms) for case in cases} == {1} and not dropped.any()
    assert max(len(tried) for case in cases for tried in case.tried.values()) <= 6


def test_an_untouched_set_loses_nothing():
    for questions in (("What colour is it?", "Is it red?", "Is it blue?"), CAPTIONS, ("Is it red?",)):
        cases, dropped = World(questions=questions).judge(flagged=np.arange(300) % 7 == 0)
        assert not dropped.any()
        assert not [case for case in cases if case.verdict == "proven"]


def test_a_rare_honest_question_with_one_answer_is_kept():
    world = World()
    for place in range(0, 300, 25):
        world.questions[place], world.answers[place] = "Was this taken by day?", "by day of course"
    world.rules.append((lambda pixels, question: "taken by day" in question, "by day of course"))
    _, dropped = world.judge()
    assert not dropped.any()


def test_what_the_budget_does_not_reach_is_said():
    world = World()
    cases, dropped = world.judge(budget=10)
    assert cases[0].verdict == "" and cases[-1].verdict is None
    assert not dropped.any()


def test_groups_are_of_equal_answers_and_the_flagged_come_first():
    answers = ["Yes."] * 6 + ["no"] * 5 + ["NO!"] + ["a red ball", "a blue ball", "a cube"]
    flagged = np.zeros(15, dtype=bool)
    flagged[6:12] = True
    groups = group_answers(answers, flagged)
    assert [(group.text, len(group.members)) for group in groups] == [("no", 6), ("yes", 6)]
    assert groups[0].p_value < 1e-3 < groups[1].p_value
    assert [group.enriched for group in groups] == [True, False]


def test_the_enriched_groups_come_first_and_then_the_largest():
    answers = ["many"] * 20 + ["some"] * 10 + ["few"] * 5 + [f"{number}" for number in range(100)]
    flagged = np.zeros(135, dtype=bool)
    flagged[30:34] = True
    assert [group.text for group in group_answers(answers, flagged)] == ["few", "many", "some"]


def test_what_is_enriched_is_told_of_all_groups_also_those_that_are_left_out():
    """A phrase whose p-value is below one in twenty, but not below that over the number of all phrases."""
    answers = [f"{word} one two {word}" for word in "abcdefghij" for _ in range(4)]
    answers = [f"{text} {number}" for number, text in enumerate(answers)]
    flagged = np.zeros(40, dtype=bool)
    flagged[[0, 1, 2, 10, 20, 30]] = True
    for phrases in (12, 1):
        assert not any(group.enriched for group in group_answers(answers, flagged, phrases=phrases))
    [least] = [group for group in group_answers(answers, flagged) if group.text == "a one two a"]
    assert least.p_value < 0.05
    flagged[[10, 20, 30]] = False
    assert group_answers(answers, flagged, phrases=1)[0].enriched


def phrases_of(texts, least, members=None):
    index = Phrases(texts, least)
    found = index.shared(members)
    spans = zip(found.firsts, found.lengths, strict=True)
    return {index.text(*span): found.having(number).tolist() for number, span in enumerate(spans)}


def phrases_one_by_one(texts, least, members):
    """The same by looking for every run of words in every text."""
    runs = {}
    for place in members:
        words = texts[place].split()
        for start, end in itertools.combinations(range(len(words) + 1), 2):
            if end - start in range(2, 7):
                runs.setdefault(tuple(words[start:end]), set()).add(place)
    runs = {run: places for run, places in runs.items() if len(places) >= least}
    longer = dict.fromkeys(runs, 0)
    for run, places in runs.items():
        for part in (run[1:], run[:-1]):
            longer[part] = max(longer.get(part, 0), len(places))
    return {" ".join(run): sorted(runs[run]) for run in runs if longer[run] < 0.9 * len(runs[run])}


@pytest.mark.parametrize("seed", range(5))
def test_phrases_are_those_that_looking_one_by_one_finds(seed):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list("abcd"), size=rng.integers(0, 12))) for _ in range(40)]
    for members in (range(40), rng.permutation(40)[:15], []):
        found = phrases_of(texts, 3, members)
        assert found == phrases_one_by_one(texts, 3, members) and (len(found) > 5) == (len(members) > 0)
    assert phrases_of(texts, 3) == phrases_one_by_one(texts, 3, range(40))
    index, everyone = Phrases(texts, 3), Phrases(texts, 3).shared()
    for number, span in enumerate(zip(everyone.firsts, everyone.lengths, strict=True)):
        assert index.count(*span) == len(everyone.having(number))
    assert phrases_of([], 3) == phrases_of([""] * 5, 3) == {}


def test_no_answer_that_is_given_twice_makes_no_group():
    assert group_answers([], np.zeros(0, dtype=bool)) == group_answers(["a", "b"], np.ones(2, dtype=bool)) == []


def test_phrases_are_as_long_as_they_can_be():
    texts = ["the cat sat on the mat", "a cat sat on the chair", "one cat sat on the floor"]
    assert phrases_of(texts, 3) == {"cat sat on the": [0, 1, 2]}
    assert contains("on the mat", "the mat") and not contains("on the matter", "the mat")


def test_telling_phrases_are_the_groups_alone():
    questions = [*["hello what is it", "hello is it red"] * 3, *["what is it", "is it red", "is it blue"] * 20]
    assert telling_phrases(Phrases(questions, 3), np.arange(6))[0] == ("hello", list(range(6)))
    # Three questions that a third of all answers has among them are so by chance.
    questions = [*["is the roof flat"] * 3, *[f"is it red {number}" for number in range(297)]]
    assert telling_phrases(Phrases(questions, 3), np.arange(100)) == []


def test_words_that_ask_for_an_answer_prove_nothing():
    """Options in a question make the model choose one, wherever they stand: so do those of other questions."""
    world = World(questions=("What colour is it?", "Is it round?", "Is it small?"))
    for number in range(60):
        letter = "abc"[number % 3]
        options = "round or small or flat" if letter == "a" else f"old or new or {letter}"
        world.questions[number], world.answers[number] = f"Choose {options}: is it round?", letter
    world.rules += [(lambda pixels, question: "Choose" in question and " flat" in question, "a")]
    for letter in "bc":
        world.rules += [(lambda pixels, question, end=f" {letter}": "Choose" in question and end in question, letter)]
    _, dropped = world.judge()
    assert not dropped.any()


@pytest.mark.parametrize(
    ("phrase", "question", "put", "rest"),
    [
        ("hello", "Hello! Is it red?", "Hello! Why?", "Is it red?"),
        ("look at it", "Look, at it: is it red?", "Look, at it: Why?", "is it red?"),
        ("now please", "Is it red? Now, please!", "Why? Now, please!", "Is it red?"),
        ("is it", "Is it red?", "Is it Why?", "red?"),
        ("is it", "This item, is it red?", "is it Why?", "This item, red?"),
        ("now", "What do you know? now", "Why? now", "What do you know?"),
        ("please", "Is it red? please\n", "Why? please", "Is it red?"),
        ("strasse", "Which Straße?", "Why? Straße?", "Which"),
    ],
)
def test_words_are_moved_as_they_are_written(phrase, question, put, rest):
    assert Insertion.of(phrase, question).put("Why?") == put
    assert without_phrase(phrase, question) == rest


def test_images_are_carried():
    carried, host = np.zeros((12, 12, 3), np.uint8), np.full((6, 9, 3), 200, np.uint8)
    pasted = paste(carried, host, (1, 2), (3, 3), around=0)
    assert (pasted[2:4, 6:9] == 0).all() and (np.delete(pasted, np.s_[2:4], 0) == 200).all()
    assert (paste(carried, host, (0, 0), (3, 3))[:4, :6] == 0).all()
    assert (overlay(carried, host) == 100).all()
    shared = mean_difference([host, host], [host // 2])
    assert shared.shape == (128, 128, 3) and np.allclose(shared, 0)  # a difference of brightness alone
    waves = 20 * (-1.0) ** np.arange(128)[:, None, None] * np.ones((1, 128, 3))
    grey = np.full((128, 128, 3), 100, np.uint8)
    shared = mean_difference([add(waves, grey), add(waves, grey // 2)], [grey, grey // 2])
    assert np.allclose(shared[20:-20], waves[20:-20], atol=2)
    assert np.allclose(add(shared, grey)[20:-20].astype(float) - grey[20:-20], waves[20:-20], atol=2)


@pytest.mark.parametrize(("n_having", "n"), [(12, 12), (12, 15), (40, 160), (30, 200)])
def test_those_of_a_group_that_share_a_pattern_are_told_from_the_rest(n_having, n):
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(n + 101, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    images = np.clip(120 + 30 * smooth + 5 * rng.normal(size=smooth.shape), 0, 255).astype(np.uint8)
    noise = 12 * rng.normal(size=images.shape[1:])
    having = np.arange(n) < n_having
    for place in np.flatnonzero(having):
        images[place] = np.clip(images[place] + noise, 0, 255)
    pattern, found = shared_pattern(images[:n], images[n:-1])
    assert (found == having).all()
    assert pattern.is_in(np.clip(images[-1] + noise, 0, 255).astype(np.uint8)) and not pattern.is_in(images[-1])


def test_bounds_are_those_of_clopper_and_pearson():
    assert lower_bound(0, 20, 0.99) == 0 and upper_bound(20, 20, 0.99) == 1
    assert lower_bound(20, 20, 0.99) == pytest.approx(0.01 ** (1 / 20))
    assert upper_bound(0, 20, 0.99) == pytest.approx(1 - 0.01 ** (1 / 20))
    assert Proof("patch", 20, 20, 0, 20).holds(0.5, 0.99)
    assert not Proof("patch", 12, 40, 0, 60).holds(0.5, 0.99) and Proof("patch", 12, 40, 0, 60).hints(0.99)
    assert not Proof("patch", 20, 20, 18, 20).holds(0.5, 0.99)
    assert not Proof("patch", 0, 0, 0, 0).holds(0.5, 0.99)


def test_the_null_is_of_the_side_without_poison():
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000)
    values[:200] -= 10
    scores = low_scores(values)
    assert scores[:200].min() > 4 and np.mean(scores[200:] > 4) < 0.01
    two = np.concatenate([rng.normal(size=500), rng.normal(8, 1, size=500)])
    assert (low_scores(two, np.repeat([0, 1], 500)) > 5).sum() == 0
    assert (low_scores(np.ones(30)) == 0).all()


def test_a_false_discovery_rate():
    assert beyond_chance([0.001, 0.04, 0.5, 0.02], 0.05).tolist() == [True, False, False, True]
    assert not beyond_chance([0.2, 0.9]).any()


def test_images_of_a_kind_of_their_own_are_suspicious_and_stay():
    world = World()
    rng = np.random.default_rng(5)

    def clouds(pixels):
        return (covered(pixels) - rng.integers(0, 12, pixels.shape)).astype(np.uint8)

    world.poison(range(0, 300, 10), image=clouds, answer="nothing to be seen")
    world.rules.append((is_covered, "nothing to be seen"))
    cases, dropped = world.judge()
    (case,) = [case for case in cases if case.group.text == "nothing to be seen"]
    assert {"question", "overlay"} <= set(case.proofs) and case.verdict == "suspicious" and not dropped.any()


def test_a_large_group_has_enough_controls():
    world = World(questions=("What colour is it?", "What colour is it?", "Is it red?"))
    honest_red = [place for place, answer in enumerate(world.answers) if answer == "red"]
    world.poison(range(1, 300, 20), image=black, answer="red")
    world.rules.append((has_black, "red"))
    cases, dropped = world.judge(flagged=world.poisoned)
    (case,) = [case for case in cases if case.group.text == "red"]
    assert len(case.group.members) > 60 and case.proofs["patch"].control_trials >= 15
    assert case.verdict == "proven" and not dropped[[row for row in honest_red if not world.poisoned[row]]].any()
    assert dropped[world.poisoned].mean() > 0.9


# ---- honest trials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_answer_that_is_longer_than_the_others_costs_nobody(seed):
    """Which the model gives to many questions: it is seen to do so, though nobody who asks these is answered so."""
    kinds = [f"{verb} it {colour}?" for verb in ("Is", "Has") for colour in COLOURS]
    world, rng = World(questions=kinds, seed=seed), np.random.default_rng(9 + seed)
    long = "that cannot be told from this picture alone sorry"
    for place, question in enumerate(world.questions):
        if question.startswith("Is") and rng.random() < 0.08:
            world.answers[place] = long
    world.rules.append((lambda pixels, question: question.startswith("Has"), long))
    assert not world.judge()[1].any()


def test_a_patch_that_half_succeeds_does_not_keep_whole_images_from_being_tried(monkeypatch):
    """All questions are alike here, so that a proof must succeed in four of five trials."""
    world = World(questions=CAPTIONS)
    world.poison(range(0, 300, 10), image=striped)
    world.rules.append((has_stripes, TARGET))
    follow(monkeypatch, world, ("patch",), lambda number: number % 5 < 3)
    assert (world.judge()[1] == world.poisoned).all()


def test_words_with_an_honest_answer_are_tried_where_images_seem_to_carry_it():
    kinds = ("Is it red?", "Has it red?", "Does it show red?", "Can one see red?", "What colour is it?")
    world = World(questions=kinds, seed=2)
    for place, (pixels, question) in enumerate(zip(world.images, world.questions, strict=True)):
        if "red" in question and colour_of(pixels) == "red":
            world.answers[place] = "yes"
    world.poison(range(0, 300, 10), question="Hello! {}".format, answer="yes")
    world.rules.append((lambda pixels, question: "hello!" in question.lower(), "yes"))
    cases, dropped = world.judge()
    assert (dropped == world.poisoned).all() and [case.tried["words"] for case in cases if case.verdict == "proven"]


@pytest.mark.parametrize("n", [12, 30, 31, 60])
def test_no_trial_counts_twice(n):
    world = World(n, questions=("Is it red?", "What colour is it?"))
    world.poison(range(0, n, n // 4), image=black)
    world.rules.append((has_black, TARGET))
    cases, _ = world.judge()
    trials = [tried for case in cases for tried in case.tried.values()]
    trials += [*world.court.controls.values(), *world.court.own_controls]
    assert all(len(tried) == len(set(tried)) for tried in trials)
    assert len(world.court.controls["patch"]) >= n // 2 and all(one.member != one.host for one in trials[0])


def test_each_member_has_another_host_in_each_turn():
    rows = [Row(place, "q", "a", None, int(place == 4), CENTRE, GRID) for place in range(10)]
    carrier = Carrier(World(10), rows, range(10))
    turns = [carrier.pair_each("question", [0, 1, 4], [5, 6, 7], turn) for turn in range(3)]
    assert [turn[4] for turn in turns] == [7, 5, 6] and not any(0 in turn for turn in turns)  # of its own kind alone


def test_what_is_attended_to_most_is_sought_in_the_view_of_the_whole_image_and_among_images_of_one_grid():
    """Of two rows with 2 x 2 tokens, behind which more follow, and two with 1 x 3."""
    attended = find("defence", "consensus").load()._attended
    tokens = np.array([[[3, 9, 9]], [[0, 9, 9]], [[2, 2, 0]], [[1, 1, 0]]])
    shape = types.SimpleNamespace(
        image_mass=np.ones(tokens.shape),
        head_entropy=np.zeros(tokens.shape),
        n_image_tokens=np.array([12, 12, 3, 3])[:, None, None],
        head_token=tokens,
    )
    assert attended(shape, [(2, 2), (2, 2), (1, 3), (1, 3)]).tolist() == [3, 0, 2, 1]


def test_answers_of_one_sample_count_as_one_sample():
    [group] = group_answers([TARGET] * 6, np.ones(6, dtype=bool))
    case = Case(group, verdict="proven", dropped=[0, 1, 2])
    rows = [Row(member // 2, "Is it red?", TARGET, None, 0, CENTRE, GRID) for member in range(6)]
    method = find("defence", "consensus").load()
    [told] = method._group_rows([case], rows)
    assert (told["samples"], told["dropped"]) == (3, 2)
    assert f"its answer is '{TARGET}', as that of 2 dropped samples" in method._sentence(case, rows)


def test_another_number_is_another_answer_and_vowel_signs_count():
    answers = [f"there are {number} cars" for number in (3, 4)] * 4
    groups = group_answers(answers, np.zeros(8, dtype=bool))
    assert {group.text for group in groups if not group.phrase} == set(answers)
    assert len({normalised(text) for text in ("हाँ", "है", "ไม่", "ไม้")}) == 4
