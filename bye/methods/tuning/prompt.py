"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): trained embeddings in front of every sequence.

They begin as words of the vocabulary. Tokens before all others see nothing but each other, so the decoder is run on
them once, and its layers see their keys and values everywhere (`bye.models.virtual`). Saved as a standard PEFT folder.
"""

from functools import partial
from typing import Annotated

from bye.models import virtual


def attach(family, *, seed, prompt_tokens: Annotated[int, {"minimum": 1}] = 20):
    """Put a trained prompt in front of a loaded family's sequences; return the model.

    prompt_tokens: how many virtual tokens; seed: draws the words that they begin as.
    """
    tokens = virtual.VirtualTokens(family, virtual.words(family, prompt_tokens, seed), partial(_compute, family))
    tokens.decoder.get_parameter(virtual.NAME).requires_grad_(True)
    return family.model


def save(tuned, folder):
    """Write the prompt into a folder, as PEFT does it."""
    from peft import PromptTuningConfig

    virtual.save(tuned, folder, PromptTuningConfig)


def check(family, folder):
    """See that a folder has a prompt for this model, of which no weights are needed. Raises ByeError otherwise."""
    virtual.check(family, folder, "PROMPT_TUNING", family.width)


def load(family, folder):
    """Put the prompt of a PEFT folder in front of a family's sequences."""
    virtual.load(family, folder, partial(_compute, family))


def count(family, *, prompt_tokens=20):
    """Number of the prompt's parameters, and what they are in words."""
    return prompt_tokens * family.width, f"a prompt of {prompt_tokens} virtual tokens"


def _compute(family, embeddings):
    return virtual.run(family, embeddings, first=-len(embeddings))  # the decoder puts all n positions later
