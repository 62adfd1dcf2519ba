"""Train the mini masked autoencoder of BDMAE from scratch on the clean mini worlds."""

import sys

import numpy as np
import torch

from bye.files import replacing_folder, write_json
from bye.mini.fit import fit
from bye.mini.models import IMAGE_SIZE
from bye.mini.pool import PATCH, draw_pool

POOL_SEED = 2468  # scenes that neither the mini datasets nor the other models have
MASKED = (0.1, 0.75)  # of an image's squares: He et al. mask three quarters, and what restores a trigger masks few
VIT = {
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "decoder_hidden_size": 96,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 192,
}


def positions(width, side):
    """Sines and cosines of the places of side x side squares, zero for the class token: (1, 1 + side**2, width)."""
    rates = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    places = np.indices((side, side)).reshape(2, -1, 1) * rates  # (2, squares, width / 4)
    waves = np.concatenate([*np.sin(places), *np.cos(places)], axis=1)
    return torch.from_numpy(np.vstack([np.zeros(width), waves])[None]).float()


def train_mae(out, seed=0, threads=None, images=12000, steps=3000, batch=32, lr=1.5e-3):
    """Train a ViT to restore masked squares of scenes (He et al., arXiv:2111.06377); write a transformers folder, fp16.

    images: scenes to draw, photographed as the datasets' are; steps: optimiser steps, one cycle of the rate; the share
    of masked squares is drawn anew in each. The same arguments and number of threads give the same weights.
    """
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # arithmetic with the tiniest numbers is slow
    print(f"drawing {images} scenes", file=sys.stderr, flush=True)
    scenes = draw_pool(images, seed + POOL_SEED, small_share=0.3, photographed=1.0).pixels
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = ViTMAEForPreTraining(ViTMAEConfig(**VIT)).train()
    for places in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        places.data.copy_(positions(places.shape[-1], IMAGE_SIZE // PATCH))  # transformers leaves them at zero

    def loss_of(step):
        chosen = torch.from_numpy(scenes[rng.integers(len(scenes), size=batch)]).permute(0, 3, 1, 2) / 127.5 - 1
        model.config.mask_ratio = rng.uniform(*MASKED)
        loss = model(chosen).loss
        return loss, loss

    fit("mae", model, loss_of, steps, lr, weight_decay=0.05, betas=(0.9, 0.95))
    model.config.mask_ratio = MASKED[1]
    with replacing_folder(out) as folder:
        model.half().save_pretrained(folder)
        write_json(folder / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
