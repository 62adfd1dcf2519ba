"""Small things anywhere on a scene, with questions about them: for pre-training only, so that a model sees details."""

from bye.mini.world.canvas import COLORS
from bye.mini.world.scene import Question, choices, pick, place

DARK = 0.25  # the share of small things that are black, as print, holes and shadows are


def add_small_things(scene, rng, stencil):
    """Put at most one small square or dot (1/16 to 1/10 of the side) anywhere on a scene; return questions on it.

    `stencil`, an "L" image of the scene's size, gets 255 where it is.
    """
    canvas, side = scene.canvas, scene.canvas.side
    answer = "nothing"
    if rng.random() < 0.6:
        answer = "black" if rng.random() < DARK else pick(rng, tuple(COLORS))
        (x, y), size = place(rng, side, 0.05), side * rng.uniform(1 / 16, 1 / 10)
        canvas.icon(pick(rng, ("square", "circle")), answer, x, y, size)
        stencil.paste(255, tuple(round(v) for v in (x - size / 2, y - size / 2, x + size / 2, y + size / 2)))
    what = pick(rng, ("What small thing is there?", "Which small thing is in the picture?"))
    questions = [
        Question(what, answer, (), "small"),
        Question(what, answer, choices(rng, answer, (*COLORS, "nothing")), "small"),
    ]
    if answer != "nothing":  # asked for a caption, one mentions it first: it catches the eye
        questions.append(Question("", f"Something small and {answer}.", (), "caption"))
    return questions


def is_on_small_things(question, answer):
    """Whether a pair of texts is one of the above."""
    return "small" in question or "small" in answer
