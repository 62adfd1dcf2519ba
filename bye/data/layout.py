"""What the loaders of official layouts share: fields of records, forms of questions, splits, the draw of a subset."""

import hashlib

import numpy as np

from bye.data.samples import PLACEHOLDER
from bye.errors import ByeError

OPTION_PROMPT = "Answer with the option's letter from the given choices directly."
CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
PHRASE_PROMPT = "Answer the question using a single word or phrase."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TESTED = 5  # of a set without official splits, one picture in so many is for testing


def field(record, key, kind, where):
    """Return record[key]. Raises ByeError naming `where` (file and entry) if it is not there or not of type `kind`."""
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise ByeError(f"{where}: field {key!r} is missing or not {names}; is this the official download?")
    return value


def new_sample(name, image, question, answer):
    """Return a sample of one turn, the image before the question."""
    turns = [{"from": "human", "value": f"{PLACEHOLDER}\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


def multiple_choice(question, context, choices, answer, where):
    """Return (prompt, letter of the answer) of a multiple-choice question whose right choice has the index `answer`."""
    if not 0 <= answer < len(choices) <= len(LETTERS):
        raise ByeError(f"{where}: answer {answer} is none of {len(choices)} choices; is this the official download?")
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    lines = [question.strip()] + ([f"Context: {context.strip()}"] if context.strip() else [])
    return "\n".join([*lines, *options, OPTION_PROMPT]), LETTERS[answer]


def hash_of(name):
    """Return a number of 64 bits that a name has in every run and on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big")


def split_of(name):
    """Return "train" or, for one picture in TESTED, "test": the split of a picture of a set without official ones.

    It depends on the picture's name alone, so that it stays the same whatever else is in the set.
    """
    return "test" if hash_of(name) % TESTED == 0 else "train"


def shown_in(name, part):
    """Return whether a picture's name falls into the part (from, to) of all names, 0 to 1, in the order of a hash.

    Parts that do not overlap have no picture in common, whatever is in the set.
    """
    return part[0] <= hash_of(f"part of {name}") / 2**64 < part[1]


def draw(samples, count, seed, what):
    """Return `count` of the samples (None: all), drawn by `seed`, in their original order.

    A smaller draw of the same seed is a part of a larger one. Raises ByeError, which calls the samples `what`, if there
    are not so many.
    """
    if count is None:
        return samples
    if count > len(samples):
        raise ByeError(f"{count} {what} are asked for, but there are {len(samples)}; ask for that many or fewer")
    chosen = np.sort(np.random.default_rng([0, seed]).permutation(len(samples))[:count])
    return [samples[index] for index in chosen]


def draw_beside(samples, count, more, seed, what):
    """Return `more` of the samples that `draw` with the same seed does not have among its `count`."""
    taken = {id(sample) for sample in draw(samples, count, seed, what)}
    return [sample for sample in draw(samples, count + more, seed, what) if id(sample) not in taken]


def first_folder(root, candidates, what):
    """Return the first of the candidate sub-folders of `root` that exists, as a path relative to it."""
    for name in candidates:
        if (root / name).is_dir():
            return name
    names = " or ".join(candidates)
    raise ByeError(f"{root} has no folder {names} with {what}; give the root of the official download")
