"""The command line: `bye STAGE ...` or `python -m bye STAGE ...`, one stage of the workflow a call."""

import argparse
import os
import sys

from bye import __version__, distributed, processes
from bye.errors import ByeError
from bye.stages import STAGES

BAD_INPUT = 2  # exit status for a problem that the user can mend


def main(arguments=None):
    """Run one stage and exit: 0 when it is done, 2 with one sentence on stderr for bad input, 130 when interrupted."""
    processes.end_with_parent()
    options = vars(parser().parse_args(arguments))
    stage = STAGES[options.pop("stage")]
    n_processes = options.pop("processes", 1)
    try:
        if n_processes > 1 and distributed.size() == 1:
            sys.exit(distributed.launch(n_processes, sys.argv[1:] if arguments is None else arguments))
        with distributed.speaking_as_one():
            stage.run(**options)
    except (ByeError, MemoryError) as error:
        message = str(error) or "out of memory; run fewer jobs at once or make the batch smaller"
        print(f"bye: error: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("bye: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser():
    """Return the argument parser with one sub-command a stage."""
    top = argparse.ArgumentParser(prog="bye", description="Backdoor cleaning of vision-language fine-tuning sets.")
    top.add_argument("--version", action="version", version=f"bye {__version__}")
    stages = top.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, stage in STAGES.items():
        sub = stages.add_parser(name, help=stage.summary, description=stage.summary)
        for flags, settings in stage.options:
            sub.add_argument(*flags, **settings)
    return top
