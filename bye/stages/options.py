"""How a stage is registered as a sub-command, and the options that several have.

What a stage's methods take stands in their files: `methods` names the options that hold their kinds (`bye.registry`).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from bye.files import parse_json

STAGES = {}


@dataclass
class Stage:
    run: Callable
    summary: str
    options: tuple
    methods: tuple = ()  # (option that holds a method's kind, its sort), ...


def stage(name, *options, methods=()):
    """Register a function as a sub-command; its docstring is the help text, its parameters are the options' names.

    methods: pairs of an option that holds the kind of a method and the sort of it; the settings of that method are
    options too, and come to the function as keyword arguments.
    """

    def register(function):
        STAGES[name] = Stage(function, function.__doc__, options, methods)
        return function

    return register


def need(flag, text, **settings):
    """An option that must be given."""
    return (flag,), {"required": True, "help": text, **settings}


def may(flag, default, text, **settings):
    """An option with a default, which also says the option's type where `settings` do not."""
    if default is not None and not isinstance(default, tuple):
        text = f"{text} (default: {default})".replace("%", "%%")  # argparse formats it
        if "action" not in settings:
            settings = {"type": type(default), **settings}
    return (flag,), {"default": default, "help": text, **settings}


def target_of(text):
    """Return the target that an option's text gives: the text itself, or what it is as a JSON object."""
    return parse_json(text, "option --target") if text.startswith("{") else text


def switch(flag, default, text):
    return may(flag, default, text, action=argparse.BooleanOptionalAction)


SAMPLES = need("--samples", "samples file in LLaVA form")
IMAGES = need("--images", "folder that the image paths start from")
VALIDATE = switch("--validate", True, "check the samples file; not needed where the suite wrote it")
SEED = may("--seed", 0, "seed of every random draw")
PROCESSES = may("--processes", 1, "processes that share the work, one a GPU; the results are those of one")
THREADS = may("--threads", None, "torch threads (default: all cores)", type=int)
MODEL = need("--model", "model folder in the transformers layout, or hub id")
FAMILY = may(
    "--family",
    None,
    "kind of the checkpoint's family, or the path of a .py file (default: whichever it is)",
)
UNJUDGED = (
    "what becomes of entries that cannot be judged (default: those whose image is missing or unreadable, or that are "
    "malformed, stop; those without an image, with several, or longer than the model takes do not)"
)
QUANTIZATION = may("--quantization", None, "4bit: the base model in 4 bits (NF4), as in QLoRA", choices=("4bit",))
DTYPE = may(
    "--dtype",
    "auto",
    "numbers of the base model: auto is bfloat16 on a GPU and float32 on a CPU",
    choices=("auto", "float32", "bfloat16"),
)
ADAPTER = need("--adapter", "folder that finetune wrote")
LABELS = need("--labels", "ground truth")
CELLS = need("--cells", "result files of all cells, at their places in the path scheme", nargs="+")
CELL_LABELS = need("--labels", "their labels, .../DATASET/ATTACK/sSEED.parquet", nargs="+")
PICTURES = need("--out", "pictures to write, PNG or PDF", nargs="+")
CONFIGFILES = may(
    "--configfile", (), "YAML files laid over config.yaml, as by snakemake --configfile", nargs="+", type=str
)
TUNING = may("--tuning", "lora", "tuning method: a name in bye/methods/tuning, or the path of a .py file")
FINETUNED = (MODEL, FAMILY, QUANTIZATION, DTYPE, TUNING, ADAPTER)  # a base model and what a fine-tune added to it
TARGET = "what the backdoor makes the model say: a text, or the kind and settings of a target as JSON"
