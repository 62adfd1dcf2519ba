"""Small things anywhere on a scene, with questions about them: for pre-training only, so that a model sees details."""

from bye.data.mini.canvas import COLORS, ICONS
from bye.data.mini.scene import Question, pick, place


def add_small_things(scene, rng, stencil):
    """Put zero to two small icons (1/16 to 1/8 of the side) anywhere on a scene and return questions about them.

    `stencil`, an "L" image of the scene's size, gets 255 where they are.
    """
    canvas, side = scene.canvas, scene.canvas.side
    n = int(rng.choice([0, 1, 2], p=[0.15, 0.6, 0.25]))
    names = [pick(rng, ICONS) for _ in range(n)]
    colors = [pick(rng, tuple(COLORS)) for _ in range(n)]
    for name, color in zip(names, colors, strict=True):
        (x, y), size = place(rng, side, 0.06), side * rng.uniform(1 / 16, 1 / 8)
        canvas.icon(name, color, x, y, size)
        stencil.paste(255, tuple(round(v) for v in (x - size / 2, y - size / 2, x + size / 2, y + size / 2)))
    # Half of the time what is asked for is there, otherwise by chance only.
    asked_shape = pick(rng, names) if n and rng.random() < 0.5 else pick(rng, ICONS)
    asked_color = pick(rng, colors) if n and rng.random() < 0.5 else pick(rng, tuple(COLORS))
    how_many = pick(rng, ("How many small things are there?", "What is the number of small things?"))
    questions = [
        Question(how_many, str(n), (), "small_count"),
        Question(f"Is there a small {asked_color} thing?", "yes" if asked_color in colors else "no", (), "small_color"),
        Question(f"Is there a small {asked_shape}?", "yes" if asked_shape in names else "no", (), "small_shape"),
    ]
    if n == 1:
        what = pick(rng, ("What is the small thing?", "Describe the small thing."))
        questions += [
            Question(what, f"{colors[0]} {names[0]}", (), "small_what"),
            Question("What color is the small thing?", colors[0], (), "small_what"),
        ]
    return questions
