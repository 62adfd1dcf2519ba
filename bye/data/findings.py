"""Why an entry of a samples file cannot be judged, what becomes of it, and how it is said."""

from collections import Counter
from dataclasses import dataclass

from bye.errors import ByeError, counted, cut, first

KEEP, DROP, STOP = "keep", "drop", "stop"
POLICIES = (KEEP, DROP, STOP)
SHOWN = 10  # findings in one error


@dataclass(frozen=True)
class Kind:
    """A kind of entries: what becomes of them where nobody says (one of POLICIES), what they are, and what to do."""

    default: str
    what: str
    do: str = ""


KINDS = {
    "no image": Kind(KEEP, "without an image"),
    "several images": Kind(KEEP, "with several images"),
    "video": Kind(KEEP, "with video or sound"),
    "image in a later turn": Kind(KEEP, "whose image stands in a later turn"),
    "too long": Kind(KEEP, "longer than the model takes"),
    "text": Kind(STOP, "whose text the model's tokenizer cannot take", "change the text"),
    "missing image": Kind(STOP, "whose image is not there", "check the image folder"),
    "unreadable image": Kind(STOP, "whose image cannot be read", "copy it again"),
    "image outside": Kind(STOP, "whose image lies outside of the image folder", "put it into the folder"),
    "no file": Kind(STOP, "whose image is no file", "write it to the image folder and give its path"),
    "malformed": Kind(STOP, "that are malformed", "mend them"),
    "unknown form": Kind(STOP, "in a form that is not read", "write them in one that is"),
}


@dataclass(frozen=True)
class Finding:
    """An entry that cannot be judged. number: from 1; kind: of KINDS; text: why, a sentence; id: its own, or None."""

    number: int
    kind: str
    text: str
    id: str | None = None

    def __str__(self):
        name = f"entry {self.number}" if self.id is None else f"sample {cut(repr(self.id), 80)} (entry {self.number})"
        return f"{name}: {self.text}"


def finding(number, error, given):
    """Return the Finding for a SampleError on an entry with the id `given`, what cannot be written as text escaped."""
    text, name = (
        None if each is None else each.encode("utf-8", "backslashreplace").decode() for each in (str(error), given)
    )
    return Finding(number, error.kind, text, name)


def fate(finding, policy=None):
    """Return what becomes of an entry: `policy`, one of POLICIES, or where it is None what is usual for its kind."""
    return policy or KINDS[finding.kind].default


def count_kinds(findings):
    """Return "8 without an image, 2 whose image is not there" of findings, in the order of KINDS."""
    counts = Counter(finding.kind for finding in findings)
    return ", ".join(f"{counts[kind]} {KINDS[kind].what}" for kind in KINDS if counts[kind])


def stop_for(findings, source, n_entries, remedy="mend or drop them", whole=None):
    """Raise ByeError if there are findings: one is one sentence; of more the first ten are told, kind by kind.

    source: the file; n_entries: that it has; remedy: what to do; whole: where all of them are listed, or None.
    """
    if len(findings) == 1:
        raise ByeError(f"{source}: {findings[0]}")
    if not findings:
        return
    of_kind = {kind: [each for each in findings if each.kind == kind] for kind in KINDS}
    of_kind = {kind: listed for kind, listed in of_kind.items() if listed}
    shown = _shares([len(listed) for listed in of_kind.values()], SHOWN)
    lines = []
    for (kind, listed), number in zip(of_kind.items(), shown, strict=True):
        advice = f"; {KINDS[kind].do}" if KINDS[kind].do else ""
        lines.append(f"{len(listed)} {KINDS[kind].what}{advice}:")
        lines += [f"  {told}" for told in first(listed, number)]
    if whole and len(findings) > SHOWN:
        lines.append(f"all of them are listed in {whole}")
    told = "\n  ".join(lines)
    raise ByeError(f"{source}: {len(findings)} of {counted(n_entries, 'sample')} cannot be used; {remedy}:\n  {told}")


def _shares(counts, total):
    """Share `total` places among groups of some counts, one in turn to each that has more: how many each gets."""
    shares = [0] * len(counts)
    while sum(shares) < min(total, sum(counts)):
        smallest = min((share, place) for place, share in enumerate(shares) if share < counts[place])
        shares[smallest[1]] += 1
    return shares
