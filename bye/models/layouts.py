"""Names of weights in LoRA adapters of other programs and versions, and ours for them."""

import re
from dataclasses import dataclass

PREFIX = "base_model.model."  # of PEFT, before the name that a weight has in the model


@dataclass(frozen=True)
class Layout:
    """Names of another program or version. renamings: (pattern, replacement), each applied to our name in order;
    without_tower: whether its LoRA is put on before there is a vision tower, whatever `target_modules` say."""

    name: str
    renamings: tuple = ()
    without_tower: bool = False

    def rename(self, name):
        """Their name of a module or weight, from ours."""
        for pattern, replacement in self.renamings:
            name = re.sub(pattern, replacement, name)
        return name


OURS = Layout("another form of PEFT's names")  # without its prefix, or with the adapter's name in them
LLAVA_REPOSITORY = Layout(
    "LLaVA's own repository",
    (
        (r"^model\.language_model\b", "model"),
        (r"^model\.multi_modal_projector\.linear_1\b", "model.mm_projector.0"),
        (r"^model\.multi_modal_projector\.linear_2\b", "model.mm_projector.2"),
        (r"^model\.multi_modal_projector\b", "model.mm_projector"),
        (r"^model\.vision_tower\b", "model.vision_tower.vision_tower.vision_model"),
    ),
    without_tower=True,
)
CLIP = Layout("an older transformers", ((r"^model\.vision_tower\b", "model.vision_tower.vision_model"),))
OLDER = (
    (r"^model\.language_model\b", "language_model.model"),
    (r"^lm_head\b", "language_model.lm_head"),
    (r"^model\.(?=vision_tower|multi_modal_projector|image_newline)", ""),
)
OLDER_CLIP = Layout("transformers before 4.52", (*OLDER, (r"^vision_tower\b", "vision_tower.vision_model")))
LAYOUTS = {
    "llava": (LLAVA_REPOSITORY, CLIP, OLDER_CLIP),
    "llava_next": (LLAVA_REPOSITORY, CLIP, OLDER_CLIP),
    "internvl": (Layout("transformers before 4.52", OLDER),),
}


def layout_of(keys, model_type, names):
    """The layout in which most of the keys are names of the model; ours where none knows more."""

    def n_known(layout):
        theirs = {layout.rename(name) for name in names}
        return sum(split(key)[0] in theirs for key in keys)

    return max((OURS, *LAYOUTS.get(model_type, ())), key=n_known)


def split(key):
    """(name of the module, rest) of what LoRA adds to or wraps in one, (name of the weight, "") of another weight;
    without PEFT's prefix and the adapter's name."""
    name = re.sub(r"\.(lora_\w+)\.default\b", r".\1", key.removeprefix(PREFIX))
    start = re.search(r"\.lora_|\.base_layer\.|$", name).start()
    return name[:start], name[start:]


def our_name(key, back):
    """Our name of what a key stands for, without PEFT's prefix. back: {their name: our name}."""
    module, rest = split(key)
    return back.get(module, module) + rest
