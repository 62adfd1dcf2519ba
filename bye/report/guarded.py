"""The picture of what guards see and hide: image to text attention over the layers, and hidden image tokens."""

import numpy as np
import pyarrow.parquet

from bye.data.images import load_image, token_box
from bye.data.samples import id_of, read_written
from bye.errors import ByeError
from bye.features import read_features
from bye.flags import read_labels
from bye.report.figures import HIGH, INK, LOW, new_figure, show_image

DARK = 0.2  # of the light of a hidden token's place


def ratios_figure(attacks, out):
    """Draw a column for each attack: the ratios above, a triggered image and the same without hidden tokens below.

    Parameters
    ----------
    attacks : list of (name, attention, labels, predictions, samples, images): attention of the training samples and
        their ground truth; answers under a guard; the triggered test samples and their image folder. The ratio is of
        attention to the image over attention to the question, mean over the heads; lines are medians of clean and
        poisoned samples, bands have half of them. The image is the first of which the guard hid something.
    out : path of the picture, PNG or PDF.
    """
    with new_figure(out, (0.6 + 2.6 * len(attacks), 5.6)) as figure:
        grid = figure.subplots(3, len(attacks), squeeze=False, height_ratios=(1.2, 1, 1))
        for column, (name, attention, labels, *answered) in zip(grid.T, attacks, strict=True):
            _draw_ratios(column[0], *_ratios(attention, labels))
            column[0].set_title(name, fontsize=9)
            image, darkened, told = _example(*answered)
            for axes, picture in zip(column[1:], (image, darkened), strict=True):
                show_image(axes, picture)
            column[2].set_xlabel(told, fontsize=8)
        grid[0, 0].set_ylabel("image to text attention")
        grid[1, 0].set_ylabel("with trigger")
        grid[2, 0].set_ylabel("tokens hidden")
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)


def _ratios(attention, labels):
    """Ratios (n, L) of the training samples' answers, and which of these are poisoned, (n,) bool."""
    features = read_features(attention, ("image_mass", "text_mass"))
    ratios = (features.image_mass / (features.text_mass + 1e-12)).mean(axis=2)
    return ratios, np.array(read_labels(labels, features.ids))


def _draw_ratios(axes, ratios, poisoned):
    layers = np.arange(ratios.shape[1])
    for kind, chosen, colour in (("clean", ~poisoned, HIGH), ("poisoned", poisoned, LOW)):
        low, middle, high = np.quantile(ratios[chosen], (0.25, 0.5, 0.75), axis=0)
        axes.fill_between(layers, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(layers, middle, color=colour, marker="o", markersize=3, label=kind)
    axes.set_yscale("log")
    axes.set_xticks(layers)
    axes.set_xlabel("layer", color=INK)


def _example(predictions, samples, images):
    """The first triggered image of which something was hidden, as it is and darkened there, and how much that is.

    Where nothing was hidden of any, the first one, twice.
    """
    with pyarrow.parquet.ParquetFile(predictions) as file:
        table = file.read()
    if "hidden" not in table.column_names:
        raise ByeError(f"{predictions} does not say what a guard hid; remove the file and run its stage again")
    rows = [row for row in table.select(["id", "split", "hidden", "grid"]).to_pylist() if row["split"] == "triggered"]
    row = next((row for row in rows if row["hidden"]), rows[0])
    entry = next(entry for entry in read_written(samples) if id_of(entry) == row["id"])
    image = np.asarray(load_image(images, entry))
    darkened, (n_rows, n_columns) = image.copy(), row["grid"]
    shown = [number for number in row["hidden"] if number < n_rows * n_columns]
    for number in shown:
        box = token_box(divmod(number, n_columns), row["grid"], *image.shape[:2], around=0)
        place = slice(*box[:2]), slice(*box[2:])
        darkened[place] = DARK * image[place]
    return image, darkened, f"{len(shown)} of {n_rows * n_columns} tokens"
