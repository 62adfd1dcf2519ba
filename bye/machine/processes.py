"""Keep a working folder usable after its Snakemake was killed: no stale lock, and no job that outlives its parent.

Snakemake locks its outputs by files, which a SIGKILL leaves behind. The kernel's own lock on a file ends with the
process that holds it, whatever ended that process, so it tells a lock in use from a stale one.
"""

import contextlib
import fcntl
import os
import select
import shlex
import shutil
import signal
import sys
import threading
from pathlib import Path

from bye.errors import ByeError

PARENT = "BYE_PARENT_PID"
RUN = "BYE_RUN_FOLDER"
# For glibc: keep freed memory for the next step of a fine-tune, which asks for as much again. Giving it back to the
# system in between makes every step fault its pages in anew.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
_held = []  # descriptors that must stay open as long as this process lives


def release_stale_lock(folder=".snakemake"):
    """Remove Snakemake's lock files in `folder` if no live Snakemake works there; be known as a live one from now on.

    Every run holds a shared kernel lock until it ends; who can have it exclusively is alone. Where the file system has
    no such locks nothing is done, and a stale lock is then removed by `snakemake --unlock`. Returns whether locks were
    removed. Raises ByeError where nothing can be written, which Snakemake would tell by a traceback.
    """
    removed = False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(Path(folder) / "running", os.O_RDWR | os.O_CREAT, 0o664)
    except OSError as error:
        place = Path(folder).resolve().parent
        raise ByeError(f"cannot write in {place} ({error.strerror}); work in another folder: --directory") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locks = Path(folder) / "locks"
        if locks.is_dir() and any(locks.iterdir()):
            shutil.rmtree(locks)
            removed = True
    except OSError:
        pass  # held by a live run (or not supported): its locks are good
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    _held.append(descriptor)
    return removed


def announce_parent():
    """Let the jobs that this process starts know it (by an environment variable), for `end_with_parent`."""
    os.environ[PARENT] = str(os.getpid())


def open_run_folder(folder=".snakemake/run"):
    """Make an empty folder for what the jobs of this process tell each other; let them know of it."""
    folder = Path(folder).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[RUN] = str(folder)


def run_folder():
    """Return the folder that was opened for this run, or None."""
    folder = os.environ.get(RUN)
    return Path(folder) if folder and os.path.isdir(folder) else None


def search_path(root):
    """PYTHONPATH with the folder `root` first."""
    return os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])


def job_prefix(root):
    """Return what every job's shell starts with, and set the search path and the memory allocator of jobs.

    Jobs run in the interpreter that runs Snakemake, and find the package in `root` from any working folder and in a
    conda environment too (Snakemake takes PYTHONPATH out of the environment for those, so the shell sets it again).
    """
    path = search_path(root)
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    braces = {"{": "{{", "}": "}}"}  # Snakemake formats the prefix like any shell command
    return f"set -euo pipefail; export PYTHONPATH={shlex.quote(path).translate(str.maketrans(braces))}; "


def end_with_parent():
    """End this process when the one that announced itself as its parent ends, however that ends.

    Otherwise a job that outlives a killed Snakemake would go on writing beside the same job of the next run.
    The wait costs nothing: a thread sleeps in the kernel until the parent is gone. Without such a parent, or where the
    system has no process descriptors (Linux before 5.3, macOS), nothing is done.
    """
    parent = os.environ.get(PARENT)
    if not parent or not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(int(parent))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
    except (OSError, ValueError):
        return

    def wait():
        select.select([descriptor], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
