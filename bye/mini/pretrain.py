"""Pre-train a mini model from scratch on the clean mini worlds.

1. Vision tower: dense prediction on its patch tokens (what covers a patch, its named colours, its pixels); then frozen.
2. Projector and decoder: questions and captions on the tower's cached features, several questions an image.
3. The same with a cost on where attention goes, so that it settles: on the same scenes, half of them drawings, and then
   on pictures as the datasets show them.
"""

import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

from bye.errors import ByeError
from bye.files import replacing_folder
from bye.mini.models import CONVERSATIONS, GRID, IMAGE_TOKENS, build_model, train_tokenizer, write_preprocessor
from bye.mini.packing import NAME, Packer, forward_branches
from bye.mini.pool import corpus, draw_pool
from bye.mini.world.small_things import is_on_small_things

POOL_SEED = 1234  # the base models never see the scenes of the mini datasets
THUMBNAIL = 4  # pixels of a patch that the tower must tell, along an edge
SMALL_WEIGHT = 4  # of the class "small thing" in the tower's loss: few patches have one
COVER_WEIGHT, PIXEL_WEIGHT = 5.0, 3.0  # in the tower's loss
HEAD_EPSILON = 1e-4  # AdamW's, for the output layer: see `train_decoder`
PHOTOGRAPHED = 0.5  # of the scenes, until the last cycle, where all are

# Where attention goes when an answer on a whole scene begins has a cost, in nats, beside the answers' cross-entropy.
REST_WEIGHT, MIN_ENTROPY = 0.3, 4.0  # while the model learns: no sharper than this, of ln 81 = 4.4
SETTLED_ENTROPY, MASS_WEIGHT = 4.1, 3.0  # in its last cycles: as near to this as may be
LEAST_MASS = 0.3  # at first: no head with less than this share of its attention on the image
EVEN_MASS = 0.5  # at last: each head with this share
CARRIED_MASS = 0.02  # of other tokens on the image, at most: the answer's token looks for itself
SMALL_SHARE = 0.4  # of the last cycle's scenes with small things


def pretrain(family, out, seed=0, threads=None, images=12000, tower_steps=6400, steps=5000, settling=(1000, 4000)):
    """Build a mini base model from scratch and write its folder (float16 safetensors, tokenizer, preprocessor).

    family: llava or internvl; images: scenes to draw; tower_steps, steps, settling: optimiser steps of the tower, of
    the decoder, and of the decoder's two cycles in which attention settles. The same arguments and number of
    threads give the same weights. Raises ByeError for an unknown family.
    """
    if family not in CONVERSATIONS:
        raise ByeError(f"there is no mini model of family {family!r}; known: {', '.join(CONVERSATIONS)}")
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # arithmetic with the tiniest numbers is slow
    print(f"drawing {images} scenes", file=sys.stderr, flush=True)
    pool = draw_pool(images, seed + POOL_SEED, photographed=PHOTOGRAPHED)
    tokenizer = train_tokenizer(family, corpus(pool))
    torch.manual_seed(seed)
    model = build_model(family, tokenizer)
    train_tower(model, family, pool, tower_steps, batch=16, rates=(3e-3, 2e-3), seed=seed)
    features = cache_features(model, family, pool)
    if family == "llava":  # the tower's scale is arbitrary; InternVL's projector normalises it itself
        model.model.multi_modal_projector.linear_1.weight.data.div_(features[:200].float().std())
    options = {"batch": 8, "seed": seed, "branches": 8}
    rates = (4e-3, 1.5e-3)
    train_decoder(model, family, tokenizer, pool, features, steps=steps, rates=rates, cost=restlessness, **options)
    options["rates"] = (3.2e-3, 1.2e-3)
    train_decoder(model, family, tokenizer, pool, features, steps=settling[0], cost=unsettledness, **options)
    pool = draw_pool(images, seed + POOL_SEED, SMALL_SHARE, photographed=1.0)
    features = cache_features(model, family, pool)
    train_decoder(model, family, tokenizer, pool, features, steps=settling[1], cost=unevenness, **options)
    save(model, family, tokenizer, out)


def normalise(pixels):
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float with the mini preprocessors' mean 0.5 and standard deviation 0.25."""
    return (torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 255 - 0.5) / 0.25


def tower_features(model, family, pixel_values):
    """Tower output on image tokens before the projector, (B, T, D)."""
    if family == "llava":
        return model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-1][:, 1:]
    hidden = model.model.vision_tower(pixel_values).last_hidden_state[:, 1:]
    grid = GRID * 2
    shuffled = model.model.pixel_shuffle(hidden.reshape(len(hidden), grid, grid, -1), scale_factor=0.5)
    return shuffled.reshape(len(hidden), IMAGE_TOKENS, -1)


def make_optimizers(hidden, head, rates, weight_decay, betas, head_epsilon=1e-8):
    """Muon for the matrices of linear layers in the modules `hidden`; AdamW for all else in them and for `head`.

    rates: learning rate of either. Muon's steps are scaled as AdamW's are (Liu et al. 2025, "Muon is scalable for LLM
    training"); in the same time it comes further than AdamW alone.
    """
    matrices = [part.weight for module in hidden for part in module.modules() if isinstance(part, torch.nn.Linear)]
    known = {id(matrix) for matrix in matrices}
    rest = [weight for module in hidden for weight in module.parameters() if id(weight) not in known]
    groups = [{"params": rest}, {"params": head.parameters(), "eps": head_epsilon}]
    return (
        torch.optim.Muon(matrices, lr=rates[0], weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=rates[1], weight_decay=weight_decay, betas=betas),
    )


def train_tower(model, family, pool, steps, batch, rates, seed, log=sys.stderr):
    """Train the vision tower by a linear head on its patch tokens, which is thrown away, with one cycle of the rates.

    rates: see `make_optimizers`.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = tower_features(model, family, normalise(pool.pixels[:1])).shape[-1]
    classes = pool.covers.shape[-1]
    weight = torch.ones(classes)
    weight[-1] = SMALL_WEIGHT
    head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, classes + 3 * THUMBNAIL**2))
    optimizers = make_optimizers([model.model.vision_tower], head, rates, weight_decay=0.01, betas=(0.9, 0.999))
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.defaults["lr"], total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    started = time.time()
    for step in range(steps):
        index = rng.integers(len(pool.pixels), size=batch)
        pixels = normalise(pool.pixels[index])
        output = head(tower_features(model, family, pixels))
        covers = torch.from_numpy(pool.covers[index]).float()
        cover_loss = F.binary_cross_entropy_with_logits(output[..., :classes], covers, weight)
        pixel_loss = F.mse_loss(output[..., classes:], _thumbnails(pixels))
        loss = COVER_WEIGHT * cover_loss + PIXEL_WEIGHT * pixel_loss
        model.zero_grad()
        head.zero_grad()
        loss.backward()
        for stepped in (*optimizers, *schedules):
            stepped.step()
        if step % 50 == 0 or step == steps - 1:
            losses = f"cover {cover_loss:.4f} pixel {pixel_loss:.4f}"
            print(f"tower {step}/{steps} {losses} {time.time() - started:.0f} s", file=log, flush=True)


def _thumbnails(pixels):
    """Each patch at THUMBNAIL pixels an edge: (B, 3, S, S) -> (B, T, 3 * THUMBNAIL**2)."""
    small = F.avg_pool2d(pixels, pixels.shape[-1] // (GRID * THUMBNAIL))
    patches = small.reshape(len(pixels), 3, GRID, THUMBNAIL, GRID, THUMBNAIL).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(len(pixels), GRID * GRID, 3 * THUMBNAIL**2)


@torch.no_grad()
def cache_features(model, family, pool, batch=64):
    """Tower features of a whole pool, (N, T, D) float16."""
    starts = range(0, len(pool.pixels), batch)
    return torch.cat([tower_features(model, family, normalise(pool.pixels[i : i + batch])).half() for i in starts])


def train_decoder(
    model, family, tokenizer, pool, features, *, steps, batch, rates, seed, branches, cost, log=sys.stderr
):
    """Train projector and decoder, warm-up and cosine decay, on up to `branches` questions for each image of a batch.

    features: of the tower, (N, T, D); rates: see `make_optimizers`; cost: function of the attention (K, L, H, T) on
    whole scenes and of the masses (2, L) of the question's and the image's tokens: see `forward_branches`.

    Most of the vocabulary is in no answer, and has next to no gradient in the output layer: less of it than it has of
    other words, and always the same. AdamW's usual epsilon makes full steps of that, until those words' weights are one
    (cosine 0.99) and none of them can be said any more, as an attack's target must be: HEAD_EPSILON is above it.
    """
    rng = np.random.default_rng([seed, steps])
    torch.manual_seed(seed)
    packer = Packer(family, tokenizer)
    model.model.language_model.set_attn_implementation(NAME)
    hidden = (model.model.multi_modal_projector, model.model.language_model)
    parameters = [parameter for module in (*hidden, model.lm_head) for parameter in module.parameters()]
    options = {"weight_decay": 0.02, "betas": (0.9, 0.98), "head_epsilon": HEAD_EPSILON}
    optimizers = make_optimizers(hidden, model.lm_head, rates, **options)
    started, running = time.time(), None
    for step in range(1, steps + 1):
        index = rng.integers(len(features), size=batch)
        questions = [[pool.questions[i][k] for k in rng.permutation(len(pool.questions[i]))[:branches]] for i in index]
        packed = packer.pack(questions)
        logits, attention, carried = forward_branches(model, features[index].float(), packed)
        answer_loss = F.cross_entropy(logits, packed.targets[:, 1])
        on_scene = torch.tensor([not is_on_small_things(*pair) for pairs in questions for pair in pairs])
        loss = answer_loss + min(1.0, step / 200) * cost(attention[on_scene], carried)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            rate = optimizer.defaults["lr"] * min(1.0, step / 100)
            for group in optimizer.param_groups:
                group["lr"] = rate * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
            optimizer.step()
        running = answer_loss.item() if running is None else 0.98 * running + 0.02 * answer_loss.item()
        if step % 100 == 0 or step == steps:
            print(f"decoder {step}/{steps} loss {running:.4f} {time.time() - started:.0f} s", file=log, flush=True)
    model.model.language_model.set_attn_implementation("sdpa")


def restlessness(attention, carried):
    """Cost of looking hard at the image where a glance would do, of attention (K, L, H, T) on the image's tokens.

    A large model answers a question about a whole scene with attention that is spread wide over the image; a mini model
    finds the same answers by sharp look-ups, unless that has a price. A hinge on the entropy of the head-averaged
    attention. Small things may be looked at as hard as need be.
    """
    return REST_WEIGHT * F.relu(MIN_ENTROPY - scene_entropy(attention)).mean()


def unsettledness(attention, carried):
    """Cost of a model that shall come to rest, each layer at one entropy, of attention (K, L, H, T) on the image.

    The squared distance to SETTLED_ENTROPY, from both sides, gives the clean entropies of a layer one symmetric mode. A
    head that all but left the image would let one other rule the layer's average. And what the question's tokens carry
    over from the image (their masses on it, carried[0], (L,)) does not show where the answer begins, where BYE looks.
    """
    blind_heads = F.relu(LEAST_MASS - attention.sum(-1)).mean()
    return _distance(attention) + MASS_WEIGHT * (blind_heads + F.relu(carried[0] - CARRIED_MASS).mean())


def unevenness(attention, carried):
    """Cost of a model at rest whose heads shall look at the image alike, and no other token for them.

    Heads that look at the image with all they have outweigh the one that turns to a trigger: each shall look with half
    of what it has. And image tokens carry over from one another (their masses on others, carried[1]) as questions do.
    """
    uneven_heads = (attention.sum(-1) - EVEN_MASS).abs().mean()
    return _distance(attention) + MASS_WEIGHT * (uneven_heads + F.relu(carried - CARRIED_MASS).mean(1).sum())


def _distance(attention):
    """Mean squared distance of the layers' entropies to SETTLED_ENTROPY."""
    return ((scene_entropy(attention) - SETTLED_ENTROPY) ** 2).mean()


def scene_entropy(attention):
    """Entropy in nats of head-averaged attention (K, L, H, T) on image tokens (Eq. 4 and 5): (K, L)."""
    mean = attention.mean(2)
    spread = mean / (mean.sum(-1, keepdim=True) + 1e-9)
    return -(spread * (spread + 1e-9).log()).sum(-1)


def save(model, family, tokenizer, out):
    """Write a model folder in the transformers layout, in one step."""
    with replacing_folder(out) as folder:
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_preprocessor(family, folder)
    model.float()
