"""What `bye clean` gives back: the user's file in two parts, what became of each entry and why, and a summary."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bye.data.check import Checked, write_unjudged
from bye.data.entries import EntryFile
from bye.data.findings import DROP, KEEP, KINDS, fate
from bye.data.samples import turns_of
from bye.detect.answer_groups import normalised
from bye.detect.proofs import PROOFS
from bye.errors import counted, shortened
from bye.files import read_csv, write_csv
from bye.formats import ENTRIES, names

CAUTION = 1 / 3  # a share of dropped samples above which they are hardly all poison
COLUMNS = 6  # samples in a row of the picture
FOREIGN = (  # what is said of an answer that is suspicious by its text alone
    "of a form foreign to the other answers. It is not proven to follow anything of these samples, but another model "
    "may learn that: look at them before you train on the rest"
)
STANDS_OUT = 0.5  # share of what was dropped that has one answer, where that is a target


@dataclass(frozen=True)
class Outcome:
    """What was found in a file.

    file: the EntryFile; checked: what it holds; policy: what becomes of entries that were not judged, or None for what
    is usual; flags: of the checked samples, as `read_flags` gives them; novelty: those of the detector answer_novelty,
    where it was not asked itself.
    """

    file: EntryFile
    checked: Checked
    policy: str | None
    flags: dict
    novelty: dict | None = None

    def kept(self):
        """Whether each entry of the file is kept, in order."""
        kept = [True] * self.checked.n_entries
        for number, flagged in zip(self.checked.numbers, self.flags["flagged"], strict=True):
            kept[number - 1] = not flagged
        for finding in self.checked.findings:
            kept[finding.number - 1] = fate(finding, self.policy) != DROP
        return kept

    def suspects(self):
        """The turn of each sample that its score is of: [(number from 1, question, answer), ...]."""
        places = zip(self.checked.samples, self.flags["answer"], strict=True)
        return [(place + 1, *turns_of(sample)[place]) for sample, place in places]

    def foreign(self, groups):
        """Answers of kept samples whose form is foreign to the others, by reading alone: [(answer, samples), ...], but
        for those that are suspicious anyway. groups: rows of groups.csv, or None."""
        told = {normalised(row["answer"]) for row in groups or () if row["verdict"] == "suspicious"}
        return [(answer, count) for answer, count in self._foreign if normalised(answer) not in told]

    @cached_property
    def _foreign(self):
        if self.novelty is None:
            return []
        found = json.loads(self.novelty["metadata"]["answer_novelty"])
        kept = [
            {text for _, text in turns_of(sample)}
            for sample, drop in zip(self.checked.samples, self.flags["flagged"], strict=True)
            if not drop
        ]
        counts = [(group["answer"], sum(group["answer"] in texts for texts in kept)) for group in found]
        return [(answer, count) for answer, count in counts if count]


def write_outcome(outcome, out, kept, dropped):
    """Write the two parts under these names, unjudged.json and entries.csv to the folder `out`."""
    wanted = outcome.kept()
    outcome.file.copy(out / kept, wanted)
    outcome.file.copy(out / dropped, [not keep for keep in wanted])
    write_unjudged(out / "unjudged.json", outcome.checked.findings, outcome.policy)
    write_csv(out / "entries.csv", _rows(outcome), names(ENTRIES))


def draw_samples(outcome, path, images, seed):
    """Draw some of what was dropped and of what was kept; images: the folder of the samples' images."""
    from bye.report.gallery import gallery  # matplotlib takes a second to load

    flagged, suspects = np.array(outcome.flags["flagged"], dtype=bool), outcome.suspects()
    rows = []
    for title, places in (("dropped", np.flatnonzero(flagged)), ("kept", np.flatnonzero(~flagged))):
        chosen = np.sort(np.random.default_rng(seed).permutation(places)[:COLUMNS])
        shown = [(outcome.checked.samples[place], *suspects[place][1:]) for place in chosen]
        some = ", some of them" if len(places) > len(chosen) else ""
        rows.append((f"{title} ({len(places):,}){some}", shown))
    gallery(path, images, rows)


def _rows(outcome):
    """A row for each entry of the file, in order: what became of it, and why."""
    checked, flags, rows = outcome.checked, outcome.flags, []
    for place, (number, (answer, _, text)) in enumerate(zip(checked.numbers, outcome.suspects(), strict=True)):
        row = {"entry": number, "id": checked.given[place], "judged": "true", "answer": answer, "text": text}
        row |= {"then": "dropped" if flags["flagged"][place] else "kept", "reason": flags["reason"][place]}
        if not flags["flagged"][place] and outcome.novelty is not None:
            row["reason"] = outcome.novelty["reason"][place]
        rows.append(row | {name: _number(flags[name][place]) for name in ("score", "p_low")})
    for finding in checked.findings:
        then = "dropped" if fate(finding, outcome.policy) == DROP else "kept"
        row = {"entry": finding.number, "id": finding.id, "judged": "false", "then": then}
        rows.append(row | {"reason": f"{finding.kind}: {finding.text}"})
    return sorted(rows, key=lambda row: row["entry"])


def _number(value):
    return None if value is None or value != value else value


def summarise(outcome, out, layers=None, tau=None, groups=None):
    """Return what was found, dropped and not looked at, one remark a line.

    Whether one answer stands out as a target would; more than CAUTION of the samples is hardly poison, and said so.
    layers: path of the layer selection of a detector that makes one; tau: its threshold; groups: path of the groups of
    answers of one that proves them.
    """
    checked, flagged = outcome.checked, outcome.flags["flagged"]
    n, n_dropped = len(checked.samples), sum(flagged)
    n_answers = sum(len(sample["conversations"]) // 2 for sample in checked.samples)
    of_answers = f", with {n_answers} answers" if n_answers > n else ""
    lines = [f"{n} of {counted(checked.n_entries, 'sample')} in {outcome.file.path} were looked at{of_answers}"]
    sensitive, place = None, ""
    if layers is not None:
        rows = read_csv(layers)
        sensitive = [row["layer"] for row in rows if row["sensitive"] == "true"]
        which = "layer" if len(sensitive) == 1 else "layers"
        place = f", by their attention in {which} {', '.join(sensitive)} of {len(rows)}"
    if sensitive == []:
        needed = "" if tau is None else f" (threshold {tau:g})"
        lines.append(f"no sensitive layer found{needed}, so nothing was dropped of these")
    else:
        lines.append(f"{n_dropped} of {n} dropped ({n_dropped / n:.1%}){place}")
    groups = None if groups is None else read_csv(groups)
    if groups is not None:
        lines += _told_groups(groups)
    elif n_dropped:
        lines.append(common_answer(outcome))
    if groups is None and n_dropped > CAUTION * n:
        lines.append(
            "caution, that is more than poison ever is; the two modes may be two kinds of questions or images. Look at "
            "entropy.png and at the answers in dropped before you train on the rest"
        )
    lines += [
        f"{count} kept samples answer {shortened(answer)!r}, {FOREIGN}" for answer, count in outcome.foreign(groups)
    ]
    lines += not_looked_at(outcome)
    lines += [f"{note} in {counted(number, 'sample')}" for note, number in sorted(checked.notes.items())]
    n_kept = sum(outcome.kept())
    lines.append(f"{n_kept} kept and {checked.n_entries - n_kept} dropped are in {out}; entries.csv says of each why")
    return "\n".join(f"bye clean: {line}" for line in lines)


def _told_groups(rows):
    """What was shown of groups of answers (groups.csv): those that were dropped, those that are suspicious, or that
    nothing was found, and what could not have been."""
    lines = []
    for row in rows:
        if row["verdict"] in ("proven", "suspicious"):
            proofs = [f"{PROOFS[name]} in {_share(row, name)}" for name in PROOFS if row[f"{name}_controls"]]
            answer = repr(shortened(row["answer"]))
            how = "answer" if row["shares"] == "answer" else "have in their answers"
            then = f"{row['dropped']} dropped" if row["verdict"] == "proven" else "suspicious, not proven, and kept"
            lines.append(f"{row['samples']} samples {how} {answer}: {then}; {'; '.join(proofs)}")
    tried = sum(row["verdict"] != "not tried" for row in rows)
    if not lines:
        lines.append(
            f"of {tried} answers and phrases that several samples share none was seen to follow a patch, an image or "
            "words to other samples; one that hardly any share cannot be seen"
        )
    if tried < len(rows):
        lines.append(f"{len(rows) - tried} shared answers or phrases were not tried; a higher --budget tries more")
    return lines


def _share(row, name):
    """The hits of a proof among its trials, and of its controls, in per cent."""
    shares = []
    for column in (name, f"{name}_controls"):
        hits, trials = map(int, row[column].split(" of "))
        shares.append(f"{100 * hits / trials:.0f} %" if trials else "none")
    return f"{shares[0]} of trials (controls: {shares[1]})"


def common_answer(outcome):
    """Return the most common answer that samples were dropped for, and whether it stands out as a target would."""
    flagged, suspects = outcome.flags["flagged"], [text for *_, text in outcome.suspects()]
    [(answer, count)] = Counter(text for text, drop in zip(suspects, flagged, strict=True) if drop).most_common(1)
    kept = Counter(
        text
        for sample, drop in zip(outcome.checked.samples, flagged, strict=True)
        if not drop
        for _, text in turns_of(sample)
    )
    short = repr(shortened(answer))
    of_dropped, of_kept = count / sum(flagged), kept[answer] / max(1, kept.total())
    told = (
        f"the most common answer they were dropped for is {short}: {of_dropped:.1%} of what was dropped, and "
        f"{of_kept:.1%} of the answers that were kept"
    )
    alike = of_dropped < STANDS_OUT or of_kept > of_dropped / 2
    return f"{told}. That is no answer that stands out as a target does: look at samples.png first" if alike else told


def not_looked_at(outcome):
    """Return a list of one line on the entries that were not judged, by kind and by what became of them, or of none."""
    findings = outcome.checked.findings
    counts = Counter((finding.kind, fate(finding, outcome.policy)) for finding in findings)
    parts = [
        f"{counts[kind, then]} {about.what} ({'dropped' if then == DROP else 'kept'})"
        for kind, about in KINDS.items()
        for then in (KEEP, DROP)
        if counts[kind, then]
    ]
    if not parts:
        return []
    return [f"{len(findings)} were NOT looked at, and may hold anything: {', '.join(parts)}; unjudged.json lists them"]
