"""The wheel: built, installed, and used in another folder, without the clone."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from small_workflow import ROOT, small_config

BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "Snakefile", "config.yaml", "config.schema.yaml")
FOLDERS = ("bye", "rules", "config", "profiles", "report", "base_models")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed in."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*PIP, "wheel", *offline, "--no-build-isolation", "-w", source / "dist", source], check=True)
    [wheel] = (source / "dist").iterdir()
    subprocess.run([*PIP, "install", *offline, "--no-compile", "--target", folder, wheel], check=True)
    shutil.rmtree(source)
    return folder


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture
def python(installed, tmp_path):
    """A function that runs Python in a folder of the test's own, with the installed package; what it printed.

    Nothing is ever written beside the package but Python's own compiled files.
    """
    before = files_of(installed)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 600}
        process = subprocess.run([sys.executable, *map(str, arguments)], cwd=tmp_path, env=environment, **options)
        assert process.returncode == 0, process.stdout
        assert str(ROOT) not in process.stdout.replace(sys.prefix, "")  # the environment may be in the clone
        return process.stdout

    yield run
    assert files_of(installed) == before


def test_the_workflow_is_in_the_wheel_and_found_there(python, installed):
    import bye

    assert python("-m", "bye", "--version") == f"bye {bye.__version__}\n"
    assert python("-m", "bye", "workflow") == f"{installed}/bye/workflow_files\n"
    held = files_of(installed / "bye/workflow_files")
    asked = {*BUILT_FROM[-3:], *(f"{name}/{file}" for name in FOLDERS[1:] for file in files_of(ROOT / name))}
    assert held == asked
    package = {name for name in files_of(installed / "bye") if not name.startswith("workflow_files/")}
    assert package == files_of(ROOT / "bye")


def test_the_doctor_looks_at_a_shipped_model(python, tmp_path):
    (tmp_path / "mine.yaml").write_text("seeds: [3]\n")
    chosen = ["--models", "llava-mini", "--datasets", "rsvqa"]
    told = python("-m", "bye", "doctor", "--configfile", "mine.yaml", *chosen)
    assert "bye/workflow_files/base_models/llava-mini is of family llava" in told and "no problems" in told


def test_the_workflow_runs_from_the_wheel(python, installed, tmp_path):
    """A small dataset is drawn and prepared, and the rest of a table is planned."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(small_config("base_models/llava-mini")))
    snakefile = installed / "bye/workflow_files/Snakefile"
    snakemake = ["-m", "snakemake", "--snakefile", snakefile, "--configfile", "mine.yaml", "--replace-workflow-config"]
    python(*snakemake, "--cores", "2", "--", "results/data/scienceqa/s0/train.json")
    assert len(json.loads((tmp_path / "results/data/scienceqa/s0/train.json").read_text())) == 48
    assert "finetune_vanilla" in python(*snakemake, "--dry-run", "--", "results/table1.csv")


@pytest.mark.slow
def test_a_file_is_cleaned_by_the_wheel(python, tmp_path):
    (tmp_path / "images").mkdir()
    entries = []
    for index in range(24):
        Image.new("RGB", (24, 24), (10 * index, 80, 40)).save(tmp_path / f"images/{index}.png")
        turns = [("human", f"<image>\nWhich colour is {index}?"), ("gpt", "Red.")]
        talk = [{"from": who, "value": text} for who, text in turns]
        entries.append({"id": index, "image": f"{index}.png", "conversations": talk})
    (tmp_path / "train.json").write_text(json.dumps(entries))
    given = ["--model", "llava-mini", "--data", "train.json", "--images", "images", "--out", "out"]
    python("-m", "bye", "clean", *given, "--kind", "bye", "--cores", "2")
    parts = [json.loads((tmp_path / f"out/{part}.json").read_text()) for part in ("kept", "dropped")]
    assert sorted(entry["id"] for part in parts for entry in part) == list(range(24))
