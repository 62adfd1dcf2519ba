"""BDMAE: mask squares of an image, restore them from the others, and keep what was restored where that fits worst.

Sun et al., "Mask and Restore: Blind Backdoor Defense at Test Time with Masked Autoencoder", 2023, arXiv:2303.15564. A
square's score says how little it is what its surroundings make one expect; squares of a high score are taken for the
trigger and restored. Two things are ours. For the masked autoencoder stands the diffusion model that other purifiers
have: it too is a model of clean images that fills masked places from those around them, by the guidance of ZIP with a
mask for the degradation, and no further weights are needed. And the score is the source's image-based one alone: its
label-based score watches how the prediction changes, and a purifier does not see the model under attack.
"""

from typing import Annotated

import numpy as np
import torch
from torch.nn import functional as F

from bye.detect.robust import SIGMAS
from bye.errors import ByeError
from bye.methods.defences.sampdetox import similarity
from bye.methods.defences.zip import Diffusion

ACTS_ON = "test images"
FOLDERS = {"diffusion": "model_index.json"}


def purifier(
    *,
    diffusion: str,
    squares: Annotated[int, {"minimum": 2}] = 8,
    parts: Annotated[int, {"minimum": 2}] = 4,
    steps: Annotated[int, {"minimum": 1}] = 4,
    cut: Annotated[float, {"minimum": 0}] = 3.5,
):
    """Return a function that purifies images.

    diffusion: folder or hub id of an unconditional diffusers pipeline; squares: in a row, and rows of them; parts: of
    the squares, drawn at random, each masked once; steps: denoising steps; cut: robust deviations of the squares'
    scores above their median, from which on one is restored. Raises ByeError for squares that do not divide the image.
    """
    return MaskAndRestore(diffusion, squares, parts, steps, cut)


class MaskAndRestore(Diffusion):
    """Scores and restores squares with one diffusion model."""

    def __init__(self, path, squares, parts, steps, cut, device="auto"):
        super().__init__(path, device)
        self.squares, self.parts, self.steps, self.cut = squares, parts, steps, cut
        if self.size % squares:
            raise ByeError(f"bdmae has {squares} squares a row, which do not divide the {self.size} pixels of {path}")

    def purify(self, pixels, generators):
        part = np.stack([g.permutation(self.squares**2) % self.parts for g in generators])
        part = torch.from_numpy(part).to(self.device).view(-1, 1, self.squares, self.squares)
        restored = pixels
        for number in range(self.parts):
            masked = self.spread(part == number)
            restored = torch.where(masked, self.restore(pixels, masked, generators), restored)
        trigger = self.spread(self.outliers(self.scores(pixels, restored)))
        return torch.where(trigger, self.restore(pixels, trigger, generators), pixels) if trigger.any() else pixels

    def scores(self, pixels, restored):
        """How little each square is what was restored there: 1 - SSIM, its mean (B, 1, squares, squares)."""
        return F.avg_pool2d(1 - similarity(pixels, restored), self.size // self.squares)

    def outliers(self, scores):
        """Which squares have scores above the cut, (B, 1, squares, squares) bool."""
        flat = scores.flatten(1)  # medians of the image's own squares
        center = flat.quantile(0.5, dim=1, keepdim=True)
        width = SIGMAS * (flat - center).abs().quantile(0.5, dim=1, keepdim=True)
        return (flat > center + self.cut * width.clamp_min(1e-6)).view(scores.shape)

    def spread(self, squares):
        """(B, 1, squares, squares) over the pixels: (B, 1, S, S)."""
        edge = self.size // self.squares
        return squares.repeat_interleave(edge, 2).repeat_interleave(edge, 3)

    def restore(self, pixels, masked, generators):
        """Images (B, 3, S, S) with the masked places, (B, 1, S, S) bool, filled in from the others."""
        self.scheduler.set_timesteps(self.steps)
        noise = self.noise(pixels, generators)

        def agree(index, estimate):
            return torch.where(masked, estimate, pixels)

        return self.reverse(noise, self.scheduler.timesteps, agree)
