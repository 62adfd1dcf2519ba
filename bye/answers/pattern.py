"""Which images of a group share an additive pattern: another image blended into them, waves laid over them."""

from dataclasses import dataclass

import numpy as np

from bye.answers.trials import SIDE, resized

TURNS = 10  # of finding the pattern and who has it
TINY = np.finfo(np.float32).tiny
LEADING = 0.9  # quantile of how much of the pattern those have that have it


@dataclass(frozen=True)
class Pattern:
    """What some images have that others lack.

    values: (SIDE * SIDE * 3,) float, the mean of those that have it less the mean of others, as `_whitened`; spectrum:
    of others; least: how much of it an image has that is said to have it, 1 being as much as the mean.
    """

    values: np.ndarray
    spectrum: np.ndarray
    least: float

    def is_in(self, image):
        """Whether an image (H, W, 3) uint8 has it."""
        return bool(_whitened(image, self.spectrum) @ self.values > self.least * (self.values @ self.values))


def shared_pattern(group, others):
    """Return the Pattern of a group's images, and which of them have it: (n,) bool.

    The pattern and who has it are found by turns, beginning with all: an image has it that has more of it than halfway
    from others to the tenth of the last turn that has most. What an image itself adds to the pattern is left out for
    it. Images are taken by their spectra, in units of those of others: natural images are smooth, and alike in that.
    group, others: images (H, W, 3) uint8.
    """
    power = np.mean([np.abs(_spectrum(image)) ** 2 for image in others], axis=0)
    spectrum = np.sqrt(power + power.mean())
    ours, theirs = (np.stack([_whitened(image, spectrum) for image in images]) for images in (group, others))
    usual, having = theirs.mean(axis=0), np.ones(len(ours), dtype=bool)
    lengths = np.einsum("ij,ij->i", ours, ours)
    for _ in range(TURNS):
        mean = ours[having].mean(axis=0)
        values = mean - usual
        much, of_mean, rest = ours @ values, ours @ mean, max(1, having.sum() - 1)
        without_own = values @ values + 2 * (values @ mean - much) / rest
        without_own += (mean @ mean - 2 * of_mean + lengths) / rest**2  # its squared length
        much = np.where(
            having, (much + (of_mean - lengths) / rest) / np.maximum(without_own, TINY), much / (values @ values)
        )
        least = (np.mean(theirs @ values) / (values @ values) + np.quantile(much[having], LEADING)) / 2
        before, having = having, much > least
        if not having.any() or (having == before).all():
            break
    return Pattern(values, spectrum, float(least)), having


def _spectrum(image):
    """The Fourier transform of an image, at SIDE x SIDE pixels."""
    return np.fft.rfft2(resized(image, SIDE, SIDE), axes=(0, 1))


def _whitened(image, spectrum):
    """The pixels of an image, (SIDE * SIDE * 3,) float32, every frequency in units of a spectrum."""
    white = np.fft.irfft2(_spectrum(image) / spectrum, s=(SIDE, SIDE), axes=(0, 1))
    return white.astype(np.float32).ravel()
