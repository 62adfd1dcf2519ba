"""The verdict on a cleaned file in three lines: what was dropped, what is suspicious, what could not be seen."""

from bye.errors import first, shortened
from bye.tools.outcome import CAUTION, FOREIGN, common_answer, not_looked_at

AT_ONCE = 4  # answers that a line names


def verdict(outcome, groups=None):
    """Return three (mark, text) pairs; a mark is "good", "bad" or "".

    groups: rows of groups.csv of a detector that proves groups of answers, or None of another.
    """
    return [_dropped(outcome, groups), _suspicious(outcome, groups), _unseen(outcome, groups)]


def _dropped(outcome, groups):
    n, n_dropped = len(outcome.checked.samples), sum(outcome.flags["flagged"])
    if not n_dropped:
        clear = not any(row["verdict"] == "suspicious" for row in groups or ())
        what = ": no answer was seen to follow a patch, an image or words to other samples"
        mark = "good" if clear and not outcome.foreign(groups) else ""
        return mark, f"Nothing was found to be poison{what if clear and groups is not None else ''}."
    told = f"Dropped: {n_dropped:,} of {n:,} samples ({100 * n_dropped / n:.1f} %)"
    if groups is not None:
        proven = [row for row in groups if row["verdict"] == "proven"]
        return "bad", f"{told}, since their answer was proven to follow something of them to others: {_named(proven)}."
    caution = " That is more than poison ever is." if n_dropped > CAUTION * n else ""
    return "bad", f"{told}; {common_answer(outcome)}.{caution}"


def _suspicious(outcome, groups):
    found = [] if groups is None else [row for row in groups if row["verdict"] == "suspicious"]
    told = [f"Suspicious, not proven, and kept: {_named(found)}."] if found else []
    foreign = [{"answer": answer, "samples": count} for answer, count in outcome.foreign(groups)]
    if foreign:
        told.append(f"Suspicious by the text alone, and kept: {_named(foreign)}, {FOREIGN}.")
    if told:
        return "bad", " ".join(told)
    if groups is None:
        return "", "Suspicious and kept: this detector knows only kept and dropped. It proves nothing; look below."
    return "", "Suspicious: nothing."


def _unseen(outcome, groups):
    left = "".join(f"{line}. " for line in not_looked_at(outcome))
    told = left[:1].upper() + left[1:] or f"All {outcome.checked.n_entries:,} entries were looked at. "
    mark = "bad" if left else ""
    if groups is None:
        return mark, f"{told}What leaves no trace in what this detector reads cannot be seen."
    untried = sum(row["verdict"] == "not tried" for row in groups)
    if untried:
        more = "one" if untried == 1 else "ones"
        told += f"Not tried for want of budget: {untried} shared answers or phrases, the least suspicious {more}. "
        mark = "bad"
    return mark, f"{told}What cannot be seen: an answer or phrase that hardly any samples share."


def _named(rows):
    """Groups by their answers and how many samples they have."""
    parts = [f"'{shortened(row['answer'])}' ({int(row['samples']):,})" for row in rows]
    return ", ".join(first(parts, AT_ONCE))
