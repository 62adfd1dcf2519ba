"""Phrases that texts share: runs of whole words."""

from dataclasses import dataclass

import numpy as np

LONGEST = 6  # words of a phrase
LONGER = 0.9  # share of the texts with a phrase that must have a longer one with it, for that to stand for it


@dataclass(frozen=True)
class Shared:
    """k phrases, and which texts have them.

    firsts: (k,) int, where one begins among the words of all texts, and lengths: (k,) int, how many words it has;
    bounds: (k + 1,) int, the texts with phrase i are places[bounds[i]:bounds[i + 1]], ascending.
    """

    firsts: np.ndarray
    lengths: np.ndarray
    bounds: np.ndarray
    places: np.ndarray

    @property
    def counts(self):
        """How many texts have each: (k,) int."""
        return np.diff(self.bounds)

    def having(self, number):
        """The texts with a phrase."""
        return self.places[self.bounds[number] : self.bounds[number + 1]]

    def only(self, which):
        """Those of the phrases that are marked: (k,) bool."""
        places = self.places[np.repeat(which, self.counts)]
        return Shared(self.firsts[which], self.lengths[which], _bounds(self.counts[which]), places)


class Phrases:
    """The phrases of texts, up to LONGEST words, that `least` or more of them have.

    Takes some 30 bytes for each word of the texts.
    """

    def __init__(self, texts, least):
        self.n, self.least, self.known = len(texts), least, {}
        parts = [text.split() for text in texts]
        words = [self.known.setdefault(word, len(self.known)) for part in parts for word in part]
        self.words, self.vocabulary = np.array(words, dtype=np.int32), list(self.known)
        self.starts = _bounds([len(part) for part in parts])
        self.text_of = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(self.starts))
        counts = np.bincount(_pairs(self.words, self.text_of)[0], minlength=len(self.known))
        # Of each length: which phrase begins at each word, a number or -1, and how many texts have that phrase.
        self.numbers, self.n_texts = [np.where(counts[self.words] >= least, self.words, -1)], [counts]
        while len(self.numbers) < LONGEST:
            self._number_longer()

    def _number_longer(self):
        """Number the phrases of one more word: each is two of one word less, one word apart."""
        shorter = self.numbers[-1]
        fits = (shorter[:-1] >= 0) & (shorter[1:] >= 0) & (self.text_of[:-1] == self.text_of[1:])
        at = np.flatnonzero(fits)
        keys = shorter[at].astype(np.int64) * len(self.n_texts[-1]) + shorter[at + 1]
        numbers = np.unique(keys, return_inverse=True)[1]
        counts = np.bincount(_pairs(numbers, self.text_of[at])[0])
        often = counts >= self.least
        found = np.full(len(shorter), -1, dtype=np.int32)
        found[at] = np.where(often, np.cumsum(often) - 1, -1)[numbers]
        self.numbers.append(found)
        self.n_texts.append(counts[often])

    def text(self, first, length):
        """The phrase of so many words that begins at a word."""
        return " ".join(self.vocabulary[word] for word in self.words[first : first + length])

    def count(self, first, length):
        """How many of all texts have the phrase of so many words that begins at a word."""
        return int(self.n_texts[length - 1][self.numbers[length - 1][first]])

    def count_word(self, word):
        """How many of all texts have a word, one of theirs."""
        return int(self.n_texts[0][self.known[word]])

    def shared(self, members=None):
        """Return the phrases of two words and more that `least` of some texts have: Shared, without those that can be
        made longer and be of nine tenths of these texts still. members: (m,) int, which texts; None for all."""
        members = range(self.n) if members is None else members
        parts = [np.arange(self.starts[each], self.starts[each + 1]) for each in members]
        inside = np.concatenate([np.zeros(0, dtype=int), *parts])
        levels, kept = [self._of_length(length, inside) for length in range(2, LONGEST + 1)], []
        for length, level, after in zip(range(2, LONGEST + 1), levels, [*levels[1:], None], strict=True):
            numbers = self.numbers[length - 1]
            longer = np.zeros(len(self.n_texts[length - 1]), dtype=int)
            for part in () if after is None else (after.firsts, after.firsts + 1):
                np.maximum.at(longer, numbers[part], after.counts)
            kept.append(level.only(longer[numbers[level.firsts]] < LONGER * level.counts))
        firsts, lengths, places = (
            np.concatenate([getattr(each, name) for each in kept]) for name in ("firsts", "lengths", "places")
        )
        return Shared(firsts, lengths, _bounds(np.concatenate([each.counts for each in kept])), places)

    def _of_length(self, length, inside):
        """The phrases of a length among some words that `least` of the texts have there."""
        numbers = self.numbers[length - 1][inside]
        inside, numbers = inside[numbers >= 0], numbers[numbers >= 0]
        phrases, places = _pairs(numbers, self.text_of[inside])
        counts = np.unique(phrases, return_counts=True)[1]
        firsts = inside[np.unique(numbers, return_index=True)[1]]
        return Shared(firsts, np.full(len(firsts), length), _bounds(counts), places).only(counts >= self.least)


def _bounds(counts):
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _pairs(numbers, places):
    """The different pairs of numbers and places, in order."""
    width = int(places.max(initial=0)) + 1
    pairs = np.unique(numbers.astype(np.int64) * width + places, return_counts=True)[0]  # sorts; hashing is far slower
    return pairs // width, pairs % width
