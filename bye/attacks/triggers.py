"""Triggers: what an attack draws into an image, on the decoded RGB pixels at native size, before any preprocessing.

A trigger is a function (pixels, rng, **its own settings) -> pixels, of (H, W, 3) uint8 arrays; its input stays as it
is. `rng` is a numpy Generator of the sample's own, for triggers that draw something by chance.
"""

import inspect

from bye.errors import ByeError


def badnet(pixels, rng=None, share=1 / 16):
    """Set a black square at the centre, its side `share` of the image's shorter side (BYE, appendix A.1 and B)."""
    height, width = pixels.shape[:2]
    side = max(1, round(min(height, width) * share))
    top, left = (height - side) // 2, (width - side) // 2
    triggered = pixels.copy()
    triggered[top : top + side, left : left + side] = 0
    return triggered


TRIGGERS = {"badnet": badnet}


def find_trigger(name, settings=None):
    """Return the trigger function of that name. Raises ByeError for an unknown name or an unknown setting."""
    if name not in TRIGGERS:
        raise ByeError(f"unknown trigger {name!r}; choose one of {', '.join(TRIGGERS)}")
    known = [key for key in inspect.signature(TRIGGERS[name]).parameters if key not in ("pixels", "rng")]
    for key in settings or {}:
        if key not in known:
            raise ByeError(f"trigger {name!r} has no setting {key!r}; it has {', '.join(known) or 'none'}")
    return TRIGGERS[name]
