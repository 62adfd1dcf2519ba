"""The fine-tuning stage: a tuning method on a base model by the `transformers` Trainer, resumed where it was killed."""

import math
import shutil
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import PrinterCallback, TrainingArguments, set_seed

from bye.data.check import read_samples
from bye.errors import ByeError
from bye.files import filling, replacing_folder, write_csv
from bye.formats import LOSS, names
from bye.machine import distributed
from bye.models import load_model
from bye.models.attention import record_decoder
from bye.registry import find
from bye.training.checkpoints import fingerprint, last_checkpoint, prepare_checkpoints, remove_unfinished
from bye.training.lower import LowerLayers
from bye.training.once import Once, copy_result
from bye.training.trainer import EpochOrder, FeatureTrainer, Watch, blank, collate
from bye.workload import Workload

LOGGED = names(LOSS)


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
    tuning="lora",
    seed=0,
    cache_features=True,
    cache_layers=False,
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
    **settings,
):
    """Fine-tune `model` on a samples file by a tuning method; write its folder `out` and the loss curve `log` (CSV).

    model: folder or hub id; images: image root; epochs: float; batch_size: samples an optimiser step over all processes
    (`bye.machine.distributed`), of which each has micro_batch_size at most in memory at once; warmup: share of the
    steps; adam_epsilon: of AdamW, gradients far below it hardly count; tuning: kind of the method, a name in
    `bye.methods.tuning` or the path of a .py file; checkpoints: how many times along the run its state is kept, in
    checkpoint_folder (default `<out>.checkpoints`), which is removed at the end; cache_features: encode each distinct
    image once and keep the result in memory; cache_layers: run the decoder's layers below the first trained one once
    over each sample, and keep that in memory too; quantization: see `bye.models.family.load`; validate: check the
    samples file, which is not needed where the suite wrote it; entries: its content, if it is read already; settings:
    those of the tuning method.

    Loss is on answer tokens only, averaged over those of the whole batch. The same arguments, seed and numbers of
    processes and threads give the same bytes, killed and resumed or not; with other numbers the result is the same but
    for rounding and the draws of dropout. What another job of the same run has fine-tuned alike is copied
    (`bye.training.once`). Raises ByeError for bad input, a loss that is not finite and a full disk.
    """
    method = find("tuning method", tuning)
    method.check(settings)
    settings = method.fill(settings)
    if threads:
        torch.set_num_threads(threads)
    if entries is None:
        entries = read_samples(samples, validate=validate)
    n_processes, first = distributed.size(), distributed.rank() == 0
    micro, accumulated = distributed.split_batch(batch_size, n_processes, micro_batch_size)
    folder = Path(checkpoint_folder or f"{str(out).rstrip('/')}.checkpoints")
    once = None
    if first:
        parts = (n_processes, "process", "es"), (micro, "sample", "s"), (accumulated, "accumulation step", "s")
        parts = " x ".join(f"{count} {name}{plural * (count != 1)}" for count, name, plural in parts)
        print(f"finetune: batch {batch_size} = {parts}", file=sys.stderr, flush=True)
        numbers = [epochs, batch_size, micro_batch_size, learning_rate, warmup, adam_epsilon, seed, checkpoints]
        ways = [cache_features, cache_layers, gradient_checkpointing, quantization, n_processes, threads, device, dtype]
        kind = None if family is None else find("family", family)
        wanted = fingerprint(model, entries, images, [method, kind], settings, [*numbers, *ways])
        if n_processes == 1:
            once = Once(wanted)
            if once.copy(out, log):
                shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
                return
        prepare_checkpoints(folder, wanted)
    checkpoint = distributed.gather(first and last_checkpoint(folder))[0]

    set_seed(seed)  # before the tuning method draws its first weights
    loaded = load_model(model, expected=family, device=device, dtype=dtype, quantization=quantization)
    half = loaded.model.dtype == torch.bfloat16
    if half and loaded.model.device.type == "cpu":
        record_decoder(loaded.model)  # its attention has a fast way back
    tuned = attach(method, settings, seed, loaded, quantization, gradient_checkpointing)
    trains_projector = loaded.trained["projector"] > 0
    encode = loaded.tower_features if trains_projector else loaded.image_features
    work = Workload(loaded, entries, images, cache_features, encode)
    dataset, features = list(zip(work.conversations(), work.images, strict=True)), work.features
    if cache_features:
        features(work.images)

    def project(names):
        with torch.autocast(loaded.model.device.type, torch.bfloat16, enabled=half):
            return loaded.project(features(names))

    shown = project if trains_projector else features
    lower = LowerLayers(loaded, dataset, features, micro) if cache_layers else None

    def inputs(batch):
        if loaded.virtual:
            with torch.autocast(loaded.model.device.type, torch.bfloat16, enabled=half):
                loaded.virtual.prepare()
        if lower:
            return {"inputs_embeds": lower(batch["places"], batch["ids"].shape[1])}
        return loaded.inputs(batch["ids"], shown(batch["images"]))

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
    numbered = [(*sample, place) for place, sample in enumerate(dataset)]
    lengths = [len(tokens.ids) for tokens, _ in dataset] if accumulated > 1 else None
    order = EpochOrder(len(dataset), n_processes * micro, seed, batch_size, lengths)
    trainer = FeatureTrainer(
        model=tuned,
        args=arguments,
        train_dataset=[*numbered, blank(numbered[0])],
        data_collator=collate,
        callbacks=[Watch(order)],
        order=order,
        inputs=inputs,
        last_layer=loaded.layers[-1],
    )
    trainer.remove_callback(PrinterCallback)  # Watch prints
    if not first:
        torch.manual_seed(seed + (distributed.rank() << 32))  # dropout of its own
    try:
        with filling(folder):
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        if first:
            remove_unfinished(folder)  # on a full disk this also makes room for the error's line in the log

    if not first:
        return
    rows = [{name: entry[name] for name in LOGGED} for entry in trainer.state.log_history if "loss" in entry]
    write_csv(log, rows, LOGGED)
    with replacing_folder(out) as partial:
        method.load().save(tuned, partial)
    shutil.rmtree(folder, ignore_errors=True)
    if once:
        once.tell(out, log)


def attach(method, settings, seed, loaded, quantization, gradient_checkpointing):
    """Put a tuning method on a loaded model, made ready for training; return the module that is trained.

    Numbers that are trained are float32, whatever the model's are. Raises ByeError for a method that trains nothing, or
    the vision tower, or something else than an adapter of peft in a quantised model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft and transformers on each other's old names
        if quantization:
            prepare_model_for_kbit_training(loaded.model, use_gradient_checkpointing=False)
        if gradient_checkpointing:  # not reentrant: that would cut the gradient off at a frozen input
            loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        tuned = method.bind("attach", settings, seed=seed)(loaded)
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    if not trained:
        raise ByeError(f"tuning method {method.kind} trains nothing of the model {loaded.path}; correct its settings")
    if loaded.trained["tower"]:
        raise ByeError(
            f"tuning method {method.kind} trains the vision tower, whose features are kept; let it train nothing but "
            "the decoder and the projector"
        )
    if quantization and not isinstance(tuned, PeftModel):
        raise ByeError(
            f"tuning method {method.kind} is no adapter of peft, and in quantization {quantization} these alone can be "
            "trained; leave quantization out, or take another method"
        )
    for parameter in trained:
        parameter.data = parameter.data.float()  # in half precision a small step would be rounded away
    return tuned


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
    copy_result(plain_adapter, plain_log, out, log)
    return True
