"""The run of the extraction: the samples of a stage through the model in batches, and what is kept of each."""

from dataclasses import dataclass

import numpy as np
import torch

from bye.errors import ByeError
from bye.extraction.reductions import features_of
from bye.extraction.rows import last_rows
from bye.machine import distributed
from bye.machine.progress import Progress
from bye.models import load_model
from bye.models.attention import record_decoder
from bye.models.prompt import IMAGE


@dataclass(frozen=True)
class Extracted:
    """What is kept of n samples, in file order.

    n_image_tokens: of each sample; entropies: (n, L) float32, nats; masses: (n, 3, L * H) float32, on system, image and
    question tokens; maps: {id: (L, T) float64}, of the ids that were asked for.
    """

    n_image_tokens: list
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
    family, n, wanted = work.family, len(work), set(maps_for)
    prompts = work.prompts()
    entropies = np.empty((n, family.n_layers), dtype=np.float32)
    masses = np.empty((n, 3, family.n_layers * family.n_heads), dtype=np.float32)
    mine, maps = [], {}
    progress = Progress("attention", n)
    for batch in work.batches(prompts, batch_size):
        features = work.features(batch.images, batch_size)
        attention, roles = last_rows(family, batch.prompts, features, batch.owners)
        distributions, *kept = (tensor.cpu().numpy() for tensor in features_of(attention, roles))
        entropies[batch.places], masses[batch.places] = kept
        for i, distribution in zip(batch.places, distributions, strict=True):
            if work.ids[i] in wanted:
                maps[work.ids[i]] = distribution[:, : np.prod(family.grid(work.sizes[i]))]
        mine.extend(batch.places)
        progress(batch.done)
    for places, their_entropies, their_masses, their_maps in distributed.gather(
        (mine, entropies[mine], masses[mine], maps)
    ):
        entropies[places], masses[places] = their_entropies, their_masses
        maps |= their_maps
    progress(n)
    n_image_tokens = [np.count_nonzero(prompt.roles == IMAGE) for prompt in prompts]
    return Extracted(n_image_tokens, entropies, masses, maps)


def check_finite(found, ids, model, adapter):
    """Raise ByeError, naming the first sample and layer, where what was Extracted is not finite."""
    bad = ~(np.isfinite(found.entropies).all(axis=1) & np.isfinite(found.masses).all(axis=(1, 2)))
    if bad.any():
        first = int(bad.argmax())
        layers = np.flatnonzero(~np.isfinite(found.entropies[first]))
        where = f"layer {layers[0]}" if len(layers) else "an attention mass"
        raise ByeError(
            f"the attention of {bad.sum()} samples is not finite (the first is {ids[first]!r}, {where}) under model "
            f"{model} with adapter {adapter}; the fine-tune has probably diverged, lower its learning rate"
        )
