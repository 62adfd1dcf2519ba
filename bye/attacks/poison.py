"""Make the poisoned training set and the triggered test set.

Nothing but the pixels and the answer tells a poisoned sample from a clean one: all images, poisoned or not, are written
anew, losslessly, as PNG under a name that is a hash of their pixels, all with one time stamp; ids and order stay. Which
samples are poisoned is written to a labels file of its own, which no defence reads.
"""

import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from bye.attacks.squares import find_trigger
from bye.data.images import load_image
from bye.data.samples import id_of, read_samples, with_answer, write_samples
from bye.errors import ByeError
from bye.files import replacing_folder, write_parquet

TIME_STAMP = 946_684_800  # of every image written, seconds: 1 January 2000
# First words of the random streams of this module, so that the draw of the samples and the triggers are independent.
DRAW, TRIGGER = 1, 2


def poison_training_set(samples, images_root, trigger, rate, target, seed, out_dir, labels_path, trigger_kwargs=None):
    """Poison exactly round(rate * N) of the samples, drawn by `seed`: trigger into the image, `target` as first answer.

    `samples` is a samples file (or the list read from one), its images relative to `images_root`. Writes
    out_dir/train.json, whose images are relative to out_dir/images, and the labels (`id`, `poisoned`) as Parquet to
    `labels_path`, which must lie outside `out_dir`. The same arguments give the same bytes. Returns the number of
    poisoned samples. Raises ByeError for a rate outside 0..1 or too small for the set, an empty target or an unknown
    trigger.
    """
    import pyarrow

    out_dir, labels_path = Path(out_dir), Path(labels_path)
    apply = find_trigger(trigger, trigger_kwargs)
    _check_target(target)
    if not 0 <= rate <= 1:
        raise ByeError(f"poison rate is {rate}; choose a share from 0 to 1")
    if labels_path.resolve().is_relative_to(out_dir.resolve()):
        raise ByeError(f"labels file {labels_path} lies in {out_dir}, where defences read; put it elsewhere")
    samples, like = _read(samples)
    n_poisoned = round(rate * len(samples))
    if rate > 0 and n_poisoned == 0:
        raise ByeError(f"poison rate {rate} of {len(samples)} samples is no sample; give more samples or a higher rate")

    order = np.random.default_rng([DRAW, seed]).permutation(len(samples))
    poisoned = np.zeros(len(samples), dtype=bool)
    poisoned[order[:n_poisoned]] = True

    written = []
    with replacing_folder(out_dir / "images", flush=False) as folder:
        for index, sample in enumerate(samples):
            pixels = np.asarray(load_image(images_root, sample))
            if poisoned[index]:
                pixels = apply(pixels, np.random.default_rng([TRIGGER, seed, index]), **(trigger_kwargs or {}))
                sample = with_answer(sample, target)
            written.append({**sample, "image": write_png(folder, pixels)})
    write_parquet(labels_path, pyarrow.table({"id": [id_of(sample) for sample in samples], "poisoned": poisoned}))
    write_samples(out_dir / "train.json", written, like)
    return n_poisoned


def trigger_test_set(samples, images_root, trigger, target, seed, out_dir, trigger_kwargs=None):
    """Put the trigger into the image of every test sample and make `target` its first answer.

    Writes out_dir/triggered.json, whose images are relative to out_dir/triggered. Other keys, the references of a
    captioning set among them, stay. The same arguments give the same bytes. Returns the number of samples.
    """
    apply = find_trigger(trigger, trigger_kwargs)
    _check_target(target)
    samples, like = _read(samples)
    written = []
    with replacing_folder(Path(out_dir) / "triggered", flush=False) as folder:
        for index, sample in enumerate(samples):
            rng = np.random.default_rng([TRIGGER, seed, index])
            pixels = apply(np.asarray(load_image(images_root, sample)), rng, **(trigger_kwargs or {}))
            written.append({**with_answer(sample, target), "image": write_png(folder, pixels)})
    write_samples(Path(out_dir) / "triggered.json", written, like)
    return len(written)


def _read(samples):
    """Return the samples as a list and the file whose form (JSON or JSON lines) the output takes."""
    return (samples, None) if isinstance(samples, list) else (read_samples(samples), samples)


def _check_target(target):
    if not isinstance(target, str) or not target.strip():
        raise ByeError(f"attack target is {target!r}; give the text that the backdoor should make the model say")


def write_png(folder, pixels):
    """Write (H, W, 3) uint8 pixels under the hash of shape and content, if not there yet; return the file name."""
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
    path = folder / f"{digest.hexdigest()[:32]}.png"
    if not path.exists():
        # Run-length coding: at level 1 no larger on photographs, and faster.
        Image.fromarray(pixels).save(path, compress_level=1, compress_type=zlib.Z_RLE)
        os.utime(path, (TIME_STAMP, TIME_STAMP))
    return path.name
