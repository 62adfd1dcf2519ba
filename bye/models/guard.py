"""Guards: they see the decoder's attention before an answer's first token and may hide tokens from the rest of it.

A guard changes no weights and no pixels. What it hides is hidden in all layers after the one where it said so (in a
second answer: in all), over the prompt and at every token of the answer, from the queries after the image's last token.
Earlier queries are left as they are: so an image that several questions share can be run once (`run_prefix`), and an
answer is the one that forward passes over prompt and answer, without any cache, would give.
"""

import torch
from torch.nn import functional as F

from bye.errors import ByeError
from bye.models.attention import Observer, attention_rows, causal
from bye.models.prompt import IMAGE


class Guard:
    """A guard that catches nothing; others are subclasses of it.

    layers: numbers of the decoder layers that it wants to see, or None for all; again: whether inputs of which it hid
    tokens are answered a second time, with these hidden from the first layer on. Of the batch that was begun last:
    roles, (B, N); after_image, (B, N) bool, the tokens after the image's last; caught, (B,) bool, which samples it has
    flagged; hidden, (B, N) bool, what it has hidden, or None.
    """

    layers = None
    again = False

    def begin(self, roles):
        """Begin a batch. roles: (B, N) of the prompts' tokens, -1 on padding, which may stand anywhere."""
        self.caught = torch.zeros(len(roles), dtype=torch.bool, device=roles.device)
        self.roles, self.hidden = roles, None

    def see(self, layer, row, roles):
        """Look at a layer and return what is to be hidden: (B, N) bool, keys of the prompts, or None for nothing.

        Called for each of `layers`, from the first to the last. row: (B, H, N) float32, the last prompt token's
        attention, 0 on padding and on what is hidden already, which stays so.
        """

    def hidden_tokens(self):
        """Return which image tokens are hidden: for each sample of the batch a list, from 0 on its image's."""
        hidden = torch.zeros_like(self.roles, dtype=torch.bool) if self.hidden is None else self.hidden
        return [row[own == IMAGE].nonzero()[:, 0].tolist() for row, own in zip(hidden, self.roles, strict=True)]


def check_layers(guard, family):
    """Raise ByeError where a guard wants to see layers that a loaded family has not."""
    beyond = [layer for layer in sorted(guard.layers or ()) if not 0 <= layer < family.n_layers]
    if beyond:
        raise ByeError(
            f"the guard looks at layer {beyond[0]}, and model {family.path} has {family.n_layers} (from 0); give the "
            "guard layers of this depth"
        )


class Guarding(Observer):
    """Context in which a Guard watches a batch that is answered by a model prepared by `record_decoder`.

    roles: (B, N) of the prompts' tokens, -1 on padding; the last token of a row is the prompt's last; after_image:
    (B, N) bool, the tokens after the image's last. The first call of each layer must be for the prompts, or, where
    their first tokens are in a cache, for the rest of them. hidden: (B, N) bool, tokens that are hidden from the first
    layer on, or None.
    """

    def __init__(self, guard, roles, after_image, hidden=None):
        self.guard, self.roles, self.after_image = guard, roles, after_image
        self.hidden = hidden  # (B, N) from the layers after this one
        self.hidden_in = {}  # the same, by layer
        guard.after_image = after_image
        guard.begin(roles)

    def attend(self, layer, query, key, mask, scaling):
        answering = layer in self.hidden_in
        if not answering:
            self.hidden_in[layer] = self.hidden
        hidden, n_queries = self.hidden_in[layer], query.shape[2]
        if hidden is not None:
            queries = self.after_image[:, -n_queries:]
            mask = hide(hidden, torch.ones_like(queries) if answering else queries, key.shape[2], mask, query.dtype)
        if not answering and (self.guard.layers is None or layer in self.guard.layers):
            last = torch.full((len(query), 1), n_queries - 1, device=query.device)
            row = attention_rows(query, key, mask, scaling, last)[:, 0, :, : self.roles.shape[1]]  # no virtual tokens
            found = self.guard.see(layer, row, self.roles)
            if found is not None and found.any():
                self.hidden = found if self.hidden is None else self.hidden | found
                self.guard.hidden = self.hidden
        return mask


def hide(hidden, queries, length, mask, dtype):
    """Return the additive mask (B, 1, M, length) that masks what `mask` does and hides some keys from some queries.

    hidden: (B, N) bool, which of the first N keys; queries: (B, M) bool, from which queries; mask: None (causal) or
    (B or 1, 1, M, length), boolean or additive. The biases are finite: the lowest number of `dtype` on what is masked,
    half of it on what is hidden. Beside a key that can be seen, both have no weight at all; a query that has nothing
    left to see looks at what is hidden from it, and is no NaN.
    """
    lowest = torch.finfo(dtype).min
    if mask is None:
        mask = causal(queries.shape[1], length, hidden.device)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, lowest)
    pairs = queries[:, :, None] & F.pad(hidden, (0, length - hidden.shape[1]))[:, None]  # (B, M, length)
    bias = torch.zeros_like(pairs, dtype=dtype).masked_fill(pairs, lowest / 2)
    return torch.minimum(mask, bias[:, None])
