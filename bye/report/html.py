"""Pages in one HTML file, and what they show of a cell: pure functions of its evidence (`bye.report.evidence`).

Questions, answers, ids and paths come from strangers: every text goes through `text`. Should one ever get past it, the
page's own policy lets no script run but the page's, and loads nothing.
"""

import base64
import hashlib
import re
from html import escape
from pathlib import Path

from bye import __version__
from bye.detect.proofs import PROOFS
from bye.report.histogram import drawn

HERE = Path(__file__)
PICTURE = ("data:image/webp;base64,", "data:image/png;base64,")
SHOWN = re.compile(
    r'src="(data:image/\w+;base64,[\w+/=]+)"'
)  # in `_image` alone: texts have no quotes, `escape` sees to it
SHARE = {"answer": "answer", "phrase": "have in their answers"}


def page(title, body):
    """Return a page: a title and HTML, with the style and the script of all pages."""
    style, script = (HERE.with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n{body}\n"
        f'<p class="soft">Written by bye {escape(__version__)}. This file loads nothing from elsewhere.</p>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )


def text(value):
    """Return a text as HTML."""
    return f'<span class="said">{escape(str(value))}</span>'


def verdict(lines):
    """Return a verdict. lines: (mark, text) pairs; a mark is "good", "bad" or ""."""
    items = "".join(f'<li class="{mark}">{escape(line)}</li>\n' for mark, line in lines)
    return f'<ul class="verdict">\n{items}</ul>\n'


def legend(parts):
    """Return what the colours of squares mean. parts: (kind of a square, share of its full colour, text) triples."""
    shown = [f'<span class="{kind}" style="--share:{share}%"></span>{escape(told)}' for kind, share, told in parts]
    return f'<p class="legend">{" ".join(f"<span>{each}</span>" for each in shown)}</p>\n'


def share_pictures(html):
    """Return HTML whose pictures stand in it once, below it, and are shown when a dialog opens (page.js)."""
    places = {}
    html = SHOWN.sub(lambda found: f'data-picture="{places.setdefault(found[1], len(places))}"', html)
    return f'{html}<pre id="pictures" hidden>{chr(10).join(places)}</pre>\n'


def command(line):
    """Return a command line, and what it is for."""
    return f'<p class="soft">Made, and made again, by</p>\n<pre>{escape(line)}</pre>\n'


def picture(source, name):
    """Return a figure by itself; name: what it shows."""
    return f"<p>{_image(source, 'plot', name)}</p>\n"


def table(names, rows, numbers=(), opened=()):
    """Return a table. rows: lists of HTML; numbers: the names of columns that stand to the right; opened: of each row
    the id of the dialog that it opens, or None."""
    kinds = [' class="number"' if name in numbers else "" for name in names]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(names, kinds, strict=True))
    head = f"<th></th>{head}" if any(opened) else head
    lines = []
    for row, dialog in zip(rows, opened or [None] * len(rows), strict=True):
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True))
        if dialog is None:
            lines.append(f"<tr>{'<td></td>' if any(opened) else ''}{cells}</tr>\n")
        else:
            opens = f'class="open" data-cell="{escape(dialog)}"'
            lines.append(f"<tr {opens}><td><button>look</button></td>{cells}</tr>\n")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{"".join(lines)}</tbody></table></div>\n'


# ---- the evidence of a cell ------------------------------------------------------------------------------------------


def evidence(found, name, histograms, folded=False):
    """Return what is to be seen of a cell: its groups, histograms and samples.

    found: content of evidence.json; name: of the cell, a word that no other cell of the page has; histograms: (title,
    histogram or None) pairs, of the cell's detector and of others; folded: whether the trials of proofs are folded.
    """
    samples = found["samples"]
    parts = [f'<input type="checkbox" class="veil" id="veil-{escape(name)}" checked>\n']
    parts.append(
        f'<label class="veil-label" for="veil-{escape(name)}">show attention: how far a part of the picture is above '
        f"an even share, before the answer, in layer {found['layer']}</label>\n<div>\n"
    )
    parts += [_group(group, found, folded) for group in found["groups"]]
    parts.append('<h2>Scores of all samples</h2>\n<div class="histograms">\n')
    for title, each in histograms:
        shown = "<p>It gives no scores.</p>" if each is None else drawn(each) + _key(each)
        parts.append(f"<figure><b>{text(title)}</b>{shown}</figure>\n")
    parts.append("</div>\n")
    n_dropped, n_kept = found["n_dropped"], found["n_samples"] - found["n_dropped"]
    parts.append(_gallery("Dropped", n_dropped, [samples[each] for each in found["dropped"]], found["dropped"]))
    which = "Kept, those with the lowest scores" if found["by_score"] else "Kept"
    parts.append(_gallery(which, n_kept, [samples[each] for each in found["kept"]], found["kept"]))
    return "".join(parts) + "</div>\n"


def _key(found):
    (high, low), totals = found["names"], [sum(each) for each in found["counts"]]
    cut = ", dashed: the cut" if found["cut"] is not None else ""
    both = f'<b class="high">{escape(high)}</b> {totals[0]:,}, <b class="low">{escape(low)}</b> {totals[1]:,}'
    return f'<figcaption class="key">{both}{cut}; the height of a bar is the root of its count</figcaption>'


def _gallery(title, total, samples, names):
    """A heading and the cards of samples."""
    if not samples:
        return f"<h2>{title}</h2>\n<p>None.</p>\n"
    of = f"{len(samples)} of {total:,}" if total > len(samples) else f"{total:,}"
    cards = "".join(_card(name, sample) for name, sample in zip(names, samples, strict=True))
    return f'<h2>{title} ({of})</h2>\n<div class="gallery">\n{cards}</div>\n'


def _card(name, sample):
    tag = ""
    if sample["poisoned"] is not None:
        tag = '<span class="tag low">poisoned</span> ' if sample["poisoned"] else '<span class="tag">clean</span> '
    score = "" if sample["score"] is None else f", score {sample['score']:.3g}"
    turn = f", of answer {sample['turn'] + 1}; attention before the first" if sample["turn"] else ""
    return (
        f'<figure class="card" title="{escape(sample["reason"])}">{_picture(sample["thumbnail"], sample["attention"])}'
        f'<p class="question clamp">{text(sample["question"])}</p><p class="answer clamp">{text(sample["answer"])}</p>'
        f'<p class="soft">{tag}{text(name)}{score}{turn}</p></figure>\n'
    )


def _picture(source, attention=None):
    """A picture, with attention over it."""
    veil = "" if attention is None else _image(attention, "heat", "")
    return f'<span class="picture">{_image(source, "", "")}{veil}</span>'


def _image(source, kind, name):
    """An image, a data URI of our own. Raises ValueError for any other."""
    if not source.startswith(PICTURE):
        raise ValueError("a picture of a page is a data URI")
    return f'<img class="{kind}" alt="{escape(name)}" src="{escape(source)}">'


# ---- groups of answers and their proofs ------------------------------------------------------------------------------


def sentence(group, n_samples):
    """Return what was proven of a group of answers, as text: how many samples share it, and the rate of each proof."""
    told = [f"{int(group['samples']):,} of {n_samples:,} samples {SHARE[group['shares']]} '{group['answer']}'."]
    for name, what in PROOFS.items():
        controls = group.get(f"{name}_controls")
        if controls:
            told.append(f"{what[0].upper()}{what[1:]} in {_rate(group[name])} ({_controls(controls)}).")
    if group["verdict"] == "proven":
        told.append(f"{int(group['dropped']):,} dropped.")
    else:
        told.append("That is suspicious and proves nothing: they are kept.")
    return " ".join(told)


def _rate(share):
    hits, trials = map(int, share.split(" of "))
    return f"{100 * hits / trials:.0f} % of {trials} trials" if trials else "none of 0 trials"


def _controls(share):
    hits, trials = map(int, share.split(" of "))
    return f"controls: {100 * hits / trials:.0f} % of {trials}" if trials else "no controls"


def _group(group, found, folded):
    """The section of a proven or suspicious group."""
    parts = [f"<h2>{group['verdict'].capitalize()}: {text(group['answer'])}</h2>\n"]
    parts.append(f"<p>{text(sentence(group, found['n_samples']))}</p>\n")
    if group["example"] is not None:
        sample, name = found["samples"][group["example"]], text(group["example"])
        asked = f"{text(sample['question'])} <b>{text(sample['answer'])}</b>"
        where = f"{sample['nats']:.2f} nats"
        patch = "The patch that is pasted on others" if sample["pasted"] else "What it looks at most"
        parts.append(
            f'<div class="example"><figure>{_picture(sample["picture"])}<figcaption>Sample {name}: {asked}</figcaption>'
            f"</figure><figure>{_picture(sample['picture'], sample['attention'])}<figcaption>Where the model looks "
            f'before it answers (layer {found["layer"]}, {where})</figcaption></figure><figure class="small">'
            f"{_picture(sample['patch'])}<figcaption>{patch}</figcaption></figure></div>\n"
        )
    tried = [proof for proof in PROOFS if any(trial["proof"] == proof for trial in group["trials"])]
    for number, proof in enumerate(tried):
        parts.append(_trials(group, proof, opened=number == 0 and not folded))
    return "".join(parts)


def _trials(group, proof, opened):
    """What comes of the trials of a proof, and of its controls, in tables that can be folded."""
    own, controls = ([each for each in group[kind] if each["proof"] == proof] for kind in ("trials", "controls"))
    hits = sum(trial["hit"] == "true" for trial in own)
    names = ["sample", "host", "says to the host as it is", "says now"]
    summary = f"Trials: {escape(PROOFS[proof])} ({hits} of {len(own)})"
    parts = [f"<details{' open' if opened else ''}><summary>{summary}</summary>\n"]
    parts.append(table([*names, "hit"], [_trial(trial) for trial in own]))
    if controls:
        parts.append('<p class="soft">Some of the controls: the same with samples outside.</p>\n')
        parts.append(table(["sample", "its own answer", *names[1:]], [_control(trial) for trial in controls]))
    return "".join(parts) + "</details>\n"


def _trial(trial):
    hit = '<b class="hit">yes</b>' if trial["hit"] == "true" else "no"
    return [*(text(trial[key]) for key in ("sample", "host", "before", "said")), hit]


def _control(trial):
    return [text(trial[key]) for key in ("sample", "own", "host", "before", "said")]
