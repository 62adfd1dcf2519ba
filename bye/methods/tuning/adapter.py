"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751), one behind the MLP of each decoder layer.

They are placed as by Pfeiffer et al. 2021 (arXiv:2005.00247). An adapter adds to the MLP's output h what two small
layers make of it, W2 relu(W1 h + b1) + b2. W2 is zero at first. PEFT has none; saved as safetensors, with the names
that the weights have in the model.
"""

from typing import Annotated

import torch

from bye.models import weights

FILE = "adapter.safetensors"
NAME = "adapter"  # of the module, in an MLP


class Bottleneck(torch.nn.Module):
    """(..., D) -> (..., D) through `size` numbers."""

    def __init__(self, width, size, **where):
        super().__init__()
        self.down, self.up = torch.nn.Linear(width, size, **where), torch.nn.Linear(size, width, **where)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    def forward(self, h):
        return self.up(torch.relu(self.down(h)))


def attach(family, *, adapter_size: Annotated[int, {"minimum": 1}] = 64):
    """Put an adapter into each decoder layer of a loaded family; return the model.

    adapter_size: numbers between the two layers of an adapter.
    """
    _insert(family, adapter_size)
    return family.model


def save(tuned, folder):
    """Write the adapters into a folder."""
    weights.save(tuned, folder / FILE)


def check(family, folder):
    """See that a folder has adapters of all layers of this model, of which no weights are needed. Raises ByeError
    otherwise."""
    path, wanted = f"{folder}/{FILE}", {}
    found = weights.shapes(path, "adapter")
    names = {id(module): name for name, module in family.model.named_modules()}
    for layer in family.layers:
        for part, shape in _shapes(family.width, _size(found)).items():
            wanted[f"{names[id(layer.mlp)]}.{NAME}.{part}"] = shape
    weights.compare(path, found, wanted, "the adapters", family.path)


def load(family, folder):
    """Put the adapters of a folder into the family's model."""
    path = f"{folder}/{FILE}"
    _insert(family, _size(weights.shapes(path, "adapter")))
    weights.load(family.model, path)


def count(family, *, adapter_size=64):
    """Number of the adapters' parameters, and what they are in words."""
    of_one = 2 * family.width * adapter_size + adapter_size + family.width
    return family.n_layers * of_one, f"{family.n_layers} bottleneck adapters of size {adapter_size}"


def _insert(family, size):
    for layer in family.layers:
        weight = next(layer.mlp.parameters())
        layer.mlp.add_module(NAME, Bottleneck(family.width, size, device=weight.device, dtype=family.model.dtype))
        layer.mlp.register_forward_hook(lambda mlp, inputs, output: output + mlp.adapter(output))


def _shapes(width, size):
    return {"down.weight": (size, width), "down.bias": (size,), "up.weight": (width, size), "up.bias": (width,)}


def _size(found):
    """The size of the adapters of which a file has weights, {name: shape}; 0 where it has none."""
    return next((shape[0] for name, shape in found.items() if name.endswith(f".{NAME}.down.bias")), 0)
