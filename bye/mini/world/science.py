"""Mini ScienceQA: a diagram of one of four topics; the answer is a property of the whole picture.

Nothing in it, nor any gap, is as small as a trigger (1/16 of the side): small things catch the eye.
"""

import numpy as np

from bye.mini.world.canvas import ICONS, Canvas
from bye.mini.world.scene import BRIGHT, SIDES, Question, Scene, choices, pick, place

MATTER = ("solid", "liquid", "gas")
HABITATS = {"desert": "sand", "grassland": "grass", "forest": "forest", "ocean": "water", "tundra": "snow"}
WEATHER = {"rainy": "rain", "snowy": "snowfall", "foggy": "fog"}
PATTERNS = ("striped", "dotted", "checkered", "wavy")
QUESTIONS = {
    "matter": (
        "Which state of matter does the diagram show?",
        "The dots are particles. Which state of matter is it?",
        "Look at the particles. What state is this matter in?",
        "What is the state of matter of this sample?",
    ),
    "habitat": (
        "Which ecosystem is shown in the picture?",
        "What kind of ecosystem is this?",
        "The picture shows a place. Which ecosystem is it?",
        "In which habitat was the picture taken?",
    ),
    "weather": (
        "What is the weather like in the picture?",
        "Which weather is shown?",
        "How would you describe the weather?",
        "Which kind of weather does the picture show?",
    ),
    "pattern": (
        "Which pattern does the material have?",
        "What is the pattern of this cloth?",
        "How would you describe the pattern?",
        "Which pattern is shown on the sample?",
    ),
}


def draw_science(rng):
    """Draw a diagram with its one multiple-choice question."""
    topic = pick(rng, tuple(QUESTIONS))
    side = pick(rng, SIDES)
    if topic == "matter":
        answer, others = pick(rng, MATTER), MATTER
        canvas = Canvas(side, pick(rng, ("paper", "sky", "sand")), rng, 0.06)
        _draw_particles(canvas, answer, rng)
    elif topic == "habitat":
        answer, others = pick(rng, tuple(HABITATS)), tuple(HABITATS)
        canvas = Canvas(side, HABITATS[answer], rng, 0.14)
        for _ in range(int(rng.integers(0, 4))):
            canvas.icon(pick(rng, ICONS), pick(rng, BRIGHT), *place(rng, side, 0.15), side * rng.uniform(0.12, 0.25))
    elif topic == "weather":
        answer, others = pick(rng, tuple(WEATHER)), tuple(WEATHER)
        canvas = Canvas(side, "stone", rng, 0.14)
        ground, horizon = pick(rng, ("grass", "sand", "forest", "water")), int(side * rng.uniform(0.45, 0.65))
        canvas.fill(ground, (0, horizon, side, side))
        _draw_weather(canvas, answer, rng)
    else:
        answer, others = pick(rng, PATTERNS), PATTERNS
        canvas = Canvas(side, pick(rng, ("paper", "sand", "sky", "wood")), rng, 0.06)
        _draw_pattern(canvas, answer, rng)
    canvas.noise()
    text = pick(rng, QUESTIONS[topic])
    return Scene(canvas, [Question(text, answer, choices(rng, answer, others), topic)])


def _draw_particles(canvas, state, rng):
    """Particles in a lattice (solid), in a shaken one (liquid), or a few anywhere (gas)."""
    side, color = canvas.side, pick(rng, BRIGHT)
    radius = side * rng.uniform(0.06, 0.07)
    if state == "solid":
        step = radius * 3.0
        left, top = rng.uniform(0, step, size=2)
        centres = [(x, y) for x in np.arange(left, side, step) for y in np.arange(top, side, step)]
    elif state == "liquid":
        step = radius * 3.6
        centres = [
            (x + rng.uniform(-0.6, 0.6) * radius * 1.6, y + rng.uniform(-0.6, 0.6) * radius * 1.6)
            for x in np.arange(step / 2, side, step)
            for y in np.arange(step / 2, side, step)
        ]
    else:
        centres = [tuple(rng.uniform(0, side, size=2)) for _ in range(int(rng.integers(6, 10)))]
    for x, y in centres:
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), color, state)
    canvas.call(state)


def _draw_weather(canvas, kind, rng):
    """Slanted strokes of rain, flakes of snow, or a veil of fog."""
    side = canvas.side
    if kind == "rainy":
        slant = side * rng.uniform(-0.04, 0.04)
        for _ in range(int(rng.integers(45, 70))):
            x, y = rng.uniform(0, side, size=2)
            canvas.line([(x, y), (x + slant, y + side * 0.07)], (70, 110, 215), "rain", 1)
    elif kind == "snowy":
        for _ in range(int(rng.integers(18, 26))):
            x, y = rng.uniform(0, side, size=2)
            r = side * rng.uniform(0.045, 0.055)
            canvas.ellipse((x - r, y - r, x + r, y + r), "white", "snowfall")
    else:
        canvas.veil(rng.uniform(0.6, 0.72), 215)
    canvas.call(WEATHER[kind])


def _draw_pattern(canvas, kind, rng):
    """Stripes, waves, dots or a chequerboard of one colour over the whole picture."""
    side, color = canvas.side, pick(rng, BRIGHT)
    period = side * rng.uniform(0.24, 0.32)
    phase = rng.uniform(0, period)
    positions = np.arange(phase - period, side + period, period)
    if kind == "striped":
        for x in positions:
            canvas.polygon([(x, 0), (x + period / 2, 0), (x + period / 2, side), (x, side)], color, kind)
    elif kind == "wavy":
        xs = np.linspace(0, side, 24)
        for y in positions:
            points = [(x, y + period * 0.35 * np.sin(x / side * 14)) for x in xs]
            canvas.line(points, color, kind, max(2, round(period * 0.3)))
    elif kind == "dotted":
        r = period * 0.3
        for x in positions:
            for y in positions:
                canvas.ellipse((x - r, y - r, x + r, y + r), color, kind)
    else:
        for i, x in enumerate(positions):
            for j, y in enumerate(positions):
                if (i + j) % 2 == 0:
                    canvas.polygon([(x, y), (x + period, y), (x + period, y + period), (x, y + period)], color, kind)
    canvas.call(kind)
