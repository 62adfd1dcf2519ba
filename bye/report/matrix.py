"""Pictures of detectors, a row each: against triggers and shares of poison, and against untouched sets."""

import textwrap
from collections import Counter

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from bye.errors import ByeError
from bye.files import read_table
from bye.report.figures import HIGH, INK, LOW, new_figure
from bye.report.measured import LOST
from bye.report.panels import alarm_panels, matrix_panels, methods_of, short

COLOURS = {
    "found": LinearSegmentedColormap.from_list("found", ["#FFFFFF", HIGH]),  # F1
    "lost": LinearSegmentedColormap.from_list("lost", ["#FFFFFF", LOW]),  # clean samples lost
    "unformed": LinearSegmentedColormap.from_list("unformed", ["#E0E0E0", "#E0E0E0"]),
}
SIDE = 0.27  # of a cell, inches
LETTERS = 14  # of the title, an inch
NARROW = 5  # letters of a heading that a column has room for


def matrix_figure(table, out):
    """Draw F1 of every detector in colour, a column a trigger and share of poison, the untouched set as the first.

    table: CSV with model, dataset, method, trigger, rate, f1, clean_lost and ASR_vanilla, as the entry `matrix` of
    config/matrix.yaml has them; out: path of the picture, PNG or PDF. Of the untouched set it is the share that is
    lost, in the other colour; a triangle marks more than LOST per cent of clean samples lost beside poison. Where the
    backdoor has not formed (attack success below FORMED) the cell is grey, and its number counts for nothing. What was
    not measured is left out. Raises ByeError where nothing was.
    """
    rows = read_table(table, ["model", "dataset", "method", "trigger"], ["rate"], ["f1", "clean_lost", "ASR_vanilla"])
    columns, panels = matrix_panels([(row, None) for row in rows])
    title = (
        "F1 (%) of each detector; of the untouched set (0), the share lost (%).  Grey: no backdoor formed.  "
        f"▴: more than {LOST:g} % of the clean samples lost"
    )
    _draw(panels, columns, "poisoned training samples (%), by trigger", title, table, out)


def false_alarms_figure(table, out):
    """Draw the highest share that each detector flags in any part of an untouched set, a column a set and size.

    table: CSV whose rows are parts, with model, dataset, method, size and worst; out: path of the picture, PNG or PDF.
    Raises ByeError if it has no rows.
    """
    rows = read_table(table, ["model", "dataset", "method", "size"], ["worst"])
    columns, panels = alarm_panels([(row, None) for row in rows])
    title = "Clean samples lost (%) in the worst of all random parts of an untouched set, and in all of it"
    _draw(panels, columns, "samples of a part, by set", title, table, out)


def _draw(panels, columns, xlabel, title, table, out):
    """Draw panels as `bye.report.panels` gives them."""
    if not panels:
        raise ByeError(f"{table} has no numbers to draw; make its cells first")
    methods = methods_of(panels)
    counts = Counter(group for group, _ in columns)
    slanted = any(len(group) > NARROW * count for group, count in counts.items())
    room = 0.55 + 0.3 * slanted  # above a panel
    size = (2.0 + SIDE * max(len(columns), 16), 1.0 + (SIDE * len(methods) + room) * len(panels))
    with new_figure(out, size) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (names, squares) in zip(grid, panels.items(), strict=True):
            _fill(axes, squares, methods, columns)
            _head(axes, counts, slanted)
            axes.set_title(", ".join(names), loc="left", fontsize=8, y=1.0, pad=38 if slanted else 16)
        grid[-1].set_xticks(range(len(columns)), [label for _, label in columns], fontsize=6, rotation=90)
        grid[-1].set_xlabel(xlabel, fontsize=8)
        figure.suptitle(textwrap.fill(title, int(LETTERS * size[0])), fontsize=8)


def _fill(axes, squares, methods, columns):
    picture = np.ones((len(methods), len(columns), 4))
    for (method, column), square in squares.items():
        row, place = methods.index(method), columns.index(column)
        picture[row, place] = colour = COLOURS[square.kind](square.share)
        ink = "white" if sum(colour[:3]) < 1.6 else INK
        axes.text(place, row, short(square.number), ha="center", va="center", fontsize=6, color=ink)
        if square.is_marked:
            axes.plot(place + 0.36, row - 0.34, marker="^", markersize=2.6, color=LOW, markeredgewidth=0)
    axes.imshow(picture, aspect="equal", interpolation="nearest")
    axes.set_yticks(range(len(methods)), methods, fontsize=7)
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(length=0)


def _head(axes, counts, slanted):
    """Write the name of each group of columns above it."""
    start = 0
    for group, count in counts.items():
        place = start + (count - 1) / 2
        where = {"ha": "left", "rotation": 35, "rotation_mode": "anchor"} if slanted else {"ha": "center"}
        axes.text(place - 0.3 * slanted, -0.7, group, va="bottom", fontsize=7, **where)
        start += count
        axes.axvline(start - 0.5, color="white", linewidth=2.5)
