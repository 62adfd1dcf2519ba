"""What the stage `table` is told of an entry of the config section tables, as JSON values."""

from bye.plan.columns import IDENTITY, PAPER
from bye.plan.entries import LISTS, cells, columns, distinct, method_of, names, plain_defence, rows_of
from bye.plan.paths import BENCHMARKS, UNTOUCHED
from bye.registry import COLUMNS as FEATURES


def definition(config, name):
    """Return what the stage `table` is told of an entry, as JSON values: columns, order, caption, texts of settings."""
    entry = config["tables"][name]
    told = {"caption": entry["caption"], "rows": rows_of(entry), "columns": columns(entry)}
    told |= {key: entry[key] for key in ("sort", "best", "pivot") if key in entry}
    if rows_of(entry) == "datasets":
        return told | {"formats": {key: config["datasets"][key]["format"] for key in names(config, entry, "datasets")}}
    if rows_of(entry) in ("layers", "parts"):
        return told
    told |= {section: names(config, entry, section) for section in LISTS} | {"seeds": config["seeds"]}
    runs = cells(config, name)
    shown = {column.get("column") for column in told["columns"]}
    for column in told["columns"]:
        if "setting" in column or "labels" in column:
            column["by"] = section_of(config, column, runs)
            keys = distinct(getattr(cell, column["by"]) for cell in runs)
            column["texts"] = {key: _text_of(config, column, column["by"], key) for key in keys}
    if "rate" in shown:
        told["rates"] = {cell.attack: rate_of(config, cell.attack) for cell in runs}
    if shown & {"note", "told"} or "best" in entry:
        told["reads"] = {key: sorted(method_of(config, key).reads) for key in distinct(cell.defence for cell in runs)}
    if "told" in shown:
        told["told"] = {key: _told(config, key) for key in distinct(cell.defence for cell in runs)}
    files_of = {"seconds": benchmarks, "answer_seconds": answer_benchmarks, "finetune_seconds": fine_tune_benchmarks}
    for column in sorted(shown & set(files_of)):
        files = told.setdefault("benchmarks", {}).setdefault(column, {})
        for cell in runs:
            key = f"{cell.model}/{cell.defence}/{cell.dataset}/{cell.attack}"
            files.setdefault(key, []).extend(files_of[column](config, cell))
    if "tuning" in shown:
        told["tuning"] = {key: config["models"][key]["tuning"] for key in names(config, entry, "models")}
    if shown & set(PAPER) or entry.get("paper", {}).get("facts"):
        told["paper"] = _paper(config, entry, runs)
    return told


def _told(config, defence):
    """The settings by which a defence is told something about the poison, as texts; those that are left out are not."""
    method, given = method_of(config, defence), config["defences"][defence]
    values = {name: given.get(name, method.settings[name].default) for name in method.told}
    return [f"{name} {value}" for name, value in values.items() if value is not None]


def benchmarks(config, cell):
    """Return Snakemake's benchmark files of the steps that a detector takes after the plain fine-tune."""
    method = method_of(config, cell.defence)
    run = f"{cell.model}.{cell.dataset}.{cell.attack}.s{cell.seed}"
    steps = [f"attention/{run}"] if set(method.reads) & set(FEATURES) else []
    return [f"{BENCHMARKS}/{step}.tsv" for step in [*steps, f"{detect_rule(method)}/{run}.{cell.defence}"]]


def answer_benchmarks(config, cell):
    """Return Snakemake's benchmark files of the steps from a test set to its answers: purification and evaluation."""
    evaluated = f"evaluate/{cell.model}.{cell.dataset}.{cell.attack}.s{cell.seed}.{cell.defence}"
    if method_of(config, cell.defence).acts_on != "test images":
        return [f"{BENCHMARKS}/{evaluated}.tsv"]
    steps = [f"purify_test/{cell.dataset}.s{cell.seed}.{cell.defence}"]
    if cell.attack != UNTOUCHED:
        steps.append(f"purify_triggered/{cell.dataset}.{cell.attack}.s{cell.seed}.{cell.defence}")
    return [f"{BENCHMARKS}/{step}.tsv" for step in [*steps, evaluated]]


def fine_tune_benchmarks(config, cell):
    """Return Snakemake's benchmark file of the fine-tune of a cell."""
    rule = "finetune_vanilla" if cell.defence == plain_defence(config) else "finetune"
    return [f"{BENCHMARKS}/{rule}/{cell.model}.{cell.dataset}.{cell.attack}.s{cell.seed}.{cell.defence}.tsv"]


def detect_rule(method):
    """Return the name of the rule that runs a detector: one for each set of files that detectors write."""
    return "_".join(["detect", *(name.partition(".")[0] for name in method.writes)])


def _paper(config, entry, runs):
    """Where the paper's number of each cell is found: table, the paper's names of models, methods and settings."""
    source = entry["paper"]
    methods, settings = {}, {}
    for cell in runs:
        values = settings_of(config, "defence", cell.defence) | settings_of(config, "attack", cell.attack)
        methods[cell.defence] = str(source.get("method", cell.defence)).format_map(values)
        settings[f"{cell.defence}/{cell.attack}"] = str(source.get("setting", "default")).format_map(values)
    models = {key: config["models"][key]["paper"] for key in names(config, entry, "models")}
    return {
        "table": source["table"],
        "models": {key: paper for key, paper in models.items() if paper},
        "methods": methods,
        "settings": settings,
        "facts": bool(source.get("facts")),
    }


def identifies(column):
    """Whether a column says which cell a row is, and is no number of it."""
    return column.get("column") in (*IDENTITY, "rate", "tuning") or "setting" in column or "labels" in column


def shown_text(config, column, cell):
    """Return what a column that identifies a row has for a cell."""
    if column.get("column") in IDENTITY:
        return getattr(cell, IDENTITY[column["column"]])
    if column.get("column") == "rate":
        return rate_of(config, cell.attack)
    if column.get("column") == "tuning":
        return config["models"][cell.model]["tuning"]
    section = section_of(config, column, [cell])
    return _text_of(config, column, section, getattr(cell, section))


def section_of(config, column, runs):
    """Return whose the setting or the labels of a column are: "attack" or "defence"."""
    if "labels" in column:
        return "defence"
    of_attacks = all_have(config, runs, "attack", column["setting"])
    return column.get("of", "attack" if of_attacks else "defence")


def all_have(config, runs, section, setting):
    """Whether all attacks ("attack"; the untouched set is none), or all defences, of cells have a setting."""
    keys = {getattr(cell, section) for cell in runs} - ({UNTOUCHED} if section == "attack" else set())
    return bool(keys) and all(setting in settings_of(config, section, key) for key in keys)


def settings_of(config, section, key):
    """Return the settings of an attack or a defence: {} of the untouched set."""
    return {} if key == UNTOUCHED and section == "attack" else config[f"{section}s"][key]


def rate_of(config, attack):
    """Return the poison rate of an attack in per cent, as text."""
    return f"{100 * settings_of(config, 'attack', attack).get('rate', 0):g}"


def _text_of(config, column, section, key):
    """What a column of settings or labels has for an attack or a defence."""
    if "labels" in column:
        return column["labels"][key]
    value = settings_of(config, section, key).get(column["setting"], UNTOUCHED)
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
