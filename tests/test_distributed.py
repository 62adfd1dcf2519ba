"""Several processes do what one does: a fine-tune, killed and resumed, extraction, answers; and they fail as one."""

import json
import multiprocessing.connection
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_workflow import ROOT
from tiny_models import write_samples, write_tiny_model

import bye.cli
from bye.answers.evaluate import evaluate
from bye.errors import ByeError
from bye.extraction.attention import extract
from bye.machine import distributed
from bye.models.family import choose_device
from bye.training.finetune import finetune

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FORKED = multiprocessing.get_context("forkserver")  # what the stages import is imported once for all processes
FORKED.set_forkserver_preload(["bye.extraction.attention", "bye.answers.evaluate", "bye.training.finetune", "bye.cli"])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkpoint, seven images, and 33 samples: two batches of 16 and one sample more."""
    root = write_tiny_model("llava", tmp_path_factory.mktemp("distributed"), layers=2)
    write_samples(root)
    return root


def work(number, port, folder, function, arguments):
    """What one of two processes does, in the environment that torchrun would give it."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), distributed.FOLDER: str(folder)}
    os.environ["OMP_NUM_THREADS"] = "1"
    os.dup2(os.open(folder / f"{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    function(*arguments)


def in_two_processes(folder, function, *arguments):
    """Call a function in two processes, and end the other where one fails: (exit statuses, what each told)."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [FORKED.Process(target=work, args=(number, port, folder, function, arguments)) for number in (0, 1)]
    for process in both:
        process.start()
    while running := [process.sentinel for process in both if process.exitcode is None]:
        multiprocessing.connection.wait(running)
        if any(process.exitcode for process in both):
            for process in both:
                process.terminate()
    return [process.exitcode for process in both], [(folder / f"{number}.log").read_text() for number in (0, 1)]


def children_of(process):
    """Process numbers of the children of a process that was started with Popen."""
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_a_fine_tune_in_two_processes_killed_and_resumed_is_that_in_one(root, tmp_path):
    """The last batch of an epoch has one sample, so that one process has nothing; adapters differ by rounding only."""
    samples = root / "samples.json"
    words = ["--model", root, "--samples", samples, "--images", root, "--lora-projector", "--micro-batch-size", 4]
    words += ["--epochs", 4, "--learning-rate", 1e-2, "--lora-rank", 4, "--lora-alpha", 8, "--seed", 3, "--threads", 1]

    def command(name):
        return ["finetune", *map(str, words), "--out", str(tmp_path / name), "--log", str(tmp_path / f"{name}.csv")]

    bye.cli.main(command("one"))
    launcher = [sys.executable, "-m", "bye", *command("two"), "--processes", "2"]
    process = subprocess.Popen(launcher, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "two.checkpoints" / "checkpoint-4" / "complete").exists():
        time.sleep(0.002)  # step 4 of 12 is in the middle of the second epoch
    os.kill(max(children_of(process)), signal.SIGKILL)
    lines = process.communicate()[1].splitlines()
    assert process.returncode == 2 and not (tmp_path / "two").exists()
    assert [line for line in lines if "finetune: step" not in line] == [
        "finetune: batch 16 = 2 processes x 4 samples x 2 accumulation steps",
        "bye: error: process 1 of 2 was ended by SIGKILL; if it was not you, the machine's memory may be used up: run "
        "fewer jobs at once or give this one more",
    ]
    statuses, logs = in_two_processes(tmp_path / "logs", bye.cli.main, command("two"))
    assert statuses == [0, 0] and "resumed at step" in logs[0] and "step 12 of 12" in logs[0] and not logs[1]

    columns = {"delimiter": ",", "skiprows": 1, "usecols": (0, 2, 3)}  # step, loss, learning rate
    curves = [np.loadtxt(tmp_path / f"{name}.csv", **columns) for name in ("one", "two")]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    expected, found = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=2e-5)
    assert not (tmp_path / "two.checkpoints").exists()


def tune(root, out):
    """Prompt tuning on the 33 samples, whose numbers are used outside of the module that the processes share."""
    files = root / "samples.json", root, out, out.with_suffix(".csv")
    finetune(root, *files, epochs=1, learning_rate=1e-2, seed=3, threads=1, tuning="prompt", prompt_tokens=3)


def test_a_prompt_tuned_in_two_processes_is_that_in_one(root, tmp_path):
    tune(root, tmp_path / "one")
    statuses, _ = in_two_processes(tmp_path / "logs", tune, root, tmp_path / "two")
    assert statuses == [0, 0]
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two["prompt_embeddings"], one["prompt_embeddings"], atol=2e-5, rtol=0)


def stages(root, out):
    """Extraction and answers of the 33 samples, in batches of seven: the five do not divide among two processes."""
    samples = root / "samples.json"
    extract(root, None, samples, root, out / "attention.parquet", 7, ["s30", "s1"], out / "maps.npz", threads=1)
    files = samples, root, out / "predictions.parquet", out / "eval.json"
    evaluate(root, None, *files, "accuracy", max_new_tokens=6, batch_size=7, threads=1)


def test_extraction_and_answers_of_two_processes_are_those_of_one(root, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    stages(root, one)
    statuses, logs = in_two_processes(tmp_path / "logs", stages, root, two)
    assert statuses == [0, 0] and logs[0].count("33 of 33 samples") == 2 and not logs[1]
    for name in ("attention.parquet", "predictions.parquet", "eval.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    with np.load(one / "maps.npz") as expected, np.load(two / "maps.npz") as found:
        assert found["ids"].tolist() == ["s1", "s30"]
        np.testing.assert_array_equal(found["maps"], expected["maps"])


def test_an_error_in_one_process_is_one_sentence(root, tmp_path):
    """The second process alone reads the damaged image, while the first one waits for it."""
    samples, adapter, out = tmp_path / "samples.json", tmp_path / "adapter", tmp_path / "out.parquet"
    samples.write_text(json.dumps(json.loads((root / "samples.json").read_text())[:2]))
    finetune(root, samples, root, adapter, tmp_path / "loss.csv", epochs=1, lora_rank=2, threads=1)
    (tmp_path / "0.png").write_bytes((root / "0.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"no picture")
    words = ["--model", root, "--adapter", adapter, "--samples", samples, "--images", tmp_path, "--batch-size", 1]
    words = ["attention", *map(str, words), "--out", str(out), "--threads", "1"]
    statuses, logs = in_two_processes(tmp_path / "logs", bye.cli.main, words)
    assert statuses == [-signal.SIGTERM, 2] and not out.exists()
    assert "bye: error" not in logs[0] and "Traceback" not in logs[0]
    assert len(logs[1].splitlines()) == 1 and re.match("bye: error: .*1.png is damaged", logs[1])


@pytest.fixture
def second_of_two(monkeypatch, tmp_path):
    """The environment of the second of two processes."""
    values = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", distributed.FOLDER: str(tmp_path)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "SECONDS_TO_BE_ENDED", 0)


def test_only_the_first_process_that_fails_speaks(second_of_two, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    for error in (ByeError("it is so"), ZeroDivisionError(), ByeError("it is so")):
        with pytest.raises(type(error)), distributed.speaking_as_one():
            raise error
    assert ended == [1, 1]


def test_each_process_takes_its_share(second_of_two):
    assert distributed.rank() == 1 and distributed.size() == 2
    assert list(distributed.share(range(0, 35, 7))) == [7, 21]


def test_each_process_takes_its_own_gpu(second_of_two, monkeypatch):
    chosen = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("NCCL_P2P_DISABLE", "0")
    monkeypatch.setenv("NCCL_IB_DISABLE", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("accelerate.utils.check_cuda_p2p_ib_support", lambda: False)  # as on the paper's RTX 4090
    assert distributed.device() == "cuda:1" and chosen == [1]
    assert os.environ["NCCL_P2P_DISABLE"] == "1"
    assert choose_device("auto", "auto") == (torch.device("cuda:1"), torch.bfloat16)


def test_a_batch_is_divided():
    assert distributed.split_batch(16, 1) == (16, 1)
    assert distributed.split_batch(16, 1, 64) == (16, 1)
    assert distributed.split_batch(16, 4) == (4, 1)
    assert distributed.split_batch(16, 4, 2) == (2, 2)
    with pytest.raises(ByeError, match="batch_size 16 is not a multiple of the 3 processes; choose one that is"):
        distributed.split_batch(16, 3)
    with pytest.raises(ByeError, match="batch_size 16 is not a multiple of micro_batch_size 3 times 2 processes"):
        distributed.split_batch(16, 2, 3)


def test_the_launcher_ends_as_the_process_that_failed(tmp_path):
    lines = "import os, sys, time", "os.environ['RANK'] == '1' and sys.exit(3)", "time.sleep(60)"
    (tmp_path / "bye.py").write_text("\n".join(lines))
    call = "import os, sys; from bye.machine.distributed import launch; os.chdir(sys.argv[1]); sys.exit(launch(2, []))"
    result = subprocess.run([sys.executable, "-c", call, tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 3 and not result.stderr


def test_fewer_gpus_than_processes(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ByeError, match="2 processes need a GPU each, and there are 1 here"):
        distributed.launch(2, ["attention"])
