"""Triggers: what an attack draws into an image, on the decoded RGB pixels at native size, before any preprocessing.

A trigger is a function (pixels, rng, **its own settings) -> pixels, of (H, W, 3) uint8 arrays; its input stays as it
is. `rng` is a numpy Generator of the sample's own, for triggers that draw something by chance.
"""

import inspect

import numpy as np

from bye.errors import ByeError


def badnet(pixels, rng=None, share=1 / 16):
    """Set a black square at the centre, its side `share` of the image's shorter side (BYE, appendix A.1 and B)."""
    return _with_squares(pixels, share, [(1 / 2, 1 / 2)])


def random_position(pixels, rng, share=1 / 16):
    """Set the same square anywhere, fully inside the image, each place as likely (BYE, appendix B)."""
    height, width = pixels.shape[:2]
    side = _side(pixels, share)
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    triggered = pixels.copy()
    triggered[top : top + side, left : left + side] = 0
    return triggered


def texture(pixels, rng=None, share=1 / 16, cells=4):
    """Set a black and white checkerboard of the same size at the centre (BYE, appendix B).

    It has `cells` x `cells` fields, so that it outlives the model's resize of the image; fewer where the square has
    fewer pixels.
    """
    side = _side(pixels, share)
    field = np.arange(side) * min(cells, side) // side
    board = np.where((field[:, None] + field) % 2, 255, 0).astype(pixels.dtype)
    return _with_squares(pixels, share, [(1 / 2, 1 / 2)], board[..., None])


def fixed_dual(pixels, rng=None, share=1 / 16):
    """Set two black squares on the horizontal midline, mirror images of each other (BYE, section 5.5)."""
    return _with_squares(pixels, share, [(1 / 2, 1 / 4), (1 / 2, 3 / 4)])


def varied_multi(pixels, rng=None, share=1 / 16, grid=2):
    """Set black squares at the centres of the fields of a `grid` x `grid` partition of the image (BYE, section 5.5)."""
    points = (np.arange(grid) + 1 / 2) / grid
    return _with_squares(pixels, share, [(y, x) for y in points for x in points])


def _side(pixels, share):
    return max(1, round(min(pixels.shape[:2]) * share))


def _with_squares(pixels, share, centres, value=0):
    """Copy the pixels and set squares with these centres, shares (y, x) of height and width."""
    side = _side(pixels, share)
    triggered = pixels.copy()
    for centre in centres:
        top, left = (_start(size, side, place) for size, place in zip(pixels.shape, centre, strict=False))
        triggered[top : top + side, left : left + side] = value
    return triggered


def _start(size, side, place):
    """First pixel of a square centred at `place`, a share of `size`; places p and 1 - p are exact mirror images."""
    if place > 1 / 2:
        return size - side - _start(size, side, 1 - place)
    return max(0, int(size * place - side / 2))


TRIGGERS = {
    "badnet": badnet,
    "random_position": random_position,
    "texture": texture,
    "fixed_dual": fixed_dual,
    "varied_multi": varied_multi,
}


def find_trigger(name, settings=None):
    """Return the trigger function of that name. Raises ByeError for an unknown name or an unknown setting."""
    if name not in TRIGGERS:
        raise ByeError(f"unknown trigger {name!r}; choose one of {', '.join(TRIGGERS)}")
    known = [key for key in inspect.signature(TRIGGERS[name]).parameters if key not in ("pixels", "rng")]
    for key in settings or {}:
        if key not in known:
            raise ByeError(f"trigger {name!r} has no setting {key!r}; it has {', '.join(known) or 'none'}")
    return TRIGGERS[name]
