"""Models of the real sizes with random weights: what they cost can be measured where no checkpoint can be had.

The sizes are those of the published configurations: LLaVA-1.5-7B (CLIP ViT-L/14 at 336 px, Vicuna-7B: 576 image tokens)
and InternVL2.5-8B (InternViT-300M at 448 px, InternLM2.5-7B, a Llama in the native format: 256 tokens a tile).
"""

import json
import shutil
from pathlib import Path

import torch

from bye.errors import ByeError
from bye.files import replacing_folder
from bye.models import load_model

MID_GRID, MID_LAYERS, MID_WIDTH, MID_HEADS = 24, 12, 384, 12  # what two cores can hold; 576 image tokens
SIZES = ("true", "mid")

TRUE = {
    "llava": {
        "vision": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 336, "patch_size": 14, "projection_dim": 768, "initializer_range": 0.02,
        },
        "text": {
            "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32064, "max_position_embeddings": 4096,
        },
        "image_tokens": 576,
        "other": {"vision_feature_layer": -2},
    },
    "internvl": {
        "vision": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True, "initializer_range": 0.02,
        },
        "text": {
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 92553, "max_position_embeddings": 32768,
        },
        "image_tokens": 256,
        "other": {},
    },
}  # fmt: skip


def write_twin(model, out, size="true", weights=True):
    """Write a random model of a mini model's family, with the mini model's tokenizer and template, to the folder `out`.

    model: folder of a mini base model; size: "true" is the original's, bfloat16 (14 and 16 GB), "mid" has 12 layers of
    width 384 and 576 image tokens, float32; weights: if false, the file of weights is empty, which is enough for
    `bye doctor`. On a GPU the weights are drawn there. Raises ByeError for another size or family.
    """
    from transformers import AutoModelForImageTextToText

    if size not in SIZES:
        raise ByeError(f"size {size!r} is unknown; choose one of {', '.join(SIZES)}")
    if not Path(model).is_dir():
        raise ByeError(f"there is no model folder {model}; give one, such as base_models/llava-mini")
    config = load_model(model, weights=False).model.config
    if config.model_type not in TRUE:
        raise ByeError(f"there are no known sizes for {model} of family {config.model_type!r}; give llava or internvl")
    (_to_true_size if size == "true" else _to_mid_size)(config)
    with replacing_folder(out) as folder:
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        _resize_images(Path(folder) / "preprocessor_config.json", config)
        if weights:
            torch.manual_seed(0)
            dtype = torch.bfloat16 if size == "true" else torch.float32
            with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
                AutoModelForImageTextToText.from_config(config, dtype=dtype).save_pretrained(folder)
        else:
            config.save_pretrained(folder)
            (Path(folder) / "model.safetensors").touch()


def _to_true_size(config):
    from transformers import LlamaConfig

    sizes = TRUE[config.model_type]
    for name, value in sizes["vision"].items():
        setattr(config.vision_config, name, value)
    old = config.text_config
    ends = {name: getattr(old, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    config.text_config = LlamaConfig(**sizes["text"], **ends, tie_word_embeddings=False)
    config.image_seq_length = sizes["image_tokens"]
    for name, value in sizes["other"].items():
        setattr(config, name, value)


def _to_mid_size(config):
    vision, text = config.vision_config, config.text_config
    factor = round((MID_GRID**2 / config.image_seq_length) ** 0.5 * 64) / 64
    if isinstance(vision.image_size, int):
        vision.image_size = round(vision.image_size * factor)
    else:
        vision.image_size = [round(side * factor) for side in vision.image_size]
    config.image_seq_length = MID_GRID**2
    text.num_key_value_heads = MID_HEADS * text.num_key_value_heads // text.num_attention_heads
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = MID_LAYERS, MID_WIDTH, 3 * MID_WIDTH
    text.num_attention_heads, text.head_dim = MID_HEADS, MID_WIDTH // MID_HEADS
    if getattr(text, "layer_types", None):
        text.layer_types = ["full_attention"] * MID_LAYERS


def _resize_images(file, config):
    """Make the preprocessor's image size that of the vision tower."""
    size = config.vision_config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    content = json.loads(file.read_text())
    content["size"] = {"height": height, "width": width}
    file.write_text(json.dumps(content, indent=2) + "\n")
