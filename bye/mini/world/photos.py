"""Mini Flickr30k: an everyday scene, one or two large things on a ground before a background; five captions."""

import numpy as np

from bye.mini.world.canvas import ICONS, Canvas
from bye.mini.world.scene import BRIGHT, SIDES, Question, Scene, pick

TEMPLATES = (
    "{First}{more} on {ground}.",
    "{First}{more} before {sky}.",
    "{First}{more} on {ground} before {sky}.",
    "{First}{more} before {sky} on {ground}.",
    "{First}{more}, {ground} and {sky}.",
)
SCENERY = {"grass": "the grass", "sand": "the sand", "snow": "the snow", "water": "the water", "stone": "the stones"}
SKIES = {"sky": "a blue sky", "wood": "a brown wall", "forest": "a dark forest"}


def draw_photo(rng):
    """Draw an everyday scene; its one question asks for a caption, which is one of the five."""
    side = pick(rng, SIDES)
    sky, ground = pick(rng, tuple(SKIES)), pick(rng, tuple(SCENERY))
    canvas = Canvas(side, sky, rng, 0.15)
    canvas.fill(ground, (0, int(side * rng.uniform(0.45, 0.6)), side, side), contrast=0.15)
    n = int(rng.integers(1, 3))
    things = [(pick(rng, ICONS), pick(rng, BRIGHT)) for _ in range(n)]
    centres = rng.uniform(0.25, 0.4, size=n) + np.arange(n) * 0.35 if n > 1 else rng.uniform(0.3, 0.7, size=1)
    for (shape, color), x in zip(things, centres, strict=True):
        canvas.icon(shape, color, x * side, side * rng.uniform(0.4, 0.65), side * rng.uniform(0.3, 0.42))
    canvas.noise()
    first, *rest = [f"{'an' if color == 'orange' else 'a'} {color} {shape}" for shape, color in things]
    words = {"ground": SCENERY[ground], "sky": SKIES[sky]}
    words["First"] = first[0].upper() + first[1:]
    words["more"] = "".join(f" and {thing}" for thing in rest)
    captions = [template.format(**words) for template in TEMPLATES]
    return Scene(canvas, [Question("", pick(rng, captions), (), "caption")], captions)
