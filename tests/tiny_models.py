"""Random models of both families, small enough for a test: written as ordinary checkpoint folders."""

import json

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

# The chat templates of llava-hf/llava-1.5-7b-hf (no end token after an answer) and of InternVL's native checkpoints.
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
SPECIAL = {
    "llava": ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
    "internvl": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"],
}
CORPUS = ["USER: What is in the picture? ASSISTANT: A small black dog.", "user assistant Is it red or blue? Yes, no.\n"]


def write_tiny_model(family, folder, seed=0, layers=3, width=32):
    """Write a random checkpoint of `family` ("llava" or "internvl") with 16 image tokens of 4 x 4 into `folder`."""
    tokenizer = _tokenizer(family)
    torch.manual_seed(seed)
    text = {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 4,
        "vocab_size": len(tokenizer), "max_position_embeddings": 512, "initializer_range": 0.2,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "llava":
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=32, patch_size=8, initializer_range=0.2, **tower),
            text_config=LlamaConfig(num_key_value_heads=4, **text),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=16,
        )
        model = LlavaForConditionalGeneration(config)
    else:
        config = InternVLConfig(
            vision_config=InternVLVisionConfig(image_size=[32, 32], patch_size=[4, 4], initializer_range=0.2, **tower),
            text_config=Qwen2Config(num_key_value_heads=2, **text),  # grouped-query attention
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=16,
        )
        model = InternVLForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32} if family == "llava" else {"height": 32, "width": 32}
    kind = "CLIPImageProcessor" if family == "llava" else "GotOcr2ImageProcessor"
    preprocessor = {"image_processor_type": kind, "size": size, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def _tokenizer(family):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL[family], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    if family == "llava":
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    else:
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    extra = [token for token in SPECIAL[family] if token not in names.values()]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=extra, **names)
    tokenizer.chat_template = LLAVA_TEMPLATE if family == "llava" else INTERNVL_TEMPLATE
    return tokenizer
