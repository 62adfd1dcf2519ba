"""Models of the hub, on a server of this machine: reached, not reached, of another family, without safetensors."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from loopback_hub import NAME, hub_of
from small_workflow import CELL, ROOT, run, small_config, write_config

FIND = """
import sys, time
time.sleep = lambda seconds: None  # between attempts
from bye import config
from bye.machine import hub
try:
    config.check_hub("models.big.path", sys.argv[1], "llava")
    hub.check_safetensors("config key models.big.path: " + sys.argv[1], sys.argv[1])
except hub.ByeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llava", layers=2)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Variables of the hub's library for the server at an address, with a cache of its own."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return lambda url: monkeypatch.setenv("HF_ENDPOINT", url)


def told(name=NAME, **more):
    """Return what the checks say of a hub id, in a process of its own: the library reads its variables once."""
    command = [sys.executable, "-c", FIND, name]
    process = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") <= 1
    return process.stdout


def test_a_model_that_is_there_needs_its_config_alone(model, environment):
    with hub_of(model) as (url, asked):
        environment(url)
        assert told() == ""
    assert not any(path.endswith(".safetensors") for path in asked)
    assert told(HF_HUB_OFFLINE="1").startswith("config key models.big.path: owner/model cannot be had from the hub: ")


@pytest.mark.parametrize(
    ("name", "more", "reason"),
    [
        ("owner/other", {}, "there is no such repository, or it is a private one; check the id"),
        (NAME, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, and it is not in the cache"),
        (NAME, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub does not answer; check the id and the network, or"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_sentence_with_the_way_out(model, environment, name, more, reason):
    with hub_of(model) as (url, _):
        environment(url)
        sentence = told(name, **more)
    assert sentence.startswith(f"config key models.big.path: {name} cannot be had from the hub: {reason}")
    assert "set models.KEY.path to that folder (with HF_HUB_OFFLINE=1 what is in the hub's cache is used)" in sentence


def test_weights_that_are_no_safetensors(model, environment, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with hub_of(folder) as (url, _):
        environment(url)
        assert told() == "config key models.big.path: owner/model has no weights in safetensors; give one that has\n"


def test_a_wrong_family_with_its_own_code_stops_the_run_before_its_first_job(environment, tmp_path):
    config = small_config(NAME)
    folder = write_config(tmp_path / "run", config)
    (tmp_path / "model").mkdir()
    own = {"model_type": "internvl_chat", "auto_map": {"AutoModel": "modeling.Own"}}
    (tmp_path / "model/config.json").write_text(json.dumps(own))
    with hub_of(tmp_path / "model") as (url, _):
        environment(url)
        assert run(folder, "--dry-run", f"{CELL}/vanilla/adapter").returncode == 0  # asks no hub
        process = run(folder, f"{CELL}/vanilla/adapter")
    assert process.returncode != 0 and "Traceback" not in process.stdout and not (folder / "results/data").exists()
    assert "bye: error: config key models.tiny.family is 'llava', but " in process.stdout
    assert (
        "is of model_type 'internvl_chat'; correct the family or the path; code in a checkpoint is never run, so use"
        in (process.stdout)
    )


def test_the_doctor_reads_no_weights_of_a_hub_model(model, environment, tmp_path):
    models = small_config(NAME)["models"]
    (tmp_path / "hub.yaml").write_text(yaml.safe_dump({"models": models}))
    arguments = ["--configfile", str(tmp_path / "hub.yaml"), "--models", "tiny", "--datasets", "rsvqa"]
    with hub_of(model) as (url, asked):
        environment(url)
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "bye", "doctor", *arguments]
        process = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "ok       model tiny: owner/model is of family llava, with 0.1 million parameters" in process.stdout
    assert not any(path.endswith(".safetensors") for path in asked)
