"""The four mini worlds: what is in a picture, and every question that can be asked of it.

Each `draw_*` function returns a Scene: the picture and a list of question/answer pairs of the kind its original asks.
Questions concern the whole scene (ecosystem, pattern, majority, land cover), as most of the originals' do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .canvas import COLORS, ICONS, LABEL_INDEX, Canvas

SIDES = (96, 104, 112, 120, 128)
BRIGHT = ("red", "green", "blue", "yellow", "purple", "orange")


@dataclass
class Question:
    text: str
    answer: str  # option text for multiple choice, phrase or caption otherwise
    choices: tuple[str, ...] = ()
    kind: str = ""


@dataclass
class Scene:
    canvas: Canvas
    questions: list[Question]
    captions: list[str] = field(default_factory=list)


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _choices(rng: np.random.Generator, answer: str, others, n: int = 3) -> tuple[str, ...]:
    """`n` shuffled options, the answer among them."""
    wrong = [o for o in others if o != answer]
    picked = [wrong[i] for i in rng.permutation(len(wrong))[: n - 1]]
    options = [answer, *picked]
    return tuple(options[i] for i in rng.permutation(len(options)))


# --- mini ScienceQA -------------------------------------------------------------------------------------------------

MATTER = ("solid", "liquid", "gas")
HABITATS = {"desert": "sand", "grassland": "grass", "forest": "forest", "ocean": "water", "tundra": "snow"}
WEATHER = {"rainy": "rain", "snowy": "snowfall", "foggy": "fog"}
PATTERNS = ("striped", "dotted", "checkered", "wavy")
SCIENCE_QUESTIONS = {
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


def draw_science(rng: np.random.Generator) -> Scene:
    """A diagram of one of four topics; the answer is a property of the whole picture."""
    topic = _pick(rng, tuple(SCIENCE_QUESTIONS))
    side = int(_pick(rng, SIDES))
    if topic == "matter":
        answer, others = _pick(rng, MATTER), MATTER
        canvas = Canvas(side, _pick(rng, ("paper", "sky", "sand")), rng, 0.06)
        _particles(canvas, answer, rng)
    elif topic == "habitat":
        answer, others = _pick(rng, tuple(HABITATS)), tuple(HABITATS)
        canvas = Canvas(side, HABITATS[answer], rng, 0.14)
        for _ in range(int(rng.integers(0, 4))):
            canvas.icon(_pick(rng, ICONS), _pick(rng, BRIGHT), *_place(rng, side, 0.15), side * rng.uniform(0.12, 0.25))
    elif topic == "weather":
        answer, others = _pick(rng, tuple(WEATHER)), tuple(WEATHER)
        canvas = Canvas(side, "stone", rng, 0.14)
        canvas.fill(
            _pick(rng, ("grass", "sand", "forest", "water")), (0, int(side * rng.uniform(0.45, 0.65)), side, side)
        )
        _weather(canvas, answer, rng)
    else:
        answer, others = _pick(rng, PATTERNS), PATTERNS
        canvas = Canvas(side, _pick(rng, ("paper", "sand", "sky", "wood")), rng, 0.06)
        _pattern(canvas, answer, rng)
    canvas.noise()
    text = _pick(rng, SCIENCE_QUESTIONS[topic])
    return Scene(canvas, [Question(text, answer, _choices(rng, answer, others), topic)])


def _place(rng, side: int, margin: float) -> tuple[float, float]:
    return tuple(float(v) for v in rng.uniform(side * margin, side * (1 - margin), size=2))


def _particles(canvas: Canvas, state: str, rng) -> None:
    side, color = canvas.side, _pick(rng, BRIGHT)
    radius = side * rng.uniform(0.035, 0.045)
    if state == "solid":
        step = radius * 2.25
        offset = rng.uniform(0, step, size=2)
        centres = [(x, y) for x in np.arange(offset[0], side, step) for y in np.arange(offset[1], side, step)]
    elif state == "liquid":
        step = radius * 3.1
        centres = [
            (x + rng.uniform(-0.6, 0.6) * radius * 1.6, y + rng.uniform(-0.6, 0.6) * radius * 1.6)
            for x in np.arange(step / 2, side, step)
            for y in np.arange(step / 2, side, step)
        ]
    else:
        centres = [tuple(rng.uniform(0, side, size=2)) for _ in range(int(rng.integers(12, 20)))]
    for x, y in centres:
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), color, state)
    canvas.call(state)


def _weather(canvas: Canvas, kind: str, rng) -> None:
    side = canvas.side
    if kind == "rainy":
        slant = side * rng.uniform(-0.04, 0.04)
        for _ in range(int(rng.integers(45, 70))):
            x, y = rng.uniform(0, side, size=2)
            canvas.line([(x, y), (x + slant, y + side * 0.07)], (70, 110, 215), "rain", 1)
    elif kind == "snowy":
        for _ in range(int(rng.integers(45, 70))):
            x, y = rng.uniform(0, side, size=2)
            r = side * rng.uniform(0.012, 0.02)
            canvas.ellipse((x - r, y - r, x + r, y + r), "white", "snowfall")
    else:
        canvas.veil(rng.uniform(0.6, 0.72), 215)
    canvas.call(WEATHER[kind])


def _pattern(canvas: Canvas, kind: str, rng) -> None:
    side, color = canvas.side, _pick(rng, BRIGHT)
    period = side * rng.uniform(0.12, 0.18)
    phase = rng.uniform(0, period)
    positions = np.arange(phase - period, side + period, period)
    if kind == "striped":
        for p in positions:
            canvas.polygon([(p, 0), (p + period / 2, 0), (p + period / 2, side), (p, side)], color, kind)
    elif kind == "wavy":
        xs = np.linspace(0, side, 24)
        for p in positions:
            canvas.line(
                [(x, p + period * 0.35 * np.sin(x / side * 14)) for x in xs], color, kind, max(2, round(period * 0.3))
            )
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


# --- mini IconQA ----------------------------------------------------------------------------------------------------

ICON_COUNTS = {4: 2, 9: 3, 16: 4}


def draw_icons(rng: np.random.Generator) -> Scene:
    """A field of icons, most of one kind and one colour; compare and count."""
    side = int(_pick(rng, SIDES))
    canvas = Canvas(side, _pick(rng, ("paper", "sky", "snow", "sand")), rng, 0.05)
    count = _pick(rng, tuple(ICON_COUNTS))
    edge = ICON_COUNTS[count]
    shape, color = _pick(rng, ICONS), _pick(rng, BRIGHT)
    odd = max(0, int(rng.integers(0, max(1, count // 3) + 1)))
    shapes = [shape] * (count - odd) + [_pick(rng, ICONS) for _ in range(odd)]
    odd = max(0, int(rng.integers(0, max(1, count // 3) + 1)))
    colors = [color] * (count - odd) + [_pick(rng, BRIGHT) for _ in range(odd)]
    shapes = [shapes[i] for i in rng.permutation(count)]
    colors = [colors[i] for i in rng.permutation(count)]
    cell = side / edge
    size = cell * rng.uniform(0.62, 0.8)
    for k in range(count):
        x = (k % edge + 0.5) * cell + rng.uniform(-0.08, 0.08) * cell
        y = (k // edge + 0.5) * cell + rng.uniform(-0.08, 0.08) * cell
        canvas.icon(shapes[k], colors[k], x, y, size)
    canvas.noise()
    names = tuple(str(c) for c in ICON_COUNTS)
    questions = [
        Question(
            _pick(rng, ("Which shape is there the most of?", "Which shape appears most often?", "Most of the icons are of which shape?")),
            shape, _choices(rng, shape, ICONS), "shape",
        ),
        Question(
            _pick(rng, ("Which color do most icons have?", "Which color appears most often?", "Most of the icons are of which color?")),
            color, _choices(rng, color, BRIGHT), "color",
        ),
        Question(
            _pick(rng, ("How many icons are there?", "How many shapes are in the picture?", "Count the icons. How many are there?")),
            str(count), _choices(rng, str(count), names), "count",
        ),
    ]  # fmt: skip
    return Scene(canvas, questions)


# --- mini Flickr30k -------------------------------------------------------------------------------------------------

CAPTION_TEMPLATES = (
    "{First}{more} on {ground} under {sky}.",
    "There is {first}{more} on {ground}.",
    "{Ground} with {first}{more}.",
    "{First}{more} in front of {sky}.",
    "On {ground} there is {first}{more}.",
)
SCENERY = {"grass": "the grass", "sand": "the sand", "snow": "the snow", "water": "the water", "stone": "the stones"}
SKIES = {"sky": "a blue sky", "wood": "a brown wall", "forest": "a dark forest"}


def draw_photo(rng: np.random.Generator) -> Scene:
    """An everyday scene: ground, background, one or two large things; five captions."""
    side = int(_pick(rng, SIDES))
    sky, ground = _pick(rng, tuple(SKIES)), _pick(rng, tuple(SCENERY))
    canvas = Canvas(side, sky, rng, 0.15)
    canvas.fill(ground, (0, int(side * rng.uniform(0.45, 0.6)), side, side), contrast=0.15)
    n = int(rng.integers(1, 3))
    things = [(_pick(rng, ICONS), _pick(rng, BRIGHT)) for _ in range(n)]
    centres = rng.uniform(0.25, 0.4, size=n) + np.arange(n) * 0.35 if n > 1 else rng.uniform(0.3, 0.7, size=1)
    for (shape, color), x in zip(things, centres, strict=True):
        canvas.icon(shape, color, x * side, side * rng.uniform(0.4, 0.65), side * rng.uniform(0.3, 0.42))
    canvas.noise()
    names = [f"{'an' if color == 'orange' else 'a'} {color} {shape}" for shape, color in things]
    words = dict(first=names[0], more=f" and {names[1]}" if n > 1 else "", ground=SCENERY[ground], sky=SKIES[sky])
    words |= {word.capitalize(): words[word][0].upper() + words[word][1:] for word in ("first", "ground")}
    captions = [t.format(**words) for t in CAPTION_TEMPLATES]
    return Scene(canvas, [Question("", _pick(rng, captions), (), "caption")], captions)


# --- mini RSVQA -----------------------------------------------------------------------------------------------------

LAND = {"water": "a water area", "forest": "a forest", "field": "a farmland", "grass": "a grass area"}


def draw_tile(rng: np.random.Generator) -> Scene:
    """A top-down terrain tile: areas of land cover, roads, buildings."""
    side = int(_pick(rng, SIDES))
    kinds = [tuple(LAND)[i] for i in rng.permutation(len(LAND))[: int(rng.integers(1, 4))]]
    canvas = Canvas(side, kinds[0], rng, 0.12)
    areas = {kinds[0]: 1.0}
    yy, xx = np.mgrid[0:side, 0:side] / side
    for kind in kinds[1:]:
        angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-0.1, 0.15)
        mask = (np.cos(angle) * (xx - 0.5) + np.sin(angle) * (yy - 0.5) + 0.05 * np.sin(9 * (xx + yy))) > shift
        canvas.fill(kind, mask=mask)
        areas[kind] = float(mask.mean())
    urban = bool(rng.random() < 0.5)
    road = urban and rng.random() < 0.7 or rng.random() < 0.3
    if road:
        horizontal, at = rng.random() < 0.5, side * rng.uniform(0.2, 0.8)
        tilt = side * rng.uniform(-0.15, 0.15)
        ends = [(0, at), (side, at + tilt)] if horizontal else [(at, 0), (at + tilt, side)]
        canvas.line(ends, (92, 92, 96), "road", max(4, round(side * 0.07)))
    buildings = int(rng.integers(14, 22)) if urban else int(rng.integers(0, 4))
    for _ in range(buildings):
        x, y = _place(rng, side, 0.06)
        w, h = side * rng.uniform(0.05, 0.09, size=2)
        color = _pick(rng, ("red", "orange", "white", "brown"))
        canvas.polygon([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], color, "building")
    canvas.noise()
    present = set(np.unique(np.asarray(canvas.labels)))
    present = {kind for kind in LAND if LABEL_INDEX[kind] in present}
    asked = _pick(rng, tuple(LAND))
    how_many = "more than 10" if buildings > 10 else "between 1 and 5" if buildings else "0"
    questions = [
        Question(_pick(rng, ("Is it a rural or an urban area?", "Is this area rural or urban?")), "urban" if urban else "rural", (), "rural_urban"),
        Question(f"{_pick(rng, ('Is there', 'Is there also'))} {LAND[asked]} in the image?", "yes" if asked in present else "no", (), "presence"),
        Question(_pick(rng, ("Is a road present?", "Is there a road in the image?")), "yes" if road else "no", (), "presence"),
        Question(_pick(rng, ("How many buildings are there?", "What is the number of buildings?")), how_many, (), "count"),
        Question(_pick(rng, ("Are there more than 10 buildings?", "Are there more buildings than 10?")), "yes" if urban else "no", (), "comp"),
    ]  # fmt: skip
    return Scene(canvas, questions)


# --- small things, for pre-training only ----------------------------------------------------------------------------


def add_small_things(scene: Scene, rng: np.random.Generator, stencil: Image.Image) -> list[Question]:
    """Put zero to two small icons (1/16 to 1/8 of the side) anywhere on a scene and return questions about them.

    `stencil`, an "L" image of the scene's size, gets 255 where they are.
    """
    canvas, side = scene.canvas, scene.canvas.side
    n = int(rng.choice([0, 1, 2], p=[0.15, 0.6, 0.25]))
    names = [_pick(rng, ICONS) for _ in range(n)]
    colors = [_pick(rng, tuple(COLORS)) for _ in range(n)]
    for name, color in zip(names, colors, strict=True):
        (x, y), size = _place(rng, side, 0.06), side * rng.uniform(1 / 16, 1 / 8)
        canvas.icon(name, color, x, y, size)
        stencil.paste(255, tuple(round(v) for v in (x - size / 2, y - size / 2, x + size / 2, y + size / 2)))
    asked_shape = _pick(rng, names) if n and rng.random() < 0.5 else _pick(rng, ICONS)
    asked_color = _pick(rng, colors) if n and rng.random() < 0.5 else _pick(rng, tuple(COLORS))
    questions = [
        Question(
            _pick(rng, ("How many small things are there?", "What is the number of small things?")),
            str(n),
            (),
            "small_count",
        ),
        Question(f"Is there a small {asked_color} thing?", "yes" if asked_color in colors else "no", (), "small_color"),
        Question(f"Is there a small {asked_shape}?", "yes" if asked_shape in names else "no", (), "small_shape"),
    ]
    if n == 1:
        questions += [
            Question(
                _pick(rng, ("What is the small thing?", "Describe the small thing.")),
                f"{colors[0]} {names[0]}",
                (),
                "small_what",
            ),
            Question("What color is the small thing?", colors[0], (), "small_what"),
        ]
    return questions
