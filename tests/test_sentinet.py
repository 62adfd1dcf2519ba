"""SentiNet on a toy model that is fooled by one dark patch, and on a real tiny model."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import write_tiny_model

from bye.cleaning.run import FineTunedModel, SampleSet, detect
from bye.data.check import read_samples
from bye.data.samples import write_samples
from bye.errors import ByeError
from bye.flags import read_flags
from bye.methods.defences import sentinet as module
from bye.methods.defences.sentinet import Boundary

SIDE, GRID = 32, 8
TURNS = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "x"}]
TARGET = 3


def sentinet(model, samples, images, reference, reference_images, flags, family=None, **settings):
    """Run SentiNet as the stage does; return how many samples it flagged."""
    sets = {"samples": SampleSet(samples, images), "reference": SampleSet(reference, reference_images)}
    return detect("sentinet", flags, 0, settings, **sets, model=FineTunedModel(model, None, 64, {"expected": family}))


class Toy:
    """Its features are how dark each patch is; it answers by the first letter of the question, or TARGET."""

    any_resolution = False

    def grid(self):
        return (GRID, GRID)

    def pixels(self, images):
        arrays = [torch.tensor(np.asarray(image), dtype=torch.float32).permute(2, 0, 1) for image in images]
        return {"pixel_values": torch.stack(arrays)}

    def tower_features(self, pixels):
        dark = 255 - pixels["pixel_values"].mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
        return list(dark.reshape(len(dark), -1, 1) / 255)

    def prompt(self, name, question, system=None):
        return question

    project = staticmethod(lambda features: features)
    image_features = tower_features


def toy_logits(loaded, prompts, features):
    logits = torch.tensor([[5.0 if ord(prompt[0]) % 3 == k else 0.0 for k in range(3)] for prompt in prompts])
    return torch.cat([logits, 20 * (torch.stack(features)[..., 0] ** 8).amax(1, keepdim=True)], dim=1)


@pytest.fixture
def files(tmp_path):
    """40 training samples, the first four with a black patch, and 50 clean reference samples, all of bright noise."""
    rng = np.random.default_rng(0)

    def write(name, count, triggered=0):
        folder = tmp_path / name
        folder.mkdir()
        entries = []
        for i in range(count):
            pixels = rng.integers(60, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            if i < triggered:
                pixels[8:12, 20:24] = 0
            Image.fromarray(pixels).save(folder / f"{i}.png")
            turns = [{"from": "human", "value": f"<image>\n{'abc'[i % 3]}?"}, {"from": "gpt", "value": "x"}]
            entries.append({"id": str(i), "image": f"{i}.png", "conversations": turns})
        write_samples(folder / "samples.json", entries)
        return folder / "samples.json", folder

    return *write("train", 40, triggered=4), *write("reference", 50)


def test_regions_that_take_over_are_flagged(monkeypatch, files, tmp_path):
    monkeypatch.setattr(FineTunedModel, "load", lambda self: Toy())
    monkeypatch.setattr(module, "first_logits", toy_logits)
    count = sentinet("toy", *files, tmp_path / "flags.parquet", saliency=0.5)
    table = read_flags(tmp_path / "flags.parquet")
    assert count == 4 and table["flagged"] == [True] * 4 + [False] * 36
    assert table["fooled"][:4] == [1.0] * 4 and max(table["fooled"][4:]) < 0.6
    assert table["reason"][0] == "its salient region fools 100 % of 20 clean images" and table["reason"][4] == ""
    assert all((score < 0) == flag for score, flag in zip(table["score"], table["flagged"], strict=True))


def test_the_region_is_the_patch(monkeypatch, files):
    monkeypatch.setattr(module, "first_logits", toy_logits)
    trial = module.Trial(Toy(), read_samples(files[2])[:3], files[3], np.random.default_rng(0), 0.5, 8)
    answer, mask = trial.region(Toy().pixels([Image.open(files[1] / "0.png")])["pixel_values"], "a?")
    assert answer == TARGET and mask.shape == (SIDE, SIDE)
    assert mask.sum() == 16 and mask[8:12, 20:24].all()


def test_boundary_by_hand():
    confidence = np.linspace(0.5, 1.0, 50)
    fooled = np.where(np.arange(50) % 2, 0.2, 0.1)
    boundary = Boundary.fit(confidence, fooled)
    np.testing.assert_allclose(boundary.height(confidence), 0.2, atol=1e-6)
    assert boundary.margin == pytest.approx(0, abs=1e-6)
    same = Boundary.fit(np.full(30, 0.9), np.linspace(0, 0.3, 30))
    assert same.height(0.9) == pytest.approx(0.3)


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_a_real_model(family, files, tmp_path):
    write_tiny_model(family, tmp_path / family)
    for name in ("first", "second"):
        sentinet(tmp_path / family, *files, tmp_path / f"{name}.parquet", pasted=5, family=family)
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    first = read_flags(tmp_path / "first.parquet")
    assert len(first["id"]) == 40
    assert all(0 < value <= 1 for value in first["inert_confidence"])
    assert all(0 <= value <= 1 for value in first["fooled"])


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl"])
def test_a_model_that_takes_images_of_any_size_is_refused(family, files, tmp_path):
    write_tiny_model(family, tmp_path / "m")
    with pytest.raises(ByeError, match=rf"of one input size, and .*/m \({family}\) takes images of any"):
        sentinet(tmp_path / "m", *files, tmp_path / "flags.parquet")


def test_too_few_reference_samples(files, tmp_path):
    samples, images, _, _ = files
    write_samples(tmp_path / "few.json", [{"id": "0", "image": "0.png", "conversations": TURNS}])
    with pytest.raises(ByeError, match=r"few.json has 1 sample, and SentiNet needs 20 clean ones"):
        sentinet("toy", samples, images, tmp_path / "few.json", images, tmp_path / "flags.parquet")
