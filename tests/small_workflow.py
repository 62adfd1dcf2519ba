"""The whole workflow at its smallest: one random model, one mini dataset, a few dozen samples."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CELL = "results/tiny/scienceqa/badnet/s0"
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["tables"]


def shipped_entry(name, **cells):
    """Return an entry of the shipped section tables on other cells."""
    named = {*cells, *(f"{section}s" for section in cells), *(section[:-1] for section in cells)}
    return deepcopy({key: value for key, value in SHIPPED[name].items() if key not in named} | cells)


def small_config(model, **changes):
    """Return a configuration with the model folder `model` as its one model; `changes` replace whole sections."""
    finetune = {
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
    }
    cells = {"models": ["tiny"], "datasets": ["scienceqa"], "attack": "badnet"}
    return {
        "seeds": [0],
        "models": {"tiny": {"family": "llava", "path": str(model), "paper": "llava-1.5-7b", "finetune": finetune}},
        "datasets": {
            "scienceqa": {"format": "scienceqa", "train": 48, "test": 8, "metric": "accuracy", "max_new_tokens": 4}
        },
        "attacks": {"badnet": {"trigger": "badnet", "rate": 0.10, "target": "Backdoor Attack!"}},
        "defences": {
            "vanilla": {"kind": "none"},
            "random_drop": {"kind": "random", "share": 0.2},
            "bye": {"kind": "bye", "rule": "paper", "tau": 2.0},
            "oracle": {"kind": "oracle"},
            "tau_0": {"kind": "bye", "rule": "paper", "tau": 0},
            "wo_gmm_bsi": {"kind": "bye", "rule": "paper", "tau": 2.0, "over": "all", "clustering": "threshold"},
        },
        "tables": {
            "table1": shipped_entry("table1", **cells, defences=["vanilla", "bye"]),
            "table2": shipped_entry("table2", **cells, defences=["bye"]),
            "figure3": shipped_entry("figure3", **cells, defence="bye"),
            "layers": shipped_entry("layers", **cells, defence="bye"),
            "table5": shipped_entry("table5", **cells, defences=["tau_0", "bye"]),
            "table7": shipped_entry("table7", **cells, defences=["wo_gmm_bsi", "bye"]),
            "figure4": shipped_entry("figure4", **cells, defences=["wo_gmm_bsi", "bye"]),
        },
        **changes,
    }


def command(folder, *arguments):
    """Return the Snakemake command that works in `folder`, by folder/config.yaml alone."""
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [
        *snakemake,
        "--configfile",
        str(folder / "config.yaml"),
        "--replace-workflow-config",
        "--cores",
        "4",
        *arguments,
    ]


def write_config(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return folder


def run(folder, *arguments, environment=()):
    """Run Snakemake in `folder`; return the finished process with stdout and stderr as one text."""
    return subprocess.run(
        command(folder, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **dict(environment)},
        timeout=1200,
    )
