"""The page of a run, one HTML file: the verdict, every table and figure, and behind a row the evidence of its cell."""

import re
from pathlib import Path

from PIL import Image

from bye.errors import ByeError
from bye.files import read_json, write_text
from bye.report.html import command, evidence, page, picture, table, text, verdict
from bye.report.measured import rows_with_cells
from bye.report.measured import verdict as verdict_on
from bye.report.page import made, titled
from bye.report.thumbnails import thumbnail

SIDE = 1600  # pixels of the longer side of a figure


def run_page(config, results, out, facts, title, options=""):
    """Write the page of what a results folder has; return the number of targets on it and that of cells behind rows.

    config: as `bye.config` leaves it; its entries of the section tables are the targets, in the order of the page; a
    row can be opened where there is an evidence.json of its cell; results: the folder; facts, title, options: as in
    `bye.report.page.results_page`. Raises ByeError if the folder has none of the targets.
    """
    results, cells, parts = Path(results), {}, []
    targets = list(made(config["tables"], results))
    if not targets:
        raise ByeError(f"{results} has no tables or figures; run snakemake first")
    for name, entry, csv, figure in targets:
        parts.append(f'<h2 id="{name}">{text(titled(entry))}</h2>\n<p>{_emphasised(entry.get("text", ""))}</p>\n')
        if csv is not None:
            parts.append(_table(config, name, csv, results, cells))
        if figure is not None:
            with Image.open(figure) as image:
                parts.append(picture(thumbnail(image, SIDE), titled(entry)))
        parts.append(command(f"snakemake --cores 4 results/{(csv or figure).name} {options}".rstrip()))
    links = "".join(
        f'<a href="#{name}">{text(entry.get("title") or entry["caption"])}</a> ' for name, entry, *_ in targets
    )
    dialogs = [_dialog(cell, found, options) for cell, found in cells.items()]
    told = "".join(f"<li>{text(fact)}</li>" for fact in facts)
    head = [verdict(verdict_on(config, results)), f'<ul class="soft">{told}</ul>\n' if told else ""]
    if cells:
        head.append("<p>Rows with a button open: scores, dropped and borderline samples with their attention.</p>\n")
    write_text(out, page(title, "".join([*head, f"<nav>{links}</nav>\n", *parts, *dialogs])))
    return len(targets), len(cells)


def _table(config, name, path, results, cells):
    """A table whose rows open where their cell has evidence, which is added to `cells`."""
    rows = rows_with_cells(config, name, path)
    names = list(rows[0][0]) if rows else []
    opened = []
    for _, cell in rows:
        file = results / cell.path("evidence.json").removeprefix("results/") if cell else None
        if file is not None and cell not in cells and file.is_file():
            cells[cell] = read_json(file)
        opened.append(_name(cell) if cell in cells else None)
    numbers = [each for each in names if all(_is_number(row[each]) for row, _ in rows)]
    return table(names, [[text(row[each]) for each in names] for row, _ in rows], numbers, opened)


def _dialog(cell, found, options):
    """What opens behind a row."""
    where = ", ".join((cell.model, cell.dataset, cell.attack, cell.defence, f"seed {cell.seed}"))
    made_by = command(f"snakemake --cores 4 {cell.path('evidence.json')} {options}".rstrip())
    counts = f"{found['n_dropped']:,} of {found['n_samples']:,} samples are dropped."
    body = evidence(found, _name(cell), [(cell.defence, found["histogram"])])
    return (
        f'<dialog id="{_name(cell)}"><button class="close" autofocus>close</button><h2>{text(where)}</h2>\n'
        f"<p>{counts}</p>{made_by}{body}</dialog>\n"
    )


def _name(cell):
    """The cell in the form of a name; keys of the configuration have letters, digits, dots, dashes and underscores."""
    return ".".join((cell.model, cell.dataset, cell.attack, f"s{cell.seed}", cell.defence))


def _emphasised(words):
    """A text of the configuration as HTML; *words* between asterisks are emphasised."""
    return re.sub(r"\*([\w ]+)\*", r"<em>\1</em>", text(words))


def _is_number(value):
    return value == "" or value.replace(".", "", 1).removeprefix("-").isdigit()
