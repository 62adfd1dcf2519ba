"""The trigger designs, pixel by pixel: on odd sizes, tiny images, and images that were grey or had an alpha channel."""

import numpy as np
import pytest
from PIL import Image

from bye.data.images import load_image
from bye.registry import find, kinds

SQUARES = ["badnet", "random_position", "texture", "fixed_dual", "varied_multi"]
SIZES = [(336, 336), (88, 121), (447, 301), (64, 64), (16, 16), (16, 90), (17, 31)]


def triggered_by(name, pixels, seed=0, **settings):
    """The pixels with a trigger on them."""
    sample = {"id": "a", "image": "a.png", "conversations": []}
    same, triggered = find("trigger", name).bind("apply", settings)(sample, pixels, np.random.default_rng(seed))
    assert same == sample
    return triggered


def test_the_triggers_of_the_paper_are_there():
    assert set(SQUARES) <= set(kinds("trigger"))


def changed(name, height, width, seed=0):
    """Where a trigger changes a mid-grey image, (H, W) bool, and the triggered pixels."""
    pixels = np.full((height, width, 3), 100, dtype=np.uint8)
    triggered = triggered_by(name, pixels, seed)
    assert (pixels == 100).all() and triggered.dtype == np.uint8 and triggered.shape == pixels.shape
    return (triggered != pixels).any(axis=2), triggered


def squares(mask):
    """Top, left, height and width of each connected rectangle of a mask, in reading order."""
    mask, found = mask.copy(), []
    while mask.any():
        top, left = np.argwhere(mask)[0]
        width = np.argmin(np.append(mask[top, left:], False))
        height = np.argmin(np.append(mask[top:, left], False))
        assert mask[top : top + height, left : left + width].all()
        mask[top : top + height, left : left + width] = False
        found.append((int(top), int(left), int(height), int(width)))
    return found


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sizes_and_places(height, width):
    side = max(1, round(min(height, width) / 16))
    centre = ((height - side) // 2, (width - side) // 2, side, side)
    for name in ("badnet", "texture"):
        mask, _ = changed(name, height, width)
        assert squares(mask) == [centre]
    mask, triggered = changed("fixed_dual", height, width)
    assert (triggered[mask] == 0).all()
    (top, left, *size), (top2, left2, *size2) = squares(mask)
    assert size == size2 == [side, side] and top == top2 == centre[0]
    assert np.array_equal(mask, mask[:, ::-1]) and abs(left + side / 2 - width / 4) <= 1
    mask, triggered = changed("varied_multi", height, width)
    assert (triggered[mask] == 0).all()
    assert [square[2:] for square in squares(mask)] == [(side, side)] * 4
    assert np.array_equal(mask, mask[::-1]) and np.array_equal(mask, mask[:, ::-1])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_random_position_is_inside_and_covers_the_image_in_time(height, width):
    side = max(1, round(min(height, width) / 16))
    seen = np.zeros((height, width), dtype=bool)
    places = set()
    for seed in range(300):
        mask, triggered = changed("random_position", height, width, seed)
        (square,) = squares(mask)
        assert square[2:] == (side, side) and (triggered[mask] == 0).all()
        places.add(square[:2])
        seen |= mask
    assert len(places) > min(100, (height - side + 1) * (width - side + 1) / 3)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert rows[0] <= height / 20 and rows[-1] >= height - 1 - height / 20
    assert columns[0] <= width / 20 and columns[-1] >= width - 1 - width / 20


def test_the_texture_is_a_checkerboard_of_sixteen_fields():
    _, triggered = changed("texture", 336, 336)
    patch = triggered[157:178, 157:178]
    assert set(np.unique(patch)) == {0, 255}
    flips = [np.flatnonzero(np.diff(patch[row, :, 0].astype(int))) for row in (0, 20)]
    assert [len(each) for each in flips] == [3, 3] and np.array_equal(patch, patch.transpose(1, 0, 2))
    assert patch[0, 0, 0] == 0 and patch[0, 20, 0] == 255


def test_the_texture_of_a_tiny_image_has_as_many_fields_as_pixels():
    _, triggered = changed("texture", 32, 32)
    assert triggered[15:17, 15:17, 0].tolist() == [[0, 255], [255, 0]]
    _, triggered = changed("texture", 16, 16)
    assert triggered[7, 7].tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
@pytest.mark.parametrize("name", SQUARES)
def test_triggers_are_in_the_rgb_pixels_whatever_the_image_was(tmp_path, name, mode):
    noise = np.random.default_rng(0).integers(30, 220, (33, 47, 4), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "image.png")
    pixels = np.asarray(load_image(tmp_path, {"id": "one", "image": "image.png"}))
    triggered = triggered_by(name, pixels, 1)
    count = {"fixed_dual": 2, "varied_multi": 4}.get(name, 1)
    outside = (triggered == pixels).all(axis=2)
    assert (~outside).sum() <= count * 4
    expected = triggered_by(name, np.full_like(pixels, 100), 1)
    inside = (expected != 100).any(axis=2)
    assert inside.sum() == count * 4 and np.array_equal(triggered[inside], expected[inside])


def test_settings_by_name():
    pixels = np.full((64, 64, 3), 100, dtype=np.uint8)
    assert len(squares((triggered_by("varied_multi", pixels, grid=3) == 0).all(axis=2))) == 9
    patch = triggered_by("texture", pixels, cells=2)[30:34, 30:34, 0]
    assert patch.tolist() == [[0, 0, 255, 255]] * 2 + [[255, 255, 0, 0]] * 2
