"""The checkpoints of a fine-tune: which run they are of, and which of them were written to their end."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch

from bye.data.images import image_path
from bye.files import write_json

COMPLETE = "complete"  # the marker in a checkpoint folder that was written to its end


def fingerprint(settings, entries):
    """Hash of all that a run's result depends on: settings, samples, and its images' sizes and times of change."""
    root = settings["images"]
    images = {}
    for name in sorted({entry["image"] for entry in entries}):
        status = os.stat(image_path(root, name))
        images[name] = (status.st_size, status.st_mtime_ns)
    weights = [
        (f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(Path(settings["model"]).glob("*.safetensors"))
    ]
    text = json.dumps([settings, entries, images, weights, torch.__version__], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def prepare_checkpoints(folder, wanted):
    """Keep a checkpoint folder of the same fingerprint, without its unfinished checkpoints; empty any other."""
    note = folder / "fingerprint.json"
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        found = None
    if found != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(note, wanted)
    remove_unfinished(folder)


def remove_unfinished(folder):
    """Remove checkpoints that were not written to their end."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)


def last_checkpoint(folder):
    """Path of the newest complete checkpoint, or None."""
    complete = folder.glob(f"checkpoint-*/{COMPLETE}")
    steps = [int(marker.parent.name.split("-")[1]) for marker in complete]
    return str(folder / f"checkpoint-{max(steps)}") if steps else None
