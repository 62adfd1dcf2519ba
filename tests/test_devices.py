"""GPUs of one machine: found, given to one job each, and missed before the first job; memory that does not suffice."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from small_workflow import CELL, ROOT, run, small_config, write_config
from tiny_models import write_tiny_model

import bye.cli
from bye import config as settings
from bye.errors import ByeError
from bye.machine import devices
from bye.stages import STAGES, Stage

JOB = """
import os, sys
from bye import config as settings
from bye.machine import devices
print(",".join(devices.take(int(sys.argv[1]))), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
assert devices.take(1) == []  # as a process of its own would, which shares them
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("visible", "names"),
    [("0,1", ["0", "1"]), ("3", ["3"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]), ("", []), ("-1", [])],
)
def test_the_users_choice_of_gpus_is_kept(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == names


def test_what_is_announced_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("BYE_GPUS", "of another run")
    assert devices.announce() == ["4", "6"] and os.environ["BYE_GPUS"] == "4,6"
    job = subprocess.run([sys.executable, "-c", JOB, "2"], cwd=ROOT, input="", capture_output=True, text=True)
    assert job.stdout.split() == ["4,6", "4,6"] and job.stderr == "gpu: 4, 6\n"


class Jobs:
    """Processes that take GPUs of an announced list and hold them until they are told to end."""

    def __init__(self, folder, announced):
        self.environment = {**os.environ, "TMPDIR": str(folder), "BYE_GPUS": announced, "CUDA_VISIBLE_DEVICES": "7"}
        self.all = []

    def start(self, count):
        command = [sys.executable, "-c", JOB, str(count)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        job = subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, **pipes)
        self.all.append(job)
        return job


@pytest.fixture
def jobs(tmp_path):
    jobs = Jobs(tmp_path, "0,1,2")
    yield jobs
    for job in jobs.all:
        job.kill()
        job.communicate()


def test_each_job_has_gpus_of_its_own_until_it_ends(jobs):
    one, two = jobs.start(1), jobs.start(2)
    taken = [job.stdout.readline().split() for job in (one, two)]
    assert all(named == visible for named, visible in taken)
    assert sorted(",".join(named for named, _ in taken).split(",")) == ["0", "1", "2"]
    waiting = [jobs.start(2), jobs.start(1)]  # neither is served, and neither takes what the other needs for ever
    with pytest.raises(subprocess.TimeoutExpired):
        waiting[0].wait(timeout=2)
    two.send_signal(signal.SIGKILL)
    one.communicate("")
    got = [job.stdout.readline().split()[0].split(",") for job in waiting]
    assert [len(names) for names in got] == [2, 1] and sorted(sum(got, [])) == ["0", "1", "2"]


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setenv("BYE_GPUS", "0,1")
    with pytest.raises(ByeError, match="3 GPUs are asked for, and this machine has 2; lower models.KEY.resources.gpu"):
        devices.take(3)


def test_nothing_is_taken_where_a_scheduler_allots(monkeypatch):
    monkeypatch.delenv("BYE_GPUS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert devices.take(1) == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_no_gpu_for_a_job_stops_the_run_before_its_first_job(tmp_path, monkeypatch):
    config = small_config(write_tiny_model("llava", tmp_path / "model"))
    config["models"]["tiny"]["resources"] = {"gpu": 1}
    write_config(tmp_path, config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    process = run(tmp_path, f"{CELL}/vanilla/adapter")
    told = (
        "bye: error: config key models.tiny.resources.gpu asks for 1 for each job, and this machine has no GPU; run on "
        "one that has (--profile profiles/gpu), submit to a cluster (--profile profiles/slurm), or lower it"
    )
    assert process.returncode != 0 and told in process.stdout.splitlines() and "Traceback" not in process.stdout
    assert not (tmp_path / "results/data").exists()


def test_more_gpus_than_the_run_may_use():
    settings.check_gpus("big", wanted=2, present=4, limit=2)
    told = "models.big.resources.gpu asks for 4 for each job, and this run may use 2; raise gpu=2 of --resources or"
    with pytest.raises(ByeError, match=told):
        settings.check_gpus("big", wanted=4, present=4, limit=2)


# ---- memory of a GPU -------------------------------------------------------------------------------------------------

TRAINING = {"batch_size": 16, "micro_batch_size": None, "gradient_checkpointing": False}


@pytest.mark.parametrize(
    ("stage", "options", "told"),
    [
        ("finetune", {}, "out of GPU memory with models.KEY.finetune.micro_batch_size at 16; set it to 8"),
        ("finetune", {"batch_size": 18, "micro_batch_size": 9}, "micro_batch_size at 9; set it to 3"),
        ("finetune", {"micro_batch_size": 1}, "set models.KEY.finetune.gradient_checkpointing to true"),
        ("finetune", {"micro_batch_size": 1, "gradient_checkpointing": True}, "at 1; take a GPU with more memory"),
        (
            "finetune",
            {"micro_batch_size": 1, "gradient_checkpointing": True, "quantization": None},
            "at 1; set models.KEY.quantization to 4bit, or take a GPU with more memory",
        ),
        ("evaluate", {"batch_size": 64}, "out of GPU memory with models.KEY.inference_batch_size at 64; set it to 32"),
        ("attention", {"batch_size": 1}, "models.KEY.inference_batch_size at 1; take a GPU with more memory"),
        ("detect", {"batch_size": 5}, "models.KEY.inference_batch_size at 5; set it to 2"),
        ("purify", {"batch_size": 32}, "out of GPU memory; see what else runs on the GPU (nvidia-smi), or take one"),
    ],
)
def test_out_of_gpu_memory_names_the_knob_and_half_its_value(monkeypatch, capsys, stage, options, told):
    def fails(**options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    options = {**(TRAINING if stage == "finetune" else {}), **options}
    known = {flags[0].removeprefix("--").replace("-", "_") for flags, _ in STAGES[stage].options}
    assert options.keys() <= known
    flags = tuple(((f"--{name.replace('_', '-')}",), {"default": value}) for name, value in options.items())
    monkeypatch.setitem(STAGES, stage, Stage(fails, "It fails.", flags))
    with pytest.raises(SystemExit) as ended:
        bye.cli.main([stage])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("bye: error: out of GPU memory") and error.count("\n") == 1
    assert told in error


def test_a_model_that_does_not_fit_is_one_sentence(monkeypatch, tmp_path):
    from bye.methods.families.llava import Llava
    from bye.models import load_model

    folder = write_tiny_model("llava", tmp_path / "model")

    class Large(Llava.classes()[0]):
        @classmethod
        def from_pretrained(cls, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Llava, "classes", classmethod(lambda cls: (Large, None)))
    with pytest.raises(ByeError, match="does not fit into the free memory of the GPU; see what else runs there"):
        load_model(folder)
