"""Guards: defences that act while a model answers."""

from bye.cleaning.run import SampleSet
from bye.errors import ByeError
from bye.models.guard import check_layers
from bye.registry import find


def guard_of(kind, settings, reference=None, reference_images=None, validate=False):
    """Return a function from the loaded family to its guard (`bye.models.guard.Guard`).

    kind: of a defence that acts on generation, or the path of a .py file; settings: dict of its settings; reference:
    samples file of clean samples, where it reads some, with their image folder; validate: check that file. Raises
    ByeError for another defence, where what it reads was not given, and (the function) for a model that has not the
    layers that the guard looks at.
    """
    method = find("defence", kind)
    if method.acts_on != "generation":
        raise ByeError(f"defence {kind} acts on {method.acts_on}, not on generation; it is no guard")
    if "reference" in method.reads and (reference is None or reference_images is None):
        raise ByeError(f"guard {kind} reads clean samples; give --reference and --reference-images")
    clean = None if reference is None else SampleSet(reference, reference_images, validate)
    function = method.bind("guard", settings)

    def make(family):
        given = {"reference": clean, "model": family}
        made = function(**{name: given[name] for name in method.functions["guard"].given})
        check_layers(made, family)
        return made

    return make
