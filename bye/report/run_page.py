"""The page of a run, one HTML file: the verdict, the matrix, every table and figure, and behind a row or a square the
evidence of its cell."""

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from bye.errors import ByeError
from bye.files import read_json, write_text
from bye.plan.entries import files_target, listed_files
from bye.plan.paths import PARTS, UNTOUCHED
from bye.report.html import command, evidence, page, picture, share_pictures, table, text, verdict
from bye.report.measured import FORMED, has_numbers, key_of, lines, rows_with_cells
from bye.report.measured import verdict as verdict_on
from bye.report.page import made, titled
from bye.report.squares import DRAWN, name_of
from bye.report.thumbnails import thumbnail

SIDE = 1600  # pixels of the longer side of a figure
MEGABYTES = 6.0  # of evidence.json files


@dataclass
class Shown:
    """What a page has of a run: rows of its tables with their cells, and of cells the evidence and their numbers."""

    config: dict
    results: Path
    options: str
    rows: dict  # {name of an entry: [(row, its Cell or None), ...]}
    evidence: dict  # {cell: content of its evidence.json}
    left_out: int  # cells that have evidence for which the page has no room
    squares: dict  # {name of an entry that is drawn as squares: (HTML, {cell: (names, rows) that its dialog shows})}

    @property
    def squared(self):
        """The cells of squares, each once."""
        return dict.fromkeys(cell for _, told in self.squares.values() for cell in told)


def run_page(config, results, out, facts, title, options="", megabytes=MEGABYTES):
    """Write the page of what a results folder has; return the number of targets on it and that of cells with evidence.

    config: as `bye.config` leaves it; its entries of the section tables are the targets, in the order of the page but
    for those that are drawn as squares, which come first; a row can be opened where there is an evidence.json of its
    cell, a square anyway; results: the folder; facts, title, options: as in `bye.report.page.results_page`; megabytes:
    of evidence that the page has room for: of each detector, model and dataset in turn, what fails first. Raises
    ByeError if the folder has none of the targets.
    """
    results = Path(results)
    targets = sorted(made(config["tables"], results), key=lambda target: target[1].get("figure") not in DRAWN)
    if not targets:
        raise ByeError(f"{results} has no tables or figures; run snakemake first")
    rows = {name: rows_with_cells(config, name, csv) for name, _, csv, _ in targets if csv is not None}
    cells = {cell: None for each in rows.values() for _, cell in each if cell is not None}
    files = {cell: results / cell.path("evidence.json").removeprefix("results/") for cell in cells}
    files = {cell: file for cell, file in files.items() if file.is_file()}
    chosen = _within(megabytes, files, {key for line in lines(config, results) for key in line.failures})
    opened = {cell: read_json(files[cell]) for cell in chosen}
    drawn = {name: DRAWN.get(config["tables"][name].get("figure")) for name in rows}
    squares = {name: draw(rows[name], set(opened)) for name, draw in drawn.items() if draw is not None}
    shown = Shown(config, results, options, rows, opened, len(files) - len(chosen), squares)

    parts = [_target(shown, name, entry, csv, figure) for name, entry, csv, figure in targets]
    links = "".join(
        f'<a href="#{name}">{text(entry.get("title") or entry["caption"])}</a> ' for name, entry, *_ in targets
    )
    dialogs = share_pictures("".join(_dialog(shown, cell) for cell in dict.fromkeys([*opened, *shown.squared])))
    told = "".join(f"<li>{text(fact)}</li>" for fact in facts)
    head = [verdict(verdict_on(config, results)), f'<ul class="soft">{told}</ul>\n' if told else "", _opens(shown)]
    write_text(out, page(title, "".join([*head, f"<nav>{links}</nav>\n", *parts, dialogs])))
    return len(targets), len(opened)


def _within(megabytes, files, failing):
    """The cells whose evidence there is room for. files: {cell: path}; failing: keys of cells."""
    queues, room, chosen = {}, 1e6 * megabytes, []
    for cell in sorted(files, key=lambda cell: key_of(cell) not in failing):
        queues.setdefault((cell.defence, cell.model, cell.dataset), []).append(cell)
    for cell in (each for turn in zip_longest(*queues.values()) for each in turn if each is not None):
        room -= files[cell].stat().st_size
        if room < 0:
            break
        chosen.append(cell)
    return chosen


def _opens(shown):
    """What can be opened, and what is not on the page."""
    told = []
    if shown.evidence:
        told.append(
            "Rows with a button open on their scores, and on dropped and borderline samples with their attention."
        )
    if shown.squared:
        told.append(
            "Squares of the matrix open too: an underlined one on the same, any other on its numbers and its command."
        )
    if shown.left_out:
        here = len(shown.evidence)
        told.append(
            f"Of {here + shown.left_out} cells with evidence {here} are here, of each detector, model and dataset "
            f"those that fail first; for {shown.left_out} the page has no room (bye run-page --megabytes)."
        )
    return f"<p>{' '.join(told)}</p>\n" if told else ""


def _target(shown, name, entry, csv, figure):
    """The section of a table or figure."""
    parts = [f'<h2 id="{name}">{text(titled(entry))}</h2>\n<p>{_emphasised(entry.get("text", ""))}</p>\n']
    if name in shown.squares:
        parts.append(shown.squares[name][0])
        parts.append(f'<p class="soft">The rows are in <code>results/{csv.name}</code>.</p>\n')
    elif csv is not None:
        parts.append(_table(shown, entry, shown.rows[name]))
    if figure is not None and name not in shown.squares:
        with Image.open(figure) as image:
            parts.append(picture(thumbnail(image, SIDE), titled(entry)))
    wanted = [f"results/{(csv or figure).name}"]
    if listed_files(shown.config, name):
        wanted.append(files_target(name))
    parts.append(_command(shown, wanted))
    return "".join(parts)


def _table(shown, entry, rows):
    """A table, without rows that have no numbers, whose rows open where the page has the evidence of their cell."""
    rows, n_rows = [(row, cell) for row, cell in rows if cell is None or has_numbers(row, entry)], len(rows)
    names = list(rows[0][0]) if rows else []
    opened = [name_of(cell) if cell in shown.evidence else None for _, cell in rows]
    numbers = [each for each in names if all(_is_number(row[each]) for row, _ in rows)]
    shorter = f'<p class="soft">Rows left out, without numbers yet: {n_rows - len(rows)}.</p>\n'
    html = table(names, [_texts(row, names) for row, _ in rows], numbers, opened)
    return html + (shorter if len(rows) < n_rows else "")


# ---- what opens ------------------------------------------------------------------------------------------------------


def _dialog(shown, cell):
    """What opens behind a row or a square."""
    where = ", ".join((cell.model, cell.dataset, cell.attack, cell.defence, f"seed {cell.seed}"))
    parts = [f'<dialog id="{name_of(cell)}"><button class="close" autofocus>close</button><h2>{text(where)}</h2>\n']
    files = []
    for names, rows in (told[cell] for _, told in shown.squares.values() if cell in told):
        parts.append(table(names, [_texts(row, names) for row in rows], names))
        unformed = [row["ASR_vanilla"] for row in rows if row.get("ASR_vanilla")]
        if unformed and float(unformed[0]) < FORMED:
            parts.append(
                f"<p>No backdoor formed: the attack success of the plain fine-tune is {float(unformed[0]):g} %, below "
                f"{FORMED:g} %. The numbers count neither for the detector nor against it.</p>\n"
            )
        files.append(PARTS if "size" in names else "detection.json")
    files = [file for file in files if file == PARTS or cell.attack != UNTOUCHED]
    found = shown.evidence.get(cell)
    if found is not None:
        parts.append(f"<p>{found['n_dropped']:,} of {found['n_samples']:,} samples are dropped.</p>")
    else:
        parts.append("<p>Its samples and scores are not on this page; evidence.json has them.</p>\n")
    parts.append(_command(shown, [cell.path(file) for file in (*files, "evidence.json")]))
    if found is not None:
        parts.append(evidence(found, name_of(cell), [(cell.defence, found["histogram"])], folded=True))
    return f"{''.join(parts)}</dialog>\n"


def _command(shown, wanted):
    return command(f"snakemake --cores 4 {' '.join(wanted)} {shown.options}".rstrip())


def _emphasised(words):
    """A text of the configuration as HTML; *words* between asterisks are emphasised."""
    return re.sub(r"\*([\w ]+)\*", r"<em>\1</em>", text(words))


def _texts(row, names):
    """The fields of a row as HTML."""
    return [row[name] if _is_number(row[name]) else text(row[name]) for name in names]


def _is_number(value):
    return value == "" or value.replace(".", "", 1).removeprefix("-").isdigit()
