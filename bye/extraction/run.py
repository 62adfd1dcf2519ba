"""The run of the extraction: the samples of a stage through the model in batches, and what is kept of each."""

from dataclasses import dataclass

import numpy as np
import torch

from bye.errors import ByeError, counted
from bye.extraction.reductions import Reduction
from bye.extraction.rows import answer_rows
from bye.machine import distributed
from bye.machine.progress import Progress
from bye.models import load_model
from bye.models.attention import record_decoder
from bye.models.prompt import IMAGE


@dataclass(frozen=True)
class Extracted:
    """What is kept of the n answers of all samples: in file order, and those of a sample in order.

    samples: (n,) int64, each answer's sample, by its place in the file; answers: (n,) int64, its number there, from 0;
    n_image_tokens: (n,) of its sample; entropies: (n, L) float32, nats; masses: (n, 3, L * H) float32, on system, image
    and text tokens; maps: {id: (L, T) float64}, of the first answers of the ids that were asked for.
    """

    samples: np.ndarray
    answers: np.ndarray
    n_image_tokens: np.ndarray
    entropies: np.ndarray
    masses: np.ndarray
    maps: dict


def load_recording(model, adapter, family=None, threads=None, **options):
    """Load a model with an adapter (or None), its decoder prepared to record attention: the Family.

    family: the model_type that it must have, or None; options: of `bye.models.load_model`.
    """
    if threads:
        torch.set_num_threads(threads)
    loaded = load_model(model, adapter, expected=family, **options)
    record_decoder(loaded.model)
    return loaded


def run(work, batch_size, maps_for=()):
    """Run a Workload on a model of `load_recording`; return what is Extracted, in each process that of all.

    maps_for: ids whose maps (Eq. 4) are kept. Whether the numbers are finite is for `check_finite` to say.
    """
    family, wanted = work.family, set(maps_for)
    prompts = work.asked()
    n_answers = np.array([len(prompt.places) for prompt in prompts])
    first_row, n = np.cumsum(n_answers) - n_answers, n_answers.sum()  # of each sample; of all
    entropies = np.empty((n, family.n_layers), dtype=np.float32)
    masses = np.empty((n, 3, family.n_layers * family.n_heads), dtype=np.float32)
    mine, maps = [], {}
    progress = Progress("attention", len(work))
    for batch in work.batches(prompts, batch_size):
        features = work.features(batch.images, batch_size)
        kept = answer_rows(family, batch.prompts, features, Reduction, batch.owners)
        distribution, entropy, mass = (each.cpu().numpy() for each in kept)  # (B, 1, L, T), (B, R, L), (B, R, L, 3, H)
        for place, i in enumerate(batch.places):
            count, rows = n_answers[i], slice(first_row[i], first_row[i] + n_answers[i])
            entropies[rows] = entropy[place, :count]
            masses[rows] = mass[place, :count].swapaxes(1, 2).reshape(count, 3, -1)
            if work.ids[i] in wanted:
                maps[work.ids[i]] = distribution[place, 0, :, : np.prod(family.grid(work.sizes[i]))]
            mine.extend(range(rows.start, rows.stop))
        progress(batch.done)
    for places, their_entropies, their_masses, their_maps in distributed.gather(
        (mine, entropies[mine], masses[mine], maps)
    ):
        entropies[places], masses[places] = their_entropies, their_masses
        maps |= their_maps
    progress(len(work))
    samples = np.repeat(np.arange(len(work)), n_answers)
    answers = np.arange(n) - first_row[samples]
    n_image_tokens = np.array([np.count_nonzero(prompt.roles == IMAGE) for prompt in prompts])[samples]
    return Extracted(samples, answers, n_image_tokens, entropies, masses, maps)


def check_finite(found, ids, model, adapter):
    """Raise ByeError, naming the first sample and layer, where what was Extracted is not finite."""
    bad = ~(np.isfinite(found.entropies).all(axis=1) & np.isfinite(found.masses).all(axis=(1, 2)))
    if bad.any():
        first = int(bad.argmax())
        layers = np.flatnonzero(~np.isfinite(found.entropies[first]))
        where = f"layer {layers[0]}" if len(layers) else "an attention mass"
        sample, n_answers = found.samples[first], np.count_nonzero(found.samples == found.samples[first])
        which = f"answer {found.answers[first] + 1} of {n_answers}, " if n_answers > 1 else ""
        n_bad = counted(len(set(found.samples[bad])), "sample")
        raise ByeError(
            f"the attention of {n_bad} is not finite (the first is {ids[sample]!r}, "
            f"{which}{where}) under model {model} with adapter {adapter}; the fine-tune has probably diverged, lower "
            "its learning rate"
        )
