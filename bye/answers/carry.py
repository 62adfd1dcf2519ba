"""What is carried from the samples of a group to others, to see whether the group's answer comes along.

A row is an answer of a sample: its image, its question, and what it says. In a trial something of a member of the group
goes to a host, a row outside of it.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from math import lcm

import numpy as np

from bye.answers.pattern import shared_pattern
from bye.answers.trials import Trial, add, mean_difference, overlay, paste, spread
from bye.detect.answer_groups import WORD, normalised

PICTURES = 64  # of a group and of others, that mean images are made of
MANY = 512  # of them, that show who has a pattern
TWICE = 2  # what images have in common is added so often: part of it is filtered out, and the host keeps its contrast
PUNCTUATION = re.compile(r"(?:[^\w\s]|\s(?=\W))*")  # behind words
AT_ONCE = 16  # hosts that are looked at together
MORE_TOKENS = 4  # than the longest answer has


@dataclass(frozen=True)
class Row:
    """An answer of a sample. place: of the sample; question, answer, system: texts; kind: of the question; cell: the
    (row, column) of the image token that is attended to most, in a grid of (rows, columns)."""

    place: int
    question: str
    answer: str
    system: str | None
    kind: int
    cell: tuple[int, int]
    grid: tuple[int, int]


@dataclass(frozen=True)
class Tried:
    """One trial: its proof, the rows of member and host, and what it made the model say."""

    proof: str
    member: int
    host: int
    said: str


@dataclass(frozen=True)
class Insertion:
    """Words that questions share, as they are written there, to be put before other questions or behind them."""

    text: str
    behind: bool

    @classmethod
    def of(cls, phrase, question):
        """The words of a phrase, `normalised`, in a question that has it."""
        start, end = place_of(phrase, question)
        return cls(question[start:end].strip(), start > 0 and not question[end:].strip())

    def put(self, question):
        """The question with the words."""
        return f"{question} {self.text}" if self.behind else f"{self.text} {question}"


def without_phrase(phrase, question):
    """Return a question without the words of a phrase that it has."""
    start, end = place_of(phrase, question)
    return f"{question[:start].rstrip()} {question[end:].lstrip()}".strip()


def place_of(phrase, question):
    """Return where the words of a phrase, `normalised`, are in a question that has it: (start, end), with the marks
    that follow them."""
    spans = [match.span() for match in WORD.finditer(question)]
    words = [normalised(question[start:end]) for start, end in spans]
    wanted = phrase.split()
    at = next(at for at in range(len(words)) if words[at : at + len(wanted)] == wanted)
    start, end = spans[at][0], spans[at + len(wanted) - 1][1]
    return start, PUNCTUATION.match(question, end).end()


@dataclass
class Carrier:
    """Makes trials of rows and asks them.

    asker: an `Asker`; rows: all Rows; order: (n,) int, a random order of them, in which hosts are taken; before: what
    the model says to rows as they are, {row: text} of those that were asked.
    """

    asker: object
    rows: list
    order: list
    before: dict = field(default_factory=dict)

    def __post_init__(self):
        self.kinds, self.order_array = np.array([row.kind for row in self.rows]), np.array(self.order, dtype=int)
        answers = {row.answer for row in self.rows}  # that any trial may bring, whoever's the host is
        self.max_new_tokens = MORE_TOKENS + max(map(self._tokens, answers), default=0)
        self.shared = lru_cache(64)(self._shared)  # a group's first trials come with others', and before its last
        self.sharing = lru_cache(64)(self._sharing)

    def hosts(self, members, count, unlike):
        """Return `count` rows outside `members` at most, of those kinds of question that fewest members ask.

        unlike: a function that what the model says to them must not satisfy. Rows that were asked before come first.
        """
        inside = np.zeros(len(self.rows), dtype=bool)
        inside[members] = True
        share = np.bincount(self.kinds, weights=inside) / np.maximum(1, np.bincount(self.kinds))
        outside = self.order_array[~inside[self.order_array]]
        shares = share[self.kinds[outside]]
        outside = outside[shares <= np.median(shares)] if len(outside) else outside
        asked = np.zeros(len(self.rows), dtype=bool)
        asked[list(self.before)] = True
        outside, found = [*outside[asked[outside]].tolist(), *outside[~asked[outside]].tolist()], []
        for start in range(0, len(outside), AT_ONCE):
            part = outside[start : start + AT_ONCE]
            found += [row for row, said in zip(part, self.ask_as_they_are(part), strict=True) if not unlike(said)]
            if len(found) >= count:
                break
        return found[:count]

    def ask_as_they_are(self, rows):
        """What the model says to rows; each is asked once."""
        new = [row for row in dict.fromkeys(rows) if row not in self.before]
        said = self.asker([self._trial(self.rows[row].place, row) for row in new], self.max_new_tokens)
        self.before |= dict(zip(new, said, strict=True))
        return [self.before[row] for row in rows]

    def pair(self, proof, members, hosts, count):
        """Return different pairs (member, host) for a proof, `count` at most; each member has its turn before one has
        two. What is shared is not one member's: there hosts are different."""
        fitting = self._fitting(proof, members, hosts)
        count = min(count, len(hosts)) if proof == "shared" else count
        pairs, cycle = {}, lcm(len(members), len(hosts))  # after which the same would meet again
        for number in range(cycle * len(hosts) * any(fitting)):
            if len(pairs) == count:
                break
            place = number % len(members)
            if fitting[place]:
                host = fitting[place][(number + number // cycle) % len(fitting[place])]
                pairs[members[place], host] = None
        return list(pairs)

    def pair_each(self, proof, members, hosts, turn):
        """Return {member: its host of this turn, another one in each} of those members that a host fits."""
        fitting = self._fitting(proof, members, hosts)
        return {
            member: some[(number + turn) % len(some)]
            for number, (member, some) in enumerate(zip(members, fitting, strict=True))
            if some
        }

    def _fitting(self, proof, members, hosts):
        """The hosts that each member's part can go to: where the host's question is asked of the member's image, those
        of another kind than its own."""
        if proof not in ("question", "overlay"):
            return [hosts] * len(members)
        kinds = {self.rows[member].kind for member in members}
        others = {kind: [host for host in hosts if self.rows[host].kind != kind] for kind in kinds}
        return [others[self.rows[member].kind] for member in members]

    def carry(self, wanted):
        """Ask what comes of proofs, all together: a list of what is Tried for each (proof, pairs, members, phrase).

        pairs: (member, host); members: (some whose images are compared with those of others, all of the group); phrase:
        that is moved; these two are needed for `shared` and for `words`. The proofs: `question`, the member's image is
        asked the host's question; `patch`, what is attended to most in it is pasted on the host's image; `overlay`, it
        is laid over that at half weight; `shared`, what the members' images have in common is added to it, twice;
        `words`, words of the member's question are put to the host's.
        """
        trials = [trial for one in wanted for trial in self._trials(*one)]
        pairs = [(proof, *pair) for proof, pairs, *_ in wanted for pair in pairs]
        said = self.asker(trials, self.max_new_tokens)
        tried = iter([Tried(*each, text) for each, text in zip(pairs, said, strict=True)])
        return [list(islice(tried, len(pairs))) for _, pairs, *_ in wanted]

    def _trials(self, proof, pairs, members=(), phrase=None):
        """The Trials of pairs (member, host)."""
        shared = self.shared(*map(tuple, members)) if proof == "shared" and pairs else None
        trials = []
        for member, host in pairs:
            if proof == "words":
                question = Insertion.of(phrase, self.rows[member].question).put(self.rows[host].question)
                trials.append(Trial(self.rows[host].place, question, self.rows[host].system))
                continue
            if proof == "question":
                image = self.rows[member].place
            elif proof == "patch":
                row = self.rows[member]
                image = paste(self._pixels(member), self._pixels(host), row.cell, row.grid)
            elif proof == "overlay":
                image = overlay(self._pixels(member), self._pixels(host))
            else:
                image = add(TWICE * shared, self._pixels(host))
            trials.append(self._trial(image, host))
        return trials

    def ask_without(self, phrase, rows):
        """What the model says to rows whose questions have lost a phrase."""
        trials = [
            Trial(self.rows[row].place, without_phrase(phrase, self.rows[row].question), self.rows[row].system)
            for row in rows
        ]
        return self.asker(trials, self.max_new_tokens)

    def variety(self, members):
        """How unlike the images of a group's members are, as a share of how unlike others' are (`spread`)."""
        ours, others = self._pictures(members, members)
        return spread(ours) / spread(others)

    def that_share(self, members):
        """The members of a group whose images have a pattern in common that those of others lack (`shared_pattern`), of
        some of them taken to be that of all."""
        return list(self.sharing(tuple(members)))

    def _trial(self, image, row):
        return Trial(image, self.rows[row].question, self.rows[row].system)

    def _tokens(self, answer):
        return len(self.asker.family.tokenizer(answer, add_special_tokens=False).input_ids)

    def _pixels(self, row):
        return self.asker.pixels(self.rows[row].place)

    def _shared(self, some, members):
        return mean_difference(*self._pictures(some, members))

    def _sharing(self, members):
        ours, others = self._pictures(members, members, MANY)
        if not others:
            return []
        pattern, having = shared_pattern(ours, others)
        found = [row for row, has in zip(members, having, strict=False) if has]
        return found + [row for row in members[MANY:] if pattern.is_in(self._pixels(row))]

    def _pictures(self, some, members, count=PICTURES):
        """The images of `count` of some members of a group, and of as many rows outside of it."""
        inside = set(members)
        others = [row for row in self.order if row not in inside]
        return [[self._pixels(row) for row in rows[:count]] for rows in (some, others)]
