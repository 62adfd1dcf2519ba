"""The training of the scout's projector, and of a LoRA on its decoder, from real pictures: it makes the shipped delta.

Two epochs over four kinds of tasks: questions on photographs of rooms (DAQUAR), questions and captions on aerial
photographs (UC Merced), captions of clip art and cut-out photographs (Open Clip Art Library, Tux Paint). Two thirds of
the training pictures of each set are shown, by a hash of their names; the others, and all test pictures, never are.
"""

import shutil
from pathlib import Path

import torch

from bye.data.layout import hash_of
from bye.data.samples import write_samples
from bye.models import load_model
from bye.scout.delta import TUNING, save_model, write_delta
from bye.scout.mix import mix
from bye.scout.start import begin_projector
from bye.training.finetune import finetune

SEEN = (0, 2 / 3)  # of the training pictures; tables are made of the rest
RECIPE = {
    "epochs": 2,
    "batch_size": 16,
    "micro_batch_size": 8,
    "learning_rate": 8e-4,
    "warmup": 0.03,
    "dtype": "bfloat16",
    "tuning": TUNING,
    "lora_rank": 16,
    "lora_alpha": 32.0,
    "checkpoints": 20,
}


def train(parts, roots, out, seed=0, threads=None):
    """Train the scout's parts and write the delta to the folder `out`; a killed run goes on by the same call.

    parts: folder of `bye.scout.build.build_parts`; roots: {dataset format: root} of the three datasets. Beside `out`
    stay `<out>.trained`, the same in float32, and its loss curve.
    """
    work = Path(f"{str(out).rstrip('/')}.trained")
    work.mkdir(parents=True, exist_ok=True)
    samples, images = mix(roots, SEEN, seed)
    write_samples(work / "mix.json", samples)
    if threads:
        torch.set_num_threads(threads)
    weights = Path(parts, "model.safetensors").stat()
    run = f"{weights.st_size} {weights.st_mtime_ns} {seed} {images} {(work / 'mix.json').read_text(encoding='utf-8')}"
    start = work / f"start-{hash_of(run):016x}"  # of other parts or pictures it is another
    if not start.exists():
        family = load_model(parts, dtype="float32")
        explained = begin_projector(family, samples, images, seed)
        print(f"scout-train: the projector begins with {100 * explained:.0f} % of the words explained", flush=True)
        save_model(family, parts, start)
    options = {**RECIPE, "seed": seed, "threads": threads, "validate": False}
    finetune(start, work / "mix.json", images, work / "adapter", work / "loss.csv", **options)
    write_delta(work / "adapter", parts, out)
    shutil.rmtree(start)
    return len(samples)
