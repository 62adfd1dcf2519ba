"""Flickr30k (Young et al., TACL 2014) with the splits and captions of Karpathy's dataset_flickr30k.json.

Layout: the images in flickr30k-images/ (other usual names, or the root itself, do too), and
dataset_flickr30k.json {"images": [{filename, split, sentences: [{raw}, ...]}, ...]} beside it or given by its own path.
29,000 training and 1,000 test images with five captions each.
"""

from pathlib import Path

import numpy as np

from bye.data.layout import CAPTION_PROMPT, field, first_folder, new_sample
from bye.files import read_json

IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "Images", "images", ".")
REFERENCES = 5
CAPTION_STREAM = 3  # first word of the seed: independent of the draw of the subset

MINI = True  # the generator of mini datasets draws it ...
FETCHED = True  # ... and the rule fetch downloads it, or says how it is had


def parts(root, *, json: str | None = None):
    """Return the split file and the image folder that a whole download has below `root`."""
    source = Path(json) if json else root / "dataset_flickr30k.json"
    named = [root / name for name in IMAGE_FOLDERS[:-1]]
    in_root = any(root.glob("*.jpg"))
    return [source, next((folder for folder in named if folder.is_dir()), root if in_root else named[0])]


def load(root, split, *, seed, json: str | None = None):
    """Return the samples of a split ("train", "val", "test"), one an image, image paths relative to `root`.

    In training the answer is one of the image's captions, drawn by `seed`; in the other splits it is the first, and
    `references` holds five of them. json: the split file, where it is not in the root.
    """
    source = Path(json) if json else Path(root) / "dataset_flickr30k.json"
    images = field(read_json(source), "images", list, source)
    folder = Path(first_folder(Path(root), IMAGE_FOLDERS, "images"))
    rng = np.random.default_rng([CAPTION_STREAM, seed])
    samples = []
    for number, image in enumerate(images, start=1):
        where = f"{source}, image {number}"
        if field(image, "split", str, where) != split:
            continue
        sentences = field(image, "sentences", list, where)
        captions = [caption for sentence in sentences if (caption := field(sentence, "raw", str, where).strip())]
        field({"sentences": captions or None}, "sentences", list, where)  # no caption at all is an error too
        name = field(image, "filename", str, where)
        chosen = int(rng.integers(len(captions))) if split == "train" else 0
        sample = new_sample(Path(name).stem, (folder / name).as_posix(), CAPTION_PROMPT, captions[chosen])
        samples.append(sample if split == "train" else {**sample, "references": captions[:REFERENCES]})
    return samples
