"""The projector in full, between a frozen vision tower and a frozen decoder: the first stage of LLaVA's own recipe
(Liu et al. 2023, arXiv:2304.08485).

Saved as safetensors, with the names that the weights have in the model.
"""

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bye.errors import ByeError

FILE = "projector.safetensors"


def attach(family):
    """Let the projector of a loaded family be trained, and nothing else; return the model."""
    for parameter in _projector(family).values():
        parameter.requires_grad_(True)
    return family.model


def save(tuned, folder):
    """Write the trained weights into a folder."""
    trained = {name: each.detach().cpu() for name, each in tuned.named_parameters() if each.requires_grad}
    save_file(trained, folder / FILE)


def check(family, folder):
    """See that a folder has the projector of this model, of which no weights are needed. Raises ByeError otherwise."""
    wanted = {name: tuple(each.shape) for name, each in _projector(family).items()}
    found = {name: tuple(each.shape) for name, each in _read(folder).items()}
    if found != wanted:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))[0]
        raise ByeError(
            f"{folder}/{FILE} is not of the projector of {family.path}: {odd} is {found.get(odd, 'missing')} there and "
            f"{wanted.get(odd, 'missing')} in the model; give the folder that was trained on this model"
        )


def load(family, folder):
    """Put the weights of a folder into the family's model."""
    family.model.load_state_dict(_read(folder), strict=False)


def count(family):
    """Number of the projector's parameters, and what they are in words."""
    return sum(each.numel() for each in _projector(family).values()), "the projector in full"


def _projector(family):
    """{name in the model: parameter} of all that `Family.project` uses."""
    names = {id(parameter): name for name, parameter in family.model.named_parameters()}
    return {names[id(parameter)]: parameter for parameter in family.projector_parameters()}


def _read(folder):
    try:
        return load_file(f"{folder}/{FILE}")
    except (OSError, SafetensorError) as error:
        raise ByeError(
            f"{folder}/{FILE} cannot be read ({error}); give a folder of the tuning method projector"
        ) from None
