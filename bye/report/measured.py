"""What the tables of a run say of its cells, and the verdict on the run: three lines, with the failures in them."""

from pathlib import Path

from bye.files import read_csv
from bye.plan import entries
from bye.plan.columns import MEASURES
from bye.plan.definition import identifies, shown_text
from bye.plan.paths import UNTOUCHED

FORMED = 80.0  # attack success, per cent, of a plain fine-tune with a backdoor
STAYS = 5.0  # attack success above which a backdoor is still there
FOUND = 90.0  # F1 of a poison that was found
LOST = 1.0  # per cent of an untouched set, more than which is a loss
NAMED = 6  # cells that a line names


def rows_with_cells(config, name, path):
    """Return [(row, its Cell or None), ...] of a table: of several seeds the first. None where rows are no cells.

    config: as `bye.config` leaves it; name: of the entry; path: of its CSV.
    """
    entry, rows = config["tables"][name], read_csv(path)
    if entries.rows_of(entry) != "cells" or entry.get("pivot"):
        return [(row, None) for row in rows]
    columns = [column for column in entries.columns(entry) if identifies(column)]
    cells = {}
    for cell in entries.cells(config, name):
        cells.setdefault(tuple(str(shown_text(config, column, cell)) for column in columns), cell)
    return [(row, cells.get(tuple(row.get(column["name"]) for column in columns))) for row in rows]


def measured(config, results):
    """Return {(model, dataset, attack, defence): {measure: number}} of all tables that a results folder has."""
    found = {}
    for name, entry in config["tables"].items():
        path = Path(results) / f"{name}.csv"
        if "columns" not in entry or not path.is_file():
            continue
        for row, cell in rows_with_cells(config, name, path):
            for column in entries.columns(entry) if cell else ():
                number = row.get(column["name"])
                if column.get("column") in MEASURES and number:
                    owner = cell.of(column.get("defence", cell.defence))
                    key = (owner.model, owner.dataset, owner.attack, owner.defence)
                    found.setdefault(key, {})[column["column"]] = float(number)
    return found


def verdict(config, results):
    """Return three (mark, text) pairs on a run, from the tables that are there; a mark is "good", "bad" or "".

    Spoken of are detectors: defences whose flags some table judges, and that read no labels. Where it is known that a
    backdoor did not form, the cell counts neither for nor against one.
    """
    numbers, plain = measured(config, results), entries.plain_defence(config)
    judged = {key[3] for key, each in numbers.items() if {"f1", "clean_lost", "dropped"} & set(each)}
    detectors = {key for key in judged if "labels" not in entries.method_of(config, key).reads}
    cells = {key: each for key, each in numbers.items() if key[3] in detectors}
    unformed = {key[:3] for key, each in numbers.items() if key[3] == plain and each.get("ASR", FORMED) < FORMED}
    poisoned = {key: each for key, each in cells.items() if key[2] != UNTOUCHED and key[:3] not in unformed}
    cleaned = {key: each["ASR"] for key, each in poisoned.items() if "ASR" in each}
    trained = {key[3] for key in cleaned}
    scored = {key: each["f1"] for key, each in poisoned.items() if "f1" in each and (key[3] in trained or not trained)}
    untouched = {key: each for key, each in cells.items() if key[2] == UNTOUCHED}
    lost = {key: each.get("clean_lost", each.get("dropped")) for key, each in untouched.items()}
    lost = {key: share for key, share in lost.items() if share is not None}
    return [
        _line(
            "Backdoors that stay after cleaning",
            f"attack success above {STAYS:g} %",
            cleaned,
            {key: share for key, share in cleaned.items() if share > STAYS},
        ),
        _line(
            "Poison that is not found",
            f"F1 below {FOUND:g} %",
            scored,
            {key: -share for key, share in scored.items() if share < FOUND},
        ),
        _line(
            "Untouched sets that lose samples",
            f"more than {LOST:g} %",
            lost,
            {key: share for key, share in lost.items() if share > LOST},
        ),
    ]


def _line(what, bound, cells, failures):
    """A line: how many of the cells fail, and which, the worst first. failures: {key: how bad}."""
    if not cells:
        return "", f"{what}: no table tells."
    if not failures:
        return "good", f"{what} ({bound}): none of {len(cells)} cells."
    worst = sorted(failures, key=lambda key: (-failures[key], key))
    named = [f"{' '.join(key)} ({cells[key]:.4g} %)" for key in worst[:NAMED]]
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return "bad", f"{what} ({bound}): {len(failures)} of {len(cells)} cells: {', '.join(named)}{more}."
