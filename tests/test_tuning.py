"""A tuning method of the user's, in a file: trained, resumed after a SIGKILL, used and counted; some are refused."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from small_workflow import ROOT
from tiny_models import write_samples, write_tiny_model

import bye.cli
from bye.errors import ByeError
from bye.models import load_model
from bye.registry import find
from bye.tools.doctor import Report, check_model
from bye.training.finetune import finetune

OWN = '''
"""The MLPs of the last layers in full, and the projector's biases if asked for."""

from typing import Annotated

from safetensors.torch import load_file, save_file


def parameters(model, n_layers, biases):
    layers = model.model.language_model.layers
    chosen = [parameter for layer in layers[-n_layers:] for parameter in layer.mlp.parameters()]
    projector = model.model.multi_modal_projector
    return chosen + ([projector.linear_1.bias, projector.linear_2.bias] if biases else [])


def attach(family, *, n_layers: Annotated[int, {"minimum": 1}], biases: bool = False):
    """Train a part of the weights. n_layers: how many layers, from the last on; biases: the projector's too."""
    for parameter in parameters(family.model, n_layers, biases):
        parameter.requires_grad_(True)
    return family.model


def save(model, folder):
    trained = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}
    save_file(trained, folder / "weights.safetensors")


def load(family, folder):
    family.model.load_state_dict(load_file(f"{folder}/weights.safetensors"), strict=False)


def count(family, *, n_layers, biases=False):
    number = sum(each.numel() for each in parameters(family.model, n_layers, biases))
    return number, f"the MLPs of the last {n_layers} layers"
'''
N_TRAINED = 3 * 32 * 64  # of an MLP of the tiny model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkpoint of two layers, seven images, 33 samples, and the method."""
    root = write_tiny_model("llava", tmp_path_factory.mktemp("tuning"), layers=2)
    write_samples(root)
    (root / "mlps.py").write_text(OWN)
    return root


def command(root, out, *more):
    words = ["finetune", "--model", root, "--samples", root / "samples.json", "--images", root, "--out", out]
    words += ["--log", out.with_suffix(".csv"), "--tuning", root / "mlps.py", "--n-layers", 1, "--biases"]
    return [*map(str, words), "--epochs", "12", "--learning-rate", "1e-2", "--seed", "3", "--threads", "1", *more]


def run(root, out, **options):
    settings = {"n_layers": 1, "biases": True, "epochs": 2, "learning_rate": 1e-2, "threads": 1, **options}
    finetune(root, root / "samples.json", root, out, out.with_suffix(".csv"), tuning=str(root / "mlps.py"), **settings)
    return load_file(out / "weights.safetensors")


def losses(path):
    return np.loadtxt(path, delimiter=",", skiprows=1)[:, 2]


@pytest.fixture(scope="module")
def tuned(root, tmp_path_factory):
    """The folder of a fine-tune from the command line."""
    out = tmp_path_factory.mktemp("tuned") / "adapter"
    bye.cli.main(command(root, out))
    return out


def test_it_is_trained_with_its_own_setting(root, tuned):
    assert os.listdir(tuned) == ["weights.safetensors"]
    weights, base = load_file(tuned / "weights.safetensors"), dict(load_model(root).model.named_parameters())
    mlp, projector = "model.language_model.layers.1.mlp.{}_proj.weight", "model.multi_modal_projector.linear_{}.bias"
    expected = {*(mlp.format(part) for part in ("gate", "up", "down")), *(projector.format(n) for n in (1, 2))}
    assert set(weights) == expected
    assert all((tensor - base[name]).abs().max() > 1e-4 for name, tensor in weights.items())
    curve = losses(tuned.with_suffix(".csv"))
    assert curve[-1] < 0.8 * curve[0]


def test_killed_and_started_again_gives_the_same_bytes(root, tuned, tmp_path, capsys):
    out, checkpoints = tmp_path / "killed", tmp_path / "killed.checkpoints"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "bye", *command(root, out)]
    process = subprocess.Popen(call, env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(checkpoints.glob("checkpoint-*/complete")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    kept = load_file(next(checkpoints.glob("checkpoint-*")) / "trained.safetensors")
    assert set(kept) == set(load_file(tuned / "weights.safetensors"))  # and not the whole model
    bye.cli.main(command(root, out))
    assert "resumed at step" in capsys.readouterr().err
    assert (out / "weights.safetensors").read_bytes() == (tuned / "weights.safetensors").read_bytes()
    assert (tmp_path / "killed.csv").read_bytes() == tuned.with_suffix(".csv").read_bytes()
    assert not checkpoints.exists()


def test_it_is_loaded_by_the_stages_that_use_it(root, tuned, tmp_path):
    method = str(root / "mlps.py")
    saved, base = load_file(tuned / "weights.safetensors"), dict(load_model(root).model.named_parameters())
    for name, parameter in load_model(root, tuned, tuning=method).model.named_parameters():
        assert torch.equal(parameter, saved.get(name, base[name])) and not parameter.requires_grad
    with pytest.raises(ByeError, match="is no PEFT adapter"):
        load_model(root, tuned)

    words = ["--model", root, "--adapter", tuned, "--tuning", method, "--threads", 1]
    files = ["--samples", root / "samples.json", "--images", root, "--out", tmp_path / "attention.parquet"]
    bye.cli.main(["attention", *map(str, [*words, *files])])
    assert len(pyarrow.parquet.read_table(tmp_path / "attention.parquet")) == 33 + 3  # answers
    files = ["--clean", root / "samples.json", "--clean-images", root, "--metric", "accuracy", "--max-new-tokens", 6]
    files += ["--predictions", tmp_path / "predictions.parquet", "--out", tmp_path / "eval.json"]
    bye.cli.main(["evaluate", *map(str, [*words, *files])])
    assert json.loads((tmp_path / "eval.json").read_text())["CP"] > 30  # the base model answers nothing of this


def test_it_is_counted_without_weights(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    method = find("tuning method", "mlps.py")
    number, words = method.load().count(load_model(root, weights=False), n_layers=2)
    assert (number, words) == (2 * N_TRAINED, "the MLPs of the last 2 layers")
    model = {"family": "llava", "path": str(root), "tuning": "mlps.py", "finetune": {"epochs": 1, "n_layers": 1}}
    family, trained = check_model(Report(), "tiny", model, root)
    assert trained == N_TRAINED
    assert "model tiny: the MLPs of the last 1 layers, 0.0 million parameters" in capsys.readouterr().out
    del model["finetune"]["n_layers"]
    assert check_model(Report(), "tiny", model, root) is None
    told = "problem  model tiny: config section models.tiny.finetune: tuning method mlps.py needs the setting n_layers"
    assert told in capsys.readouterr().out


def test_memory_is_saved_in_the_same_ways(root, tmp_path):
    plain = run(root, tmp_path / "plain")
    for name, options in (
        ("checkpointed", {"gradient_checkpointing": True}),
        ("uncached", {"cache_features": False}),
        ("in parts", {"micro_batch_size": 4}),
    ):
        found = run(root, tmp_path / name, **options)
        np.testing.assert_allclose(losses(tmp_path / f"{name}.csv"), losses(tmp_path / "plain.csv"), rtol=1e-4)
        assert set(found) == set(plain)


def test_in_half_precision_what_is_trained_is_float32(root, tmp_path):
    weights = run(root, tmp_path / "half", dtype="bfloat16")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    loaded = load_model(root, tmp_path / "half", tuning=str(root / "mlps.py"), dtype="bfloat16").model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    curve = losses(tmp_path / "half.csv")
    assert curve[-1] < curve[0]


def test_two_processes_do_what_one_does(root, tuned, tmp_path):
    out = tmp_path / "two"
    call = [sys.executable, "-m", "bye", *command(root, out, "--processes", "2")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(call, env=environment, check=True, capture_output=True)
    np.testing.assert_allclose(losses(tmp_path / "two.csv"), losses(tuned.with_suffix(".csv")), rtol=1e-4)
    expected = load_file(tuned / "weights.safetensors")
    for name, tensor in load_file(out / "weights.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3)


def test_methods_that_are_refused(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = root, root / "samples.json", root, tmp_path / "out", tmp_path / "log.csv"
    (tmp_path / "nothing.py").write_text(OWN.replace("requires_grad_(True)", "requires_grad_(False)"))
    (tmp_path / "tower.py").write_text(
        OWN.replace("model.model.language_model.layers", "model.model.vision_tower.encoder.layers")
    )
    for options, told in (
        ({"tuning": "nothing.py", "n_layers": 1}, "tuning method nothing.py trains nothing of the model"),
        ({"tuning": "tower.py", "n_layers": 1}, "tuning method tower.py trains the vision tower"),
        ({"tuning": "nothing.py"}, "tuning method nothing.py needs the setting n_layers; give it"),
        ({"tuning": "lora", "n_layers": 1}, "tuning method lora has no setting n_layers; its settings: lora_rank, "),
        (
            {"tuning": "full"},
            "unknown tuning method 'full'; known: adapter, biases, dora, ia3, .* or the path of a .py file",
        ),
    ):
        with pytest.raises(ByeError, match=told):
            finetune(*arguments, **options)
    assert not (tmp_path / "out").exists()


def test_lora_says_its_settings():
    settings = find("tuning method", "lora").settings
    assert {name: setting.default for name, setting in settings.items()} == {
        "lora_rank": 16, "lora_alpha": 32.0, "lora_dropout": 0.0, "lora_targets": None, "lora_projector": False,
        "lora_layers": None
    }  # fmt: skip
    assert settings["lora_rank"].schema == {"type": "integer", "minimum": 1}
    assert settings["lora_dropout"].schema == {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    targets = settings["lora_targets"].schema
    assert targets["type"] == ["array", "null"] and targets["uniqueItems"] and targets["items"]["enum"][0] == "q_proj"
    assert all(setting.text for setting in settings.values())
