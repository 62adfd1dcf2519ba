"""SampDetox: a little noise everywhere, much noise where that changed the image, both taken out by a diffusion model.

Yang et al., "SampDetox: Black-box Backdoor Defense via Perturbation-based Sample Detoxification", NeurIPS 2024. The
first, global stage adds weak noise and removes it, which destroys triggers of low visibility. What is conspicuous in an
image survives it changed: where the structural similarity (SSIM) of image and result is low, the second, local stage
adds noise up to a later step, the later the lower the similarity, and generates these places anew, while others
keep what the first stage gave. Ours, where the source was not at hand, are the numbers of steps, that a place's share
of the local steps is its 1 - SSIM over the most in the image, and deterministic sampling (DDIM).
"""

from typing import Annotated

import torch
from torch.nn import functional as F

from bye.methods.defences.zip import Diffusion

ACTS_ON = "test images"
FOLDERS = {"diffusion": "model_index.json"}

WINDOW = 7  # pixels, of the structural similarity


def purifier(
    *,
    diffusion: str,
    weak: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.02,
    strong: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.3,
    steps: Annotated[int, {"minimum": 1}] = 4,
):
    """Return a function that purifies images.

    diffusion: folder or hub id of an unconditional diffusers pipeline; weak: where in the noise schedule the global
    stage begins, 0 (no noise) to 1; strong: where the local stage begins; steps: denoising steps of each stage. Raises
    ByeError where the folder is no such pipeline.
    """
    return SampDetox(diffusion, weak, strong, steps)


class SampDetox(Diffusion):
    """Both stages with one diffusion model."""

    def __init__(self, path, weak, strong, steps, device="auto"):
        super().__init__(path, device)
        self.weak, self.strong, self.steps = weak, strong, steps

    def purify(self, pixels, generators):
        times, noise = self.times(self.weak), self.noise(pixels, generators)
        noisy = self.scheduler.add_noise(pixels, noise, times[:1])
        detoxed = self.reverse(noisy, times, lambda index, estimate: estimate)
        changed = 1 - similarity(pixels, detoxed)
        share = changed / changed.amax(dim=(2, 3), keepdim=True).clamp_min(1e-6)  # (B, 1, S, S)
        times, noise = self.times(self.strong), self.noise(pixels, generators)

        def agree(index, estimate):
            return torch.where(share * times[0] >= times[index], estimate, detoxed)

        return self.reverse(self.scheduler.add_noise(detoxed, noise, times[:1]), times, agree)

    def times(self, begin):
        """Steps of the noise schedule from `begin`, a share of it, down to the first: an int64 tensor."""
        self.scheduler.set_timesteps(self.steps)
        last = round(begin * (self.scheduler.config.num_train_timesteps - 1))
        return torch.linspace(last, 0, self.steps + 1)[:-1].round().long() if last else torch.zeros(1, dtype=torch.long)


def similarity(one, other):
    """Structural similarity (Wang et al. 2004) of images (B, 3, S, S) from -1 to 1 at each place: (B, 1, S, S).

    In uniform windows of 7 x 7 pixels, the mean over colours.
    """
    small, medium = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the usual constants for a range of 2

    def mean(values):
        padded = F.pad(values, (WINDOW // 2,) * 4, mode="reflect")
        return F.avg_pool2d(padded, WINDOW, stride=1)

    mean_one, mean_other = mean(one), mean(other)
    var_one, var_other = mean(one**2) - mean_one**2, mean(other**2) - mean_other**2
    covariance = mean(one * other) - mean_one * mean_other
    brightness = (2 * mean_one * mean_other + small) / (mean_one**2 + mean_other**2 + small)
    structure = (2 * covariance + medium) / (var_one + var_other + medium)
    return (brightness * structure).mean(dim=1, keepdim=True)
