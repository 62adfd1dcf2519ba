"""The `transformers` Trainer on conversations about images: batches, their order, the loss, what is said meanwhile."""

import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

from bye.errors import ByeError
from bye.machine import distributed
from bye.models.family import pad
from bye.models.prompt import ANSWER, TEXT
from bye.training.checkpoints import COMPLETE

IGNORED = -100  # label of a position without loss
SECONDS_BETWEEN_LINES = 5
TRAINED = "trained.safetensors"  # in a checkpoint


class FeatureTrainer(Trainer):
    """A Trainer on batches of `collate`; inputs: a function from a batch to keyword arguments of the model.

    With padding on the right, no token ever looks at padding under the causal mask alone, so no mask is applied; and
    of the last layer only keys and values are needed everywhere: its queries, and what comes after its attention, are
    computed for the positions that predict an answer token only. Checkpoints have the trained parameters alone.
    """

    def __init__(self, *args, order, inputs, last_layer, **kwargs):
        super().__init__(*args, **kwargs)
        self.order, self.inputs = order, inputs
        self.chosen = ChosenPositions(last_layer.mlp, last_layer.self_attn.q_proj, last_layer.self_attn.o_proj)
        self.model_accepts_loss_kwargs = True  # every answer token of a step counts the same, whatever its micro-batch

    def _get_train_sampler(self, train_dataset=None):
        return self.order

    def _trained(self):
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    def _save(self, output_dir=None, state_dict=None):
        if self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            tensors = {name: each.detach().contiguous() for name, each in self._trained().items()}
            save_file(tensors, f"{output_dir}/{TRAINED}")

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        kept = load_file(f"{resume_from_checkpoint}/{TRAINED}")
        for name, parameter in self._trained().items():
            parameter.copy_(kept[name])

    def compute_loss(self, model, inputs, *args, **kwargs):
        labels = inputs["labels"]
        predicts = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))  # (B, N)
        targets = labels[:, 1:][predicts[:, :-1]]  # (number of answer tokens,)
        self.chosen.mask = None
        inputs = self.inputs(inputs)  # which may run the decoder on virtual tokens
        self.chosen.mask = predicts
        inputs = {
            **inputs,
            "logits_to_keep": predicts,
            "labels": targets,
            "shift_labels": targets,
            "use_cache": False,
        }
        return super().compute_loss(model, inputs, *args, **kwargs)


class ChosenPositions:
    """Hooks that let modules run on the positions that `mask`, (B, N) bool, chooses; their output is zero elsewhere.
    Without a mask they run on all.

    For modules (B, N, D) -> (B, N, D') that treat each position alone.
    """

    def __init__(self, *modules):
        self.mask = None
        for module in modules:
            module.register_forward_pre_hook(self._take)
            module.register_forward_hook(self._fill)

    def _take(self, module, arguments):
        return arguments if self.mask is None else (arguments[0][self.mask],)

    def _fill(self, module, arguments, output):
        if self.mask is None:
            return output
        filled = output.new_zeros(*self.mask.shape, output.shape[-1])
        filled[self.mask] = output
        return filled


class EpochOrder(torch.utils.data.Sampler):
    """The order of n samples in an epoch, drawn by seed, the same in each process and for any number of them.

    Filled up to a multiple of `together`, the samples that all processes hold at once, by the index n of a blank
    sample: the last batch has the real ones that it has with one process, and none of them twice. lengths: of the
    samples in tokens; where it is given, those of a batch of `batch_size` are sorted by it, so that parts of a batch
    have little padding.
    """

    def __init__(self, n, together, seed, batch_size=None, lengths=None):
        self.n, self.seed, self.epoch = n, seed, 0
        self.batch_size, self.lengths = batch_size, lengths
        self.length = math.ceil(n / together) * together if distributed.size() > 1 else n

    def __len__(self):
        return self.length

    def __iter__(self):
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        if self.lengths:
            starts = range(0, self.n, self.batch_size)
            batches = [sorted(order[start : start + self.batch_size], key=self.lengths.__getitem__) for start in starts]
            order = [place for batch in batches for place in batch]
        return iter(order + [self.n] * (self.length - self.n))


def collate(batch):
    """Pad [(Tokens, image name, place), ...] on the right: ids and labels (B, N), image names, places in the data."""
    tokens, images, places = zip(*batch, strict=True)
    return {
        "ids": pad([each.ids for each in tokens], 0, side="right"),
        "labels": pad([np.where(each.roles == ANSWER, each.ids, IGNORED) for each in tokens], IGNORED, side="right"),
        "images": images,
        "places": places,
    }


def blank(sample):
    """A sample of `collate` without answer tokens: it adds nothing to the loss."""
    tokens, *others = sample
    return dataclasses.replace(tokens, roles=np.full_like(tokens.roles, TEXT)), *others


class Watch(TrainerCallback):
    """Print a line every few seconds, stop at a loss that is not finite, and mark checkpoints that are complete.

    order: the EpochOrder, told each epoch (the Trainer does not, where it goes on in the middle of one).
    """

    def __init__(self, order):
        self.order = order

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.order.epoch = int(state.epoch or 0)

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = self.printed = time.monotonic()
        self.first_step = state.global_step
        if self.first_step and state.is_world_process_zero:
            print(f"finetune: resumed at step {self.first_step} of {state.max_steps}", file=sys.stderr, flush=True)

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise ByeError(f"the loss is {loss} at step {state.global_step}; lower the learning rate")
        now = time.monotonic()
        if not state.is_world_process_zero:
            return
        if now - self.printed >= SECONDS_BETWEEN_LINES or state.global_step == state.max_steps:
            rate = (state.global_step - self.first_step) / (now - self.start)
            left = (state.max_steps - state.global_step) / rate
            print(
                f"finetune: step {state.global_step} of {state.max_steps}, loss {loss:.4f}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self.printed = now

    def on_save(self, args, state, control, **kwargs):
        distributed.gather(None)  # all have written their part
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
