"""Small pictures as data URIs: images, and attention as a coloured veil to be laid over them."""

import base64
import io

import numpy as np
from PIL import Image

from bye.data.images import token_box

QUALITY = 78  # of WebP
FAINT, STRONG = np.array([214, 60, 0]), np.array([255, 214, 51])  # colours of little and of much attention
VEIL = 0.8  # opacity of the strongest attention


def thumbnail(image, side):
    """Return a PIL image, scaled down to `side` pixels at most, as a data URI (WebP)."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.LANCZOS)
    return _uri(small, "webp", quality=QUALITY, method=6)


def heat(attention):
    """Return attention (rows, columns), summing to one, as a data URI: a pixel a token, to be stretched over the image.

    Opacity and colour grow with the logarithm of a token's share, from none at an even share to all at the whole: the
    veils of different samples can be compared.
    """
    share = attention * attention.size
    strength = np.log(np.maximum(share, 1)) / np.log(max(2, attention.size))  # 0 to 1
    colour = FAINT + (STRONG - FAINT) * strength[..., None]
    veil = np.concatenate([colour, 255 * VEIL * strength[..., None]], axis=2)
    return _uri(Image.fromarray(np.round(np.clip(veil, 0, 255)).astype(np.uint8)), "png", optimize=True)


def crop(image, token, grid):
    """Return the part of a PIL image around an image token, by its number in a grid of (rows, columns)."""
    top, bottom, left, right = token_box(divmod(token, grid[1]), grid, image.height, image.width)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _uri(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
