"""Vision-language models: one adapter per family, their prompts, and the attention that is read off them."""

from bye.models.family import load
from bye.registry import find, kinds


def load_model(path, adapter=None, tuning="lora", expected=None, **options):
    """Load a base model, and on it what a tuning method saved in a folder, if one is given.

    adapter: the folder, or None; tuning: kind of the method; expected: kind of the family that it must be, or None;
    options: see `bye.models.family.load`. Nothing of the model is left to train. What does not fit the model is found
    before its weights are read, where the method has a `check`. Raises ByeError for bad input.
    """
    method = find("tuning method", tuning)
    classes = families(expected)
    of_type = next(iter(classes)) if expected is not None else None
    if adapter is not None and "check" in method.functions:
        method.load().check(load(classes, path, expected=of_type, weights=False), adapter)
    family = load(classes, path, expected=of_type, **options)
    if adapter is not None:
        method.load().load(family, adapter)
        family.model.eval().requires_grad_(False)
    return family


def families(kind=None):
    """Return {model_type: Family subclass}: of one kind, or of all that the suite has."""
    methods = [find("family", each) for each in (kinds("family") if kind is None else [kind])]
    return {method.model_type: getattr(method.load(), method.constants["CLASS"]) for method in methods}
