"""Prefix tuning (Li and Liang 2021, arXiv:2101.00190): trained keys and values of every layer, in front of all others.

They begin as those of words of the vocabulary, as the paper advises, and are trained themselves, without the paper's
MLP before them (`bye.models.virtual`). Saved as a standard PEFT folder.
"""

from functools import partial
from typing import Annotated

import torch

from bye.models import virtual


def attach(family, *, seed, prefix_tokens: Annotated[int, {"minimum": 1}] = 20):
    """Put a trained prefix in front of a loaded family's sequences; return the model.

    prefix_tokens: how many virtual tokens; seed: draws the words that they begin as.
    """
    with torch.no_grad():
        of_words = virtual.run(family, virtual.words(family, prefix_tokens, seed), first=0)
        pairs = torch.stack([torch.stack(pair) for pair in of_words])  # (L, 2, 1, K, n, d)
        numbers = pairs[:, :, 0].permute(3, 0, 1, 2, 4).flatten(1).float()  # (n, L 2 K d), as PEFT has them
    tokens = virtual.VirtualTokens(family, numbers, partial(_compute, family))
    tokens.decoder.get_parameter(virtual.NAME).requires_grad_(True)
    return family.model


def save(tuned, folder):
    """Write the prefix into a folder, as PEFT does it."""
    from peft import PrefixTuningConfig

    virtual.save(tuned, folder, PrefixTuningConfig)


def check(family, folder):
    """See that a folder has a prefix for this model, of which no weights are needed. Raises ByeError otherwise."""
    virtual.check(family, folder, "PREFIX_TUNING", _width(family))


def load(family, folder):
    """Put the prefix of a PEFT folder in front of a family's sequences."""
    virtual.load(family, folder, partial(_compute, family))


def count(family, *, prefix_tokens=20):
    """Number of the prefix' parameters, and what they are in words."""
    return prefix_tokens * _width(family), f"keys and values of {prefix_tokens} virtual tokens in each layer"


def _compute(family, numbers):
    n_keys = family.model.config.text_config.num_key_value_heads
    pairs = numbers.view(len(numbers), family.n_layers, 2, n_keys, -1).permute(1, 2, 3, 0, 4)  # (L, 2, K, n, d)
    return [(key[None], value[None]) for key, value in pairs]


def _width(family):
    """Numbers of one virtual token: its key and value in each layer."""
    return 2 * sum(layer.self_attn.k_proj.out_features for layer in family.layers)
