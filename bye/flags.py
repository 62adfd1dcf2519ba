"""The table in which a defence says which training samples it drops, and why."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow
import pyarrow.parquet

from bye.errors import ByeError
from bye.files import write_parquet
from bye.formats import FLAGS, names

COLUMNS = tuple(name for name in names(FLAGS) if name != "answer")  # which older files lack


@dataclass(frozen=True)
class Verdict:
    """What a detector says of n training samples, or of their n answers, where it reads columns of attention.parquet.

    flagged: (n,) bool; reasons: n texts, why a sample is dropped, "" where it is kept; scores: (n,) float, low is
    suspicious, and p_low: (n,) float, posterior probability of being flagged, both None where there are none; columns:
    further columns of flags.parquet, {name: (n,)}; metadata: texts kept with it; tables: {NAME.csv: rows (dicts)},
    written beside it, for each name in the method's WRITES.
    """

    flagged: np.ndarray
    reasons: list[str]
    scores: np.ndarray | None = None
    p_low: np.ndarray | None = None
    columns: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)

    @classmethod
    def of(cls, flagged, reason, **more):
        """A verdict with one reason for all flagged samples."""
        return cls(flagged, [reason if drop else "" for drop in flagged], **more)


def write_flags(path, ids, verdict, answers=None):
    """Write flags.parquet: one row a sample of `ids`, in the order of the samples file, of a Verdict on samples.

    answers: of each sample the number of the answer, from 0, that is spoken of; None where it is the first of all.
    Scores and p_low that there are none of are NaN.
    """
    unknown = np.full(len(ids), np.nan)
    columns = {
        "id": pyarrow.array(ids, pyarrow.string()),
        "score": np.asarray(unknown if verdict.scores is None else verdict.scores, dtype=np.float64),
        "p_low": np.asarray(unknown if verdict.p_low is None else verdict.p_low, dtype=np.float64),
        "flagged": np.asarray(verdict.flagged, dtype=bool),
        "reason": pyarrow.array(verdict.reasons, pyarrow.string()),
        "answer": np.zeros(len(ids), dtype=np.int32) if answers is None else np.asarray(answers, dtype=np.int32),
        **verdict.columns,
    }
    write_parquet(path, pyarrow.table(columns).replace_schema_metadata(verdict.metadata or None))


def read_flags(path):
    """Return the columns of flags.parquet as a dict of lists, with the schema's metadata under the key "metadata"."""
    return read_table(path, COLUMNS)


def read_labels(path, ids, exact=False):
    """Return which of the samples `ids` a labels file (id, poisoned) calls poisoned: bool array of shape (n_samples,).

    Raises ByeError if a sample has no label, or, where the labels must be of `exact`ly these samples, one label has no
    sample.
    """
    table = read_table(path, ("id", "poisoned"))
    poisoned = dict(zip(table["id"], table["poisoned"], strict=True))
    missing = [sample for sample in ids if sample not in poisoned]
    if missing:
        raise ByeError(f"{path} has no label for sample {missing[0]!r}; give the labels of this training set")
    if exact and len(poisoned) != len(ids):
        raise ByeError(
            f"{path} has labels of more samples ({len(poisoned)}) than {len(ids)}; give those of this training set"
        )
    return np.array([poisoned[sample] for sample in ids], dtype=bool)


def read_table(path, columns, prefix=None, of_answers=False):
    """Return columns of a Parquet file as a dict of lists, with the schema's metadata under the key "metadata".

    All columns are read, or only `columns` and those whose names begin with `prefix`. A column of lists of numbers, of
    one length, is an array (n, length). of_answers: a row is an answer; its number in its sample is read too, from the
    column `answer`, or is 0 where an older file has none. Raises ByeError if the file cannot be read, lacks one of
    `columns`, or an id (an answer of it) occurs twice.
    """
    try:
        # ParquetFile, since pyarrow.parquet.read_table loads pandas where it is installed.
        with pyarrow.parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            wanted = {*columns, "answer"} if of_answers else columns
            chosen = None if prefix is None else [n for n in present if n in wanted or n.startswith(prefix)]
            table = file.read(columns=chosen)
    except FileNotFoundError:
        raise ByeError(f"{path} does not exist; check the path") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise ByeError(f"{path} cannot be read as Parquet ({error}); make it again") from None
    for name in columns:
        if name not in present:
            raise ByeError(f"{path} has no column {name!r}; give a file that the suite's own stage wrote")
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    content = {name: _values(table[name]) for name in table.column_names} | {"metadata": metadata}
    if of_answers and "answer" in present:
        if len(set(zip(content["id"], content["answer"], strict=True))) != len(content["id"]):
            raise ByeError(f"{path} holds an answer of a sample twice; make it again")
        return content
    if len(set(content["id"])) != len(content["id"]):
        raise ByeError(f"{path} holds an id twice; ids of samples must differ")
    return content | {"answer": [0] * len(content["id"])} if of_answers else content


def _values(column):
    """A column as a list; where it has lists of numbers, as an array (n, length), for these are many."""
    if not (pyarrow.types.is_list(column.type) and pyarrow.types.is_primitive(column.type.value_type)):
        return column.to_pylist()
    numbers = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), len(numbers) // max(1, len(column)))
