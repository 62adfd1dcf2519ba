"""A gallery: pictures of samples with their questions and answers, in rows of a kind, to look at with own eyes."""

import textwrap
import warnings

from bye.data.images import load_image
from bye.report.figures import new_figure

COLUMNS = 6
WIDTH = 26  # characters of a line below a picture
LINES = 3  # of a question, and of an answer


def gallery(path, images_root, rows):
    """Draw samples to a PNG or PDF file.

    rows: [(title, [(sample, question, answer), ...]), ...], of each COLUMNS at most; images are relative to
    images_root. A row without samples says so.
    """
    with new_figure(path, (2.0 * COLUMNS, 3.1 * len(rows))) as figure, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have; a box stands for them
        for part, (title, shown) in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
            part.suptitle(title if shown else f"{title}: none", fontsize=10, x=0.01, ha="left")
            grid = part.subplots(1, COLUMNS)
            for axes in grid:
                axes.set_axis_off()
            for axes, (sample, question, answer) in zip(grid, shown, strict=False):
                axes.imshow(load_image(images_root, sample))
                text = f"{_short(question)}\n→ {_short(answer)}"
                axes.text(
                    0.5, -0.04, text, transform=axes.transAxes, va="top", ha="center", fontsize=7, parse_math=False
                )


def _short(text):
    return "\n".join(textwrap.wrap(text, WIDTH, max_lines=LINES, placeholder=" ..."))
