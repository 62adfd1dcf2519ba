"""Run a detector on a training set: give it what it reads, write what it says."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bye.cleaning.fold import fold
from bye.data.samples import id_of, read_written
from bye.errors import ByeError, counted
from bye.features import read_features, unit_of
from bye.files import write_csv
from bye.flags import Verdict, read_labels, write_flags
from bye.registry import COLUMNS, find


@dataclass(frozen=True)
class SampleSet:
    """A samples file and the folder of its images."""

    path: str
    images: str | None = None

    @cached_property
    def entries(self):
        """The samples, read when they are first asked for, in file order."""
        return read_written(self.path)

    @cached_property
    def ids(self):
        """Their ids as texts."""
        return [id_of(entry) for entry in self.entries]


@dataclass(frozen=True)
class FineTunedModel:
    """The model that a detector may run: a base model with the adapter of the plain fine-tune, loaded on demand."""

    path: str
    adapter: str | None
    batch_size: int = 32
    options: dict = field(default_factory=dict)

    def load(self):
        """Return the loaded family (`bye.models.load_model`)."""
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
    method = find("defence", kind)
    if method.acts_on != "training set":
        raise ByeError(f"defence {kind} acts on {method.acts_on}, not on a training set; it flags nobody")
    columns = [name for name in method.reads if name in COLUMNS]
    given = {"attention": attention, "samples": samples, "labels": labels, "reference": reference, "model": model}
    for name in [*method.reads, *([] if columns else ["samples"])]:
        option = "attention" if name in COLUMNS else name
        if given[option] is None:
            raise ByeError(f"defence {kind} reads {name}; give --{option}")
    if columns:
        given["features"] = read_features(attention, columns)
    judged = given["features"].ids if columns else samples.ids  # the sample of each row of the verdict
    ids = list(dict.fromkeys(judged)) if columns else judged
    if "samples" in method.reads and samples.ids != ids:
        raise ByeError(f"{attention} and {samples.path} are not of the same samples; give those of one run")
    if "labels" in method.reads:
        given["labels"] = read_labels(labels, judged)
    function = method.bind("detect", settings, seed=seed)
    verdict = function(**{name: given[name] for name in method.functions["detect"].given})
    _check(verdict, judged, method)
    for name in method.writes:
        rows = verdict.tables[name]
        write_csv(Path(flags).with_name(name), rows, list(rows[0]) if rows else [])
    answers = None
    if columns:
        verdict, answers = fold(verdict, judged, given["features"].answers)
    write_flags(flags, ids, verdict, answers)
    return int(np.sum(verdict.flagged))


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
