"""Virtual tokens in front of every sequence, of which the decoder's layers see trained keys and values.

A layer's attention is given them beside its own, at every token. So they are in no inputs and outputs, and in no mask
and cache: what several questions share can be run once, and hidden states and answers have the places that they have
without.
"""

from functools import partial

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import DynamicCache

from bye.errors import ByeError
from bye.models import adapters, weights
from bye.models.attention import causal, record_decoder

NAME = "virtual_tokens"  # of the parameter, in the decoder
KEY = "prompt_embeddings"  # of PEFT, in its file


class VirtualTokens:
    """n virtual tokens of a loaded family, at the positions 0 to n - 1; all others stand n positions later, as in PEFT.

    numbers: (n, ...), what is trained; compute: a function from them to the (key, value), each (1, K, n, d), of every
    layer. `prepare` calls it: once, or where they are trained before each forward pass.
    """

    def __init__(self, family, numbers, compute):
        decoder = family.model.model.language_model
        self.n, self.compute, self.decoder, self.known = len(numbers), compute, decoder, None
        decoder.register_parameter(NAME, torch.nn.Parameter(numbers, requires_grad=False))
        decoder.rotary_emb.register_forward_pre_hook(self._shift, with_kwargs=True)
        record_decoder(family.model)
        for number, layer in enumerate(family.layers):
            layer.self_attn.virtual = partial(self._add, number)
        family.virtual = self

    def prepare(self):
        """Work out the keys and values of all layers, by the numbers as they are now."""
        self.known = None  # the tokens themselves see no others
        self.known = self.compute(getattr(self.decoder, NAME))

    def _shift(self, rotary, arguments, options):
        *others, positions = [*arguments, *options.values()]
        return (*others, positions + self.n), {}

    def _add(self, number, query, key, value, mask):
        """What a layer sees, and from where: its own tokens and, behind them, the virtual ones."""
        if self.known is None:
            return key, value, mask
        if mask is None:
            mask = causal(query.shape[2], key.shape[2], key.device)
        seen = True if mask.dtype == torch.bool else 0.0
        more = (each.to(key).expand(len(key), -1, -1, -1) for each in self.known[number])
        key, value = (torch.cat(pair, dim=2) for pair in zip((key, value), more, strict=True))
        return key, value, F.pad(mask, (0, self.n), value=seen)


def run(family, embeddings, first):
    """The (key, value) of every layer, each (1, K, n, d), of n tokens by themselves.

    embeddings: (n, D); first: position of the first.
    """
    decoder = family.model.model.language_model
    cache = DynamicCache(config=decoder.config)
    positions = torch.arange(first, first + len(embeddings), device=embeddings.device)[None]
    checkpointed = [layer for layer in family.layers if layer.gradient_checkpointing]
    for layer in checkpointed:  # which would keep no cache
        layer.gradient_checkpointing = False
    decoder(
        inputs_embeds=embeddings[None].to(family.model.dtype),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    for layer in checkpointed:
        layer.gradient_checkpointing = True
    return [(layer.keys, layer.values) for layer in cache.layers]


def words(family, n, seed):
    """Embeddings of n tokens of the vocabulary, drawn by seed: (n, D). Special tokens are none of them."""
    special = set(family.tokenizer.all_special_ids)
    ids = torch.tensor([number for number in range(len(family.tokenizer)) if number not in special])
    drawn = ids[torch.randint(len(ids), (n,), generator=torch.Generator().manual_seed(seed))]
    return family.model.get_input_embeddings()(drawn.to(family.model.device)).detach().float()


def save(model, folder, kind):
    """Write the numbers into a folder, as PEFT does it. kind: a class of its configurations of prompts."""
    numbers, text = getattr(model.model.language_model, NAME).detach().cpu(), model.config.text_config
    save_file({KEY: numbers.contiguous()}, f"{folder}/{adapters.WEIGHTS}")
    of_prefix = kind.__name__ == "PrefixTuningConfig"
    kind(
        task_type="CAUSAL_LM",
        inference_mode=True,
        num_virtual_tokens=len(numbers),
        token_dim=numbers.shape[1] // (2 * text.num_hidden_layers if of_prefix else 1),
        num_transformer_submodules=1,
        num_attention_heads=text.num_key_value_heads if of_prefix else text.num_attention_heads,
        num_layers=text.num_hidden_layers,
        base_model_name_or_path=model.name_or_path,
    ).save_pretrained(folder)


def check(family, folder, kind, width):
    """See that a folder has virtual tokens for this model, of which no weights are needed. Raises ByeError otherwise.

    kind: PEFT's name; width: numbers of one virtual token.
    """
    found = adapters.read_settings(folder).get("peft_type")
    if found != kind:
        raise ByeError(f"{folder}/{adapters.CONFIG} is of peft_type {found!r}, not {kind!r}; correct tuning")
    path = f"{folder}/{adapters.WEIGHTS}"
    shapes = weights.shapes(path, kind)
    n = shapes.get(KEY, (0,))[0]
    weights.compare(path, shapes, {KEY: (n, width)}, "virtual tokens", family.path)


@torch.no_grad()
def load(family, folder, compute):
    """Put the virtual tokens of a folder, which was checked, in front of a family's sequences."""
    numbers = load_file(f"{folder}/{adapters.WEIGHTS}")[KEY].to(family.model.device)
    VirtualTokens(family, numbers, compute).prepare()
