"""What a family of vision-language models must tell the suite, and what all families have in common."""

import json
import os
from collections import Counter
from importlib.util import find_spec

import numpy as np
import torch
from transformers import AutoTokenizer, BitsAndBytesConfig
from transformers.utils import cached_file, logging

from bye.errors import ByeError, SampleError
from bye.machine import distributed, hub
from bye.models.prompt import IMAGE, SYSTEM, PromptEncoder

UNQUANTIZED = (".*vision_tower", ".*visual", ".*multi_modal_projector", "lm_head")  # regular expressions of modules


class Family:
    """A loaded base model with all that depends on its family. Subclasses fill in the class attributes and two methods.

    model_type: as in config.json; image_token: what the chat template writes for the image; projector: regular
    expression of the projector's linear layers; any_resolution: whether the number of image tokens depends on the
    image, then `image_ids` and `grid` need its size (height, width), and more methods are the family's own;
    counts_positions: whether a token's position is its place among the row's tokens.
    model: the `transformers` model, in eval mode; encoder: its PromptEncoder; virtual: the VirtualTokens that a tuning
    method has put in front of every sequence (`bye.models.virtual`), or None.

    An image goes through `pixels` and `image_features` (or `tower_features` and `project`, where the projector is
    trained), and with the ids of a prompt on it into `inputs`. A batch's features are a list of one tensor an image.
    """

    model_type = None
    image_token = None
    projector = r".*\.multi_modal_projector\.linear_\d"
    any_resolution = False
    counts_positions = True

    def __init__(self, path, model, tokenizer, template, image_processor):
        self.path, self.model, self.tokenizer, self.image_processor = path, model, tokenizer, image_processor
        self.virtual = None
        try:
            self.encoder = PromptEncoder(tokenizer, template, self.image_token, self.image_tokens)
        except ByeError as error:
            raise ByeError(f"model {path}: {error}") from None

    @classmethod
    def classes(cls):
        """Return (model class, image processor class), imported here so that one family costs no other's imports."""
        raise NotImplementedError

    def image_ids(self, size=None):
        """Return the token ids that stand for one image of that size, in order."""
        raise NotImplementedError

    def image_tokens(self, size=None):
        """Ids and roles of the tokens that stand for one image of that size, two arrays."""
        ids = np.asarray(self.image_ids(size))
        return ids, np.where(ids == self.image_token_id, IMAGE, SYSTEM)

    @property
    def image_token_id(self):
        """The id whose embedding is replaced by an image feature."""
        return self.model.config.image_token_id

    @property
    def n_image_tokens(self):
        """Number of image tokens T of one image, or of the view of a whole one."""
        return self.model.config.image_seq_length

    def grid(self, size=None):
        """(rows, columns) of the first image tokens of an image of that size: a view of all of it, in raster order."""
        side = round(self.n_image_tokens**0.5)
        return (side, side)

    @property
    def layers(self):
        """The decoder's layers, in order: modules of L."""
        return self.model.model.language_model.layers

    @property
    def n_layers(self):
        """Number of decoder layers L."""
        return self.model.config.text_config.num_hidden_layers

    @property
    def n_heads(self):
        """Number of query heads H of a decoder layer."""
        return self.model.config.text_config.num_attention_heads

    @property
    def width(self):
        """How many numbers D a hidden state of the decoder has."""
        return self.model.config.text_config.hidden_size

    @property
    def max_tokens(self):
        """The longest sequence that the decoder's positions allow."""
        return self.model.config.text_config.max_position_embeddings

    @property
    def end_token_ids(self):
        """Ids that end an answer: by the chat template and by the checkpoint's generation settings."""
        listed = self.model.generation_config.eos_token_id
        listed = [] if listed is None else listed if isinstance(listed, list) else [listed]
        return self.encoder.end_token_ids | set(listed)

    def pixels(self, images):
        """Preprocess PIL RGB images as the checkpoint says, without torchvision: a dict of tensors, as the model's own
        forward pass takes them ("pixel_values" is (B, 3, height, width) float32, where all images get one size)."""
        return {"pixel_values": self.image_processor(images=images, return_tensors="pt")["pixel_values"]}

    def seen(self, image):
        """The part of a PIL image that the model sees: its middle square, where the preprocessing takes that."""
        if not getattr(self.image_processor, "do_center_crop", False):
            return image
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    @torch.no_grad()
    def image_features(self, pixels):
        """Run vision tower and projector on the pixels of B images: B tensors, (T, D) where `inputs` is not its own."""
        return list(self._encode(pixels).pooler_output)

    @torch.no_grad()
    def tower_features(self, pixels):
        """What `project` makes image features of, from the pixels of B images: frozen, whatever is fine-tuned."""
        return list(self._before_projector(pixels))

    def project(self, features):
        """Image features of the tower features of B images, with gradients to the projector where it is trained."""
        return list(self._projector(torch.stack(features)))

    def _encode(self, pixels):
        """The library's output of vision tower and projector."""
        pixels = {name: tensor.to(self.model.device) for name, tensor in pixels.items()}
        pixels["pixel_values"] = pixels["pixel_values"].to(self.model.dtype)
        return self.model.get_image_features(**pixels, return_dict=True)

    def _before_projector(self, pixels):
        """What comes to the projector from the tower, which is not run any further."""
        return input_of(self._projector, lambda: self._encode(pixels))

    @property
    def _projector(self):
        return self.model.model.multi_modal_projector

    def projector_parameters(self):
        """All parameters that `project` uses."""
        return list(self._projector.parameters())

    @property
    def trained(self):
        """How many numbers are trained of each part: {"decoder": ..., "projector": ..., "tower": ...}.

        The projector is all that `project` uses, the decoder has the language model's head and embeddings.
        """
        decoder = torch.nn.ModuleList([self.model.model.language_model, self.model.lm_head])
        n_decoder = _count_trained(decoder.parameters())
        n_projector = _count_trained(self.projector_parameters())
        n_tower = _count_trained(self.model.parameters()) - n_decoder - n_projector
        return {"decoder": n_decoder, "projector": n_projector, "tower": n_tower}

    def inputs(self, ids, features, mask=None):
        """Keyword arguments of the model for (B, N) token ids and the image features of each row.

        mask: (B, N) ones on tokens and zeros on padding; without it padding is on the right, where under the causal
        mask alone no token looks at it.
        """
        inputs = {"inputs_embeds": self.embed(ids, features)}
        return inputs if mask is None else {**inputs, "attention_mask": mask, "position_ids": position_ids(mask)}

    def positions(self, ids, features, mask=None):
        """The positions in `inputs`, or None if `counts_positions`."""

    def embed(self, ids, features):
        """Embed (B, N) token ids, the image features of each row in the places of its image tokens: (B, N, D)."""
        embeddings = self.model.get_input_embeddings()(ids)
        return embeddings.masked_scatter((ids == self.image_token_id).unsqueeze(-1), torch.cat(features).to(embeddings))

    def decode(self, ids):
        """Text of generated token ids, special tokens left out and outer blanks cut."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def prompt(self, sample_id, question, size=None, system=None):
        """Tokens of a prompt (`PromptEncoder.prompt`); errors name the sample."""
        return self._checked(sample_id, self.encoder.prompt, question, size, system)

    def conversation(self, sample_id, turns, size=None, system=None):
        """Tokens of a training conversation (`PromptEncoder.conversation`); errors name the sample."""
        return self._checked(sample_id, self.encoder.conversation, turns, size, system)

    def asked(self, sample_id, turns, size=None, system=None):
        """Tokens of a conversation up to its last answer (`PromptEncoder.asked`); errors name the sample."""
        return self._checked(sample_id, self.encoder.asked, turns, size, system)

    def check(self, turns, size=None, system=None):
        """Raise SampleError, saying of which kind, where a training conversation cannot be given to the model."""
        self._fitting(self.encoder.conversation, turns, size, system)

    def _checked(self, sample_id, encode, text, size, system):
        try:
            return self._fitting(encode, text, size, system)
        except SampleError as error:
            raise SampleError(error.kind, f"sample {sample_id!r}: {error}") from None

    def _fitting(self, encode, text, size, system):
        try:
            tokens = encode(text, size, system)
        except ByeError as error:
            raise SampleError("text", str(error)) from None
        if len(tokens.ids) > self.max_tokens:
            raise SampleError(
                "too long", f"it has {len(tokens.ids)} tokens, the model takes {self.max_tokens}; shorten it"
            )
        return tokens


def input_of(module, run):
    """Return the first input of a module in the forward pass `run()`, which goes no further than that."""

    def stop(module, inputs):
        raise _Reached(inputs[0])

    hook = module.register_forward_pre_hook(stop)
    try:
        run()
    except _Reached as reached:
        return reached.input
    finally:
        hook.remove()


class _Reached(Exception):
    """Ends a forward pass in front of a module."""

    def __init__(self, input):
        self.input = input


def _count_trained(parameters):
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def pad(sequences, value, side="left"):
    """Stack 1-D integer arrays into one (B, N) int64 tensor, the shorter ones filled with `value` on one side."""
    length = max(map(len, sequences))
    stacked = np.full((len(sequences), length), value, dtype=np.int64)
    for row, sequence in zip(stacked, sequences, strict=True):
        row[length - len(sequence) if side == "left" else 0 :][: len(sequence)] = sequence
    return torch.from_numpy(stacked)


def position_ids(mask):
    """Positions that count a row's own tokens only, from its (B, N) mask of zeros and ones."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


class ImageFeatures:
    """Image features by image name; each distinct image is encoded once if `cache` is true.

    open_image: a function from a name to a PIL RGB image; encode: from pixels to features, by default through the
    projector.
    """

    def __init__(self, family, open_image, cache, encode=None):
        self.family, self.open_image, self.cache = family, open_image, cache
        self.encode = encode or family.image_features
        self.known = {}

    def __call__(self, names, batch_size=32):
        """Features of the named images in that order: a list of tensors."""
        features = self.known if self.cache else {}
        missing = [name for name in dict.fromkeys(names) if name not in features]
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            encoded = self.encode(self.family.pixels([self.open_image(name) for name in batch]))
            features.update(zip(batch, encoded, strict=True))
        return [features[name] for name in names]


def processing_order(images, lengths):
    """The order in which samples go into batches: questions on one image beside each other, then by length.

    images: the image's name of each sample; lengths: its number of tokens. Returns an index array. So an image that
    many samples share is encoded once, and the others are padded little.
    """
    counts, first = Counter(images), {name: place for place, name in reversed(list(enumerate(images)))}
    place = [first[name] if counts[name] > 1 else len(images) for name in images]
    return np.lexsort((lengths, place))  # by place, and in one place by length


def load(
    families,
    path,
    expected=None,
    attention="sdpa",
    device="auto",
    dtype="auto",
    quantization=None,
    weights=True,
):
    """Load a base model from a folder or hub id as one of `families` (a dict from model_type to a Family subclass).

    expected: the model_type the user stated, or None. attention: of decoder and tower, as in `transformers`.
    device: "auto" is this process's CUDA device or the CPU; dtype: "auto" is bfloat16 on CUDA and float32 on the CPU.
    quantization: "4bit" has the decoder's linear layers in 4 bits, as QLoRA (Dettmers et al. 2023); it needs CUDA.
    weights: if false, none are read; the model then has its layers on torch's meta device, which tells sizes and names.
    Weights are read from safetensors only and no code of the checkpoint is run. Raises ByeError for anything else.
    """
    model_type, own_code = _model_type(path)
    hint = f"; {hub.NATIVE}" if own_code or model_type == "internvl_chat" else ""
    if expected is not None and model_type != expected:
        raise ByeError(
            f"model {path} is of type {model_type!r}, not {expected!r}; correct the family or the path{hint}"
        )
    if model_type not in families:
        raise ByeError(f"model {path} is of type {model_type!r}; supported are {', '.join(families)}{hint}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    family = families[model_type]
    model_class, processor_class = family.classes()
    device, dtype = choose_device(device, dtype)
    options = {"use_safetensors": True, "trust_remote_code": False, "dtype": dtype, "attn_implementation": attention}
    options |= {"device_map": {"": device}}  # straight to its device, not through the machine's memory
    if quantization is not None:
        options |= {"quantization_config": quantization_config(quantization, device)}
    try:
        if weights:
            model = model_class.from_pretrained(path, **options)
        else:
            with torch.device("meta"):
                model = model_class(model_class.config_class.from_pretrained(path))
        model.eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        image_processor = processor_class.from_pretrained(path)
    except torch.OutOfMemoryError:
        raise ByeError(
            f"model {path} does not fit into the free memory of the GPU; see what else runs there (nvidia-smi), or "
            "take one with more memory"
        ) from None
    except Exception as error:  # a broken folder fails in many ways; all of them mean the same to the user
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, OSError) and not os.path.isdir(path):
            raise ByeError(hub.describe(f"model {path}", error)) from error
        raise ByeError(f"model {path} cannot be loaded as {model_type} ({reason}); replace it") from error
    return family(path, model, tokenizer, _chat_template(path, tokenizer), image_processor)


def choose_device(device, dtype):
    """Resolve "auto": (torch device, torch dtype)."""
    if device == "auto":
        device = distributed.device()
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return torch.device(device), getattr(torch, dtype)


def quantization_config(quantization, device):
    """The `transformers` configuration of a quantised base: NF4, constants quantised again, computed in bfloat16.

    Raises ByeError for another quantization than "4bit", and without bitsandbytes or a CUDA device.
    """
    if quantization != "4bit":
        raise ByeError(f"quantization {quantization!r} is unknown; it can be 4bit, or be left out")
    if find_spec("bitsandbytes") is None:
        raise ByeError("quantization 4bit needs bitsandbytes; pip install 'bye-suite[gpu]', or leave quantization out")
    if device.type != "cuda":
        raise ByeError("quantization 4bit needs an NVIDIA GPU, and torch finds none; leave quantization out")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(UNQUANTIZED),
    )


def _model_type(path):
    """What config.json of a folder or hub id states: (model_type, whether it names code of its own).

    Raises ByeError also where a folder's weights are not safetensors.
    """
    if os.path.isdir(path):
        names = os.listdir(path)
        if "config.json" not in names:
            raise ByeError(f"model {path} has no config.json; give a folder in the layout of transformers, or a hub id")
        if not any(name.endswith(".safetensors") for name in names):
            pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in names)
            found = "only pickled weights, which could run code when read" if pickled else "no weights"
            raise ByeError(f"model {path} has {found}; give one with safetensors")
    elif os.path.exists(path) or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1:
        raise ByeError(f"model {path} is neither a folder nor a hub id (owner/name); check the path")
    try:
        with open(cached_file(path, "config.json"), encoding="utf-8") as file:
            content = json.load(file)
        return content.get("model_type"), "auto_map" in content
    except ValueError as error:
        raise ByeError(f"model {path}: config.json is not valid JSON ({error}); download it again") from None
    except OSError as error:
        raise ByeError(hub.describe(f"model {path}", error)) from None


def _chat_template(path, tokenizer):
    """The checkpoint's chat template: with the tokenizer, or in the older chat_template.json of its processor."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None:
        file = cached_file(path, "chat_template.json", _raise_exceptions_for_missing_entries=False)
        if file is None:
            raise ByeError(f"model {path} has no chat template; add its chat_template.jinja")
        with open(file, encoding="utf-8") as opened:
            template = json.load(opened)["chat_template"]
    return template
