"""(IA)^3 (Liu et al. 2022, arXiv:2205.05638): keys, values and the MLP's inner numbers are scaled by trained vectors.

Saved as a standard PEFT adapter folder.
"""

import re

import torch

from bye.methods.tuning import lora
from bye.models import adapters

KIND = "IA3"  # PEFT's name
OUTPUTS, INPUTS = ("k_proj", "v_proj"), ("down_proj",)  # linear layers whose outputs, and whose inputs, are scaled


def attach(family):
    """Put (IA)^3 on the decoder of a loaded family's model; return the PeftModel."""
    from peft import IA3Config, get_peft_model

    config = IA3Config(
        target_modules=lora.pattern(family, OUTPUTS + INPUTS, projector=False),
        feedforward_modules=lora.pattern(family, INPUTS, projector=False),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(family.path),
    )
    with lora.without_old_names():
        return get_peft_model(family.model, config)


def save(adapted, folder):
    """Write the vectors into a folder, as PEFT does it."""
    lora.save(adapted, folder)


def check(family, folder):
    """See that all of the folder fits the family's model, of which no weights are needed. Raises ByeError otherwise."""
    with lora.without_old_names():
        adapters.fit(family, folder, KIND)


def load(family, folder):
    """Put the vectors of a PEFT folder on the family's model; in float32 they are merged into the weights."""
    with lora.without_old_names():
        adapted = adapters.put(family.model, adapters.fit(family, folder, KIND))
    whole = family.model.dtype == torch.float32
    family.model = adapted.merge_and_unload() if whole else adapted.base_model.model


def count(family):
    """Number of the vectors' parameters, and what they are in words."""
    found = dict(family.model.named_modules())
    numbers = [
        getattr(module, size)
        for names, size in ((OUTPUTS, "out_features"), (INPUTS, "in_features"))
        for name, module in found.items()
        if re.fullmatch(lora.pattern(family, names, projector=False), name)
    ]
    return sum(numbers), f"(IA)^3 vectors of {len(numbers)} linear layers"
