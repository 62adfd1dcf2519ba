"""What the scout's projector is trained on: real pictures of several datasets, each with all that is asked about it."""

import os
from pathlib import Path

import numpy as np

from bye.data.check import checked_samples
from bye.data.layout import shown_in
from bye.data.prepare import load_split
from bye.data.samples import PLACEHOLDER

ALONE = ("ucmerced",)  # whose answers on one picture tell each other
TURNS = 3  # of a conversation, at most: longer ones would stand beside much padding


def mix(roots, pictures, seed):
    """Return (samples, folder that their images are relative to) of training pictures of several datasets.

    roots: {dataset format: root}; pictures: (from, to), the part of each set's pictures (`bye.data.layout.shown_in`). A
    sample has up to TURNS questions on one picture, or one where a set is ALONE, in an order drawn by seed.
    """
    rng, common = np.random.default_rng(seed), os.path.commonpath([os.path.abspath(root) for root in roots.values()])
    samples = []
    for name, root in roots.items():
        entries = [each for each in load_split(name, root, "train", seed) if shown_in(each["image"], pictures)]
        checked_samples(entries, f"train samples of {name} in {root}", root, decode=False)
        place = os.path.relpath(os.path.abspath(root), common)
        asked = {}
        for index in rng.permutation(len(entries)):
            asked.setdefault(entries[index]["image"], []).append(entries[index])
        at_once = 1 if name in ALONE else TURNS
        for image, about in sorted(asked.items()):
            for start in range(0, len(about), at_once):
                samples.append(
                    _conversation(
                        f"{name} {image} {start}", Path(place, image).as_posix(), about[start : start + at_once]
                    )
                )
    return [samples[i] for i in rng.permutation(len(samples))], common


def _conversation(name, image, asked):
    """One sample of the turns of several samples on the same image."""
    turns = [dict(turn) for entry in asked for turn in entry["conversations"]]
    for turn in turns:
        turn["value"] = turn["value"].replace(f"{PLACEHOLDER}\n", "")
    turns[0]["value"] = f"{PLACEHOLDER}\n{turns[0]['value']}"
    return {"id": name, "image": image, "conversations": turns}
