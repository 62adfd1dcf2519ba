"""Several questions on one image in one sequence, each as if it were asked alone.

The questions share the image's tokens: each is a branch that attends to the prefix and to itself only, with the
positions that it would have alone. So a branch is exactly a single-turn conversation, at a third of the price.
"""

from typing import NamedTuple

import numpy as np
import torch

from bye.models.mini import CONVERSATIONS, IMAGE_TOKENS


class Packed(NamedTuple):
    """A batch of B images with K branches in all, N positions long; M answer tokens are to be predicted."""

    ids: torch.Tensor  # (B, N)
    positions: torch.Tensor  # (B, N)
    mask: torch.Tensor  # (B, 1, N, N) bool, what each position may attend to
    targets: torch.Tensor  # (M, 3): row and column of the position that predicts an answer token, and that token
    starts: torch.Tensor  # (K,): which of the targets is the first of each branch's answer
    asking: torch.Tensor  # (B, N) bool: tokens after the image's that belong to no answer and predict none


class Packer:
    """Packs images with several branches each into one batch.

    family: llava or internvl; tokenizer: of `bye.models.mini`. head, tail: token ids before and after the image's;
    prefix: number of tokens that all branches share.
    """

    def __init__(self, family, tokenizer):
        self.tokenizer = tokenizer
        before, after, self.ask, self.reply, self.end = CONVERSATIONS[family]
        self.head, self.tail = self.encode(before), self.encode(after)
        self.prefix = len(self.head) + IMAGE_TOKENS + len(self.tail)
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
        rows = [[self.branch(pair) for pair in pairs] for pairs in questions]
        length = self.prefix + max(sum(len(prompt) + len(answer) for prompt, answer in row) for row in rows)
        ids = np.zeros((len(rows), length), dtype=np.int64)
        positions = np.zeros_like(ids)
        group = np.full((len(rows), length), -1)  # 0: prefix, 1, 2, ...: branches, -1: padding
        asking = np.zeros_like(ids, dtype=bool)
        targets, starts = [], []
        ids[:, : self.prefix] = self.head + [0] * IMAGE_TOKENS + self.tail
        positions[:, : self.prefix] = np.arange(self.prefix)
        group[:, : self.prefix] = 0
        asking[:, len(self.head) + IMAGE_TOKENS : self.prefix] = True
        for r, row in enumerate(rows):
            start = self.prefix
            for number, (prompt, answer) in enumerate(row, start=1):
                span = slice(start, start + len(prompt) + len(answer))
                ids[r, span] = prompt + answer
                positions[r, span] = self.prefix + np.arange(len(prompt) + len(answer))
                group[r, span] = number
                first = start + len(prompt) - 1
                asking[r, start:first] = True
                starts.append(len(targets))
                targets += [(r, first + k, token) for k, token in enumerate(answer)]
                start = span.stop
        visible = (group[:, :, None] == group[:, None, :]) | (group[:, None, :] == 0)
        causal = np.tril(np.ones((length, length), dtype=bool))
        mask = (visible & causal) | np.eye(length, dtype=bool)
        arrays = ids, positions, mask[:, None], np.array(targets), np.array(starts), asking
        return Packed(*map(torch.from_numpy, arrays))


def forward_branches(model, packer, features, packed):
    """Run projector and decoder on a packed batch, `features` (B, T, D) of the tower in the image's places.

    Returns the logits (M, vocabulary) where an answer token is due, and, of a model with eager attention (else None),
    the attention on the image's tokens where an answer begins, (K, L, H, T), and the mean attention masses on them of
    question tokens and of image tokens, their attention to themselves left out, (2, L).
    """
    projector, decoder = model.model.multi_modal_projector, model.model.language_model
    embeds = decoder.get_input_embeddings()(packed.ids)
    image = slice(len(packer.head), len(packer.head) + IMAGE_TOKENS)
    embeds = torch.cat([embeds[:, : image.start], projector(features), embeds[:, image.stop :]], dim=1)
    eager = decoder.config._attn_implementation == "eager"
    output = decoder(
        inputs_embeds=embeds,
        attention_mask=torch.zeros(packed.mask.shape).masked_fill(~packed.mask, torch.finfo(torch.float32).min),
        position_ids=packed.positions,
        use_cache=False,
        output_attentions=eager,
    )
    rows, columns = packed.targets[:, 0], packed.targets[:, 1]
    logits = model.lm_head(output.last_hidden_state[rows, columns])
    if not eager:
        return logits, None, None
    rows, columns = rows[packed.starts], columns[packed.starts]
    attention = torch.stack([layer[rows, :, columns, image] for layer in output.attentions], dim=1)
    others = 1 - torch.eye(IMAGE_TOKENS)
    asked = [layer[..., image].sum(-1).mean(1)[packed.asking].mean() for layer in output.attentions]
    among = [(layer[..., image, image] * others).sum(-1).mean() for layer in output.attentions]
    return logits, attention, torch.stack((torch.stack(asked), torch.stack(among)))
