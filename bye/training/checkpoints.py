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


def fingerprint(model, entries, images, methods, settings, options):
    """Hash of all that a run's result depends on.

    model: folder (whose weights count by size and time of change) or hub id; entries: samples; images: root of their
    images, which count by size and time of change; methods: the tuning method and the family (or None), whose files
    count where they are the user's; settings: of the tuning method; options: a list of all else.
    """
    files = [image_path(images, name) for name in sorted({entry["image"] for entry in entries})]
    files += sorted(Path(model).glob("*.safetensors"))
    files = [(str(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    methods = [method for method in methods if method is not None]
    own = [(each.kind, each.path.read_text(encoding="utf-8") if each.is_own else None) for each in methods]
    run = [model, entries, files, own, settings, options, torch.__version__]
    return hashlib.sha256(json.dumps(run, sort_keys=True, default=str).encode()).hexdigest()


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
