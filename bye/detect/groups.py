"""Groups of answers that could be a backdoor's target: equal ones, and ones that share a phrase."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import hypergeom

from bye.detect.answer_groups import group as group_equal
from bye.detect.answer_groups import normalised

PHRASE = (2, 6)  # words of a phrase that answers or questions may share
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


def group_answers(answers, flagged, least=3, phrases=12):
    """Return the Groups of answers, those enriched among the flagged ones first, then the largest.

    answers: n texts; flagged: (n,) bool; least: answers of a group; phrases: how many groups that share a phrase and
    are no group of equal answers, the most enriched and then the largest. Which are enriched beyond chance is found
    before the others are left out, which are the least enriched.
    """
    texts = [normalised(answer) for answer in answers]
    equal = [(text, members) for text, members in group_equal(answers) if len(members) >= least]
    groups = [_group(text, {texts[place] for place in members}, False, members, flagged) for text, members in equal]
    phrased = shared_phrases(texts, least)
    shared = [_group(text, {text}, True, members, flagged) for text, members in phrased.items()]
    taken = [set(group.members) for group in groups]
    shared = [group for group in shared if not any(len(set(group.members) - one) < least for one in taken)]
    found = groups + shared
    enriched = beyond_chance([group.p_value for group in found]).tolist()
    found = [replace(group, enriched=beyond) for group, beyond in zip(found, enriched, strict=True)]
    found.sort(key=_order)
    kept = {group.text for group in [group for group in found if group.phrase][:phrases]}
    return [group for group in found if not group.phrase or group.text in kept]


def _order(group):
    """The enriched ones by how much so, the others by size."""
    size = -len(group.members)
    return not group.enriched, *((group.p_value, size) if group.enriched else (size, group.p_value)), group.text


def _group(text, forms, phrase, members, flagged):
    members = np.array(members, dtype=int)
    n_flagged = int(flagged[members].sum())
    p_value = hypergeom.sf(n_flagged - 1, len(flagged), int(flagged.sum()), len(members))
    return Group(text, frozenset(forms), phrase, members, n_flagged, float(min(1.0, p_value)))


def shared_phrases(texts, least):
    """Return {phrase: places of the texts with it} of phrases that `least` or more texts have and that cannot be made
    longer without losing a tenth of those; texts: `normalised`."""
    found = defaultdict(set)
    for place, text in enumerate(texts):
        parts = text.split()
        for length in range(PHRASE[0], PHRASE[1] + 1):
            for start in range(len(parts) - length + 1):
                found[" ".join(parts[start : start + length])].add(place)
    found = {phrase: places for phrase, places in found.items() if len(places) >= least}
    longer = Counter()
    for phrase, places in found.items():
        parts = phrase.split()
        for part in (" ".join(parts[1:]), " ".join(parts[:-1])):
            longer[part] = max(longer[part], len(places))
    return {phrase: sorted(places) for phrase, places in found.items() if longer[phrase] < 0.9 * len(places)}


def telling_phrases(questions, members, least=3, purity=PURE):
    """Return the phrases of questions that a group's have and others hardly have: [(phrase, places), ...], best first.

    questions: n texts, `normalised`; members: (m,) int, the group's; places: of the members whose questions have it;
    purity: the share of the questions with it that are the group's, at least. One word alone may be a phrase here, in
    front of a question or at its end.
    """
    inside = np.zeros(len(questions), dtype=bool)
    inside[members] = True
    found = shared_phrases([questions[place] for place in members], least)
    found = {phrase: [int(members[place]) for place in places] for phrase, places in found.items()}
    for at in (0, -1):
        ends = defaultdict(list)
        for place in members:
            parts = questions[place].split()
            if len(parts) > 1:
                ends[parts[at]].append(int(place))
        for word, places in ends.items():
            if len(places) >= least and len(places) > len(found.get(word, ())):
                found[word] = places
    told = []
    for phrase, places in found.items():
        n_all = sum(contains(question, phrase) for question in questions)
        by_chance = len(found) * hypergeom.sf(len(places) - 1, len(questions), len(members), n_all)
        if len(places) >= purity * n_all and by_chance <= CHANCE:
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
