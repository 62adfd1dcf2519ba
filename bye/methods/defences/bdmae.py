"""BDMAE: mask squares of an image, restore them from the others, and keep what was restored where that fits worst.

Sun et al., "Mask and Restore: Blind Backdoor Defense at Test Time with Masked Autoencoder", 2023, arXiv:2303.15564. A
masked autoencoder shows what a square's surroundings make one expect there; the less a square is like that (SSIM), the
higher its score, and squares of a high score are taken for the trigger and restored. Ours: one robust cut stands for
the source's refined and averaged thresholds, and the score is its image-based one alone. Its label-based score watches
how the prediction changes, and a purifier does not see the model under attack.
"""

from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from bye.detect.robust import SIGMAS
from bye.errors import ByeError
from bye.methods.defences.sampdetox import similarity
from bye.methods.defences.zip import bytes_of, pixels_of

ACTS_ON = "test images"
FOLDERS = {"mae": "config.json"}


def purifier(
    *,
    mae: str,
    repeats: Annotated[int, {"minimum": 1}] = 5,
    parts: Annotated[int, {"minimum": 2}] = 4,
    cut: Annotated[float, {"minimum": 0}] = 3.5,
):
    """Return a function that purifies images.

    mae: folder or hub id of a ViTMAEForPreTraining that restores pixels (`norm_pix_loss` false); repeats: how often the
    squares are drawn into parts, each of which is shown alone; parts: how many, so that a square is restored parts - 1
    times a draw; cut: robust deviations of the squares' scores above their median, from which on one is restored.
    Raises ByeError where there is no such model.
    """
    return MaskAndRestore(mae, repeats, parts, cut)


class MaskAndRestore:
    """Scores and restores squares with one masked autoencoder. T: squares of an image; S: its side in pixels."""

    def __init__(self, path, repeats, parts, cut, device="auto"):
        self.repeats, self.parts, self.cut = repeats, parts, cut
        self.model, mean, std = load_mae(path)
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.model.to(self.device).eval()
        self.mean, self.std = (torch.tensor(each, device=self.device).view(3, 1, 1) for each in (mean, std))
        self.size = self.model.config.image_size
        self.grid = self.size // self.model.config.patch_size

    def __call__(self, images, generators):
        """Purify PIL images, each at its own size, with one random generator for each one's masks.

        What is not restored stays as it was, to the pixel.
        """
        pixels = pixels_of(images, self.size, self.device)
        trigger = self.outliers(self.scores(pixels, generators))
        purified = []
        for image, each, masked in zip(images, pixels, trigger, strict=True):
            if masked.any() and not masked.all():
                [restored] = bytes_of(self.restore(each[None], masked[None]))
                place = masked.view(self.grid, self.grid).cpu().numpy().astype(np.uint8) * 255
                place = Image.fromarray(place).resize(image.size, Image.NEAREST)
                image = Image.composite(Image.fromarray(restored).resize(image.size, Image.BICUBIC), image, place)
            purified.append(image)
        return purified

    def scores(self, pixels, generators):
        """How little each square is what is restored there, 1 - SSIM: (B, T), of images (B, 3, S, S) from -1 to 1."""
        total = 0
        for _ in range(self.repeats):
            part = np.stack([generator.permutation(self.grid**2) % self.parts for generator in generators])
            part = torch.from_numpy(part).to(self.device)
            for shown in range(self.parts):
                masked = part != shown
                restored = torch.where(self.spread(masked), self.restore(pixels, masked), pixels)
                unlike = F.avg_pool2d(1 - similarity(pixels, restored), self.size // self.grid).flatten(1)
                total = total + torch.where(masked, unlike, 0)
        return total / (self.repeats * (self.parts - 1))

    def outliers(self, scores):
        """Which squares have scores (B, T) above the cut, by the median and MAD of their own image: (B, T) bool."""
        center = scores.quantile(0.5, dim=1, keepdim=True)
        width = SIGMAS * (scores - center).abs().quantile(0.5, dim=1, keepdim=True)
        return scores > center + self.cut * width.clamp_min(1e-6)

    def spread(self, squares):
        """(B, T) over the pixels: (B, 1, S, S)."""
        edge = self.size // self.grid
        squares = squares.view(-1, 1, self.grid, self.grid)
        return squares.repeat_interleave(edge, 2).repeat_interleave(edge, 3)

    @torch.no_grad()
    def restore(self, pixels, masked):
        """Images (B, 3, S, S), restored where `masked`, (B, T) bool with one sum for all; anything elsewhere."""
        n_masked, n_squares = int(masked[0].sum()), masked.shape[1]
        self.model.config.mask_ratio = (n_masked - 0.5) / n_squares  # which the model rounds the shown squares by
        found = self.model(((pixels + 1) / 2 - self.mean) / self.std, noise=masked.float())
        restored = self.model.unpatchify(found.logits)
        return (restored * self.std + self.mean) * 2 - 1


def load_mae(path):
    """Return (ViTMAEForPreTraining, mean, std of the pixels that it sees) of a folder or hub id. Raises ByeError."""
    from transformers import ViTMAEForPreTraining
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        model = ViTMAEForPreTraining.from_pretrained(path, use_safetensors=True, dtype=torch.float32)
        looks, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ByeError(f"masked autoencoder {path} cannot be loaded ({reason}); give a folder or a hub id") from None
    if model.config.norm_pix_loss:
        raise ByeError(f"masked autoencoder {path} restores squares without their brightness; take one of pixels")
    return model, looks["image_mean"], looks["image_std"]
