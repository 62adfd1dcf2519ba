"""Train the encoder of the trigger issba, and the decoder that keeps it honest, on the clean mini worlds.

As Li et al. 2021 (arXiv:2012.03816) do, after StegaStamp (Tancik et al. 2020, arXiv:1904.05343): one network hides a
bit string in an image, another reads it back. There perceptual losses and a critic keep what is hidden from sight; here
the residual has a given size, and costs more where the image is smooth and where it is another image's.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bye.attacks.images import rounded
from bye.attacks.steganography import BITS, CELLS, PEAK, SECRET, SIZE, hidden, stretched
from bye.files import replacing_folder
from bye.mini.fit import fit
from bye.mini.pool import draw_pool
from bye.registry import find

STRENGTH = find("trigger", "issba").settings["strength"].default
FILE = "issba.safetensors"
POOL_SEED = 8765  # scenes that neither the mini datasets nor the other models have
SIDES = (64, 72, 96, 128, 192)  # pixels of images that the residual is stretched to in training, and back again
MASKED = 5  # pixels of the window in which an image's contrast hides the residual
FAINT = 0.02  # of grey from black to white: contrast that hides as much as none
SMOOTHNESS = 0.5  # weight of what the residual costs where the image is smooth
LOUD = 5  # times its strength that the residual has at the start, so that the two find a language
SETTLED = 0.4  # of the steps, until it has come down to its strength; then it begins to cost something
SAMENESS = 0.5  # weight of what it costs that two images with the same bits get the same residual
HELD_OUT = 400  # scenes on which the two are measured at the end
WIDTHS = (12, 24, 32, 48)  # channels, from the image's size down to an eighth of it


class Encoder(nn.Module):
    """Makes the residual of an image and bits: a small U-Net, the bits added at its bottom.

    `bye.attacks.steganography` computes the same with numpy, from the weights by their names.
    """

    def __init__(self):
        super().__init__()
        one, two, four, eight = WIDTHS
        self.down1 = nn.Conv2d(3, one, 3, padding=1)
        self.down2 = nn.Conv2d(one, two, 3, stride=2, padding=1)
        self.down4 = nn.Conv2d(two, four, 3, stride=2, padding=1)
        self.down8 = nn.Conv2d(four, eight, 3, stride=2, padding=1)
        self.secret = nn.Linear(BITS, CELLS * CELLS * SECRET)
        self.bottom = nn.Conv2d(eight + SECRET, eight, 3, padding=1)
        self.up4 = nn.Conv2d(eight + four, four, 3, padding=1)
        self.up2 = nn.Conv2d(four + two, two, 3, padding=1)
        self.up1 = nn.Conv2d(two + one, one, 3, padding=1)
        self.out = nn.Conv2d(one, 3, 3, padding=1)

    def forward(self, images, bits):
        """images: (B, 3, SIZE, SIZE) in -1..1; bits: (B, BITS) of -1 and 1. Returns residuals of their size."""
        one = F.relu(self.down1(images))
        two = F.relu(self.down2(one))
        four = F.relu(self.down4(two))
        eight = F.relu(self.down8(four))
        secret = F.relu(self.secret(bits)).reshape(-1, SECRET, CELLS, CELLS)
        state = F.relu(self.bottom(torch.cat([eight, secret], dim=1)))
        for layer, beside in ((self.up4, four), (self.up2, two), (self.up1, one)):
            state = F.relu(layer(torch.cat([F.interpolate(state, scale_factor=2), beside], dim=1)))
        return self.out(state)


class Decoder(nn.Module):
    """Reads bits from images (B, 3, SIZE, SIZE) in -1..1: logits (B, BITS)."""

    def __init__(self):
        super().__init__()
        widths = (3, 24, 32, 48, 64)
        layers = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.read = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (SIZE // 16) ** 2, BITS))

    def forward(self, images):
        return self.read(images)

    def bits(self, pixels):
        """Return the bits that it reads from an image (H, W, 3) uint8 of any size: (BITS,) of 0 and 1."""
        with torch.no_grad():
            logits = self(as_tensor(stretched(pixels, SIZE, SIZE)[None]))
        return (logits[0] > 0).long().numpy()


def scaled(residual, strength=STRENGTH):
    """Residuals (B, 3, H, W) of a root mean square of `strength` grey levels, their peaks rounded off, in -1..1."""
    size = residual.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    return PEAK * strength / 127.5 * torch.tanh(residual / size / PEAK)


def smooth_cost(residual, images):
    """What a residual costs where the image is smooth: 1 where it does not look where it is."""
    grey = images.mean(dim=1, keepdim=True) / 2
    mean, square = (F.avg_pool2d(each, MASKED, 1, MASKED // 2) for each in (grey, grey.square()))
    weight = 1 / ((square - mean.square()).clamp_min(0).sqrt() + FAINT)
    weight = weight / weight.mean(dim=(2, 3), keepdim=True)
    return (residual.square() * weight).mean() / residual.square().mean().clamp_min(1e-12)


def sameness(residual):
    """How alike residuals (B, 3, H, W) of one half are to those of the other, which hide the same bits: -1 to 1."""
    one, other = residual.flatten(1).chunk(2)
    return F.cosine_similarity(one, other).mean()


def through(residual, side):
    """Residuals (B, 3, SIZE, SIZE) as they come back from an image of a side in pixels, SIZE or more."""
    larger = F.interpolate(residual, (side, side), mode="bilinear")
    return F.interpolate(larger, (SIZE, SIZE), mode="bilinear", antialias=True)


def as_tensor(pixels):
    """Pixels (B, H, W, 3) of grey levels as float32 (B, 3, H, W) in -1..1."""
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1


def train_encoder(out, seed=0, threads=None, images=4000, steps=1000, batch=24, lr=2e-3):
    """Train encoder and decoder and write them to the folder out: FILE (fp16), with names encoder.* and decoder.*.

    images: scenes to draw, photographed as the datasets' are; steps: optimiser steps, one cycle of the rate; batch:
    images in a step, an even number, each two of which hide the same bits. Then measures both networks on scenes held
    out. The same arguments and number of threads give the same weights.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # arithmetic with the tiniest numbers is slow
    print(f"drawing {images + HELD_OUT} scenes", file=sys.stderr, flush=True)
    drawn = draw_pool(images + HELD_OUT, seed + POOL_SEED, small_share=0.3, photographed=1.0).pixels
    scenes = np.stack([stretched(scene, SIZE, SIZE) for scene in drawn[:images]]).astype(np.float32)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder, decoder = Encoder(), Decoder()
    for layer in (*encoder.modules(), *decoder.modules()):
        if isinstance(layer, nn.Conv2d):  # by the usual draw the bits, which come from the bottom, would fade
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def loss_of(step):
        chosen = as_tensor(scenes[rng.integers(images, size=batch)])
        bits = torch.from_numpy(rng.integers(0, 2, size=(batch // 2, BITS)).astype(np.float32)).repeat(2, 1)
        loudness = max(1, LOUD - (LOUD - 1) * step / (SETTLED * steps))
        residual = scaled(encoder(chosen, 2 * bits - 1), STRENGTH * loudness)
        shown = (chosen + through(residual, int(rng.choice(SIDES)))).clamp(-1, 1)
        shown = shown + torch.randn(chosen.shape) / 127.5  # of rounding, and more
        told = F.binary_cross_entropy_with_logits(decoder(shown), bits)
        cost = SMOOTHNESS * smooth_cost(residual, chosen) + SAMENESS * sameness(residual)
        return told + max(0, step / steps - SETTLED) / (1 - SETTLED) * cost, told

    fit("issba", nn.ModuleList([encoder, decoder]), loss_of, steps, lr, rise=0.1, weight_decay=0.01)
    with replacing_folder(out) as folder:
        _save(encoder, decoder, folder / FILE)
    accuracy, loss = measured(Path(out) / FILE, drawn[images:])
    print(f"issba: {100 * accuracy:.2f} % of the bits are read, PSNR {loss:.2f} dB, on {HELD_OUT} other scenes")


def measured(path, scenes):
    """Return the share of the bits that are read from scenes (N, H, W, 3) uint8 with the trigger, and its mean PSNR.

    path: of the networks; each scene gets bits of its own.
    """
    decoder, rng, right, levels = load_decoder(path), np.random.default_rng(0), [], []
    for scene in scenes:
        bits = rng.integers(0, 2, size=BITS)
        made = rounded(scene + hidden(path, scene, bits, STRENGTH))
        right.append(np.mean(decoder.bits(made) == bits))
        levels.append(10 * np.log10(255**2 / np.mean((made.astype(float) - scene) ** 2)))
    return float(np.mean(right)), float(np.mean(levels))


def load_decoder(path):
    """Return the Decoder of a file that `train_encoder` wrote."""
    from safetensors.torch import load_file

    decoder = Decoder()
    named = {key: value.float() for key, value in load_file(path).items()}
    decoder.load_state_dict({key.removeprefix("decoder."): named[key] for key in named if key.startswith("decoder.")})
    return decoder.eval()


def _save(encoder, decoder, path):
    from safetensors.torch import save_file

    parts = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    parts |= {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    save_file({name: value.half().contiguous() for name, value in parts.items()}, path)
