"""The Snakemake workflow: its checks, the shape of its DAG, and runs that are killed and started again."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_workflow import CELL, ROOT, command, run, small_config, write_config
from snakemake.iocontainers import Wildcards

from bye import config as settings
from bye.errors import ByeError
from bye.machine import forking, processes
from bye.tools.budget import cells
from bye.workflow import Files, Options

TABLES = ["results/table1.csv", "results/table2.csv"]
ABLATIONS = [f"results/{name}" for name in ("table5.csv", "table7.csv", "figure3.pdf", "figure4.png", "layers.png")]


@pytest.fixture(scope="session")
def model(tiny_model):
    return tiny_model("llava")


@pytest.fixture(scope="session")
def internvl(tiny_model):
    return tiny_model("internvl")


@pytest.fixture
def shipped(shipped_config, model, internvl):
    """The shipped configuration, on models that are there."""
    for entry in shipped_config["models"].values():
        entry["path"] = str({"llava": model, "internvl": internvl}[entry["family"]])
    return shipped_config


def jobs_of(text):
    """Return the jobs of a dry run with --printshellcmds: dicts of rule, input, output (lists of paths) and shell."""
    jobs = []
    for line in text.splitlines():
        if rule := re.match(r"(?:local)?rule (\w+):", line):
            jobs.append({"rule": rule[1], "input": [], "output": [], "shell": ""})
        elif files := re.match(r"    (input|output): (.+)", line):
            jobs[-1][files[1]] = files[2].split(", ")
        elif line.startswith("Shell command: "):
            jobs[-1]["shell"] = line
    return jobs


def reached_by_labels(jobs):
    """Return every file that ground truth has a way into: read from a labels file, or from a file that was."""
    reached = {path for job in jobs for path in job["output"] if "/labels/" in path}
    while True:
        readers = [
            job for job in jobs if reached & set(job["input"]) or "/labels/" in job["shell"] and job["rule"] != "poison"
        ]
        further = {path for job in readers for path in job["output"]} - reached
        if not further:
            return reached
        reached |= further


# ---- configuration ---------------------------------------------------------------------------------------------------


def complaint(config):
    """Return the sentence with which the workflow would refuse a configuration."""
    try:
        settings.check(config, ROOT)
        for key, entry in config["datasets"].items():
            settings.check_root(key, entry)
    except ByeError as error:
        return str(error)


def f1_of(defence):
    """Return a table with the F1 of one defence."""
    rows = {"models": ["llava-mini"], "datasets": ["rsvqa"], "attack": "badnet", "defences": [defence]}
    return {**rows, "columns": ["model", "f1"]}


def changed(config, path, value):
    *parents, last = path.split("/")
    for part in parents:
        config = config[part]
    config[last] = value


def test_the_shipped_configuration_is_accepted(shipped):
    assert complaint(shipped) is None
    defaults = {"over": "bsi", "clustering": "gmm", "threshold": 4.5}  # of the method's own file
    assert shipped["defences"]["bye"] == {"kind": "bye", "rule": "paper", "tau": 2.0} | defaults
    assert shipped["attacks"]["badnet"] == {
        "trigger": "badnet", "rate": 0.10, "target": "Backdoor Attack!", "share": 1 / 16
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("seed", 1, ["unknown config key seed", "seeds"]),
        ("models/llava-mini/epochs", 3, ["models.llava-mini.epochs", "finetune"]),
        ("models/llava-mini/resources/gpu", 3, ["models.llava-mini.resources.gpu", "of the 3 processes"]),
        ("models/llava-mini/finetune/micro_batch_size", 3, ["models.llava-mini.finetune", "micro_batch_size 3"]),
        ("models/llava-mini/quantization", "8bit", ["models.llava-mini.quantization", "'8bit'", "4bit"]),
        ("models/llava-mini/finetune/lr", 3, ["models.llava-mini.finetune.lr", "learning_rate"]),
        ("models/llava-mini/family", "qwen", ["models.llava-mini.family", "'qwen'", "internvl"]),
        ("models/llava-mini/tuning", "full", ["models.llava-mini.tuning", "'full'", "lora", "path of a .py file"]),
        ("models/llava-mini/finetune/lora_rank", 0, ["models.llava-mini.finetune.lora_rank", "0"]),
        ("models/llava-mini/family", "internvl", ["models.llava-mini.family", "'internvl'", "model_type 'llava'"]),
        ("models/llava-mini/path", "base_models/none", ["models.llava-mini.path", "base_models/none"]),
        ("datasets/scienceqa/format", "vqa", ["datasets.scienceqa.format", "'vqa'", "rsvqa"]),
        ("datasets/scienceqa/root", "/nowhere", ["datasets.scienceqa.root", "/nowhere"]),
        ("datasets/mine", {"format": "llava", "json": "a.json"}, ["datasets.mine", "lacks images"]),
        ("datasets/mine", {"format": "llava", "json": "a.json", "images": "b"}, ["datasets.mine.json", "a.json"]),
        ("datasets/flickr30k/json", "a.json", ["datasets.flickr30k.json needs datasets.flickr30k.root"]),
        ("datasets/labels", {"format": "rsvqa"}, ["'labels'", "section datasets"]),
        ("datasets/a b", {"format": "rsvqa"}, ["'a b'", "section datasets"]),
        ("attacks/badnet/rate", 1.5, ["attacks.badnet.rate", "1.5"]),
        ("attacks/badnet/trigger", "flower", ["attacks.badnet.trigger", "'flower'", "badnet"]),
        ("attacks/badnet/trigger", "mine.py", ["attacks.badnet.trigger", "there is no file mine.py"]),
        ("attacks/badnet/share", 2, ["attacks.badnet.share", "2"]),
        ("attacks/badnet/grid", 2, ["unknown config key attacks.badnet.grid", "share"]),
        ("attacks/badnet/target", {"kind": "swap"}, ["attacks.badnet.target.kind", "'swap'", "replace"]),
        ("attacks/badnet/target", {"text": "a"}, ["attacks.badnet.target", "lacks kind"]),
        ("defences/bye/rule", "mean", ["defences.bye.rule", "'mean'", "released"]),
        ("defences/bye/share", 0.2, ["defences.bye.share", "tau"]),
        ("defences/random_drop/share", -1, ["defences.random_drop.share", "-1"]),
        ("defences/plain", {"kind": "none"}, ["exactly one", "vanilla, plain"]),
        ("tables/table1/models", ["llava"], ["tables.table1.models", "unknown model 'llava'", "llava-mini"]),
        ("tables/table1/datasets", ["vqa"], ["tables.table1.datasets", "unknown dataset 'vqa'", "iconqa"]),
        ("tables/table2/attack", "blended", ["tables.table2.attack", "unknown attack 'blended'", "badnet"]),
        ("tables/table2/defences", ["blur"], ["tables.table2.defences", "unknown defence 'blur'", "oracle"]),
        ("defences/tcap", {"kind": "tcaps"}, ["defences.tcap.kind", "'tcaps'", "bye", "sentinet"]),
        ("tables/table9", {}, ["tables.table9", "neither columns nor figure"]),
        ("tables/table1/columns", ["model", "F1"], ["tables.table1.columns", "unknown column 'F1'", "auroc"]),
        ("tables/table1/columns", ["model", "dataset", "CP", "ASR"], ["tells apart; add the column method"]),
        ("tables/f1", f1_of("vanilla"), ["f1 is a number of flagged samples", "vanilla acts on nothing"]),
        ("tables/f1", f1_of("zip"), ["tables.f1.columns", "zip acts on test images"]),
        ("tables/table2/attack", "none", []),
        ("tables/table5/sort", ["ASR"], ["tables.table5", "'ASR' is to be sorted"]),
        ("tables/layers/figure", "pie", ["tables.layers.figure", "'pie'", "histograms"]),
        ("tables/purified/defence", "bye", ["tables.purified.figure", "test images", "bye"]),
        ("tables/table2/files", ["heads.csv"], ["tables.table2.files", "heads.csv", "a cell of bye has not"]),
        (
            "tables/table2/files",
            [{"file": "layers.csv", "defences": ["zip"]}],
            ["tables.table2.files", "layers.csv of zip"],
        ),
        ("tables/poison_rate/defences", ["bye", "oracle"], ["oracle reads the labels", "untouched set"]),
        ("seeds", [], ["seeds"]),
        ("seeds", [0.5], ["seeds.0", "0.5"]),
    ],
)
def test_a_wrong_configuration_is_one_sentence_that_names_the_key(shipped, path, value, told):
    changed(shipped, path, value)
    sentence = complaint(shipped)
    if not told:
        assert sentence is None
        return
    assert sentence and "\n" not in sentence
    for part in told:
        assert part in sentence


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("results/gpt/rsvqa/badnet/s0/bye/eval.json", "unknown model 'gpt'; config knows: llava-mini, internvl-mini"),
        ("results/llava-mini/vqa/badnet/s0/bye/eval.json", "unknown dataset 'vqa'"),
        (
            "results/llava-mini/rsvqa/blended/s0/bye/eval.json",
            "unknown attack 'blended'; config knows: badnet, random_position",
        ),
        ("results/llava-mini/rsvqa/badnet/s0/blur/eval.json", "unknown defence 'blur'"),
        ("results/llava-mini/rsvqa/badnet/0/bye/eval.json", "'0' is no seed"),
        ("results/llava-mini/rsvqa/none/s0/oracle/kept.json", "the untouched set has none"),
        ("results/llava-mini/rsvqa/none/s0/bye/detection.json", "the untouched set has no labels"),
    ],
)
def test_a_target_with_an_unknown_name_is_refused(shipped, target, told):
    with pytest.raises(ByeError, match=re.escape(told)):
        settings.check_target(target, shipped)


def test_a_target_that_is_known_passes(shipped):
    settings.check_target("results/llava-mini/rsvqa/badnet/s7/bye/adapter/adapter_config.json", shipped)
    settings.check_target("results/data/rsvqa/s0/train.json", shipped)


def test_values_from_the_command_line_get_their_types_back(shipped):
    shipped["seeds"] = ["0", "1"]  # as `snakemake --config seeds=[0,1]` gives them
    assert complaint(shipped) is None and shipped["seeds"] == [0, 1]


def test_all_that_is_wrong_with_tables_is_told_at_once(shipped):
    changed(shipped, "tables/table1/columns", ["model", "F1"])
    changed(shipped, "tables/table5/sort", ["ASR"])
    heading, first, second = complaint(shipped).split("\n")
    assert heading == "the section tables has 2 problems; mend them:" and "table1" in first and "table5" in second


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "foo=1"], "bye: error: unknown config key foo; known here: attacks,"),
        (["results/tiny/vqa/badnet/s0/bye/kept.json"], "unknown dataset 'vqa'; config knows: scienceqa"),
        (["results/table9.csv"], "bye: error: target results/table9.csv is nothing that this workflow makes"),
    ],
)
def test_snakemake_ends_with_the_sentence_alone(tmp_path, model, arguments, told):
    write_config(tmp_path, small_config(model))
    process = run(tmp_path, "--dry-run", *arguments)
    assert process.returncode != 0
    assert told in process.stdout
    assert "Traceback" not in process.stdout and "Exception" not in process.stdout
    assert len([line for line in process.stdout.splitlines() if line.startswith("bye: error:")]) == 1


# ---- the DAG ---------------------------------------------------------------------------------------------------------


REPORTS = {
    "score",
    "entropy_figure",
    "attention_maps",
    "evidence",
    "table",
    "figure",
}  # rules that may read the labels:
# they say how good a defence was, or show samples of both kinds


@pytest.fixture(scope="module")
def plan(tmp_path_factory, model, internvl):
    """The jobs of the shipped configuration with two seeds, from Snakemake's own dry run."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for entry in config["models"].values():
        entry["path"] = str({"llava": model, "internvl": internvl}[entry["family"]])
    folder = write_config(tmp_path_factory.mktemp("plan"), config)
    process = run(folder, "--dry-run", "--printshellcmds", "--config", "seeds=[0,1]")
    assert process.returncode == 0, process.stdout
    return jobs_of(process.stdout)


def test_ground_truth_reaches_no_defence_but_the_oracle(plan):
    reached = reached_by_labels(plan)
    assert any(path.startswith("results/labels/") for path in reached)
    assert any("/oracle/flags.parquet" in path for path in reached)
    decided = [
        path for job in plan for path in job["output"] if path.endswith(("flags.parquet", "kept.json", "adapter"))
    ]
    assert {path.split("/")[5] for path in decided} >= {"bye", "sentinet", "random_drop", "oracle", "vanilla"}
    assert [path for path in decided if path in reached and "/oracle/" not in path] == []
    readers = [job for job in plan if any("/labels/" in path for path in job["input"])]
    assert {job["rule"] for job in readers} == {"detect", *REPORTS}
    assert all("/oracle/" in path for job in readers if job["rule"] == "detect" for path in job["output"])
    reports = [path for job in plan if job["rule"] in REPORTS for path in job["output"]]
    shown = ("detection.json", "maps.npz", "evidence.json", ".png", ".pdf", ".csv", ".md", ".tex")
    assert all(path.endswith(shown) for path in reports)


def test_a_leak_of_ground_truth_would_be_seen():
    poison = {"rule": "poison", "input": ["train.json"], "output": ["results/labels/d/a/s0.parquet"], "shell": ""}
    count = {"rule": "count", "input": ["results/labels/d/a/s0.parquet"], "output": ["rate.json"], "shell": ""}
    detect = {"rule": "detect", "input": ["rate.json"], "output": ["bye/flags.parquet"], "shell": ""}
    assert "bye/flags.parquet" in reached_by_labels([poison, count, detect])
    hidden = {
        "rule": "detect",
        "input": [],
        "output": ["bye/flags.parquet"],
        "shell": "--x results/labels/d/a/s0.parquet",
    }
    assert "bye/flags.parquet" in reached_by_labels([poison, hidden])
    clean = {"rule": "detect", "input": ["train.json"], "output": ["bye/flags.parquet"], "shell": ""}
    assert "bye/flags.parquet" not in reached_by_labels([poison, clean])


def cell_of(path):
    """(model, dataset, attack, seed, defence) of a cell's file."""
    return tuple(path.split("/")[1:6])


def made(plan, *names):
    """The cells for which the plan makes files of these names."""
    paths = [path for job in plan for path in job["output"] if path.count("/") == 6]
    return [cell_of(path) for path in paths if path.endswith(tuple(f"/{name}" for name in names))]


def test_nothing_is_made_twice(plan):
    outputs = [path for job in plan for path in job["output"]]
    assert len(outputs) == len(set(outputs))


def test_the_plain_fine_tune_and_its_attention_are_shared(plan):
    plain = set(made(plan, "attention.parquet"))
    assert {cell[4] for cell in plain} == {"vanilla"}
    runs = {cell[:4] for cell in made(plan, "flags.parquet", "adapter", "eval.json")}
    assert {cell[:4] for cell in plain} == runs  # one for each run, whatever the number of its detectors
    assert sum(job["rule"] == "mini_data" for job in plan) == 4  # one world for all seeds
    for rule in ("purify_test", "purify_triggered"):  # shared by the models
        folders = [path for job in plan if job["rule"] == rule for path in job["output"]]
        assert folders and not any("llava" in path or "internvl" in path for path in folders)


def test_no_model_is_trained_for_a_cell_that_is_not_evaluated(plan):
    evaluated = set(made(plan, "eval.json"))
    trained = {cell for cell in made(plan, "adapter") if cell[4] != "vanilla"}
    assert trained and trained <= evaluated
    assert not any(cell[4] == "zip" for cell in trained)


def test_every_stage_with_a_model_is_told_its_family(plan):
    jobs = [job for job in plan if job["rule"] in ("finetune_vanilla", "finetune", "attention", "evaluate")]
    assert jobs
    for job in jobs:
        family = "internvl" if any("/internvl-mini/" in path for path in job["output"]) else "llava"
        assert f"--family {family} " in job["shell"] and "--tuning lora " in job["shell"]


def test_every_stage_with_a_model_is_told_how_many_gpus_to_take(plan):
    stages = {"finetune", "finetune_vanilla", "attention", "detect", "detect_layers", "evaluate", "attention_maps"}
    stages |= {"purify_test", "purify_triggered", "evidence"}
    assert {job["rule"] for job in plan if "python -m bye --gpus 0 " in job["shell"]} == stages


def test_the_number_of_runs_is_that_of_the_plan(plan):
    config = {**settings.read_config([ROOT / "config.yaml"]), "seeds": [0, 1]}
    settings.check_content(config, ROOT)
    rules = [job["rule"] for job in plan]
    tried = sum(path.endswith("/sentinet/flags.parquet") for job in plan for path in job["output"])
    wanted = [*(rules.count(rule) for rule in ("finetune_vanilla", "finetune", "evaluate")), tried]
    assert [len(part) for part in cells(config)] == wanted


def test_the_papers_scale_is_planned_without_its_data_and_as_the_docs_say(tmp_path):
    paper = ["--configfile", str(ROOT / "config/paper.yaml"), "--dry-run", "--quiet", "rules"]
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    process = subprocess.run([*start, *paper], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.returncode == 0, process.stdout
    assert "bye: warning: config key datasets.flickr30k.root: there is no folder data/flickr30k\n" in process.stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", process.stdout, flags=re.MULTILINE))
    page = (ROOT / "docs/scale.md").read_text()
    assert f"| all jobs (with a GPU) | {counts['total']} (" in page
    for stage in ("fetch", "prepare", "attention", "detect_layers", "keep", "finetune", "evaluate"):
        assert re.search(rf"^\| \**{stage}\**(?: \(.*?\))? \| {counts[stage]}\b", page, flags=re.MULTILINE), stage


def test_the_scheduler_is_idle_while_jobs_run(tmp_path, model):
    """It looks for jobs at the start and when one has ended, and not by the clock in between."""
    sets = {f"set{n}": {"format": "rsvqa", "train": 200, "test": 4, "metric": "accuracy"} for n in range(4)}
    folder = write_config(tmp_path, small_config(model, datasets=sets, tables={}))
    process = run(folder, "--verbose", "--cores", "1", *(f"results/data/{name}/raw" for name in sets))
    assert process.returncode == 0, process.stdout
    assert 1 <= len(re.findall("Ready jobs: [1-9]", process.stdout)) <= len(sets)


def test_a_root_among_the_downloads_is_downloaded(tmp_path, model):
    config = small_config(model)
    config["datasets"]["scienceqa"]["root"] = "results/downloads/scienceqa"
    target = "results/data/scienceqa/s0/train.json"
    process = run(write_config(tmp_path, config), "--dry-run", "--printshellcmds", target)
    jobs = jobs_of(process.stdout)
    assert [job["rule"] for job in jobs] == ["fetch", "prepare"]
    assert "bye fetch scienceqa --out results/downloads/scienceqa" in jobs[0]["shell"]
    (tmp_path / "results/downloads/scienceqa").mkdir(parents=True)  # one that is there is used as it is
    process = run(tmp_path, "--dry-run", target)
    assert [job["rule"] for job in jobs_of(process.stdout)] == ["prepare"]


def test_the_files_of_cells_that_an_entry_lists_are_a_target(tmp_path, model):
    config = small_config(model)
    config["tables"]["table5"]["files"] = [{"file": "evidence.json", "defences": ["tau_0"]}]
    process = run(write_config(tmp_path, config), "--dry-run", "--printshellcmds", "table5_files")
    made = [path for job in jobs_of(process.stdout) if job["rule"] == "evidence" for path in job["output"]]
    assert made == ["results/tiny/scienceqa/badnet/s0/tau_0/evidence.json"]


def test_the_scout_is_fetched_and_its_dtype_given_to_every_job_that_runs_it(tmp_path):
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    scout = ["--configfile", str(ROOT / "config/scout.yaml"), "--dry-run", "--printshellcmds", "--"]
    for name in ("daquar", "UCMerced_LandUse", "easy-vqa"):
        (tmp_path / "downloads" / name).mkdir(parents=True)
    tables = [f"results/{name}.csv" for name in ("scout", "scout_untouched", "scout_layers")]
    process = subprocess.run([*start, *scout, *tables], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.returncode == 0, process.stdout
    jobs = jobs_of(process.stdout)
    rules = [job["rule"] for job in jobs]
    assert rules.count("scout") == 1 and "base_model" not in rules
    for job in jobs:
        if job["rule"] in ("finetune", "finetune_vanilla", "attention", "evaluate"):
            assert "--dtype bfloat16" in job["shell"] and "results/base_models/scout" in job["shell"]
        if job["rule"] == "prepare" and "easyvqa" not in job["shell"]:
            assert "--pictures 0.6667 1" in job["shell"]
    made = [*start, *scout, "results/scout/delta"]
    process = subprocess.run(made, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    jobs = {job["rule"]: job["shell"] for job in jobs_of(process.stdout)}
    assert list(jobs) == ["scout_parts", "scout_delta"]
    roots = "--daquar downloads/daquar --ucmerced downloads/UCMerced_LandUse --openclipart /usr/share"
    assert f"bye scout-train --parts results/scout/parts {roots}" in jobs["scout_delta"]


def test_jobs_with_several_gpus_have_a_process_for_each(tmp_path, model):
    """Those that divide their work; the others ask for one GPU."""
    config = small_config(model)
    config["models"]["tiny"] |= {"resources": {"gpu": 4}, "quantization": "4bit"}
    config["defences"]["sentinet"] = {"kind": "sentinet"}
    targets = [f"{CELL}/bye/eval.json", f"{CELL}/sentinet/flags.parquet"]
    process = run(write_config(tmp_path, config), "--dry-run", "--printshellcmds", *targets)
    shells = {job["rule"]: job["shell"] for job in jobs_of(process.stdout)}
    asked = dict(re.findall(r"^rule (\w+):$.*?^    resources: (.*?)$", process.stdout, re.DOTALL | re.MULTILINE))
    for rule in ("finetune_vanilla", "finetune", "attention", "evaluate"):
        assert "--processes 4 --threads 1 " in shells[rule] and "gpu=4" in asked[rule]
    assert "--processes" not in shells["detect"] and "gpu=1" in asked["detect"]
    for rule in ("finetune_vanilla", "finetune", "attention", "evaluate", "detect"):
        assert "--quantization 4bit" in shells[rule]


def test_the_table_is_told_which_defences_read_the_labels(plan):
    [table] = [job["shell"] for job in plan if "results/table1.csv" in job["output"]]
    assert '"oracle": ["labels"]' in table


def test_a_table_is_told_of_all_that_it_depends_on(plan):
    tables = [job for job in plan if job["rule"] in ("table", "figure")]
    names = {Path(job["output"][0]).stem for job in tables}
    assert {"table1", "table8", "poison_rate", "layers", "figure4", "purified"} <= names
    for job in tables:
        unused = [path for path in job["input"] if path not in job["shell"]]
        assert not unused, (job["rule"], unused)


def test_the_workflow_is_formatted_and_linted(tmp_path, model):
    formatted = [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules"]
    assert subprocess.run(formatted, cwd=ROOT, capture_output=True).returncode == 0
    process = run(write_config(tmp_path, small_config(model)), "--lint")
    assert "your workflow is in a good condition" in process.stdout, process.stdout


def test_the_conda_environment_mirrors_the_lock():
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
    environment = yaml.safe_load((ROOT / "envs" / "bye.yaml").read_text())
    assert environment["dependencies"][-1]["pip"] == lock
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lock)  # every one pinned, none to a local build


# ---- locks and orphans -----------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from bye.machine import forking, processes
print(processes.release_stale_lock(sys.argv[1]), flush=True)
time.sleep(60)
"""


def holder(folder):
    """A live process that counts as a Snakemake at work in `folder`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return process, process.stdout.readline().strip()


def lock(folder):
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    (folder / "locks" / "0.output.lock").write_text("results/table1.csv\n")


def test_a_lock_is_released_only_when_its_owner_is_dead(tmp_path):
    first, _ = holder(tmp_path)
    try:
        lock(tmp_path)
        second, released = holder(tmp_path)
        assert released == "False" and (tmp_path / "locks").exists()
        first.kill()
        first.wait()
        third, released = holder(tmp_path)  # the second one is still at work
        assert released == "False" and (tmp_path / "locks").exists()
    finally:
        for process in (first, second, third):
            process.kill()
            process.wait()
    last, released = holder(tmp_path)
    last.kill()
    last.wait()
    assert released == "True" and not (tmp_path / "locks").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ByeError, match=f"cannot write in {tmp_path}/file .*; work in another folder: --directory"):
        processes.release_stale_lock(tmp_path / "file" / ".snakemake")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs process descriptors")
def test_a_job_ends_with_its_snakemake():
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    code = (
        "import time; from bye.machine import processes; "
        "processes.end_with_parent(); print('up', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, processes.PARENT: str(parent.pid)}
    job = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "up\n"
    parent.kill()
    parent.wait()
    assert job.wait(timeout=10) == -signal.SIGKILL
    orphan = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT)
    assert orphan.wait(timeout=30) == -signal.SIGKILL  # the parent was gone before the job began


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    """A folder in which the tables were made without disturbance, and what needs no further training."""
    folder = write_config(tmp_path_factory.mktemp("undisturbed"), small_config(model))
    process = run(folder, *TABLES, *ABLATIONS)
    assert process.returncode == 0, process.stdout
    return folder


def files_of(folder):
    """Return {path: bytes} of all results that must not depend on how a run went."""
    results = [*folder.glob("results/*.*"), *folder.glob("results/labels/**/*"), *folder.glob("results/data/**/*")]
    results += folder.glob("results/tiny/**/*")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in results
        if path.is_file() and path.name != ".snakemake_timestamp"
    }


def test_the_tables_are_made(finished):
    header, *rows = (finished / "results/table1.csv").read_text().splitlines()
    assert header.startswith("model,method,dataset,CP,ASR,paper_CP,paper_ASR")
    assert [row.split(",")[:3] for row in rows] == [["tiny", "vanilla", "scienceqa"], ["tiny", "bye", "scienceqa"]]
    assert rows[0].split(",")[5:7] == ["91.72", "97.32"]
    assert (finished / "results/table2.csv").read_text().count("\n") == 2
    labels = finished / "results/labels/scienceqa/badnet/s0.parquet"
    assert labels.exists()
    evaluation = json.loads((finished / CELL / "bye/eval.json").read_text())
    assert evaluation["n_clean"] == evaluation["n_triggered"] == 8
    assert not list(finished.glob("results/**/*.partial*"))
    assert not list(finished.glob("results/**/*checkpoint*"))


def test_a_second_run_does_nothing(finished):
    process = run(finished, *TABLES)
    assert process.returncode == 0 and "Nothing to be done" in process.stdout


def test_a_touched_checkpoint_changes_nothing(finished, model):
    (model / "model.safetensors").touch()
    assert "Nothing to be done" in run(finished, "--dry-run", *TABLES).stdout


@pytest.mark.parametrize(
    ("path", "value", "rerun"),
    [
        ("defences/bye/tau", 1.5, {"detect_layers", "keep", "finetune", "evaluate", "score", "table"}),
        ("models/tiny/paper", None, {"table"}),
        (
            "models/tiny/finetune/lora_rank",
            2,
            {"finetune_vanilla", "finetune", "attention", "detect_layers", "keep", "evaluate", "score", "table"},
        ),
    ],
)
def test_a_changed_setting_re_runs_what_depends_on_it(finished, model, path, value, rerun):
    config = small_config(model)
    changed(config, path, value)
    write_config(finished, config)
    try:
        process = run(finished, "--dry-run", *TABLES)
        assert {job["rule"] for job in jobs_of(process.stdout)} == rerun
    finally:
        write_config(finished, small_config(model))


@pytest.mark.parametrize(
    ("path", "value", "rerun", "tables"),
    [
        ("defences/tau_0/tau", 0.5, {"detect_layers", "score", "table"}, {"table5"}),
        (
            "defences/wo_gmm_bsi/threshold",
            4.0,
            {"detect_layers", "score", "table", "figure"},
            {"table7", "figure4"},
        ),
        ("tables/table7/defences", ["bye"], {"table"}, {"table7"}),
    ],
)
def test_an_ablation_re_runs_alone(finished, model, path, value, rerun, tables):
    config = small_config(model)
    changed(config, path, value)
    write_config(finished, config)
    try:
        process = run(finished, "--dry-run", *TABLES, *ABLATIONS)
        jobs = jobs_of(process.stdout)
        assert {job["rule"] for job in jobs} == rerun
        assert {Path(job["output"][0]).stem for job in jobs if job["rule"] in ("table", "figure")} == tables
        assert sum(job["rule"] == "detect_layers" for job in jobs) <= 1
    finally:
        write_config(finished, small_config(model))


def test_the_ablations_are_made(finished):
    taus = (finished / "results/table5.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in taus[1:]] == ["0", "2"]
    assert (finished / "results/table7.csv").read_text().splitlines()[1].split(",")[1] == "threshold"
    for name in ("figure3.pdf", "figure4.png", "layers.png"):
        assert (finished / f"results/{name}").stat().st_size > 5000


def test_the_report_is_one_page(finished):
    process = run(finished, "--report", "results/report.html", "--", *TABLES)
    assert process.returncode == 0, process.stdout
    page = (finished / "results/report.html").read_text()
    (finished / "results/report.html").unlink()
    assert "table1.csv" in page and "ERROR" not in process.stdout


def test_light_stages_start_without_torch(finished, tmp_path):
    """The detector, scoring, figure, table and data stages load neither torch nor transformers."""
    code = (
        "import sys; from bye.cli import main; main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules), 'a heavy import'"
    )
    data, labels, cell = "results/data/scienceqa", "results/labels/scienceqa/badnet/s0.parquet", f"{CELL}/bye"
    samples = f"{data}/badnet/s0/train.json"
    prepare = f"prepare --format scienceqa --root {data}/raw --train 8 --test 2 --out {tmp_path}/p"
    poison = f"poison --samples {data}/s0/train.json --images {data}/raw --out {tmp_path}/q --labels {tmp_path}/l"
    figure = f"entropy-figure --flags {cell}/flags.parquet --labels {labels} --layers {cell}/layers.csv"
    keep = f"keep --samples {samples} --flags {tmp_path}/oracle"
    config = yaml.safe_load((finished / "config.yaml").read_text())
    settings.check(config, ROOT)
    table = f"table {Options(Files(config)).table(Wildcards(fromdict={'name': 'table2'}))} --out {tmp_path}/table2.csv"
    for line in (
        f"mini-data --dataset iconqa --train 4 --test 2 --out {tmp_path}/raw",
        prepare,
        poison,
        f"detect --attention {CELL}/vanilla/attention.parquet --flags {tmp_path}/flags",
        f"detect --kind random --samples {samples} --flags {tmp_path}/random",
        f"detect --kind oracle --samples {samples} --labels {labels} --flags {tmp_path}/oracle",
        f"{keep} --kept {tmp_path}/kept.json --dropped {tmp_path}/dropped.json",
        f"score --flags {cell}/flags.parquet --labels {labels} --out {tmp_path}/detection.json",
        f"{figure} --out {tmp_path}/figure.png",
        table,
    ):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, "-c", code, *shlex.split(line)]
        process = subprocess.run(arguments, cwd=finished, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, f"{line}\n{process.stderr}"


def test_jobs_keep_freed_memory_unless_the_user_set_the_allocator(monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])  # what job_prefix changes is put back afterwards
    for name in processes.ALLOCATOR:
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)
    chosen, *others = processes.ALLOCATOR
    monkeypatch.setenv(chosen, "4096")
    processes.job_prefix(ROOT)
    assert os.environ[chosen] == "4096"
    assert all(os.environ[name] == processes.ALLOCATOR[name] for name in others)


def wait_for(condition, process, seconds=300):
    """Wait until `condition` holds; fail if the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the moment to kill never came"
        time.sleep(0.02)


def jobs_in(folder):
    """Return the process ids of the stages at work in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if {b"bye", b"bye.server"} & set(words[:4]) and os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the jobs in /proc")
def test_killed_at_any_moment_the_same_command_ends_in_the_same_result(finished, model, tmp_path):
    folder = write_config(tmp_path, small_config(model))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    moments = [
        (folder / "results/data/scienceqa/raw", "snakemake"),
        (folder / f"{CELL}/vanilla/adapter.checkpoints/fingerprint.json", "snakemake"),
        (folder / "results/logs/attention/tiny.scienceqa.badnet.s0.log", "job"),
        (folder / "results/logs/evaluate/tiny.scienceqa.badnet.s0.vanilla.log", "snakemake"),
    ]
    for seen, victim in moments:
        process = subprocess.Popen(command(folder, *TABLES), **quiet)
        wait_for(seen.exists, process)
        if victim == "snakemake":
            process.kill()
            process.wait()
        else:
            wait_for(lambda: jobs_in(folder), process)
            for job in jobs_in(folder):
                os.kill(job, signal.SIGKILL)
            assert process.wait(timeout=300) != 0
        end = time.monotonic() + 10
        while jobs_in(folder) and time.monotonic() < end:
            time.sleep(0.02)
        assert not jobs_in(folder), "a job outlived its Snakemake"
    process = run(folder, *TABLES, *ABLATIONS, environment={forking.SERVER: ""})  # each job a process of its own
    assert process.returncode == 0, process.stdout
    assert "Nothing to be done" in run(folder, *TABLES).stdout
    expected, got = files_of(finished), files_of(folder)
    assert got.keys() == expected.keys()
    assert [path for path in expected if got[path] != expected[path]] == []
