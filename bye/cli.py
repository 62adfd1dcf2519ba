"""The command line: `bye STAGE ...` or `python -m bye STAGE ...`, one stage of the workflow a call.

A stage has options of its own, and those of the methods that it runs: what `--tuning` names brings its settings.
"""

import argparse
import gc
import json
import os
import sys

from bye import __version__, registry
from bye.errors import ByeError
from bye.machine import devices, distributed, processes
from bye.stages import STAGES

KNOBS = {  # stage -> config key that says how much a GPU holds at once
    "finetune": "models.KEY.finetune.micro_batch_size",
    **dict.fromkeys(("attention", "detect", "evaluate"), "models.KEY.inference_batch_size"),
}
READERS = {"integer": int, "number": float, "string": str, "object": json.loads}  # of an option's text, by JSON type
STAGE, GPUS = "_stage", "_gpus"  # where the parser puts them: no setting of a method is called so
BAD_INPUT = 2  # exit status for a problem that the user can mend


def main(arguments=None):
    """Run one stage and exit: 0 when it is done, 2 with one sentence on stderr for bad input, 130 when interrupted."""
    processes.end_with_parent()
    gc.set_threshold(100_000)  # of the 400,000 objects that come with torch and transformers few are garbage
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = vars(parser(arguments).parse_args(arguments))
    except ByeError as error:
        fail(str(error))
    name, gpus, n_processes = options.pop(STAGE), options.pop(GPUS), options.pop("processes", 1)
    try:
        devices.take(gpus)
        if n_processes > 1 and distributed.size() == 1:
            sys.exit(distributed.launch(n_processes, arguments))
        with distributed.speaking_as_one():
            STAGES[name].run(**options)
    except (ByeError, MemoryError) as error:
        fail(str(error) or "out of memory; run fewer jobs at once or make the batch smaller")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which most stages do not import
            raise
        fail(out_of_gpu_memory(name, options))
    except KeyboardInterrupt:
        print("bye: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message):
    """Print the message and exit. Its further lines are indented, which tells them from what else is in a log."""
    first, *more = message.split("\n")
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in more)]
    print("bye: error: " + "\n".join(lines), file=sys.stderr)
    sys.exit(BAD_INPUT)


def out_of_gpu_memory(stage, options):
    """Return the sentence for a stage that needs more GPU memory than there is: which key of the config to change."""
    if stage not in KNOBS:
        return "out of GPU memory; see what else runs on the GPU (nvidia-smi), or take one with more memory"
    key, batch, training = KNOBS[stage], options["batch_size"], "micro_batch_size" in options
    n = distributed.size() if training else 1  # attention and evaluation hold a whole batch in each process
    now = distributed.split_batch(batch, n, options["micro_batch_size"])[0] if training else batch
    if now > 1:
        half = next(size for size in range(now // 2, 0, -1) if not training or batch % (n * size) == 0)
        return f"out of GPU memory with {key} at {now}; set it to {half}"
    if training and not options["gradient_checkpointing"]:
        return (
            f"out of GPU memory with {key} at 1; set models.KEY.finetune.gradient_checkpointing to true, which saves "
            "memory for time"
        )
    if "quantization" in options and options["quantization"] is None:
        return f"out of GPU memory with {key} at 1; set models.KEY.quantization to 4bit, or take a GPU with more memory"
    return f"out of GPU memory with {key} at 1; take a GPU with more memory"


def parser(arguments=()):
    """Return the argument parser with one sub-command a stage, in full for the stage that `arguments` name.

    That one takes the settings of its methods too, those that `arguments` name or the stage's defaults. Raises ByeError
    for an unknown kind of method, and for a file of a method that does not say what it must.
    """
    top = argparse.ArgumentParser(prog="bye", description="Backdoor cleaning of vision-language fine-tuning sets.")
    top.add_argument("--version", action="version", version=f"bye {__version__}")
    top.add_argument("--gpus", dest=GPUS, type=int, default=0, help="GPUs to take of those that the workflow announced")
    stages = top.add_subparsers(dest=STAGE, metavar="STAGE", required=True)
    named = next((word for word in arguments if word in STAGES), None)  # at most --gpus and a number stand before it
    for name, stage in STAGES.items():
        sub = stages.add_parser(name, help=stage.summary, description=stage.summary, allow_abbrev=False)
        for flags, settings in stage.options:
            sub.add_argument(*flags, **settings)
        if name == named:
            add_methods(sub, stage.methods, arguments)
    return top


def add_methods(sub, sorts, arguments):
    """Add the settings of methods to the parser of a stage, as options.

    sorts: pairs of the option that holds a method's kind, one of the parser's, and the method's sort.
    """
    for option, sort in sorts:
        first = argparse.ArgumentParser(prog=sub.prog, usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
        first.add_argument(f"--{option.replace('_', '-')}", dest=option, default=sub.get_default(option))
        kind = getattr(first.parse_known_args(arguments)[0], option)
        if kind is None:
            continue  # it has no default, and the parser will ask for it
        method = registry.find(sort, kind)
        group = sub.add_argument_group(f"settings of the {sort} {kind}")
        for flags, settings in options_of(method):
            try:
                group.add_argument(*flags, **settings)
            except argparse.ArgumentError:
                raise ByeError(
                    f"{method.path} has a setting with the name of another option, {flags[0]}; rename the setting"
                ) from None


def options_of(method):
    """Return a method's settings as options: [(flags, keyword arguments of argparse's add_argument), ...]."""
    return [((f"--{name.replace('_', '-')}",), _option(setting)) for name, setting in method.settings.items()]


def _option(setting):
    schema, text = setting.schema, setting.text
    option = {"required": True} if setting.required else {"default": setting.default}
    if not setting.required and setting.default is not None:
        default = setting.default
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
        text = f"{text} (default: {shown})".strip()
    option["help"] = text.replace("%", "%%")  # argparse formats it
    if _types(schema) == ["boolean"]:
        return option | {"action": argparse.BooleanOptionalAction}
    if "array" in _types(schema):
        option["nargs"] = "+"
        schema = schema.get("items", {})
    if "enum" in schema:
        option["choices"] = [value for value in schema["enum"] if value is not None]
    return option | {"type": _reader(schema)}


def _types(schema):
    """The JSON types that a schema allows, null left out: of an enum, those of its values."""
    if "enum" in schema:
        values = [value for value in schema["enum"] if value is not None]
        return list(dict.fromkeys(registry.TYPES[type(value).__name__] for value in values))
    listed = schema.get("type", "string")
    return [kind for kind in (listed if isinstance(listed, list) else [listed]) if kind != "null"]


def _reader(schema):
    """A function from the text of an option to the value that it stands for, of the first type of READERS that fits."""
    kinds = [kind for kind in READERS if kind in _types(schema)]

    def read(text):
        from jsonschema import Draft202012Validator

        for kind in kinds:
            try:
                value = READERS[kind](text)
            except ValueError:
                continue
            if "enum" in schema:
                return value  # argparse compares it with the choices
            for error in Draft202012Validator(schema).iter_errors(value):
                raise argparse.ArgumentTypeError(error.message)
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is no {' or '.join(kinds)}")

    return read
