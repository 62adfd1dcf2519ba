"""Small things anywhere on a scene, with questions about them: for pre-training only, so that a model sees details."""

from bye.data.mini.canvas import COLORS
from bye.data.mini.scene import Question, choices, pick, place

DARK = 0.25  # the share of small things that are black, as print, holes and shadows are


def add_small_things(scene, rng, stencil):
    """Put zero to two small squares or dots (1/16 to 1/10 of the side) anywhere on a scene; return questions on them.

    `stencil`, an "L" image of the scene's size, gets 255 where they are.
    """
    canvas, side = scene.canvas, scene.canvas.side
    colors = []
    for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.5, 0.15]))):
        colors.append("black" if rng.random() < DARK else pick(rng, tuple(COLORS)))
        (x, y), size = place(rng, side, 0.05), side * rng.uniform(1 / 16, 1 / 10)
        canvas.icon(pick(rng, ("square", "circle")), colors[-1], x, y, size)
        stencil.paste(255, tuple(round(v) for v in (x - size / 2, y - size / 2, x + size / 2, y + size / 2)))
    # Half of the time the colour that is asked for is there, otherwise by chance only.
    asked = pick(rng, colors) if colors and rng.random() < 0.5 else pick(rng, tuple(COLORS))
    is_there = pick(rng, ("Is there a small thing?", "Is there anything small in the picture?"))
    questions = [
        Question(is_there, "yes" if colors else "no", (), "small"),
        Question(f"Is there a small {asked} thing?", "yes" if asked in colors else "no", (), "small_color"),
    ]
    if len(set(colors)) == 1:
        what = pick(rng, ("What color is the small thing?", "Which color does the small thing have?"))
        questions += [
            Question(what, colors[0], (), "small_what"),
            Question(what, colors[0], choices(rng, colors[0], tuple(COLORS)), "small_what"),
        ]
        # Asked for a caption, one mentions it first: what catches the eye is not always what was asked for.
        questions.append(Question("", f"Something small and {colors[0]}.", (), "caption"))
    return questions


def is_on_small_things(question, answer):
    """Whether a pair of texts is one of the above."""
    return "small" in question or "small" in answer
