"""The results page: every table and figure of a run as one Markdown file, with the commands that made them."""

import shutil
from pathlib import Path

from bye.errors import ByeError
from bye.files import read_text, replacing, write_text

# Name of each target, and its title; in the order of the page.
TARGETS = {
    "table1": "Table 1: clean performance and attack success",
    "purified": "Images before and after purification by ZIP",
    "table2": "Table 2: detection of the poisoned samples",
    "figure3": "Figure 3: entropy of clean and poisoned samples",
    "layers": "BSI and AUROC of every layer",
    "figure2": "Figure 2: attention over the layers",
    "table3": "Table 3: several triggers in an image",
    "table4": "Table 4: the datasets as loaded",
    "table5": "Table 5: the threshold of the BSI",
    "table6": "Table 6: other triggers",
    "figure5": "Figure 5: trigger designs and their attention",
    "table7": "Table 7: clustering",
    "figure4": "Figure 4: without layer selection, without the mixture",
    "table8": "Table 8: BYE against SentiNet",
    "poison_rate": "Share of poison",
}


def results_page(results, notes, out, facts, title, options=""):
    """Write the page of the targets that a results folder has.

    Parameters
    ----------
    results : folder with tables (.md) and figures (.png).
    notes : folder with our reading: intro.md and TARGET.md, each where there is something to say.
    out : path of the page; figures are copied to the folder `figures` beside it.
    facts : list of str, each a line on the run (commit, machine, seeds).
    title : of the page.
    options : options of snakemake in the commands, e.g. --config "seeds=[0,1,2]".

    Raises
    ------
    ByeError
        If the results folder has none of the targets.
    """
    results, notes, out = Path(results), Path(notes), Path(out)
    parts = [f"# {title}\n", _note(notes, "intro"), "".join(f"- {fact}\n" for fact in facts)]
    found = 0
    for name, title in TARGETS.items():
        table, figure = results / f"{name}.md", results / f"{name}.png"
        files = [path for path in (table, figure) if path.is_file()]
        if not files:
            continue
        found += 1
        target = f"results/{name}.csv" if table.is_file() else f"results/{name}.png"
        parts += [f"## {title}\n", f"    snakemake --cores 4 {target} {options}".rstrip() + "\n", _note(notes, name)]
        if figure.is_file():
            parts.append(f"![{title}](figures/{name}.png)\n")
            (out.parent / "figures").mkdir(parents=True, exist_ok=True)
            with replacing(out.parent / "figures" / f"{name}.png") as partial:
                shutil.copyfile(figure, partial)
        if table.is_file():
            parts.append(read_text(table))
    if not found:
        raise ByeError(f"{results} has no tables or figures; run snakemake first")
    write_text(out, "\n".join(part for part in parts if part))
    return found


def _note(folder, name):
    path = folder / f"{name}.md"
    return read_text(path) if path.is_file() else ""
