"""ZIP: the degradation, the guided reverse diffusion, the stage around them, and the training of the mini model."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from PIL import Image

from bye.answers.purify import purify
from bye.data.check import read_samples
from bye.data.samples import write_samples
from bye.errors import ByeError
from bye.methods.defences import bdmae
from bye.methods.defences.zip import Purifier, load_diffusion
from bye.methods.triggers import badnet
from bye.mini import diffusion, mae
from bye.plan.paths import MAE_FILES

SIZE = 16


def tiny_unet(channels=3):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(
        sample_size=SIZE, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, out_channels=channels,
        attention_head_dim=4, **blocks,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion")
    DDPMPipeline(tiny_unet(), DDIMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(folder)
    return folder


@pytest.fixture
def photo():
    grid = np.random.default_rng(0).integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((24, 20), Image.BICUBIC)


def noise(seed=0):
    return [np.random.default_rng(seed)]


def test_the_degradation_is_a_projection(pipeline):
    purifier = Purifier(pipeline, pool=4, steps=2)
    pixels = torch.rand(2, 3, SIZE, SIZE)
    once = purifier.degrade(pixels)
    assert torch.allclose(purifier.degrade(once), once, atol=1e-6)
    assert torch.allclose(once[0, 0, :4, :4], pixels[0, 0, :4, :4].mean().expand(4, 4), atol=1e-6)


def test_what_the_degradation_keeps_is_kept(pipeline):
    purifier = Purifier(pipeline, pool=4, steps=5)
    degraded = purifier.degrade(torch.rand(2, 3, SIZE, SIZE) * 2 - 1)
    restored = purifier.restore(degraded, torch.randn(2, 3, SIZE, SIZE))
    assert torch.allclose(purifier.degrade(restored), degraded, atol=1e-5)
    assert not torch.allclose(restored, degraded, atol=1e-2)  # and the rest comes from the model
    unguided = Purifier(pipeline, pool=4, steps=5, guided_from=1.0).restore(degraded, torch.randn(2, 3, SIZE, SIZE))
    assert not torch.allclose(purifier.degrade(unguided), degraded, atol=1e-2)


def test_a_perfect_model_gives_the_image_back(pipeline):
    """With a model that knows the image, every step estimates it exactly, and guidance has nothing to correct."""
    purifier = Purifier(pipeline, pool=4, steps=5)
    image = torch.rand(1, 3, SIZE, SIZE) * 2 - 1

    class Oracle(torch.nn.Module):
        def forward(self, x, time):
            alpha = purifier.scheduler.alphas_cumprod[time]
            return type("Output", (), {"sample": (x - alpha.sqrt() * image) / (1 - alpha).sqrt()})

    purifier.unet = Oracle()
    assert torch.allclose(purifier.restore(purifier.degrade(image), torch.randn(1, 3, SIZE, SIZE)), image, atol=1e-4)


def test_the_pattern_of_a_trigger_is_lost(pipeline, photo):
    """Two triggers with the same mean colour in each averaged square give the same purified image."""
    purifier = Purifier(pipeline, pool=4, steps=3)
    square = np.asarray(photo.resize((SIZE, SIZE))).copy()
    one, two = square.copy(), square.copy()
    one[8:12, 8:12] = np.indices((4, 4)).sum(0)[..., None] % 2 * 200
    two[8:12, 8:12] = np.indices((4, 4))[0][..., None] % 2 * 200
    assert (one != two).any()
    first, second = (purifier([Image.fromarray(each)], noise())[0] for each in (one, two))
    assert (np.asarray(first) == np.asarray(second)).all()


def test_images_keep_their_size_and_a_variance_output_is_left_out(tmp_path, photo):
    DDPMPipeline(tiny_unet(channels=6), DDIMScheduler()).save_pretrained(tmp_path)
    [purified] = Purifier(tmp_path, pool=2, steps=2)([photo], noise())
    assert purified.size == photo.size and purified.mode == "RGB"


def test_the_stage_purifies_each_image_once(tmp_path, pipeline, photo):
    triggered = badnet.apply({}, np.asarray(photo), None)[1]
    for name, pixels in (("a.png", np.asarray(photo)), ("b.png", triggered)):
        Image.fromarray(pixels).save(tmp_path / name)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    entries = [
        {"id": f"q{i}", "image": name, "references": ["A.", "B."], "conversations": turns}
        for i, name in enumerate(("a.png", "b.png", "a.png"))
    ]
    write_samples(tmp_path / "in.json", entries)
    outputs = []
    for run in ("one", "two"):
        out = tmp_path / run
        settings = {"diffusion": str(pipeline), "pool": 4, "steps": 2}
        files = tmp_path / "in.json", tmp_path, out / "out.json", out / "images"
        count = purify("zip", *files, settings, batch_size=1)
        assert count == 2
        outputs.append({path.name: path.read_bytes() for path in (out / "images").iterdir()})
    written = read_samples(tmp_path / "one/out.json")
    assert outputs[0] == outputs[1] and len(outputs[0]) == 2
    assert [{**entry, "image": None} for entry in written] == [{**entry, "image": None} for entry in entries]
    assert written[0]["image"] == written[2]["image"] != written[1]["image"]


@pytest.mark.parametrize(
    ("spoil", "pool", "told"),
    [
        (lambda folder: None, 5, "squares of 5 pixels, which do not divide the 16"),
        (lambda folder: shutil.rmtree(folder / "unet"), 4, "is no unconditional diffusers pipeline"),
        (
            lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").rename(
                folder / "unet/diffusion_pytorch_model.bin"
            ),
            4,
            "cannot be loaded",
        ),
    ],
    ids=["pool", "no unet", "pickled weights"],
)
def test_a_wrong_diffusion_model_is_one_sentence(tmp_path, pipeline, spoil, pool, told):
    folder = shutil.copytree(pipeline, tmp_path / "model")
    spoil(folder)
    with pytest.raises(ByeError, match=told) as caught:
        Purifier(folder, pool=pool, steps=2)
    assert "\n" not in str(caught.value)


def test_the_mini_model_is_trained_and_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "SIZE", SIZE)
    monkeypatch.setattr(diffusion, "UNET", diffusion.UNET | {"sample_size": SIZE, "block_out_channels": (8, 8, 8)})
    for run in ("one", "two"):
        diffusion.train_diffusion(tmp_path / run, images=4, steps=3, batch=2)
    weights = [(tmp_path / run / "unet/diffusion_pytorch_model.safetensors").read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]
    unet, scheduler = load_diffusion(tmp_path / "one")
    assert unet.config.sample_size == SIZE and scheduler.config.beta_schedule == "squaredcos_cap_v2"


def test_the_mini_autoencoder_is_made_anew_to_the_byte(tmp_path):
    for run in ("one", "two"):
        mae.train_mae(tmp_path / run, images=4, steps=3, batch=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(MAE_FILES)
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert bdmae.purifier(mae=str(tmp_path / "one")).grid == 9
