"""profiles/slurm on a real SLURM of one node: accidents of a cluster do not change the table.

Needs root, Debian's slurm-wlm and munge, and the executor plugin: pytest -m slurm
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from small_workflow import ROOT, run, small_config, write_config
from tiny_models import write_tiny_model

pytestmark = pytest.mark.slurm
QUICK = ["--slurm-init-seconds-before-status-checks", "5", "--seconds-between-status-checks", "3"]
TARGET = "results/table2.csv"
MEM_MB = 250  # too little for torch: the first attempt of a job with a model is killed for it


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Return the environment in which SLURM's commands find the node, and a function that runs the node's script."""
    place = tmp_path_factory.mktemp("slurm")

    def script(command):
        arguments = [ROOT / "cluster" / "one-node-slurm", command, place]
        subprocess.run(arguments, check=True, env={**os.environ, "CPUS": "4"}, stdout=subprocess.DEVNULL)

    script("start")
    yield {**os.environ, "SLURM_CONF": str(place / "slurm.conf"), "OMP_NUM_THREADS": "1"}, script
    script("stop")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = small_config(write_tiny_model("llava", tmp_path_factory.mktemp("model")))
    config["models"]["tiny"]["resources"] = {"mem_mb": MEM_MB, "runtime": 10, "gpu": 0}
    return config


def submit(folder, environment, log):
    """Start the workflow through the profile."""
    arguments = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    arguments += ["--profile", str(ROOT / "profiles" / "slurm"), "--configfile", str(folder / "config.yaml")]
    arguments += ["--latency-wait", "10", "--retries", "4", *QUICK, TARGET]
    return subprocess.Popen(arguments, env=environment, stdout=log, stderr=subprocess.STDOUT)


def jobs(environment, rule):
    """Return the numbers of the running SLURM jobs of a rule."""
    listing = subprocess.run(
        ["squeue", "--noheader", "--states=RUNNING", "--format=%i %k"], env=environment, capture_output=True, text=True
    )
    rows = (line.split(maxsplit=1) for line in listing.stdout.splitlines())
    return [number for number, *comment in rows if comment and f"rule_{rule}" in comment[0]]


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{condition} did not come true in {seconds} s")


def test_accidents_do_not_change_the_table(tmp_path, slurm, config):
    environment, script = slurm
    local = write_config(tmp_path / "local", config)
    process = run(local, TARGET)
    assert process.returncode == 0, process.stdout

    folder = write_config(tmp_path / "cluster", config)
    log_file = tmp_path / "snakemake.log"
    with open(log_file, "wb") as log:
        process = submit(folder, environment, log)
        [prepare, *_] = wait_for(lambda: jobs(environment, "prepare"))
        subprocess.run(["scancel", prepare], env=environment, check=True)  # an operator, or a node that dies
        wait_for(lambda: jobs(environment, "finetune_vanilla"))
        script("stop")  # the controller is restarted
        script("start")
        process.send_signal(signal.SIGKILL)  # the login node goes down
        process.wait()
        subprocess.run(["scancel", "--user", str(os.getuid())], env=environment, check=True)
        process = submit(folder, environment, log)
        assert process.wait(timeout=900) == 0, log_file.read_text()
    text = log_file.read_text()
    assert text.count("Trying to restart job") >= 2, text  # after scancel, and for memory
    assert (folder / TARGET).read_bytes() == (local / TARGET).read_bytes()
