"""Random models of all families, small enough for a test: written as ordinary checkpoint folders."""

import json

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

# The chat templates of llava-hf/llava-1.5-7b-hf (no end token after an answer), of InternVL's native checkpoints, of
# llava-hf/llava-v1.6-mistral-7b-hf and of Qwen3-VL.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
INTERNVL_TEMPLATE = (
    "{{'<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'}}"
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
LLAVA_NEXT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}{% else %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}{% endfor %}"
)
QWEN3_VL_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "llava": LLAVA_TEMPLATE,
    "internvl": INTERNVL_TEMPLATE,
    "llava_next": LLAVA_NEXT_TEMPLATE,
    "qwen3_vl": QWEN3_VL_TEMPLATE,
}
SPECIAL = {
    "llava": ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
    "internvl": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"],
    "llava_next": ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
    "qwen3_vl": [
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
        *("<|image_pad|>", "<|video_pad|>"),
    ],
}
TILES = [[32, 64], [64, 32], [64, 64]]  # LLaVA-NeXT's choice of sizes for all tiles together
CORPUS = ["USER: What is in the picture? ASSISTANT: A small black dog.", "user assistant Is it red or blue? Yes, no.\n"]


def write_tiny_model(family, folder, seed=0, layers=3, width=32):
    """Write a random checkpoint of `family`, a key of TEMPLATES, into `folder`.

    An image of llava and internvl has 4 x 4 tokens; one of llava_next as many, and as many for each of two to four
    tiles; one of qwen3_vl a token for 16 x 16 pixels, at most 16, and features are added after each layer but the last.
    """
    tokenizer = _tokenizer(family)
    torch.manual_seed(seed)
    text = {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 4,
        "vocab_size": len(tokenizer), "max_position_embeddings": 512, "initializer_range": 0.2,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "num_key_value_heads": 4 if family == "llava" else 2,
    }  # fmt: skip
    tower = {"hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.2}
    vit = {"num_hidden_layers": 2, "num_attention_heads": 2, **tower}
    preprocessor = {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
    if family == "llava":
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **vit),
            text_config=LlamaConfig(**text),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=16,
        )
        model = LlavaForConditionalGeneration(config)
        preprocessor |= {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}
    elif family == "llava_next":
        config = LlavaNextConfig(
            vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **vit),
            text_config=MistralConfig(sliding_window=None, **text),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=TILES,
        )
        model = LlavaNextForConditionalGeneration(config)
        preprocessor |= {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": TILES}
    elif family == "qwen3_vl":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        config = Qwen3VLConfig(
            vision_config=Qwen3VLVisionConfig(
                patch_size=8, depth=3, num_heads=2, out_hidden_size=width, num_position_embeddings=16,
                deepstack_visual_indexes=list(range(layers - 1)), **tower,
            ),
            text_config=Qwen3VLTextConfig(head_dim=width // 4, rope_parameters=rope, **text),
            image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
            video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
            vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
            vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        )  # fmt: skip
        model = Qwen3VLForConditionalGeneration(config)
        preprocessor = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 8, "merge_size": 2}
        preprocessor |= {"size": {"shortest_edge": 256, "longest_edge": 4096}, "image_mean": [0.5] * 3}
        preprocessor |= {"image_std": [0.5] * 3}
    else:
        config = InternVLConfig(
            vision_config=InternVLVisionConfig(image_size=[32, 32], patch_size=[4, 4], **vit),
            text_config=Qwen2Config(**text),  # grouped-query attention
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=16,
        )
        model = InternVLForConditionalGeneration(config)
        preprocessor |= {"image_processor_type": "GotOcr2ImageProcessor"}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def stock_inputs(loaded, ids, image):
    """What the library's own forward pass takes for the ids of one prompt, an array, and its PIL image."""
    ids = torch.from_numpy(ids)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **loaded.pixels([image])}
    if loaded.model_type == "qwen3_vl":
        inputs["mm_token_type_ids"] = (ids == loaded.image_token_id).int()
    return inputs


def _tokenizer(family):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL[family], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    if family.startswith("llava"):
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    else:
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    extra = [token for token in SPECIAL[family] if token not in names.values()]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=extra, **names)
    tokenizer.chat_template = TEMPLATES[family]
    return tokenizer


def write_samples(root):
    """Write seven images and samples.json into a folder: 33 samples that ask about them, three of them twice."""
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 255, (32, 36, 3), dtype=np.uint8)).save(root / f"{number}.png")
    entries = []
    for number in range(33):
        question, answer = "What is it?" + " Really?" * (number % 4), ["A dog", "red", "No dog, I see"][number % 3]
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        if number % 11 == 5:
            turns += [{"from": "human", "value": "Red?"}, {"from": "gpt", "value": "Yes"}]
        entries.append({"id": f"s{number}", "image": f"{number % 7}.png", "conversations": turns})
    (root / "samples.json").write_text(json.dumps(entries))
