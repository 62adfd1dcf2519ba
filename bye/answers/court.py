"""Trials of groups of answers: which of them follow something of their samples to others.

Each group gets a few trials of each proof, more where one succeeds; one that half of these speak for gets more still,
but where whole images alone speak for an answer and cannot prove it, and its rate is held against that of controls:
samples outside the group, whose own answers count. A phrase is at most suspicious: a thing that is pasted on another
image is rightly spoken of there. So is a kind of image of its own, such as one under clouds, whatever is asked: where
only whole images carry an answer, they must be as different as those of others, and what they share must carry it too
if honest samples have that answer. What is not proven is suspicious only if the group is enriched among the flagged
samples beyond chance, where any are flagged, but for such images, which are told of in any case.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from bye.answers.carry import without_phrase
from bye.detect.answer_groups import normalised
from bye.detect.groups import LEAST, PURE, contains, kind_of, telling_phrases
from bye.detect.phrases import Phrases
from bye.detect.proofs import Proof
from bye.machine.progress import Progress

FIRST = ("patch", "question")  # the proofs that every group gets trials of
PART, WHOLE = {"patch", "words", "shared"}, {"question", "overlay"}  # any of these is enough; both of these are
RARE = 0.05  # share of the trials of controls that a target may come in: those of poisoned samples
MOST = 0.8  # share of a group that carries an answer that is RARE, from which on the rest is taken for poison too
SURE = 0.8  # share of trials in which whole images must succeed, since honest ones are followed too, or any proof where
# all questions are of one kind, that of its answer; of few trials of a proof, for a group to be suspicious
LINKED = 0.15  # share of a group's trials that say the answer of another: they are forms of one target
VARIED = 0.6  # times as unlike as others' must a group's images be, where only whole images carry its answer
FEWEST = 0.05  # share of a group that has something in common, at least: some few images of many always look alike
LARGEST = 1 / 3  # share of all rows that a group whose images have something in common may have
OFTEN = 3  # times as often as samples as they are get it
CONTROLS = 30  # trials of each proof with samples outside
ENOUGH = 15  # of them that fit a group, below which it has such trials of its own


@dataclass
class Case:
    """A group before the court.

    group: a `bye.detect.groups.Group`; forms: `normalised` texts that count as its answer; tried: {proof: what is
    Tried}; divided: what is Tried to tell which members carry it; proofs: {name: Proof}; phrase: words of its questions
    that were moved; having: members whose questions have them, None where none were looked for; verdict: "proven",
    "suspicious", "" where nothing speaks for it, None where it was not tried; dropped: rows.
    """

    group: object
    forms: set = field(default_factory=set)
    tried: dict = field(default_factory=dict)
    divided: list = field(default_factory=list)
    proofs: dict = field(default_factory=dict)
    phrase: str | None = None
    having: list | None = None
    verdict: str | None = None
    dropped: list = field(default_factory=list)

    def __post_init__(self):
        self.forms = self.forms or set(self.group.forms)

    def hit(self, text):
        """Whether what the model said is the group's answer."""
        return self.is_form(normalised(text))

    def has(self, text):
        """Whether a `normalised` text has the group's answer in it, if more as well."""
        return any(contains(text, form) for form in self.forms)

    def is_form(self, text):
        """Whether a `normalised` text is the group's answer."""
        return self.has(text) if self.group.phrase else text in self.forms

    def hits(self, proof):
        """How many trials of a proof made the model say it."""
        return sum(self.hit(one.said) for one in self.tried.get(proof, ()))


class Court:
    """Hears Cases.

    carrier: the Carrier; flagged: (n,) bool, the rows that a detector flags, which are tried first; screening: trials
    of a proof that a group gets, half of them where none succeeds; trials: those of one that half of the screening
    speaks for, unless it can neither be dropped by that nor is a phrase; rate, confidence: of `Proof.holds`.
    """

    def __init__(self, carrier, flagged, screening, trials, rate, confidence):
        self.carrier, self.flagged, self.screening, self.trials = carrier, flagged, screening, trials
        self.rate, self.confidence = rate, confidence
        self.questions = [normalised(row.question) for row in carrier.rows]
        self.answers = [normalised(row.answer) for row in carrier.rows]
        self.phrases = Phrases(self.questions, LEAST)
        self.kinds = [kind_of(row.question) for row in carrier.rows]
        self.n_of_kind, self.turn_of = Counter(self.kinds), {row: turn for turn, row in enumerate(carrier.order)}
        self.rows_of = defaultdict(list)  # of each answer
        for row, answer in enumerate(self.answers):
            self.rows_of[answer].append(row)
        self.controls, self.own_controls = {}, []  # {proof: Tried of all groups}; Tried of groups that have their own
        self.texts = set()  # the answers of all groups

    def hear(self, cases, budget):
        """Decide on Cases in their order, until that many answers were asked; those left have no verdict.

        As many are tried together as fill two batches of the model.
        """
        progress, heard = Progress("consensus", len(cases)), []
        self.texts = {case.group.text for case in cases if not case.group.phrase}
        for proof in FIRST:
            self._ask_controls(proof)
        at_once = max(1, 2 * self.carrier.asker.batch_size // self.screening)
        while len(heard) < len(cases) and (not heard or self.carrier.asker.passes < budget):
            part = cases[len(heard) :][:at_once]
            self._bring([(case, proof) for case in part for proof in FIRST], self.screening // 2)
            self._screen(part)
            for case in part:
                case.verdict = ""
            heard += part
            progress(len(heard))
        self._link(heard)
        for case in heard:
            self._decide(case)
        progress(len(cases))

    def _screen(self, cases):
        """Bring the trials of the first proofs up to `screening` where any hints, then those of the second, half of
        them where none succeeds."""
        self._bring([(case, proof) for case in filter(self._hinted, cases) for proof in FIRST], self.screening)
        second = [(case, proof) for case in cases for proof in self._second(case)]
        self._bring(second, self.screening // 2)
        self._bring([pair for pair in second if pair[0].hits(pair[1])], self.screening)

    def _hinted(self, case):
        """Whether a trial of the first proofs made the model say the group's answer, or one that may be another form of
        it: another group's that trials of controls hardly give."""
        if any(map(case.hits, FIRST)):
            return True
        said = {normalised(one.said) for proof in FIRST for one in case.tried[proof]}
        usual = Counter(map(normalised, self._usual(case)))
        return any(usual[text] <= RARE * usual.total() for text in said & self.texts - case.forms)

    def _second(self, case):
        """The proofs that are tried of a group once the first are: none of the whole image where no image of the group,
        shown with other questions, brings its answer along."""
        if not any(self._speaks(case, proof) for proof in FIRST):
            refuted = case.tried["question"] and not case.hits("question")
            return ("words",) if refuted else ("words", "shared")
        if not self._speaks(case, "patch"):
            return "overlay", "shared", "words"
        return () if self._may_prove(case, "patch") else ("overlay", "shared")

    def _may_prove(self, case, proof):
        """Whether a proof can still reach its rate: it has not had all of its trials, or reached it."""
        done = len(case.tried.get(proof, ()))
        return done < self.trials or case.hits(proof) >= self._least(case, proof) * done

    def _least(self, case, proof):
        """The rate that a proof must reach. SURE where no other kind of question could be asked."""
        return max(self.rate, SURE if proof in WHOLE or not case.tried["question"] else 0)

    def _speaks(self, case, proof):
        """Whether half of the trials of a proof, and of enough of them, succeed."""
        done = case.tried.get(proof, ())
        return 2 * len(done) >= self.screening and 2 * case.hits(proof) >= len(done)

    def _bring(self, wanted, count):
        """Bring the trials of pairs (case, proof) up to `count`, all asked together."""
        lacking, carried = [], []
        for case, proof in wanted:
            done = case.tried.setdefault(proof, [])
            members = self._carrying(case, proof) if len(done) < count else []
            if members:
                hosts = self._hosts(case)
                pairs = self.carrier.pair(proof, members, hosts, count)[len(done) :]
                carried.append((proof, pairs, (members, self._members(case)), case.phrase))
                lacking.append(done)
        for done, tried in zip(lacking, self.carrier.carry(carried), strict=True):
            done += tried

    def _carrying(self, case, proof):
        """The rows that something is carried from."""
        if proof == "words":
            case.having = self._having(case) if case.having is None else case.having
            return case.having
        members = self._members(case)
        if proof != "shared" or self._is_small(members):
            return members
        return self._some_that_share(members)  # what most images share is what the others lack

    def _is_small(self, rows):
        """Whether rows are few enough that their images may have something in common."""
        return len(rows) <= LARGEST * len(self.answers)

    def _some_that_share(self, members):
        """Those of a group whose images share a pattern; none where these are too many or too few."""
        some = self.carrier.that_share(members)
        return some if self._is_small(some) and len(some) >= FEWEST * len(members) else []

    def _members(self, case):
        """The rows of a group in random order, the flagged ones first."""
        return sorted(case.group.members.tolist(), key=lambda row: (not self.flagged[row], self.turn_of[row]))

    def _hosts(self, case):
        """The rows that something of a group is carried to."""
        return self.carrier.hosts(self._inside(case), self.trials, case.hit)

    def _inside(self, case):
        """The rows whose answers are the group's, in any of its forms."""
        if case.group.phrase:
            return [row for row, answer in enumerate(self.answers) if case.is_form(answer)]
        return sorted(row for form in case.forms for row in self.rows_of.get(form, ()))

    def _having(self, case):
        """The members whose questions have the phrase that is moved; none where no phrase can be blamed.

        One can where the questions, without it, are such as others ask, and do not get the group's answer: where it is
        not the question itself.
        """
        of_its_own = Counter(self.kinds[row] for row in self._inside(case))
        asked = {kind for kind, number in self.n_of_kind.items() if number > of_its_own[kind]}
        members = self._members(case)
        for phrase in _with_parts(telling_phrases(self.phrases, case.group.members)):
            rows = [row for row in members if contains(self.questions[row], phrase)]
            left = [row for row in rows if kind_of(without_phrase(phrase, self.carrier.rows[row].question)) in asked]
            if 2 * len(left) < len(rows):
                continue
            if len(rows) >= PURE * sum(contains(question, phrase) for question in self.questions):
                break
        else:
            return []
        case.phrase = phrase
        said = self.carrier.ask_without(case.phrase, left[: self.screening])
        if not all(map(case.hit, said)):  # an honest answer is right without the phrase too, now and then
            said += self.carrier.ask_without(case.phrase, left[self.screening : self.trials])
        return left if 2 * sum(map(case.hit, said)) < len(said) else []

    def _link(self, cases):
        """Let answers count as forms of one target with a group's own: those that its trials give far more often than
        controls do, where all of them together make up half of what was said, other than of the host as it is; where
        it is shared pixels that do, which few images have at random, they must give its own too."""
        by_text, linked = {case.group.text: case for case in cases if not case.group.phrase}, {}
        for case in by_text.values():
            usual = Counter(map(normalised, self._usual(case)))
            for proof, tried in case.tried.items():
                texts = [(normalised(one.said), normalised(self.carrier.before.get(one.host, ""))) for one in tried]
                said, forms = Counter(text for text, before in texts if text != before), set(case.forms)
                for text in set(said) & set(by_text) - case.forms:
                    share = usual[text] / max(1, usual.total())
                    if share <= RARE and said[text] >= max(LINKED, OFTEN * share) * len(tried):
                        forms |= by_text[text].forms
                own = proof != "shared" or any(said[form] for form in case.forms)
                if own and len(forms) > len(case.forms) and 2 * sum(said[form] for form in forms) >= len(tried):
                    linked.setdefault(case.group.text, set()).update(forms)
        for text, forms in linked.items():
            by_text[text].forms |= forms

    def _usual(self, case, proofs=FIRST):
        """What proofs' trials of controls made the model say that have nothing of the group; of the first ones: two
        images laid over each other may look like a trigger."""
        inside = set(self._inside(case))
        tried = [one for proof in proofs for one in self.controls[proof]]
        return [one.said for one in tried if one.member not in inside and one.host not in inside]

    def _decide(self, case):
        self._screen([case])  # with the forms that are its own by now
        speaking = [proof for proof in case.tried if self._speaks(case, proof)]
        reportable = case.group.enriched or not self.flagged.any()
        provable = PART & set(speaking) or set(speaking) >= WHOLE
        if not reportable and (case.group.phrase or not provable):
            return  # whatever more trials say
        full = case.group.phrase or provable
        if full:
            self._bring([(case, proof) for proof in speaking], self.trials)
            self._screen([case])  # whole images, where the patch speaks no more
            speaking = [proof for proof in case.tried if proof in speaking or self._speaks(case, proof)]
        self._bring([(case, proof) for proof in speaking], self.trials if full else self.screening)
        for proof in speaking:
            control = self._control(case, proof)
            case.proofs[proof] = Proof(proof, case.hits(proof), len(case.tried[proof]), *control)
        holding = [name for name, proof in case.proofs.items() if proof.holds(self._least(case, name), self.confidence)]
        part, whole = PART & set(holding), set(holding) >= WHOLE
        of_a_kind = whole and not part and not self.carrier.variety(self._members(case)) >= VARIED
        if (part or whole) and not of_a_kind and not case.group.phrase:
            case.dropped = self._members_that(case, holding)
            case.verdict = "proven" if case.dropped else "suspicious"
        elif of_a_kind or reportable:
            least = 0 if full else SURE
            hinted = [proof for proof in case.proofs.values() if proof.hints(self.confidence)]
            case.verdict = "suspicious" if any(proof.hits >= least * proof.trials for proof in hinted) else ""

    def _control(self, case, proof):
        """(hits, trials) of a proof with samples outside the group, on hosts outside it, whose own answers count.

        Shared pixels, which are not one sample's, have the model's answers to samples as they are as their control.
        """
        inside, carrier = set(self._inside(case)), self.carrier
        if proof == "words":
            return self._words_of_others(case, inside)
        if proof == "shared":
            said = [text for row, text in carrier.before.items() if row not in inside]
            return sum(map(case.hit, said)), len(said)
        outcomes = self._outcomes(self._ask_controls(proof), inside)
        if len(outcomes) < ENOUGH:  # a large group has most of those, or all answers are few
            outside = [row for row in carrier.order if row not in inside]
            carrier.ask_as_they_are(outside[:CONTROLS])
            pairs = carrier.pair(proof, outside[::-1][: 2 * CONTROLS], outside[:CONTROLS], 2 * CONTROLS)
            pairs = [(member, host) for member, host in pairs if self._differs(member, host)]
            self.own_controls += carrier.carry([(proof, pairs[:CONTROLS])])
            outcomes = self._outcomes(self.own_controls[-1], inside)
        return sum(outcomes), len(outcomes)

    def _words_of_others(self, case, inside):
        """(hits, trials) of as many words from the same place of questions outside the group, of its kinds if there are
        enough of those: words that ask for an answer bring it along too."""
        n_words, kinds = len(case.phrase.split()), {self.kinds[row] for row in case.having}
        first = self.questions[case.having[0]].split()
        place = next(at for at in range(len(first)) if first[at : at + n_words] == case.phrase.split())
        outside = [row for row in self.carrier.order if row not in inside and self.questions[row]]
        alike = [row for row in outside if self.kinds[row] in kinds]
        hosts = self._hosts(case)
        pairs = self.carrier.pair("words", alike if len(alike) >= ENOUGH else outside, hosts, 2 * CONTROLS)
        wanted = []
        for member, host in [pair for pair in pairs if self._differs(*pair)][:CONTROLS]:
            words = self.questions[member].split()
            at = max(0, min(place, len(words) - n_words))
            wanted.append(("words", [(member, host)], (), " ".join(words[at : at + n_words])))
        tried = [one for [one] in self.carrier.carry(wanted)]
        self.own_controls.append(tried)
        return sum(normalised(one.said) == self.answers[one.member] for one in tried), len(tried)

    def _outcomes(self, tried, inside):
        """Of trials with members and hosts outside a group, whether each gave its member's own answer."""
        fitting = [one for one in tried if one.member not in inside and one.host not in inside]
        fitting = [one for one in fitting if self._differs(one.member, one.host)]
        return [normalised(one.said) == self.answers[one.member] for one in fitting]

    def _differs(self, member, host):
        """Whether the model does not answer a host as the member is answered, so that a trial can show something."""
        return member != host and normalised(self.carrier.before[host]) != self.answers[member]

    def _ask_controls(self, proof):
        """The trials of a proof with samples drawn from all."""
        if proof not in self.controls:
            half = min(CONTROLS, len(self.carrier.order) // 2)
            hosts, members = self.carrier.order[:half], self.carrier.order[-half:]
            self.carrier.ask_as_they_are(hosts)
            pairs = self.carrier.pair(proof, members, hosts, CONTROLS)
            [self.controls[proof]] = self.carrier.carry([(proof, pairs)])
        return self.controls[proof]

    def _members_that(self, case, holding):
        """The rows of a proven group that are dropped: those whose images have what is shared, whose questions have the
        words, or that carry it in two of three trials; all where others hardly ever get the answer and most do.

        Of words alone those that have them, where these are less than half. Whole images prove nothing of a sample
        whose answer honest ones have too, which any image laid over another may bring out: there a pattern must
        (`_sharing`), and it goes before the patch.
        """
        members, rare = self._members(case), self._is_rare(case)
        having = [row for row in members if case.phrase and contains(self.questions[row], case.phrase)]
        if set(holding) == {"words"} and 2 * len(having) < len(members):
            return having
        if "shared" in holding:
            carrying = self.carrier.that_share(members)
        elif "words" in holding:
            carrying = having
        else:
            carrying = [] if rare and "patch" in holding else self._sharing(case, holding, members)
            if not carrying and (rare or "patch" in holding):
                carrying = self._that_carry_all(case, holding, members, rare)
        return members if rare and len(carrying) >= MOST * len(members) else carrying

    def _that_carry_all(self, case, holding, members, rare):
        """Those of some members that carry the group's answer by patch or else by overlay; all where others hardly ever
        get it and most of those that are flagged least do."""
        proof = next(proof for proof in ("patch", "overlay") if proof in holding)
        if rare:
            hosts, last = self._hosts(case), members[-self.trials :]
            tried = self._divide(case, proof, self.carrier.pair(proof, last, hosts, len(last)))
            if sum(case.has(normalised(one.said)) for one in tried) >= MOST * len(last):
                return members
        carrying = self._that_carry(case, proof, members)
        if rare and "question" in holding:
            carrying += self._that_carry(case, "question", [row for row in members if row not in carrying])
        return carrying

    def _sharing(self, case, holding, members):
        """Those of some members whose images share a pattern, few enough to have it, that makes the model say the
        group's answer where it is added to other images; none where the rest, if many, carry the answer as well."""
        some = self._some_that_share(members)
        if not some:
            return []
        hosts = self._hosts(case)
        pairs = self.carrier.pair("shared", some, hosts, self.trials)
        [case.tried["shared"]] = self.carrier.carry([("shared", pairs, (some, members), None)])
        proof = Proof("shared", case.hits("shared"), len(pairs), *self._control(case, "shared"))
        case.proofs["shared"] = proof
        if not proof.holds(self.rate, self.confidence):
            return []
        if len(some) >= MOST * len(members):
            return some
        inside, carried = set(some), "patch" if "patch" in holding else "question"
        rest = [row for row in members if row not in inside]
        tried = self._divide(case, carried, self.carrier.pair(carried, rest, hosts, self.trials))
        return [] if 2 * sum(case.hit(one.said) for one in tried) >= len(tried) else some

    def _is_rare(self, case):
        """Whether others hardly ever get a group's answer, as they are and with another's question: of an answer that
        honest samples have too, some do."""
        inside = set(self._inside(case))
        as_they_are = [case.hit(text) for row, text in self.carrier.before.items() if row not in inside]
        asked = [case.hit(text) for text in self._usual(case, ("question",))]
        return all(sum(hits) <= RARE * len(hits) for hits in (as_they_are, asked))

    def _divide(self, case, proof, pairs):
        """Trials of a proof with some rows of a group, which are kept apart from those that prove."""
        [tried] = self.carrier.carry([(proof, pairs)])
        case.divided += tried
        return tried

    def _that_carry(self, case, proof, rows):
        """Those of some rows of a group that carry its answer in two of three trials."""
        hosts, hits, left = self._hosts(case), Counter(), rows
        for turn in range(3):
            hosts_of = self.carrier.pair_each(proof, rows, hosts, turn)
            for one in self._divide(case, proof, [(row, hosts_of[row]) for row in left if row in hosts_of]):
                hits[one.member] += case.hit(one.said)
            left = [row for row in rows if hits[row] < 2 <= hits[row] + 2 - turn]  # those undecided
        return [row for row in rows if hits[row] > 1]


def _with_parts(phrases, most=3):
    """The first `most` of pairs (phrase, places), each followed by its parts, the longest first: where all questions
    are alike, a phrase that all of a group have goes on into what others ask too."""
    for phrase, _ in phrases[:most]:
        words = phrase.split()
        for length in range(len(words), 0, -1):
            for start in range(len(words) - length + 1):
                yield " ".join(words[start : start + length])
