"""Bad input that concerns several stages at once."""

import csv
import json
import os
import shutil
import subprocess

import pyarrow.parquet as pq
import pytest
from detectors import detect
from PIL import Image
from small_workflow import ROOT, command, small_config, write_config
from tiny_models import TEMPLATES, write_tiny_model

from bye import config as settings
from bye.errors import ByeError
from bye.extraction.attention import extract
from bye.models import load_model
from bye.tools.clean import clean
from bye.training.finetune import finetune

EVERY = pytest.mark.parametrize("family", TEMPLATES)


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("internvl", layers=2)


def write_samples_file(folder, count):
    """`count` samples with the same question on the same image."""
    Image.new("RGB", (32, 32), "teal").save(folder / "x.png")
    turns = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "Teal."}]
    samples = [{"id": f"s{number}", "image": "x.png", "conversations": turns} for number in range(count)]
    (folder / "samples.json").write_text(json.dumps(samples))
    return folder / "samples.json"


# ---- checkpoints of strangers ----------------------------------------------------------------------------------------


@EVERY
def test_code_in_a_checkpoint_is_never_run(family, tmp_path):
    folder = write_tiny_model(family, tmp_path / "model", layers=2)
    marker = tmp_path / "it ran"
    (folder / "custom.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    for name, kinds in (
        ("config.json", ("AutoConfig", "AutoModel", "AutoModelForImageTextToText")),
        ("tokenizer_config.json", ("AutoTokenizer", "AutoProcessor")),
        ("preprocessor_config.json", ("AutoImageProcessor", "AutoProcessor")),
    ):
        content = json.loads((folder / name).read_text())
        own = {kind: ["custom.Own", "custom.Own"] if kind == "AutoTokenizer" else "custom.Own" for kind in kinds}
        (folder / name).write_text(json.dumps({**content, "auto_map": own}))
    assert load_model(folder).model_type == family
    assert not marker.exists()


def test_a_folder_that_is_no_model_of_a_known_family(tmp_path):
    with pytest.raises(ByeError, match="has no config.json; give a folder in the layout of transformers, or a hub id"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ByeError, match="is of type 'qwen2_vl'; supported are internvl, llava, llava_next, qwen3_vl"):
        load_model(tmp_path)


# ---- sets that are too small or too plain ----------------------------------------------------------------------------


def test_one_sample_can_be_trained_on_but_not_divided(model, tmp_path):
    samples, attention = write_samples_file(tmp_path, 1), tmp_path / "attention.parquet"
    finetune(model, samples, tmp_path, tmp_path / "adapter", tmp_path / "loss.csv", epochs=2, threads=1)
    assert (tmp_path / "loss.csv").read_text().count("\n") == 1 + 2
    extract(model, tmp_path / "adapter", samples, tmp_path, attention)
    assert pq.read_table(attention)["id"].to_pylist() == ["s0"]
    with pytest.raises(ByeError, match=r"attention.parquet has 1 sample, and BYE needs 10 at least; give a larger set"):
        detect(attention, tmp_path / "flags.parquet")


def test_identical_samples_are_all_kept(model, tmp_path):
    samples, attention = write_samples_file(tmp_path, 12), tmp_path / "attention.parquet"
    extract(model, None, samples, tmp_path, attention, batch_size=5)
    assert detect(attention, tmp_path / "flags.parquet") == 0
    with open(tmp_path / "layers.csv", newline="") as file:
        assert [row["sensitive"] for row in csv.DictReader(file)] == ["false", "false"]


# ---- settings and places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ([], "config key seeds: "),
        ([-1], "config key seeds.0: -1 is less than the minimum of 0"),
        ([2**32], "config key seeds.0: 4294967296 is greater than the maximum of 4294967295"),
        (["x"], "config key seeds.0: 'x' is not of type 'integer'"),
        ([0, 1, 0], "config key seeds: [0, 1, 0] has non-unique elements"),
    ],
)
def test_seeds_are_checked(seeds, told, shipped_config):
    shipped_config["seeds"] = seeds
    with pytest.raises(ByeError) as caught:
        settings.check(shipped_config, ROOT)
    assert str(caught.value).startswith(told)


def test_a_table_of_a_set_without_test_samples(shipped_config):
    shipped_config["datasets"]["mine"] = {"format": "llava", "json": "README.md", "images": "docs"}
    shipped_config["tables"]["table1"]["datasets"].append("mine")
    with pytest.raises(ByeError, match="tables.table1.datasets names mine, without a test set; set datasets.mine.test"):
        settings.check(shipped_config, ROOT)


def test_clean_into_a_place_that_cannot_be_written(model, tmp_path):
    samples = write_samples_file(tmp_path, 12)
    with pytest.raises(ByeError, match="cannot write /sys/bye/work/config.yaml: .*; choose another output folder"):
        clean(str(model), samples, tmp_path, "/sys/bye")  # not even root may make folders there


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts a file system of its own")
def test_a_full_disk_stops_the_workflow_with_the_sentence(model, tmp_path):
    """On a file system of its own that holds Snakemake's records, but not the pictures."""
    disk, config = tmp_path / "disk", small_config(model)
    disk.mkdir()
    config["models"]["tiny"]["family"] = "internvl"
    write_config(tmp_path, config)
    steps = 'mount -t tmpfs -o size=64k tmpfs "$DISK" || exit 77; cp config.yaml "$DISK"; exec "$@"'
    process = subprocess.run(
        ["unshare", "-rm", "sh", "-c", steps, "sh", *command(disk, "results/data/scienceqa/raw")],
        env={**os.environ, "DISK": str(disk), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if process.returncode == 77 or "unshare:" in process.stdout:
        pytest.skip("may not mount a file system here")
    assert process.returncode != 0 and "Traceback" not in process.stdout
    told = "bye: error: cannot write results/data/scienceqa/raw: the disk is full; free some space and run again"
    assert told in process.stdout
