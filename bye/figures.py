"""Pictures of a run: the entropy histogram of the paper's Fig. 3."""

import csv
import json

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bye.errors import ByeError
from bye.files import replacing
from bye.flags import read_flags, read_table

# The look of all figures. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
HIGH, LOW, INK = "#0072B2", "#D55E00", "#333333"  # clean or kept; poisoned or flagged; lines and notes
BINS = 50


def entropy_figure(flags, out, labels=None, layers=None):
    """Draw how the samples' mean attention entropy is distributed, and where BYE cut (Fig. 3).

    Parameters
    ----------
    flags : path of flags.parquet as the detect stage writes it.
    out : path of the picture, PNG; the same input gives the same bytes.
    labels : path of the labels (id, poisoned), or None. With labels the colours are clean and poisoned, without kept
        and flagged.
    layers : path of layers.csv, or None. Where no layer is sensitive, its highest BSI is told.

    Raises
    ------
    ByeError
        If the flags are not those of BYE, or a sample has no label.
    """
    table = read_flags(flags)
    if "bye" not in table["metadata"]:
        raise ByeError(f"{flags} has no entropies; the entropy figure needs the flags of the bye detector")
    setting = json.loads(table["metadata"]["bye"])
    selected = setting["sensitive_layers"]
    scores = np.array(table["score"] if selected else table["mean_entropy"], dtype=np.float64)
    flagged = np.array(table["flagged"], dtype=bool)
    low, names = flagged, ("kept", "flagged")
    if labels is not None:
        low, names = _poisoned(labels, table["id"]), ("clean", "poisoned")

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        edges = np.histogram_bin_edges(scores, bins=BINS)
        highest = 0
        for mask, name, colour in ((~low, names[0], HIGH), (low, names[1], LOW)):
            if mask.any():
                label = f"{name} ({mask.sum():,})"
                counts, *_ = axes.hist(
                    scores[mask], edges, histtype="stepfilled", color=colour, alpha=0.55, label=label
                )
                axes.hist(scores[mask], edges, histtype="step", color=colour, linewidth=1.2)
                highest = max(highest, counts.max())
        if setting["mixture"] is not None:
            _draw_mixture(axes, setting["mixture"], edges, len(scores))
        if setting["cut"] is not None:
            axes.axvline(
                setting["cut"], color=INK, linewidth=1.3, linestyle="--", label=f"cut at {setting['cut']:.2f} nats"
            )
        which = f"the {len(selected)} sensitive layers" if len(selected) > 1 else "the sensitive layer"
        axes.set_xlabel(f"mean attention entropy over {which if selected else 'all layers'} (nats)")
        axes.set_ylabel("samples")
        axes.set_title(_title(setting, flagged, layers), loc="left")
        axes.set_ylim(0, 1.08 * highest)  # a component narrower than a bar would dwarf the bars
        figure.legend(loc="outside lower center", ncols=4, columnspacing=1.2, handlelength=1.4, fontsize=9)
        with replacing(out) as partial:
            figure.savefig(partial, format="png", metadata={"Software": None})


def _poisoned(labels, ids):
    table = read_table(labels, ("id", "poisoned"))
    poisoned = dict(zip(table["id"], table["poisoned"], strict=True))
    missing = [sample for sample in ids if sample not in poisoned]
    if missing:
        raise ByeError(f"{labels} has no label for sample {missing[0]!r}; give the labels of this training set")
    return np.array([poisoned[sample] for sample in ids], dtype=bool)


def _draw_mixture(axes, mixture, edges, n_samples):
    """Draw the two fitted Gaussians, scaled from densities to samples a bin."""
    x = np.linspace(edges[0], edges[-1], 400)
    scale = n_samples * (edges[1] - edges[0])
    parameters = zip(mixture["means"], mixture["stds"], mixture["weights"], strict=True)
    for index, (mean, std, weight) in enumerate(parameters):
        density = weight * np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        label = "fitted components" if index == 0 else None
        axes.plot(x, scale * density, color=INK, linewidth=1.1, linestyle=":", label=label)


def _title(setting, flagged, layers):
    selected = setting["sensitive_layers"]
    if selected:
        where = f"layer{'s' if len(selected) > 1 else ''} {', '.join(map(str, selected))}"
        if len(selected) > 10:
            where = f"{len(selected)} layers"
        return f"{flagged.sum():,} of {len(flagged):,} samples flagged, by {where}"
    title = "No sensitive layer: nobody is flagged"
    if layers is None:
        return title
    with open(layers, newline="", encoding="utf-8") as file:
        column = "bsi" if setting["rule"] == "paper" else "released_margin"
        highest = max(float(row[column]) for row in csv.DictReader(file))
    name = "BSI" if setting["rule"] == "paper" else "separation"
    return f"{title} (highest {name} {highest:.2f}, needed {setting['tau']:g})"
