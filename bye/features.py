"""attention.parquet as detectors get it: what one forward pass tells of each answer of the training samples."""

import json
from dataclasses import dataclass, fields, replace

import numpy as np

from bye.errors import ByeError, counted
from bye.flags import read_table

MIN_TURN = 20  # answers of a turn that have a median of their own


@dataclass(frozen=True)
class Features:
    """Of the n answers of all samples in L layers of H heads; what was not asked for is None.

    path: the file, for errors; ids: n texts, of each answer's sample; answers: (n,) int, its number there, from 0;
    entropies: (n, L) float64, nats, made comparable (`read_entropies`); n_image_tokens: of the median sample;
    system_mass, image_mass, text_mass: (n, L, H) float64, shares of each head; head_entropy: (n, L, H) float64, nats,
    made comparable as the entropies are; head_token: (n, L, H) int, the image token most attended to, from 0; hidden:
    (n, K, D) float64, of K layers; nll: (n,) float64, mean negative log-likelihood of the answer's n_answer_tokens.
    """

    path: str
    ids: list[str]
    answers: np.ndarray
    entropies: np.ndarray | None = None
    n_image_tokens: float | None = None
    system_mass: np.ndarray | None = None
    image_mass: np.ndarray | None = None
    text_mass: np.ndarray | None = None
    head_entropy: np.ndarray | None = None
    head_token: np.ndarray | None = None
    hidden: np.ndarray | None = None
    nll: np.ndarray | None = None
    n_answer_tokens: np.ndarray | None = None

    @property
    def unit(self):
        """What a row is (`unit_of`)."""
        return unit_of(self.ids)

    @property
    def sample_of(self):
        """(n,) int, the number of each answer's sample, in the order in which the ids occur first."""
        return number_samples(self.ids)

    def part(self, rows):
        """Those of some answers. rows: (n,) bool or int."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        arrays = {name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)}
        return replace(self, ids=np.array(self.ids, dtype=object)[rows].tolist(), **arrays)


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
    """Return the Features of attention.parquet that `columns` (of `bye.registry.COLUMNS`) name. Raises ByeError."""
    found, others = {}, [name for name in columns if name != "entropy"]
    if "entropy" in columns:
        ids, answers, found["entropies"], found["n_image_tokens"] = read_entropies(path)
    if others:
        beside = {"head_entropy": ["n_image_tokens"], "nll": ["n_answer_tokens"]}
        wanted = [*others, *(name for other in others for name in beside.get(other, ()))]
        table = read_table(path, ("id", *wanted), prefix=wanted[0], of_answers=True)
        ids, answers = table["id"], np.array(table["answer"], dtype=int)
        for name in others:
            found[name] = _feature(name, table)
            _check_finite(path, name, found[name], ids)
        if "head_entropy" in others:
            factors, _ = _comparable(path, ids, table["n_image_tokens"])
            found["head_entropy"] *= factors[:, None, None]
        if "nll" in others:
            found["n_answer_tokens"] = np.array(table["n_answer_tokens"], dtype=int)
    return Features(str(path), ids, answers, **found)


def _feature(name, table):
    """A column of the table as Features has it."""
    metadata, values = table["metadata"], np.array(table[name], dtype=int if name == "head_token" else np.float64)
    if name == "nll":
        return values
    if name == "hidden":
        return values.reshape(-1, len(json.loads(metadata["hidden_layers"])), int(metadata["hidden_size"]))
    return values.reshape(-1, int(metadata["n_layers"]), int(metadata["n_heads"]))


def _check_finite(path, name, values, ids):
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        raise ByeError(
            f"{path}: {name} of sample {ids[int(bad.argmax())]!r} is not finite ({np.sum(bad)} of "
            f"{counted(len(ids), unit_of(ids))} have such values); the fine-tune has probably diverged, so check its "
            "loss and lower the learning rate"
        )


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
    factors, median = _comparable(path, ids, table["n_image_tokens"])
    return ids, answers, entropies * factors[:, None], median


def _comparable(path, ids, tokens):
    """Return ((n,) factors that make entropies over `tokens` image tokens comparable, tokens of the median sample)."""
    if not ids:
        return np.ones(0), 0
    tokens = np.array(tokens, dtype=np.float64)
    if tokens.min() < 2:
        raise ByeError(
            f"{path}: sample {ids[tokens.argmin()]!r} has one image token, and attention on one has no entropy; give a "
            "larger image or drop the sample"
        )
    _, one_of_each = np.unique(ids, return_index=True)
    median = float(np.median(tokens[one_of_each]))
    return np.where(tokens == median, 1.0, np.log(median) / np.log(tokens)), median
