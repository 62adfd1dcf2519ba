"""The purifiers that ZIP is compared with, on images whose purified form is known."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from PIL import Image
from small_workflow import ROOT
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from bye.errors import ByeError
from bye.methods.defences import bdmae, blur, sampdetox, spatial
from bye.mini.pool import draw_pool

SIZE = 32


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        **blocks,
    )
    folder = tmp_path_factory.mktemp("diffusion")
    DDPMPipeline(unet, DDIMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(folder)
    return folder


def generators(n=1, seed=0):
    return [np.random.default_rng([seed, number]) for number in range(n)]


def knows(purifier, image):
    """Give a purifier a model that knows one clean image (1, 3, S, S): each estimate is that image."""

    class Oracle(torch.nn.Module):
        def forward(self, x, time):
            alpha = purifier.scheduler.alphas_cumprod[time]
            return type("Output", (), {"sample": (x - alpha.sqrt() * image) / (1 - alpha).sqrt()})

    purifier.unet = Oracle()


@pytest.fixture
def clean():
    """A smooth image."""
    torch.manual_seed(1)
    return torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4) * 1.2 - 0.6, size=SIZE, mode="bicubic").clamp(-1, 1)


def with_patch(image):
    """The image with a checkerboard of 8 x 8 pixels in it, on a square of the grid."""
    patched = image.clone()
    patched[:, :, 8:16, 16:24] = torch.from_numpy(np.indices((8, 8)).sum(0) % 2 * 2.0 - 1)
    return patched


def test_blur_is_a_gaussian_in_shares_of_the_shorter_side():
    point = np.zeros((41, 61, 3), dtype=np.uint8)
    point[20, 30] = 255
    [blurred] = blur.purifier(radius=2 / 41)([Image.fromarray(point)], generators())
    row = np.asarray(blurred)[20, :, 0].astype(float)
    spread = np.sqrt((row * (np.arange(61) - 30) ** 2).sum() / row.sum())
    assert blurred.size == (61, 41) and spread == pytest.approx(2, abs=0.3)
    [more] = blur.purifier(radius=8 / 41)([Image.fromarray(point)], generators())
    assert np.asarray(more).max() < np.asarray(blurred).max()


def test_spatial_shrinks_flips_and_moves():
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, :40], image[:, 40:] = (200, 0, 0), (0, 200, 0)
    pictures = [Image.fromarray(image)] * 6
    moved = spatial.purifier(shrink=0.25)(pictures, generators(6))
    places = set()
    for picture in moved:
        pixels = np.asarray(picture).astype(int)
        rows, columns = np.nonzero(pixels.sum(2))
        assert picture.size == (80, 40) and (np.ptp(rows), np.ptp(columns)) == (29, 59)  # three quarters of each side
        places.add((rows.min(), columns.min()))
        middle = pixels[rows.min() + 15]
        assert middle[columns.min() + 5, 1] == 200 and middle[columns.max() - 5, 0] == 200  # left and right are changed
    assert len(places) > 3
    [still] = spatial.purifier(shrink=0.0, flip=False)(pictures[:1], generators())
    assert (np.asarray(still) == image).all()
    again = spatial.purifier(shrink=0.25)(pictures, generators(6))
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(moved, again, strict=True))


def test_similarity_by_the_formula_of_one_window():
    torch.manual_seed(0)
    one, other = torch.rand(2, 1, 3, SIZE, SIZE, dtype=torch.float64) * 2 - 1
    other = 0.6 * one + 0.4 * other
    found = sampdetox.similarity(one, other)
    for row, column in ((3, 3), (10, 20), (28, 5)):
        expected = []
        for color in range(3):
            place = (0, color, slice(row - 3, row + 4), slice(column - 3, column + 4))
            x, y = one[place].flatten().numpy(), other[place].flatten().numpy()
            means, (small, medium) = (x.mean(), y.mean()), (0.02**2, 0.06**2)
            covariance = np.cov(x, y, bias=True)
            top = (2 * means[0] * means[1] + small) * (2 * covariance[0, 1] + medium)
            bottom = (means[0] ** 2 + means[1] ** 2 + small) * (covariance[0, 0] + covariance[1, 1] + medium)
            expected.append(top / bottom)
        assert found[0, 0, row, column].item() == pytest.approx(np.mean(expected), abs=1e-9)
    assert torch.allclose(sampdetox.similarity(one, one), torch.ones(1, 1, SIZE, SIZE, dtype=torch.float64))


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """A random masked autoencoder, and its like that restores squares without their brightness."""
    folders = []
    for norm_pix_loss in (False, True):
        torch.manual_seed(0)
        widths = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        widths |= {f"decoder_{name}": value for name, value in widths.items()}
        config = ViTMAEConfig(image_size=SIZE, patch_size=8, norm_pix_loss=norm_pix_loss, **widths)
        folders.append(tmp_path_factory.mktemp("mae"))
        ViTMAEForPreTraining(config).save_pretrained(folders[-1])
        looks = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3]}
        (folders[-1] / "preprocessor_config.json").write_text(json.dumps(looks))
    return folders


def as_image(pixels):
    return Image.fromarray(((pixels[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def test_bdmae_restores_the_square_that_does_not_fit(mae, clean, monkeypatch):
    purifier = bdmae.purifier(mae=str(mae[0]))
    monkeypatch.setattr(purifier, "restore", lambda pixels, masked: clean.expand_as(pixels))
    patched = with_patch(clean)
    scores = purifier.scores(patched, generators())
    assert divmod(int(scores.argmax()), 4) == (1, 2) and purifier.outliers(scores).flatten()[6]
    [restored] = purifier([as_image(patched)], generators())
    expected = np.asarray(as_image(patched)).copy()
    for row, column in np.argwhere(purifier.outliers(scores).view(4, 4).numpy()):
        place = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
        expected[place] = np.asarray(as_image(clean))[place]
    assert (np.asarray(restored) == expected).all()
    large = as_image(patched).resize((60, 100), Image.NEAREST)
    [restored] = purifier([large], generators())
    changed = np.argwhere((np.asarray(restored) != np.asarray(large)).any(2))
    assert {(row // 25, column // 15) for row, column in changed} >= {(1, 2)}  # the square, where it is in the image


def test_bdmae_shows_each_part_of_the_squares_once_a_repeat(mae, clean, monkeypatch):
    purifier, seen = bdmae.purifier(mae=str(mae[0]), repeats=2, parts=3), []
    restore = purifier.restore
    monkeypatch.setattr(purifier, "restore", lambda *what: (seen.append(what[1]), restore(*what))[1])
    purifier.scores(clean.expand(2, -1, -1, -1), generators(2))
    shown = ~torch.stack(seen).view(2, 3, 2, 16)  # repeats, parts, images, squares
    assert (shown.sum(1) == 1).all()
    assert (shown[0] != shown[1]).any() and (shown[:, :, 0] != shown[:, :, 1]).any()


def test_bdmae_restores_from_what_is_shown_alone(mae, clean):
    purifier = bdmae.purifier(mae=str(mae[0]))
    for n_masked in (1, 5, 15):
        masked = torch.zeros(1, 16, dtype=torch.bool)
        masked[0, 3 : 3 + n_masked] = True
        masked = masked.roll(7, 1)
        place = purifier.spread(masked)
        other = torch.where(place, -clean, clean)
        assert torch.equal(purifier.restore(clean, masked), purifier.restore(other, masked))
        assert not torch.equal(purifier.restore(clean, masked), purifier.restore(torch.where(place, clean, 0), masked))


def test_the_models_pixels_are_those_of_its_folder(mae, clean):
    """Seen with the folder's mean and deviation, and given back without: by the model's own loss."""
    purifier = bdmae.purifier(mae=str(mae[0]))
    masked = torch.arange(16)[None] < 6
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.4, 0.5, 0.6], [0.2, 0.2, 0.3]))
    purifier.model.config.mask_ratio = 6 / 16
    with torch.no_grad():
        loss = purifier.model(((clean + 1) / 2 - mean) / std, noise=masked.float()).loss
    gap = (purifier.restore(clean, masked) - clean) / 2 / std  # in the model's units
    found = (gap**2)[purifier.spread(masked).expand(-1, 3, -1, -1)].mean()
    torch.testing.assert_close(found, loss)


def test_bdmae_says_what_it_cannot_use(mae, tmp_path):
    with pytest.raises(ByeError, match="restores squares without their brightness; take one of pixels"):
        bdmae.purifier(mae=str(mae[1]))
    with pytest.raises(ByeError, match="cannot be loaded .*; give a folder or a hub id"):
        bdmae.purifier(mae=str(tmp_path))


def test_the_shipped_autoencoder_restores_better_than_the_mean():
    purifier = bdmae.purifier(mae=str(ROOT / "base_models" / "mae-mini"))
    scenes = torch.from_numpy(draw_pool(16, 11, photographed=1.0).pixels).permute(0, 3, 1, 2) / 127.5 - 1
    masked = torch.from_numpy(np.random.default_rng(0).permutation(81) < 20)[None].expand(16, -1)
    place = purifier.spread(masked).expand_as(scenes)
    errors = [
        (made - scenes)[place].square().mean()
        for made in (purifier.restore(scenes, masked), scenes.mean((2, 3), keepdim=True))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_sampdetox_makes_anew_what_the_weak_noise_changed(pipeline, clean):
    """A model that knows the image without its patch: the first stage takes the patch away already."""
    purifier = sampdetox.purifier(diffusion=str(pipeline))
    knows(purifier, clean)
    torch.testing.assert_close(purifier.purify(with_patch(clean), generators()), clean, atol=1e-4, rtol=0)


def test_sampdetox_leaves_what_did_not_change(pipeline, clean):
    """Where the first stage changes one corner alone, the second generates that corner alone."""
    purifier, calls = sampdetox.purifier(diffusion=str(pipeline), strong=0.5, steps=4), []
    reverse = purifier.reverse

    def watched(x, times, agree):
        calls.append(times)
        if len(calls) == 1:
            changed = clean.clone()
            changed[:, :, :8, :8] = with_patch(clean)[:, :, 8:16, 16:24]
            return changed
        return reverse(x, times, agree)

    purifier.reverse = watched
    made = purifier.purify(clean, generators())
    first = clean.clone()
    first[:, :, :8, :8] = with_patch(clean)[:, :, 8:16, 16:24]
    assert calls[0].tolist() == [20, 15, 10, 5] and calls[1].tolist() == [500, 375, 250, 125]
    torch.testing.assert_close(made[:, :, 16:, 16:], first[:, :, 16:, 16:], atol=1e-6, rtol=0)
    assert (made[:, :, :8, :8] - first[:, :, :8, :8]).abs().max() > 0.1


@pytest.mark.parametrize("method", [bdmae, sampdetox])
def test_images_keep_their_size_and_the_generator_decides(method, pipeline, mae):
    purifier = method.purifier(mae=str(mae[0])) if method is bdmae else method.purifier(diffusion=str(pipeline))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    [one], [two] = purifier([photo], generators()), purifier([photo], generators())
    assert one.size == photo.size and (np.asarray(one) == np.asarray(two)).all()
