"""SentiNet carried to vision-language models: the salient region of a sample, tried on clean images of others.

Chou, Tramer and Pellegrino, "SentiNet: Detecting Localized Universal Attacks Against Deep Learning Systems", 2020.
Unlike BYE it needs clean reference samples. In place of a CNN's class stands the first answer token; saliency is
Grad-CAM on the features that the vision tower hands to the projector.
"""

import json
from typing import Annotated

import numpy as np
import torch
from torch.nn import functional as F

from bye.data.images import load_image
from bye.data.samples import id_of, question_of, system_of
from bye.errors import ByeError
from bye.flags import Verdict
from bye.machine.progress import Progress
from bye.models.family import pad

ACTS_ON = "training set"
READS = ("samples", "reference", "model")

BINS = 10  # of the inert confidence; the highest fooled rate of each is a point of the boundary


def detect(
    samples,
    reference,
    model,
    *,
    seed,
    pasted: Annotated[int, {"minimum": 1}] = 20,
    saliency: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.15,
):
    """Flag the samples whose salient region takes over the answers to clean images.

    samples: the training set; reference: clean samples, half of which (at most `pasted`) get the regions pasted on, the
    others fit the decision boundary. pasted: clean images that get the regions pasted on; saliency: share of the
    highest saliency from which on a place belongs to the region. The score is the boundary's height less the fooled
    rate: negative for flagged samples. Raises ByeError for bad input and too few reference samples.
    """
    entries, clean = samples.entries, reference.as_reference("SentiNet")
    generator = np.random.default_rng(seed)
    clean = [clean[i] for i in generator.permutation(len(clean))]
    hosts = clean[: min(pasted, len(clean) // 2)]
    loaded = model.load()
    if loaded.any_resolution:
        raise ByeError(
            f"SentiNet pastes regions between images of one input size, and {model.path} ({loaded.model_type}) takes "
            "images of any; use another model for it"
        )
    trial = Trial(loaded, hosts, reference.images, generator, saliency, model.batch_size)
    boundary = Boundary.fit(*trial(clean[len(hosts) :], reference.images))
    confidence, rate = trial(entries, samples.images)
    scores = boundary.height(confidence) - rate
    flagged = scores < 0
    reasons = [
        f"its salient region fools {100 * fooled:.0f} % of {len(hosts)} clean images" if drop else ""
        for fooled, drop in zip(rate, flagged, strict=True)
    ]
    setting = {"boundary": boundary.coefficients.tolist(), "margin": boundary.margin, "hosts": len(hosts)}
    return Verdict(
        flagged,
        reasons,
        scores=scores,
        columns={"inert_confidence": confidence, "fooled": rate},
        metadata={"sentinet": json.dumps(setting)},
    )


def passes(samples, reference, *, pasted: int):
    """Return how many forward passes it takes, for numbers of training samples and of clean ones.

    For each training sample, and each clean one that fits the boundary, a forward and a backward pass, and two passes
    over each of the clean images that the regions are pasted on.
    """
    return (samples + reference - pasted) * (2 * pasted + 2)


class Boundary:
    """The highest fooled rate that clean regions reach, over the confidence in answers to inert pastes: a parabola.

    coefficients: of numpy's polyval, highest power first; margin: how far a clean point may lie above the parabola.
    """

    def __init__(self, coefficients, margin):
        self.coefficients, self.margin = coefficients, margin

    @classmethod
    def fit(cls, confidence, fooled):
        """Fit to clean samples: the parabola to the highest rate of each bin, the margin to what still lies above."""
        edges = np.linspace(confidence.min(), confidence.max(), BINS + 1)
        where = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
        tops = [np.flatnonzero(where == b)[fooled[where == b].argmax()] for b in range(BINS) if (where == b).any()]
        degree = min(2, len(set(confidence[tops])) - 1)
        coefficients = np.polyfit(confidence[tops], fooled[tops], degree)
        return cls(coefficients, max(0.0, float((fooled - np.polyval(coefficients, confidence)).max())))

    def height(self, confidence):
        """Fooled rate above which a sample with this confidence is flagged."""
        return np.polyval(self.coefficients, confidence) + self.margin


class Trial:
    """Runs suspects against the host images."""

    def __init__(self, loaded, hosts, root, generator, saliency, batch_size):
        self.loaded, self.saliency, self.batch_size = loaded, saliency, batch_size
        self.hosts = loaded.pixels([load_image(root, entry) for entry in hosts])["pixel_values"]  # (R, 3, S, S)
        self.prompts = [self.prompt(entry) for entry in hosts]
        noise = generator.normal(size=tuple(self.hosts.shape[1:]))
        self.inert = torch.from_numpy(noise).to(self.hosts)  # in the units of normalised pixels

    def __call__(self, entries, root):
        """(inert confidence, fooled rate) of each sample, two arrays of shape (n,)."""
        progress = Progress("sentinet", len(entries))
        confidence, fooled = np.empty(len(entries)), np.empty(len(entries))
        for index, entry in enumerate(entries):
            pixels = self.loaded.pixels([load_image(root, entry)])["pixel_values"]
            if pixels.shape[1:] != self.hosts.shape[1:]:
                raise ByeError(
                    f"sample {id_of(entry)!r} has another input size than the others; SentiNet needs one size"
                )
            prompt = self.prompt(entry)
            answer, mask = self.region(pixels, prompt)
            fooled[index] = (self.answers(torch.where(mask, pixels, self.hosts)).argmax(-1) == answer).float().mean()
            inert = self.answers(torch.where(mask, self.inert, self.hosts))
            confidence[index] = inert.softmax(-1).amax(-1).mean()
            progress(index + 1)
        return confidence, fooled

    def prompt(self, entry):
        """Tokens of a sample's first question."""
        return self.loaded.prompt(id_of(entry), question_of(entry), system=system_of(entry))

    def region(self, pixels, prompt):
        """The first answer token of a sample, and its salient region as a mask (S, S), by Grad-CAM."""
        features = torch.stack(self.loaded.tower_features({"pixel_values": pixels})).requires_grad_()  # (1, T, D)
        logits = first_logits(self.loaded, [prompt], self.loaded.project(list(features)))
        answer = int(logits.argmax())
        (gradient,) = torch.autograd.grad(logits[0, answer], features)
        saliency = F.relu((gradient.mean(1, keepdim=True) * features).sum(-1)).detach()  # (1, T)
        mask = saliency >= self.saliency * saliency.max().clamp_min(1e-12)
        grid = mask.reshape(1, 1, *self.loaded.grid()).to(pixels.dtype)
        return answer, F.interpolate(grid, size=pixels.shape[-2:], mode="nearest")[0, 0].bool()

    @torch.no_grad()
    def answers(self, pixels):
        """Logits of the first answer token to each host's question, (R, vocabulary)."""
        parts = [slice(start, start + self.batch_size) for start in range(0, len(pixels), self.batch_size)]
        features = (self.loaded.image_features({"pixel_values": pixels[part]}) for part in parts)
        return torch.cat(
            [first_logits(self.loaded, self.prompts[part], of) for part, of in zip(parts, features, strict=True)]
        )


def first_logits(loaded, prompts, features):
    """Logits of the first answer token, (B, vocabulary), of B prompts and the image features of each."""
    device = loaded.model.device
    ids = pad([prompt.ids for prompt in prompts], 0, side="right").to(device)
    last = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=device)
    hidden = loaded.model.model.language_model(inputs_embeds=loaded.embed(ids, features), use_cache=False)
    rows = torch.arange(len(prompts), device=device)
    return loaded.model.lm_head(hidden.last_hidden_state[rows, last]).float()
