"""The command line: `bye STAGE ...` or `python -m bye STAGE ...`, one stage of the workflow a call."""

import argparse
import gc
import os
import sys

from bye import __version__
from bye.errors import ByeError
from bye.machine import devices, distributed, processes
from bye.stages import STAGES

KNOBS = {  # stage -> config key that says how much a GPU holds at once
    "finetune": "models.KEY.finetune.micro_batch_size",
    **dict.fromkeys(("attention", "sentinet", "evaluate"), "models.KEY.inference_batch_size"),
}
BAD_INPUT = 2  # exit status for a problem that the user can mend


def main(arguments=None):
    """Run one stage and exit: 0 when it is done, 2 with one sentence on stderr for bad input, 130 when interrupted."""
    processes.end_with_parent()
    gc.set_threshold(100_000)  # of the 400,000 objects that come with torch and transformers few are garbage
    options = vars(parser().parse_args(arguments))
    name, gpus, n_processes = options.pop("stage"), options.pop("gpus"), options.pop("processes", 1)
    try:
        devices.take(gpus)
        if n_processes > 1 and distributed.size() == 1:
            sys.exit(distributed.launch(n_processes, sys.argv[1:] if arguments is None else arguments))
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
    print(f"bye: error: {message}", file=sys.stderr)
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


def parser():
    """Return the argument parser with one sub-command a stage."""
    top = argparse.ArgumentParser(prog="bye", description="Backdoor cleaning of vision-language fine-tuning sets.")
    top.add_argument("--version", action="version", version=f"bye {__version__}")
    top.add_argument("--gpus", type=int, default=0, help="GPUs to take of those that the workflow announced")
    stages = top.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, stage in STAGES.items():
        sub = stages.add_parser(name, help=stage.summary, description=stage.summary)
        for flags, settings in stage.options:
            sub.add_argument(*flags, **settings)
    return top
