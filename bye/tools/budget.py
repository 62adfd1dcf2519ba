"""What runs take, before they are started: how many there are, and their memory and time from a model's sizes alone.

Memory of a fine-tune, in bytes: the weights in their dtype; each trained parameter 16 (itself, its gradient and AdamW's
two moments in float32); and the activations that wait for the backward pass, of `micro` samples of N tokens, where D is
the decoder's width, F that of its MLP, K the width of all keys and L the number of layers. A layer keeps

    a = 20 D + 4 K + 8 F       bytes a token: two norms (6 D each), query, attention, two residuals (2 D each), key and
                               value (4 K), and four tensors in the MLP (2 F each), for 2 bytes a number;
    micro N L a                without gradient checkpointing,
    micro N (2 D L + a)        with it: each layer's input, and one layer's all.

Memory of inference: weights, the cache of keys and values (4 K L a token) and one layer's activations, of a batch.
Numbers of 4 bytes double all but what is trained. A tenth and one gigabyte are added for the allocator and the
libraries.

Time, from floating-point operations: a forward pass is 2 P a token, P the parameters of the decoder's layers, and 2 a
patch for those of the vision tower; the decoder's attention adds 2 N D L a token. A backward pass to frozen weights
costs one forward pass more, gradient checkpointing another; the gradients of the trained parameters are left out, as
these are few where an adapter is trained. A generated token counts as TOKEN_COST prompt tokens, since memory and not
arithmetic bounds it. The device gives EFFICIENCY of its rate in a large matrix product.
"""

import os
import time
from dataclasses import dataclass

import torch

from bye.plan import entries

EFFICIENCY = 0.4
TOKEN_COST = 10
QUANTIZED = {"4bit": 0.52}  # bytes a weight: NF4 in blocks of 64, whose constants are quantised again
STAGES = ("fine-tune", "attention", "evaluation", "detection")  # the last: of detectors that run the model
# Where no GPU is at hand: name, bytes, bfloat16 operations a second.
REFERENCE = ("an A100 of 80 GB (no GPU is here)", 80e9, 312e12)


@dataclass(frozen=True)
class Device:
    """Where runs happen: its name, memory in bytes, operations a second in a large matrix product, bytes a number."""

    name: str
    memory: float
    rate: float
    bytes: int


@dataclass(frozen=True)
class Sizes:
    """Numbers of a model: parameters of all, of the decoder's layers, of what sees the image, and how many are trained;
    widths D, F and K, layers L, and the patches of one image."""

    parameters: int
    decoder: int
    tower: int
    trained: int
    width: int
    mlp: int
    keys: int
    layers: int
    patches: int

    def weights(self, number, quantization=None):
        """Bytes of the base model; number: bytes of one number."""
        decoder = QUANTIZED[quantization] if quantization else number
        return decoder * self.decoder + number * (self.parameters - self.decoder)

    def train_bytes(self, tokens, micro, checkpointing, number, quantization=None):
        """Bytes of a fine-tune with `micro` samples of `tokens` tokens in memory; number: bytes of one."""
        kept = (2 * self.width * self.layers + self._layer) if checkpointing else self.layers * self._layer
        base = self.weights(number, quantization)
        return _with_margin(base + 16 * self.trained + micro * tokens * kept * number / 2)

    def inference_bytes(self, tokens, batch, number, quantization=None):
        """Bytes of a batch of answers, prompt and answer of `tokens` tokens together."""
        cache = 4 * self.keys * self.layers + self._layer
        return _with_margin(self.weights(number, quantization) + batch * tokens * cache * number / 2)

    @property
    def _layer(self):
        return 20 * self.width + 4 * self.keys + 8 * self.mlp

    def forward(self, tokens, image=True):
        """Operations of a forward pass over one sample of `tokens` tokens, and over its image."""
        text = tokens * (2 * self.decoder + 2 * tokens * self.width * self.layers)
        return text + (2 * self.tower * self.patches if image else 0)

    def fine_tune(self, samples, epochs, tokens, checkpointing, cached):
        """Operations of a fine-tune; cached: the tower sees each image once, not once an epoch."""
        towers = 1 if cached else epochs
        image = 2 * self.tower * self.patches
        return samples * (epochs * (2 + checkpointing) * self.forward(tokens, image=False) + towers * image)

    def passes(self, number, tokens):
        """Operations of a number of forward passes over one sample each."""
        return number * self.forward(tokens)

    def answers(self, samples, tokens, new_tokens):
        """Operations, or what costs as much, of `samples` answers of `new_tokens` tokens."""
        return samples * (self.forward(tokens) + TOKEN_COST * new_tokens * 2 * self.decoder)


# The scout (docs/scout.md), its sizes, and the epochs of config/scout.yaml; all layers are trained.
SCOUT = Sizes(157_000_000, 106_202_880, 22_000_000, 0, width=576, mlp=1536, keys=192, layers=30, patches=121)
SCOUT_EPOCHS = 5
LARGE = 5  # times the scout's parameters: of a model that is worth a scout


def ways_to_clean(sizes, seconds, samples, text_tokens, rate):
    """Return (found by the model itself, found by the scout first): seconds until a model is trained on a cleaned set.

    The model is fine-tuned, looked into and fine-tuned again; or the scout is fine-tuned and looked into, and then the
    model fine-tuned once. None for a model that is not LARGE. sizes: the model's; seconds: of its stages; text_tokens:
    of a sample; rate: operations a second.
    """
    if sizes.parameters < LARGE * SCOUT.parameters:
        return None
    tokens = text_tokens + SCOUT.patches
    scout = SCOUT.fine_tune(samples, SCOUT_EPOCHS, tokens, False, True) + SCOUT.passes(samples, tokens)
    return 2 * seconds["fine-tune"] + seconds["attention"], scout / rate + seconds["fine-tune"]


def sizes_of(family, trained, image_tokens=0):
    """Sizes of a loaded family, also without weights, of which a tuning method trains so many parameters.

    image_tokens: of one image, for the patches that the tower makes them of.
    """
    model, text = family.model, family.model.config.text_config
    merged = getattr(model.config.vision_config, "spatial_merge_size", 1)
    merged = round(merged / getattr(model.config, "downsample_ratio", 1))  # patches in a row that become one token
    decoder = _count(model.model.language_model.layers)
    head = _count(model.model.language_model) - decoder + _count(model.lm_head)
    return Sizes(
        parameters=_count(model),
        decoder=decoder,
        tower=_count(model) - decoder - head,
        trained=trained,
        width=text.hidden_size,
        mlp=text.intermediate_size,
        keys=text.hidden_size * text.num_key_value_heads // text.num_attention_heads,
        layers=text.num_hidden_layers,
        patches=image_tokens * merged**2,
    )


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def _with_margin(amount):
    return 1.1 * amount + 1e9


def runs_of(config, name):
    """Return what one entry of the section tables wants: (plain, further, answered, tried), sets of cells.

    plain: fine-tunes whose attention is read too; further: those after a defence; answered: cells that are evaluated;
    tried: those whose detector runs the model.
    """
    methods = {key: entries.method_of(config, key) for key in config["defences"]}
    plain = entries.plain_defence(config)
    runs = entries.cells(config, name)
    answered = {cell for cell, file in entries.cell_files(config, name) if file == "eval.json"}
    trained = {cell for cell in answered if methods[cell.defence].acts_on == "training set"}
    tried = {cell for cell in runs if methods[cell.defence].runs_model}
    return {cell.of(plain) for cell in runs}, trained, answered, tried


def cells(config):
    """Return what all entries of a configuration want together, as `runs_of` does for one."""
    return tuple(map(set.union, *(runs_of(config, name) for name in config["tables"])))


def detectors(config, samples, reference):
    """Return {defence: number of forward passes} of each detector that runs the model.

    samples, reference: numbers of training samples, and of clean ones that it may be given. A method says it by a
    function `passes`; one without takes a pass for each sample.
    """
    found = {}
    for key, defence in config["defences"].items():
        method = entries.method_of(config, key)
        if method.runs_model:
            settings = {name: value for name, value in defence.items() if name != "kind"}
            told = "passes" in method.functions
            found[key] = method.bind("passes", settings)(samples, reference) if told else samples
    return found


def costs(config, seconds):
    """Return {table: {stage: seconds}}: what each table adds to those before it, for no run is done twice.

    seconds: {(model, dataset): {stage: seconds of one run}}, of the stage detection {defence: seconds}; runs of other
    pairs are left out. After a defence a fine-tune has a few samples less, which is not counted.
    """
    done, table_costs = [set() for _ in range(len(STAGES))], {}
    for name in config["tables"]:
        plain, further, answered, tried = runs_of(config, name)
        table_costs[name] = dict.fromkeys(STAGES, 0.0)
        for stage, before, wanted in zip(STAGES, done, (plain | further, plain, answered, tried), strict=True):
            new = {cell for cell in wanted - before if (cell.model, cell.dataset) in seconds}
            table_costs[name][stage] = sum(_seconds_of(seconds, stage, cell) for cell in new)
            before |= wanted
    return table_costs


def _seconds_of(seconds, stage, cell):
    amount = seconds[cell.model, cell.dataset][stage]
    return amount[cell.defence] if isinstance(amount, dict) else amount


def find_device(wants_gpu):
    """The Device of this machine: its first GPU, the CPU, or where a GPU is wanted and not there the REFERENCE."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device(properties.name, properties.total_memory, _rate("cuda", torch.bfloat16, 8192), 2)
    if wants_gpu:
        return Device(*REFERENCE, 2)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device("one core of this machine", memory, _rate("cpu", torch.float32, 1024), 4)


def _rate(device, dtype, size):
    """Operations a second of a product of two square matrices: the best of some."""
    matrix, best = torch.ones((size, size), device=device, dtype=dtype), float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
