"""The picture of the matrix: detectors against triggers and shares of poison, a panel a model and dataset."""

from collections import Counter

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from bye.files import read_csv
from bye.report.figures import HIGH, INK, LOW, new_figure

FORMED = 80.0  # attack success of the plain fine-tune, per cent, from which on there is a backdoor to find
FOUND = LinearSegmentedColormap.from_list("found", ["#FFFFFF", HIGH])  # F1
LOST = LinearSegmentedColormap.from_list("lost", ["#FFFFFF", LOW])  # clean samples lost
MARKED = 1.0  # share of clean samples lost, per cent, above which a cell is marked
CELL = 0.27  # inches


def matrix_figure(table, out):
    """Draw F1 of every detector in colour, a column a trigger and share of poison, the untouched set as the first.

    table: CSV with model, dataset, method, trigger, rate, f1, clean_lost and ASR_vanilla, as the entry `matrix` of
    config/matrix.yaml has them; out: path of the picture, PNG or PDF. Of the untouched set it is the share that is
    lost, in the other colour; a triangle marks more than MARKED per cent of clean samples lost beside poison. Where the
    backdoor has not formed (attack success below FORMED) the cell is grey, and its number counts for nothing.
    """
    rows = read_csv(table)
    panels = list(dict.fromkeys((row["model"], row["dataset"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = _columns(rows)
    size = (2.6 + CELL * len(columns), 1.5 + (CELL * len(methods) + 0.45) * len(panels))
    with new_figure(out, size) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, panel in zip(grid, panels, strict=True):
            own = [row for row in rows if (row["model"], row["dataset"]) == panel]
            _draw(axes, own, methods, columns)
            axes.set_title(", ".join(panel), loc="left", fontsize=9)
        grid[-1].set_xticks(range(len(columns)), [rate for _, rate in columns], fontsize=6)
        grid[-1].set_xlabel("poisoned training samples (%), by trigger", fontsize=8)
        figure.suptitle(
            "F1 (%) of each detector; of the untouched set (0), the share lost (%).  Grey: no backdoor formed.  "
            f"▴: more than {MARKED:g} % of the clean samples lost",
            fontsize=8,
        )


def _columns(rows):
    """(trigger, rate) of the columns: the untouched set, then each trigger's shares."""
    found = list(dict.fromkeys((row["trigger"], row["rate"]) for row in rows))
    triggers = list(dict.fromkeys(trigger for trigger, _ in found))
    return sorted(found, key=lambda pair: (float(pair[1]) > 0, triggers.index(pair[0]), float(pair[1])))


def _draw(axes, rows, methods, columns):
    """Fill a panel."""
    picture = np.ones((len(methods), len(columns), 4))
    for row in rows:
        place = methods.index(row["method"]), columns.index((row["trigger"], row["rate"]))
        untouched, lost = float(row["rate"]) == 0, float(row["clean_lost"] or "nan")
        if untouched:
            colour, number = LOST(min(1.0, lost / 20)), lost
        elif float(row["ASR_vanilla"] or 0) < FORMED:
            colour, number = (0.88, 0.88, 0.88, 1), float(row["f1"] or 0)
        else:
            number = float(row["f1"] or 0)
            colour = FOUND(number / 100)
        picture[place] = colour
        dark = sum(colour[:3]) < 1.6
        text = f"{number:.0f}" if number >= 10 or not untouched else f"{number:.1f}".replace("0.0", "0")
        axes.text(*reversed(place), text, ha="center", va="center", fontsize=6, color="white" if dark else INK)
        if not untouched and lost > MARKED:
            axes.plot(place[1] + 0.36, place[0] - 0.34, marker="^", markersize=2.6, color=LOW, markeredgewidth=0)
    axes.imshow(picture, aspect="equal", interpolation="nearest")
    axes.set_yticks(range(len(methods)), methods, fontsize=7)
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(length=0)
    counts, start = Counter(trigger for trigger, _ in columns), 0
    for trigger in dict.fromkeys(trigger for trigger, _ in columns):
        middle, start = start + (counts[trigger] - 1) / 2, start + counts[trigger]
        name = "" if float(columns[start - 1][1]) == 0 else trigger
        axes.text(middle, -0.75, name, ha="center", va="bottom", fontsize=7)
        axes.axvline(start - 0.5, color="white", linewidth=2.5)
