"""The purifiers that ZIP is compared with, on images whose purified form is known."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from PIL import Image

from bye.errors import ByeError
from bye.methods.defences import bdmae, blur, sampdetox, spatial

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


def test_bdmae_restores_the_square_that_does_not_fit(pipeline, clean):
    purifier = bdmae.purifier(diffusion=str(pipeline), squares=4, parts=4, steps=3)
    knows(purifier, clean)
    patched = with_patch(clean)
    scores = purifier.scores(patched, clean)[0, 0]
    assert divmod(int(scores.argmax()), 4) == (1, 2)
    assert purifier.outliers(scores[None, None])[0, 0, 1, 2]
    restored = purifier.purify(patched, generators())
    torch.testing.assert_close(restored[:, :, 8:16, 16:24], clean[:, :, 8:16, 16:24], atol=1e-4, rtol=0)
    torch.testing.assert_close(restored, clean, atol=1e-4, rtol=0)  # and what else was restored is as it was
    assert torch.equal(purifier.purify(clean, generators()), clean)  # nothing stands out


def test_bdmae_masks_each_square_once_and_keeps_the_others(pipeline, clean):
    purifier, seen = bdmae.purifier(diffusion=str(pipeline), squares=4, parts=3, steps=1, cut=0.0), []
    restore = purifier.restore

    def watched(pixels, masked, noise):
        found = restore(pixels, masked, noise)
        assert torch.equal(torch.where(masked, pixels, found), pixels)
        seen.append(masked)
        return found

    purifier.restore = watched
    purifier.purify(clean, generators())
    assert (torch.stack(seen[:3]).sum(0) == 1).all() and len(seen) == 4
    with pytest.raises(ByeError, match="bdmae has 5 squares a row, which do not divide the 32 pixels"):
        bdmae.purifier(diffusion=str(pipeline), squares=5)


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
def test_images_keep_their_size_and_the_generator_decides(method, pipeline):
    purifier = method.purifier(diffusion=str(pipeline))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    [one], [two] = purifier([photo], generators()), purifier([photo], generators())
    assert one.size == photo.size and (np.asarray(one) == np.asarray(two)).all()
