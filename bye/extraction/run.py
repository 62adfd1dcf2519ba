"""The run of the extraction: the samples of a stage through the model in batches, and what is kept of each."""

from dataclasses import dataclass

import numpy as np
import torch

from bye.errors import ByeError, counted
from bye.extraction.reductions import Reduction
from bye.extraction.rows import answer_rows
from bye.extraction.states import choose_layers, projection
from bye.machine import distributed
from bye.machine.progress import Progress
from bye.models import load_model
from bye.models.attention import record_decoder
from bye.models.prompt import IMAGE


@dataclass(frozen=True)
class Extracted:
    """What is kept of the n answers of all samples: in file order, and those of a sample in order.

    samples: (n,) int64, each answer's sample, by its place in the file; answers: (n,) int64, its number there, from 0;
    n_image_tokens: (n,) of its sample; n_answer_tokens: (n,); entropies: (n, L) float32, nats; masses: (n, 3, L * H)
    float32, on system, image and text tokens; head_entropies: (n, L * H) float32, nats, and head_tokens: (n, L * H)
    int32, of each head; hidden: (n, K, d) float32, of the `hidden_layers`, from 0; nll: (n,) float32, nats; maps: {id:
    (L, T) float64}, of the first answers of the ids that were asked for.
    """

    samples: np.ndarray
    answers: np.ndarray
    n_image_tokens: np.ndarray
    n_answer_tokens: np.ndarray
    entropies: np.ndarray
    masses: np.ndarray
    head_entropies: np.ndarray
    head_tokens: np.ndarray
    hidden: np.ndarray
    nll: np.ndarray
    hidden_layers: list
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


def run(work, batch_size, maps_for=(), hidden_layers=(-1,)):
    """Run a Workload on a model of `load_recording`; return what is Extracted, in each process that of all.

    maps_for: ids whose maps (Eq. 4) are kept; hidden_layers: decoder layers whose hidden states are, from 0 or, if
    negative, from the end. Whether the numbers are finite is for `check_finite` to say. Raises ByeError where there is
    no such layer.
    """
    family, wanted = work.family, set(maps_for)
    layers, matrix = choose_layers(family, hidden_layers), projection(family.width)
    prompts = work.conversations()
    n_answers = np.array([len(prompt.places) for prompt in prompts])
    first_row, n = np.cumsum(n_answers) - n_answers, n_answers.sum()  # of each sample; of all
    kept = _room(n, family.n_layers, family.n_heads, len(layers), family.width if matrix is None else matrix.shape[1])
    mine, maps = [], {}
    progress = Progress("attention", len(work))
    for batch in work.batches(prompts, batch_size):
        features = work.features(batch.images, batch_size)
        seen = answer_rows(family, batch.prompts, features, Reduction, batch.owners, layers)
        distribution, entropies, masses, *heads = (each.cpu().numpy() for each in seen.rows)
        hidden = seen.hidden.cpu().numpy()  # (B, R, K, D)
        hidden = hidden if matrix is None else hidden @ matrix
        # (B, R, L), (B, R, 3, L, H), twice (B, R, L, H), (B, R, K, d), (B, R): in the order of `kept`
        values = [entropies, masses.swapaxes(2, 3), *heads, hidden, seen.nll.numpy()]
        for place, i in enumerate(batch.places):
            rows = slice(first_row[i], first_row[i] + n_answers[i])
            for array, found in zip(kept.values(), values, strict=True):
                array[rows] = found[place, : n_answers[i]].reshape(array[rows].shape)
            if work.ids[i] in wanted:
                maps[work.ids[i]] = distribution[place, 0, :, : np.prod(family.grid(work.sizes[i]))]
            mine.extend(range(rows.start, rows.stop))
        progress(batch.done)
    for places, their_kept, their_maps in distributed.gather((mine, [array[mine] for array in kept.values()], maps)):
        for array, theirs in zip(kept.values(), their_kept, strict=True):
            array[places] = theirs
        maps |= their_maps
    progress(len(work))
    samples = np.repeat(np.arange(len(work)), n_answers)
    answers = np.arange(n) - first_row[samples]
    n_image_tokens = np.array([np.count_nonzero(prompt.roles == IMAGE) for prompt in prompts])[samples]
    n_answer_tokens = np.concatenate([np.bincount(prompt.answer_tokens()[1]) for prompt in prompts])
    return Extracted(samples, answers, n_image_tokens, n_answer_tokens, **kept, hidden_layers=layers, maps=maps)


def _room(n, n_layers, n_heads, n_hidden, size):
    """Arrays for what is kept of n answers, by their names in Extracted; size: numbers of a hidden state."""
    heads = n_layers * n_heads
    return {
        "entropies": np.empty((n, n_layers), dtype=np.float32),
        "masses": np.empty((n, 3, heads), dtype=np.float32),
        "head_entropies": np.empty((n, heads), dtype=np.float32),
        "head_tokens": np.empty((n, heads), dtype=np.int32),
        "hidden": np.empty((n, n_hidden, size), dtype=np.float32),
        "nll": np.empty(n, dtype=np.float32),
    }


def check_finite(found, ids, model, adapter):
    """Raise ByeError, naming the first sample and layer, where what was Extracted is not finite."""
    attention = (found.entropies, found.masses, found.head_entropies)
    for what, arrays in (("attention", attention), ("hidden state", (found.hidden,)), ("likelihood", (found.nll,))):
        bad = ~np.all([np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in arrays], axis=0)
        if bad.any():
            raise ByeError(_not_finite(what, bad, found, ids, model, adapter))


def _not_finite(what, bad, found, ids, model, adapter):
    """The sentence on answers, of which `bad` says which, whose numbers of some kind are not finite."""
    first = int(bad.argmax())
    layers = np.flatnonzero(~np.isfinite(found.entropies[first]))
    where = f", layer {layers[0]}" if len(layers) else ""
    sample, n_answers = found.samples[first], np.count_nonzero(found.samples == found.samples[first])
    which = f", answer {found.answers[first] + 1} of {n_answers}" if n_answers > 1 else ""
    n_bad = counted(len(set(found.samples[bad])), "sample")
    return (
        f"the {what} of {n_bad} is not finite (the first is {ids[sample]!r}{which}{where}) under model {model} with "
        f"adapter {adapter}; the fine-tune has probably diverged, lower its learning rate"
    )
