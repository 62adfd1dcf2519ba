"""The fine-tuning stage: LoRA on the language model by the `transformers` Trainer, resumed where it was killed."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import Linear as LoraLinear
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from bye.data.images import image_path
from bye.data.samples import read_samples
from bye.errors import ByeError
from bye.files import filling, replacing_folder, write_bytes, write_csv, write_json
from bye.machine import distributed
from bye.models import load_model
from bye.models.family import pad
from bye.models.prompt import ANSWER, TEXT
from bye.models.workload import Workload

IGNORED = -100  # label of a position without loss
SECONDS_BETWEEN_LINES = 5
COMPLETE = "complete"  # the marker in a checkpoint folder that was written to its end
APART = ("out", "log", "checkpoint_folder", "validate", "entries")  # arguments that are no settings of the fine-tune
LOGGED = ("step", "epoch", "loss", "learning_rate")


def finetune(
    model,
    samples,
    images,
    out,
    log,
    epochs=3,
    batch_size=16,
    micro_batch_size=None,
    learning_rate=2e-4,
    warmup=0.0,
    adam_epsilon=1e-8,
    lora_rank=16,
    lora_alpha=32,
    lora_dropout=0.0,
    lora_targets=None,
    lora_projector=False,
    seed=0,
    cache_features=True,
    checkpoints=6,
    checkpoint_folder=None,
    gradient_checkpointing=False,
    quantization=None,
    family=None,
    threads=None,
    device="auto",
    dtype="auto",
    validate=True,
    entries=None,
):
    """Fine-tune `model` on a samples file; write a standard PEFT adapter folder `out` and the loss curve `log` (CSV).

    model: folder or hub id; images: image root; epochs: float; batch_size: samples an optimiser step over all processes
    (`bye.machine.distributed`), of which each has micro_batch_size at most in memory at once; warmup: share of the
    steps; adam_epsilon: of AdamW, gradients far below it hardly count; lora_targets: names of the decoder's linear
    layers that LoRA adapts, by default all; lora_projector: adapt the projector's too; checkpoints: how many times along the run
    its state is kept, in checkpoint_folder (default `<out>.checkpoints`), which is removed at the end; cache_features:
    encode each distinct image once and keep the result in memory; quantization: see `bye.models.family.load`; validate:
    check the samples file, which is not needed where the suite wrote it; entries: its content, if it is read already.

    Loss is on answer tokens only, averaged over those of the whole batch. The same arguments, seed and numbers of
    processes and threads give the same bytes, killed and resumed or not; with other numbers the result is the same but
    for rounding and the draws of dropout. Raises ByeError for bad input, a loss that is not finite and a full disk.
    """
    settings = {name: value for name, value in locals().items() if name not in APART}
    if threads:
        torch.set_num_threads(threads)
    if entries is None:
        entries = read_samples(samples, validate=validate)
    n_processes, first = distributed.size(), distributed.rank() == 0
    micro, accumulated = distributed.split_batch(batch_size, n_processes, micro_batch_size)
    folder = Path(checkpoint_folder or f"{str(out).rstrip('/')}.checkpoints")
    if first:
        parts = (n_processes, "process", "es"), (micro, "sample", "s"), (accumulated, "accumulation step", "s")
        parts = " x ".join(f"{count} {name}{plural * (count != 1)}" for count, name, plural in parts)
        print(f"finetune: batch {batch_size} = {parts}", file=sys.stderr, flush=True)
        _prepare_checkpoints(folder, fingerprint({**settings, "processes": n_processes}, entries))
    checkpoint = distributed.gather(first and _last_checkpoint(folder))[0]

    set_seed(seed)  # before LoRA's random initialisation
    loaded = load_model(model, expected=family, device=device, dtype=dtype, quantization=quantization)
    half = loaded.model.dtype == torch.bfloat16
    encode = loaded.tower_features if lora_projector else loaded.image_features
    work = Workload(loaded, entries, images, cache_features, encode)
    dataset, features = list(zip(work.conversations(), work.images, strict=True)), work.features
    if cache_features:
        features(work.images)
    lora = LoraConfig(
        r=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=loaded.lora_pattern(lora_targets, lora_projector),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(model),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft and transformers on each other's old names
            if quantization:
                prepare_model_for_kbit_training(loaded.model, use_gradient_checkpointing=False)
            if gradient_checkpointing:  # not reentrant: that would cut the gradient off at a frozen input
                loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            adapted = get_peft_model(loaded.model, lora)
    except ValueError as error:
        raise ByeError(f"LoRA does not fit the model {model} ({error}); correct lora_targets") from None
    if not (lora_dropout or quantization):
        add_to_weights(adapted)

    steps = math.ceil(len(entries) / batch_size) * epochs
    log_every = max(1, math.ceil(steps / 200))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulated,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(warmup * steps),
        optim="adamw_torch_fused",
        adam_epsilon=adam_epsilon,
        weight_decay=0.0,
        seed=seed,
        bf16=half,
        use_cpu=loaded.model.device.type == "cpu",
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps" if checkpoints else "no",
        save_steps=log_every * max(1, math.ceil(steps / log_every / (checkpoints + 1))),
        save_total_limit=2,  # the newest may be unfinished
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # a single process uses one GPU; the Trainer would take all that it sees
    order = EpochOrder(len(dataset), n_processes * micro, seed)
    trainer = FeatureTrainer(
        model=adapted,
        args=arguments,
        train_dataset=[*dataset, blank(dataset[0])],
        data_collator=collate,
        callbacks=[Watch(order)],
        order=order,
        inputs=loaded.inputs,
        last_layer=loaded.layers[-1],
        features=(lambda names: loaded.project(features(names))) if lora_projector else features,
    )
    trainer.remove_callback(PrinterCallback)  # Watch prints
    if not first:
        torch.manual_seed(seed + (distributed.rank() << 32))  # dropout of its own
    try:
        with filling(folder):
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        if first:
            _remove_unfinished(folder)  # on a full disk this also makes room for the error's line in the log

    if not first:
        return
    rows = [{name: entry[name] for name in LOGGED} for entry in trainer.state.log_history if "loss" in entry]
    write_csv(log, rows, LOGGED)
    with replacing_folder(out) as partial:
        adapted.save_pretrained(str(partial), safe_serialization=True)
        (partial / "README.md").unlink(missing_ok=True)  # an empty form
    shutil.rmtree(folder, ignore_errors=True)


def finetune_kept(samples, plain_samples, plain_adapter, plain_log, out, log, validate=True, **options):
    """`finetune` on what a defence kept; where it kept everything, the plain fine-tune's adapter and loss are copied.

    plain_samples, plain_adapter, plain_log: of the fine-tune on everything, done with the same options. Returns whether
    it was copied: no fine-tune is done twice.
    """
    kept = read_samples(samples, validate=validate)
    if kept != read_samples(plain_samples, validate=validate):
        finetune(samples=samples, entries=kept, out=out, log=log, **options)
        return False
    if distributed.rank() > 0:
        return True
    print("finetune: everything was kept, so this is the plain fine-tune; copied", file=sys.stderr)
    write_bytes(log, Path(plain_log).read_bytes())
    with replacing_folder(out) as partial:
        shutil.copytree(
            plain_adapter, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".snakemake_timestamp")
        )
    return True


def collate(batch):
    """Pad [(Tokens, image name), ...] on the right: ids and labels (B, N), and the image names."""
    return {
        "ids": pad([tokens.ids for tokens, _ in batch], 0, side="right"),
        "labels": pad([np.where(t.roles == ANSWER, t.ids, IGNORED) for t, _ in batch], IGNORED, side="right"),
        "images": [image for _, image in batch],
    }


def blank(sample):
    """A sample of `collate` without answer tokens: it adds nothing to the loss."""
    tokens, image = sample
    return dataclasses.replace(tokens, roles=np.full_like(tokens.roles, TEXT)), image


class EpochOrder(torch.utils.data.Sampler):
    """The order of n samples in an epoch, drawn by seed, the same in each process and for any number of them.

    Filled up to a multiple of `together`, the samples that all processes hold at once, by the index n of a blank
    sample: the last batch has the real ones that it has with one process, and none of them twice.
    """

    def __init__(self, n, together, seed):
        self.n, self.seed, self.epoch = n, seed, 0
        self.length = math.ceil(n / together) * together if distributed.size() > 1 else n

    def __len__(self):
        return self.length

    def __iter__(self):
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        return iter(order.tolist() + [self.n] * (self.length - self.n))


class FeatureTrainer(Trainer):
    """A Trainer whose batches name their images; the frozen vision tower's features come from an ImageFeatures.

    With padding on the right, no token ever looks at padding under the causal mask alone, so no mask is applied; and
    of the last layer only keys and values are needed everywhere: its queries, and what comes after its attention, are
    computed for the positions that predict an answer token only.
    """

    def __init__(self, *args, order, inputs, features, last_layer, **kwargs):
        super().__init__(*args, **kwargs)
        self.order, self.inputs, self.features = order, inputs, features
        self.chosen = ChosenPositions(last_layer.mlp, last_layer.self_attn.q_proj, last_layer.self_attn.o_proj)
        self.model_accepts_loss_kwargs = True  # every answer token of a step counts the same, whatever its micro-batch

    def _get_train_sampler(self, train_dataset=None):
        return self.order

    def compute_loss(self, model, inputs, *args, **kwargs):
        labels = inputs["labels"]
        predicts = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))  # (B, N)
        targets = labels[:, 1:][predicts[:, :-1]]  # (number of answer tokens,)
        self.chosen.mask = predicts
        inputs = {
            **self.inputs(inputs["ids"], self.features(inputs["images"])),
            "logits_to_keep": predicts,
            "labels": targets,
            "shift_labels": targets,
            "use_cache": False,
        }
        return super().compute_loss(model, inputs, *args, **kwargs)


class ChosenPositions:
    """Hooks that let modules run on the positions that `mask`, (B, N) bool, chooses; their output is zero elsewhere.

    For modules (B, N, D) -> (B, N, D') that treat each position alone.
    """

    def __init__(self, *modules):
        self.mask = None
        for module in modules:
            module.register_forward_pre_hook(lambda module, arguments: (arguments[0][self.mask],))
            module.register_forward_hook(self._fill)

    def _fill(self, module, arguments, output):
        filled = output.new_zeros(*self.mask.shape, output.shape[-1])
        filled[self.mask] = output
        return filled


def add_to_weights(adapted):
    """Let LoRA's update be added to a layer's weight, not to its output, wherever it has as many numbers as the weight.

    For tokens x, x(W + sBA)^T is then less work than xW^T + s(xA^T)B^T, forward and backward. As it is with a mini
    model's narrow layers; for float layers without dropout.
    """
    for module in adapted.modules():
        if isinstance(module, LoraLinear):
            n_lora = module.lora_A["default"].weight.numel() + module.lora_B["default"].weight.numel()
            if n_lora >= module.base_layer.weight.numel():
                module.forward = partial(_forward_on_sum, module)


def _forward_on_sum(module, x):
    weight = module.base_layer.weight + module.get_delta_weight("default")
    return torch.nn.functional.linear(x, weight, module.base_layer.bias)


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


def fingerprint(settings, entries):
    """Hash of all that a run's result depends on: settings, samples, and its images' sizes and times of change."""
    root = settings["images"]
    images = {}
    for name in sorted({entry["image"] for entry in entries}):
        status = os.stat(image_path(root, name))
        images[name] = (status.st_size, status.st_mtime_ns)
    weights = [
        (f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(Path(settings["model"]).glob("*.safetensors"))
    ]
    text = json.dumps([settings, entries, images, weights, torch.__version__], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _prepare_checkpoints(folder, wanted):
    """Keep a checkpoint folder of the same fingerprint, without its unfinished checkpoints; empty any other."""
    note = folder / "fingerprint.json"
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        found = None
    if found != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(note, wanted)
    _remove_unfinished(folder)


def _remove_unfinished(folder):
    """Remove checkpoints that were not written to their end."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)


def _last_checkpoint(folder):
    """Path of the newest complete checkpoint, or None."""
    complete = folder.glob(f"checkpoint-*/{COMPLETE}")
    steps = [int(marker.parent.name.split("-")[1]) for marker in complete]
    return str(folder / f"checkpoint-{max(steps)}") if steps else None
