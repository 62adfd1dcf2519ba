"""Observe the decoder's attention beside the stock SDPA kernel: the last prompt token's row, at the price of one query.

The function is registered in `transformers`' own registry of attention functions and set for the decoder only; the
vision tower stays as it is. Where eager attention with `output_attentions=True` keeps heads x N x N numbers a layer,
this keeps heads x N.
"""

from contextvars import ContextVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_last_row"
_observing = ContextVar("observing", default=None)


def attention_row(query, key, attention_mask, scaling, last):
    """Softmax of one query row for each batch entry, in float32: (B, H, N).

    query: (B, H, M, d), the last M of N tokens; key: (B, H / group, N, d), grouped-query attention where group > 1;
    scaling: of the logits; attention_mask: None (causal, no padding) or (B or 1, 1, M, N), boolean or additive;
    last: (B,) the row's place among the M.
    """
    batch, heads, n_queries, width = query.shape
    length = key.shape[2]
    rows = torch.arange(batch, device=query.device)
    one = query[rows, :, last].float()  # (B, H, d)
    one = one.view(batch, key.shape[1], -1, width)  # (B, K, group, d): heads that share a key are neighbours
    logits = (one @ key.float().transpose(2, 3)).view(batch, heads, length) * scaling
    if attention_mask is None:
        visible = torch.arange(length, device=query.device) <= last[:, None] + length - n_queries  # (B, N)
        logits = logits.masked_fill(~visible[:, None], float("-inf"))
    else:
        mask = attention_mask.expand(batch, -1, -1, -1)[rows, 0, last][:, None]  # (B, 1, N)
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()
    return logits.softmax(dim=-1)


def sdpa_last_row(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Stock SDPA attention; inside the context of an Observer, that looks on and may give another mask."""
    observer = _observing.get()
    if observer is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        attention_mask = observer.attend(module.layer_idx, query, key, attention_mask, scale)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(NAME, sdpa_last_row)
AttentionMaskInterface.register(NAME, sdpa_mask)


def record_decoder(model):
    """Let the decoder of a vision-language model use the observed function; its tower keeps plain SDPA."""
    model.set_attn_implementation({"": model.config._attn_implementation, "text_config": NAME})


class Observer:
    """Context in which every decoder layer of a model prepared by `record_decoder` calls `attend` before it attends."""

    def attend(self, layer, query, key, mask, scaling):
        """Return the mask that the layer is to use: the one given, or another.

        layer: its number; query, key, mask, scaling: as in `attention_row`.
        """
        raise NotImplementedError

    def __enter__(self):
        self._token = _observing.set(self)
        return self

    def __exit__(self, *exception):
        _observing.reset(self._token)


class LastRow(Observer):
    """Context in which every decoder layer leaves its row of attention.

    mask: (B, M) ones on the prompt's tokens and zeros on padding, on either side; M = N, or less where the first tokens
    are in a cache. The row is that of the last prompt token, the query of the first token to be generated. After the
    forward pass `attention` is (B, L, H, N) float32.
    """

    def __init__(self, mask):
        positions = torch.arange(mask.shape[1], device=mask.device)
        self.last = (mask.long() * positions).argmax(dim=1)  # (B,)
        self.layers = []

    def __enter__(self):
        self.layers.clear()
        return super().__enter__()

    def attend(self, layer, query, key, mask, scaling):
        self.layers.append(attention_row(query, key, mask, scaling, self.last))
        return mask

    @property
    def attention(self):
        """(B, L, H, N) float32: each row sums to one over the tokens that it may see."""
        return torch.stack(self.layers, dim=1)
