"""Drawing surface of the mini worlds: an RGB image and, beside it, a map of what covers each pixel.

Grounds are crops of the two photographs that ship with scikit-learn, tinted; the 1,797 handwritten digits of
scikit-learn are objects among the drawn icons. The maps are used only to pre-train the mini vision towers.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

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
    *("solid", "liquid", "gas"),
    *("rain", "snowfall", "fog"),
    *("striped", "dotted", "checkered", "wavy"),
    *("building", "road"),
)
LABELS = ("none", *ICONS, *GROUNDS, *STRUCTURES)
LABEL_INDEX = {name: index for index, name in enumerate(LABELS)}
COLOR_INDEX = {name: index for index, name in enumerate(COLORS)}


@cache
def _photographs():
    """The two photographs as grey (213, 320) float32 arrays of mean 0 and standard deviation 1."""
    from sklearn.datasets import load_sample_image

    photos = []
    for name in ("china.jpg", "flower.jpg"):
        grey = np.asarray(Image.fromarray(load_sample_image(name)).convert("L").resize((320, 213)), dtype=np.float32)
        photos.append((grey - grey.mean()) / (grey.std() + 1e-6))
    return tuple(photos)


@cache
def _digits():
    """The handwritten digits, (1797, 8, 8) uint8."""
    from sklearn.datasets import load_digits

    return (load_digits().images / 16.0 * 255).astype(np.uint8)


class Canvas:
    """A square RGB image with a label map (what covers a pixel) and a colour map (which named colour it has).

    side: in pixels; ground: what lies everywhere at first; rng: a numpy Generator, for texture and shades; contrast: of
    the ground's texture. image, labels, colors: PIL images of that size; a pixel without a named colour has the value
    len(COLORS).
    """

    def __init__(self, side, ground, rng, contrast=0.12):
        self.side, self.rng = side, rng
        self.image = Image.fromarray(self._texture(ground, contrast))
        self.labels = Image.new("L", (side, side), LABEL_INDEX[ground])
        self.colors = Image.new("L", (side, side), len(COLORS))
        self._bind()

    def _bind(self):
        self._draw = (ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels), ImageDraw.Draw(self.colors))

    def _texture(self, ground, contrast):
        """A tinted crop of a photograph, (side, side, 3) uint8."""
        photo = _photographs()[self.rng.integers(2)]
        y, x = (self.rng.integers(length - self.side + 1) for length in photo.shape)
        crop = np.clip(photo[y : y + self.side, x : x + self.side], -2.2, 2.2)
        if self.rng.random() < 0.5:
            crop = crop[:, ::-1]
        tint = np.array(GROUNDS[ground], dtype=np.float32) * self.rng.uniform(0.88, 1.08)
        return np.clip(tint * (1 + contrast * crop[..., None]), 0, 255).astype(np.uint8)

    def fill(self, ground, box=None, mask=None, contrast=0.12):
        """Lay a ground over a box (x0, y0, x1, y1) or over a boolean (side, side) mask."""
        if mask is None:
            mask = np.zeros((self.side, self.side), dtype=bool)
            mask[box[1] : box[3], box[0] : box[2]] = True
        stencil = Image.fromarray(mask.astype(np.uint8) * 255)
        self.image.paste(Image.fromarray(self._texture(ground, contrast)), (0, 0), stencil)
        self.labels.paste(LABEL_INDEX[ground], (0, 0), stencil)
        self._bind()

    def _shade(self, color):
        """An RGB triple near a named colour."""
        jitter = self.rng.integers(-14, 15, size=3)
        return tuple(int(value) for value in np.clip(np.array(COLORS[color]) + jitter, 0, 255))

    def line(self, points, color, label, width):
        """Draw a line through points (x, y), in a named colour or an RGB triple; the colour map stays as it is."""
        rgb = self._shade(color) if isinstance(color, str) else color
        self._draw[0].line(points, fill=rgb, width=width)
        self._draw[1].line(points, fill=LABEL_INDEX[label], width=width)

    def polygon(self, points, color, label):
        """Draw a filled polygon through points (x, y)."""
        for draw, value in zip(self._draw, self._values(color, label), strict=True):
            draw.polygon(points, fill=value)

    def ellipse(self, box, color, label):
        """Draw a filled ellipse into a box (x0, y0, x1, y1)."""
        for draw, value in zip(self._draw, self._values(color, label), strict=True):
            draw.ellipse(box, fill=value)

    def _values(self, color, label):
        """What a shape leaves on image, label map and colour map."""
        return self._shade(color), LABEL_INDEX[label], COLOR_INDEX[color]

    def icon(self, name, color, x, y, size):
        """Draw an icon, or a handwritten digit, of edge `size` centred at (x, y), in pixels."""
        h = size / 2
        if name == "digit":
            self._digit(color, x, y, size)
        elif name == "circle":
            self.ellipse((x - h, y - h, x + h, y + h), color, name)
        else:
            for polygon in _outline(name):
                self.polygon([(x + px * h, y + py * h) for px, py in polygon], color, name)

    def _digit(self, color, x, y, size):
        samples = _digits()
        edge = max(4, round(size))
        stencil = Image.fromarray(samples[self.rng.integers(len(samples))]).resize((edge, edge), Image.BILINEAR)
        stencil = stencil.point(lambda value: min(255, value * 2))
        solid = stencil.point(lambda value: 255 if value > 110 else 0)
        left, top = round(x - size / 2), round(y - size / 2)
        box = (left, top, left + edge, top + edge)
        rgb, label, index = self._values(color, "digit")
        self.image.paste(rgb, box, stencil)
        self.labels.paste(label, box, solid)
        self.colors.paste(index, box, solid)

    def veil(self, share, value):
        """Blend the whole image with a share of a grey value, as fog does."""
        pixels = np.asarray(self.image, dtype=np.float32)
        self.image = Image.fromarray((pixels * (1 - share) + value * share).astype(np.uint8))
        self._bind()

    def blur(self, share):
        """Blur the whole image, as a lens does, by a Gaussian of standard deviation `share` of the side."""
        self.image = self.image.filter(ImageFilter.GaussianBlur(self.side * share))
        self._bind()

    def call(self, label):
        """Label every pixel: a structure that belongs to the whole picture."""
        self.labels.paste(LABEL_INDEX[label], (0, 0, self.side, self.side))

    def noise(self, scale=5.0):
        """Add sensor noise of standard deviation `scale` (of 255) to the whole image."""
        pixels = np.asarray(self.image, dtype=np.float32)
        grain = self.rng.normal(0, scale, size=(self.side, self.side, 1)).astype(np.float32)
        self.image = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
        self._bind()


@cache
def _outline(name):
    """Polygons of an icon in the unit square [-1, 1]^2."""
    if name == "square":
        return (((-1, -1), (1, -1), (1, 1), (-1, 1)),)
    if name == "triangle":
        return (((0, -1), (1, 0.9), (-1, 0.9)),)
    if name == "cross":
        return (((-0.33, -1), (0.33, -1), (0.33, 1), (-0.33, 1)), ((-1, -0.33), (1, -0.33), (1, 0.33), (-1, 0.33)))
    raise KeyError(name)
