"""Run a detector on a training set: give it what it reads, write what it says."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bye.cleaning.fold import fold
from bye.data.check import read_samples
from bye.data.samples import id_of
from bye.errors import ByeError, counted
from bye.features import read_features, unit_of
from bye.files import write_csv
from bye.flags import Verdict, read_labels, write_flags
from bye.formats import PART, names
from bye.registry import COLUMNS, find

MIN_REFERENCE = 20  # clean samples: what is learned of fewer says nothing


@dataclass(frozen=True)
class SampleSet:
    """A samples file and the folder of its images. validate: check the file, which the suite did not write; places: of
    the samples that are taken, from 0, or None for all."""

    path: str
    images: str | None = None
    validate: bool = False
    places: tuple[int, ...] | None = None

    @cached_property
    def entries(self):
        """The samples, read when they are first asked for, in file order."""
        entries = read_samples(self.path, self.images, self.validate)
        return entries if self.places is None else [entries[place] for place in self.places]

    @cached_property
    def ids(self):
        """Their ids as texts."""
        return [id_of(entry) for entry in self.entries]

    def as_reference(self, method):
        """The samples, for a method (its name) that learns of clean ones. Raises ByeError where there are too few."""
        if len(self.entries) < MIN_REFERENCE:
            found = counted(len(self.entries), "sample")
            raise ByeError(f"{self.path} has {found}, and {method} needs {MIN_REFERENCE} clean ones; give more")
        return self.entries


@dataclass(frozen=True)
class FineTunedModel:
    """The model that a detector may run: a base model with the adapter of the plain fine-tune, loaded on demand."""

    path: str
    adapter: str | None
    batch_size: int = 32
    options: dict = field(default_factory=dict)

    def load(self):
        """Return the loaded family (`bye.models.load_model`); it is loaded once."""
        return self._loaded

    @cached_property
    def _loaded(self):
        from bye.models import load_model

        return load_model(self.path, self.adapter, **self.options)


def detect(kind, flags, seed, settings, attention=None, samples=None, labels=None, reference=None, model=None):
    """Run a detector; write flags.parquet and, beside it, the tables that the method WRITES.

    One that reads columns of attention.parquet judges answers, and its labels are those of each answer's sample; what
    it says is folded into samples (`bye.cleaning.fold`). Others judge samples.

    Parameters
    ----------
    kind : of a defence that acts on the training set, or the path of a .py file.
    flags : path of flags.parquet to write.
    seed : of every random draw.
    settings : dict of the method's settings; what it leaves out has its default.
    attention : path of attention.parquet; samples, reference : SampleSet; labels : path of the labels; model :
        FineTunedModel. Only what the method reads need be given.

    Returns
    -------
    int
        Number of flagged samples.

    Raises
    ------
    ByeError
        For bad input, something that the method reads and was not given, and a verdict that does not fit what was
        judged.
    """
    method = _detector(kind)
    given = _given(method, attention=attention, samples=samples, labels=labels, reference=reference, model=model)
    verdict, ids, answers = _judge(method, settings, seed, given)
    for name in method.writes:
        rows = verdict.tables[name]
        write_csv(Path(flags).with_name(name), rows, list(rows[0]) if rows else [])
    write_flags(flags, ids, verdict, answers)
    return int(np.sum(verdict.flagged))


def detect_parts(kind, out, seed, settings, sizes, draws, attention=None, samples=None, reference=None, model=None):
    """Run a detector on random parts of a training set and on all of it; write how many samples it flags (CSV).

    What it reads was made of the whole set, by a model that was fine-tuned on all of it. Of each of the `sizes` that
    are smaller than the set, `draws` parts are drawn by seed. Other arguments are as in `detect`; the ground truth is
    not had.

    Raises
    ------
    ByeError
        As `detect` does, and for a size or a number of draws below 1.
    """
    if min(sizes, default=1) < 1 or draws < 1:
        raise ByeError(f"sizes are {list(sizes)} and draws {draws}; give numbers from 1 on")
    method, rows = _detector(kind), []
    given = _given(method, attention=attention, samples=samples, reference=reference, model=model)
    n = len(_ids(given))
    for size in [*sorted({size for size in sizes if size < n}), n]:
        for number in range(draws if size < n else 1):
            places = np.sort(np.random.default_rng([seed, size, number]).permutation(n)[:size])
            verdict, *_ = _judge(method, settings, seed, _part(given, places))
            rows.append({"size": size, "draw": number, "flagged": int(np.sum(verdict.flagged))})
    write_csv(out, rows, names(PART))
    return rows


def _detector(kind):
    method = find("defence", kind)
    if method.acts_on != "training set":
        raise ByeError(f"defence {kind} acts on {method.acts_on}, not on a training set; it flags nobody")
    return method


def _given(method, attention=None, **given):
    """What a detector is given, by name. Raises ByeError where something that it reads is not there."""
    columns = [name for name in method.reads if name in COLUMNS]
    for name in [*method.reads, *([] if columns else ["samples"])]:
        option = "attention" if name in COLUMNS else name
        if (attention if name in COLUMNS else given.get(name)) is None:
            raise ByeError(f"defence {method.kind} reads {name}; give --{option}")
    if columns:
        given["features"] = read_features(attention, columns)
    samples = given["samples"]
    if "samples" in method.reads and samples.ids != _ids(given):
        raise ByeError(f"{attention} and {samples.path} are not of the same samples; give those of one run")
    if "labels" in method.reads:
        given["labels"] = read_labels(given["labels"], given["features"].ids if columns else samples.ids)
    return given


def _ids(given):
    """The ids of the samples that are judged."""
    return list(dict.fromkeys(given["features"].ids)) if "features" in given else given["samples"].ids


def _part(given, places):
    """What a detector is given of some of the samples, by their places."""
    part = dict(given)
    if given.get("samples") is not None:
        part["samples"] = replace(given["samples"], places=tuple(places.tolist()))
    if "features" in given:
        part["features"] = given["features"].part(np.isin(given["features"].sample_of, places))
    return part


def _judge(method, settings, seed, given):
    """Return (verdict on samples, their ids, the answer of each that it is of, or None where samples are judged)."""
    features = given.get("features")
    judged = given["samples"].ids if features is None else features.ids  # the sample of each row of the verdict
    function = method.bind("detect", settings, seed=seed)
    verdict = function(**{name: given[name] for name in method.functions["detect"].given})
    _check(verdict, judged, method)
    if features is None:
        return verdict, judged, None
    verdict, answers = fold(verdict, judged, features.answers)
    return verdict, _ids(given), answers


def _check(verdict, judged, method):
    """Raise ByeError unless a verdict is one on rows of these samples."""
    n, what = len(judged), f"{method.path}: detect"
    if not isinstance(verdict, Verdict):
        raise ByeError(f"{what} gave a {type(verdict).__name__}; give a bye.flags.Verdict")
    parts = {"flagged": verdict.flagged, "reasons": verdict.reasons, "scores": verdict.scores, "p_low": verdict.p_low}
    for name, part in {**parts, **verdict.columns}.items():
        if part is not None and len(part) != n:
            raise ByeError(f"{what} gave {len(part)} {name} for {counted(n, unit_of(judged))}; give one for each")
    if np.asarray(verdict.flagged).dtype != bool:
        raise ByeError(f"{what} gave flags of type {np.asarray(verdict.flagged).dtype}; give booleans")
    for name in sorted(set(method.writes) ^ set(verdict.tables)):
        raise ByeError(f"{what}: WRITES and the tables of its verdict differ in {name}; have both alike")
