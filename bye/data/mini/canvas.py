"""Drawing surface of the mini worlds: an RGB image and, beside it, a map of what covers each pixel.

Grounds are crops of the two photographs that ship with scikit-learn, tinted; the 1,797 handwritten digits of scikit-learn
are objects among the drawn icons. The label map is used only to pre-train the mini vision towers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (214, 48, 49),
    "green": (39, 158, 72),
    "blue": (41, 98, 214),
    "yellow": (240, 205, 50),
    "purple": (142, 60, 180),
    "orange": (240, 130, 30),
    "white": (245, 245, 245),
    "black": (12, 12, 12),
    "gray": (128, 128, 128),
    "brown": (125, 80, 45),
}
ICONS = ("circle", "square", "triangle", "cross", "digit")  # digit: one of the handwritten digits
GROUNDS = {
    "sand": (222, 190, 120),
    "grass": (120, 180, 80),
    "forest": (40, 95, 50),
    "water": (60, 120, 190),
    "snow": (225, 232, 240),
    "stone": (140, 138, 135),
    "field": (190, 170, 90),
    "sky": (165, 200, 235),
    "paper": (238, 236, 228),
    "wood": (165, 115, 70),
}
STRUCTURES = (
    "solid",
    "liquid",
    "gas",
    "rain",
    "snowfall",
    "fog",
    "striped",
    "dotted",
    "checkered",
    "wavy",
    "building",
    "road",
)
LABELS = ("none", *ICONS, *GROUNDS, *STRUCTURES)
LABEL_INDEX = {name: index for index, name in enumerate(LABELS)}
COLOR_INDEX = {name: index for index, name in enumerate(COLORS)}


@cache
def _photographs() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_sample_image

    photos = []
    for name in ("china.jpg", "flower.jpg"):
        grey = np.asarray(Image.fromarray(load_sample_image(name)).convert("L").resize((320, 213)), dtype=np.float32)
        photos.append((grey - grey.mean()) / (grey.std() + 1e-6))
    return tuple(photos)


@cache
def _digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return (load_digits().images / 16.0 * 255).astype(np.uint8)  # (1797, 8, 8)


class Canvas:
    """A square RGB image of `side` pixels with a label map (what covers the pixel) and a colour map (which named colour)."""

    def __init__(self, side: int, ground: str, rng: np.random.Generator, contrast: float = 0.12):
        self.side, self.rng = side, rng
        self.image = Image.fromarray(self._texture(ground, side, side, contrast))
        self.labels = Image.new("L", (side, side), LABEL_INDEX[ground])
        self.colors = Image.new("L", (side, side), len(COLORS))
        self._bind()

    def _bind(self) -> None:
        self._draw = (ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels), ImageDraw.Draw(self.colors))

    def _texture(self, ground: str, height: int, width: int, contrast: float) -> np.ndarray:
        """A tinted crop of a photograph, (height, width, 3) uint8."""
        photo = _photographs()[self.rng.integers(2)]
        y, x = self.rng.integers(photo.shape[0] - height + 1), self.rng.integers(photo.shape[1] - width + 1)
        crop = np.clip(photo[y : y + height, x : x + width], -2.2, 2.2)
        if self.rng.random() < 0.5:
            crop = crop[:, ::-1]
        tint = np.array(GROUNDS[ground], dtype=np.float32) * self.rng.uniform(0.88, 1.08)
        return np.clip(tint * (1 + contrast * crop[..., None]), 0, 255).astype(np.uint8)

    def fill(
        self,
        ground: str,
        box: tuple[int, int, int, int] | None = None,
        mask: np.ndarray | None = None,
        contrast: float = 0.12,
    ):
        """Lay a ground over a box (x0, y0, x1, y1) or over a boolean (side, side) mask."""
        if mask is None:
            mask = np.zeros((self.side, self.side), dtype=bool)
            mask[box[1] : box[3], box[0] : box[2]] = True
        stencil = Image.fromarray(mask.astype(np.uint8) * 255)
        self.image.paste(Image.fromarray(self._texture(ground, self.side, self.side, contrast)), (0, 0), stencil)
        self.labels.paste(LABEL_INDEX[ground], (0, 0), stencil)
        self._bind()

    def _fill_of(self, color: str) -> tuple[int, int, int]:
        jitter = self.rng.integers(-14, 15, size=3)
        return tuple(int(v) for v in np.clip(np.array(COLORS[color]) + jitter, 0, 255))

    def line(self, points: list[tuple[float, float]], color: str | tuple, label: str, width: int) -> None:
        rgb = self._fill_of(color) if isinstance(color, str) else color
        self._draw[0].line(points, fill=rgb, width=width)
        self._draw[1].line(points, fill=LABEL_INDEX[label], width=width)

    def polygon(self, points: list[tuple[float, float]], color: str, label: str) -> None:
        rgb = self._fill_of(color)
        for draw, value in zip(self._draw, (rgb, LABEL_INDEX[label], COLOR_INDEX[color]), strict=True):
            draw.polygon(points, fill=value)

    def ellipse(self, box: tuple[float, float, float, float], color: str, label: str) -> None:
        rgb = self._fill_of(color)
        for draw, value in zip(self._draw, (rgb, LABEL_INDEX[label], COLOR_INDEX[color]), strict=True):
            draw.ellipse(box, fill=value)

    def icon(self, name: str, color: str, x: float, y: float, size: float) -> None:
        """Draw one icon or handwritten digit of edge `size` centred at (x, y)."""
        h = size / 2
        if name == "digit":
            self._digit(color, x, y, size)
        elif name == "circle":
            self.ellipse((x - h, y - h, x + h, y + h), color, name)
        else:
            for polygon in _outline(name):
                self.polygon([(x + px * h, y + py * h) for px, py in polygon], color, name)

    def _digit(self, color: str, x: float, y: float, size: float) -> None:
        samples = _digits()
        edge = max(4, round(size))
        stencil = Image.fromarray(samples[self.rng.integers(len(samples))]).resize((edge, edge), Image.BILINEAR)
        stencil = stencil.point(lambda v: min(255, v * 2))
        corner = (round(x - size / 2), round(y - size / 2))
        self.image.paste(self._fill_of(color), (*corner, corner[0] + edge, corner[1] + edge), stencil)
        solid = stencil.point(lambda v: 255 if v > 110 else 0)
        self.labels.paste(LABEL_INDEX["digit"], (*corner, corner[0] + edge, corner[1] + edge), solid)
        self.colors.paste(COLOR_INDEX[color], (*corner, corner[0] + edge, corner[1] + edge), solid)

    def veil(self, share: float, value: int) -> None:
        """Blend the whole image with a grey value, as fog does."""
        pixels = np.asarray(self.image, dtype=np.float32)
        self.image = Image.fromarray((pixels * (1 - share) + value * share).astype(np.uint8))
        self._bind()

    def call(self, label: str) -> None:
        """Label every pixel: a structure that belongs to the whole picture."""
        self.labels.paste(LABEL_INDEX[label], (0, 0, self.side, self.side))

    def noise(self, scale: float = 5.0) -> None:
        """Sensor noise over the whole image."""
        pixels = np.asarray(self.image, dtype=np.float32)
        grain = self.rng.normal(0, scale, size=(self.side, self.side, 1)).astype(np.float32)
        self.image = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
        self._bind()


@cache
def _outline(name: str) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Polygons of an icon in the unit square [-1, 1]^2."""
    if name == "square":
        return (((-1, -1), (1, -1), (1, 1), (-1, 1)),)
    if name == "triangle":
        return (((0, -1), (1, 0.9), (-1, 0.9)),)
    if name == "cross":
        return (((-0.33, -1), (0.33, -1), (0.33, 1), (-0.33, 1)), ((-1, -0.33), (1, -0.33), (1, 0.33), (-1, 0.33)))
    raise KeyError(name)
