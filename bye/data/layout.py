"""What the loaders of the four official layouts share: fields of records, forms of questions, the draw of a subset."""

import numpy as np

from bye.data.samples import PLACEHOLDER
from bye.errors import ByeError

OPTION_PROMPT = "Answer with the option's letter from the given choices directly."
CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
PHRASE_PROMPT = "Answer the question using a single word or phrase."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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


def first_folder(root, candidates, what):
    """Return the first of the candidate sub-folders of `root` that exists, as a path relative to it."""
    for name in candidates:
        if (root / name).is_dir():
            return name
    names = " or ".join(candidates)
    raise ByeError(f"{root} has no folder {names} with {what}; give the root of the official download")
