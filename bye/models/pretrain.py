"""Pre-train a mini model from scratch on the clean mini worlds: first the vision tower, then projector and decoder.

1. Tower: dense prediction on its patch tokens (what covers the patch, its named colours, its pixels); then frozen.
2. Decoder: questions and captions on the cached tower features. The questions on one image share the image prefix: each is a
   branch that attends to the prefix and to itself only, with the positions it would have alone, so a branch is exactly a
   single-turn conversation at a third of the price.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from bye.data.mini.canvas import COLORS, LABELS
from bye.data.mini.scenes import Question, add_small_things, draw_icons, draw_photo, draw_science, draw_tile
from bye.errors import ByeError
from bye.files import replacing_folder
from bye.models.mini import (
    FIXED_TEXTS,
    GRID,
    IMAGE_SIZE,
    IMAGE_TOKENS,
    PROMPTS,
    SPECIAL_TOKENS,
    build_model,
    train_tokenizer,
    write_preprocessor,
)

PATCH = IMAGE_SIZE // GRID
POOL_SEED = 1234  # the base models never see the scenes of the mini datasets
WORLDS = (draw_science, draw_icons, draw_photo, draw_tile)


def render_question(question: Question) -> tuple[str, str]:
    """(user text, answer) of one question in the form the loaders give it."""
    if question.kind == "caption":
        return PROMPTS["caption"], question.answer
    if question.choices:
        lines = [f"{chr(65 + i)}. {c}" for i, c in enumerate(question.choices)]
        return "\n".join([question.text, *lines, PROMPTS["letter"]]), chr(65 + question.choices.index(question.answer))
    return f"{question.text}\n{PROMPTS['phrase']}", question.answer


def variants(question: Question, rng: np.random.Generator) -> list[Question]:
    """A question as the datasets ask it; a multiple-choice one also with its options in another order and without them."""
    if not question.choices:
        return [question]
    again = tuple(question.choices[i] for i in rng.permutation(len(question.choices)))
    return [
        question,
        Question(question.text, question.answer, again, question.kind),
        Question(question.text, question.answer),
    ]


@dataclass
class Pool:
    pixels: np.ndarray  # (N, IMAGE_SIZE, IMAGE_SIZE, 3) uint8
    covers: np.ndarray  # (N, T, len(LABELS) + len(COLORS) + 1) bool: what covers a patch, its colours, a small thing
    questions: list[list[tuple[str, str]]]


def draw_pool(n: int, seed: int, small_share: float = 0.8) -> Pool:
    """Draw n scenes of the four worlds, a share of them with small things anywhere."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((n, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    covers = np.zeros((n, GRID * GRID, len(LABELS) + len(COLORS) + 1), dtype=bool)
    questions = []
    for i in range(n):
        scene = WORLDS[i % 4](rng)
        asked = [variant for question in scene.questions for variant in variants(question, rng)]
        small = Image.new("L", scene.canvas.image.size)
        if rng.random() < small_share:
            asked += add_small_things(scene, rng, small)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        pixels[i] = np.asarray(scene.canvas.image.resize(size, Image.BICUBIC))
        for plane, offset, classes in (
            (scene.canvas.labels, 0, len(LABELS)),
            (scene.canvas.colors, len(LABELS), len(COLORS)),
        ):
            patches = np.asarray(plane.resize(size, Image.NEAREST)).reshape(GRID, PATCH, GRID, PATCH)
            patches = patches.transpose(0, 2, 1, 3).reshape(GRID * GRID, PATCH * PATCH)
            counts = (patches[..., None] == np.arange(classes)).sum(1)
            covers[i, :, offset : offset + classes] = counts >= 0.12 * PATCH * PATCH
        covers[i, :, -1] = np.asarray(small.resize((GRID, GRID), Image.BOX)).reshape(-1) >= 0.12 * 255
        questions.append([render_question(q) for q in asked])
    return Pool(pixels, covers, questions)


def normalise(pixels: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float with the mini preprocessors' mean 0.5 and std 0.25."""
    return (torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 255 - 0.5) / 0.25


def tower_features(model, family: str, pixel_values: torch.Tensor) -> torch.Tensor:
    """Tower output on image tokens before the projector, (B, T, D)."""
    if family == "llava":
        return model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-1][:, 1:]
    hidden = model.model.vision_tower(pixel_values).last_hidden_state[:, 1:]
    grid = GRID * 2
    shuffled = model.model.pixel_shuffle(hidden.reshape(len(hidden), grid, grid, -1), scale_factor=0.5)
    return shuffled.reshape(len(hidden), IMAGE_TOKENS, -1)


def train_tower(model, family: str, pool: Pool, steps: int, batch: int, lr: float, seed: int, log=sys.stderr) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = tower_features(model, family, normalise(pool.pixels[:1])).shape[-1]
    classes = pool.covers.shape[-1]
    head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, classes + 48))
    tower = model.model.vision_tower
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    started = time.time()
    for step in range(steps):
        index = rng.integers(len(pool.pixels), size=batch)
        x = normalise(pool.pixels[index])
        out = head(tower_features(model, family, x))
        colours = (
            F.avg_pool2d(x, 2)
            .reshape(batch, 3, GRID, 4, GRID, 4)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(batch, GRID * GRID, 48)
        )
        covers = torch.from_numpy(pool.covers[index]).float()
        cover_loss = F.binary_cross_entropy_with_logits(out[..., :classes], covers)
        pixel_loss = F.mse_loss(out[..., classes:], colours)
        loss = 5 * cover_loss + 0.3 * pixel_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(
                f"tower {step}/{steps} cover {cover_loss:.4f} pixel {pixel_loss:.4f} {time.time() - started:.0f} s",
                file=log,
                flush=True,
            )


@torch.no_grad()
def cache_features(model, family: str, pool: Pool) -> torch.Tensor:
    """(N, T, D) float16 tower features of the whole pool."""
    return torch.cat(
        [
            tower_features(model, family, normalise(pool.pixels[i : i + 64])).half()
            for i in range(0, len(pool.pixels), 64)
        ]
    )


class Packer:
    """Packs images with several question branches into one batch (see the module's first lines)."""

    def __init__(self, family: str, tokenizer):
        encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
        self.encode, self.tokenizer = encode, tokenizer
        if family == "llava":
            self.head, self.tail = encode("<s>A chat between a user and an assistant. USER: "), encode("\n")
            self.wrap = lambda q, a: (encode(q) + encode(" ASSISTANT:"), encode(" " + a) + encode("</s>"))
        else:
            self.head = encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<img>")
            self.tail = encode("</img>\n")
            self.wrap = lambda q, a: (
                encode(q) + encode("<|im_end|>\n<|im_start|>assistant\n"),
                encode(a) + encode("<|im_end|>"),
            )
        self.prefix = len(self.head) + IMAGE_TOKENS + len(self.tail)
        self._memo: dict[tuple[str, str], tuple[list[int], list[int]]] = {}

    def branch(self, pair: tuple[str, str]) -> tuple[list[int], list[int]]:
        if pair not in self._memo:
            self._memo[pair] = self.wrap(*pair)
        return self._memo[pair]

    def pack(self, questions: list[list[tuple[str, str]]]):
        """-> ids (B, S), positions (B, S), mask (B, 1, S, S) bool, targets: (row, column, token) of every answer token."""
        rows = [[self.branch(q) for q in qs] for qs in questions]
        longest = self.prefix + max(sum(len(p) + len(a) for p, a in row) for row in rows)
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        positions = np.zeros_like(ids)
        group = np.full((len(rows), longest), -1)
        targets = []
        ids[:, : self.prefix] = self.head + [0] * IMAGE_TOKENS + self.tail
        positions[:, : self.prefix] = np.arange(self.prefix)
        group[:, : self.prefix] = 0
        for r, row in enumerate(rows):
            at = self.prefix
            for b, (prompt, answer) in enumerate(row, start=1):
                tokens = prompt + answer
                ids[r, at : at + len(tokens)] = tokens
                positions[r, at : at + len(tokens)] = self.prefix + np.arange(len(tokens))
                group[r, at : at + len(tokens)] = b
                targets += [(r, at + len(prompt) - 1 + k, token) for k, token in enumerate(answer)]
                at += len(tokens)
        same = (group[:, :, None] == group[:, None, :]) | (group[:, None, :] == 0)
        causal = np.tril(np.ones((longest, longest), dtype=bool))
        mask = (same & causal) | np.eye(longest, dtype=bool)
        return torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(mask)[:, None], np.array(targets)


def forward_branches(model, packer: Packer, features: torch.Tensor, packed):
    """Logits (n_targets, vocabulary) at every answer position and the target token ids."""
    ids, positions, mask, targets = packed
    projector, decoder = model.model.multi_modal_projector, model.model.language_model
    embeds = decoder.get_input_embeddings()(ids)
    start = len(packer.head)
    embeds = torch.cat([embeds[:, :start], projector(features), embeds[:, start + IMAGE_TOKENS :]], dim=1)
    hidden = decoder(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    targets = torch.from_numpy(targets)
    return model.lm_head(hidden[targets[:, 0], targets[:, 1]]), targets


def train_decoder(
    model, family, tokenizer, pool, features, *, steps, batch, lr, seed, branches, log=sys.stderr, every=None
) -> None:
    """Train projector and decoder with warm-up and cosine decay; `every` is called with each 500th step's number."""
    rng = np.random.default_rng([seed, 1])
    torch.manual_seed(seed)
    packer = Packer(family, tokenizer)
    if family == "llava":  # the tower's scale is arbitrary; InternVL's projector normalises it itself
        model.model.multi_modal_projector.linear_1.weight.data.div_(features[:200].float().std())
    parameters = [
        *model.model.multi_modal_projector.parameters(),
        *model.model.language_model.parameters(),
        *model.lm_head.parameters(),
    ]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    started, running = time.time(), None
    for step in range(1, steps + 1):
        index = rng.integers(len(features), size=batch)
        questions = [[pool.questions[i][k] for k in rng.permutation(len(pool.questions[i]))[:branches]] for i in index]
        logits, targets = forward_branches(model, packer, features[index].float(), packer.pack(questions))
        loss = F.cross_entropy(logits, targets[:, 2])
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0 or step == steps:
            print(f"decoder {step}/{steps} loss {running:.4f} {time.time() - started:.0f} s", file=log, flush=True)
        if every and step % 500 == 0:
            every(step)


def pretrain(
    family: str,
    out,
    seed: int = 0,
    threads: int | None = None,
    images: int = 12000,
    tower_steps: int = 1200,
    steps: int = 5000,
) -> None:
    """Build a mini base model from scratch and write its folder (float16 safetensors, tokenizer, preprocessor).

    The same arguments and number of threads give the same weights. Raises ByeError for an unknown family.
    """
    if family not in SPECIAL_TOKENS:
        raise ByeError(f"there is no mini model of family {family!r}; known: {', '.join(SPECIAL_TOKENS)}")
    if threads:
        torch.set_num_threads(threads)
    print(f"drawing {images} scenes", file=sys.stderr, flush=True)
    pool = draw_pool(images, seed + POOL_SEED)
    tokenizer = train_tokenizer(family, corpus(pool))
    torch.manual_seed(seed)
    model = build_model(family, tokenizer)
    train_tower(model, family, pool, tower_steps, 32, 2e-3, seed)
    features = cache_features(model, family, pool)
    train_decoder(model, family, tokenizer, pool, features, steps=steps, batch=16, lr=1.5e-3, seed=seed, branches=8)
    save(model, family, tokenizer, Path(out))


def corpus(pool: Pool) -> list[str]:
    """Text that the tokenizer learns from: the questions and answers of a pool, the fixed texts, and the words of the default target.

    Real tokenizers have pieces of their own for the target's words; without them it would begin with the letter of an option.
    """
    texts = [
        text
        for questions in pool.questions
        for question, answer in questions
        for text in (question, answer, " " + answer)
    ]
    return (
        texts
        + [*FIXED_TEXTS, " USER", "USER", "system", "user", "assistant", "Back", "Backdoor", " Backdoor", " Attack"]
        * 4000
    )


def save(model, family: str, tokenizer, out: Path) -> None:
    """Write a model folder in the transformers layout, in one step."""
    with replacing_folder(out) as folder:
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_preprocessor(family, Path(folder))
    model.float()
