"""The columns that a table may have: from which file of a cell each is read, and how it is written.

A cell is one model, dataset, attack, seed and defence. A row is a cell over all seeds: numbers that can be averaged are
means, and with several seeds a table has their standard deviations too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from bye.plan.paths import UNTOUCHED

IDENTITY = {"model": "model", "method": "defence", "dataset": "dataset", "attack": "attack"}  # column -> key of a cell
UPPER_BOUND = "upper bound: reads the labels"
ADAPTER = "adapter"  # the folder of what was trained for a cell


@dataclass(frozen=True)
class Measure:
    """A number of a cell.

    file: of the cell's folder; key: in that file; scale: what the number is multiplied by; poisoned: whether it exists
    only where there is poison; title: as a row of a turned table has it; untouched: file and key of the untouched set,
    where they are others.
    """

    file: str
    key: str
    scale: float = 1.0
    poisoned: bool = False
    title: str | None = None
    untouched: tuple[str, str] | None = None

    def of(self, attack):
        """Return (file, key) in the cells of an attack."""
        return self.untouched if self.untouched and attack == UNTOUCHED else (self.file, self.key)


@dataclass(frozen=True)
class Text:
    """A text made of a cell's results over the seeds: write(contents of `file`, one a seed) -> text or None."""

    file: str
    keys: tuple[str, ...]
    write: Callable
    poisoned: bool = False


def _flagged(results):
    counts = [result["n_flagged"] for result in results]
    return f"{mean(counts):.1f}" if len(set(counts)) > 1 else str(counts[0])


def _layers(results):
    return " | ".join("-" if (layers := _sensitive(result)) is None else _joined(layers) for result in results)


def _joined(layers):
    return " ".join(map(str, layers)) or "none"


def _sensitive(result):
    return result.get("sensitive_layers")


def _n_layers(results):
    counts = _counts(results)
    return None if counts is None else f"{mean(counts):g}"


def _counts(results):
    """Numbers of sensitive layers, or None of a detector that chooses none."""
    found = [_sensitive(result) for result in results]
    return None if None in found else [len(layers) for layers in found]


def _no_layer(results):
    counts = _counts(results)
    if counts is None or all(counts):
        return None
    return "no sensitive layer in some seed" if any(counts) else "no sensitive layer"


def _trained(results):
    counts = sorted({result["n_trained"] for result in results} - {None})
    return " | ".join(map(str, counts)) or None


def _detection(key, title):
    return Measure("detection.json", key, 100.0, poisoned=True, title=title)


MEASURES = {
    "CP": Measure("eval.json", "CP", title="CP"),
    "ASR": Measure("eval.json", "ASR", poisoned=True, title="ASR (%)"),
    "PU": Measure("eval.json", "PU", poisoned=True, title="PU"),
    "caught_clean": Measure("eval.json", "caught_clean", title="Clean inputs caught (%)"),
    "caught_triggered": Measure("eval.json", "caught_triggered", poisoned=True, title="Triggered inputs caught (%)"),
    "precision": _detection("precision", "Precision (%)"),
    "recall": _detection("recall", "Recall (%)"),
    "f1": _detection("f1", "F1 (%)"),
    "auroc": _detection("auroc", "AUROC (%)"),
    "average_precision": _detection("average_precision", "Average precision (%)"),
    "clean_lost": Measure(
        *("detection.json", "clean_lost", 100.0),
        title="Clean samples dropped (%)",
        untouched=("flags.parquet", "flagged"),  # all of them are clean
    ),
    "dropped": Measure("flags.parquet", "flagged", 100.0, title="Dropped (%)"),
}
TEXTS = {
    "n_flagged": Text("detection.json", ("n_flagged",), _flagged, poisoned=True),
    "sensitive_layers": Text("detection.json", ("sensitive_layers",), _layers, poisoned=True),
    "n_layers": Text("detection.json", ("sensitive_layers",), _n_layers, poisoned=True),
    "no_layer": Text("detection.json", ("sensitive_layers",), _no_layer, poisoned=True),
    "trained": Text(ADAPTER, ("n_trained",), _trained),
}
# Columns that come from no file of the cell: what a defence is told beside the training set, its time, what it may
# claim.
TOLD, SECONDS, ANSWER_SECONDS, FINETUNE_SECONDS = "told", "seconds", "answer_seconds", "finetune_seconds"
TUNING = "tuning"
DERIVED = (TOLD, SECONDS, ANSWER_SECONDS, FINETUNE_SECONDS, TUNING, "note", "rate")
TITLES = {  # of numbers, where they are rows
    **{name: measure.title for name, measure in MEASURES.items()},
    TOLD: "Auxiliary data used",
    SECONDS: "Seconds per 1,000 samples",
    ANSWER_SECONDS: "Seconds per answer",
    FINETUNE_SECONDS: "Seconds of the fine-tune",
    "trained": "Trained parameters",
}
PAPER = {f"paper_{metric}": metric for metric in ("CP", "ASR", "P", "R", "F1")}
DATASET_COLUMNS = (
    *("dataset", "format", "train", "test", "paper_train", "paper_test", "task", "metric", "answer"),
    *("prompt", "question", "example"),
)
LAYER_COLUMNS = (
    *("model", "dataset", "attack", "seed", "layer", "mu_low", "sigma_low", "mu_high", "sigma_high"),
    *("bsi", "auroc", "sensitive"),
)
PART_COLUMNS = ("model", "dataset", "method", "size", "parts", "harmed", "lost", "worst", "n_seeds")
KNOWN = {  # what rows an entry may have, and the columns of each
    "cells": (*IDENTITY, *MEASURES, *TEXTS, *DERIVED, *PAPER),
    "datasets": DATASET_COLUMNS,
    "layers": LAYER_COLUMNS,
    "parts": PART_COLUMNS,
}


def file_of(column, attack):
    """Return the file of a cell of an attack that a column is read from, or None."""
    if column == SECONDS:
        return "flags.parquet"  # how many samples the time was taken for
    if column == ANSWER_SECONDS:
        return "eval.json"
    if column == FINETUNE_SECONDS:
        return ADAPTER
    if column in MEASURES:
        return MEASURES[column].of(attack)[0]
    return TEXTS[column].file if column in TEXTS else None


def needs_poison(column):
    """Whether a column exists only where there is poison."""
    found = MEASURES.get(column) or TEXTS.get(column)
    return bool(found and found.poisoned)
