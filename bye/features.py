"""attention.parquet as detectors get it: what one forward pass tells of each answer of the training samples."""

from dataclasses import dataclass

import numpy as np

from bye.errors import ByeError, counted
from bye.flags import read_table
from bye.registry import COLUMNS

MIN_TURN = 20  # answers of a turn that have a median of their own
MASSES = tuple(name for name in COLUMNS if name.endswith("_mass"))


@dataclass(frozen=True)
class Features:
    """Of the n answers of all samples in L layers of H heads; what was not asked for is None.

    path: the file, for errors; ids: n texts, of each answer's sample; answers: (n,) int, its number there, from 0;
    entropies: (n, L) float64, nats, made comparable (`read_entropies`); n_image_tokens: of the median sample;
    system_mass, image_mass, text_mass: (n, L, H) float64, shares of each head; hidden: (n, K, D) float64, states of K
    named layers.
    """

    path: str
    ids: list[str]
    answers: np.ndarray
    entropies: np.ndarray | None = None
    n_image_tokens: float | None = None
    system_mass: np.ndarray | None = None
    image_mass: np.ndarray | None = None
    text_mass: np.ndarray | None = None
    hidden: np.ndarray | None = None

    @property
    def unit(self):
        """What a row is (`unit_of`)."""
        return unit_of(self.ids)

    @property
    def sample_of(self):
        """(n,) int, the number of each answer's sample, in the order in which the ids occur first."""
        return number_samples(self.ids)


def check_enough(features, method, least=10):
    """Raise ByeError where there are too few answers for a method, by its name."""
    if len(features.ids) < least:
        found = counted(len(features.ids), features.unit)
        raise ByeError(f"{features.path} has {found}, and {method} needs {least} at least; give a larger set")


def number_samples(ids):
    """Return (n,) int, the number of each row's sample, in the order in which its ids occur first."""
    number_of = {name: number for number, name in enumerate(dict.fromkeys(ids))}
    return np.array([number_of[name] for name in ids], dtype=int)


def align_turns(values, answers):
    """Move the answers of each turn to the median of the first turn's: like is compared with like.

    The attention of a second answer has other entropies than that of a first, with poison or without: it comes later,
    and after a text. Turns with fewer than MIN_TURN answers share a median with the turns before them.

    Parameters
    ----------
    values : array of shape (n, ...), a row an answer.
    answers : int array of shape (n,), the turn of each, from 0.

    Returns
    -------
    array of shape (n, ...)
        Where all answers are of one turn, the values as they are.
    """
    turns = np.minimum(answers, max(0, int(np.sum(np.bincount(answers) >= MIN_TURN)) - 1))
    moved, first = values.copy(), np.median(values[turns == 0], axis=0) if len(values) else None
    for turn in range(1, turns.max(initial=0) + 1):
        moved[turns == turn] += first - np.median(values[turns == turn], axis=0)
    return moved


def lowest_of_samples(values, sample_of):
    """Return the lowest of each sample's answers: (n, ...) values, (n,) their samples -> (n_samples, ...)."""
    lowest = np.full((int(sample_of.max(initial=-1)) + 1, *values.shape[1:]), np.inf)
    np.minimum.at(lowest, sample_of, values)
    return lowest


def read_features(path, columns):
    """Return the Features of attention.parquet that `columns` name: "entropy" or one of MASSES. Raises ByeError."""
    found = {}
    if "entropy" in columns:
        ids, answers, found["entropies"], found["n_image_tokens"] = read_entropies(path)
    masses = [name for name in columns if name in MASSES]
    if masses:
        table = read_table(path, ("id", *masses), prefix=masses[0], of_answers=True)
        ids, answers = table["id"], np.array(table["answer"], dtype=int)
        shape = [int(table["metadata"][name]) for name in ("n_layers", "n_heads")]
        for name in masses:
            found[name] = np.array(table[name], dtype=np.float64).reshape(len(ids), *shape)
    return Features(str(path), ids, answers, **found)


def unit_of(ids):
    """What rows with these ids of samples are, in a word: "sample" where none occurs twice, or "answer"."""
    return "sample" if len(set(ids)) == len(ids) else "answer"


def read_entropies(path):
    """Return (ids, answers, entropies, number of image tokens) of attention.parquet, entropies made comparable.

    A sample's entropy over T_i image tokens is at most ln T_i, and where attention is spread over most of them, it
    grows in proportion to it. So the file's nats are multiplied by ln T / ln T_i, with T the tokens of the median
    sample, which are returned: the share of the highest possible entropy, in nats at T. Where all samples have the same
    T, the factor is exactly 1. A row is an answer: ids of its sample, answers its number there, entropies float64 of
    shape (n, n_layers). Raises ByeError where an entropy is no finite number, naming the sample and the layer, or a
    sample has one image token.
    """
    table = read_table(path, ("id", "n_image_tokens", "entropy_00"), prefix="entropy_", of_answers=True)
    layers = sorted(int(name[len("entropy_") :]) for name in table if name.startswith("entropy_"))
    ids, answers = table["id"], np.array(table["answer"], dtype=int)
    entropies = np.array([table[f"entropy_{layer:02d}"] for layer in layers], dtype=np.float64).T  # (n, n_layers)
    if not np.isfinite(entropies).all():
        bad = np.argwhere(~np.isfinite(entropies))
        row, layer = bad[0]
        which = f", answer {answers[row] + 1} of {ids.count(ids[row])}," if ids.count(ids[row]) > 1 else ""
        raise ByeError(
            f"{path}: the attention entropy of sample {ids[row]!r}{which} in layer {layer} is {entropies[row, layer]} "
            f"({len(np.unique(bad[:, 0]))} of {counted(len(ids), unit_of(ids))} have such values); the fine-tune has "
            "probably diverged, so check its loss and lower the learning rate"
        )
    if not ids:
        return ids, answers, entropies, 0
    tokens = np.array(table["n_image_tokens"], dtype=np.float64)
    if tokens.min() < 2:
        raise ByeError(
            f"{path}: sample {ids[tokens.argmin()]!r} has one image token, and attention on one has no entropy; give a "
            "larger image or drop the sample"
        )
    _, one_of_each = np.unique(ids, return_index=True)
    median = float(np.median(tokens[one_of_each]))
    factors = np.where(tokens == median, 1.0, np.log(median) / np.log(tokens))
    return ids, answers, entropies * factors[:, None], median
