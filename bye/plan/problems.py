"""What is wrong with the entries of the config section tables: said before any job, and nothing left out in silence."""

import itertools
from string import Formatter

from bye.errors import ByeError
from bye.plan.columns import IDENTITY, KNOWN, PAPER, file_of
from bye.plan.entries import (
    FIGURES,
    LISTS,
    cells,
    columns,
    drawn_from,
    evaluated_datasets,
    method_of,
    names,
    rows_of,
    shows,
)
from bye.plan.paths import UNTOUCHED

OF_FLAGS = {"detection.json", "flags.parquet", "layers.csv"}  # what only a defence on the training set has
SECTIONS = {one: section for section, one in LISTS.items()}


def check(config):
    """Raise ByeError where entries cannot be made whole, naming the config keys and why: all that is wrong at once."""
    found = [problem for name in config["tables"] for problem in problems(config, name)]
    if len(found) > 1:
        found = [f"the section tables has {len(found)} problems; mend them:", *found]
    if found:
        raise ByeError("\n  ".join(found))


def problems(config, name):
    """Yield what is wrong with an entry, one sentence each."""
    entry, where = config["tables"][name], f"config key tables.{name}"
    for section, one in LISTS.items():
        if section in entry and one in entry:
            yield f"{where} has both {section} and {one}; keep one of them"
        for key in names(config, entry, section):
            known = [*config[section], *([UNTOUCHED] if section == "attacks" else [])]
            if key not in known:
                told = f"{where}.{section if section in entry else one}"
                yield f"{told} names the unknown {one} {key!r}; config knows: {', '.join(known)}"
                return
    for key in names(config, entry, "datasets"):
        if key not in evaluated_datasets(config):
            yield f"{where}.datasets names {key}, without a test set; set datasets.{key}.test"
    if "columns" not in entry and "figure" not in entry:
        yield f"{where} has neither columns nor figure; say what it shows"
    yield from _column_problems(config, name)
    yield from _figure_problems(config, name)


def _column_problems(config, name):
    entry, where = config["tables"][name], f"config key tables.{name}"
    known = KNOWN[rows_of(entry)]
    given = columns(entry)
    for column in given:
        if "column" in column and column["column"] not in known:
            yield f"{where}.columns names the unknown column {column['column']!r}; known: {', '.join(known)}"
            return
        if not {"column", "setting", "labels"} & set(column) or not column.get("name"):
            yield f"{where}.columns has an entry without column, setting or labels and a name: {column}; add them"
            return
        for key in [*column.get("defences", []), *([column["defence"]] if "defence" in column else [])]:
            if key not in config["defences"]:
                known = ", ".join(config["defences"])
                yield f"{where}.columns names the unknown defence {key!r}; config knows: {known}"
                return
    if "columns" not in entry:
        return
    if rows_of(entry) == "cells":
        for section in LISTS:
            if section != "datasets" and not names(config, entry, section):
                yield f"{where} has no {section}; name at least one"
                return
        yield from _cell_problems(config, name)
        yield from _ambiguous(config, name)
    yield from _setting_problems(config, name)
    shown = {column["name"] for column in given}
    for key in [*entry.get("sort", []), *entry.get("best", {})]:
        if key not in shown:
            yield f"{where}: {key!r} is to be sorted or ranked by, and is no column; it has {', '.join(shown)}"
    if {column.get("column") for column in given} & set(PAPER) and "table" not in entry.get("paper", {}):
        yield f"{where} has a column of the paper, and no paper.table that says which; add it"


def _cell_problems(config, name):
    """What columns ask of cells that have no such file."""
    where = f"config key tables.{name}"
    for cell, column in itertools.product(cells(config, name), columns(config["tables"][name])):
        owner = cell.of(column.get("defence", cell.defence))
        method, file = method_of(config, owner.defence), file_of(column.get("column"))
        if "labels" in method.reads and cell.attack == UNTOUCHED:
            yield f"{where}: {owner.defence} reads the labels, and the untouched set has none; leave one of them out"
            return
        if file in OF_FLAGS and shows(column, cell) and method.acts_on != "training set":
            yield (
                f"{where}.columns: {column['name']} is a number of flagged samples, and {owner.defence} acts on "
                f"{method.acts_on}; leave it out, or give the column the defences that have it"
            )
            return


def _setting_problems(config, name):
    """Settings that columns show, or that say where the paper's number is, which the rows do not have."""
    entry, where = config["tables"][name], f"config key tables.{name}"
    shown = [column["setting"] for column in columns(entry) if "setting" in column]
    templates = [entry.get("paper", {}).get(key, "") for key in ("method", "setting")]
    for key in [*shown, *(field for text in templates for _, field, _, _ in Formatter().parse(text) if field)]:
        for cell in cells(config, name):
            attack = {} if cell.attack == UNTOUCHED else config["attacks"][cell.attack]
            if key not in attack and key not in config["defences"][cell.defence]:
                yield f"{where} shows the setting {key!r}, which {cell.attack} and {cell.defence} lack; leave it out"
                return


def _ambiguous(config, name):
    """Rows that no column tells apart."""
    entry = config["tables"][name]
    shown = {column["name"] for column in columns(entry)} | {column.get("column") for column in columns(entry)}
    turned = IDENTITY.get(entry.get("pivot"))
    telling = {"attack": {"attack", "rate"}, "defence": {"method", *_texts_by(columns(entry))}}
    for key in IDENTITY.values():
        values = {getattr(cell, key) for cell in cells(config, name)}
        if len(values) > 1 and not shown & telling.get(key, {key}) and turned != key:
            column, found = "method" if key == "defence" else key, ", ".join(sorted(map(str, values)))
            yield (
                f"config key tables.{name} has cells of several {SECTIONS[key]} ({found}) "
                f"and no column that says which; add the column {column}"
            )


def _texts_by(given):
    """Names of columns that show a setting or a label."""
    return {column["name"] for column in given if "setting" in column or "labels" in column}


def _figure_problems(config, name):
    entry, where, source = config["tables"][name], f"config key tables.{name}", drawn_from(config["tables"][name])
    if "figure" not in entry:
        return
    if source is None:
        yield f"{where}.figure is {entry['figure']!r}; known: {', '.join(FIGURES)}"
        return
    if source == "its table":
        if "columns" not in entry:
            yield f"{where}.figure {entry['figure']} is drawn from the entry's table, and it has no columns; add them"
        return
    for section in (*("models", "datasets", "attacks"), *(("defences",) if source != "samples" else ())):
        if not names(config, entry, section) and not (section == "models" and source == "purified images"):
            yield f"{where} has no {section}; name at least one"
            return
    if UNTOUCHED in names(config, entry, "attacks"):
        yield f"{where} shows clean and poisoned samples, and the untouched set has none; leave it out"
    wanted = {"flags": "training set", "purified images": "test images"}.get(source)
    for key in names(config, entry, "defences") if wanted else ():
        if method_of(config, key).acts_on != wanted:
            yield f"{where}.figure {entry['figure']} shows a defence that acts on {wanted}, and {key} does not"
