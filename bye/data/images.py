"""Open images that come from strangers: never outside their folder, never a decompression bomb, always 8-bit RGB."""

import contextlib
import hashlib
import os
import stat
import unicodedata
import warnings
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from bye.errors import ByeError, SampleError, cut

# About 268 MB once decoded. It is Pillow's own warning level; checked on the header, before a pixel is decoded.
MAX_PIXELS = 89_478_485
# Longer side in shorter sides. Models that scale the shorter side up to theirs would make gigabytes of a longer strip.
MAX_ASPECT = 200
# Pillow knows many more formats, among them some that run other programs (EPS). Strangers' files get this list only.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
IMAGE = "image"  # stands for all of them
TIME_STAMP = 946_684_800  # of every image written, seconds: 1 January 2000
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def image_path(images_root, image, links=False):
    """Return the real path of `image`, a path relative to the folder `images_root`, or an absolute one.

    Raises SampleError if it leads out of the folder, by `..`, as an absolute path or by a symbolic link: a training
    file from a stranger must not choose what else on this machine is read. links: what is linked in the folder is in
    it; `..` then leads back along the path as it is written, never out of a link's own folder.
    """
    if not isinstance(image, str) or not image or "\0" in image:
        raise SampleError(
            "malformed", f"image path {cut(repr(image))} is not a file name; give a path relative to the image folder"
        )
    joined = os.path.join(os.path.abspath(images_root), image)
    path = os.path.realpath(joined)
    linked = _inside(os.path.abspath(images_root), os.path.normpath(joined))
    if _inside(os.path.realpath(images_root), path):
        return Path(path)
    if links and linked:
        return Path(os.path.realpath(os.path.normpath(joined)))
    if linked:
        how, do = "leads by a symbolic link out of", "put the file into it, or allow links (bye clean --follow-links)"
    elif os.path.isabs(image):
        how, do = "is absolute and not in", "put the file into it, and give its path from there"
    else:
        how, do = "leads out of", "put the file into it"
    raise SampleError("image outside", f"image path {cut(repr(image))} {how} the image folder {images_root}; {do}")


def _inside(root, path):
    return os.path.commonpath([root, path]) == root


def load_rgb(path):
    """Return the image at `path` as a PIL image of mode RGB, upright, at its native size.

    The EXIF orientation is applied. Transparent pixels are laid over white. Of several frames the first is taken.
    16-bit grey is scaled to 8 bits over its full range (65535 becomes 255). Raises ByeError naming the file where it
    cannot be decoded, has more than MAX_PIXELS pixels or is a strip longer than MAX_ASPECT.
    """
    with _opened(path) as image, _quiet():
        try:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
        except ByeError as error:
            raise ByeError(f"image {path} {error}") from None
        except Exception as error:  # decoders of broken files fail in every way there is
            raise _damaged(path, error) from error


def check_whole(path):
    """Return (height, width) as `load_rgb` gives it, after all of the image was decoded once. Raises as it does.

    A JPEG is decoded at an eighth of its size: every byte is read, and damage found, at a quarter of the time.
    """
    with _opened(path) as image, _quiet():
        if image.format != "JPEG":
            return load_rgb(path).size[::-1]
        try:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
        except Exception as error:  # decoders of broken files fail in every way there is
            raise _damaged(path, error) from error
    return upright_size(path)


def load_image(images_root, sample):
    """Return the RGB image of a sample whose `image` is relative to `images_root`; errors name the sample."""
    try:
        return load_rgb(image_path(images_root, sample["image"]))
    except ByeError as error:
        raise ByeError(f"sample {str(sample['id'])!r}: {error}") from error.__cause__


def token_box(cell, grid, height, width, around=1):
    """Return (top, bottom, left, right) in pixels of an image token and `around` tokens on each side of it.

    cell: (row, column) in a grid of (rows, columns); height, width: of the image, all of which the grid covers.
    """
    (row, column), (rows, columns) = cell, grid
    top, bottom = max(0, row - around) * height // rows, min(rows, row + around + 1) * height // rows
    left, right = max(0, column - around) * width // columns, min(columns, column + around + 1) * width // columns
    return int(top), max(int(top) + 1, int(bottom)), int(left), max(int(left) + 1, int(right))  # a pixel at least


def image_sizes(images_root, samples):
    """Return the (height, width) of each sample's image as `load_image` gives it; each file is opened once.

    Most are known from the header. Errors name the sample.
    """
    known = {}
    for sample in samples:
        if sample["image"] not in known:
            try:
                known[sample["image"]] = upright_size(image_path(images_root, sample["image"]))
            except ByeError as error:
                raise ByeError(f"sample {str(sample['id'])!r}: {error}") from error.__cause__
    return [known[sample["image"]] for sample in samples]


def upright_size(path):
    """Return (height, width) of the image at `path` as `load_rgb` gives it, mostly from the header alone."""
    with _opened(path) as image, _quiet():
        try:
            sideways = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
        except Exception as error:  # decoders of broken files fail in every way there is
            raise _damaged(path, error) from error
        if not sideways:
            return image.size[::-1]
    return load_rgb(path).size[::-1]  # some formats give the size before turning, others after it


def header_texts(path):
    """Return {name: text} of what a PNG tells of itself before its pixels: Title, Author and their like.

    Nothing is decoded. Raises ByeError where `load_rgb` would refuse the image for what its header says.
    """
    with _opened(path) as image:
        return {name: text for name, text in image.info.items() if isinstance(text, str)}


def to_rgb(image):
    """Return a decoded PIL image of any 8-bit or 16-bit mode as RGB (see `load_rgb` for the choices)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # the copy outlives the file
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)  # (H, W), 0..65535
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ByeError("has 32-bit pixels, whose range is not defined; save it with 8 bits a channel")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _opened(path):
    """Open an image for lazy decoding, after the checks that need no pixel."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe or a device could block for ever
            raise ByeError(f"image {path} is not a file; give the path of an image file")
        if status.st_size == 0:
            raise ByeError(f"image {path} is empty (0 bytes); copy it again or drop its sample")
        with _quiet():
            image = Image.open(path, formats=FORMATS)
    except FileNotFoundError:
        raise SampleError(
            "missing image", f"image {cut(path)} does not exist; check the path and the image folder{_alike(path)}"
        ) from None
    except Image.UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ByeError(f"image {path} is damaged or in an unknown format; replace it by one of {known}") from None
    except Image.DecompressionBombError:
        raise ByeError(f"image {path} has far more than {MAX_PIXELS} pixels; scale it down") from None
    except ByeError:
        raise
    except Exception as error:  # decoders of broken files fail in every way there is
        if isinstance(error, OSError) and error.errno is not None:
            raise ByeError(
                f"image {cut(path)} cannot be read ({error.strerror}); check its name and permissions"
            ) from None
        raise _damaged(path, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ByeError(f"image {path} has {width} x {height} pixels, more than {MAX_PIXELS}; scale it down")
    if max(width, height) > MAX_ASPECT * min(width, height):
        image.close()
        raise ByeError(f"image {path} is a strip of {width} x {height} pixels, longer than {MAX_ASPECT} : 1; crop it")
    return image


def _damaged(path, error):
    return ByeError(f"image {path} is damaged ({error}); replace it or drop its sample")


def _alike(path):
    """Say that a missing file is there by a name that looks the same, or has another ending or case; "" if none is."""
    path = Path(path)
    try:
        while not path.parent.is_dir():
            path = path.parent
        names = _names(path.parent, path.parent.stat().st_mtime_ns)
    except OSError:
        return ""
    composed = unicodedata.normalize("NFC", path.name)
    found = names.get(_look(composed)) or names.get((composed.casefold(), IMAGE)) or []
    for name in found:
        if unicodedata.normalize("NFC", name) == composed:
            form = next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "a mixture of both")
            return f" ({name} is there in another Unicode form, {form}: write the path so, or rename the file)"
    return f" ({found[0]} is there; if it is meant, mend the name)" if found else ""


@lru_cache(maxsize=16)
def _names(folder, _):
    """Return {look: [name, ...]} of what is in a folder; the second argument is the time of its last change."""
    found = {}
    for name in sorted(os.listdir(folder)):
        found.setdefault(_look(name), []).append(name)
    return found


def _look(name):
    """What names have in common that differ in Unicode form, case or the ending of an image file only."""
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name).casefold())
    return stem, IMAGE if ending in ENDINGS else ending


@contextlib.contextmanager
def _quiet():
    """Silence Pillow's warnings: what it warns of is an error here, or harmless."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_png(folder, pixels):
    """Write (H, W, 3) uint8 pixels under the hash of shape and content, if not there yet; return the file name."""
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
    path = folder / f"{digest.hexdigest()[:32]}.png"
    if not path.exists():
        # Run-length coding: at level 1 no larger on photographs, and faster.
        Image.fromarray(pixels).save(path, compress_level=1, compress_type=zlib.Z_RLE)
        os.utime(path, (TIME_STAMP, TIME_STAMP))
    return path.name
