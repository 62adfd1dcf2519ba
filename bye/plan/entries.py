"""The entries of the config section tables: the cells of each, the files it is made of, and what its stage is told.

An entry with `columns` is a table, results/NAME.csv with its twins; one with `figure` is a picture, results/NAME.png
and .pdf; one may be both. Nothing that it names is left out in silence: `problems` says what cannot be had and why.
"""

import itertools
from dataclasses import dataclass

from bye.plan.columns import file_of, needs_poison
from bye.plan.paths import ATTACKED, CELL, CLEAN, LABELS, PARTS, RAW, UNTOUCHED
from bye.registry import find

LISTS = {
    "models": "model",
    "datasets": "dataset",
    "attacks": "attack",
    "defences": "defence",
}  # or one, in the singular
# Figures: what each is drawn from.
FIGURES = {
    **dict.fromkeys(("bars", "false-alarms", "layers", "matrix", "poison-rate"), "its table"),
    "histograms": "flags",
    **dict.fromkeys(("maps", "triggers"), "samples"),
    "purified": "purified images",
    "designs": "triggered images",
    "ratios": "guarded",
}
SHOW_IMAGES = ("samples", "purified images", "triggered images", "guarded")  # what shows images of single samples


@dataclass(frozen=True)
class Cell:
    """One model, dataset, attack, seed and defence (keys of the configuration)."""

    model: str
    dataset: str
    attack: str
    seed: int
    defence: str

    def path(self, name):
        """The path of one of its files."""
        return f"{CELL}/{name}".format(**vars(self))

    def of(self, defence):
        """The cell of another defence on the same run."""
        return Cell(self.model, self.dataset, self.attack, self.seed, defence)

    @property
    def run(self):
        """The cell without its defence."""
        return self.model, self.dataset, self.attack, self.seed


def plain_defence(config):
    """Return the key of the plain fine-tune: the one defence of kind none."""
    return next(key for key, defence in config["defences"].items() if defence["kind"] == "none")


def evaluated_datasets(config):
    """Return the keys of the datasets that have a test set."""
    return [key for key, dataset in config["datasets"].items() if dataset.get("test")]


def names(config, entry, section):
    """Return the keys of a section that an entry names: a list, one alone, or (of datasets) all that are evaluated."""
    if section in entry:
        return entry[section]
    if LISTS[section] in entry:
        return [entry[LISTS[section]]]
    return evaluated_datasets(config) if section == "datasets" else []


def cells(config, name):
    """Return the cells of an entry in the configuration's order; of a figure that has no table, of the first seed."""
    entry = config["tables"][name]
    seeds = config["seeds"][:1] if drawn_from(entry) in ("flags", *SHOW_IMAGES) else config["seeds"]
    keys = [names(config, entry, section) for section in LISTS]
    if not keys[3]:
        keys[3] = [plain_defence(config)]
    products = itertools.product(*keys[:3], seeds, keys[3])
    return [Cell(model, dataset, attack, seed, defence) for model, dataset, attack, seed, defence in products]


def rows_of(entry):
    """Return what the rows of a table are: cells, datasets, layers or parts."""
    return entry.get("rows", "cells")


def drawn_from(entry):
    """Return what the figure of an entry is drawn from, or None."""
    return FIGURES.get(entry.get("figure"))


def columns(entry):
    """Return the columns of an entry, each a dict with a name."""
    found = []
    for column in entry.get("columns", []):
        column = {"column": column} if isinstance(column, str) else dict(column)
        default = column.get("column") or column.get("setting")
        found.append({"name": default, **column})
    return found


def files_of_cell(config, cell):
    """Return the names of the files that the workflow makes of a cell."""
    method, poisoned = method_of(config, cell.defence), cell.attack != UNTOUCHED
    answers = ["eval.json", "predictions.parquet"]
    if method.acts_on == "nothing":
        return ["adapter", "loss.csv", "attention.parquet", *(["maps.npz"] if poisoned else []), *answers]
    if method.acts_on != "training set":
        return answers
    found = ["flags.parquet", *method.writes, "kept.json", "dropped.json", "adapter", "loss.csv", *answers]
    found += ["evidence.json", "detection.json" if poisoned else PARTS]
    return found + (["entropy.png"] if "layers.csv" in method.writes else [])


def shows(column, cell):
    """Whether a column has a number for a cell: it may be of some defences only, or exist only where poison is."""
    if column.get("defences") and cell.defence not in column["defences"]:
        return False
    return cell.attack != UNTOUCHED or not needs_poison(column.get("column"))


def method_of(config, defence):
    """Return the Method of a defence."""
    return find("defence", config["defences"][defence]["kind"])


# ---- files -----------------------------------------------------------------------------------------------------------


def cell_files(config, name):
    """Return {(cell, file name)} in order, as a list: what the columns of a table of cells are read from."""
    wanted = {}
    for cell, column in itertools.product(cells(config, name), columns(config["tables"][name])):
        file = file_of(column.get("column"), cell.attack)
        if file is not None and shows(column, cell):
            wanted[cell.of(column.get("defence", cell.defence)), file] = None
    return list(wanted)


def table_files(config, name):
    """Return the files that a table is made of, as {option of the stage: paths}."""
    entry = config["tables"][name]
    if rows_of(entry) == "datasets":
        folders = [CLEAN.format(dataset=key, seed=config["seeds"][0]) for key in names(config, entry, "datasets")]
        return {"cells": [f"{folder}/{part}.json" for folder in folders for part in ("train", "test")]}
    if rows_of(entry) == "layers":
        runs = cells(config, name)
        plain = plain_defence(config)
        attention = [cell.of(plain).path("attention.parquet") for cell in runs]
        return {
            "cells": distinct([*attention, *(cell.path("layers.csv") for cell in runs)]),
            "labels": label_files(runs),
        }
    if rows_of(entry) == "parts":
        return {"cells": [cell.path(PARTS) for cell in cells(config, name)]}
    files = {"cells": [cell.path(file) for cell, file in cell_files(config, name)]}
    told = [cell for cell in cells(config, name) if _reads(config, cell.defence, "reference")]
    if any(column.get("column") == "told" for column in columns(entry)) and told:
        files["reference"] = distinct(
            reference_file(config, cell.dataset).format(dataset=cell.dataset, seed=cell.seed) for cell in told
        )
    return files


def figure_files(config, name):
    """Return the files that a figure is drawn from, as {option of the stage: paths}."""
    entry, source = config["tables"][name], drawn_from(config["tables"][name])
    if source == "its table":
        return {"table": f"results/{name}.csv"}
    runs = cells(config, name)
    if source == "flags":
        return {"cells": [cell.path("flags.parquet") for cell in runs], "labels": label_files(runs)}
    if source == "samples":
        plain = plain_defence(config)
        return {
            "maps": [cell.of(plain).path("maps.npz") for cell in runs],
            "samples": [f"{ATTACKED}/train.json".format(**vars(cell)) for cell in runs],
            "labels": [LABELS.format(**vars(cell)) for cell in runs],
        }
    if source == "guarded":
        plain = plain_defence(config)
        return {
            "attention": [cell.of(plain).path("attention.parquet") for cell in runs],
            "labels": [LABELS.format(**vars(cell)) for cell in runs],
            "predictions": [cell.path("predictions.parquet") for cell in runs],
            "samples": [f"{ATTACKED}/triggered.json".format(**vars(cell)) for cell in runs],
        }
    return {"samples": [samples for samples, _ in _test_sets(config, entry)]}


def figure_images(config, name):
    """Return the image folders that a figure shows images of."""
    entry, source = config["tables"][name], drawn_from(config["tables"][name])
    if source == "samples":
        return [f"{ATTACKED}/images".format(**vars(cell)) for cell in cells(config, name)]
    if source == "guarded":
        return [f"{ATTACKED}/triggered".format(**vars(cell)) for cell in cells(config, name)]
    return [images for _, images in _test_sets(config, entry)]


def _test_sets(config, entry):
    """(samples file, image folder) of the test samples that a figure shows images of."""
    return _purified(config, entry) if drawn_from(entry) == "purified images" else _triggered(config, entry)


def _triggered(config, entry):
    """(samples file, image folder) of the test samples as they are, and with each attack's trigger."""
    here = {"dataset": names(config, entry, "datasets")[0], "seed": config["seeds"][0]}
    found = [(f"{CLEAN}/test.json".format(**here), image_root(config, here["dataset"]))]
    for attack in names(config, entry, "attacks"):
        folder = ATTACKED.format(**here, attack=attack)
        found.append((f"{folder}/triggered.json", f"{folder}/triggered"))
    return found


def _purified(config, entry):
    """(samples file, image folder) of each dataset: test samples, purified, triggered, triggered and purified."""
    purifier, found = names(config, entry, "defences")[0], []
    for dataset in names(config, entry, "datasets"):
        here = {"dataset": dataset, "attack": names(config, entry, "attacks")[0], "seed": config["seeds"][0]}
        sets = ((CLEAN, "test", image_root(config, dataset)), (ATTACKED, "triggered", f"{ATTACKED}/triggered"))
        for folder, part, originals in sets:
            found.append((f"{folder}/{part}.json".format(**here), originals.format(**here)))
            purified = f"{folder}/{purifier}".format(**here)
            found.append((f"{purified}/{part}.json", f"{purified}/images"))
    return found


def image_root(config, dataset):
    """Return the folder that the image paths of a dataset's samples start from."""
    return root_of(config, dataset) or RAW.format(dataset=dataset)


def reference_file(config, dataset):
    """Return the file, with wildcards, of the clean samples that defences may read: the test set if none are apart."""
    return f"{CLEAN}/{'reference' if config['datasets'][dataset].get('reference') else 'test'}.json"


def root_of(config, dataset):
    """Return the folder that an entry of the section datasets names, or None."""
    entry = config["datasets"][dataset]
    return entry.get(find("dataset format", entry["format"]).root)


def label_files(runs):
    """Return the labels of the training sets of cells, each once."""
    return distinct(LABELS.format(**vars(cell)) for cell in runs)


def listed_files(config, name):
    """Return [(cell, file name), ...] of the files of cells that an entry lists under `files`: of all its defences, or
    of those that are named beside the file."""
    found = []
    for file in config["tables"][name].get("files", []):
        file = {"file": file} if isinstance(file, str) else file
        runs = cells(config, name)
        found += [(cell, file["file"]) for cell in runs if cell.defence in file.get("defences", [cell.defence])]
    return found


def files_target(name):
    """Return the name of the target that makes the files of cells that an entry lists."""
    return f"{name}_files"


def targets(config):
    """Return every file that the entries ask for: tables, figures, and the cells' files that an entry lists."""
    found = []
    for name, entry in config["tables"].items():
        found += [f"results/{name}.csv"] if "columns" in entry else []
        found += [f"results/{name}.{suffix}" for suffix in ("png", "pdf")] if "figure" in entry else []
        found += [cell.path(file) for cell, file in listed_files(config, name)]
    return distinct(found)


def distinct(items):
    return list(dict.fromkeys(items))


def _reads(config, defence, what):
    return what in method_of(config, defence).reads
