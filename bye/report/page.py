"""The results page: every table and figure of a run as one Markdown file, with the commands that made them."""

import shutil
from pathlib import Path

from bye.errors import ByeError
from bye.files import read_text, replacing, write_text

LONGEST = 200  # lines of a table that the page shows though it has a figure of it


def results_page(entries, results, notes, out, facts, title, options="", verdict=()):
    """Write the page of the targets that a results folder has.

    Parameters
    ----------
    entries : the config section tables: its entries are the targets, in the order of the page.
    results : folder with tables (.md) and figures (.png).
    notes : folder with our reading: intro.md and TARGET.md, each where there is something to say.
    out : path of the page; figures are copied to the folder `figures` beside it.
    facts : list of str, each a line on the run (commit, machine, seeds).
    title : of the page.
    options : options of snakemake in the commands, e.g. --config "seeds=[0,1,2]".
    verdict : list of str, each a line on what fails (`bye.report.measured.verdict`).

    Raises
    ------
    ByeError
        If the results folder has none of the targets.
    """
    results, notes, out = Path(results), Path(notes), Path(out)
    parts = [
        f"# {title}\n",
        _note(notes, "intro"),
        *("".join(f"- {line}\n" for line in each) for each in (verdict, facts)),
    ]
    found = 0
    for name, entry, table, figure in made(entries, results, ".md"):
        title = titled(entry)
        found += 1
        target = f"results/{name}.csv" if table else f"results/{name}.png"
        parts += [f"## {title}\n", f"    snakemake --cores 4 {target} {options}".rstrip() + "\n", _note(notes, name)]
        if figure:
            parts.append(f"![{title}](figures/{name}.png)\n")
            (out.parent / "figures").mkdir(parents=True, exist_ok=True)
            with replacing(out.parent / "figures" / f"{name}.png") as partial:
                shutil.copyfile(figure, partial)
        if table:
            lines = read_text(table)
            long = figure and lines.count("\n") > LONGEST
            parts.append(f"The rows are in `results/{name}.csv`.\n" if long else lines)
    if not found:
        raise ByeError(f"{results} has no tables or figures; run snakemake first")
    write_text(out, "\n".join(part for part in parts if part))
    return found


def made(entries, results, suffix=".csv"):
    """Yield (name, entry, path of its table, path of its figure) of what a folder has, None of what it lacks."""
    for name, entry in entries.items():
        files = [results / f"{name}{ending}" for ending in (suffix, ".png")]
        table, figure = (path if path.is_file() else None for path in files)
        if table or figure:
            yield name, entry, table, figure


def _note(folder, name):
    path = folder / f"{name}.md"
    return read_text(path) if path.is_file() else ""


def titled(entry):
    """Return the heading of an entry: "Table 1: clean performance and attack success", or its caption alone."""
    title, caption = entry.get("title"), entry["caption"]
    first = caption.split()[0]
    lowered = caption if first.isupper() else caption[0].lower() + caption[1:]
    return f"{title}: {lowered}" if title else caption
