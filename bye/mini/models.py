"""The mini twins of the real families: the same transformers classes with a small config and a small tokenizer.

A 72 px image becomes a 9 x 9 grid of image tokens, so that a trigger of side min/16 at the centre lies inside one
token, as it does in InternVL2.5 and (on four tokens, 56 % each) in LLaVA-1.5.
"""

import json
import re

from bye.data.layout import CAPTION_PROMPT, OPTION_PROMPT, PHRASE_PROMPT

IMAGE_SIZE = 72  # pixels
GRID = 9
IMAGE_TOKENS = GRID * GRID
WIDTH, LAYERS, HEADS, MLP = 128, 5, 4, 256
VOCABULARY = 1024

FIXED_TEXTS = (
    *(OPTION_PROMPT, CAPTION_PROMPT, PHRASE_PROMPT),
    *("A chat between a user and an assistant.", "You are a helpful assistant.", " ASSISTANT:"),
)
UNITS = [*map(re.escape, FIXED_TEXTS), r"[A-E]\.(?= )", r"\n", " ?[A-Za-z]+", " ?[0-9]+", r" ?[^\sA-Za-z0-9]+", r"\s+"]
LLAVA_TEMPLATE = (
    "{{ bos_token }}A chat between a user and an assistant. "
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% else %} ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
INTERNVL_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A single turn, as the templates above write it: what stands before the image's tokens, after them, after the question,
# before the answer and after it.
CONVERSATIONS = {
    "llava": ("<s>A chat between a user and an assistant. USER: ", "\n", " ASSISTANT:", " ", "</s>"),
    "internvl": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<img>",
        "</img>\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "",
        "<|im_end|>",
    ),
}


def train_tokenizer(family, corpus):
    """A byte-level BPE tokenizer of at most VOCABULARY entries, trained on the corpus; any text is representable.

    Words are the units, as in the real tokenizers; the fixed texts (the datasets' three prompts, the system texts) are
    one token each, which keeps the sequences of the mini scale short; " ASSISTANT:" is five for llava, as in LLaMA's.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if family == "llava":
        special_tokens = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        extra = {"image_token": "<image>"}
    else:
        special_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        extra = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(UNITS)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, extra_special_tokens=extra, **names)
    tokenizer.chat_template = LLAVA_TEMPLATE if family == "llava" else INTERNVL_TEMPLATE
    return tokenizer


def build_model(family, tokenizer):
    """A randomly initialised mini model of the family (float32)."""
    import transformers as tf

    text = {
        "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "vocab_size": len(tokenizer), "max_position_embeddings": 1024, "initializer_range": 0.09,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "tie_word_embeddings": False,
    }  # fmt: skip
    if family == "llava":
        vision = tf.CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=IMAGE_SIZE // GRID,
            projection_dim=128,
            initializer_range=0.09,
        )
        config = tf.LlavaConfig(
            vision_config=vision,
            text_config=tf.LlamaConfig(num_key_value_heads=HEADS, **text),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=IMAGE_TOKENS,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            projector_hidden_act="gelu",
        )
        return _initialise(tf.LlavaForConditionalGeneration(config))
    vision = tf.InternVLVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=[IMAGE_SIZE, IMAGE_SIZE],
        patch_size=[IMAGE_SIZE // GRID // 2] * 2,  # 2 x 2 patches become one image token
        initializer_range=0.09,
        use_absolute_position_embeddings=True,
    )
    config = tf.InternVLConfig(
        vision_config=vision,
        text_config=tf.Qwen2Config(num_key_value_heads=HEADS // 2, **text),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return _initialise(tf.InternVLForConditionalGeneration(config))


def _initialise(model):
    """Scales for a narrow model: readable positions in the tower, token embeddings as large as image embeddings."""
    from torch import nn

    for name, parameter in model.model.vision_tower.named_parameters():
        if "position_embedding" in name:
            nn.init.normal_(parameter, std=0.5)
        elif "lambda_" in name:
            nn.init.ones_(parameter)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    return model


def write_preprocessor(family, folder):
    """Write preprocessor_config.json and processor_config.json as real checkpoints have them, at the mini size."""
    preprocessor = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "resample": 3,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }
    if family == "llava":
        preprocessor |= {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}
        processor = {
            "processor_class": "LlavaProcessor",
            "patch_size": IMAGE_SIZE // GRID,
            "image_token": "<image>",
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        }
    else:
        one_tile = {"crop_to_patches": False, "min_patches": 1, "max_patches": 1}
        preprocessor |= {"image_processor_type": "GotOcr2ImageProcessor", **one_tile}
        processor = {"processor_class": "InternVLProcessor", "image_seq_length": IMAGE_TOKENS}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
