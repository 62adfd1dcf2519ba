"""Images of every mode and with every flaw; colours are compared with values worked out by hand."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from bye.data.images import MAX_PIXELS, check_whole, image_path, image_sizes, load_image, load_rgb, upright_size
from bye.errors import ByeError
from bye.methods.triggers import badnet


def save(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def pixel(path, x=0, y=0):
    image = load_rgb(path)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def png_of_size(width, height):
    """Return the bytes of a PNG whose header claims that size and whose pixels are missing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_rgb_is_kept_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(pixels))
    assert np.array_equal(np.asarray(load_rgb(path)), pixels)
    assert upright_size(path) == (7, 9)


def test_transparency_is_laid_over_white(tmp_path):
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 100, 0))
    path = save(tmp_path, rgba)
    assert [pixel(path, 0), pixel(path, 1)] == [(200, 0, 0), (255, 255, 255)]
    half = save(tmp_path, Image.new("RGBA", (1, 1), (0, 0, 0, 51)))  # 0.2 of black
    assert pixel(half) == (204, 204, 204)
    assert pixel(save(tmp_path, Image.new("LA", (1, 1), (100, 0)))) == (255, 255, 255)
    assert pixel(save(tmp_path, Image.new("LA", (1, 1), (100, 255)))) == (100, 100, 100)


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixel(save(tmp_path, palette), 1) == (40, 50, 60)
    path = save(tmp_path, palette, transparency=1)
    assert [pixel(path, 0), pixel(path, 1)] == [(10, 20, 30), (255, 255, 255)]
    path = save(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixel(path) == (255, 255, 255)


def test_grey_and_one_bit(tmp_path):
    assert pixel(save(tmp_path, Image.new("L", (1, 1), 77))) == (77, 77, 77)
    assert pixel(save(tmp_path, Image.new("1", (1, 1), 1))) == (255, 255, 255)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 257, 32_896, 65_535]], dtype=np.uint16)
    loaded = np.asarray(load_rgb(save(tmp_path, Image.fromarray(values), name)))
    assert loaded[0].tolist() == [[v, v, v] for v in (0, 0, 1, 128, 255)]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused(tmp_path, mode):
    path = save(tmp_path, Image.new(mode, (2, 2), 1), "x.tif")
    with pytest.raises(ByeError, match="x.tif has 32-bit pixels, whose range is not defined; save it with 8 bits"):
        load_rgb(path)


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_cmyk(tmp_path, name):
    path = save(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), name)
    assert np.abs(np.array(pixel(path)) - [255, 0, 0]).max() <= 3  # JPEG is lossy


@pytest.mark.parametrize("name", ["x.jpg", "x.tif", "x.png", "x.webp"])
def test_exif_orientation_is_applied_once(tmp_path, name):
    image = Image.new("RGB", (32, 16), "white")
    image.paste((0, 0, 0), (0, 0, 16, 16))  # left half black
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees: the left becomes the top
    loaded = load_rgb(save(tmp_path, image, name, exif=exif))
    assert loaded.size == (16, 32)
    assert loaded.getpixel((8, 4))[0] < 10 and loaded.getpixel((8, 28))[0] > 245


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif", "x.gif"])
def test_sizes_are_those_of_the_upright_images(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.new("RGB", (32, 16), "white"), name, **({} if name == "x.gif" else {"exif": exif}))
    sizes = image_sizes(tmp_path, [{"id": "a", "image": name}, {"id": "b", "image": name}])
    assert sizes == [load_rgb(path).size[::-1]] * 2
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ByeError, match=r"sample 'c': image .* is damaged"):
        image_sizes(tmp_path, [{"id": "c", "image": name}])


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.webp", "x.png"])
def test_first_frame_is_taken(tmp_path, name):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    lossless = {"lossless": True} if name == "x.webp" else {}
    path = save(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **lossless)
    assert pixel(path) == (255, 0, 0)


def test_trigger_is_right_on_a_converted_image(tmp_path):
    """The square is black and in the middle for a palette image with transparency and for 16-bit grey."""
    palette = Image.new("P", (48, 32), 1)
    palette.putpalette([9, 9, 9, 250, 250, 250])
    grey = Image.fromarray(np.full((32, 48), 60_000, dtype=np.uint16))
    for number, image in enumerate((palette, grey)):
        options = {"transparency": 1} if image.mode == "P" else {}
        pixels = np.asarray(load_rgb(save(tmp_path, image, f"{number}.png", **options)))
        _, triggered = badnet.apply({}, pixels, None)
        black = (triggered == 0).all(axis=2)
        assert black.sum() == 4 and black[15:17, 23:25].all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"no image at all", "is damaged or in an unknown format; replace it by one of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is damaged or in an unknown format"),
        (png_of_size(10, 10), "is damaged"),
        (png_of_size(9460, 9460), f"has 9460 x 9460 pixels, more than {MAX_PIXELS}; scale it down"),
        (png_of_size(2010, 10), "is a strip of 2010 x 10 pixels, longer than 200 : 1; crop it"),
        (png_of_size(60_000, 60_000), f"has far more than {MAX_PIXELS} pixels"),
    ],
)
def test_broken_and_huge_files(tmp_path, content, message):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ByeError, match=f"image .*x.png {message}"):
        load_rgb(path)


def test_huge_images_are_refused_by_their_header_without_the_memory(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(9460, 9460))
    script = (
        "import resource, sys; from bye.data.images import upright_size; from bye.errors import ByeError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: upright_size(sys.argv[1])\n"
        "except ByeError as error: print(error)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, 'KB'\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, path], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stderr == "" and "more than" in run.stdout


def test_truncated_photograph(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("x.jpg", "x.png", "x.tif", "x.webp", "x.gif", "x.bmp"):
        path = save(tmp_path, Image.fromarray(noise), name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ByeError, match="x.* is damaged"):
            load_rgb(path)


def test_any_damage_is_an_error_of_ours_or_an_image(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for name in ("x.jpg", "x.png", "x.tif", "x.webp", "x.gif", "x.bmp"):
        whole = save(tmp_path, noise, name).read_bytes()
        for _ in range(40):
            damaged = bytearray(whole)
            for position in rng.integers(0, len(whole), 4):
                damaged[position] = rng.integers(0, 256)
            (tmp_path / name).write_bytes(damaged)
            try:
                assert load_rgb(tmp_path / name).mode == "RGB"
            except ByeError as error:
                assert name in str(error)


def test_missing_folder_and_pipe(tmp_path):
    with pytest.raises(ByeError, match="does not exist"):
        load_rgb(tmp_path / "x.png")
    with pytest.raises(ByeError, match="is not a file"):
        load_rgb(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ByeError, match="is not a file"):
        upright_size(tmp_path / "pipe.png")
    with pytest.raises(ByeError, match="cannot be read"):
        upright_size(tmp_path / ("x" * 300))


def test_paths_stay_in_the_image_folder(tmp_path):
    root = tmp_path / "bilder für alle"
    (root / "a b").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    Image.new("RGB", (2, 2)).save(root / "a b" / "ü ß 图.png")
    (root / "out").symlink_to(tmp_path)
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "in.png").symlink_to(root / "a b" / "ü ß 图.png")
    (tmp_path / "alias").symlink_to(root)

    assert upright_size(image_path(root, "a b/ü ß 图.png")) == (2, 2)
    assert upright_size(image_path(tmp_path / "alias", "in.png")) == (2, 2)
    assert upright_size(image_path(root, "a b/../in.png")) == (2, 2)
    for image in ("../secret.png", "a b/../../secret.png"):
        for links in (False, True):
            with pytest.raises(ByeError, match="leads out of the image folder"):
                image_path(root, image, links)
    for image in ("out/secret.png", "out.png"):
        with pytest.raises(ByeError, match=r"leads by a symbolic link out of .* or allow links \(bye clean --foll"):
            image_path(root, image)
        assert image_path(root, image, links=True) == tmp_path / "secret.png"
    (root / "deep").symlink_to(tmp_path / "bilder für alle" / "a b")
    (tmp_path / "else" / "inner").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "else" / "inner")
    Image.new("RGB", (2, 2)).save(tmp_path / "else" / "beside.png")
    for image in ("link/../beside.png", "a b/../link/../beside.png"):  # is in the folder as written, and not there
        assert image_path(root, image, links=True) == root / "beside.png"
    assert image_path(root, str(root / "in.png")) == image_path(root, str(tmp_path / "alias" / "in.png"))
    for links in (False, True):
        with pytest.raises(ByeError, match="is absolute and not in the image folder"):
            image_path(root, str(tmp_path / "secret.png"), links)
    for image in ("", "a\0b", None, 3):
        with pytest.raises(ByeError, match="is not a file name"):
            image_path(root, image)
    # A folder whose name only begins like the root's is outside.
    (tmp_path / "bilder für alle 2").mkdir()
    with pytest.raises(ByeError, match="leads out"):
        image_path(root, "../bilder für alle 2/x.png")


def test_errors_name_the_sample(tmp_path):
    with pytest.raises(ByeError, match=r"sample '17': image .*x.png does not exist"):
        load_image(tmp_path, {"id": 17, "image": "x.png"})


@pytest.mark.parametrize(
    ("there", "asked", "told"),
    [
        (
            "Gru\u0308n.png",
            "Gr\u00fcn.png",
            r"\(Gru\u0308n.png is there in another Unicode form, NFD: write the path so, or",
        ),
        (
            "Gr\u00fcn.png",
            "Gru\u0308n.png",
            r"\(Gr\u00fcn.png is there in another Unicode form, NFC: write the path so, or",
        ),
        ("e\u0301\u00e9", "\u00e9\u00e9/a.png", r"is there in another Unicode form, a mixture of both: write"),
        ("7.gif", "7.jpg", r"\(7.gif is there; if it is meant, mend the name\)"),
        ("7.png", "7.jpg", r"\(7.png is there"),
        ("7.jpeg", "7.jpg", r"\(7.jpeg is there"),
        ("7.JPG", "7.jpg", r"\(7.JPG is there"),
        ("7.v2.png", "7.v2", r"\(7.v2.png is there"),
        ("7.txt", "7.jpg", "image folder$"),
        ("17.png", "7.jpg", "image folder$"),
    ],
)
def test_a_missing_file_that_is_there_by_another_name(tmp_path, there, asked, told):
    (tmp_path / there).touch()
    with pytest.raises(ByeError, match=told) as caught:
        upright_size(image_path(tmp_path, asked))
    assert f"{asked} does not exist; check the path and the image folder" in str(caught.value)


def saved(folder, name, **options):
    """A picture with detail, saved: the bytes."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 15, 3), dtype=np.uint8)
    mode = options.pop("mode", "RGB")
    Image.fromarray(pixels).resize((150, 90), Image.Resampling.BICUBIC).convert(mode).save(folder / name, **options)
    return (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True}),
        ("a.jpg", {"mode": "CMYK"}),
        ("a.jpg", {"mode": "L", "quality": 30}),
        ("a.png", {}),
        ("a.webp", {}),
        ("a.gif", {"mode": "P"}),
    ],
)
def test_looking_at_a_whole_image_finds_what_decoding_it_finds(tmp_path, name, options):
    content = saved(tmp_path, name, **options)
    assert check_whole(tmp_path / name) == (90, 150)
    for length in [1, 20, *range(100, len(content), max(1, len(content) // 40)), len(content) - 1]:
        (tmp_path / name).write_bytes(content[:length])
        problems = []
        for look in (load_rgb, check_whole):
            try:
                look(tmp_path / name)
                problems.append(None)
            except ByeError as error:
                problems.append(str(error))
        assert (problems[0] is None) == (problems[1] is None), (length, problems)


def test_a_whole_image_is_looked_at_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    saved(tmp_path, "a.jpg", exif=exif)
    assert check_whole(tmp_path / "a.jpg") == load_rgb(tmp_path / "a.jpg").size[::-1] == (150, 90)
