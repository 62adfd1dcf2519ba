"""Several processes do what one does: a fine-tune, killed and resumed, extraction, answers; and they fail as one."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from small_workflow import ROOT
from tiny_models import write_tiny_model

from bye import distributed
from bye.attention import extract
from bye.errors import ByeError
from bye.evaluate import evaluate
from bye.finetune import finetune

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkpoint, seven images, and 33 samples: two batches of 16 and one sample more."""
    root = write_tiny_model("llava", tmp_path_factory.mktemp("distributed"), layers=2)
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 255, (32, 36, 3), dtype=np.uint8)).save(root / f"{number}.png")
    entries = []
    for number in range(33):
        question, answer = "What is it?" + " Really?" * (number % 4), ["A dog", "red", "No dog, I see"][number % 3]
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        entries.append({"id": f"s{number}", "image": f"{number % 7}.png", "conversations": turns})
    (root / "samples.json").write_text(json.dumps(entries))
    return root


def bye(*arguments):
    """The command of a stage in two processes."""
    return [sys.executable, "-m", "bye", *map(str, arguments), "--processes", "2", "--threads", "1"]


def test_a_fine_tune_in_two_processes_killed_and_resumed_is_that_in_one(root, tmp_path):
    """The last batch of an epoch has one sample, so that one process has nothing; adapters differ by rounding only."""
    options = {"epochs": 4, "learning_rate": 1e-2, "lora_rank": 4, "lora_alpha": 8, "lora_projector": True, "seed": 3}
    one, two = tmp_path / "one", tmp_path / "two"
    finetune(root, root / "samples.json", root, one, tmp_path / "one.csv", threads=1, **options)

    words = [[f"--{name.replace('_', '-')}", value] for name, value in options.items() if name != "lora_projector"]
    words = ["--model", root, "--samples", root / "samples.json", "--images", root, *sum(words, ["--lora-projector"])]
    command = bye("finetune", *words, "--micro-batch-size", 4, "--out", two, "--log", tmp_path / "two.csv")
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "two.checkpoints" / "checkpoint-4" / "complete").exists():
        time.sleep(0.002)  # step 4 of 12 is in the middle of the second epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not two.exists()
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    lines = [line for line in result.stderr.splitlines() if line.startswith("finetune: ")]
    assert lines[0] == "finetune: batch 16 = 2 processes x 4 samples x 2 accumulation steps"
    assert sum("resumed at step" in line for line in lines) == 1 and sum("step 12 of 12" in line for line in lines) == 1

    columns = {"delimiter": ",", "skiprows": 1, "usecols": (0, 2, 3)}  # step, loss, learning rate
    curves = [np.loadtxt(tmp_path / f"{name}.csv", **columns) for name in ("one", "two")]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=2e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "one.csv", "two", "two.csv"]


def stages(root, out):
    """Extraction and answers of the 33 samples, in batches of seven: the five do not divide among two processes."""
    samples, out = f"{root}/samples.json", str(out)
    extract(root, None, samples, root, f"{out}/attention.parquet", 7, ["s30", "s1"], f"{out}/maps.npz", threads=1)
    files = samples, root, f"{out}/predictions.parquet", f"{out}/eval.json"
    evaluate(root, None, *files, "accuracy", max_new_tokens=6, batch_size=7, threads=1)


def test_extraction_and_answers_of_two_processes_are_those_of_one(root, tmp_path):
    """Under torchrun itself, without the command line."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    stages(root, one)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=localhost"]
    command = [*torchrun, "--nproc-per-node=2", __file__, root, two]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("33 of 33 samples") == 2  # once of each stage
    for name in ("attention.parquet", "predictions.parquet", "eval.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    with np.load(one / "maps.npz") as expected, np.load(two / "maps.npz") as found:
        assert found["ids"].tolist() == ["s1", "s30"]
        np.testing.assert_array_equal(found["maps"], expected["maps"])


def test_an_error_in_one_process_ends_all_with_one_sentence(root, tmp_path):
    """The second process alone reads the damaged image, while the first one waits for it."""
    entries = json.loads((root / "samples.json").read_text())[:2]
    (tmp_path / "0.png").write_bytes((root / "0.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"no picture")
    samples, adapter = tmp_path / "samples.json", tmp_path / "adapter"
    samples.write_text(json.dumps(entries))
    finetune(root, samples, root, adapter, tmp_path / "loss.csv", epochs=1, lora_rank=2, threads=1)
    words = ["--model", root, "--adapter", adapter, "--samples", samples, "--images", tmp_path, "--batch-size", 1]
    command = bye("attention", *words, "--out", tmp_path / "out.parquet")
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 2
    [sentence] = [line for line in result.stderr.splitlines() if not line.startswith("attention: ")]
    assert sentence.startswith("bye: error: ") and "1.png is damaged" in sentence
    assert not (tmp_path / "out.parquet").exists()


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


def test_a_batch_is_divided():
    assert distributed.split_batch(16, 1) == (16, 1)
    assert distributed.split_batch(16, 1, 64) == (16, 1)
    assert distributed.split_batch(16, 4) == (4, 1)
    assert distributed.split_batch(16, 4, 2) == (2, 2)
    with pytest.raises(ByeError, match="batch_size 16 is not a multiple of the 3 processes; choose one that is"):
        distributed.split_batch(16, 3)
    with pytest.raises(ByeError, match="batch_size 16 is not a multiple of micro_batch_size 3 times 2 processes"):
        distributed.split_batch(16, 2, 3)


def test_a_killed_process_and_too_few_gpus_are_told(monkeypatch, tmp_path):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "bye.py").write_text(f"import os, time\nif os.environ['RANK'] == '1':\n    {killed}\ntime.sleep(60)\n")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    call = "import os, sys; from bye.distributed import launch; os.chdir(sys.argv[1]); launch(2, [])"
    result = subprocess.run([sys.executable, "-c", call, tmp_path], env=environment, capture_output=True, text=True)
    assert "process 1 of 2 was ended by SIGKILL; if it was not you" in result.stderr

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ByeError, match="2 processes need a GPU each, and there are 1 here"):
        distributed.launch(2, ["attention"])


if __name__ == "__main__":
    stages(*sys.argv[1:])
