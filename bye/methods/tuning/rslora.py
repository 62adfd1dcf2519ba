"""Rank-stabilised LoRA (Kalajdzievski 2023, arXiv:2312.03732): LoRA whose update is scaled by alpha / sqrt(rank).

Saved as a standard PEFT adapter folder.
"""

from typing import Annotated, Literal

from bye.methods.tuning import lora


def attach(
    family,
    *,
    lora_rank: Annotated[int, {"minimum": 1}] = 16,
    lora_alpha: Annotated[float, {"exclusiveMinimum": 0}] = 32.0,
    lora_dropout: Annotated[float, {"minimum": 0, "exclusiveMaximum": 1}] = 0.0,
    lora_targets: Annotated[
        list[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]] | None,
        {"uniqueItems": True},
    ] = None,
    lora_projector: bool = False,
    lora_layers: Annotated[int | None, {"minimum": 1}] = None,
):
    """Put rank-stabilised LoRA on a loaded family's model; return the PeftModel.

    lora_rank, lora_alpha, lora_dropout, lora_targets, lora_projector, lora_layers: as of the method `lora`.
    """
    wanted = lora.pattern(family, lora_targets, lora_projector, lora_layers)
    return lora.put(family, wanted, r=lora_rank, lora_alpha=lora_alpha, lora_dropout=lora_dropout, use_rslora=True)


def save(adapted, folder):
    """Write the adapter into a folder, as PEFT does it."""
    lora.save(adapted, folder)


def check(family, folder):
    """See that all of the folder fits the family's model, of which no weights are needed. Raises ByeError otherwise."""
    lora.check(family, folder)


def load(family, folder):
    """Put the adapter of a folder on the family's model, as the method `lora` does."""
    lora.load(family, folder)


def count(family, *, lora_rank=16, lora_targets=None, lora_projector=False, lora_layers=None):
    """Number of rank-stabilised LoRA's parameters with settings as in `attach`, and what they are in words."""
    number, words = lora.count(
        family,
        lora_rank=lora_rank,
        lora_targets=lora_targets,
        lora_projector=lora_projector,
        lora_layers=lora_layers,
    )
    return number, f"rank-stabilised {words}"
