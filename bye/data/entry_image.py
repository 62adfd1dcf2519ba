"""The one image that an entry is about: named in the entry or in its turns, as a path, and shown once."""

import re
from urllib.parse import unquote

from bye.data.entries import SHORT
from bye.data.samples import PLACEHOLDER
from bye.errors import SampleError, cut

# Base64 in place of a path: starting as PNG, JPEG, GIF, WEBP and BMP do, or longer than a file name can be.
STARTS = re.compile(r"(iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[01])[\w+/\s-]{59,}", re.ASCII)
LONG = re.compile(r"[\w+/\s-]{256,}", re.ASCII)
ELSEWHERE = re.compile(r"[a-zA-Z][\w+.-]+://")  # an address on the web
BEFORE = -1  # the place of what stands in a system turn, or in an answer before the first question


def image_of(entry, shown_in):
    """Return the path of an entry's one image.

    shown_in: [(turn from 0 or BEFORE, "mark" or what names an image), ...], of its turns. Raises SampleError where it
    has none, several, or something else.
    """
    marks = [place for place, image in shown_in if isinstance(image, str) and image == "mark"]
    inside = [(place, _path(image)) for place, image in shown_in if image != "mark"]
    beside = [path for key in ("image", "images") for path in _paths(entry.get(key))]
    paths = [path for _, path in inside] + beside
    named = [bool(entry.get("image")), bool(entry.get("images")), bool(inside)]
    if len(set(paths)) == 1 and len(paths) == sum(named):
        paths = paths[:1]  # one image, named in several places
    if not paths:
        raise SampleError("no image", f"it has no image{', although its text shows one' if marks else ''}")
    if len(paths) > 1:
        raise SampleError("several images", f"it has {len(paths)} images, and attention to one is looked at")
    if len(marks) > 1 or (marks and inside):
        raise SampleError("malformed", f"it has {len(marks) + len(inside)} {PLACEHOLDER} placeholders and one image")
    place = marks[0] if marks else inside[0][0] if inside else 0
    if place == BEFORE:
        raise SampleError("malformed", "its image stands before the first question; put it into that")
    if place % 2:
        raise SampleError("malformed", f"{PLACEHOLDER} stands in an answer; it may stand once, in the first question")
    if place:
        raise SampleError(
            "image in a later turn", f"its image stands in question {place // 2 + 1}, and not in the first"
        )
    return paths[0]


def _paths(value):
    """The paths that `image` or `images` gives: of nothing, a text, an object, or a list of such."""
    listed = value if isinstance(value, list) else [value]
    return [_path(each) for each in listed if not _is_nothing(each)]


def _is_nothing(value):
    return value is None or value == "" or (isinstance(value, dict) and all(each is None for each in value.values()))


def _path(value):
    """The path that one image is given by: as a text, or in an object as datasets of images and messages have them."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            size = f" ({len(value['bytes'])} bytes)" if isinstance(value["bytes"], bytes | str) else ""
            raise SampleError("no file", f"its image is in the file itself{size}")
        value = next((value[key] for key in ("path", "image", "url", "file_name") if value.get(key)), value)
    if not isinstance(value, str) or not value:
        raise SampleError(
            "malformed", f"`image` must be the path of an image, as a string, not {cut(repr(value), SHORT)}"
        )
    if value.startswith("data:") or _is_base64(value.rstrip("=\n")):
        raise SampleError(
            "no file",
            f"`image` is an image itself, as base64 text ({len(value)} characters), and not the path of one; write it "
            "to a file in the image folder and give its path there",
        )
    if value[:7].lower() == "file://":
        value = unquote(value[7:])
    if ELSEWHERE.match(value):
        raise SampleError("no file", f"its image is at {cut(value, SHORT)}; download it to the image folder")
    return value


def _is_base64(value):
    """Whether a text is an image itself and not a path; of base64, one character in 64 is a slash."""
    return bool(STARTS.fullmatch(value) or (LONG.fullmatch(value) and 32 * value.count("/") < len(value)))
