"""Fine-tuning on random models: a standard adapter, repeatable to the byte, and resumed after a SIGKILL."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model
from transformers import AutoModelForImageTextToText

from bye.data.entries import EntryFile
from bye.errors import ByeError
from bye.machine import processes
from bye.methods.tuning.lora import add_to_weights, attach
from bye.models import load_model
from bye.training.finetune import finetune, finetune_kept
from bye.training.trainer import IGNORED, ChosenPositions, FeatureTrainer, collate

EVERY = pytest.mark.parametrize("family", TEMPLATES)
OF_ANY_SIZE = pytest.mark.parametrize("family", ["llava", "llava_next", "qwen3_vl"])
SIZES = [(32, 36), (60, 20), (34, 90), (48, 48), (30, 36)]  # of the images, height and width
OPTIONS = {"learning_rate": 1e-2, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1, "seed": 3, "threads": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Checkpoints, ten images, and 40 samples of which some share an image and one has two turns."""
    root = tmp_path_factory.mktemp("fine-tune ü")
    for family in TEMPLATES:
        write_tiny_model(family, root / family, layers=2)
    rng = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(rng.integers(0, 255, (*SIZES[number % 5], 3), dtype=np.uint8)).save(root / f"{number}.png")
    entries = []
    for number in range(40):
        question, answer = "What is it?" + " Really?" * (number % 4), ["A dog", "red", "No </s> dog"][number % 3]
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        if number == 7:
            turns += [{"from": "human", "value": "Red?"}, {"from": "gpt", "value": "Yes"}]
        entries.append({"id": f"s{number}", "image": f"{number % 10}.png", "conversations": turns})
    (root / "samples.json").write_text(json.dumps(entries))
    (root / "three.json").write_text(json.dumps(entries[:3]))
    return root


def run(root, out, family="llava", samples="samples.json", **options):
    finetune(root / family, root / samples, root, out, out.with_suffix(".csv"), **{**OPTIONS, **options})
    return (out / "adapter_model.safetensors").read_bytes()


@EVERY
def test_the_projector_is_adapted_where_that_is_asked_for(root, tmp_path, family):
    out = tmp_path / "adapter"
    cached = run(root, out, family, lora_projector=True)
    tensors = load_file(out / "adapter_model.safetensors")
    parts = ("visual.merger", "visual.deepstack_merger_list") if family == "qwen3_vl" else ("multi_modal_projector",)
    adapted = {name: tensor for name, tensor in tensors.items() if any(part in name for part in parts)}
    n_adapted = 2 * 2 * (2 if family == "qwen3_vl" else 1)  # A and B of two layers of each projector
    assert len(tensors) == 2 * 7 * 2 + n_adapted and len(adapted) == n_adapted
    assert not any("vision_tower" in name or "blocks" in name for name in tensors)
    assert all(tensor.abs().max() > 0 for tensor in adapted.values())  # B begins at zero: a gradient came through
    assert run(root, tmp_path / "again", family, lora_projector=True) == cached
    run(root, tmp_path / "uncached", family, lora_projector=True, cache_features=False)
    for name, tensor in load_file(tmp_path / "uncached" / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor, tensors[name], atol=2e-3, rtol=0)

    plain, tuned = load_model(root / family), load_model(root / family, out)
    pixels = plain.pixels([Image.open(root / f"{number}.png") for number in range(3)])
    stock = plain.image_features(pixels)
    torch.testing.assert_close(plain.project(plain.tower_features(pixels)), stock)
    for ours, theirs in zip(tuned.image_features(pixels), stock, strict=True):
        assert (ours - theirs).abs().max() > 1e-4


@EVERY
def test_a_standard_adapter_that_learns(root, tmp_path, family):
    out = tmp_path / "adapter"
    run(root, out, family, lora_dropout=0.0, epochs=6)
    assert sorted(os.listdir(tmp_path)) == ["adapter", "adapter.csv"]
    assert sorted(os.listdir(out)) == ["adapter_config.json", "adapter_model.safetensors"]
    names = list(load_file(out / "adapter_model.safetensors"))
    assert len(names) == 2 * 7 * 2 and all("language_model" in name for name in names)
    with open(tmp_path / "adapter.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "loss", "learning_rate"]
    assert [int(row["step"]) for row in rows] == list(range(1, 19))  # 40 samples in batches of 16, 6 epochs
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    rates = [float(row["learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, 1e-2 * (1 - np.arange(18) / 18), rtol=1e-6)  # linear decay

    base = AutoModelForImageTextToText.from_pretrained(root / family, use_safetensors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft and transformers on each other's old names
        wrapped = PeftModel.from_pretrained(base, out).eval()
    merged = load_model(root / family, out)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            merged.model(inputs_embeds=x).logits, wrapped(inputs_embeds=x).logits, atol=1e-4, rtol=1e-4
        )


def test_same_seed_same_bytes_and_the_cache_changes_nothing(root, tmp_path):
    first = run(root, tmp_path / "first")
    assert run(root, tmp_path / "second") == first
    assert (tmp_path / "first" / "adapter_config.json").read_bytes() == (
        tmp_path / "second" / "adapter_config.json"
    ).read_bytes()
    assert run(root, tmp_path / "third", seed=4) != first
    run(root, tmp_path / "without", cache_features=False)  # other batches in the tower: equal but for rounding
    weights, without = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "without"))
    for name, value in weights.items():
        torch.testing.assert_close(without[name], value, atol=1e-4, rtol=1e-3)


def test_where_everything_was_kept_the_plain_fine_tune_is_copied(root, tmp_path, monkeypatch):
    read, values = [], EntryFile.__iter__
    monkeypatch.setattr(EntryFile, "__iter__", lambda file: read.append(file.path) or values(file))
    plain = tmp_path / "plain"
    weights = run(root, plain, samples="three.json", epochs=1)
    kept = json.loads((root / "three.json").read_text())
    options = {"model": root / "llava", "images": root, "epochs": 1, **OPTIONS}
    for number, expected in ((3, True), (2, False)):
        (tmp_path / "kept.json").write_text(json.dumps(kept[:number], indent=1))
        out, log = tmp_path / f"of {number}", tmp_path / f"{number}.csv"
        plain_files = root / "three.json", plain, plain.with_suffix(".csv")
        read.clear()
        assert finetune_kept(tmp_path / "kept.json", *plain_files, out, log, **options) is expected
        assert read == [tmp_path / "kept.json", root / "three.json"]  # each once
        assert ((out / "adapter_model.safetensors").read_bytes() == weights) is expected
        assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in plain.iterdir())
    assert (tmp_path / "3.csv").read_bytes() == plain.with_suffix(".csv").read_bytes()


def test_in_a_run_the_same_fine_tune_is_done_once(root, tmp_path, monkeypatch):
    monkeypatch.setenv(processes.RUN, "")  # and what is set below is taken back
    processes.open_run_folder(tmp_path / "run")
    trained = []
    train = FeatureTrainer.train
    monkeypatch.setattr(FeatureTrainer, "train", lambda self, **how: (trained.append(1), train(self, **how)))
    first = run(root, tmp_path / "first", epochs=1)
    assert run(root, tmp_path / "again", epochs=1) == first and len(trained) == 1
    logs = [(tmp_path / f"{name}.csv").read_bytes() for name in ("first", "again")]
    assert logs[0] == logs[1]
    assert run(root, tmp_path / "other", epochs=1, seed=4) != first and len(trained) == 2
    shutil.rmtree(tmp_path / "first")  # what is gone cannot be copied
    assert run(root, tmp_path / "again", epochs=1) == first and len(trained) == 3
    processes.open_run_folder(tmp_path / "run")  # another run trusts nothing of this one
    assert run(root, tmp_path / "later", epochs=1) == first and len(trained) == 4
    monkeypatch.delenv(processes.RUN)
    assert run(root, tmp_path / "by hand", epochs=1) == first and len(trained) == 5


@OF_ANY_SIZE
def test_micro_batches_give_the_same_step(root, tmp_path, family):
    run(root, tmp_path / "whole", family, lora_dropout=0.0, epochs=1)
    run(root, tmp_path / "parts", family, lora_dropout=0.0, epochs=1, micro_batch_size=4)
    losses = [np.loadtxt(tmp_path / f"{name}.csv", delimiter=",", skiprows=1)[:, 2] for name in ("whole", "parts")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_gradient_checkpointing_saves_memory_and_changes_nothing(root, tmp_path, monkeypatch):
    """On a frozen input (cached features, no projector) the gradient still comes to the first layer."""
    recomputed = []
    checkpoint = torch.utils.checkpoint.checkpoint

    def count(function, *args, **options):
        recomputed.append(options["use_reentrant"])
        return checkpoint(function, *args, **options)

    plain = run(root, tmp_path / "plain", epochs=1)
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", count)
    assert run(root, tmp_path / "saving", epochs=1, gradient_checkpointing=True) == plain
    assert len(recomputed) >= 2 * 3 and not any(recomputed)  # layers, steps
    tensors = load_file(tmp_path / "saving" / "adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for name, tensor in tensors.items() if "layers.0" in name)


def test_killed_and_started_again_gives_the_same_bytes(root, tmp_path):
    undisturbed = run(root, tmp_path / "undisturbed", epochs=12)
    out = tmp_path / "killed"
    call = (
        f"from bye.training.finetune import finetune; "
        f"finetune({str(root / 'llava')!r}, {str(root / 'samples.json')!r}, "
        f"{str(root)!r}, {str(out)!r}, {str(out.with_suffix('.csv'))!r}, epochs=12, **{OPTIONS!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", call], env=environment, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "killed.checkpoints"
    while process.poll() is None and not list(checkpoints.glob("checkpoint-*/complete")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    (checkpoints / "checkpoint-999").mkdir()  # as if killed in the middle of writing
    result = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True, check=True)
    assert "resumed at step" in result.stderr
    assert (out / "adapter_model.safetensors").read_bytes() == undisturbed
    assert (out / "adapter_config.json").read_text() == (tmp_path / "undisturbed" / "adapter_config.json").read_text()
    assert (tmp_path / "killed.csv").read_text() == (tmp_path / "undisturbed.csv").read_text()
    assert sorted(os.listdir(tmp_path)) == ["killed", "killed.csv", "undisturbed", "undisturbed.csv"]


def test_a_full_disk_is_one_sentence_and_leaves_room_to_say_it(root, tmp_path):
    """On a file system of its own, just too small for the checkpoints, that also holds the log."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = [sys.executable, "-m", "bye", "finetune", "--model", root / "llava", "--samples", root / "samples.json"]
    words += ["--images", root, "--out", disk / "adapter", "--log", disk / "loss.csv"]
    words += ["--learning-rate", "1e-2", "--threads", "1"]
    command = f"{shlex.join(map(str, words))} > {shlex.quote(str(disk))}/log 2>&1"
    mount = 'mount -t tmpfs -o size=128k tmpfs "$DISK" || exit 77'
    steps = f'{mount}; {command}; echo $?; cat "$DISK/log"; find "$DISK"'
    process = subprocess.run(
        ["unshare", "-rm", "sh", "-c", steps],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "DISK": str(disk)},
        cwd=root,
        capture_output=True,
        text=True,
    )
    if process.returncode == 77 or "unshare:" in process.stderr:
        pytest.skip("may not mount a file system here")
    assert process.stdout.startswith("2\n"), process.stdout
    assert "bye: error: cannot write" in process.stdout and "the disk is full" in process.stdout
    assert "Traceback" not in process.stdout and "checkpoint-" not in process.stdout


def test_checkpoints_of_other_arguments_are_not_used(root, tmp_path, monkeypatch):
    expected = run(root, tmp_path / "expected", seed=5)
    save = FeatureTrainer.train

    def train_and_die(self, **options):
        save(self, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureTrainer, "train", train_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out", seed=4)
    assert list((tmp_path / "out.checkpoints").glob("checkpoint-*/complete"))
    monkeypatch.undo()
    assert run(root, tmp_path / "out", seed=5) == expected


def test_fewer_samples_than_one_batch(root, tmp_path):
    run(root, tmp_path / "adapter", samples="three.json")
    assert len((tmp_path / "adapter.csv").read_text().splitlines()) == 1 + 3


def test_loss_is_on_answers_and_end_tokens_only(root):
    loaded = load_model(root / "llava")
    turns = [("What is it?", "A dog"), ("Red?", "Yes")]
    batch = collate(
        [(loaded.encoder.conversation(turns[:n]), f"{place}.png", place) for place, n in ((0, None), (1, 1))]
    )
    trained = [row[row != IGNORED] for row in batch["labels"]]
    assert loaded.tokenizer.decode(trained[0]).replace(" ", "") == "Adog</s>Yes</s>"
    assert loaded.tokenizer.decode(trained[1]).replace(" ", "") == "Adog</s>"
    assert torch.equal(batch["ids"][batch["labels"] != IGNORED], batch["labels"][batch["labels"] != IGNORED])


@EVERY
def test_loss_is_not_on_system_prompts(root, family):
    loaded = load_model(root / family)
    turns, size = [("What is it?", "A dog"), ("Red?", "Yes")], SIZES[0]
    with_system, without = (loaded.encoder.conversation(turns, size, system) for system in ("Be kind.", None))
    batch = collate([(with_system, "0.png", 0), (without, "0.png", 1)])
    first, second = (row[row != IGNORED].tolist() for row in batch["labels"])
    assert first == second and len(with_system.ids) > len(without.ids)
    assert "Be kind." in loaded.tokenizer.decode(batch["ids"][0])


@OF_ANY_SIZE
def test_loss_is_the_stock_models_loss(root, tmp_path, family):
    """The first logged loss, with a learning rate of nearly zero, is the stock loss of the same batch from pixels."""
    run(root, tmp_path / "adapter", family, "three.json", learning_rate=1e-12, epochs=1, lora_dropout=0.0)
    logged = np.loadtxt(tmp_path / "adapter.csv", delimiter=",", skiprows=1)[2]
    loaded = load_model(root / family)
    total, count = 0.0, 0
    for size, entry in zip(SIZES, json.loads((root / "three.json").read_text()), strict=False):
        turn = (entry["conversations"][0]["value"].removeprefix("<image>\n"), entry["conversations"][1]["value"])
        batch = collate([(loaded.encoder.conversation([turn], size), entry["image"], 0)])
        inputs = stock_inputs(loaded, batch["ids"][0].numpy(), Image.open(root / entry["image"]))
        n = (batch["labels"] != IGNORED).sum().item()
        with torch.no_grad():
            total += n * loaded.model(**inputs, labels=batch["labels"]).loss.item()
        count += n
    assert logged == pytest.approx(total / count, rel=1e-5)


def test_a_module_on_chosen_positions_gives_there_what_it_gives_on_all():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 4))
    hidden, mask = torch.randn(3, 5, 4), torch.rand(3, 5) < 0.4
    (module(hidden) * mask[..., None]).square().sum().backward()
    expected, gradient = (module(hidden) * mask[..., None]).detach(), module[0].weight.grad.clone()
    module.zero_grad()
    sizes = []
    module[1].register_forward_hook(lambda module, arguments, output: sizes.append(output.shape))
    ChosenPositions(module).mask = mask
    output = module(hidden)
    output.square().sum().backward()
    assert torch.allclose(output, expected, atol=1e-6)
    assert torch.allclose(module[0].weight.grad, gradient, rtol=1e-4)
    assert sizes == [(mask.sum(), 8)]


def test_lora_on_the_weights_gives_the_same_as_beside_them():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 30, bias=False))
    adapted = get_peft_model(plain, LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False))
    x, results = torch.randn(5, 6), []
    for change in (lambda model: None, add_to_weights):
        change(adapted)
        adapted.zero_grad()
        output = adapted(x)
        output.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in adapted.parameters() if parameter.requires_grad]
        results.append([output.detach(), *gradients])
    assert len(results[0]) == 1 + 4
    for beside, on_weights in zip(*results, strict=True):
        torch.testing.assert_close(on_weights, beside)
    changed = ["forward" in vars(layer) for layer in (plain[0], plain[2])]
    assert changed == [True, False]  # 3 x (6 + 4) numbers in place of 6 x 4, 3 x (4 + 30) in place of 4 x 30


def test_errors_in_one_sentence(root, tmp_path):
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    with pytest.raises(ByeError, match="no samples"):
        finetune(root / "llava", empty, root, tmp_path / "out", tmp_path / "log.csv", **OPTIONS)
    with pytest.raises(ByeError, match=r"the loss is .* lower the learning rate"):
        run(root, tmp_path / "out", learning_rate=1e30, lora_dropout=0.0)
    with pytest.raises(ByeError, match="setting lora_targets: 'nothing' is not one of"):
        run(root, tmp_path / "out", lora_targets=["nothing"])
    with pytest.raises(ByeError, match="LoRA does not fit the model"):
        attach(load_model(root / "llava"), lora_targets=["nothing"])
    with pytest.raises(ByeError, match="not a multiple of micro_batch_size 3"):
        run(root, tmp_path / "out", micro_batch_size=3)
    assert not (tmp_path / "out").exists()
