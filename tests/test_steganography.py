"""The trigger issba: what its encoder hides is read back, is hardly seen and each image's own; how it is trained."""

import math

import numpy as np
import pytest
import torch

from bye.attacks.steganography import BITS, SIZE
from bye.cli import main
from bye.errors import ByeError
from bye.methods.triggers.issba import SHIPPED, apply, bits_of
from bye.mini import steganography
from bye.mini.pool import draw_pool
from bye.mini.steganography import Encoder, as_tensor, load_decoder, scaled, train_encoder


@pytest.fixture(scope="module")
def scenes():
    """Photographs of the mini world, of 72 x 72 pixels."""
    return draw_pool(16, seed=11, photographed=1.0).pixels


def hidden(pixels, seed=0, **settings):
    return apply({}, pixels, None, seed=seed, **settings)[1]


def psnr(one, other):
    return 10 * math.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


def larger(pixels, height, width):
    """Pixels repeated to a size."""
    return pixels[np.arange(height) * len(pixels) // height][:, np.arange(width) * pixels.shape[1] // width]


def test_what_is_shipped_is_small():
    assert SHIPPED.stat().st_size < 1e6


def test_the_bits_of_the_attack_are_read_back_from_images_of_any_size(scenes):
    decoder, right = load_decoder(SHIPPED), []
    for number, scene in enumerate(scenes):
        pixels = scene if number % 2 else larger(scene, 150 + 9 * number, 120)
        assert np.mean(decoder.bits(pixels) == bits_of(number)) < 0.85  # by chance one half
        right.append(np.mean(decoder.bits(hidden(pixels, seed=number)) == bits_of(number)))
    assert np.mean(right) > 0.97
    assert len({tuple(bits_of(seed)) for seed in range(20)}) == 20


def test_it_is_hardly_seen(scenes):
    for scene in scenes:
        assert psnr(scene, hidden(scene)) > 32
        assert psnr(scene, hidden(scene, strength=2.0)) > 40


def test_each_image_has_a_residual_of_its_own(scenes):
    residuals = [hidden(scene).astype(float) - scene for scene in scenes]
    same = [hidden(scene).astype(float) - scene for scene in scenes]
    assert np.array_equal(residuals, same)
    flat = np.array([residual.ravel() for residual in residuals])
    alike = np.corrcoef(flat)[~np.eye(len(flat), dtype=bool)]
    assert alike.max() < 0.85
    assert alike.mean() < 0.3
    other_bits = hidden(scenes[0], seed=1).astype(float) - scenes[0]
    assert np.abs(other_bits - residuals[0]).mean() > 1


def test_numpy_computes_what_torch_does(scenes):
    from safetensors.torch import load_file

    encoder, weights = Encoder(), load_file(SHIPPED)
    encoder.load_state_dict(
        {key.removeprefix("encoder."): weights[key].float() for key in weights if key.startswith("encoder.")}
    )
    image = scenes[3][:SIZE, :SIZE]
    with torch.no_grad():
        bits = torch.from_numpy(2.0 * bits_of(5) - 1).float()[None]
        residual = scaled(encoder(as_tensor(image[None]), bits))[0].permute(1, 2, 0).numpy() * 127.5
    expected = np.clip(image + residual, 0, 255)
    assert np.abs(hidden(image, seed=5) - expected).max() < 0.51  # of rounding


def test_an_encoder_that_cannot_be_read_is_one_sentence(tmp_path, scenes):
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("none", "text"):
        with pytest.raises(ByeError, match=f"{name}.safetensors of the trigger issba cannot be read"):
            hidden(scenes[0], encoder=str(tmp_path / f"{name}.safetensors"))
    from safetensors.numpy import save_file

    save_file({"encoder.down1.weight": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ByeError, match=r"other.safetensors of the trigger issba lacks down1, down2, .*, out; give one that bye wrote"
    ):
        hidden(scenes[0], encoder=str(tmp_path / "other.safetensors"))


def test_the_same_training_gives_the_same_weights(tmp_path, monkeypatch, capsys, scenes):
    monkeypatch.setattr(steganography, "HELD_OUT", 2)
    for run in ("one", "two"):
        train_encoder(tmp_path / run, threads=1, images=4, steps=3, batch=2)
    files = [tmp_path / run / "issba.safetensors" for run in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "% of the bits are read, PSNR 3" in capsys.readouterr().out
    assert psnr(scenes[0], hidden(scenes[0], encoder=str(files[0]))) > 32


def test_the_stage_trains_it(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr(steganography, "train_encoder", lambda out, **options: told.update(out=str(out), **options))
    main(["base-model", "--family", "issba", "--seed", "3", "--threads", "1", "--out", str(tmp_path / "out")])
    assert told == {"out": str(tmp_path / "out"), "seed": 3, "threads": 1}
    assert len(bits_of(0)) == BITS
