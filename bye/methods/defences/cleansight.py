"""CleanSight: hide the image tokens that steal attention from the text, before a triggered input is answered.

"CleanSight" (arXiv:2603.12989), a guard that needs no training. An input's features are the ratios of image to text
attention of the prompt's last token, S = (sum over image tokens) / (sum over text tokens), of each head of the
detection layers. Clean samples give each feature's mean and deviation; an input is caught where its distance
||(S - mean) / std|| lies above a percentile of theirs. Then the image tokens whose attention, the most of any head of
the last detection layer, exceeds tau are hidden in all layers after it, and from every token of the answer. Ours is
`again`: a caught input is answered anew with tokens hidden in all layers, since what the question's tokens took over of
the trigger before it was seen stays in them. Nothing has to come after the detection layers then, and they are all
layers; and since a trigger stands out in some head of one of these, and need not in the last, the tokens are those with
more than tau of a head's attention and more than the most attended token of clean samples has there, by the percentile.

The paper's preset and that of the released code differ in layers, in tau, and in what is text: the question's tokens
(paper), or every token after the image (released). Their layers are of 32, tau of 576 image tokens: ours is that layers
are scaled by depth (`cleansight_score.detection_layers`) and tau by 576 / T, so that it is the same multiple of an even
share of attention.
"""

from typing import Annotated, Literal

import numpy as np
import torch

from bye.answers.generate import generate
from bye.errors import ByeError
from bye.machine import distributed
from bye.methods.defences.bye import PAPER_IMAGE_TOKENS
from bye.methods.defences.cleansight_score import detection_layers
from bye.models.guard import Guard, check_layers
from bye.models.prompt import IMAGE, TEXT
from bye.workload import Workload

ACTS_ON = "generation"
READS = ("reference", "model")

TAUS = {"paper": 1e-4, "released": 0.02}  # for PAPER_IMAGE_TOKENS
AT_ONCE = 32  # clean samples in a forward pass


def guard(
    reference,
    model,
    *,
    preset: Literal["paper", "released"] = "paper",
    layers: list[int] | None = None,
    tau: Annotated[float | None, {"minimum": 0}] = None,
    percentile: Annotated[float, {"minimum": 0, "maximum": 100}] = 99.0,
    again: bool = False,
):
    """Return a Guard that has learned of clean samples what ratios of attention are usual.

    reference: SampleSet of clean samples; model: the loaded Family. preset: of the paper or of the released code;
    layers: to detect in, in place of the preset's; tau: attention above which a token is hidden, for 576 image tokens,
    in place of the preset's; percentile: of clean samples' distances, above which an input is caught; again: look at
    all layers for distances and for tokens, and answer what is caught a second time, with the tokens hidden from the
    first layer on. Raises ByeError for fewer than 20 clean samples, and for layers that the model has not or that have
    none after them.
    """
    watcher = CleanSight(model, preset, layers, tau, again)
    ratios, peaks = clean_features(watcher, model, reference)
    watcher.judge = Distance(ratios, percentile)
    if again:
        watcher.usual = np.percentile(peaks, percentile, axis=0)
    return watcher


class CleanSight(Guard):
    """The guard; `judge` is a function from ratios (B, F) of a batch, float64, to which are caught, (B,) bool.

    usual: (G,) float64, attention that a token of a clean sample may have in each head of the layers in which tokens
    are chosen, or None. family: the loaded model; the others as in `guard`. In the end of a batch that was begun,
    ratios: (B, F); peaks: (B, G), the attention of the most attended image token in each of these heads.
    """

    judge = usual = None  # until it has learned, it catches nothing

    def __init__(self, family, preset="paper", layers=None, tau=None, again=False):
        usual = slice(None) if again else detection_layers(preset, family.n_layers)
        chosen = range(family.n_layers)[usual] if layers is None else layers
        self.again = again
        self.layers, self.last = set(chosen), max(chosen)
        self.preset, self.tau = preset, TAUS[preset] if tau is None else tau
        check_layers(self, family)
        if self.last == family.n_layers - 1 and not again:
            raise ByeError(
                f"CleanSight looks at layer {self.last}, the last of model {family.path}, and can hide tokens in none "
                "after it; give it lower layers"
            )

    def begin(self, roles):
        super().begin(roles)
        self.on_image = roles == IMAGE
        self.on_text = roles == TEXT if self.preset == "paper" else self.after_image
        self.seen, self.high, self.standing = [], [], torch.zeros_like(self.on_image)

    def see(self, layer, row, roles):
        self.seen.append(attention_ratios(row, self.on_image, self.on_text))
        if self.again or layer == self.last:
            image = row * self.on_image[:, None]  # (B, H, N)
            self.standing |= (image > self._cut(image)).any(dim=1)
            self.high.append(image.amax(dim=2))
        if layer < self.last:
            return None
        self.ratios, self.peaks = (torch.cat(rows, dim=1).double().cpu().numpy() for rows in (self.seen, self.high))
        if self.judge is None:
            return None
        self.caught = torch.from_numpy(self.judge(self.ratios)).to(row.device)
        return self.caught[:, None] & self.standing

    def _cut(self, image):
        """The attention above which an image token is hidden, in a layer's heads: (B, 1 or H, 1)."""
        tau = self.tau * PAPER_IMAGE_TOKENS / self.on_image.sum(dim=1)[:, None, None]  # (B, 1, 1)
        if self.usual is None:
            return tau
        n_heads = image.shape[1]
        usual = self.usual[len(self.high) * n_heads :][:n_heads]  # the layers come in order, all with as many heads
        return torch.maximum(tau, torch.from_numpy(usual).to(image)[:, None])


def attention_ratios(row, on_image, on_text):
    """S of each head, (B, H), of attention (B, H, N) and which tokens are image and text, (B, N) bool."""
    image, text = ((row * tokens[:, None]).sum(dim=2) for tokens in (on_image, on_text))
    return image / (text + 1e-12)


def clean_features(watcher, family, reference):
    """The `ratios` and `peaks` of clean samples, (n, F) and (n, G), in file order, as a CleanSight sees them."""
    work, found = Workload(family, reference.as_reference("CleanSight"), reference.images), {}
    for batch in work.batches(work.prompts(), AT_ONCE):
        generate(family, batch.prompts, work.features(batch.images), batch.owners, 1, watcher)
        found |= dict(zip(batch.places, zip(watcher.ratios, watcher.peaks, strict=True), strict=True))
    for others in distributed.gather(found):
        found |= others
    return tuple(np.stack(rows) for rows in zip(*(found[place] for place in range(len(work))), strict=True))


class Distance:
    """How far ratios lie from those of clean samples, (n, F), and whether above a percentile of these's distances."""

    def __init__(self, ratios, percentile):
        self.mean, self.std = ratios.mean(axis=0), ratios.std(axis=0) + 1e-8
        self.limit = np.percentile(self.of(ratios), percentile)

    def of(self, ratios):
        return np.linalg.norm((ratios - self.mean) / self.std, axis=1)

    def __call__(self, ratios):
        return self.of(ratios) > self.limit
