"""Trials on a model: what it answers when a part of one sample is carried to another."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import pdist

from bye.answers.generate import generate
from bye.data.images import image_sizes, load_image, token_box

HALF = 0.5  # weight of the carried image where one is laid over another
SIDE = 128  # pixels, of the mean images
GLANCE = 16  # pixels, of images that are compared


@dataclass(frozen=True)
class Trial:
    """An image with a question: what a model is to answer.

    image: place of the sample whose image is shown, or an array (H, W, 3) uint8; question: text; system: the system
    prompt, or None.
    """

    image: object
    question: str
    system: str | None = None


class Asker:
    """Asks a loaded model about images of samples, and images made of them.

    entries: the samples; root: their image folder. `passes` counts the answers so far.
    """

    def __init__(self, family, entries, root, batch_size=32):
        self.family, self.entries, self.root, self.batch_size = family, entries, root, batch_size
        self.sizes = image_sizes(root, entries) if family.any_resolution else [None] * len(entries)
        self.passes = 0

    def __call__(self, trials, max_new_tokens):
        """Greedy answers to Trials, a list of texts. An image that several trials show is encoded once a batch."""
        answers = []
        for start in range(0, len(trials), self.batch_size):
            batch = trials[start : start + self.batch_size]
            shown, owners = {}, []
            for trial in batch:
                key = trial.image if isinstance(trial.image, int) else id(trial)
                owners.append(shown.setdefault(key, (len(shown), trial.image))[0])
            images = [self._image(image) for _, image in shown.values()]
            features = self.family.image_features(self.family.pixels(images))
            prompts = [
                self.family.prompt(f"trial {start + place}", trial.question, self._size(images[owner]), trial.system)
                for place, (trial, owner) in enumerate(zip(batch, owners, strict=True))
            ]
            answers += generate(self.family, prompts, features, owners, max_new_tokens)
            self.passes += len(batch)
        return answers

    def pixels(self, place):
        """The part of a sample's image that the model sees: (H, W, 3) uint8."""
        return np.asarray(self.family.seen(load_image(self.root, self.entries[place])))

    def grid(self, place):
        """(rows, columns) of a sample's image tokens."""
        return self.family.grid(self.sizes[place])

    def _size(self, image):
        return (image.height, image.width) if self.family.any_resolution else None

    def _image(self, image):
        return Image.fromarray(image) if isinstance(image, np.ndarray) else load_image(self.root, self.entries[image])


def paste(carried, host, cell, grid, around=1):
    """Return the host with a part of the carried image in the same place: arrays (H, W, 3) uint8.

    cell: (row, column) of an image token in a grid of (rows, columns); around: how many tokens on each side go with it.
    """
    height, width = host.shape[:2]
    top, bottom, left, right = token_box(cell, grid, height, width, around)
    made = host.copy()
    made[top:bottom, left:right] = resized(carried, height, width)[top:bottom, left:right]
    return made


def overlay(carried, host, weight=HALF):
    """Return the host with the carried image laid over it, of this weight (STRIP, Gao et al. 2019)."""
    height, width = host.shape[:2]
    return _whole((1 - weight) * host + weight * resized(carried, height, width))


def add(shared, host):
    """Return the host with what a group's images share added: shared (SIDE, SIDE, 3) float, of `mean_difference`."""
    height, width = host.shape[:2]
    channels = [
        np.asarray(Image.fromarray(shared[:, :, channel].astype(np.float32)).resize((width, height), Image.BILINEAR))
        for channel in range(3)
    ]
    return _whole(host + np.stack(channels, axis=-1))


def mean_difference(group, others):
    """Return the mean of a group's images less that of others, (SIDE, SIDE, 3) float: what additive triggers leave.

    What varies less than over a quarter of the image is taken out: honest classes too differ in colour and brightness.
    """
    ours, theirs = (
        np.mean([resized(image, SIDE, SIDE).astype(float) for image in images], axis=0) for images in (group, others)
    )
    difference = ours - theirs
    return difference - uniform_filter(difference, (SIDE // 4, SIDE // 4, 1), mode="nearest")


def spread(images):
    """Return how unlike images are, one of equal ones: the median of their distances (root mean square of grey levels)
    at GLANCE x GLANCE pixels; NaN of fewer than three."""
    seen = [resized(image, GLANCE, GLANCE).reshape(-1) for image in images]
    pixels = np.unique(np.array(seen, dtype=float), axis=0)
    if len(pixels) < 3:
        return float("nan")
    return float(np.median(pdist(pixels)) / np.sqrt(pixels.shape[1]))


def resized(image, height, width):
    """Return an image (H, W, 3) uint8 in another size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.BICUBIC))


def _whole(image):
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
