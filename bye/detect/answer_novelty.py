"""Answer novelty: texts that are repeated beyond chance and whose form is foreign to the other answers."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import poisson
from sklearn.base import BaseEstimator, OutlierMixin

from bye.detect.answer_groups import WORD, group, normalised
from bye.detect.robust import SIGMAS

TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]")
START, END = "<start>", "<end>"
COMMON = (0.1, 0.9)  # a word of so large a share of the questions tells kinds of questions apart
FLOOR = 1.0  # nats: groups that differ by less are alike
MANY = 1000  # groups, of which one more or less does not matter; of more, so many are looked at
DRAWS, BOUND, SEVERAL = 999, 0.005, 200  # of the test whether an answer is bound to kinds of questions


@dataclass
class Group:
    """Equal and near-equal answers. key: the normalised text of most of them; answers: their places, ascending.

    excess: how much more surprising its form is than that of the other groups (`excess`); chance: probability that
    chance repeats a text as often; named: share of its questions that name it; bound: whether a kind of question lacks
    it. What was not needed has its default.
    """

    key: str
    answers: list
    excess: float = 0.0
    chance: float = 1.0
    named: float = 0.0
    bound: bool = False


class AnswerNovelty(OutlierMixin, BaseEstimator):
    """Detect poisoned answers by their text alone.

    Answers that are equal but for case, blanks and punctuation are a group, and so are long ones that differ in one
    character or in the order of their words. A group of enough answers is suspicious if

    - its form is foreign: its surprisal a token, under the answers of the other groups, exceeds the median of theirs by
      `cut` nats and by as many of their robust deviations. The surprisal is that of the shapes of its tokens (capitals,
      digits, which punctuation), one after another, plus that of its words;
    - it is repeated beyond chance: so many answers are improbable, were texts made at random as the others are;
    - its questions do not name it, as they name options; and
    - it answers all kinds of questions: their common words are all in its questions too, as they are not in those of an
      honest answer to one kind.

    All of it is ours. It cannot see what has the form of honest answers (a target "yes"), what is never the same (a
    text added to the true answer), and takes an honest "N/A" to all kinds of questions for poison.

    Parameters
    ----------
    least : int, default=5
        Answers that a group has at least.
    share : float, default=0.002
        Share of all answers that it has at least.
    largest : float, default=0.35
        Share that it has at most: what is more frequent is not foreign to the rest.
    cut : float, default=3.0
        Nats, and robust deviations, above the other groups.
    alpha : float, default=0.01
        Probability that chance repeats some text of the set as often.
    random_state : int, default=0
        Seed of the draws that tell whether questions are of all kinds.

    Attributes
    ----------
    groups_ : list of Group
        The groups with `least` answers at least, the largest first.
    scores_ : ndarray of shape (n_answers,)
        Minus the excess of the group, 0 where it is not suspicious for another reason: low is suspicious.
    labels_ : ndarray of shape (n_answers,)
        -1 for flagged answers, 1 for the others.
    """

    def __init__(self, least=5, share=0.002, largest=0.35, cut=3.0, alpha=0.01, random_state=0):
        self.least = least
        self.share = share
        self.largest = largest
        self.cut = cut
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, answers, questions):
        """Fit to n_answers texts and their questions, as many. Raises ValueError where there are not."""
        if len(answers) != len(questions):
            raise ValueError(f"there are {len(answers)} answers and {len(questions)} questions; give as many")
        n = len(answers)
        groups = [Group(key, places) for key, places in group(answers)]
        forms = Forms([(answers[each.answers[0]], len(each.answers)) for each in groups])
        self.groups_ = [each for each in groups if len(each.answers) >= self.least]
        self.scores_, self.labels_ = np.zeros(n), np.ones(n, dtype=int)
        some = np.linspace(0, len(groups) - 1, min(len(groups), MANY)).astype(int)  # of any size
        usual = np.array([forms.surprisal(number)[0] for number in some])
        asked = Questions(questions, self.random_state)
        for number, each in enumerate(self.groups_):
            size, others = len(each.answers), usual[some != number]
            if size < self.share * n or size > self.largest * n or not len(others):
                continue
            a_token, in_all = forms.surprisal(number)
            each.excess = excess(a_token, others)
            each.chance = min(1.0, len(groups) * float(poisson.sf(size - 1, n * np.exp(-in_all))))
            if each.excess <= 0 or each.chance >= self.alpha:
                continue
            each.named, each.bound = asked.naming(each), asked.binds(each)
            if each.named >= 0.5 or each.bound:
                continue
            self.scores_[each.answers] = -each.excess
            if each.excess > self.cut:
                self.labels_[each.answers] = -1
        return self

    def fit_predict(self, answers, questions):
        """Fit and return the labels: -1 for the flagged answers, 1 for the others."""
        return self.fit(answers, questions).labels_


# ---- form ------------------------------------------------------------------------------------------------------------


class Forms:
    """What answers look like: how often which shape follows which, and words, in all groups.

    texts: (text, size) of each group: as its first answer is written, and how many answers count as that.
    """

    def __init__(self, texts):
        self.tokens = [TOKEN.findall(text) for text, _ in texts]
        self.sizes = [size for _, size in texts]
        self.pairs, self.contexts, self.shapes, self.words = Counter(), Counter(), Counter(), Counter()
        for number in range(len(texts)):
            self._count(number, 1)
        self.n_shapes, self.n_words = len(self.shapes) + 1, len(self.words) + 1

    def surprisal(self, number):
        """Return (nats a token, nats in all) of a group's text under those of the other groups.

        Shapes follow each other as in these, or where that was not seen, are drawn by their frequency alone; words are
        drawn by theirs. The first number is the mean over the shapes plus the mean over the words.
        """
        self._count(number, -1)
        total, n_words = sum(self.shapes.values()), sum(self.words.values())
        steps = self._steps(number)
        shapes = 0.0
        for before, after in steps:
            alone = (self.shapes[after] + 0.5) / (total + 0.5 * self.n_shapes)
            shapes -= np.log((self.pairs[before, after] + alone) / (self.contexts[before] + 1))
        words = [
            -np.log((self.words[token.casefold()] + 0.5) / (n_words + 0.5 * self.n_words))
            for token in self.tokens[number]
        ]
        self._count(number, 1)
        return shapes / len(steps) + (np.mean(words) if words else 0.0), shapes + sum(words)

    def _steps(self, number):
        shapes = [START, *map(shape, self.tokens[number]), END]
        return list(zip(shapes, shapes[1:], strict=False))

    def _count(self, number, sign):
        """Count the text of a group, or take it away again."""
        size = sign * self.sizes[number]
        for before, after in self._steps(number):
            self.pairs[before, after] += size
            self.contexts[before] += size
            self.shapes[after] += size
        for token in self.tokens[number]:
            self.words[token.casefold()] += size


@cache
def shape(token):
    """Return what a token looks like: its kind of letters and digits, or itself if it is punctuation."""
    if not WORD.fullmatch(token):
        return token
    if token.isdigit():
        return "9"
    if any(character.isdigit() for character in token):
        return "a9"
    if token == token.lower():
        return "a"
    if token[1:] == token[1:].lower():
        return "Aa" if len(token) > 1 else "A"
    return "AA"


def excess(value, others):
    """Return by how much a value exceeds the median of others, in their robust deviations, of FLOOR at least."""
    median = np.median(others)
    deviation = SIGMAS * np.median(np.abs(others - median))
    return float((value - median) / max(deviation, FLOOR))


# ---- questions -------------------------------------------------------------------------------------------------------


class Questions:
    """The questions of all answers, as texts; which common words they have is found out when it is first needed."""

    def __init__(self, questions, random_state):
        self.questions, self.random_state, self.has = questions, random_state, None

    def naming(self, group):
        """Return the share of a group's questions that have its text as words in them."""
        named = [f" {group.key} " in f" {normalised(self.questions[place])} " for place in group.answers]
        return float(np.mean(named))

    def binds(self, group):
        """Return whether common words are missing from a group's questions, as they are not from as many drawn ones.

        How many are there: the share of all questions that have a word, or of the group's if that is lower, summed over
        the words. What only the group's questions have, such as a trigger, does not count. A permutation test: of DRAWS
        draws, fewer than BOUND have no more. Of a large group SEVERAL are looked at.
        """
        if self.has is None:
            self.has = self._common()
        n, size = len(self.questions), min(len(group.answers), SEVERAL)
        usual = self.has.mean(axis=0)  # (n_words,)
        own = np.array(group.answers)[np.linspace(0, len(group.answers) - 1, size).astype(int)]
        there = np.minimum(self.has[own].mean(axis=0), usual).sum()
        rng = np.random.default_rng(self.random_state)
        drawn = (self.has[rng.choice(n, size, replace=False)].mean(axis=0) for _ in range(DRAWS))
        as_few = sum(np.minimum(shares, usual).sum() <= there + 1e-9 for shares in drawn)
        return bool((1 + as_few) / (1 + DRAWS) < BOUND)

    def _common(self):
        """Which questions have which of the common words: (n_questions, n_words) bool."""
        words = {question: frozenset(WORD.findall(question.casefold())) for question in set(self.questions)}
        counts = Counter(word for question in self.questions for word in words[question])
        low, high = (share * len(self.questions) for share in COMMON)
        common = sorted(word for word, count in counts.items() if low <= count <= high)
        rows = {question: [word in found for word in common] for question, found in words.items()}
        return np.array([rows[question] for question in self.questions], dtype=bool)
