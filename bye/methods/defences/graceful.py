"""GraCeFul: the samples whose gradient differs in its low frequencies (Wu et al. 2025, arXiv:2412.02454).

The gradient is that of the answers' loss by the weights of the output layer. As in the released code, it is taken of
the model before it is fine-tuned on the samples; `weights` can have it of the fine-tuned one. Where the embeddings have
the same weights, it is by the output layer alone.
"""

import dataclasses
import json
from typing import Annotated, Literal

import numpy as np

from bye.detect.graceful import GradientClustering, low_frequencies, n_low
from bye.errors import ByeError, counted
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("samples", "model")

FEWEST, MOST = 10, 30_000  # samples: the distances of all pairs are held at once


def detect(
    samples,
    model,
    *,
    components: Annotated[int, {"minimum": 1}] = 32,
    keep: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.125,
    most: Annotated[int, {"minimum": 1}] = 64,
    weights: Literal["base", "fine_tuned"] = "base",
):
    """Cluster the samples by their gradients in two, and flag the smaller cluster, whatever its share.

    samples: the training set; model: what is run once on each. components: principal components of the gradients that
    are clustered; keep: share of the frequencies that are low, of the vocabulary and of the width; most: how many of
    each are kept at most, ours, for the memory's sake; weights: of the model before or after the fine-tune. Its
    metadata hold the smaller cluster's share as JSON under "graceful". Raises ByeError for too few or too many samples
    and a gradient that is not finite.
    """
    n = len(samples.entries)
    if not FEWEST <= n <= MOST:
        found, needs = counted(n, "sample"), f"{FEWEST} at least" if n < FEWEST else f"{MOST} at most"
        raise ByeError(f"{samples.path} has {found}, and GraCeFul needs {needs}; give another set")
    loaded = (dataclasses.replace(model, adapter=None) if weights == "base" else model).load()
    frequencies = gradients(loaded, samples, model.batch_size, keep, most).reshape(n, -1)
    if not np.isfinite(frequencies).all():
        bad = samples.ids[int(np.argmin(np.isfinite(frequencies).all(axis=1)))]
        raise ByeError(
            f"the gradient of sample {bad!r} is not finite under model {model.path} with adapter {model.adapter}; the "
            "fine-tune has probably diverged, lower its learning rate"
        )
    detector = GradientClustering(components).fit(frequencies)
    return Verdict.of(
        detector.labels_ == -1,
        f"its gradient is of the smaller of two clusters, of {100 * detector.share_:.1f} %",
        scores=detector.scores_,
        metadata={"graceful": json.dumps({"share": detector.share_})},
    )


def gradients(loaded, samples, batch_size, keep, most):
    """Return the low frequencies of each sample's gradient, (n, n_low of the vocabulary, n_low of the width) float32.

    loaded: the Family; samples: the SampleSet; keep, most: which are low (`low_frequencies`).
    """
    import torch

    from bye.machine.progress import Progress
    from bye.models.family import pad
    from bye.models.prompt import ANSWER
    from bye.workload import Workload

    work, head = Workload(loaded, samples.entries, samples.images), loaded.model.lm_head
    size = [n_low(length, keep, most) for length in head.weight.shape]
    found = np.empty((len(work), *size), dtype=np.float32)
    progress = Progress("graceful", len(work))
    for batch in work.batches(work.conversations(), batch_size):
        features = work.features(batch.images, batch_size)
        ids = pad([prompt.ids for prompt in batch.prompts], 0, side="right").to(loaded.model.device)
        with torch.no_grad():
            inputs = loaded.inputs(ids, [features[image] for image in batch.owners])
            states = loaded.model.model(**inputs, use_cache=False).last_hidden_state  # (B, N, D)
            for place, prompt, row in zip(batch.places, batch.prompts, states, strict=True):
                answered = np.flatnonzero(prompt.roles == ANSWER)  # (T,)
                before = row[torch.from_numpy(answered - 1).to(row.device)]  # (T, D)
                errors = head(before).float().softmax(dim=-1)  # (T, V)
                errors[range(len(answered)), prompt.ids[answered]] -= 1
                found[place] = low_frequencies(errors.cpu().numpy(), before.float().cpu().numpy(), keep, most)
        progress(batch.done)
    return found
