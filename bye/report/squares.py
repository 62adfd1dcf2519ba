"""Panels of squares (`bye.report.panels`) as HTML tables: a row a detector, a square opens what is behind it."""

from html import escape
from itertools import groupby

from bye.report.html import legend, text
from bye.report.measured import FORMED, LOST
from bye.report.panels import FULL, alarm_panels, matrix_panels, methods_of, short

DEPTHS = {"mid": 0.2, "dark": 0.55}  # shares of the full colour, above which text on it has one colour, the paper's

LONG = 3  # letters of a label, from more than which on labels stand upright


def matrix(rows, full):
    """Return the matrix as (HTML, {cell: (names, rows) of its numbers}), a panel for each model and dataset.

    rows: (row, its cell) pairs, as `bye.report.measured.rows_with_cells` gives them; full: the cells whose evidence the
    page has. A square opens the dialog with the name of its cell (`name_of`).
    """
    columns, panels = matrix_panels(_known(rows))
    colours = [
        ("found", 100, "F1 of 100 %"),
        ("found", 20, "of 20 %"),
        ("lost", 100, f"{FULL:g} % or more of the untouched set (0) lost"),
        ("unformed", 0, f"no backdoor formed: attack success (ASR) of the plain fine-tune below {FORMED:g} %"),
    ]
    parts = [legend(colours), f'<p class="soft">Below F1: clean samples lost, where more than {LOST:g} %.</p>\n']
    for names, squares in panels.items():
        success = {
            column: short(float(square.row["ASR_vanilla"]))
            for (_, column), square in squares.items()
            if square.kind != "lost" and square.row["ASR_vanilla"]
        }
        parts.append(f"<h3>{text(', '.join(names))}</h3>\n")
        parts.append(panel(columns, "poisoned, %", squares, full, [("ASR, %", success)]))
    return "".join(parts), _numbers(panels)


def false_alarms(rows, full):
    """Return what detectors take from untouched sets, a panel for each model; arguments and result as of `matrix`."""
    columns, panels = alarm_panels(_known(rows))
    parts = [legend([("lost", 100, f"{FULL:g} % or more lost in the worst part"), ("lost", 25, f"{FULL / 4:g} %")])]
    for names, squares in panels.items():
        parts.append(f"<h3>{text(', '.join(names))}</h3>\n")
        parts.append(panel(columns, "samples of a part", squares, full))
    return "".join(parts), _numbers(panels)


DRAWN = {"matrix": matrix, "false-alarms": false_alarms}  # figures whose table stands on the page as squares


def name_of(cell):
    """Return a cell in the form of a name; keys of the configuration are letters, digits, dots, dashes, underscores."""
    return ".".join((cell.model, cell.dataset, cell.attack, f"s{cell.seed}", cell.defence))


def _known(rows):
    """The rows whose cell the configuration knows: a table may be older than it."""
    return [(row, cell) for row, cell in rows if cell is not None]


def _numbers(panels):
    """{cell: (names, rows)} of the cells of squares: what the dialog of one shows beside its name."""
    rows = {}
    for square in (square for squares in panels.values() for square in squares.values()):
        rows.setdefault(square.cell, []).append(square.row)
    found = {}
    for cell, each in rows.items():
        names = [name for name in each[0] if any(row[name] for row in each)]
        found[cell] = [name for name in names if name not in (*vars(cell), "method")], each
    return found


def panel(columns, title, squares, full, above=()):
    """Return a panel as an HTML table.

    columns: (group, label) pairs, those of a group together; title: of the labels; squares: {(method, column): Square};
    full: cells with samples in their dialog, whose number is underlined; above: (title, {column: text}) pairs of lines.
    """
    groups = [(name, list(each)) for name, each in groupby(columns, key=lambda column: column[0])]
    starts = {each[0] for _, each in groups}
    wide = "".join(f'<th class="first" colspan="{len(each)}">{escape(name)}</th>' for name, each in groups)
    tall = ["tall"] if max(len(label) for _, label in columns) > LONG else []
    labels = [f"<th{_kinds(column in starts, *tall)}>{escape(column[1])}</th>" for column in columns]
    lines = [f"<tr><td></td>{wide}</tr>", _line(title, labels)]
    for name, texts in above:
        lines.append(
            _line(name, [f"<td{_kinds(each in starts)}>{escape(texts.get(each, ''))}</td>" for each in columns])
        )
    rows = []
    for method in methods_of({title: squares}):
        found = [(squares.get((method, column)), column in starts) for column in columns]
        rows.append(_line(method, [_square(square, starting, full) for square, starting in found]))
    head, body = "\n".join(lines), "\n".join(rows)
    return (
        f'<div class="scroll wide"><table class="panel"><thead>\n{head}</thead><tbody>\n{body}</tbody></table></div>\n'
    )


def _line(title, cells):
    return f'<tr><th scope="row">{escape(title)}</th>{"".join(cells)}</tr>'


def _kinds(starting, *others):
    kinds = [*(["first"] if starting else []), *others]
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _square(square, starting, full):
    if square is None:
        return f"<td{_kinds(starting)}></td>"
    share = 0 if square.kind == "unformed" else square.share
    kinds = _kinds(starting, square.kind, *(kind for kind, least in DEPTHS.items() if share > least))
    beside = f"<small>{short(square.beside)}</small>" if square.is_marked else ""
    number = f"<u>{short(square.number)}</u>" if square.cell in full else short(square.number)
    button = f'<button data-cell="{escape(name_of(square.cell))}">{number}{beside}</button>'
    return f'<td{kinds} style="--share:{100 * square.share:.0f}%" title="{escape(told_of(square))}">{button}</td>'


def told_of(square):
    """Return what a square says, as text."""
    if square.kind == "lost":
        return f"{square.number:.4g} % of the clean samples lost"
    told = f"F1 {square.number:.4g} %, {square.beside:.3g} % of the clean samples lost"
    success = square.row["ASR_vanilla"]
    if square.kind == "found":
        return told
    return (
        f"{told}. No backdoor formed (attack success {success} %): this counts neither for the detector nor against it"
    )
