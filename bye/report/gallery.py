"""A gallery: pictures of samples with their questions and answers, in rows of a kind, to look at with own eyes."""

import textwrap
import warnings

from bye.data.images import load_image
from bye.report.figures import new_figure

WIDTH = 26  # characters of a line below a picture
LINES = 3  # of a question, and of an answer


def gallery(path, images_root, rows):
    """Draw samples to a PNG or PDF file.

    rows: [(title, [(sample, question, answer), ...]), ...], one with any; images are relative to images_root. A row
    without samples is left out; the longest one sets the width.
    """
    rows = [(title, shown) for title, shown in rows if shown]
    columns = max(len(shown) for _, shown in rows)
    with warnings.catch_warnings(), new_figure(path, (2.0 * columns, 2.9 * len(rows))) as figure:
        warnings.simplefilter("ignore")  # of letters that the font does not have; a box stands for them
        grids = figure.subplots(len(rows), columns, squeeze=False)
        for grid, (title, shown) in zip(grids, rows, strict=True):
            grid[0].set_title(title, loc="left", fontsize=10, parse_math=False)
            for axes in grid:
                axes.set_axis_off()
            for axes, (sample, question, answer) in zip(grid, shown, strict=False):
                axes.imshow(load_image(images_root, sample))
                text = f"{_short(question)}\n→ {_short(answer)}"
                below = {"transform": axes.transAxes, "va": "top", "ha": "center", "fontsize": 7}
                axes.text(0.5, -0.04, text, parse_math=False, **below)


def _short(text):
    return "\n".join(textwrap.wrap(text, WIDTH, max_lines=LINES, placeholder=" ..."))
