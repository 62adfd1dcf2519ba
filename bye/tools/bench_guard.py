"""What a guard adds to the time of an answer: `bye bench-guard`, the same answers with it and without, in turns."""

import time

import numpy as np
import torch

from bye.answers.evaluate import reply
from bye.data.check import read_samples
from bye.errors import counted
from bye.models import load_model
from bye.workload import Workload


def bench_guard(model, adapter, samples, images, guard, rounds=7, max_new_tokens=16, batch_size=64, threads=None):
    """Print seconds per answer of both ways, medians, and the median over the rounds of the ratio of the two.

    adapter: folder, or None; samples: file and image folder; guard: a function from the loaded Family to a Guard;
    rounds: how often each way is run, after one round to warm up. How many samples were caught is
    said too, since what is caught is answered another way. Raises ByeError for bad input.
    """
    if threads:
        torch.set_num_threads(threads)
    loaded = load_model(model, adapter)
    work = Workload(loaded, read_samples(samples, images), images)
    watchers = (None, guard(loaded))
    seconds, caught = np.zeros((rounds + 1, 2)), 0
    for number in range(rounds + 1):
        # Whichever is second finds a warmer machine: they take turns in that too.
        for way in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            replies = reply(work, max_new_tokens, batch_size, watchers[way])
            seconds[number, way] = time.perf_counter() - start
            caught = max(caught, sum(each.caught for each in replies))
    plain, guarded = np.median(seconds[1:], axis=0) / len(work)
    ratio = float(np.median(seconds[1:, 1] / seconds[1:, 0]))
    print(
        f"{model}: {counted(len(work), 'answer')} in batches of {batch_size}, {rounds} pairs of runs, {caught} caught"
    )
    print(f"  {1000 * plain:.2f} ms an answer without, {1000 * guarded:.2f} ms with the guard: {ratio:.3f} x the time")
