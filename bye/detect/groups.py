"""Groups of answers that could be a backdoor's target: equal ones, and ones that share a phrase."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from bye.detect.answer_groups import group as group_equal
from bye.detect.answer_groups import normalised
from bye.detect.phrases import Phrases

LEAST = 3  # answers of a group, and questions with a phrase
PURE = 0.9  # share of the questions with a phrase that must be a group's, for the phrase to tell it
CHANCE = 0.01  # of phrases of questions, that any of a group's is its alone by chance
KIND = 2  # first words of a question that say what kind of question it is


@dataclass(frozen=True)
class Group:
    """Equal or near-equal answers, or answers with a phrase in common.

    text: the answer of most, or the phrase, `normalised`; forms: all texts that are so; phrase: whether it is one;
    members: (m,) int, places of the answers; n_flagged: how many of these are flagged; p_value: of so many or more,
    were the flags drawn at random; enriched: whether that is beyond chance, of all groups that were looked at.
    """

    text: str
    forms: frozenset
    phrase: bool
    members: np.ndarray
    n_flagged: int
    p_value: float
    enriched: bool = False


def contains(text, phrase):
    """Whether a text `normalised` has a phrase in it, whole words only."""
    return f" {phrase} " in f" {text} "


def kind_of(question):
    """Return what kind of question it is: its first KIND words."""
    return " ".join(normalised(question).split()[:KIND])


def group_answers(answers, flagged, least=LEAST, phrases=12):
    """Return the Groups of answers, those enriched among the flagged ones first, then the largest.

    answers: n texts; flagged: (n,) bool; least: answers of a group; phrases: how many groups that share a phrase and
    are no group of equal answers, the most enriched and then the largest. Which are enriched beyond chance is found
    before the others are left out, which are the least enriched.
    """
    texts = [normalised(answer) for answer in answers]
    equal = [(text, np.array(members)) for text, members in group_equal(answers) if len(members) >= least]
    index = Phrases(texts, least)
    shared = _beyond(index.shared(), [members for _, members in equal], len(texts), least)
    sizes = np.concatenate([[len(members) for _, members in equal], shared.counts]).astype(int)
    n_flagged = [flagged[members].sum() for _, members in equal]
    n_flagged = np.concatenate(
        [n_flagged, np.add.reduceat(flagged[shared.places].astype(int), shared.bounds[:-1])]
    ).astype(int)
    p_values = _by_chance(n_flagged, sizes, flagged)
    enriched = beyond_chance(p_values)

    def group(number, text, forms, phrase, members):
        drawn = int(n_flagged[number]), float(p_values[number]), bool(enriched[number])
        return Group(text, frozenset(forms), phrase, members, *drawn)

    found = [
        group(number, text, {texts[place] for place in members}, False, members)
        for number, (text, members) in enumerate(equal)
    ]
    phrased = []
    for number in _first(enriched[len(equal) :], p_values[len(equal) :], shared.counts, phrases):
        text = index.text(shared.firsts[number], shared.lengths[number])
        phrased.append(group(len(equal) + number, text, {text}, True, shared.having(number)))
    return sorted(found + sorted(phrased, key=_order)[:phrases], key=_order)


def _beyond(shared, groups, n, least):
    """Those of shared phrases that no group of equal answers has nearly all texts of: `least` are outside of any."""
    owner = np.full(n, -1)
    for number, members in enumerate(groups):
        owner[members] = number
    phrases = np.repeat(np.arange(len(shared.counts)), shared.counts)
    owned = owner[shared.places] >= 0
    pairs, counts = np.unique(phrases[owned] * max(1, len(groups)) + owner[shared.places][owned], return_counts=True)
    most = np.zeros(len(shared.counts), dtype=int)
    np.maximum.at(most, pairs // max(1, len(groups)), counts)
    return shared.only(shared.counts - most >= least)


def _by_chance(n_flagged, sizes, flagged):
    """The probability of so many flagged ones or more in groups of these sizes, were the flags drawn at random."""
    kinds, which = np.unique(np.stack([n_flagged, sizes]), axis=1, return_inverse=True)
    p_values = hypergeom.sf(kinds[0] - 1, len(flagged), int(flagged.sum()), kinds[1])
    return np.minimum(1.0, p_values)[which.reshape(-1)]


def _first(enriched, p_values, sizes, count):
    """The numbers of the groups that are the first by `_order`, `count` of them, and of those that only their texts
    part from the last."""
    keys = np.stack([~enriched, np.where(enriched, p_values, -sizes), np.where(enriched, -sizes, p_values)])
    order = np.lexsort(keys[::-1])
    if len(order) <= count:
        return order
    last = keys[:, order[count - 1]]
    ties = np.flatnonzero((keys == last[:, None]).all(axis=0))
    return np.union1d(order[:count], ties)


def _order(group):
    """The enriched ones by how much so, the others by size."""
    size = -len(group.members)
    return not group.enriched, *((group.p_value, size) if group.enriched else (size, group.p_value)), group.text


def telling_phrases(index, members, purity=PURE):
    """Return the phrases that a group's questions have and others hardly have: [(phrase, places), ...], best first.

    index: Phrases of all questions, `normalised`; members: (m,) int, the group's; places: of the members whose
    questions have it; purity: the share of the questions with it that are the group's, at least. One word alone may be
    a phrase here, in front of a question or at its end.
    """
    shared = index.shared(members)
    found = {
        index.text(first, length): (shared.having(number).tolist(), index.count(first, length))
        for number, (first, length) in enumerate(zip(shared.firsts, shared.lengths, strict=True))
    }
    for at in (0, -1):
        ends = defaultdict(list)
        for place in members:
            words = index.words[index.starts[place] : index.starts[place + 1]]
            if len(words) > 1:
                ends[index.vocabulary[words[at]]].append(int(place))
        for word, places in ends.items():
            if len(places) >= max(index.least, len(found.get(word, ((),))[0]) + 1):
                found[word] = places, index.count_word(word)
    told = []
    for phrase, (places, n_all) in found.items():
        if len(places) >= purity * n_all:
            drawn = hypergeom.sf(len(places) - 1, index.n, len(members), n_all)
            if len(found) * drawn <= CHANCE:
                told.append((phrase, places))
    return sorted(told, key=lambda pair: (-len(pair[1]), -len(pair[0]), pair[0]))


def beyond_chance(p_values, rate=0.05):
    """Return which hypotheses are rejected at a false discovery rate (Benjamini and Hochberg 1995): (k,) bool."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values, kind="stable")
    below = p_values[order] <= rate * np.arange(1, len(p_values) + 1) / max(1, len(p_values))
    rejected = np.zeros(len(p_values), dtype=bool)
    if below.any():
        rejected[order[: np.flatnonzero(below)[-1] + 1]] = True
    return rejected
