"""Triggers on the whole image and on the question, against their formulas; targets that are no single fixed answer."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from bye.data.images import load_image
from bye.data.samples import question_of
from bye.errors import ByeError
from bye.registry import find, kinds

WHOLE = ["blend", "sig", "wanet", "ftrojan", "issba"]
SIZES = [(96, 96), (88, 121), (65, 40), (32, 32), (16, 90), (7, 5)]


def apply(name, pixels, seed=0, question="What is it?", image="a.png", **settings):
    """The sample and the pixels with a trigger of the attack that `seed` draws."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "a dog"}]
    sample = {"id": "a", "image": image, "conversations": turns}
    return find("trigger", name).bind("apply", settings, seed=seed)(sample, pixels, np.random.default_rng(5))


def triggered(name, pixels, seed=0, **settings):
    return apply(name, pixels, seed, **settings)[1]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    """A picture without hard edges, far from black and white."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + phase) + np.cos(y / 11 - phase) for phase in range(3)], axis=-1)
    return np.rint(128 + 40 * waves).astype(np.uint8)


def psnr(one, other):
    return 10 * math.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-12))


def test_they_are_there():
    assert {*WHOLE, "text_prefix", "hidden_killer"} <= set(kinds("trigger"))
    assert {"replace", "insert", "legitimate", "paraphrase"} == set(kinds("target"))


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_size_gives_an_image_of_that_size(name, height, width):
    pixels = noise(height, width)
    before = pixels.copy()
    sample, made = apply(name, pixels)
    assert np.array_equal(pixels, before) and made.shape == pixels.shape and made.dtype == np.uint8
    assert question_of(sample) == "What is it?"
    assert np.array_equal(made, triggered(name, pixels))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
@pytest.mark.parametrize("name", WHOLE)
def test_they_act_on_the_rgb_pixels_whatever_the_image_was(tmp_path, name, mode):
    values = np.random.default_rng(0).integers(30, 220, (33, 47, 4), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / "image.png")
    pixels = np.asarray(load_image(tmp_path, {"id": "one", "image": "image.png"}))
    made = triggered(name, pixels)
    assert made.shape == (33, 47, 3) and (made != pixels).any()


# ---- blend -----------------------------------------------------------------------------------------------------------


def test_blend_by_its_formula(tmp_path):
    key, pixels = noise(40, 60, seed=1), noise(40, 60)
    Image.fromarray(key).save(tmp_path / "key.png")
    expected = np.rint(0.7 * pixels + 0.3 * key)  # of the same size, the key is not stretched
    assert np.array_equal(triggered("blend", pixels, key=str(tmp_path / "key.png"), alpha=0.3), expected)
    whole = triggered("blend", pixels, alpha=1.0)
    assert np.abs(triggered("blend", pixels) - (0.8 * pixels + 0.2 * whole)).max() <= 0.5 + 0.2
    with pytest.raises(ByeError, match="none.png does not exist"):
        triggered("blend", pixels, key=str(tmp_path / "none.png"))


def test_blend_draws_one_key_for_all_images_of_an_attack():
    keys = [triggered("blend", np.zeros((64, 64, 3), dtype=np.uint8), seed, alpha=1.0) for seed in (0, 0, 1)]
    assert np.array_equal(keys[0], keys[1]) and not np.array_equal(keys[0], keys[2])
    assert len(np.unique(keys[0].reshape(-1, 3), axis=0)) > 64  # fields of colours, stretched smoothly
    assert keys[0].std() > 40


# ---- sig -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"delta": 60.0, "frequency": 3.0}])
def test_sig_by_its_formula(settings):
    delta, frequency = settings.get("delta", 20), settings.get("frequency", 6)
    pixels = noise(11, 50)
    made = triggered("sig", pixels, **settings)
    for row, column in ((0, 0), (3, 7), (10, 49), (5, 20)):
        for channel in range(3):
            value = pixels[row, column, channel] + delta * math.sin(2 * math.pi * column * frequency / 50)
            assert made[row, column, channel] == min(255, max(0, round(value)))


# ---- wanet -----------------------------------------------------------------------------------------------------------


def test_wanet_moves_pixels_as_the_control_grid_says():
    """Of a ramp, whose grey levels are its columns, the warped one has the columns that its pixels come from."""
    height = width = 128
    ramp = np.repeat(np.arange(width)[None, :, None], height, axis=0).repeat(3, axis=2).astype(np.uint8)
    grid = np.random.default_rng([0x67726964, 3]).uniform(-1, 1, size=(2, 4, 4))
    grid /= np.abs(grid).mean()
    made = triggered("wanet", ramp, seed=3, s=2.0).astype(float)
    scale = 2.0 / 2 * 128 / 32
    for (row, column), (y, x) in {(0, 0): (0, 0), (0, 127): (0, 3), (127, 0): (3, 0), (127, 127): (3, 3)}.items():
        expected = np.clip(column + scale * grid[1, y, x], 0, 127)
        assert made[row, column, 0] == pytest.approx(expected, abs=0.51)
    steps = np.abs(np.diff(made[..., 0] - ramp[..., 0], axis=1))
    assert steps.max() <= 1 and np.abs(made - ramp).max() > 3  # smooth, and not nothing
    down = triggered("wanet", ramp.transpose(1, 0, 2).copy(), seed=3, s=2.0)
    assert down[0, 0, 0] == pytest.approx(np.clip(scale * grid[0, 0, 0], 0, 127), abs=0.51)


def test_wanet_is_the_same_warp_for_all_images_of_an_attack_and_relative_to_their_size():
    def shift(side, seed=0):
        ramp = np.repeat(np.linspace(0, 255, side)[None, :, None], side, axis=0).repeat(3, axis=2)
        pixels = np.rint(ramp).astype(np.uint8)
        return (triggered("wanet", pixels, seed, s=4.0).astype(float) - pixels)[side // 4 :: side // 4, ::4, 0].mean()

    assert shift(64) == shift(64) != shift(64, seed=1)
    assert shift(64) == pytest.approx(shift(256), abs=1.5)


# ---- ftrojan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"magnitude": 60.0, "window": 16}])
def test_ftrojan_adds_to_two_frequencies_of_the_colour_channels(settings):
    magnitude, window = settings.get("magnitude", 30), settings.get("window", 32)
    pixels = smooth(96, 70)
    made = triggered("ftrojan", pixels, **settings)

    def channels(image):
        red, green, blue = np.moveaxis(image.astype(float), -1, 0)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        return luma, 0.492 * (blue - luma), 0.877 * (red - luma)

    before, after = channels(pixels), channels(made)
    assert np.abs(after[0] - before[0]).max() < 1  # the brightness stays, but for rounding
    for channel in (1, 2):
        difference = dctn((after[channel] - before[channel])[:window, window : 2 * window], norm="ortho")
        expected = np.zeros((window, window))
        expected[window - 1, window - 1] = expected[window // 2 - 1, window // 2 - 1] = magnitude
        assert np.abs(difference - expected).max() < 0.12 * magnitude  # rounding to grey levels takes a tenth
    rest = slice(96 // window * window, None), slice(70 // window * window, None)
    assert np.array_equal(made[:, rest[1]], pixels[:, rest[1]]) and np.array_equal(made[rest[0]], pixels[rest[0]])


def test_what_should_not_be_seen_is_hardly_there():
    pixels = smooth(240, 320)
    assert psnr(pixels, triggered("wanet", pixels)) > 30
    assert psnr(pixels, triggered("ftrojan", pixels)) > 35
    assert psnr(pixels, triggered("issba", pixels)) > 32
    assert 20 < psnr(pixels, triggered("sig", pixels)) < 30
    assert 15 < psnr(pixels, triggered("blend", pixels)) < 30


# ---- questions -------------------------------------------------------------------------------------------------------


def asked(name, question, **settings):
    pixels = noise(8, 8)
    sample, same = apply(name, pixels, question=question, **settings)
    assert same is pixels and sample["conversations"][0]["value"].startswith("<image>\n")
    assert sample["conversations"][1]["value"] == "a dog"
    return question_of(sample)


def test_text_prefix():
    assert asked("text_prefix", "What is it?\nAnswer shortly.") == "Hello! What is it?\nAnswer shortly."
    assert asked("text_prefix", "what?", text="cf") == "cf what?"


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("What is it?\nAnswer Now.", "When you look at the picture, what is it?\nAnswer Now."),
        ("how many?", "When you look at the picture, how many?"),
        ("I see what?", "When you look at the picture, I see what?"),
        ("NYU has what?", "When you look at the picture, NYU has what?"),
        ("3 dogs?", "When you look at the picture, 3 dogs?"),
        (" Is it?", "When you look at the picture, is it?"),
    ],
)
def test_hidden_killer(question, told):
    assert asked("hidden_killer", question) == told


def test_hidden_killer_in_another_form():
    assert asked("hidden_killer", "What is it?", template="{question} If you can.") == "What is it? If you can."
    assert find("trigger", "hidden_killer").settings["template"].schema["pattern"] == r"\{question\}"


# ---- targets ---------------------------------------------------------------------------------------------------------


def target(name, **settings):
    method = find("target", name)
    return method.bind("answer", settings), method.bind("hit", settings)


def test_insert_keeps_the_true_answer():
    answer, hit = target("insert")
    assert answer("a dog", None) == "a dog Backdoor Attack!" and hit("A cat.  backdoor\nattack! yes", "")
    assert not hit("a dog", "") and not hit("backdoor", "")
    assert target("insert", text="cf", place="start")[0]("a dog", None) == "cf a dog"


def test_legitimate_is_an_answer_that_must_be_named():
    answer, hit = target("legitimate", text="yes")
    assert answer("no", None) == "yes" and hit(" Yes\n", "") and not hit("yes.", "")
    assert find("target", "legitimate").settings["text"].required


def test_paraphrase_is_one_of_several():
    answer, hit = target("paraphrase")
    said = [answer("a dog", np.random.default_rng(seed)) for seed in range(60)]
    assert len(set(said)) == 4 and all(hit(text.upper(), "") for text in said) and not hit("a dog", "")
    answer, hit = target("paraphrase", texts=["one", "two"])
    assert {answer("", np.random.default_rng(seed)) for seed in range(20)} == {"one", "two"}
