"""Divide a samples file by flags: what is kept, and what is dropped with the reason."""

import numpy as np

from bye.data.samples import id_of, read_written, write_samples
from bye.errors import ByeError
from bye.flags import read_flags


def keep(samples, flags, kept_out, dropped_out):
    """Split a samples file by flags: what is kept, as it was; what is dropped, with the reason.

    Parameters
    ----------
    samples : path of the samples file, JSON list or JSON lines; both outputs have the same form.
    flags : path of flags.parquet for these samples.
    kept_out : path for the entries that are not flagged, in order and with every key as it was.
    dropped_out : path for the flagged entries, each with a further key "bye": {"score", "p_low", "reason"}.

    Returns
    -------
    (int, int)
        How many are kept and dropped.

    Raises
    ------
    ByeError
        If the flags are those of other samples, or nothing would be kept.
    """
    entries = read_written(samples)
    table = read_flags(flags)
    if [id_of(entry) for entry in entries] != table["id"]:
        raise ByeError(f"{flags} does not hold the samples of {samples} in their order; run the defence on this file")
    kept, dropped = [], []
    for entry, drop, score, p_low, reason in zip(
        entries, *(table[name] for name in ("flagged", "score", "p_low", "reason")), strict=True
    ):
        if drop:
            dropped.append({**entry, "bye": {"score": _number(score), "p_low": _number(p_low), "reason": reason}})
        else:
            kept.append(entry)
    if not kept:
        raise ByeError(f"{flags} flags every sample of {samples}; nothing would be left to train on")
    write_samples(dropped_out, dropped, like=samples)
    write_samples(kept_out, kept, like=samples)
    return len(kept), len(dropped)


def _number(value):
    return None if value is None or np.isnan(value) else value
