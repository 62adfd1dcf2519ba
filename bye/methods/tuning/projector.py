"""The projector in full, between a frozen vision tower and a frozen decoder: the first stage of LLaVA's own recipe
(Liu et al. 2023, arXiv:2304.08485).

Saved as safetensors, with the names that the weights have in the model.
"""

from bye.models import weights

FILE = "projector.safetensors"


def attach(family):
    """Let the projector of a loaded family be trained, and nothing else; return the model."""
    for parameter in _projector(family).values():
        parameter.requires_grad_(True)
    return family.model


def save(tuned, folder):
    """Write the trained weights into a folder."""
    weights.save(tuned, folder / FILE)


def check(family, folder):
    """See that a folder has the projector of this model, of which no weights are needed. Raises ByeError otherwise."""
    path = f"{folder}/{FILE}"
    wanted = {name: tuple(each.shape) for name, each in _projector(family).items()}
    weights.compare(path, weights.shapes(path, "projector"), wanted, "the projector", family.path)


def load(family, folder):
    """Put the weights of a folder into the family's model."""
    weights.load(family.model, f"{folder}/{FILE}")


def count(family):
    """Number of the projector's parameters, and what they are in words."""
    return sum(each.numel() for each in _projector(family).values()), "the projector in full"


def _projector(family):
    """{name in the model: parameter} of all that `Family.project` uses."""
    names = {id(parameter): name for name, parameter in family.model.named_parameters()}
    return {names[id(parameter)]: parameter for parameter in family.projector_parameters()}
