"""Vision-language models: one adapter per family, their prompts, and the attention that is read off them."""

from bye.methods.families.internvl import InternVL
from bye.methods.families.llava import Llava
from bye.methods.families.llava_next import LlavaNext
from bye.methods.families.qwen3_vl import Qwen3VL
from bye.models.family import load, load_adapter

FAMILIES = {family.model_type: family for family in (Llava, InternVL, LlavaNext, Qwen3VL)}


def load_model(path, adapter=None, **options):
    """Load a base model, and an adapter on it if one is given (see `bye.models.family.load` for the options)."""
    family = load(FAMILIES, path, **options)
    if adapter is not None:
        load_adapter(family, adapter)
    return family
