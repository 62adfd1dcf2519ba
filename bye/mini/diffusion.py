"""Train the mini diffusion model of ZIP from scratch on the clean mini worlds."""

import sys

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from bye.files import replacing_folder
from bye.mini.fit import fit
from bye.mini.pool import draw_pool

POOL_SEED = 4321  # scenes that neither the mini datasets nor the base models have
SIZE = 48  # pixels; the mini models see 72
TRAINING_STEPS = 1000  # of the noise schedule
UNET = {
    "sample_size": SIZE,
    "block_out_channels": (32, 48, 64),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}


def train_diffusion(out, seed=0, threads=None, images=12000, steps=2500, batch=16, lr=1e-3):
    """Train a UNet to tell the noise in noisy scenes (DDPM) and write it as a diffusers pipeline (safetensors, fp16).

    images: scenes to draw, photographed as the datasets' are; steps: optimiser steps, one cycle of the rate. The same
    arguments and number of threads give the same weights.
    """
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # arithmetic with the tiniest numbers is slow
    print(f"drawing {images} scenes", file=sys.stderr, flush=True)
    scenes = draw_pool(images, seed + POOL_SEED, small_share=0.3, photographed=1.0).pixels
    scenes = np.stack([np.asarray(Image.fromarray(scene).resize((SIZE, SIZE), Image.BICUBIC)) for scene in scenes])
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    unet = UNet2DModel(**UNET)
    scheduler = DDIMScheduler(TRAINING_STEPS, beta_schedule="squaredcos_cap_v2")

    def loss_of(step):
        chosen = torch.from_numpy(scenes[rng.integers(len(scenes), size=batch)]).permute(0, 3, 1, 2) / 127.5 - 1
        noise = torch.randn(chosen.shape)
        times = torch.randint(TRAINING_STEPS, (batch,))
        loss = F.mse_loss(unet(scheduler.add_noise(chosen, noise, times), times).sample, noise)
        return loss, loss

    fit("diffusion", unet, loss_of, steps, lr, weight_decay=0.01)
    with replacing_folder(out) as folder:
        DDPMPipeline(unet.half(), scheduler).save_pretrained(folder)
