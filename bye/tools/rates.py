"""What the stages of a model give on this machine, measured by the stages themselves, for estimates of whole tables.

Each stage is run twice, on few and on more samples; the difference of the two times is what the additional samples
took, without loading and warming up. One question is asked of random images: the time does not depend on them.
"""

import gc
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from bye import config as settings
from bye.answers.evaluate import evaluate
from bye.data.samples import turns_of
from bye.errors import ByeError
from bye.extraction.attention import extract
from bye.files import write_json
from bye.models import load_model
from bye.tools.budget import find_device, sizes_of
from bye.tools.configuration import read_configuration
from bye.tools.doctor import EXAMPLE, EXAMPLE_SIZE, count_trained, tuning_of
from bye.training.finetune import finetune

BLOCK = 24  # pixels of an image's squares: a small file, quick to decode
WARM_UP = 4  # optimiser steps, and batches, of the shorter run


def measure_rates(out, configfile=(), models=(), steps=50, batches=8, max_new_tokens=16):
    """Measure fine-tune, extraction and evaluation of models of a configuration on one device; write rates.json.

    models: keys, by default all; steps: optimiser steps of the fine-tune; batches: of extraction and evaluation, each
    of the entry's inference_batch_size; max_new_tokens: of an answer, all of which are generated unless the model ends.
    Written are, for each model, operations a second as `bye.tools.budget` counts them: `bye doctor --rates` reads the
    file. Raises ByeError for an unknown model, and where there is nothing to measure.
    """
    for name, value in (("steps", steps), ("batches", batches), ("max-new-tokens", max_new_tokens)):
        if value < 1:
            raise ByeError(f"--{name} is {value}, and at least 1 is needed")
    root, config = read_configuration(configfile)
    for key in models:
        settings.check_known(key, config, "models", "option --models")
    torch.set_num_threads(1)  # as in a job
    device, rates = find_device(wants_gpu=False), {}
    for key in models or config["models"]:
        model = config["models"][key]
        path = settings.find_model(f"models.{key}.path", model["path"], root)
        with TemporaryDirectory() as folder:
            rates[key] = _measure(key, model, path, Path(folder), device, steps, batches, max_new_tokens)
    write_json(out, {"device": device.name, "memory": device.memory, "bytes": device.bytes, "rates": rates})


def _measure(key, model, path, folder, device, steps, batches, max_new_tokens):
    """Operations a second of a model's stages, each printed in the units of its own."""
    options = {**model["finetune"], "epochs": 1, "quantization": model["quantization"], "family": model["family"]}
    options["dtype"] = model["dtype"] or "auto"
    method = tuning_of(model)
    options["tuning"] = str(method.path) if method.is_own else method.kind
    family = load_model(path, expected=model["family"], weights=False)
    tokens = family.conversation(EXAMPLE["id"], turns_of(EXAMPLE), EXAMPLE_SIZE)
    n_tokens, n_image = len(tokens.ids), int((tokens.ids == family.image_token_id).sum())
    sizes = sizes_of(family, count_trained(key, model, family)[0], n_image)
    inference = {name: options[name] for name in ("family", "quantization", "dtype")}
    batch = model["inference_batch_size"]
    print(f"{key}: {path}, {n_tokens} tokens a sample, on {device.name}", flush=True)

    def fine_tune(samples):
        finetune(path, samples, folder, folder / "adapter", folder / "loss.csv", checkpoints=0, **options)

    def attention(samples):
        extract(path, None, samples, folder, folder / "attention.parquet", batch, **inference)

    def evaluation(samples):
        files = samples, folder, folder / "predictions.parquet", folder / "eval.json"
        evaluate(path, None, *files, "accuracy", max_new_tokens=max_new_tokens, batch_size=batch, **inference)

    checkpointing, cached = options["gradient_checkpointing"], options["cache_features"]
    stages = {
        "fine-tune": (fine_tune, options["batch_size"], steps, sizes.fine_tune(1, 1, n_tokens, checkpointing, cached)),
        "attention": (attention, batch, batches, sizes.forward(n_tokens)),
        "evaluation": (evaluation, batch, batches, sizes.answers(1, n_tokens, max_new_tokens)),
    }
    rates = {}
    for stage, (run, size, repeats, operations) in stages.items():
        short, _ = _timed(run, _samples(folder, WARM_UP * size))
        long, memory = _timed(run, _samples(folder, (WARM_UP + repeats) * size))
        speed = repeats * size / max(long - short, 1e-9)  # samples a second
        rates[stage] = speed * operations
        print(f"  {stage:10} {speed:8.2f} samples/s {speed * n_tokens:9.0f} tokens/s{memory}", flush=True)
    for stage in ("fine-tune", "attention"):
        share = 100 * rates[stage] / device.rate
        print(f"  {stage:10} {share:.0f} % of the operations a second of a large matrix product", flush=True)
    return rates


def _timed(run, samples):
    """Seconds of a stage on a samples file, and on a GPU its peak memory in words."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    run(samples)
    seconds = time.perf_counter() - started
    memory = f"   peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if torch.cuda.is_available() else ""
    return seconds, memory


def _samples(folder, n):
    """Write n samples, each on a random image of its own; return the path of their file."""
    for number in range(n):
        if not (folder / f"{number}.png").exists():
            squares = np.random.default_rng(number).integers(0, 256, (EXAMPLE_SIZE[0] // BLOCK,) * 2 + (3,), np.uint8)
            Image.fromarray(squares).resize(EXAMPLE_SIZE[::-1], Image.NEAREST).save(folder / f"{number}.png")
    write_json(
        folder / "samples.json", [{**EXAMPLE, "id": str(number), "image": f"{number}.png"} for number in range(n)]
    )
    return folder / "samples.json"
