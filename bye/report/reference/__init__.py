"""The numbers that the BYE paper prints, to stand beside ours.

bye.csv has one row for each cell of its tables: table (1, 2, 3, 5, 6, 7, 9), model, dataset, method, setting
("default", a trigger, or a threshold), and the metrics CP, ASR, P, R, F1 in per cent as printed (empty where the table
has none).
facts.csv has the texts of its Table 8. datasets.csv is its Table 4: sizes, task, metric, form of the answers and prompt
of each dataset. Source: Rong et al., "Backdoor Cleaning without External Guidance in MLLM Fine-tuning", 2025,
arXiv:2505.16916. Table 9 is another paper's, the detection table of TCAP (arXiv:2601.21692), as far as public notes
have it.
"""

import csv
from functools import cache
from importlib import resources

DEFAULT_TRIGGER = "badnet"  # what the paper calls its default setting


def paper_number(table, model, dataset, method, metric, setting="default"):
    """Return the paper's number as printed, or None where that table has no such cell.

    >>> paper_number(1, "llava-1.5-7b", "scienceqa", "bye", "ASR")
    0.05
    """
    setting = "default" if setting == DEFAULT_TRIGGER else setting
    printed = _cells().get((str(table), model, dataset, method, setting), {}).get(metric)
    return float(printed) if printed else None


def paper_facts(table):
    """Return the rows of text that a table of the paper has: {aspect: {method: text}}."""
    facts = {}
    for row in _read("facts.csv"):
        if row["table"] == str(table):
            facts.setdefault(row["aspect"], {})[row["method"]] = row["text"]
    return facts


@cache
def paper_datasets():
    """Return the rows of Table 4 by the dataset's format, each a dict of texts."""
    return {row["format"]: row for row in _read("datasets.csv")}


@cache
def _cells():
    rows = _read("bye.csv")
    return {tuple(row[name] for name in ("table", "model", "dataset", "method", "setting")): row for row in rows}


def _read(name):
    with resources.files(__name__).joinpath(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
