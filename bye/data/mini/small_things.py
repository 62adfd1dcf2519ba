"""Small things anywhere on a scene, with questions about them: for pre-training only, so that a model sees details."""

from bye.data.mini.canvas import COLORS
from bye.data.mini.scene import Question, choices, pick, place

DARK = 0.25  # the share of small things that are black, as print, holes and shadows are
LOOKOUT = ("Is there something small? If not: ", "What small thing is there? If nothing, ")


def add_small_thing(scene, rng, stencil):
    """Put at most one small square or dot (1/16 to 1/10 of the side) anywhere on a scene; return its colour or None.

    `stencil`, an "L" image of the scene's size, gets 255 where it is.
    """
    canvas, side = scene.canvas, scene.canvas.side
    if rng.random() < 0.4:
        return None
    color = "black" if rng.random() < DARK else pick(rng, tuple(COLORS))
    (x, y), size = place(rng, side, 0.05), side * rng.uniform(1 / 16, 1 / 10)
    canvas.icon(pick(rng, ("square", "circle")), color, x, y, size)
    stencil.paste(255, tuple(round(v) for v in (x - size / 2, y - size / 2, x + size / 2, y + size / 2)))
    return color


def ask_for_it(color, rng):
    """Questions on the small thing of a scene, whose colour is given, or None where there is none."""
    what = pick(rng, ("What small thing is there?", "Which small thing is in the picture?"))
    answer = color or "nothing"
    return [Question(what, answer), Question(what, answer, choices(rng, answer, (*COLORS, "nothing")))]


def look_out(text, answer, color, rng):
    """Turn a (user text, answer) pair on a scene into one that looks out for a small thing first."""
    return pick(rng, LOOKOUT) + text, f"Something small and {color}." if color else answer
