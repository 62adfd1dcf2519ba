"""Have Snakemake make files in a folder, whatever the user's own Snakemake is set up to do.

What of it is somewhere else than on the command line, and what becomes of it here:

- `SNAKEMAKE_PROFILE` names a profile to look for in the working folder and in ~/.config/snakemake, $XDG_CONFIG_HOME or
  $XDG_CONFIG_DIRS; `SNAKEMAKE_OUTPUT_CACHE`, `SNAKEMAKE_CONDA_PREFIX` and settings of plugins are such variables too.
  None is handed on, unless a profile is asked for, which may need its plugins' settings.
- The workflow's profile is looked for in the working folder first: it is named by its full path.
- The source cache is in ~/.cache or $XDG_CACHE_HOME: where that cannot be written, it is in the work folder.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bye.errors import ByeError
from bye.machine import processes
from bye.workflow import watch

ERROR = "bye: error: "  # what the line starts with that a failed stage ends its log with; more lines are indented


def make(root, work, targets, cores=None, profile=None):
    """Have the workflow in `root` make `targets`, paths below the folder `work`, by work/config.yaml.

    cores: to use, by default all of this machine, or what the profile says; profile: of `find_profile`, for a cluster.
    Raises ByeError with the sentence of the job that failed first.
    """
    processes.announce_parent()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile"), "--directory", str(work)]
    command += ["--workflow-profile", str(root / "profiles" / "default")]
    command += ["--configfile", str(work / "config.yaml"), "--replace-workflow-config"]
    if profile is not None:
        command += ["--profile", str(profile)]
    if cores is not None or profile is None:
        command += ["--cores", str(cores or os.cpu_count())]
    command += ["--quiet", "rules", "reason", "host", "--", *targets]
    logs = work / "results" / "logs"
    before = _times(logs)
    process = subprocess.Popen(command, cwd=root, env=environment(work, profile is not None))
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()  # the terminal interrupted it too; let it put its things in order
        raise
    if status:
        reason = f"the run stopped, for what Snakemake says above; logs are in {logs}, and the same command goes on"
        raise ByeError(first_error(logs, before) or reason)
    for target in targets:
        if not (work / target).exists():
            raise ByeError(f"the run ended without {work / target}; see what --profile {profile} asks Snakemake for")


def find_profile(root, name):
    """Return the path of a Snakemake profile: a folder or file of one's own, or one of the workflow's profiles/.

    Raises ByeError where there is none.
    """
    for place in (Path(name).expanduser(), root / "profiles" / name):
        files = [*place.glob("profile*.yaml"), *place.glob("config*.yaml")] if place.is_dir() else []
        if name and (files or place.is_file()):
            return place.resolve()
    known = ", ".join(sorted(place.name for place in (root / "profiles").iterdir()))
    raise ByeError(
        f"there is no profile {name!r}: give a folder with a profile.yaml or config.yaml, or one of the workflow's "
        f"own: {known}"
    )


def environment(work, with_profile=False):
    """Return the environment for Snakemake: this process's without the user's settings of Snakemake, with a Watch.

    with_profile: a profile is asked for, so that only the one of the environment is left out.
    """
    result = {watch.WATCHED: "1"} | {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SNAKEMAKE_") or (with_profile and name != "SNAKEMAKE_PROFILE")
    }
    cache = Path(os.environ.get("XDG_CACHE_HOME", "").strip() or os.path.expanduser("~/.cache"))
    if not _can_write(cache / "snakemake" / "snakemake" / "source-cache"):
        result["XDG_CACHE_HOME"] = str(work / "cache")
        if (cache / "huggingface").is_dir():  # models that are there are still found
            result.setdefault("HF_HOME", str(cache / "huggingface"))
    return result


def _can_write(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.is_absolute()
    except OSError:
        return False


def first_error(logs, before):
    """Return the message of the job that failed first since the logs had the times `before`, if any left one.

    A failed job writes its message last, so the log that was written to first is its. Every line of it is returned.
    """
    new = {log: time for log, time in _times(logs).items() if before.get(log) != time}
    for log in sorted(new, key=lambda log: (new[log], log)):
        lines = iter(log.read_text(encoding="utf-8", errors="replace").split("\n"))
        for line in lines:
            if line.startswith(ERROR):
                message = [line.removeprefix(ERROR)]
                for more in lines:
                    if not more.startswith(" "):
                        break
                    message.append(more)
                return "\n".join(message)
    return None


def _times(logs):
    """The time of the last write to each log, in nanoseconds."""
    return {log: log.stat().st_mtime_ns for log in logs.rglob("*.log")}
