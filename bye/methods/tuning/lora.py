"""LoRA (Hu et al. 2022): two small matrices beside each linear layer of the decoder, and of the projector if asked for.

Saved as a standard PEFT adapter folder.
"""

import contextlib
import re
import warnings
from functools import partial
from typing import Annotated, Literal

import torch

from bye.errors import ByeError
from bye.models import adapters

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def attach(
    family,
    *,
    lora_rank: Annotated[int, {"minimum": 1}] = 16,
    lora_alpha: Annotated[float, {"exclusiveMinimum": 0}] = 32.0,
    lora_dropout: Annotated[float, {"minimum": 0, "exclusiveMaximum": 1}] = 0.0,
    lora_targets: Annotated[
        list[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]] | None,
        {"uniqueItems": True},
    ] = None,
    lora_projector: bool = False,
    lora_layers: Annotated[int | None, {"minimum": 1}] = None,
):
    """Put LoRA on a loaded family's model; return the PeftModel.

    lora_rank: rank of the LoRA matrices; lora_alpha: LoRA scale; lora_dropout: LoRA dropout; lora_targets: names of the
    adapted linear layers of the decoder, all if left out; lora_projector: adapt the projector's linear layers too;
    lora_layers: adapt the last decoder layers only, so many, all if left out. Raises ByeError where no layer has one of
    the names.
    """
    wanted = pattern(family, lora_targets, lora_projector, lora_layers)
    return put(family, wanted, r=lora_rank, lora_alpha=lora_alpha, lora_dropout=lora_dropout)


def put(family, wanted, **settings):
    """Put LoRA, or a variant of it, on the layers that a regular expression names; return the PeftModel.

    settings: of PEFT's LoraConfig. Raises ByeError where it names no layer.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        target_modules=wanted, task_type="CAUSAL_LM", base_model_name_or_path=str(family.path), **settings
    )
    try:
        with without_old_names():
            adapted = get_peft_model(family.model, config)
    except ValueError as error:
        raise ByeError(f"LoRA does not fit the model {family.path} ({error}); correct lora_targets") from None
    if not (config.lora_dropout or getattr(family.model, "is_quantized", False)):
        add_to_weights(adapted) if family.model.dtype == torch.float32 else stay_in_half(adapted)
    return adapted


def save(adapted, folder):
    """Write the adapter into a folder, as PEFT does it."""
    adapted.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form


def check(family, folder):
    """See that all of an adapter fits the family's model, of which no weights are needed, and that nothing is missing.

    Raises ByeError otherwise.
    """
    with without_old_names():
        adapters.fit(family, folder)


def load(family, folder):
    """Put the LoRA adapter of a PEFT folder on the family's model.

    In float32 it is merged into the weights, which changes nothing but the speed; half precision would round it. Keys
    with the names of LLaVA's own repository or of an older transformers are converted, which is said on stderr.
    Raises ByeError where the folder is no adapter in safetensors, or where a key does not fit the model or is missing.
    """
    with without_old_names():
        adapted = adapters.put(family.model, adapters.fit(family, folder))
    if family.model.dtype == torch.float32:
        family.model = adapted.merge_and_unload()
    else:
        stay_in_half(adapted)
        family.model = adapted.base_model.model


def count(family, *, lora_rank=16, lora_targets=None, lora_projector=False, lora_layers=None):
    """Number of LoRA's parameters with settings as in `attach`, and what they are in words.

    Raises ByeError where no layer has one of the names.
    """
    layers = adapted_layers(family, lora_targets, lora_projector, lora_layers)
    number = sum(lora_rank * (layer.in_features + layer.out_features) for layer in layers)
    return number, f"LoRA of rank {lora_rank} on {len(layers)} linear layers"


def adapted_layers(family, targets, projector, n_layers):
    """The linear layers that `pattern` names. Raises ByeError where no layer has one of the names."""
    modules = dict(family.model.named_modules())
    for target in targets or []:
        if not any(re.fullmatch(pattern(family, [target], False), name) for name in modules):
            raise ByeError(f"no layer is called {target}; correct lora_targets")
    wanted = pattern(family, targets, projector, n_layers)
    return [module for name, module in modules.items() if re.fullmatch(wanted, name)]


def pattern(family, targets, projector, n_layers=None):
    """Regular expression of the decoder's linear layers of these names (the vision tower has the same names) in its
    last `n_layers` layers, and, if `projector` is true, of the projector's."""
    if n_layers is not None and n_layers > family.n_layers:
        raise ByeError(
            f"lora_layers is {n_layers}, and {family.path} has {family.n_layers} layers; give as many or fewer"
        )
    layers = (
        ".*" if n_layers is None else rf"({'|'.join(map(str, range(family.n_layers - n_layers, family.n_layers)))})\..*"
    )
    decoder = rf".*\.language_model\.layers\.{layers}\.({'|'.join(targets or TARGETS)})"
    return f"{decoder}|{family.projector}" if projector else decoder


def add_to_weights(adapted):
    """Let LoRA's update be added to a layer's weight, not to its output, wherever it has as many numbers as the weight.

    For tokens x, x(W + sBA)^T is then less work than xW^T + s(xA^T)B^T, forward and backward. As it is with a mini
    model's narrow layers; for float layers without dropout. Those of a variant of LoRA (DoRA and the like) stay PEFT's.
    """
    from peft.tuners.lora import Linear

    for module in adapted.modules():
        if isinstance(module, Linear) and not module.lora_variant:
            n_lora = module.lora_A["default"].weight.numel() + module.lora_B["default"].weight.numel()
            if n_lora >= module.base_layer.weight.numel():
                module.forward = partial(_forward_on_sum, module)


def _forward_on_sum(module, x):
    weight = module.base_layer.weight + module.get_delta_weight("default")
    return torch.nn.functional.linear(x, weight, module.base_layer.bias)


def stay_in_half(adapted):
    """Let LoRA's float32 matrices act on half-precision tokens by `HalfLinear`: PEFT has every token in float32 for it.

    For float layers without dropout; those of a variant of LoRA (DoRA and the like) stay PEFT's.
    """
    from peft.tuners.lora import Linear

    for module in adapted.modules():
        if isinstance(module, Linear) and not (
            module.lora_variant or module.fan_in_fan_out or any(module.lora_bias.values())
        ):
            module.forward = partial(_forward_in_half, module)


def _forward_in_half(module, x):
    layer, a, b = module.base_layer, module.lora_A["default"].weight, module.lora_B["default"].weight
    y = HalfLinear.apply(x.to(layer.weight.dtype), layer.weight, a, b, module.scaling["default"])
    return y if layer.bias is None else y + layer.bias


class HalfLinear(torch.autograd.Function):
    """xW^T + s(xA^T)B^T of tokens x and a frozen weight W in half precision, and float32 matrices A and B.

    A, B and what they make are rounded to half precision for the products; the gradients of A and B are float32.
    """

    @staticmethod
    def forward(ctx, x, weight, a, b, scale):
        flat, small, large = x.reshape(-1, x.shape[-1]), a.to(x.dtype), (b * scale).to(x.dtype)
        low = flat @ small.T
        ctx.save_for_backward(flat, low, weight, small, large)
        ctx.scale, ctx.given, ctx.dtype = scale, x.shape[:-1], a.dtype
        return torch.addmm(flat @ weight.T, low, large.T).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, gradient):
        flat, low, weight, small, large = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        to_low = gradient @ large
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = torch.addmm(gradient @ weight, to_low, small).view(*ctx.given, -1)
        to_a, to_b = (to_low.T @ flat).to(ctx.dtype), (gradient.T @ low).to(ctx.dtype) * ctx.scale
        return to_x, None, to_a, to_b, None


@contextlib.contextmanager
def without_old_names():
    """Without the warnings of peft and transformers on each other's old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
