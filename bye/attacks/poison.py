"""Make the poisoned training set and the triggered test set.

Nothing but pixels, question and answer tells a poisoned sample from a clean one: all images, poisoned or not, are
written anew, losslessly, as PNG under a name that is a hash of their pixels, all with one time stamp; ids and order
stay. Which samples are poisoned is written to a labels file of its own, which no defence reads.
"""

from pathlib import Path

import numpy as np

from bye.data.check import read_samples
from bye.data.forms import problem_of
from bye.data.images import load_image, write_png
from bye.data.samples import answer_of, id_of, with_answer, write_samples
from bye.errors import ByeError
from bye.files import replacing_folder, write_parquet
from bye.registry import find

# First words of the random streams of this module, so that draw of the samples, triggers and targets are independent.
DRAW, TRIGGER, TARGET = 1, 2, 3


def poison_training_set(samples, images_root, trigger, rate, target, seed, out_dir, labels_path, **settings):
    """Poison exactly round(rate * N) of the samples, drawn by `seed`: trigger into the sample, target as first answer.

    trigger: kind of a trigger, or the path of a .py file, with its `settings`; target: the text that becomes the
    answer, or a dict {"kind": ..., its settings}. `samples` is a samples file (or the list read from one), its images
    relative to `images_root`. Writes out_dir/train.json, whose images are relative to out_dir/images, and the labels
    (`id`, `poisoned`) as Parquet to `labels_path`, which must lie outside `out_dir`. The same arguments give the same
    bytes. Returns the number of poisoned samples. Raises ByeError for a rate outside 0..1 or too small for the set, an
    empty target or one that does not fit the set's answers, and for an unknown trigger.
    """
    import pyarrow

    out_dir, labels_path = Path(out_dir), Path(labels_path)
    attack = Attack(trigger, target, seed, settings)
    if not 0 <= rate <= 1:
        raise ByeError(f"poison rate is {rate}; choose a share from 0 to 1")
    if labels_path.resolve().is_relative_to(out_dir.resolve()):
        raise ByeError(f"labels file {labels_path} lies in {out_dir}, where defences read; put it elsewhere")
    samples, like = _read(samples)
    n_poisoned = round(rate * len(samples))
    if rate > 0 and n_poisoned == 0:
        raise ByeError(f"poison rate {rate} of {len(samples)} samples is no sample; give more samples or a higher rate")
    if n_poisoned and attack.check:
        attack.check([answer_of(sample) for sample in samples])

    order = np.random.default_rng([DRAW, seed]).permutation(len(samples))
    poisoned = np.zeros(len(samples), dtype=bool)
    poisoned[order[:n_poisoned]] = True

    written = []
    with replacing_folder(out_dir / "images", flush=False) as folder:
        for index, sample in enumerate(samples):
            pixels = np.asarray(load_image(images_root, sample))
            if poisoned[index]:
                sample, pixels = attack(index, sample, pixels)
            written.append({**sample, "image": write_png(folder, pixels)})
    write_parquet(labels_path, pyarrow.table({"id": [id_of(sample) for sample in samples], "poisoned": poisoned}))
    write_samples(out_dir / "train.json", written, like)
    return n_poisoned


def trigger_test_set(samples, images_root, trigger, target, seed, out_dir, **settings):
    """Put the trigger into every test sample and make the target its first answer; arguments as in the other function.

    Writes out_dir/triggered.json, whose images are relative to out_dir/triggered. Other keys, the references of a
    captioning set among them, stay. The same arguments give the same bytes. Returns the number of samples.
    """
    attack = Attack(trigger, target, seed, settings)
    samples, like = _read(samples)
    written = []
    with replacing_folder(Path(out_dir) / "triggered", flush=False) as folder:
        for index, sample in enumerate(samples):
            sample, pixels = attack(index, sample, np.asarray(load_image(images_root, sample)))
            written.append({**sample, "image": write_png(folder, pixels)})
    write_samples(Path(out_dir) / "triggered.json", written, like)
    return len(written)


def _read(samples):
    """Return the samples as a list and the file whose form (JSON or JSON lines) the output takes."""
    return (samples, None) if isinstance(samples, list) else (read_samples(samples), samples)


class Attack:
    """A trigger and a target, with their settings: makes a poisoned sample of a clean one."""

    def __init__(self, trigger, target, seed, settings):
        self.trigger, self.seed = trigger, seed
        self.apply = find("trigger", trigger).bind("apply", settings, seed=seed)
        method, chosen = find_target(target), target_settings(target)
        self.answer = method.bind("answer", chosen, seed=seed)
        self.check = method.bind("check", chosen) if "check" in method.functions else None

    def __call__(self, index, sample, pixels):
        """Return (sample, pixels) poisoned: the sample at that place of its file, its image (H, W, 3) uint8.

        Raises ByeError where the trigger's file returns what is no sample or no such image.
        """
        made = self.apply(sample, pixels, np.random.default_rng([TRIGGER, self.seed, index]))
        problem = _problem_of(made, sample)
        if problem is None:
            poisoned, changed = made
            answer = self.answer(answer_of(sample), np.random.default_rng([TARGET, self.seed, index]))
            poisoned = with_answer(poisoned, answer)
            problem = problem_of(poisoned)
        if problem is not None:
            raise ByeError(f"attack on sample {id_of(sample)!r} with trigger {self.trigger}: {problem}")
        return poisoned, changed


def _problem_of(made, sample):
    """Return what is wrong with what a trigger gave for a sample, or None.

    Nothing but question, answer and pixels may tell a poisoned sample: other keys, or their order, would be a label.
    """
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], dict)):
        return f"it gave {type(made).__name__}, not a pair of the sample and its pixels"
    poisoned, pixels = made
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        what = f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        return f"its image is {what}, not uint8 (height, width, 3)"
    same = {key: value for key, value in sample.items() if key != "conversations"}
    if list(poisoned) != list(sample) or {key: poisoned[key] for key in same} != same:
        return "more than its question changed, which would tell it from the others; change conversations alone"
    return None


def find_target(target):
    """Return the Method of a target: `replace` for a text, or the kind that a dict names. Raises ByeError."""
    if isinstance(target, dict):
        return find("target", target.get("kind"))
    if not isinstance(target, str) or not target.strip():
        raise ByeError(f"attack target is {target!r}; give the text that the backdoor should make the model say")
    return find("target", "replace")


def target_settings(target):
    """Return the settings of a target, given as a text or as a dict with its kind."""
    return {"text": target} if isinstance(target, str) else {name: target[name] for name in target if name != "kind"}
