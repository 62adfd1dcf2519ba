"""ZIP: images purified by a diffusion model, so that a trigger is gone before the model under attack sees them.

Shi et al., "Black-box Backdoor Defense via Zero-shot Image Purification", 2023, arXiv:2303.12175. A linear degradation
destroys the trigger; reverse diffusion brings back what the degradation took, guided so that the degraded image is
kept. The purified images do not depend on the model under attack.
"""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from bye.errors import ByeError

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


ACTS_ON = "test images"
FOLDERS = {"diffusion": "model_index.json"}  # settings that name a model folder or hub id, and what tells such a folder


def purifier(
    *,
    diffusion: str,
    pool: Annotated[int, {"minimum": 1}] = 4,
    steps: Annotated[int, {"minimum": 1}] = 10,
    guided_from: Annotated[float, {"minimum": 0, "maximum": 1}] = 0.0,
):
    """Return a function that purifies images.

    Parameters
    ----------
    diffusion : folder or hub id of an unconditional diffusers pipeline (a UNet2DModel and a scheduler).
    pool : edge in pixels, at the diffusion model's size, of the squares that are averaged.
    steps : denoising steps.
    guided_from : share of the steps, from the noise on, that are taken without guidance.

    Raises
    ------
    ByeError
        For a `pool` that does not divide the diffusion model's image size.
    """
    return Purifier(diffusion, pool, steps, guided_from)


class Diffusion:
    """A diffusion model that purifies batches of images; subclasses say how, in `purify(pixels, generators)`.

    pixels: (B, 3, S, S) from -1 to 1, S the model's `size`; generators: numpy's, one for the noise of each image.
    """

    def __init__(self, path, device="auto"):
        self.unet, self.scheduler = load_diffusion(path)
        self.size = self.unet.config.sample_size
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.unet.to(self.device, memory_format=torch.channels_last).eval()  # a fifth faster on a CPU

    def __call__(self, images, generators):
        """Purify PIL images (each at its own size, which it keeps) with one random generator for each one's noise."""
        purified = bytes_of(self.purify(pixels_of(images, self.size, self.device), generators))
        return [
            Image.fromarray(each).resize(image.size, Image.BICUBIC)
            for each, image in zip(purified, images, strict=True)
        ]

    def noise(self, pixels, generators):
        """Normal noise of the form of `pixels`, of each image its own."""
        noise = np.stack([generator.normal(size=tuple(pixels.shape[1:])) for generator in generators])
        return torch.from_numpy(noise).to(pixels)

    @torch.no_grad()
    def reverse(self, x, times, agree):
        """Reverse diffusion from x (B, 3, S, S), noisy as at the first of `times`, through these; deterministic (DDIM).

        agree: a function of the number of a step and of its estimate of the images, that returns a corrected one.
        """
        alphas = self.scheduler.alphas_cumprod.to(x)
        for index, time in enumerate(times):
            output = self.unet(x, time.to(self.device)).sample[:, :3]  # some models predict the variance too
            estimate = agree(index, self.scheduler.step(output, time, x).pred_original_sample)
            remaining = (x - alphas[time].sqrt() * estimate) / (1 - alphas[time]).sqrt()
            last = index == len(times) - 1
            x = estimate if last else self.scheduler.add_noise(estimate, remaining, times[index + 1])
        return x


def pixels_of(images, size, device):
    """PIL images as (B, 3, size, size), from -1 to 1."""
    pixels = np.stack([np.asarray(image.resize((size, size), Image.BICUBIC)) for image in images])
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2) / 127.5 - 1


def bytes_of(pixels):
    """Images (B, 3, S, S) from -1 to 1 as an array (B, S, S, 3) of uint8."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


class Purifier(Diffusion):
    """ZIP with one diffusion model."""

    def __init__(self, path, pool, steps, guided_from=0.0, device="auto"):
        super().__init__(path, device)
        self.pool, self.steps, self.guided_from = pool, steps, guided_from
        if self.size % pool:
            raise ByeError(f"zip averages squares of {pool} pixels, which do not divide the {self.size} of {path}")

    def purify(self, pixels, generators):
        return self.restore(self.degrade(pixels), self.noise(pixels, generators))

    def degrade(self, pixels):
        """A†A: (B, 3, S, S) averaged over squares (A) and spread over them again (A†, its pseudo-inverse)."""
        return F.avg_pool2d(pixels, self.pool).repeat_interleave(self.pool, 2).repeat_interleave(self.pool, 3)

    def restore(self, degraded, noise):
        """Reverse diffusion from noise (B, 3, S, S) to images that agree with `degraded`.

        In each guided step the estimate x0 of the image keeps its null-space part and takes the degraded image for its
        range-space part: x0 - A†A x0 + degraded.
        """
        self.scheduler.set_timesteps(self.steps)

        def agree(index, estimate):
            guided = index >= self.guided_from * self.steps
            return estimate - self.degrade(estimate) + degraded if guided else estimate

        return self.reverse(noise, self.scheduler.timesteps, agree)


def load_diffusion(path):
    """Return (UNet2DModel, DDIMScheduler) of a diffusers pipeline: a folder with unet/ and scheduler/, or a hub id.

    Weights are read as safetensors only. Raises ByeError where the folder is no such pipeline.
    """
    from diffusers import DDIMScheduler, UNet2DModel

    local = Path(path).is_dir()
    if local and not all((Path(path) / part).is_dir() for part in ("unet", "scheduler")):
        raise ByeError(f"{path} is no unconditional diffusers pipeline: it lacks the folder unet or scheduler")
    try:
        unet = UNet2DModel.from_pretrained(path, subfolder="unet", use_safetensors=True, torch_dtype=torch.float32)
        scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ByeError(f"diffusion model {path} cannot be loaded ({reason}); give a folder or a hub id") from None
    return unet, scheduler
