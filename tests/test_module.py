"""The workflow as a Snakemake module of another project (docs/module.md)."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from small_workflow import ROOT

PAGE = (ROOT / "docs" / "module.md").read_text(encoding="utf-8")
[SNAKEFILE] = re.findall(r"^```python\n(.+?)^```$", PAGE, re.DOTALL | re.MULTILINE)
[CONFIG] = re.findall(r"^```yaml\n(.+?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def write_project(tmp_path_factory):
    """A function that writes the page's project, its Snakefile and its model changed; returns the folder."""

    def write(old="", new="", **changes):
        assert old in SNAKEFILE
        folder, config = tmp_path_factory.mktemp("project"), yaml.safe_load(CONFIG)
        config["bye"]["models"]["llava-mini"].update(changes)
        (folder / "project.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (folder / "Snakefile").write_text(SNAKEFILE.replace(old, new or old), encoding="utf-8")
        return folder

    return write


def snakemake(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "snakemake", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 600}
    return subprocess.run(command, cwd=folder, env=environment, **options)


def test_a_project_makes_its_own_files_of_the_modules(write_project):
    """Its first rule stays the default, its wildcards are its own, and records have the names of its rules."""
    folder = write_project()
    process = snakemake(folder, "--cores", "2")
    assert process.returncode == 0, process.stdout
    assert (folder / "results/count.txt").read_text().strip() == "2"
    assert (folder / "results/sets.csv").read_text().split() == ["dataset,train,test", "scienceqa,48,8"]
    logs = {str(path.relative_to(folder / "results/logs")) for path in folder.glob("results/logs/**/*.log")}
    assert logs == {"bye_mini_data/scienceqa.log", "bye_prepare/scienceqa.s0.log", "bye_table/sets.log"}
    process = snakemake(folder, "--report", "report.html")  # without --cores
    assert process.returncode == 0 and "My datasets" in (folder / "report.html").read_text(), process.stdout
    process = snakemake(folder, "--dry-run", "--cores", "2", "--", "results/found.csv")
    rules = set(re.findall(r"^rule (\w+):$", process.stdout, re.MULTILINE))
    assert {"bye_poison", "bye_finetune_vanilla", "bye_detect_layers", "bye_score", "bye_table"} <= rules


def test_rules_can_be_taken_one_by_one(write_project):
    folder = write_project("use rule *", "use rule mini_data, prepare")
    process = snakemake(folder, "--dry-run", "--cores", "1", "--", "results/data/scienceqa/s0/train.json")
    assert process.returncode == 0 and "rule bye_prepare:" in process.stdout, process.stdout


def test_a_project_is_told_in_one_sentence_too(write_project):
    folder = write_project('    config: config["bye"]', '    config: config["bye"]\n    prefix: "sub"')
    process = snakemake(folder, "--cores", "1")
    assert process.returncode and "bye: error: a module of this workflow has no prefix" in process.stdout
    process = snakemake(write_project(resources={"gpu": 1}), "--cores", "1", "--", "results/found.csv")
    assert process.returncode and "this machine has no GPU" in process.stdout, process.stdout
    assert "Traceback" not in process.stdout
