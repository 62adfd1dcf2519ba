"""Equal and near-equal answers."""

import re
from collections import defaultdict

WORD = re.compile(r"\w+")
SHORTEST, LONGEST = (
    8,
    100,
)  # characters of texts in which one more or less is a slip, not another word, and cheap to find


def normalised(text):
    """Return a text without what does not count: case, blanks, punctuation (of a text with words)."""
    return " ".join(WORD.findall(text.casefold())) or "".join(text.split())


def group(answers):
    """Return the groups of texts, [(key, places), ...]: the normalised text of most, and where they are, ascending.

    The largest group is the first, of equally large ones the first to occur.

    A repeated text takes those to it that are equal to it after one character is left out of each or the words are
    sorted, if they are not in a larger group.
    """
    places = defaultdict(list)
    for place, text in enumerate(answers):
        places[normalised(text)].append(place)
    owners, members = {}, {}
    for key in sorted(places, key=lambda key: -len(places[key])):  # stable: in the order of the answers
        forms = variants(key)
        owner = next((owners[form] for form in forms if form in owners), key)
        members.setdefault(owner, []).extend(places[key])
        if owner == key and len(places[key]) > 1:
            owners |= dict.fromkeys(forms, key)
    groups = [(key, sorted(found)) for key, found in members.items()]
    return sorted(groups, key=lambda each: (-len(each[1]), each[1][0]))


def variants(key):
    """Return the forms of which near-equal texts share one: the text, its words in order, one character left out."""
    if len(key) < SHORTEST:
        return [key]
    left_out = range(len(key)) if len(key) <= LONGEST else []
    return [key, " ".join(sorted(key.split())), *(key[:i] + key[i + 1 :] for i in left_out)]
