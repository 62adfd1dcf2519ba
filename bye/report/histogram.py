"""The histogram of a detector's scores: as numbers, and as a picture in SVG that takes the colours of its page."""

import json
from html import escape

import numpy as np

from bye.flags import read_flags, read_labels

BINS = 40
WIDTH, HEIGHT, FOOT = 640, 230, 42  # of the picture, in its own units; FOOT is below the axis
TICKS = 5


def scores_of(table):
    """Return (scores, what they are, cut) of flags as `read_flags` gives them.

    scores: (n,) float, low is suspicious, NaN where there are none; BYE's are mean entropies, also where it has no
    sensitive layer; cut: below which samples were flagged, or None.
    """
    scores = np.array(table["score"], dtype=float)
    if "bye" not in table["metadata"]:
        return scores, "score of the detector: low is suspicious", None
    setting = json.loads(table["metadata"]["bye"])
    layers = setting["sensitive_layers"]
    if not layers:
        return np.array(table["mean_entropy"], dtype=float), "mean attention entropy over all layers (nats)", None
    return scores, f"mean attention entropy over {layers_named(layers)} (nats)", setting["cut"]


def layers_named(layers, most=None, between=", "):
    """Selected layers in words: their numbers, or of more than `most` how many they are."""
    if not layers or (most and len(layers) > most):
        return f"{len(layers) or 'no'} layer{'s' * (len(layers) > 1)}"
    return f"layer{'s' * (len(layers) > 1)} {between.join(map(str, layers))}"


def histogram(flags, labels=None):
    """Return the histogram of the scores in flags.parquet, a dict for JSON, or None where there are no scores.

    labels: path of the truth about the samples, or None. Its keys: what, the meaning of a score; names and counts, of
    two kinds of samples: clean and poisoned, or without labels kept and dropped; first, last: ends of the bars; cut.
    """
    table = read_flags(flags)
    scores, what, cut = scores_of(table)
    known = np.isfinite(scores)
    if not known.any():
        return None
    low, names = np.array(table["flagged"], dtype=bool), ("kept", "dropped")
    if labels is not None:
        low, names = read_labels(labels, table["id"]), ("clean", "poisoned")
    edges = np.histogram_bin_edges(scores[known], bins=BINS)
    counts = [np.histogram(scores[known & part], edges)[0].tolist() for part in (~low, low)]
    return {"what": what, "names": names, "counts": counts, "first": edges[0], "last": edges[-1], "cut": cut}


def drawn(found):
    """Return a histogram as SVG. Bars are roots of counts: a few samples beside a thousand can still be seen."""
    first, last, counts = found["first"], found["last"], found["counts"]
    highest = max(max(each) for each in counts) ** 0.5 or 1
    base, width = HEIGHT - FOOT, WIDTH / len(counts[0])
    parts = [f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(found["what"])}">']
    for kind, each in zip(("high", "low"), counts, strict=True):
        for place, count in enumerate(each):
            tall = (base - 12) * count**0.5 / highest
            if count:
                bar = f'x="{place * width:.1f}" y="{base - tall:.1f}" width="{width - 1:.1f}" height="{tall:.1f}"'
                parts.append(f'<rect class="{kind}" {bar}><title>{count}</title></rect>')
    parts.append(f'<line class="axis" x1="0" y1="{base}" x2="{WIDTH}" y2="{base}"/>')
    for tick in range(TICKS):
        anchor = {0: "start", TICKS - 1: "end"}.get(tick, "middle")
        value = first + (last - first) * tick / (TICKS - 1)
        place = WIDTH * tick / (TICKS - 1)
        parts.append(f'<text x="{place:.0f}" y="{base + 16}" text-anchor="{anchor}">{value:.3g}</text>')
    if found["cut"] is not None and last > first:
        place = WIDTH * (found["cut"] - first) / (last - first)
        parts.append(f'<line class="cut" x1="{place:.1f}" y1="0" x2="{place:.1f}" y2="{base}"/>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(found["what"])}</text></svg>')
    return "".join(parts)
