"""Vision-language models: one adapter per family, their prompts, and the attention that is read off them."""

from bye.methods.families.internvl import InternVL
from bye.methods.families.llava import Llava
from bye.methods.families.llava_next import LlavaNext
from bye.methods.families.qwen3_vl import Qwen3VL
from bye.models.family import load
from bye.registry import find

FAMILIES = {family.model_type: family for family in (Llava, InternVL, LlavaNext, Qwen3VL)}


def load_model(path, adapter=None, tuning="lora", **options):
    """Load a base model, and on it what a tuning method saved in a folder, if one is given.

    adapter: the folder, or None; tuning: kind of the method; options: see `bye.models.family.load`. Nothing of the
    model is left to train. Raises ByeError for bad input.
    """
    method = find("tuning method", tuning)
    family = load(FAMILIES, path, **options)
    if adapter is not None:
        method.load().load(family, adapter)
        family.model.eval().requires_grad_(False)
    return family
