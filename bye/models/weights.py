"""Weights that a tuning method trained, in a safetensors file, under the names that they have in the model."""

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bye.errors import ByeError


def save(tuned, path):
    """Write what is trained of a module."""
    save_file({name: each.detach().cpu() for name, each in tuned.named_parameters() if each.requires_grad}, path)


def shapes(path, kind):
    """{name: shape, a tuple} of a file's weights, of which none is read. kind: the tuning method that wrote it, for the
    ByeError where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise ByeError(f"{path} cannot be read ({error}); give a folder of the tuning method {kind}") from None


def compare(path, found, wanted, what, model):
    """Raise ByeError where a file's weights are not the wanted ones: {name: shape} of both; what: these, in words."""
    if found != wanted:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))[0]
        raise ByeError(
            f"{path} is not of {what} of {model}: {odd} is {found.get(odd, 'missing')} there and "
            f"{wanted.get(odd, 'missing')} in the model; give the folder that was trained on this model"
        )


def load(model, path):
    """Put a file's weights, which were compared, into a model."""
    model.load_state_dict(load_file(path), strict=False)
