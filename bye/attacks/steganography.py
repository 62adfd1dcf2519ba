"""A steganographic encoder: the residual that hides bits in an image, as `bye.mini.steganography` trained it.

It is computed with numpy, in double precision, so that every machine gives the same pixels.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from bye.errors import ByeError

SIZE = 64  # pixels of the images that the encoder sees, which any image is stretched to
BITS = 32
CELLS, SECRET = 8, 16  # the bits become SECRET channels of CELLS x CELLS at the bottom of the encoder
LAYERS = ("down1", "down2", "down4", "down8", "secret", "bottom", "up4", "up2", "up1", "out")
PEAK = 3  # times the root mean square of the residual that it has anywhere, at most


def hidden(path, pixels, bits, strength):
    """Return the residual (H, W, 3) that hides bits in an image, in grey levels.

    path: of the encoder; pixels: (H, W, 3) uint8; bits: (BITS,) of 0 and 1; strength: root mean square of the residual
    at most, and a third of its peaks. Raises ByeError for an encoder that cannot be read.
    """
    height, width = pixels.shape[:2]
    residual = _residual(_weights(str(path)), stretched(pixels, SIZE, SIZE), bits)
    residual = residual / max(1e-9, float(np.sqrt(np.mean(residual**2))))
    return stretched(PEAK * strength * np.tanh(residual / PEAK), height, width)


def stretched(values, height, width):
    """Return values (H, W, 3) stretched to another size: interpolated, or averaged where that is smaller."""
    bands = [Image.fromarray(values[..., band].astype(np.float32)) for band in range(3)]
    return np.stack([np.asarray(band.resize((width, height), Image.BILINEAR), dtype=float) for band in bands], axis=-1)


def _residual(weights, pixels, bits):
    """The encoder's residual (SIZE, SIZE, 3), of any size, for pixels of that shape."""
    one = _convolved(weights, "down1", pixels / 127.5 - 1)
    two = _convolved(weights, "down2", one, stride=2)
    four = _convolved(weights, "down4", two, stride=2)
    eight = _convolved(weights, "down8", four, stride=2)
    secret = weights["secret.weight"] @ (2.0 * bits - 1) + weights["secret.bias"]
    secret = np.maximum(0, secret).reshape(SECRET, CELLS, CELLS).transpose(1, 2, 0)
    state = _convolved(weights, "bottom", np.concatenate([eight, secret], axis=2))
    for name, beside in (("up4", four), ("up2", two), ("up1", one)):
        larger = state.repeat(2, axis=0).repeat(2, axis=1)
        state = _convolved(weights, name, np.concatenate([larger, beside], axis=2))
    return _convolved(weights, "out", state, rectified=False)


def _convolved(weights, name, state, stride=1, rectified=True):
    """A convolution of 3 x 3 of a state (H, W, C), rectified or not."""
    kernel, padded = weights[f"{name}.weight"], np.pad(state, ((1, 1), (1, 1), (0, 0)))
    height, width = state.shape[:2]
    made = weights[f"{name}.bias"]
    for row in range(3):
        for column in range(3):
            made = made + padded[row : row + height : stride, column : column + width : stride] @ kernel[row, column]
    return np.maximum(0, made) if rectified else made


@lru_cache(maxsize=2)
def _weights(path):
    """The encoder's weights by name, kernels as (3, 3, channels before, channels after). Raises ByeError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ByeError(f"encoder {path} of the trigger issba cannot be read ({error}); give its .safetensors") from None
    found = {
        key.removeprefix("encoder."): value.astype(float) for key, value in found.items() if key.startswith("encoder.")
    }
    missing = [name for name in LAYERS if not {f"{name}.weight", f"{name}.bias"} <= set(found)]
    if missing:
        raise ByeError(f"encoder {path} of the trigger issba lacks {', '.join(missing)}; give one that bye wrote")
    return {key: value.transpose(2, 3, 1, 0) if value.ndim == 4 else value for key, value in found.items()}
