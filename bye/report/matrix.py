"""Pictures of detectors, a row each: against triggers and shares of poison, and against untouched sets."""

from collections import Counter

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from bye.files import read_csv
from bye.report.figures import HIGH, INK, LOW, new_figure

FORMED = 80.0  # attack success of the plain fine-tune, per cent, from which on there is a backdoor to find
FOUND = LinearSegmentedColormap.from_list("found", ["#FFFFFF", HIGH])  # F1
LOST = LinearSegmentedColormap.from_list("lost", ["#FFFFFF", LOW])  # clean samples lost
FULL = 20.0  # per cent of clean samples lost, from which on the colour is full
MARKED = 1.0  # per cent of clean samples lost, above which a cell is marked
SIDE = 0.27  # of a cell, inches


def matrix_figure(table, out):
    """Draw F1 of every detector in colour, a column a trigger and share of poison, the untouched set as the first.

    table: CSV with model, dataset, method, trigger, rate, f1, clean_lost and ASR_vanilla, as the entry `matrix` of
    config/matrix.yaml has them; out: path of the picture, PNG or PDF. Of the untouched set it is the share that is
    lost, in the other colour; a triangle marks more than MARKED per cent of clean samples lost beside poison. Where the
    backdoor has not formed (attack success below FORMED) the cell is grey, and its number counts for nothing.
    """
    rows = read_csv(table)
    triggers = list(dict.fromkeys(row["trigger"] for row in rows))
    columns = sorted(
        {(row["trigger"], row["rate"]) for row in rows},
        key=lambda pair: (float(pair[1]) > 0, triggers.index(pair[0]), float(pair[1])),
    )
    title = (
        "F1 (%) of each detector; of the untouched set (0), the share lost (%).  Grey: no backdoor formed.  "
        f"▴: more than {MARKED:g} % of the clean samples lost"
    )
    panels = {}
    for row in rows:
        panel = panels.setdefault((row["model"], row["dataset"]), {})
        panel[row["method"], (row["trigger"], row["rate"])] = _found(row)
    _draw(panels, columns, "poisoned training samples (%), by trigger", title, out)


def false_alarms_figure(table, out):
    """Draw the highest share that each detector flags in any part of an untouched set, a column a set and size.

    table: CSV whose rows are parts, with model, dataset, method, size and worst; out: path of the picture, PNG or PDF.
    """
    rows = read_csv(table)
    columns = list(dict.fromkeys((row["dataset"], row["size"]) for row in rows))
    panels = {}
    for row in rows:
        lost = float(row["worst"])
        panels.setdefault((row["model"],), {})[row["method"], (row["dataset"], row["size"])] = (
            lost,
            _lost(lost),
            False,
        )
    title = "Clean samples lost (%) in the worst of all random parts of an untouched set, and in all of it"
    _draw(panels, columns, "samples of a part, by set", title, out)


def _found(row):
    """(number, colour, whether it is marked) of a row of the matrix."""
    untouched, lost = float(row["rate"]) == 0, float(row["clean_lost"] or "nan")
    if untouched:
        return lost, _lost(lost), False
    f1 = float(row["f1"] or 0)
    formed = float(row["ASR_vanilla"] or 0) >= FORMED
    return f1, FOUND(f1 / 100) if formed else (0.88, 0.88, 0.88, 1), lost > MARKED


def _lost(share):
    return LOST(min(1.0, share / FULL))


def _draw(panels, columns, xlabel, title, out):
    """Draw panels {names: {(method, column): (number, colour, marked)}}; columns: (group, label), groups together."""
    methods = list(dict.fromkeys(method for cells in panels.values() for method, _ in cells))
    size = (2.0 + SIDE * len(columns), 1.0 + (SIDE * len(methods) + 0.55) * len(panels))
    with new_figure(out, size) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (names, cells) in zip(grid, panels.items(), strict=True):
            _fill(axes, cells, methods, columns)
            axes.set_title(", ".join(names), loc="left", fontsize=8, y=1.0, pad=16)
        grid[-1].set_xticks(range(len(columns)), [label for _, label in columns], fontsize=6, rotation=90)
        grid[-1].set_xlabel(xlabel, fontsize=8)
        figure.suptitle(title, fontsize=8)


def _fill(axes, cells, methods, columns):
    picture = np.ones((len(methods), len(columns), 4))
    for (method, column), (number, colour, marked) in cells.items():
        row, place = methods.index(method), columns.index(column)
        picture[row, place] = colour
        text = f"{number:.0f}" if number >= 10 or number == 0 else f"{number:.1f}"
        dark = sum(colour[:3]) < 1.6
        axes.text(place, row, text, ha="center", va="center", fontsize=6, color="white" if dark else INK)
        if marked:
            axes.plot(place + 0.36, row - 0.34, marker="^", markersize=2.6, color=LOW, markeredgewidth=0)
    axes.imshow(picture, aspect="equal", interpolation="nearest")
    axes.set_yticks(range(len(methods)), methods, fontsize=7)
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(length=0)
    counts, start = Counter(group for group, _ in columns), 0
    for group, count in counts.items():
        axes.text(start + (count - 1) / 2, -0.7, group, ha="center", va="bottom", fontsize=7)
        start += count
        axes.axvline(start - 0.5, color="white", linewidth=2.5)
