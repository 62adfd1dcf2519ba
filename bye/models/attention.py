"""Observe the decoder's attention beside the stock SDPA kernel: rows of single tokens, each at the price of one query.

The function is registered in `transformers`' own registry of attention functions and set for the decoder only; the
vision tower stays as it is. Where eager attention with `output_attentions=True` keeps heads x N x N numbers a layer,
a row has heads x N.
"""

from contextvars import ContextVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_rows"
ROWS_AT_ONCE = 8  # of each batch entry, in memory
_observing = ContextVar("observing", default=None)


def attention_rows(query, key, attention_mask, scaling, places):
    """Softmax of R query rows for each batch entry, in float32: (B, R, H, N).

    query: (B, H, M, d), the last M of N tokens; key: (B, H / group, N, d), grouped-query attention where group > 1;
    scaling: of the logits; attention_mask: None (causal, no padding) or (B or 1, 1, M, N), boolean or additive;
    places: (B, R) the rows' places among the M.
    """
    batch, heads, n_queries, width = query.shape
    n_keys, length, n_rows = key.shape[1], key.shape[2], places.shape[1]
    entries = torch.arange(batch, device=query.device)[:, None]
    chosen = query[entries, :, places].float()  # (B, R, H, d)
    chosen = chosen.view(batch, n_rows, n_keys, -1, width).transpose(1, 2)  # heads that share a key are neighbours
    logits = chosen.reshape(batch, n_keys, -1, width) @ key.float().transpose(2, 3)  # (B, K, R x group, N)
    logits = logits.view(batch, n_keys, n_rows, -1, length).transpose(1, 2)
    logits = logits.reshape(batch, n_rows, heads, length) * scaling
    if attention_mask is None:
        visible = torch.arange(length, device=query.device) <= places[..., None] + length - n_queries  # (B, R, N)
        logits = logits.masked_fill(~visible[:, :, None], float("-inf"))
    else:
        mask = attention_mask.expand(batch, -1, -1, -1)[entries, 0, places][:, :, None]  # (B, R, 1, N)
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()
    return logits.softmax(dim=-1)


def sdpa_rows(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Stock SDPA attention; inside the context of an Observer, that looks on and may give another mask."""
    virtual = getattr(module, "virtual", None)  # of `bye.models.virtual`
    if virtual is not None:
        key, value, attention_mask = virtual(query, key, value, attention_mask)
    observer = _observing.get()
    if observer is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        attention_mask = observer.attend(module.layer_idx, query, key, attention_mask, scale)
    if _slow_backward(query, attention_mask, kwargs):
        return plain_attention(query, key, value, scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def causal(n_queries, length, device):
    """The mask of the last queries of a sequence: (1, 1, n_queries, length) bool, true on what they see."""
    return torch.ones(1, 1, n_queries, length, dtype=torch.bool, device=device).tril(length - n_queries)


def plain_attention(query, key, value, scaling=None):
    """Causal attention by its formula, of as many queries (B, H, N, d) as keys (B, K, N, d): (B, N, H, d)."""
    batch, heads, length, width = query.shape
    n_keys = key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    logits = (query * scale).reshape(batch, n_keys, -1, width) @ key.transpose(2, 3)  # heads that share a key in a row
    unseen = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
    weights = (logits.view(batch, n_keys, -1, length, length) + unseen).softmax(dim=-1)
    mixed = weights.view(batch, n_keys, -1, length) @ value
    return mixed.view(batch, heads, length, width).transpose(1, 2).contiguous()


def _slow_backward(query, mask, kwargs):
    """Whether gradients go through PyTorch's fused attention in half precision on a CPU, which has no fast way back."""
    trained = query.requires_grad and mask is None and not kwargs.get("dropout")
    return trained and query.device.type == "cpu" and query.dtype == torch.bfloat16


AttentionInterface.register(NAME, sdpa_rows)
AttentionMaskInterface.register(NAME, sdpa_mask)


def record_decoder(model):
    """Let the decoder of a vision-language model use the observed function; its tower keeps plain SDPA."""
    model.set_attn_implementation({"": model.config._attn_implementation, "text_config": NAME})


class Observer:
    """Context in which every decoder layer of a model prepared by `record_decoder` calls `attend` before it attends."""

    def attend(self, layer, query, key, mask, scaling):
        """Return the mask that the layer is to use: the one given, or another.

        layer: its number; query, key, mask, scaling: as in `attention_rows`.
        """
        raise NotImplementedError

    def __enter__(self):
        self._token = _observing.set(self)
        return self

    def __exit__(self, *exception):
        _observing.reset(self._token)


class Rows(Observer):
    """Context in which every decoder layer leaves what is kept of its rows of attention.

    places: (B, R) the rows' places among the tokens of the forward pass, where these are the last M of N, as the first
    ones may be in a cache; a place may stand there twice. reduce: a function from rows (B, r, H, N), float32, each
    summing to one over the tokens that it may see, to a tuple of tensors (B, r or 1, ...). It is called with a few rows
    at a time, so that no more than those of one layer are ever in memory. After the forward pass `layers` has a tuple
    for each layer, of its parts one after the other.
    """

    def __init__(self, places, reduce):
        self.places, self.reduce = places, reduce
        self.layers = []

    def __enter__(self):
        self.layers.clear()
        return super().__enter__()

    def attend(self, layer, query, key, mask, scaling):
        parts = [
            self.reduce(attention_rows(query, key, mask, scaling, places))
            for places in self.places.split(ROWS_AT_ONCE, dim=1)
        ]
        # A copy, of one part too, so that what it is a view of can go.
        self.layers.append(tuple(torch.cat(kept, dim=1) for kept in zip(*parts, strict=True)))
        return mask
