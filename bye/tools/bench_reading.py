"""How long it takes to read and check a large file of samples, and how much memory: `bye bench-reading`."""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bye.data.check import check_entries, text_problems
from bye.data.entries import EntryFile

PICTURES = 64  # different ones; the files of the images are links to them
TURNS = (1, 1, 1, 2, 3, 5, 10)  # questions of a sample
WORDS = "the a red large street dog near with under person holding umbrella sky blue is are two small shows there 図 😀"


def bench_reading(n, model=None, jobs=None, seed=0):
    """Draw a file of `n` samples of 1 to 10 turns, each with a JPEG of 640 x 480, and print what looking at it takes.

    model: folder of a model that the texts are for, or None; jobs: processes, by default one a core.
    """
    jobs = jobs or os.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        path, images = write_large_file(Path(folder), n, seed)
        size = path.stat().st_size / 1e6
        print(f"{n:,} samples, {size:,.0f} MB of JSON, an image of 640 x 480 pixels each; {jobs} processes")
        for what, decode in (("read, headers of images", False), ("read, images whole", True)):
            start = time.monotonic()
            checked = check_entries(EntryFile(path), images, decode=decode, jobs=jobs)
            _say(what, start)
            if not decode:
                del checked  # one at a time
        if model is not None:
            from bye.models import load_model

            family, start = load_model(model, weights=False), time.monotonic()
            problems = text_problems(checked, family)
            _say(f"texts, for {model} ({len(problems):,} too long)", start)


def write_large_file(folder, n, seed):
    """Write n samples to folder/train.json and their images; return (file, image folder)."""
    rng, images = np.random.default_rng(seed), folder / "images"
    pictures = []
    for number in range(PICTURES):
        pixels = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        pictures.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(pictures[-1], quality=85)
    words = WORDS.split()
    with open(folder / "train.json", "w", encoding="utf-8") as file:
        for number in range(n):
            image = f"{number // 1000:04d}/{number:07d}.jpg"
            (images / image).parent.mkdir(parents=True, exist_ok=True)
            os.link(pictures[number % PICTURES], images / image)
            turns = []
            for turn in range(rng.choice(TURNS)):
                for role, length in (("human", rng.integers(5, 25)), ("gpt", rng.choice([1, 2, 8, 40, 80]))):
                    text = " ".join(rng.choice(words, length))
                    turns.append({"from": role, "value": text if turn or role == "gpt" else f"<image>\n{text}"})
            sample = {"id": f"{number:012d}", "image": image, "conversations": turns}
            file.write(f"{',' if number else '['}\n{json.dumps(sample, ensure_ascii=False)}")
        file.write("\n]\n")
    return folder / "train.json", images


def _say(what, start):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform != "darwin" else 1e9)
    print(f"{what:45} {time.monotonic() - start:6.1f} s, up to {memory:.2f} GB so far", flush=True)
