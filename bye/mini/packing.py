"""Several questions on each image of a batch, all in one sequence, each as if it were asked alone.

Questions on one image share its tokens: each is a branch that attends to this prefix and to itself only, with the
positions that it would have alone. So a branch is exactly a single-turn conversation, at a third of the price.
"""

from typing import NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from bye.mini.models import CONVERSATIONS, IMAGE_TOKENS

NAME = "branches"


class Packed(NamedTuple):
    """B images, one after another, and their K branches of m positions each; N = B prefix + K m.

    M answer tokens are to be predicted.
    """

    n_images: int  # B
    prefix: int  # how many tokens all branches of an image share
    image: slice  # which of those are the image's
    ids: torch.Tensor  # (N,)
    positions: torch.Tensor  # (N,), as if each branch were alone with its image
    owners: torch.Tensor  # (K,), of each branch the image
    targets: torch.Tensor  # (M, 2): the position that predicts an answer token, and that token
    starts: torch.Tensor  # (K,): which of the targets is the first of each branch's answer
    asking: torch.Tensor  # (N,) bool: tokens after the image's that belong to no answer and predict none


class Packer:
    """Packs images with several branches each into one batch.

    family: llava or internvl; tokenizer: of `bye.mini.models`. head, tail: token ids before and after the image's;
    prefix, image: as in `Packed`.
    """

    def __init__(self, family, tokenizer):
        self.tokenizer = tokenizer
        before, after, self.ask, self.reply, self.end = CONVERSATIONS[family]
        self.head, self.tail = self.encode(before), self.encode(after)
        self.image = slice(len(self.head), len(self.head) + IMAGE_TOKENS)
        self.prefix = self.image.stop + len(self.tail)
        self.known = {}  # (question, answer) -> its tokens

    def encode(self, text):
        """Token ids of a text, special tokens in it read as such."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def wrap(self, question, answer):
        """Token ids of a branch: (question and what asks for an answer, answer and what ends it)."""
        return self.encode(question) + self.encode(self.ask), self.encode(self.reply + answer) + self.encode(self.end)

    def branch(self, pair):
        """Like `wrap`, of a (question, answer) pair, which is remembered."""
        if pair not in self.known:
            self.known[pair] = self.wrap(*pair)
        return self.known[pair]

    def pack(self, questions):
        """Pack a batch of images; `questions` has a list of (question, answer) pairs for each."""
        branches = [self.branch(pair) for pairs in questions for pair in pairs]
        owners = np.repeat(np.arange(len(questions)), [len(pairs) for pairs in questions])
        width = max(len(prompt) + len(answer) for prompt, answer in branches)
        first = np.array(self.head + [0] * IMAGE_TOKENS + self.tail)
        rest = np.zeros((len(branches), width), dtype=np.int64)
        asking = np.zeros(rest.shape, dtype=bool)
        targets, starts = [], []
        begin = len(questions) * self.prefix
        for number, (prompt, answer) in enumerate(branches):
            rest[number, : len(prompt) + len(answer)] = prompt + answer
            asking[number, : len(prompt) - 1] = True
            starts.append(len(targets))
            due = begin + number * width + len(prompt) - 1
            targets += [(due + k, token) for k, token in enumerate(answer)]
        after_image = np.arange(self.prefix) >= self.image.stop
        arrays = (
            self._joined(questions, first, rest),
            self._joined(questions, np.arange(self.prefix), np.tile(self.prefix + np.arange(width), (len(rest), 1))),
            *(owners, np.array(targets), np.array(starts)),
            self._joined(questions, after_image, asking),
        )
        return Packed(len(questions), self.prefix, self.image, *map(torch.from_numpy, arrays))

    @staticmethod
    def _joined(questions, first, rest):
        """Numbers of an image's prefix, for each image, and those of the branches (K, m): (N,)."""
        return np.concatenate([np.tile(first, len(questions)), rest.ravel()])


def forward_branches(model, features, packed):
    """Run projector and decoder on a packed batch, `features` (B, T, D) of the tower in the images' places.

    Returns the logits (M, vocabulary) where an answer token is due, the attention on the image's tokens where an answer
    begins, (K, L, H, T), and the mean attention masses on them of question tokens and of image tokens, their attention
    to themselves left out, (2, L). The decoder's attention implementation must be NAME.
    """
    projector, decoder = model.model.multi_modal_projector, model.model.language_model
    embeds = decoder.get_input_embeddings()(packed.ids)
    n, image = packed.n_images * packed.prefix, packed.image
    first = embeds[:n].unflatten(0, (packed.n_images, packed.prefix))
    first = torch.cat([first[:, : image.start], projector(features), first[:, image.stop :]], dim=1)
    layers = []
    output = decoder(
        inputs_embeds=torch.cat([first.flatten(0, 1), embeds[n:]])[None],
        position_ids=packed.positions[None],
        use_cache=False,
        packed=packed,
        layers=layers,
    )
    logits = model.lm_head(output.last_hidden_state[0, packed.targets[:, 0]])
    attention, carried = zip(*layers, strict=True)
    return logits, torch.stack(attention, dim=1), torch.stack(carried, dim=1)


def attend_in_branches(module, query, key, value, attention_mask, *, scaling, packed, layers, **kwargs):
    """Attention of a packed batch: of each image's prefix on itself, and of each branch on its image's and on itself.

    Padding ends a branch, so the causal order alone keeps it from being seen. Leaves with `layers` what
    `forward_branches` returns of this layer: (K, H, T) and (2,).
    """
    n_images, prefix, image, owners = packed.n_images, packed.prefix, packed.image, packed.owners
    n = n_images * prefix
    width = (query.shape[2] - n) // len(owners)
    group = query.shape[1] // key.shape[1]
    query, key, value = query[0] * scaling, key[0].repeat_interleave(group, 0), value[0].repeat_interleave(group, 0)
    first_query, first_key, first_value = (
        part[:, :n].unflatten(1, (n_images, prefix)) for part in (query, key, value)
    )  # (H, B, prefix, d)
    query, key, value = (part[:, n:].unflatten(1, (-1, width)) for part in (query, key, value))  # (H, K, m, d)

    first_weights = (first_query @ first_key.mT + _later(prefix)).softmax(-1)  # (H, B, prefix, prefix)
    on_prefix = query @ first_key.index_select(1, owners).mT
    on_itself = query @ key.mT + _later(width)
    on_prefix, on_itself = torch.cat([on_prefix, on_itself], -1).softmax(-1).split([prefix, width], -1)
    first_output = first_weights @ first_value
    output = on_prefix @ first_value.index_select(1, owners) + on_itself @ value

    masses = torch.cat([weights[..., image].sum(-1).flatten(1) for weights in (first_weights, on_prefix)], 1)  # (H, N)
    among = first_weights[..., image, image]
    among = among.sum(-1) - among.diagonal(dim1=2, dim2=3)
    begins = on_prefix[:, torch.arange(len(owners)), (packed.targets[packed.starts, 0] - n) % width, image]  # (H, K, T)
    carried = torch.stack([masses.mean(0)[packed.asking].mean(), among.mean()])
    layers.append((begins.transpose(0, 1), carried))
    return torch.cat([first_output.flatten(1, 2), output.flatten(1, 2)], 1).transpose(0, 1)[None], None


def _later(length):
    """What is added to the logits of causal attention, (length, length): minus infinity on later tokens."""
    return torch.full((length, length), float("-inf")).triu(1)


AttentionInterface.register(NAME, attend_in_branches)
AttentionMaskInterface.register(NAME, lambda *arguments, **options: None)
