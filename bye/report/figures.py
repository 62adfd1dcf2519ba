"""Pictures of runs: entropy histograms (Fig. 3), ablations of the detector (Fig. 4), BSI and AUROC of the layers.

The same input gives the same bytes, whatever the user's matplotlib settings.
"""

import json
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bye.data.images import load_image
from bye.data.samples import id_of, question_of, read_written
from bye.errors import ByeError
from bye.files import read_csv, read_table, replacing
from bye.flags import read_flags, read_labels
from bye.report.histogram import layers_named

STYLE = Path(__file__).with_name("figures.mplstyle")  # the look of all figures
# Colours are Okabe and Ito's, which colour-blind readers can tell apart.
HIGH, LOW, INK = "#0072B2", "#D55E00", "#333333"  # clean or kept; poisoned or flagged; lines and notes
SERIES = ("#999999", "#56B4E9", "#E69F00", "#0072B2", "#009E73", "#CC79A7")
BINS = 50
DESIGNS = 7  # triggers in a row
LAYERS = 10  # beside each other; more take further rows, or narrower writing
LINE, LINES = 24, 7  # characters of a line of a question, lines of it


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
    scores = _scores(flags, labels)
    with new_figure(out, (6.4, 3.8)) as figure:
        axes = figure.add_subplot()
        _draw_histogram(axes, scores)
        setting = scores.setting
        selected = setting["sensitive_layers"]
        if setting["mixture"] is not None:
            _draw_mixture(axes, scores)
        which = f"the {len(selected)} sensitive layers" if len(selected) > 1 else "the sensitive layer"
        axes.set_xlabel(f"mean attention entropy over {which if selected else 'all layers'} (nats)")
        axes.set_ylabel("samples")
        axes.set_title(_title(setting, scores.flagged, layers), loc="left")
        figure.legend(loc="outside lower center", ncols=4, columnspacing=1.2, handlelength=1.4, fontsize=9)


def histograms_figure(cells, out):
    """Draw the histograms of many cells side by side, a row a model (Fig. 3).

    Parameters
    ----------
    cells : dict, (model, dataset) -> (path of flags.parquet, path of the labels).
    out : path of the picture, PNG or PDF by its suffix.
    """
    models, datasets = (list(dict.fromkeys(key[part] for key in cells)) for part in (0, 1))
    with new_figure(out, (3.0 * len(datasets), 0.5 + 2.3 * len(models))) as figure:
        grid = figure.subplots(len(models), len(datasets), squeeze=False)
        for row, model in enumerate(models):
            for column, dataset in enumerate(datasets):
                axes = grid[row, column]
                if (model, dataset) not in cells:
                    axes.set_axis_off()
                    continue
                scores = _scores(*cells[model, dataset])
                _draw_histogram(axes, scores, counted=False)
                where = layers_named(scores.setting["sensitive_layers"], 4, " ")
                axes.set_title(f"{dataset}, {where}", loc="left", fontsize=9)
                if row == len(models) - 1:
                    axes.set_xlabel("mean entropy (nats)")
                if column == 0:
                    axes.set_ylabel(f"{model}\nsamples")
        handles = {
            label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)


def bars_figure(table, out, series, value, ylabel):
    """Draw grouped bars of a table in CSV, a panel a model and a group a dataset (Fig. 4).

    series, value: columns with the bars' names and their heights; an empty value stands as 0.
    """
    rows = read_table(table, ["model", "dataset", series], gaps=[value])
    models, datasets, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "dataset", series))
    with new_figure(out, (1.0 + 4.4 * len(models), 3.4)) as figure:
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        width = 0.8 / len(names)
        for axes, model in zip(panels, models, strict=True):
            for index, name in enumerate(names):
                heights = {row["dataset"]: row[value] for row in rows if (row["model"], row[series]) == (model, name)}
                places = np.arange(len(datasets)) + (index - (len(names) - 1) / 2) * width
                bars = [float(heights.get(dataset) or 0) for dataset in datasets]
                axes.bar(places, bars, width, color=SERIES[index % len(SERIES)], label=name)
                for place, bar in zip(places, bars, strict=True):
                    axes.text(place, bar + 1, f"{bar:.0f}", ha="center", fontsize=7)
            axes.set_xticks(range(len(datasets)), datasets)
            axes.set_title(model, loc="left")
        panels[0].set_ylabel(ylabel)
        panels[0].set_ylim(0, 108)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(names))


def layers_figure(table, out, tau):
    """Draw BSI and AUROC of every layer, a panel a model and dataset; a dashed line is the BSI's threshold `tau`."""
    rows = read_table(table, ["model", "dataset", "sensitive"], ["layer", "bsi"], ["auroc"])
    models, datasets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "dataset"))
    many = max(int(row["layer"]) for row in rows) >= LAYERS  # numbers beside each other would meet: they stand
    with new_figure(out, ((3.8 if many else 2.9) * len(datasets), 0.5 + 2.2 * len(models))) as figure:
        grid = figure.subplots(len(models), len(datasets), sharey=True, squeeze=False)
        for row, model in enumerate(models):
            for column, dataset in enumerate(datasets):
                axes = grid[row, column]
                cell = [each for each in rows if (each["model"], each["dataset"]) == (model, dataset)]
                places = [int(each["layer"]) for each in cell]
                colours = [LOW if each["sensitive"] == "true" else HIGH for each in cell]
                axes.bar(places, [float(each["bsi"]) for each in cell], 0.6, color=colours)
                axes.axhline(tau, color=INK, linewidth=1, linestyle="--")
                for place, each in zip(places, cell, strict=True):
                    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # over the dashed line
                    where = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
                    where |= {"rotation": 90, "fontsize": 6} if many else {"fontsize": 7}
                    axes.annotate(each["auroc"], (place, float(each["bsi"])), bbox=paper, **where)
                axes.set_title(f"{model}, {dataset}", loc="left", fontsize=9)
                axes.margins(y=0.2 if many else 0.12)
                if row == len(models) - 1:
                    axes.set_xlabel("layer (number above: AUROC)")
                if column == 0:
                    axes.set_ylabel("BSI")


def poison_rate_figure(table, out):
    """Draw recall, precision and ASR over the share of poison, and the share dropped, a panel a method."""
    lines = {
        "recall": ("recall", SERIES[3], "o-"),
        "precision": ("precision", SERIES[1], "s-"),
        "ASR_vanilla": ("ASR, plain fine-tune", SERIES[2], "^--"),
        "ASR": ("ASR after cleaning", LOW, "v-"),
        "dropped": ("share dropped", SERIES[0], "d:"),
    }
    rows = read_table(table, ["model", "dataset", "method"], ["rate"], lines)
    cells = list(dict.fromkeys((row["model"], row["dataset"], row["method"]) for row in rows))
    with new_figure(out, (1.0 + 3.4 * len(cells), 3.6)) as figure:
        panels = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
        for axes, cell in zip(panels, cells, strict=True):
            own = [row for row in rows if (row["model"], row["dataset"], row["method"]) == cell]
            for column, (label, colour, style) in lines.items():
                if any(row[column] for row in own):  # no line across a rate without a value
                    points = [(float(row["rate"]), float(row[column] or "nan")) for row in own]
                    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4, linewidth=1.3)
            axes.set_xscale("symlog", linthresh=0.5)
            ticks = sorted({float(row["rate"]) for row in own})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel("poisoned training samples (%)")
            axes.set_title(", ".join(cell), loc="left", fontsize=9)
        panels[0].set_ylabel("%")
        panels[0].set_ylim(-3, 104)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)


def maps_figure(attacks, out):
    """Draw attention maps over the layers, clean above poisoned, on the samples' own images (Fig. 2).

    More layers than LAYERS go on in further blocks of rows.

    Parameters
    ----------
    attacks : list of (name, maps, samples, images, labels): the npz file of `bye.extraction.maps.example_maps`, the
        training samples, their image folder and their labels.
    out : path of the picture, PNG or PDF.
    """
    rows = [(name, example) for name, *files in attacks for example in _examples(*files)]
    layers = rows[0][1].maps.shape[0]
    across = min(layers, LAYERS)
    blocks = -(-layers // across)
    with new_figure(out, (0.4 + 1.45 * (across + 1), 0.3 + 1.55 * len(rows) * blocks)) as figure:
        grid = figure.subplots(blocks * len(rows), across + 1, squeeze=False)
        for number, axes_row in enumerate(grid):
            block, place = divmod(number, len(rows))
            name, example = rows[place]
            show_image(axes_row[0], example.image, None)
            kind = "poisoned" if example.poisoned else "clean"
            label = f"{name}\n{kind}" if len(attacks) > 1 else kind
            axes_row[0].set_ylabel(label, color=LOW if example.poisoned else HIGH)
            if place == 0:
                axes_row[0].set_title("image", fontsize=9)
            for layer, axes in enumerate(axes_row[1:], start=block * across):
                if layer >= layers:
                    axes.set_axis_off()
                    continue
                show_image(axes, example.image, example.maps[layer])
                axes.set_xlabel(f"{_entropy(example.maps[layer]):.2f} nats", fontsize=8)
                if place == 0:
                    axes.set_title(f"layer {layer}", fontsize=9)


def triggers_figure(attacks, out):
    """Draw for each attack a poisoned image and its attention in the layer where it is sharpest (Fig. 5).

    attacks: list of (name, maps, samples, images, labels), paths as in `maps_figure`.
    """
    with new_figure(out, (0.4 + 1.9 * len(attacks), 4.1)) as figure:
        grid = figure.subplots(2, len(attacks), squeeze=False)
        for column, (name, *files) in enumerate(attacks):
            example = next(example for example in _examples(*files) if example.poisoned)
            layer = int(np.argmin([_entropy(each) for each in example.maps]))
            show_image(grid[0, column], example.image, None)
            show_image(grid[1, column], example.image, example.maps[layer])
            grid[0, column].set_title(name, fontsize=9)
            grid[1, column].set_xlabel(f"layer {layer}, {_entropy(example.maps[layer]):.2f} nats", fontsize=8)
        grid[0, 0].set_ylabel("poisoned image")
        grid[1, 0].set_ylabel("attention")


def designs_figure(plain, attacks, out, columns=DESIGNS):
    """Draw the first test sample as it is and with the trigger of each attack; below, what the trigger changed.

    plain : (samples, images) paths of the test samples; attacks : dict, name -> the same with a trigger.
    columns : designs in a row. What changed of an image is shown in units of its largest change, grey where it is none;
    of one that is as it was, the question is shown.
    """
    panels = [(name, *_first(*files)) for name, files in {"no trigger": plain, **attacks}.items()]
    before = np.asarray(panels[0][1], dtype=float)
    n_rows = -(-len(panels) // columns)
    with new_figure(out, (0.4 + 1.5 * columns, 3.7 * n_rows)) as figure:
        grid = figure.subplots(2 * n_rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for number, (name, image, question) in enumerate(panels):
            row, column = divmod(number, columns)
            above, below = grid[2 * row, column], grid[2 * row + 1, column]
            for axes in (above, below):
                axes.set_axis_on()
            show_image(above, image)
            above.set_title(name, fontsize=9)
            _draw_change(below, before, np.asarray(image, dtype=float), question)


def _first(samples, images):
    """The image (PIL) and the question of the first sample of a file."""
    sample = read_written(samples)[0]
    return load_image(images, sample), question_of(sample)


def _draw_change(axes, before, after, question):
    """Show what changed of pixels (H, W, 3) in levels, and how much; where nothing did, the question."""
    change = after - before
    most = np.abs(change).max()
    show_image(axes, 0.5 + change / max(1, 2 * most))
    if most:
        psnr = 10 * np.log10(255**2 / np.mean(change**2))
        axes.set_title(f"change up to {most:.0f}, {psnr:.0f} dB", fontsize=8, fontweight="normal")
        return
    axes.images[0].set_visible(False)
    text = "\n".join(textwrap.wrap(question, LINE, max_lines=LINES, placeholder=" ..."))
    place = {"transform": axes.transAxes, "ha": "center", "va": "center", "fontsize": 7}
    axes.text(0.5, 0.5, text, parse_math=False, **place)


def purified_figure(columns, out):
    """Draw a test image as it is and with the trigger, each also purified (ZIP), a column a dataset.

    columns : dict, dataset -> list of (samples, images) paths: clean, clean purified, triggered, triggered purified.
    """
    rows = ("clean", "purified", "with trigger", "purified")
    with new_figure(out, (0.4 + 1.6 * len(columns), 0.3 + 1.6 * len(rows))) as figure:
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for column, (name, sets) in enumerate(columns.items()):
            for axes, (samples, images) in zip(grid[:, column], sets, strict=True):
                show_image(axes, load_image(images, read_written(samples)[0]), None)
            grid[0, column].set_title(name, fontsize=9)
        for axes, row in zip(grid[:, 0], rows, strict=True):
            axes.set_ylabel(row)


@dataclass
class Example:
    """A sample's image (PIL), its attention maps (layers, rows, columns), and whether it is poisoned."""

    image: object
    maps: np.ndarray
    poisoned: bool


def _examples(maps, samples, images, labels):
    """The examples of a maps file, clean ones first."""
    entries = {id_of(entry): entry for entry in read_written(samples)}
    with np.load(maps) as content:
        ids = content["ids"].tolist()
        found = [
            Example(load_image(images, entries[name]), rows[:, : np.prod(grid)].reshape(-1, *grid), poisoned)
            for name, rows, grid, poisoned in zip(
                ids, content["maps"], content["grids"], read_labels(labels, ids), strict=True
            )
        ]
    return sorted(found, key=lambda example: example.poisoned)


def show_image(axes, image, attention=None):
    """Show an image in grey with attention in colour over it, or as it is without."""
    if attention is None:
        axes.imshow(image)
    else:
        height, width = np.asarray(image).shape[:2]
        axes.imshow(image.convert("L"), cmap="gray", alpha=0.6)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(attention, cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear", vmin=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _entropy(attention):
    share = attention[attention > 0] / attention.sum()
    return float(np.sum(share * np.log(1 / share)))


@dataclass
class Scores:
    """What a histogram shows: the scores, who is low (poisoned, or flagged where there are no labels) and the cut."""

    values: np.ndarray
    flagged: np.ndarray
    low: np.ndarray
    names: tuple[str, str]
    setting: dict


def _scores(flags, labels):
    table = read_flags(flags)
    if "bye" not in table["metadata"]:
        raise ByeError(f"{flags} has no entropies; the entropy figure needs the flags of the bye detector")
    setting = json.loads(table["metadata"]["bye"])
    values = np.array(table["score"] if setting["sensitive_layers"] else table["mean_entropy"], dtype=np.float64)
    flagged = np.array(table["flagged"], dtype=bool)
    if labels is None:
        return Scores(values, flagged, flagged, ("kept", "flagged"), setting)
    return Scores(values, flagged, read_labels(labels, table["id"]), ("clean", "poisoned"), setting)


@contextmanager
def new_figure(out, size):
    """A figure of that size in inches, in the suite's style, written when the block ends: PNG or PDF by the suffix."""
    kind = Path(out).suffix[1:]
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}[kind]
    with matplotlib.rc_context(
        {**matplotlib.rcParamsDefault, **matplotlib.rc_params_from_file(STYLE, use_default_template=False)}
    ):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with replacing(out) as partial:
            figure.savefig(partial, format=kind, metadata=metadata)


def _draw_histogram(axes, scores, counted=True):
    """Draw bars for both kinds of samples and the cut."""
    edges = np.histogram_bin_edges(scores.values, bins=BINS)
    highest = 0
    for mask, name, colour in ((~scores.low, scores.names[0], HIGH), (scores.low, scores.names[1], LOW)):
        if mask.any():
            label = f"{name} ({mask.sum():,})" if counted else name
            counts, *_ = axes.hist(
                scores.values[mask], edges, histtype="stepfilled", color=colour, alpha=0.55, label=label
            )
            axes.hist(scores.values[mask], edges, histtype="step", color=colour, linewidth=1.2)
            highest = max(highest, counts.max())
    if scores.setting["cut"] is not None:
        cut = scores.setting["cut"]
        label = f"cut at {cut:.2f} nats" if counted else "cut"
        axes.axvline(cut, color=INK, linewidth=1.3, linestyle="--", label=label)
    axes.set_ylim(0, 1.08 * highest)  # a component narrower than a bar would dwarf the bars


def _draw_mixture(axes, scores):
    """Draw the two fitted Gaussians, scaled from densities to samples a bin."""
    edges = np.histogram_bin_edges(scores.values, bins=BINS)
    x = np.linspace(edges[0], edges[-1], 400)
    scale = len(scores.values) * (edges[1] - edges[0])
    mixture = scores.setting["mixture"]
    parameters = zip(mixture["means"], mixture["stds"], mixture["weights"], strict=True)
    for index, (mean, std, weight) in enumerate(parameters):
        density = weight * np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        label = "fitted components" if index == 0 else None
        axes.plot(x, scale * density, color=INK, linewidth=1.1, linestyle=":", label=label)


def _title(setting, flagged, layers):
    selected = setting["sensitive_layers"]
    if selected:
        return f"{flagged.sum():,} of {len(flagged):,} samples flagged, by {layers_named(selected, 10)}"
    title = "No sensitive layer: nobody is flagged"
    if layers is None:
        return title
    column = "bsi" if setting["rule"] == "paper" else "released_margin"
    highest = max(float(row[column]) for row in read_csv(layers))
    name = "BSI" if setting["rule"] == "paper" else "separation"
    return f"{title} (highest {name} {highest:.2f}, needed {setting['tau']:g})"
