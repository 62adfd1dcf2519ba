"""LoRA on the decoder and the projector in full: the recipe of LLaVA's own repository (Liu et al. 2024,
arXiv:2310.03744).

Saved as there: a PEFT adapter folder, and beside it the projector's weights in non_lora_trainables.safetensors, with
the names that they have in the model, behind PEFT's prefix.
"""

from typing import Annotated, Literal

from safetensors.torch import save_file

from bye.methods.tuning import lora, projector
from bye.models.adapters import BESIDE


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
):
    """Put LoRA on a loaded family's decoder and let its projector be trained; return the PeftModel.

    lora_rank, lora_alpha, lora_dropout, lora_targets: as of the method `lora`.
    """
    settings = {"lora_rank": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
    adapted = lora.attach(family, **settings, lora_targets=lora_targets)
    projector.attach(family)
    return adapted


def save(adapted, folder):
    """Write the adapter and the projector into a folder."""
    lora.save(adapted, folder)
    trained = {name: each.detach().cpu() for name, each in adapted.named_parameters() if each.requires_grad}
    own = {name: each for name, each in trained.items() if ".lora_" not in name}
    save_file(own, folder / f"{BESIDE}.safetensors")


def check(family, folder):
    """See that all of the folder fits the family's model, of which no weights are needed. Raises ByeError otherwise."""
    lora.check(family, folder)


def load(family, folder):
    """Put the adapter and the projector of a folder on the family's model, as the method `lora` does."""
    lora.load(family, folder)


def count(family, *, lora_rank=16, lora_targets=None):
    """Number of parameters of LoRA and the projector, with settings as in `attach`, and what they are in words."""
    number, words = lora.count(family, lora_rank=lora_rank, lora_targets=lora_targets)
    return number + projector.count(family)[0], f"{words} and the projector in full"
