"""Adapters in PEFT folders, LoRA's most often: whether all of their weights fit a model, and how they are put on it.

All is decided by the header of the weights' file and a copy of the model without weights, before any weight is read.
"""

import copy
import os
import sys
from dataclasses import dataclass

import torch

from bye.errors import ByeError, counted
from bye.files import read_json
from bye.models.layouts import LLAVA_REPOSITORY, OURS, PREFIX, Layout, layout_of, our_name, split

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BESIDE = "non_lora_trainables"  # LLaVA's repository: weights that were trained in full, most often the projector's
# Kinds that are parts of layers, by PEFT's name: what is said of each, and a part of its weights' names.
KINDS = {
    "LORA": ("LoRA alone is read (LORA, also with DoRA or rsLoRA)", ".lora_"),
    "IA3": ("IA3 alone is read", ".ia3_"),
}
# Settings with which an adapter acts on some tokens only, or is another model: neither can be merged.
UNSUPPORTED = ("alora_invocation_tokens", "arrow_config", "layer_replication", "use_bdlora")


@dataclass(frozen=True)
class Fit:
    """An adapter that fits. config: its settings, in our names; added, replaced: {our name: (file, key)} of its
    weights, as PEFT has them, and of the model's own; layout: whose names they are; n_renamed: how many change."""

    folder: str
    config: object
    added: dict
    replaced: dict
    layout: Layout
    n_renamed: int


def fit(family, folder, kind="LORA"):
    """See that each weight of an adapter's folder fits a family's model, and that none is missing: its Fit.

    kind: of KINDS. Reads no weight, and needs none of the model. Raises ByeError where one does not fit.
    """
    config = read_config(folder, kind)
    places, shapes = _read_headers(folder)
    with torch.device("meta"):
        skeleton = type(family.model)(copy.deepcopy(family.model.config))
    modules = [name for name, _ in skeleton.named_modules()]
    weights = {name: list(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    layout = layout_of(shapes, family.model.config.model_type, {*modules, *weights})
    try:
        if layout is not OURS:
            config = _translated(config, layout, modules, shapes)
        expected = _expected(skeleton, config)
    except Exception as error:  # settings that do not fit the model fail in many ways
        raise ByeError(
            f"adapter {folder} does not fit the model {family.path} ({_one_line(error)}); give the model that it was "
            f"made for, or correct its {CONFIG}"
        ) from error

    back = {layout.rename(name): name for name in (*modules, *weights)}
    ours = {key: our_name(key, back) for key in shapes}
    added, replaced, unplaced, misshapen = {}, {}, [], []
    for key, name in ours.items():
        own = name.replace(".base_layer.", ".")
        wanted = expected.get(PREFIX + name, weights.get(own))
        if wanted is None or PREFIX + name in added or own in replaced:
            unplaced.append(key)
        elif wanted != shapes[key]:
            misshapen.append((key, shapes[key], wanted))
        elif PREFIX + name in expected:
            added[PREFIX + name] = places[key]
        else:
            replaced[own] = places[key]
    found = {PREFIX + name for name in ours.values()}
    missing = [PREFIX + layout.rename(name.removeprefix(PREFIX)) for name in expected if name not in found]
    if unplaced or misshapen or missing:
        example = next((name for name in expected if ".language_model." in name), next(iter(expected)))
        reason = _misfit(len(shapes), unplaced, misshapen, missing, example)
        raise ByeError(f"adapter {folder} does not fit the model {family.path}: {reason}")
    return Fit(folder, config, added, replaced, layout, sum(key != PREFIX + name for key, name in ours.items()))


def put(model, found):
    """Put an adapter that fits on a model, as `PeftModel.from_pretrained` would; return the PeftModel.

    Says on stderr which names were converted and which of the model's own weights are others now. No file is changed.
    Raises ByeError where a weight in 4 bits would have to be replaced.
    """
    from peft import PeftModel
    from peft.utils.save_and_load import set_peft_model_state_dict

    own = model.state_dict(keep_vars=True)
    _tell(found)
    with torch.no_grad():
        for name, tensor in _read(found.replaced).items():
            if own[name].shape != tensor.shape:
                raise ByeError(
                    f"adapter {found.folder} replaces {name}, which is in 4 bits; leave quantization out for it"
                )
            own[name].copy_(tensor)
    adapted = PeftModel(model, found.config)
    result = set_peft_model_state_dict(adapted, _read(found.added))
    _, mark = KINDS[found.config.peft_type.value]
    left = [*result.unexpected_keys, *(key for key in result.missing_keys if mark in key)]
    if left:
        raise ByeError(
            f"adapter {found.folder}: peft leaves out {counted(len(left), 'key')} (the first is {left[0]}); "
            "take the release of peft that the suite asks for"
        )
    return adapted


def read_settings(folder):
    """Return what adapter_config.json of an adapter's folder holds, which must have weights in safetensors.

    Raises ByeError for other folders.
    """
    if not os.path.isfile(os.path.join(folder, CONFIG)):
        raise ByeError(f"{folder} is no PEFT adapter (it has no adapter_config.json); give what finetune wrote")
    if not os.path.isfile(os.path.join(folder, WEIGHTS)):
        raise ByeError(f"{folder} has no adapter_model.safetensors; weights are read as safetensors only")
    beside = os.path.join(folder, BESIDE)
    if os.path.exists(f"{beside}.bin") and not os.path.exists(f"{beside}.safetensors"):
        raise ByeError(
            f"adapter {folder} has weights in {BESIDE}.bin, which is pickled and could run code when read; write them "
            f"to {BESIDE}.safetensors beside it (torch.load with weights_only=True, safetensors.torch.save_file)"
        )
    settings = read_json(os.path.join(folder, CONFIG))
    return settings if isinstance(settings, dict) else {}


def read_config(folder, kind="LORA"):
    """Return PEFT's configuration of an adapter's folder.

    Raises ByeError for other folders, other kinds of adapters, and settings that no merged adapter can have.
    """
    path, settings = os.path.join(folder, CONFIG), read_settings(folder)
    if settings.get("peft_type") != kind:
        raise ByeError(f"{path} is of peft_type {settings.get('peft_type')!r}; {KINDS[kind][0]}")
    refused = [name for name in UNSUPPORTED if settings.get(name)]
    if refused:
        raise ByeError(f"{path} sets {refused[0]}, with which LoRA is no part of the weights; train without it")
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind].from_pretrained(str(folder))
    except Exception as error:  # settings of a wrong type fail in many ways
        named = "LoRA" if kind == "LORA" else kind
        raise ByeError(f"{path} has no settings of {named} ({_one_line(error)}); correct it") from error
    if not config.target_modules and not getattr(config, "target_parameters", None):
        raise ByeError(f"{path} has no target_modules; name the layers that the adapter is for")
    config.inference_mode = True
    return config


def _read_headers(folder):
    """({key: (file, key in it)}, {key: shape}) of an adapter's files, without a weight of them."""
    from safetensors import SafetensorError, safe_open

    places, shapes = {}, {}
    for name in (WEIGHTS, f"{BESIDE}.safetensors"):
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            continue
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no dict)
                    shown = f"{name}: {key}" if key in places else key
                    places[shown], shapes[shown] = (path, key), file.get_slice(key).get_shape()
        except (SafetensorError, OSError) as error:
            raise ByeError(f"{path} cannot be read as safetensors ({_one_line(error)}); copy it again") from None
    if not shapes:
        raise ByeError(f"adapter {folder} has no weights; give what finetune wrote")
    return places, shapes


def _translated(config, layout, modules, keys):
    """An adapter's settings with the modules they mean under our full names, where they mean them by the layout's."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    spared = layout.without_tower and not any(split(key)[0].startswith("model.vision_tower.") for key in keys)
    theirs = {name: layout.rename(name) for name in modules if not (spared and ".vision_tower." in name)}
    targets = [name for name, other in theirs.items() if name and check_target_module_exists(config, other)]
    translated = copy.copy(config)
    translated.target_modules = set(targets)
    translated.exclude_modules = translated.layers_to_transform = translated.layers_pattern = None
    for setting in ("rank_pattern", "alpha_pattern"):
        given = getattr(config, setting) or {}
        found = {name: get_pattern_key(given, theirs[name]) for name in targets}
        setattr(translated, setting, {name: given[key] for name, key in found.items() if key in given})
    if config.modules_to_save:
        saved = [name for name, other in theirs.items() if other.endswith(tuple(config.modules_to_save))]
        translated.modules_to_save = saved or None
    return translated


def _expected(skeleton, config):
    """{key: shape} of the weights that PEFT has for these settings, in its names. Changes the skeleton."""
    from peft import PeftModel, get_peft_model_state_dict

    plain = copy.deepcopy(config)
    plain.init_lora_weights = True  # other ways to begin look at the weights
    adapted = PeftModel(skeleton, plain, low_cpu_mem_usage=True)
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {key: list(tensor.shape) for key, tensor in state.items()}


def _misfit(n_keys, unplaced, misshapen, missing, example):
    """What does not fit, and what to do about it."""
    parts, advice = [], ["give the model that it was made for"]
    if unplaced:
        parts.append(f"there is no place for {len(unplaced)} of its {n_keys} keys (the first is {unplaced[0]})")
        advice.append(f"rename its keys as the model has them (such as {example})")
    if misshapen:
        key, shape, wanted = misshapen[0]
        first = f"the first is {key}, {shape} in place of {wanted}"
        parts.append(f"the shape of {len(misshapen)} of its {n_keys} keys is another ({first})")
        advice.append(f"correct r in its {CONFIG}")
    if missing:
        parts.append(f"it lacks {counted(len(missing), 'key')} of its adapted layers (the first is {missing[0]})")
        advice.append(f"copy it again or correct target_modules in its {CONFIG}")
    return f"{', and '.join(parts)}; {', or '.join(advice[:2])}"


def _tell(found):
    """Say on stderr what is converted and what of the model is replaced."""
    if found.n_renamed:
        n_keys, base = len(found.added) + len(found.replaced), found.config.base_model_name_or_path
        made = f" (made on {base})" if base else ""
        print(
            f"adapter {found.folder}{made}: {found.n_renamed} of {counted(n_keys, 'key')} have names of "
            f"{found.layout.name} and are converted on loading",
            file=sys.stderr,
            flush=True,
        )
    if found.replaced:
        print(
            f"adapter {found.folder}: it replaces {counted(len(found.replaced), 'weight')} of the model (the first is "
            f"{next(iter(found.replaced))})",
            file=sys.stderr,
            flush=True,
        )
    elif found.layout is LLAVA_REPOSITORY and not any("multi_modal_projector" in name for name in found.added):
        print(
            f"adapter {found.folder}: it has no {BESIDE}.safetensors, so the projector is the model's own",
            file=sys.stderr,
            flush=True,
        )


def _read(places):
    """{name: tensor} of {name: (file, key)}."""
    from safetensors import safe_open

    tensors = {}
    for path in {path for path, _ in places.values()}:
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(key) for name, (where, key) in places.items() if where == path}
    return tensors


def _one_line(error):
    return " ".join(str(error).split())[:300]
