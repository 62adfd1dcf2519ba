"""What the stage `table` is told of an entry of the config section tables, as JSON values."""

from bye.plan.columns import PAPER
from bye.plan.entries import LISTS, cells, columns, distinct, method_of, names, rows_of
from bye.plan.paths import BENCHMARKS, UNTOUCHED
from bye.registry import COLUMNS as FEATURES


def definition(config, name):
    """Return what the stage `table` is told of an entry, as JSON values: columns, order, caption, texts of settings."""
    entry = config["tables"][name]
    told = {"caption": entry["caption"], "rows": rows_of(entry), "columns": columns(entry)}
    told |= {key: entry[key] for key in ("sort", "best", "pivot") if key in entry}
    if rows_of(entry) == "datasets":
        return told | {"formats": {key: config["datasets"][key]["format"] for key in names(config, entry, "datasets")}}
    if rows_of(entry) == "layers":
        return told
    told |= {section: names(config, entry, section) for section in LISTS} | {"seeds": config["seeds"]}
    runs = cells(config, name)
    shown = {column.get("column") for column in told["columns"]}
    for column in told["columns"]:
        if "setting" in column:
            column["texts"] = _setting_texts(config, runs, column["setting"])
            column["by"] = "attack" if column["setting"] in _keys_of(config, "attacks", runs) else "defence"
        elif "labels" in column:
            column["texts"], column["by"] = column["labels"], column.get("by", "defence")
    if "rate" in shown:
        attacks = distinct(cell.attack for cell in runs)
        rates = {key: 0 if key == UNTOUCHED else config["attacks"][key]["rate"] for key in attacks}
        told["rates"] = {key: f"{100 * rate:g}" for key, rate in rates.items()}
    if shown & {"note", "told"} or "best" in entry:
        told["reads"] = {key: sorted(method_of(config, key).reads) for key in distinct(cell.defence for cell in runs)}
    if "seconds" in shown:
        told["benchmarks"] = {}
        for cell in runs:
            key = f"{cell.model}/{cell.defence}/{cell.dataset}/{cell.attack}"
            told["benchmarks"].setdefault(key, []).extend(benchmarks(config, cell))
    if shown & set(PAPER) or entry.get("paper", {}).get("facts"):
        told["paper"] = _paper(config, entry, runs)
    return told


def benchmarks(config, cell):
    """Return Snakemake's benchmark files of the steps that a detector takes after the plain fine-tune."""
    method = method_of(config, cell.defence)
    run = f"{cell.model}.{cell.dataset}.{cell.attack}.s{cell.seed}"
    steps = [f"attention/{run}"] if set(method.reads) & set(FEATURES) else []
    return [f"{BENCHMARKS}/{step}.tsv" for step in [*steps, f"{detect_rule(method)}/{run}.{cell.defence}"]]


def detect_rule(method):
    """Return the name of the rule that runs a detector: one for each set of files that detectors write."""
    return "_".join(["detect", *(name.partition(".")[0] for name in method.writes)])


def _paper(config, entry, runs):
    """Where the paper's number of each cell is found: table, the paper's names of models, methods and settings."""
    source = entry["paper"]
    methods, settings = {}, {}
    for cell in runs:
        values = _settings(config, "defences", cell.defence) | _settings(config, "attacks", cell.attack)
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


def _settings(config, section, key):
    return {} if key == UNTOUCHED else config[section][key]


def _keys_of(config, section, runs):
    """The settings that all entries of a section have which the cells name."""
    keys = distinct(cell.attack if section == "attacks" else cell.defence for cell in runs)
    return set.intersection(*(set(_settings(config, section, key)) for key in keys)) if keys else set()


def _setting_texts(config, runs, setting):
    section = "attacks" if setting in _keys_of(config, "attacks", runs) else "defences"
    keys = distinct(cell.attack if section == "attacks" else cell.defence for cell in runs)
    values = {key: _settings(config, section, key).get(setting) for key in keys}
    return {key: f"{value:g}" if isinstance(value, int | float) else str(value) for key, value in values.items()}
