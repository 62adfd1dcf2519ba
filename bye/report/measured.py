"""What the tables of a run say of its cells, and the verdict on the run: three lines, with the failures in them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bye.errors import first
from bye.files import read_csv
from bye.plan import entries
from bye.plan.columns import MEASURES, file_of
from bye.plan.definition import identifies, shown_text
from bye.plan.paths import UNTOUCHED

FORMED = 80.0  # attack success, per cent, of a plain fine-tune with a backdoor
STAYS = 5.0  # attack success above which a backdoor is still there
FOUND = 90.0  # F1 of a poison that was found
LOST = 1.0  # per cent of an untouched set, more than which is a loss
NAMED = 6  # cells that a line names
WORST = "worst"  # the column of a table of parts that has the highest share flagged in any of them


def rows_with_cells(config, name, path):
    """Return [(row, its Cell or None), ...] of a table: of several seeds the first. None where rows are not of cells.

    config: as `bye.config` leaves it; name: of the entry; path: of its CSV.
    """
    entry, rows = config["tables"][name], read_csv(path)
    if entries.rows_of(entry) not in ("cells", "parts") or entry.get("pivot"):
        return [(row, None) for row in rows]
    columns = [column for column in entries.columns(entry) if identifies(column)]
    cells = {}
    for cell in entries.cells(config, name):
        cells.setdefault(tuple(str(shown_text(config, column, cell)) for column in columns), cell)
    return [(row, cells.get(tuple(row.get(column["name"]) for column in columns))) for row in rows]


def has_numbers(row, entry):
    """Whether a row of a table of an entry has anything that was measured."""
    names = [column["name"] for column in entries.columns(entry) if file_of(column.get("column"), UNTOUCHED)]
    return not names or any(row.get(name) for name in names)


def measured(config, results):
    """Return {(model, dataset, attack, defence): {measure: number}} of all tables that a results folder has; of parts
    of untouched sets it is the highest share that any of them loses."""
    found = {}
    for name, entry in config["tables"].items():
        path = Path(results) / f"{name}.csv"
        if "columns" not in entry or not path.is_file():
            continue
        for row, cell in rows_with_cells(config, name, path):
            for column in entries.columns(entry) if cell else ():
                number, what = row.get(column["name"]), column.get("column")
                if number and (what in MEASURES or what == WORST):
                    owner = cell.of(column.get("defence", cell.defence))
                    each = found.setdefault(key_of(owner), {})
                    each[what] = max(float(number), each.get(what, 0)) if what == WORST else float(number)
    return found


def key_of(cell):
    """Return a cell without its seed: (model, dataset, attack, defence)."""
    return cell.model, cell.dataset, cell.attack, cell.defence


@dataclass(frozen=True)
class Line:
    """A line of the verdict: what fails, from where on, {key of a cell: per cent}, {key of one that fails: how bad}."""

    what: str
    bound: str
    cells: dict
    failures: dict


def lines(config, results):
    """Return the three Lines of the verdict on a run, from the tables that are there.

    Spoken of are detectors: defences whose flags some table judges, and that read no labels. Where it is known that a
    backdoor did not form, the cell counts neither for nor against one. F1 is that of detectors that a model was cleaned
    by or that stand in the matrix, if there are such; the others are variants of one.
    """
    numbers, plain = measured(config, results), entries.plain_defence(config)
    judged = {key[3] for key, each in numbers.items() if {"f1", "clean_lost", "dropped", WORST} & set(each)}
    detectors = {key for key in judged if "labels" not in entries.method_of(config, key).reads}
    cells = {key: each for key, each in numbers.items() if key[3] in detectors}
    unformed = {key[:3] for key, each in numbers.items() if key[3] == plain and each.get("ASR", FORMED) < FORMED}
    poisoned = {key: each for key, each in cells.items() if key[2] != UNTOUCHED and key[:3] not in unformed}
    cleaned = {key: each["ASR"] for key, each in poisoned.items() if "ASR" in each}
    compared = {key[3] for key in cleaned}
    for entry in config["tables"].values():
        compared |= detectors & set(entries.names(config, entry, "defences") if entry.get("figure") == "matrix" else ())
    scored = {key: each["f1"] for key, each in poisoned.items() if "f1" in each}
    scored = {key: share for key, share in scored.items() if key[3] in compared or not compared}
    untouched = {key: each for key, each in cells.items() if key[2] == UNTOUCHED}
    lost = {key: _lost(each) for key, each in untouched.items() if _lost(each) is not None}
    of_parts = ", also of a random part" if any(WORST in each for each in untouched.values()) else ""
    return [
        Line(
            "Backdoors that stay after cleaning",
            f"attack success above {STAYS:g} %",
            cleaned,
            {key: share for key, share in cleaned.items() if share > STAYS},
        ),
        Line(
            "Poison that is not found",
            f"F1 below {FOUND:g} %",
            scored,
            {key: -share for key, share in scored.items() if share < FOUND},
        ),
        Line(
            "Untouched sets that lose samples",
            f"more than {LOST:g} %{of_parts}",
            lost,
            {key: share for key, share in lost.items() if share > LOST},
        ),
    ]


def _lost(measures):
    """The highest share of an untouched set, or of a part of it, that is known to be lost, or None."""
    return max((measures[name] for name in ("clean_lost", "dropped", WORST) if name in measures), default=None)


def verdict(config, results):
    """Return the verdict on a run as three (mark, text) pairs; a mark is "good", "bad" or "" (see `lines`)."""
    return [_told(line) for line in lines(config, results)]


def _told(line):
    """How many of the cells fail, of each detector, and which: first those of the one that fails least, the worst
    first."""
    if not line.cells:
        return "", f"{line.what}: no table tells."
    totals, failed = (Counter(key[3] for key in part) for part in (line.cells, line.failures))
    ranked = sorted(totals, key=lambda name: (failed[name] / totals[name], name))
    each = ", ".join(f"{name} {failed[name]} of {totals[name]}" for name in ranked)
    each = f"; by detector {each}. Among them" if len(totals) > 1 else ":"
    if not line.failures:
        return "good", f"{line.what} ({line.bound}): none of {len(line.cells)} cells."
    worst = sorted(line.failures, key=lambda key: (ranked.index(key[3]), -line.failures[key], key))
    named = [f"{' '.join(key)} ({line.cells[key]:.4g} %)" for key in worst]
    counts = f"{len(line.failures)} of {len(line.cells)} cells{each}"
    return "bad", f"{line.what} ({line.bound}): {counts} {', '.join(first(named, NAMED))}."
