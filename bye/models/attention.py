"""Record the last prompt token's attention beside the stock SDPA kernel, at the price of one query row a layer.

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
_recording = ContextVar("recording", default=None)


def attention_row(query, key, attention_mask, scaling, last):
    """Softmax of one query row for each batch entry, in float32: (B, H, N).

    query: (B, H, M, d), the last M of N tokens; key: (B, H / group, N, d), grouped-query attention where group > 1;
    scaling: of the logits; attention_mask: None (causal, no padding, M = N) or (B or 1, 1, M, N), boolean or additive;
    last: (B,) the row's place among the M.
    """
    batch, heads, _, width = query.shape
    length = key.shape[2]
    rows = torch.arange(batch, device=query.device)
    one = query[rows, :, last].float()  # (B, H, d)
    one = one.view(batch, key.shape[1], -1, width)  # (B, K, group, d): heads that share a key are neighbours
    logits = (one @ key.float().transpose(2, 3)).view(batch, heads, length) * scaling
    if attention_mask is None:
        visible = torch.arange(length, device=query.device) <= last[:, None]  # (B, N)
        logits = logits.masked_fill(~visible[:, None], float("-inf"))
    else:
        mask = attention_mask.expand(batch, -1, -1, -1)[rows, 0, last][:, None]  # (B, 1, N)
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()
    return logits.softmax(dim=-1)


def sdpa_last_row(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Stock SDPA attention; inside a LastRow context it leaves one row of attention with it."""
    recorder = _recording.get()
    if recorder is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        recorder.layers.append(attention_row(query, key, attention_mask, scale, recorder.last))
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(NAME, sdpa_last_row)
AttentionMaskInterface.register(NAME, sdpa_mask)


def record_decoder(model):
    """Let the decoder of a vision-language model use the recording function; its tower keeps plain SDPA."""
    model.set_attn_implementation({"": model.config._attn_implementation, "text_config": NAME})


class LastRow:
    """Context in which every decoder layer of a model prepared by `record_decoder` leaves its row of attention.

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
        self._token = _recording.set(self)
        return self

    def __exit__(self, *exception):
        _recording.reset(self._token)

    @property
    def attention(self):
        """(B, L, H, N) float32: each row sums to one over the tokens that it may see."""
        return torch.stack(self.layers, dim=1)
