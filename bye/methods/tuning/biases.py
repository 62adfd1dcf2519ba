"""Biases alone (BitFit, Zaken et al. 2022, arXiv:2106.10199): those of decoder and projector.

Decoders of the Llama kind have none: their linear layers are given biases of zero, as in LLaMA-Adapter V2 (Gao et al.
2023, arXiv:2304.15010). Saved as safetensors, with the names that the biases have in the model.
"""

import torch

from bye.models import weights

FILE = "biases.safetensors"


def attach(family, *, add_biases: bool = True):
    """Let the biases of a loaded family's decoder and projector be trained; return the model.

    add_biases: give the decoder's linear layers that have no bias one, which is zero at first.
    """
    if add_biases:
        for layer in _without_bias(family).values():
            _add(layer)
    for parameter in _biases(family).values():
        parameter.requires_grad_(True)
    return family.model


def save(tuned, folder):
    """Write the biases into a folder."""
    weights.save(tuned, folder / FILE)


def check(family, folder):
    """See that a folder has the biases of this model, of which no weights are needed. Raises ByeError otherwise."""
    found = weights.shapes(f"{folder}/{FILE}", "biases")
    wanted = {name: tuple(each.shape) for name, each in _biases(family).items()}
    added = {f"{name}.bias": (layer.out_features,) for name, layer in _without_bias(family).items()}
    if added.keys() & found.keys():
        wanted |= added
    weights.compare(f"{folder}/{FILE}", found, wanted, "the biases", family.path)


def load(family, folder):
    """Put the biases of a folder into the family's model, and beside its layers where they have none."""
    found = weights.shapes(f"{folder}/{FILE}", "biases")
    for name, layer in _without_bias(family).items():
        if f"{name}.bias" in found:
            _add(layer)
    weights.load(family.model, f"{folder}/{FILE}")


def count(family, *, add_biases=True):
    """Number of the biases, and what they are in words."""
    there, added = _biases(family), _without_bias(family) if add_biases else {}
    number = sum(each.numel() for each in there.values()) + sum(layer.out_features for layer in added.values())
    return number, f"{len(there) + len(added)} biases, {len(added)} of them added"


def _biases(family):
    """{name in the model: parameter} of the biases of decoder and projector."""
    modules = [family.model.model.language_model, family.model.lm_head]
    inside = {id(each) for module in modules for each in module.parameters()}
    inside |= {id(each) for each in family.projector_parameters()}
    return {
        name: each for name, each in family.model.named_parameters() if name.endswith(".bias") and id(each) in inside
    }


def _without_bias(family):
    """{name in the model: linear layer} of the decoder's layers without a bias."""
    inside = {id(module) for layer in family.layers for module in layer.modules()}
    return {
        name: module
        for name, module in family.model.named_modules()
        if id(module) in inside and isinstance(module, torch.nn.Linear) and module.bias is None
    }


def _add(layer):
    layer.bias = torch.nn.Parameter(layer.weight.new_zeros(layer.out_features), requires_grad=False)
