"""No fine-tune is done twice in a run: two defences that keep the same samples ask for the same one.

The workflow gives its jobs on one machine a folder for the run (`bye.machine.processes.RUN`). There a fine-tune that is
done leaves a note of where it lies, under its fingerprint; who asks for the same meanwhile waits.
"""

import fcntl
import shutil
import sys
from pathlib import Path

from bye.files import read_json, replacing_folder, write_bytes, write_json
from bye.machine import processes


class Once:
    """The fine-tune of a fingerprint, for this process alone until it ends; without a folder of a run, nothing."""

    def __init__(self, fingerprint):
        folder = processes.run_folder()
        self.note = self.lock = None
        if folder is not None:
            self.note = folder / f"{fingerprint}.json"
            self.lock = open(folder / f"{fingerprint}.lock", "w")  # noqa: SIM115, held as long as this object
            fcntl.flock(self.lock, fcntl.LOCK_EX)

    def copy(self, out, log):
        """Copy a fine-tune that is done to the folder `out` and the loss curve `log`; return whether there is one."""
        if not self.note or not self.note.exists():
            return False
        done = read_json(self.note)
        if not all(Path(done[part]).exists() for part in ("out", "log")):
            return False
        print(f"finetune: {done['out']} was trained on the same samples in the same way; copied", file=sys.stderr)
        copy_result(done["out"], done["log"], out, log)
        return True

    def tell(self, out, log):
        """Leave word of the fine-tune in the folder `out`, whose loss curve is `log`."""
        if self.note:
            write_json(self.note, {"out": str(Path(out).resolve()), "log": str(Path(log).resolve())})


def copy_result(of, of_log, out, log):
    """Copy the folder and the loss curve of a fine-tune."""
    write_bytes(log, Path(of_log).read_bytes())
    with replacing_folder(out) as partial:
        shutil.copytree(of, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".snakemake_timestamp"))
