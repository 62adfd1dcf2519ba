"""Measure the attention extraction beside a plain forward pass and beside the way of the authors' released code.

All get the same random prompts and pixels in one run, in turns, and the medians are compared:
plain: batches padded on the right, SDPA, no attention recorded, logits of the last position only;
ours: the extraction stage's forward pass and all that it keeps, on the same batches, each prompt with its answer;
authors: batch of one, eager attention, `generate` of one token with `output_attentions=True`;
shared: ours, where as many questions as in RSVQA's training set ask about each image, which is then run once.
"""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig

from bye.errors import ByeError
from bye.extraction.reductions import Reduction
from bye.extraction.rows import answer_rows
from bye.models import load_model
from bye.models.attention import record_decoder
from bye.models.family import pad

WAYS = ("plain", "ours", "authors", "shared")
QUESTIONS_AN_IMAGE = 16
MINI = ("base_models/llava-mini", "base_models/internvl-mini")
WORDS = ["what", "is", "the", "colour", "of", "a", "small", "large", "circle", "left", "right", "how", "many", "are"]


def bench(models=MINI, n=32, batch_size=32, rounds=7, threads=None):
    """Print samples a second, ratios and peak memory of the four ways for each model folder.

    n: random samples; rounds: how often each way is run, in turns; threads: of torch, or None for its default.
    """
    for model in models:
        print(f"{model}: {n} samples, batches of {batch_size}, median of {rounds} runs", flush=True)
        _report(model, n, batch_size, rounds, threads)


def _report(model, n, batch_size, rounds, threads):
    family = load(model, threads)
    runs = {way: prepare(way, family, n, batch_size) for way in WAYS}
    seconds = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS:
            set_attention(family.model, way)
            start = time.perf_counter()
            runs[way]()
            if number:  # the first round warms up
                seconds[way].append(time.perf_counter() - start)
    median = {way: float(np.median(seconds[way])) for way in WAYS}
    for way in WAYS:
        memory = _peak_memory(family, model, way, n, batch_size, threads)
        print(
            f"  {way:8} {n / median[way]:8.1f} samples/s   {median[way] / median['plain']:5.2f} x the time of plain"
            f"   peak memory {memory:.0f} MB above the loaded model"
        )
    print(f"  ours is {median['authors'] / median['ours']:.1f} times as fast as the authors' way", end=", ")
    print(f"and {median['ours'] / median['shared']:.1f} times as fast again on shared images", flush=True)


def load(model, threads):
    """Load a model whose images all have one size. Raises ByeError for another."""
    if threads:
        torch.set_num_threads(threads)
    family = load_model(model)
    if family.any_resolution:
        raise ByeError(
            f"bench measures models of one input size, and {model} ({family.model_type}) takes images of any; give "
            "another"
        )
    return family


def set_attention(model, way):
    """Let a loaded model compute attention as a way does it."""
    model.set_attn_implementation("eager" if way == "authors" else "sdpa")
    if way in ("ours", "shared"):
        record_decoder(model)


def prepare(way, family, n, batch_size):
    """Return the function that runs a loaded model one way over n samples."""
    device, dtype, vision = family.model.device, family.model.dtype, family.model.config.vision_config
    size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(size=(n, 3, size, size))).to(device, dtype)
    questions = [" ".join(rng.choice(WORDS, rng.integers(5, 25))) + "?" for _ in range(n)]
    prompts = [family.encoder.prompt(question) for question in questions]
    answered = [family.encoder.conversation([(question, "yes")]) for question in questions]
    order = np.argsort([len(prompt.ids) for prompt in prompts], kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    one_token = GenerationConfig(
        max_new_tokens=1, do_sample=False, output_attentions=True, return_dict_in_generate=True, pad_token_id=0
    )

    def inputs(batch):
        ids = pad([prompts[i].ids for i in batch], 0, side="right").to(device)
        return {"input_ids": ids, "pixel_values": pixels[batch]}

    @torch.no_grad()
    def run_plain():
        for batch in batches:
            family.model(**inputs(batch), logits_to_keep=1, use_cache=False).logits.cpu()

    def run_ours(an_image=1):
        for batch in batches:
            features = family.image_features({"pixel_values": pixels[batch[::an_image]]})
            owners = np.arange(len(batch)) // an_image
            seen = answer_rows(family, [answered[i] for i in batch], features, Reduction, owners)
            for kept in (*seen.rows, seen.hidden, seen.nll):
                kept.cpu()

    @torch.no_grad()
    def run_authors():
        for i in range(n):
            output = family.model.generate(**inputs([i]), generation_config=one_token)
            torch.stack([layer[0, :, -1].mean(dim=0) for layer in output.attentions[0]]).cpu()

    ways = {"plain": run_plain, "ours": run_ours, "authors": run_authors}
    return ways.get(way) or partial(run_ours, QUESTIONS_AN_IMAGE)


def _peak_memory(family, model, way, n, batch_size, threads):
    """Peak memory in MB that one run of a way adds: of the GPU, or in a process of its own."""
    if family.model.device.type == "cuda":
        set_attention(family.model, way)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        prepare(way, family, n, batch_size)()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    call = f"from bye.tools.bench import measure; measure({str(model)!r}, {way!r}, {n}, {batch_size}, {threads})"
    result = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    if result.returncode:
        raise ByeError(f"the memory measurement of {model} failed: {result.stderr.strip().splitlines()[-1]}")
    return float(result.stdout)


def measure(model, way, n, batch_size, threads):
    """Print how many MB the peak memory of this process during one run of a way is above what it was before."""
    family = load(model, threads)
    set_attention(family.model, way)
    run = prepare(way, family, n, batch_size)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _status("VmRSS")
    run()
    print((_status("VmHWM") - before) / 2**10)


def _status(field):
    """A figure of this process in kB, as Linux has it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
