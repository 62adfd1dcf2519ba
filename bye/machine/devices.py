"""The GPUs of one machine: which there are, and for each job its own.

Snakemake counts the GPUs that jobs ask for and does not say which one a job gets. So the process that starts jobs on
its own machine announces the GPUs, and each job takes as many as it asked for by the kernel's locks on files, one a
GPU, which end with the process that holds them, whatever ended it. On a cluster nothing is announced: the scheduler
allots.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bye.errors import ByeError

VISIBLE = "CUDA_VISIBLE_DEVICES"
ANNOUNCED = "BYE_GPUS"
SECONDS_BETWEEN_LOOKS = 0.5
_held = []  # locks that must stay open as long as this process lives


def gpus():
    """Return the names of the GPUs that CUDA would show to this process: those of CUDA_VISIBLE_DEVICES, or all."""
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        return [name for name in names if name not in ("", "-1")]
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if not count and shutil.which("nvidia-smi"):  # as under WSL, which has other device files
        process = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
        count = sum(line.startswith("GPU ") for line in process.stdout.splitlines())
    return [str(number) for number in range(count)]


def announce():
    """Let the jobs that this process starts take GPUs of this machine, by `take`; return the GPUs' names."""
    names = gpus()
    os.environ[ANNOUNCED] = ",".join(names)
    return names


def take(count):
    """Wait until `count` of the announced GPUs are free, and show CUDA these alone, until this process ends.

    A free one is one that no other job of this user has taken, of whatever run. Returns their names. Without an
    announcement nothing is done. Raises ByeError if there are not so many.
    """
    announced = os.environ.get(ANNOUNCED)
    if not count or announced is None:
        return []
    names = [name for name in announced.split(",") if name]
    if count > len(names):
        raise ByeError(f"{count} GPUs are asked for, and this machine has {len(names)}; lower models.KEY.resources.gpu")
    folder = Path(tempfile.gettempdir()) / f"bye-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    taken = {}
    with open(folder / "queue", "w") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)  # one job at a time chooses: two that need several cannot wait for each other
        while True:
            for name in names:
                if name not in taken and len(taken) < count and (lock := _lock(folder / name.replace("/", "_"))):
                    taken[name] = lock
            if len(taken) == count:
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
    _held.extend(taken.values())
    chosen = [name for name in names if name in taken]
    os.environ[VISIBLE] = ",".join(chosen)
    del os.environ[ANNOUNCED]  # what this process starts shares its GPUs
    print(f"gpu: {', '.join(chosen)}", file=sys.stderr, flush=True)
    return chosen


def _lock(path):
    """Return the open file that holds the lock of `path`, or None where another process has it."""
    file = open(path, "w")  # noqa: SIM115
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    file.close()
    return None
