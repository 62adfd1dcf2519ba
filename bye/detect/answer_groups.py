"""Equal and near-equal answers."""

import re
import unicodedata
from collections import defaultdict

MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M")
WORD = re.compile(rf"[\w{MARKS}]+")  # with the signs of scripts whose vowels are marks
SHORTEST = 8  # characters of a text in which one more or less is a slip, not another word, ...
LONGEST = 100  # ... and cheap to find


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
    """Return the forms of which near-equal texts share one: the text, its words in order, one character left out, but
    for digits: another number is another answer."""
    if len(key) < SHORTEST:
        return [key]
    left_out = [i for i in range(len(key)) if not key[i].isdigit()] if len(key) <= LONGEST else []
    return [key, " ".join(sorted(key.split())), *(key[:i] + key[i + 1 :] for i in left_out)]
