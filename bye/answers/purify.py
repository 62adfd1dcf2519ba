"""The stage that purifies the images of a test set before a model answers."""

import numpy as np

from bye.data.check import read_samples
from bye.data.images import load_image, write_png
from bye.data.samples import write_samples
from bye.errors import ByeError
from bye.files import replacing_folder
from bye.machine.progress import Progress
from bye.registry import find


def purify(kind, samples, images, out_samples, out_images, settings, batch_size=16, seed=0, threads=None):
    """Purify every image of a samples file; write the samples with the new images' names, and the images as PNG.

    Parameters
    ----------
    kind : of a defence that acts on test images, or the path of a .py file; settings : dict of its settings.
    samples, images : the samples file and its image folder; each distinct image is purified once.
    out_samples, out_images : file and folder to write.
    batch_size, seed, threads : as in the other stages; what is random about an image depends on seed and file name.

    Returns
    -------
    int
        Number of distinct images.
    """
    if threads:
        import torch

        torch.set_num_threads(threads)
    method = find("defence", kind)
    if method.acts_on != "test images":
        raise ByeError(f"defence {kind} acts on {method.acts_on}, not on test images; it purifies nothing")
    entries = read_samples(samples)
    by_image = {entry["image"]: entry for entry in entries}
    purified = method.bind("purifier", settings)()
    names, written = list(by_image), {}
    progress = Progress("purify", len(names))
    with replacing_folder(out_images, flush=False) as folder:
        for start in range(0, len(names), batch_size):
            chosen = names[start : start + batch_size]
            originals = [load_image(images, by_image[name]) for name in chosen]
            noise = [np.random.default_rng([seed, *name.encode()]) for name in chosen]
            for name, picture in zip(chosen, purified(originals, noise), strict=True):
                written[name] = write_png(folder, np.asarray(picture))
            progress(start + len(chosen))
    write_samples(out_samples, [{**entry, "image": written[entry["image"]]} for entry in entries], like=samples)
    return len(names)
