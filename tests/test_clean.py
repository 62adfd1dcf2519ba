"""`bye clean` on a file of one's own, by the workflow's rules."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from small_workflow import ROOT

import bye.tools.clean
from bye.data.samples import read_samples
from bye.errors import ByeError
from bye.tools import configuration, making
from bye.tools.clean import clean, summarise
from bye.tools.making import environment, find_profile, first_error


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("internvl")


def write_set(folder, n=24, suffix=".json"):
    """Write `n` samples with plain images, every one with a key of the user's own; return (file, image folder)."""
    images = folder / "my images é"
    images.mkdir(parents=True)
    entries = []
    for index in range(n):
        Image.new("RGB", (24, 24), (10 * index % 256, 80, 40)).save(images / f"{index} ü.png")
        turns = [{"from": "human", "value": f"<image>\nWhich colour is {index}?"}, {"from": "gpt", "value": "Grün."}]
        entries.append({"id": f"ä {index}", "image": f"{index} ü.png", "conversations": turns, "source": [index]})
    data = folder / f"my data{suffix}"
    if suffix == ".jsonl":
        data.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    else:
        data.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    return data, images


EVERY = """import numpy as np
from bye.flags import Verdict

READS = ("samples",)


def detect(samples, *, step: int = 2):
    return Verdict.of(np.arange(len(samples.entries)) % step == 0, "by chance")
"""


def clean_command(folder, *arguments, **variables):
    command = [sys.executable, "-m", "bye", "clean", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_file_of_ones_own_from_any_folder_with_any_name(tmp_path, model):
    write_set(tmp_path / "été 1", suffix=".jsonl")
    arguments = ["--model", model, "--data", "my data.jsonl", "--images", "my images é", "--out", "../out ß"]
    process = clean_command(tmp_path / "été 1", *arguments)
    assert process.returncode == 0, process.stdout
    out = tmp_path / "out ß"
    names = {path.name for path in out.iterdir()}
    assert names == {"kept.jsonl", "dropped.jsonl", "layers.csv", "entropy.png", "summary.txt", "work"}
    kept, dropped = (
        [json.loads(line) for line in (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("kept", "dropped")
    )
    entries = read_samples(tmp_path / "été 1" / "my data.jsonl")
    assert [entry for entry in entries if entry in kept] == kept  # as they were, in order
    for entry in dropped:
        assert entry.pop("bye")["reason"]
    assert sorted(entry["id"] for entry in kept + dropped) == sorted(entry["id"] for entry in entries)
    Image.open(out / "entropy.png").verify()
    assert (out / "summary.txt").read_text(encoding="utf-8").strip() in process.stdout

    again = clean_command(tmp_path / "été 1", *arguments)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout

    (tmp_path / "été 1" / "odd one.py").write_text(EVERY)
    own = clean_command(tmp_path / "été 1", *arguments, "--kind", "odd one.py", "--step", "4")
    assert own.returncode == 0 and "6 of 24 samples dropped (25.0%); what was kept" in own.stdout
    assert "finetune" not in own.stdout  # what was trained serves this detector too
    assert {path.name for path in out.iterdir()} == {"kept.jsonl", "dropped.jsonl", "summary.txt", "work"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "no.json"}, "no.json does not exist"),
        ({"images": "nowhere"}, "nowhere"),
        ({"model": "gpt"}, "config.yaml knows llava-mini, internvl-mini, and it is no folder"),
        ({"model": "mine", "configfile": "own.yaml"}, "there is no model 'mine': own.yaml knows other"),
        ({"model": "other", "configfile": "own.yaml"}, "config key models.other of own.yaml has no path"),
        ({"configfile": "a file"}, "a file has no section models"),
        ({"configfile": "gone.yaml"}, "gone.yaml does not exist"),
        ({"configfile": "bad.yaml"}, "bad.yaml is not valid YAML"),
        ({"out": "my images é"}, "could take the place of a file of"),
        ({"data": "done/kept.json", "out": "done"}, "could take the place of a file of"),
        ({"model": "."}, "has no config.json, so it is no model folder"),
        ({"out": "a{b}"}, "has a brace in its name"),
        ({"out": "a file"}, "a part of the path is a file"),
    ],
)
def test_bad_input_fails_before_any_training(tmp_path, model, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bye.tools.clean, "make", lambda *arguments: pytest.fail("training began"))
    data, images = write_set(tmp_path)
    (tmp_path / "a file").write_text("")
    (tmp_path / "done").mkdir()
    (tmp_path / "done/kept.json").write_bytes(data.read_bytes())
    (tmp_path / "own.yaml").write_text("models: {other: {family: llava}}")
    (tmp_path / "bad.yaml").write_text("models: {")
    options = {"model": model, "data": data, "images": images, "out": tmp_path / "out", **change}
    with pytest.raises(ByeError) as caught:
        clean(**{**options, "model": str(options["model"])})
    assert told in str(caught.value)


def test_a_model_of_ones_own_config_file(tmp_path, model, monkeypatch):
    data, images = write_set(tmp_path)
    monkeypatch.chdir(model.parent)
    finetune = {"epochs": 2, "batch_size": 4, "learning_rate": 2e-4, "lora_rank": 8, "lora_alpha": 16}
    entry = {"family": "internvl", "path": f"./{model.name}", "finetune": {**finetune, "lora_dropout": 0.0}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"models": {"ours": entry}}))
    monkeypatch.setattr(bye.tools.clean, "make", lambda *arguments: (_ for _ in ()).throw(ByeError("made")))
    with pytest.raises(ByeError, match="made"):
        clean("ours", data, images, tmp_path / "out", configfile=tmp_path / "own.yaml")
    config = yaml.safe_load((tmp_path / "out/work/config.yaml").read_text(encoding="utf-8"))
    assert config["models"] == {"ours": {**entry, "path": str(model)}}


def test_too_few_samples(tmp_path, model):
    data, images = write_set(tmp_path, n=5)
    with pytest.raises(ByeError, match="has 5 samples; the detector needs 10 or more"):
        clean(str(model), data, images, tmp_path / "out")


def test_without_the_workflow_it_says_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "__file__", str(tmp_path / "site-packages/bye/tools/configuration.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ByeError, match="install the package from its clone"):
        configuration.find_workflow()


def test_the_summary_says_what_was_found(tmp_path):
    header = "layer,bsi,sensitive\n"
    (tmp_path / "dropped.json").write_text("[]")
    (tmp_path / "layers.csv").write_text(header + "0,1.2,false\n1,0.4,false\n")
    assert "no sensitive layer found (threshold 2)" in summarise(tmp_path, 50, "out", ["layers.csv"], 2.0)
    answers = ["Boo!", "Boo!", "Boo!", "yes", *["no"] * 15, "Boo!"]
    entries = [{"id": str(i), "conversations": [{}, {"value": answer}]} for i, answer in enumerate(answers)]
    (tmp_path / "layers.csv").write_text(header + "0,1.2,false\n1,2.4,true\n")
    write_divided(tmp_path, entries, 4)
    told = summarise(tmp_path, 20, "out", ["layers.csv"], 2.0)
    assert "4 of 20 samples dropped (20.0%), by their attention in layer 1 of 2" in told
    assert "the most common answer among them is 'Boo!': 75.0% of what was dropped and 6.2% of what was kept" in told
    assert "caution" not in told
    write_divided(tmp_path, entries, 20)
    told = summarise(tmp_path, 20, "out", ["layers.csv"], 2.0)
    assert "'no': 75.0% of what was dropped and 0.0% of what was kept" in told
    assert "caution, that is more than poison ever is" in told


def write_divided(folder, entries, n_dropped):
    (folder / "dropped.json").write_text(json.dumps(entries[:n_dropped]))
    (folder / "kept.json").write_text(json.dumps(entries[n_dropped:]))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("oracle", "defence oracle reads the truth about the poison, which a file of one's own does not bring"),
        ("sentinet", "defence sentinet reads clean samples"),
        ("zip", "defence zip acts on test images, and cleans no training file"),
        ("mine.py", "there is no file mine.py"),
    ],
)
def test_a_detector_that_needs_more_than_the_file_is_refused(tmp_path, model, kind, told):
    data, images = write_set(tmp_path)
    with pytest.raises(ByeError, match=told):
        clean(str(model), data, images, tmp_path / "out", kind=kind)
    assert not (tmp_path / "out").exists()


# ---- Snakemake, as the user has it set up ---------------------------------------------------------------------------


def hostile(folder):
    """Variables of a user whose own Snakemake submits dry runs to a cluster, and whose home cannot be written."""
    for name in ("config", "site"):
        (folder / name / "snakemake" / "mine").mkdir(parents=True)
        text = "executor: a-cluster\ndry-run: true\nkeep-going: true\nforceall: true\nuntil: prepare\n"
        (folder / name / "snakemake" / "mine" / "config.yaml").write_text(text)
    return {
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_CONFIG_DIRS": str(folder / "site"),
        "SNAKEMAKE_PROFILE": "mine",
        "SNAKEMAKE_OUTPUT_CACHE": str(folder / "nowhere"),
        "HOME": "/sys/home",  # not even root may make folders there
        "XDG_CACHE_HOME": "/sys/cache",
    }


def test_the_users_own_snakemake_changes_nothing(tmp_path, model):
    write_set(tmp_path)
    (tmp_path / "every.py").write_text(EVERY)
    arguments = ["--model", model, "--data", "my data.json", "--images", "my images é", "--kind", "every.py", "--out"]
    plain = clean_command(tmp_path, *arguments, "plain")
    assert plain.returncode == 0, plain.stdout
    process = clean_command(tmp_path, *arguments, "hostile", **hostile(tmp_path))
    assert process.returncode == 0, process.stdout
    assert process.stdout.splitlines()[-1].replace("hostile", "plain") in plain.stdout
    for name in ("kept.json", "dropped.json"):
        assert (tmp_path / "hostile" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()

    asked = clean_command(tmp_path, *arguments, "asked", "--profile", tmp_path / "config/snakemake/mine")
    assert asked.returncode == 2 and "invalid choice: 'a-cluster'" in asked.stdout
    (tmp_path / "dry").mkdir()
    (tmp_path / "dry/profile.yaml").write_text("dry-run: true\ncores: 1\n")
    dry = clean_command(tmp_path, *arguments, "asked", "--profile", "dry")
    assert dry.returncode == 2
    assert re.search("the run ended without .*kept.json; see what --profile .*dry asks Snakemake for", dry.stdout)


def test_what_snakemake_gets_of_the_environment(tmp_path, monkeypatch):
    for name, value in hostile(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HOME", raising=False)
    given = environment(tmp_path / "work")
    assert not [name for name in given if name.startswith("SNAKEMAKE_")]
    assert given["XDG_CACHE_HOME"] == str(tmp_path / "work/cache") and "HF_HOME" not in given
    given = environment(tmp_path / "work", with_profile=True)
    assert [name for name in given if name.startswith("SNAKEMAKE_")] == ["SNAKEMAKE_OUTPUT_CACHE"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert environment(tmp_path / "work")["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    (tmp_path / "cache/huggingface").mkdir()
    monkeypatch.setattr(making, "_can_write", lambda folder: False)
    assert environment(tmp_path / "work")["HF_HOME"] == str(tmp_path / "cache/huggingface")


def test_profiles_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.v8+.yaml").write_text("cores: 1")
    assert find_profile(ROOT, "slurm") == ROOT / "profiles/slurm"
    assert find_profile(ROOT, "mine") == tmp_path / "mine"
    for name in ("empty", "gone", "none", ""):
        with pytest.raises(ByeError, match=f"there is no profile '{name}': give a folder .* default, gpu, slurm"):
            find_profile(ROOT, name)


# ---- what a job said when it failed ----------------------------------------------------------------------------------


def write_log(logs, name, text, time):
    path = logs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(time, time))
    return path


def test_the_message_is_whole_and_of_the_job_that_failed_first(tmp_path):
    old = write_log(tmp_path, "prepare/old.log", "bye: error: of an earlier run\n", 5)
    before = {old: 5}
    assert first_error(tmp_path, before) is None and first_error(tmp_path / "nowhere", {}) is None
    write_log(tmp_path, "a/late.log", "bye: error: later\n", 30)
    write_log(tmp_path, "c/fine.log", "step 1\n", 10)
    text = "step 1\nbye: error: 2 of 9 samples are bad; mend or drop them:\n  one\n  two\nstep 2\n  no part of it\n"
    write_log(tmp_path, "z/first.log", text, 20)
    assert first_error(tmp_path, before) == "2 of 9 samples are bad; mend or drop them:\n  one\n  two"
    write_log(tmp_path, "b/as early.log", "bye: error: by its name\n", 20)
    assert first_error(tmp_path, before) == "by its name"


def test_a_list_of_bad_samples_reaches_the_screen(tmp_path, model):
    data, images = write_set(tmp_path)
    for index in (3, 7):
        path = images / f"{index} ü.png"
        path.write_bytes(path.read_bytes()[:-30])  # which only decoding finds
    process = clean_command(tmp_path, "--model", model, "--data", data, "--images", images, "--out", "out")
    assert process.returncode == 2
    told = process.stdout[process.stdout.rindex("bye: error: ") :].splitlines()
    assert told[0].endswith("my data.json: 2 of 24 samples are bad; mend or drop them:")
    assert ["3 ü.png is damaged" in told[1], "7 ü.png is damaged" in told[2], len(told)] == [True, True, 3]
