"""What is wrong with the entries of the config section tables: said before any job, and nothing left out in silence."""

import itertools
from string import Formatter

from bye.errors import ByeError
from bye.plan.columns import ADAPTER, IDENTITY, KNOWN, MEASURES, PAPER, TEXTS, file_of
from bye.plan.definition import all_have, identifies, shown_text
from bye.plan.entries import (
    FIGURES,
    LISTS,
    cells,
    columns,
    distinct,
    drawn_from,
    evaluated_datasets,
    files_of_cell,
    listed_files,
    method_of,
    names,
    rows_of,
    shows,
)
from bye.plan.paths import UNTOUCHED

OF_GUARDS = ("caught_clean", "caught_triggered")  # columns that a defence acting on generation alone has
OF_FLAGS = {"detection.json", "flags.parquet", "layers.csv"}  # what only a defence on the training set has
# Figures: of what there must be exactly one, what they do not look at, and which columns of their table they draw.
ONE_OF = {
    **dict.fromkeys(("maps", "triggers"), ("models", "datasets")),
    "designs": ("datasets",),
    **dict.fromkeys(("histograms", "purified"), ("attacks", "defences")),
    "ratios": ("models", "datasets", "defences"),
}
UNUSED = {
    **dict.fromkeys(("maps", "triggers"), ("defences",)),
    "purified": ("models",),
    "designs": ("models", "defences"),
}
DRAWN = {
    "bars": ("model", "dataset", "variant", "f1"),
    "layers": ("model", "dataset", "layer", "bsi", "auroc", "sensitive"),
    "false-alarms": ("model", "dataset", "method", "size", "worst"),
    "matrix": ("model", "dataset", "method", "trigger", "rate", "f1", "clean_lost", "ASR_vanilla"),
    "poison-rate": (
        *("model", "dataset", "method", "rate", "recall", "precision"),
        *("ASR_vanilla", "ASR", "dropped"),
    ),
}


def check(config):
    """Raise ByeError where entries cannot be made whole, naming the config keys and why: all that is wrong at once."""
    found = [problem for name in config["tables"] for problem in problems(config, name)]
    if len(found) > 1:
        found = [f"the section tables has {len(found)} problems; mend them:", *found]
    if found:
        raise ByeError("\n  ".join(found))


def problems(config, name):
    """Yield what is wrong with an entry, one sentence each."""
    for part in (_of_names, _of_shape, _of_columns):  # each must hold before the next can be looked at
        found = list(part(config, name))
        yield from found
        if found:
            return
    for part in (_of_cells, _of_identity, _of_order, _of_paper, _of_figure, _of_files):
        yield from part(config, name)


def _of_names(config, name):
    """Keys that the entry names."""
    entry, where = config["tables"][name], _where(name)
    for section, one in LISTS.items():
        if section in entry and one in entry:
            yield f"{where} has both {section} and {one}; keep one of them (null takes the other away)"
        known = [*config[section], *([UNTOUCHED] if section == "attacks" else [])]
        for key in names(config, entry, section):
            if key not in known:
                told = f"{where}.{section if section in entry else one}"
                yield f"{told} names the unknown {one} {key!r}; config knows: {', '.join(known)}"
            elif section == "datasets" and key not in evaluated_datasets(config):
                yield f"{where}.datasets names {key}, without a test set; set datasets.{key}.test"


def _of_shape(config, name):
    """What rows or a figure need beside columns."""
    entry, where = config["tables"][name], _where(name)
    if "columns" not in entry:
        if "figure" not in entry:
            yield f"{where} has neither columns nor figure; say what it shows"
        return
    rows = rows_of(entry)
    given = {section: names(config, entry, section) for section in LISTS}
    if rows == "datasets":
        for section in ("models", "attacks", "defences"):
            if given[section]:
                yield f"{where} has rows that are datasets, and {section}, which they do not have; leave them out"
    else:
        for section, keys in given.items():
            if not keys:
                yield f"{where} has no {section}; name at least one"
    if rows != "cells":
        for key in ("pivot", "best", "paper"):
            if key in entry:
                yield f"{where}.{key} is for rows that are cells, not {rows}; leave it out"
    if rows == "parts" and given["attacks"] != [UNTOUCHED]:
        yield f"{where} has rows that are parts of the untouched set; name the attack {UNTOUCHED}, and no other"
    if rows == "layers":
        if UNTOUCHED in given["attacks"]:
            yield f"{where} compares layers with the truth, and the untouched set has none; leave it out"
        if len(given["defences"]) > 1:
            yield f"{where} has the layers of one detector in its rows, not of {', '.join(given['defences'])}; keep one"
        for key in given["defences"]:
            if "layers.csv" not in method_of(config, key).writes:
                yield f"{where} has rows that are layers, and {key} chooses none; name one that writes layers.csv"


def _of_columns(config, name):
    """Columns by themselves."""
    entry, where = config["tables"][name], f"{_where(name)}.columns"
    known, given = KNOWN[rows_of(entry)], columns(entry)
    defences, runs = names(config, entry, "defences"), cells(config, name)
    for column in given:
        if not {"column", "setting", "labels"} & set(column) or not column.get("name"):
            yield f"{where} has an entry without column, setting or labels and a name: {column}; add them"
        elif "column" in column and column["column"] not in known:
            yield f"{where} names the unknown column {column['column']!r}; known: {', '.join(known)}"
        elif rows_of(entry) != "cells" and not set(column) <= {"name", "column"}:
            yield f"{where}: {column['name']} is for rows that are cells, not {rows_of(entry)}; name a column alone"
        elif "setting" in column:
            yield from _of_setting(config, column, runs, where)
        elif "labels" in column:
            for key in sorted(set(defences) - set(column["labels"])):
                yield f"{where}: the labels of {column['name']} have none for the defence {key}; add it"
        for key in column.get("defences", []):
            if key not in defences:
                has = ", ".join(defences)
                yield f"{where}: {column.get('name')} is of {key}, which is no defence of the entry; it has {has}"
        if "defence" in column and column.get("column") not in {*MEASURES, *TEXTS}:
            yield f"{where}: {column.get('name')} is no number of another defence's cell; leave its defence out"
        elif "defence" in column and column["defence"] not in config["defences"]:
            known_defences = ", ".join(config["defences"])
            yield f"{where} names the unknown defence {column['defence']!r}; config knows: {known_defences}"
    shown = [column.get("name") for column in given]
    for twice in distinct(each for each in shown if shown.count(each) > 1):
        yield f"{where} has two columns of the name {twice}; give one of them another name"


def _of_setting(config, column, runs, where):
    """A column that shows a setting."""
    setting = column["setting"]
    owners = [each for each in ("attack", "defence") if all_have(config, runs, each, setting)]
    if len(owners) > 1 and "of" not in column:
        yield f"{where}: {setting} is a setting of attacks and of defences; say of: attack or of: defence"
    elif column.get("of", owners[0] if owners else None) not in owners:
        lacking = distinct(key for cell in runs for key in (cell.attack, cell.defence))
        yield f"{where} shows the setting {setting!r}, which not all of {', '.join(lacking)} have; leave it out"


def _of_cells(config, name):
    """What columns ask of cells that have no such file."""
    entry, where = config["tables"][name], _where(name)
    told = set()
    for cell, column in itertools.product(cells(config, name), columns(entry)):
        owner = cell.of(column.get("defence", cell.defence))
        method, file = method_of(config, owner.defence), file_of(column.get("column"), cell.attack)
        if "labels" in method.reads and cell.attack == UNTOUCHED:
            told.add(
                f"{where}: {owner.defence} reads the labels, and the untouched set has none; leave one of them out"
            )
        elif file == ADAPTER and shows(column, cell) and method.acts_on not in ("training set", "nothing"):
            told.add(
                f"{where}.columns: {column['name']} is of a fine-tune, and {owner.defence} has none of its own, as it "
                f"acts on {method.acts_on}; leave it out, or give the column the defences that have it"
            )
        elif file in OF_FLAGS and shows(column, cell) and method.acts_on != "training set":
            told.add(
                f"{where}.columns: {column['name']} is a number of flagged samples, and {owner.defence} acts on "
                f"{method.acts_on}; leave it out, or give the column the defences that have it"
            )
        elif column.get("column") in OF_GUARDS and shows(column, cell) and method.acts_on != "generation":
            told.add(
                f"{where}.columns: {column['name']} is of what a guard catches, and {owner.defence} acts on "
                f"{method.acts_on}; leave it out, or give the column the defences that have it"
            )
    yield from sorted(told)


def _of_identity(config, name):
    """Rows that no column tells apart."""
    entry = config["tables"][name]
    if rows_of(entry) != "cells" or "columns" not in entry:
        return
    telling = [column for column in columns(entry) if identifies(column)]
    seen = {}
    for cell in cells(config, name):
        values = [shown_text(config, column, cell) for column in telling]
        if entry.get("pivot"):
            values.append(cell.defence)
        other = seen.setdefault(tuple(values), cell)
        differ = [column for column, key in IDENTITY.items() if getattr(cell, key) != getattr(other, key)]
        if differ:
            one, two = (getattr(each, IDENTITY[differ[0]]) for each in (other, cell))
            told = f"rows of {one} and of {two} that no column tells apart; add the column {differ[0]}"
            yield f"{_where(name)} has {told}"
            return


def _of_order(config, name):
    """Columns that rows are sorted or ranked by."""
    entry, where = config["tables"][name], _where(name)
    shown = {column["name"]: column for column in columns(entry)}
    for key in [*entry.get("sort", []), *entry.get("best", {})]:
        if key not in shown:
            yield f"{where}: {key!r} is to be sorted or ranked by, and is no column; it has {', '.join(shown)}"
        elif key in entry.get("best", {}) and shown[key].get("column") not in MEASURES:
            yield f"{where}.best names {key}, which is no number that can be best; leave it out"


def _of_paper(config, name):
    """Where the paper's numbers are found."""
    entry, where = config["tables"][name], _where(name)
    paper = entry.get("paper", {})
    if {column.get("column") for column in columns(entry)} & set(PAPER) and "table" not in paper:
        yield f"{where} has a column of the paper, and no paper.table that says which; add it"
    for key in ("method", "setting"):
        try:
            fields = [field for _, field, _, _ in Formatter().parse(paper.get(key, "")) if field is not None]
        except ValueError as error:
            yield f"{where}.paper.{key} is {paper[key]!r}, which cannot be filled in ({error}); correct it"
            continue
        for field in fields:
            owners = [each for each in ("attack", "defence") if all_have(config, cells(config, name), each, field)]
            if len(owners) != 1:
                whose = " and ".join(owners) or "neither"
                yield f"{where}.paper.{key} names {field!r}, which is a setting of {whose}; correct it"


def _of_figure(config, name):
    """What a figure is drawn from."""
    entry, where = config["tables"][name], _where(name)
    figure, source = entry.get("figure"), drawn_from(entry)
    if figure is None:
        return
    if source is None:
        yield f"{where}.figure is {figure!r}; known: {', '.join(FIGURES)}"
        return
    if source == "its table":
        missing = set(DRAWN[figure]) - {column["name"] for column in columns(entry)}
        if missing:
            drawn, lacking = ", ".join(DRAWN[figure]), ", ".join(sorted(missing))
            yield f"{where}.figure {figure} draws the columns {drawn}; add {lacking}"
        return
    given = {section: names(config, entry, section) for section in LISTS}
    for section, keys in given.items():
        if section in UNUSED.get(figure, ()):
            if keys:
                yield f"{where}.figure {figure} looks at no {section}; leave them out"
        elif not keys:
            yield f"{where} has no {section}; name at least one"
        elif section in ONE_OF[figure] and len(keys) > 1:
            yield f"{where}.figure {figure} is of one of the {section}, not of {', '.join(keys)}; name one"
    if UNTOUCHED in given["attacks"]:
        yield f"{where} shows clean and poisoned samples, and the untouched set has none; leave it out"
    for key in given["defences"]:
        method = method_of(config, key)
        if source == "flags" and "layers.csv" not in method.writes:
            yield f"{where}.figure {figure} shows how BYE's scores divide, and {key} has none; name another defence"
        if source == "guarded" and method.acts_on != "generation":
            yield f"{where}.figure {figure} shows what a guard hides, and {key} is none; name another defence"
        if source == "purified images" and method.acts_on != "test images":
            yield f"{where}.figure {figure} shows what acts on test images, and {key} does not; name another defence"


def _of_files(config, name):
    """Files of cells that are to be made with the entry."""
    for file in config["tables"][name].get("files", []):
        named = [] if isinstance(file, str) else file["defences"]
        strange = [key for key in named if key not in names(config, config["tables"][name], "defences")]
        if strange:
            yield f"{_where(name)}.files asks for {file['file']} of {strange[0]}, which is not among its defences"
            return
    for cell, file in listed_files(config, name):
        made = files_of_cell(config, cell)
        if file not in made:
            yield f"{_where(name)}.files names {file}, which a cell of {cell.defence} has not; it has {', '.join(made)}"
            return


def _where(name):
    return f"config key tables.{name}"
