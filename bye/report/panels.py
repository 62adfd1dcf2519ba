"""The matrix and the false alarms as panels: squares of a detector (a row) and a set (a column), with a number.

The static pictures and the page of a run are both made of these.
"""

from dataclasses import dataclass

from bye.plan.entries import Cell
from bye.report.measured import FORMED, LOST

FULL = 20.0  # per cent of clean samples lost, from which on the colour is full


@dataclass(frozen=True)
class Square:
    """A number in per cent: F1 where kind is "found" or (no backdoor formed) "unformed", clean samples lost where it is
    "lost"; beside: clean samples lost beside poison, per cent; row, cell: of the table that it is made of."""

    kind: str
    number: float
    beside: float
    row: dict
    cell: Cell | None

    @property
    def share(self):
        """How much of the full colour it has, from 0 to 1."""
        return min(1.0, self.number / (FULL if self.kind == "lost" else 100))

    @property
    def is_marked(self):
        """Whether too many clean samples are lost beside the poison."""
        return self.beside > LOST


def matrix_panels(rows):
    """Return (columns, panels) of the rows of the matrix, as the entry `matrix` of config/matrix.yaml has them.

    rows: (row, its cell or None) pairs, as `bye.report.measured.rows_with_cells` gives them.
    columns: [(trigger, rate in per cent), ...], the untouched set first; panels: {(model, dataset): {(method, column):
    Square}}. What was not measured has no square, and where none has one there is no column and no panel.
    """
    triggers, panels = list(dict.fromkeys(row["trigger"] for row, _ in rows)), {}
    for row, cell in rows:
        square = _of_matrix(row, cell)
        if square is not None:
            place = row["method"], (row["trigger"], row["rate"])
            panels.setdefault((row["model"], row["dataset"]), {})[place] = square
    columns = sorted(
        {column for squares in panels.values() for _, column in squares},
        key=lambda column: (float(column[1]) > 0, triggers.index(column[0]), float(column[1])),
    )
    return columns, panels


def alarm_panels(rows):
    """Return (columns, panels) of rows that are parts of untouched sets, each with model, dataset, method, size, worst.

    rows: (row, its cell or None) pairs, as `bye.report.measured.rows_with_cells` gives them.
    columns: [(dataset, size), ...]; panels: {(model,): {(method, column): Square}}, the highest share of any part.
    """
    columns, panels = list(dict.fromkeys((row["dataset"], row["size"]) for row, _ in rows)), {}
    for row, cell in rows:
        place = row["method"], (row["dataset"], row["size"])
        panels.setdefault((row["model"],), {})[place] = Square("lost", float(row["worst"]), 0.0, row, cell)
    return columns, panels


def methods_of(panels):
    """Return the detectors of panels, each once."""
    return list(dict.fromkeys(method for squares in panels.values() for method, _ in squares))


def short(number):
    """Return a share in per cent as text with two or three letters."""
    return f"{number:.0f}" if number >= 9.95 or number == 0 else f"{number:.1f}"


def _of_matrix(row, cell):
    """The Square of a row of the matrix, or None."""
    untouched = float(row["rate"]) == 0
    if not row["clean_lost" if untouched else "f1"]:
        return None
    lost = float(row["clean_lost"] or 0)
    if untouched:
        return Square("lost", lost, 0.0, row, cell)
    formed = float(row["ASR_vanilla"] or FORMED) >= FORMED
    return Square("found" if formed else "unformed", float(row["f1"]), lost, row, cell)
