"""Mini RSVQA: a top-down terrain tile with areas of land cover, roads and buildings."""

import numpy as np

from bye.mini.world.canvas import LABEL_INDEX, Canvas
from bye.mini.world.scene import SIDES, Question, Scene, pick, place

LAND = {"water": "a water area", "forest": "a forest", "field": "a farmland", "grass": "a grass area"}
ROAD = (92, 92, 96)
ROOFS = ("red", "orange", "white")


def draw_tile(rng):
    """Draw a tile with five questions: urban or rural, two on presence, count of buildings, comparison."""
    side = pick(rng, SIDES)
    kinds = [tuple(LAND)[i] for i in rng.permutation(len(LAND))[: int(rng.integers(2, 4))]]
    canvas = Canvas(side, kinds[0], rng, 0.12)
    for kind in kinds[1:]:
        canvas.fill(kind, mask=_half_plane(rng, side))
    urban = bool(rng.random() < 0.5)
    road = (urban and rng.random() < 0.7) or rng.random() < 0.3
    if road:
        _draw_road(canvas, rng)
    buildings = int(rng.integers(14, 22)) if urban else int(rng.integers(0, 4))
    for _ in range(buildings):
        x, y = place(rng, side, 0.06)
        w, h = side * rng.uniform(0.05, 0.09, size=2)
        canvas.polygon([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], pick(rng, ROOFS), "building")
    canvas.noise()
    present = set(np.unique(np.asarray(canvas.labels)))  # an area may be covered by later ones
    asked = pick(rng, tuple(LAND))
    how_many = "more than 10" if buildings > 10 else "between 1 and 5" if buildings else "0"

    def ask(texts, answer, kind):
        return Question(pick(rng, texts), answer, (), kind)

    questions = [
        ask(
            ("Is it a rural or an urban area?", "Is this area rural or urban?"),
            "urban" if urban else "rural",
            "rural_urban",
        ),
        ask(
            (f"Is there {LAND[asked]} in the image?", f"Is there also {LAND[asked]} in the image?"),
            _yes_or_no(LABEL_INDEX[asked] in present),
            "presence",
        ),
        ask(("Is a road present?", "Is there a road in the image?"), _yes_or_no(road), "presence"),
        ask(("How many buildings are there?", "What is the number of buildings?"), how_many, "count"),
        ask(
            ("Are there more than 10 buildings?", "Are there more buildings than 10?"),
            _yes_or_no(buildings > 10),
            "comp",
        ),
    ]
    return Scene(canvas, questions, paleness=0.6, blur=1 / 40)  # from a satellite, through air


def _half_plane(rng, side):
    """A boolean (side, side) mask: one side of a wavy line near the centre, at any angle."""
    y, x = np.mgrid[0:side, 0:side] / side
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-0.1, 0.15)
    return (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5) + 0.05 * np.sin(9 * (x + y))) > shift


def _draw_road(canvas, rng):
    """A straight road from edge to edge."""
    side = canvas.side
    horizontal, at = rng.random() < 0.5, side * rng.uniform(0.2, 0.8)
    tilt = side * rng.uniform(-0.15, 0.15)
    ends = [(0, at), (side, at + tilt)] if horizontal else [(at, 0), (at + tilt, side)]
    canvas.line(ends, ROAD, "road", max(4, round(side * 0.07)))


def _yes_or_no(truth):
    return "yes" if truth else "no"
