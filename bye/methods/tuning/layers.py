"""Named layers of the decoder in full, and nothing else (surgical fine-tuning, Lee et al. 2023, arXiv:2210.11466).

Saved as safetensors, with the names that the weights have in the model.
"""

import re
from typing import Annotated

from bye.errors import ByeError
from bye.models import weights

FILE = "layers.safetensors"


def attach(family, *, layers: Annotated[list[int], {"minItems": 1, "uniqueItems": True}]):
    """Let decoder layers of a loaded family be trained in full; return the model.

    layers: their numbers, from 0, or from -1, the last. Raises ByeError where there is no such layer.
    """
    for parameter in _parameters(family, _numbers(family, layers)).values():
        parameter.requires_grad_(True)
    return family.model


def save(tuned, folder):
    """Write the trained weights into a folder."""
    weights.save(tuned, folder / FILE)


def check(family, folder):
    """See that a folder has whole layers of this model, of which no weights are needed. Raises ByeError otherwise."""
    found = weights.shapes(f"{folder}/{FILE}", "layers")
    numbers = {int(each) for name in found for each in re.findall(r"\.language_model\.layers\.(\d+)\.", name)}
    there = _parameters(family, numbers & set(range(family.n_layers)))
    wanted = {name: tuple(each.shape) for name, each in there.items()}
    weights.compare(f"{folder}/{FILE}", found, wanted, "decoder layers", family.path)


def load(family, folder):
    """Put the weights of a folder into the family's model."""
    weights.load(family.model, f"{folder}/{FILE}")


def count(family, *, layers):
    """Number of the layers' parameters, and what they are in words. Raises ByeError where there is no such layer."""
    numbers = _numbers(family, layers)
    n_trained = sum(each.numel() for each in _parameters(family, numbers).values())
    return n_trained, f"decoder layers {', '.join(map(str, numbers))} in full"


def _numbers(family, layers):
    """Numbers of layers from 0, in order, each once."""
    for layer in layers:
        if not -family.n_layers <= layer < family.n_layers:
            raise ByeError(
                f"there is no layer {layer}: model {family.path} has {family.n_layers} layers; name them in layers "
                "from 0, or from -1, the last"
            )
    return sorted({layer % family.n_layers for layer in layers})


def _parameters(family, numbers):
    """{name in the model: parameter} of these layers."""
    chosen = {id(each) for number in numbers for each in family.layers[number].parameters()}
    return {name: each for name, each in family.model.named_parameters() if id(each) in chosen}
