"""`bye clean` on a file of one's own, by the workflow's rules."""

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape

import pytest
import yaml
from PIL import Image
from small_workflow import ROOT

import bye.tools.clean
from bye.data.check import check_entries
from bye.data.entries import EntryFile
from bye.data.samples import read_written
from bye.errors import ByeError
from bye.files import read_csv
from bye.tools import configuration, making
from bye.tools.clean import clean
from bye.tools.making import environment, find_profile, first_error
from bye.tools.outcome import Outcome, summarise, write_outcome


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
    files = {"kept.jsonl", "dropped.jsonl", "unjudged.json", "entries.csv", "samples.png", "summary.txt", "work"}
    files.add("report.html")
    assert names == files | {"groups.csv", "trials.csv", "layers.csv", "entropy.png"}
    lines = (tmp_path / "été 1" / "my data.jsonl").read_bytes().splitlines()
    rows = read_csv(out / "entries.csv")
    for name in ("kept", "dropped"):  # as they were, in order
        places = [int(row["entry"]) - 1 for row in rows if row["then"] == name]
        assert (out / f"{name}.jsonl").read_bytes().splitlines() == [lines[place] for place in places]
    assert all(row["reason"] for row in rows if row["then"] == "dropped") and len(rows) == 24
    assert json.loads((out / "unjudged.json").read_text()) == []
    Image.open(out / "entropy.png").verify()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Which colour is" in page and "--data 'my data.jsonl'" in unescape(page)
    assert (out / "summary.txt").read_text(encoding="utf-8").strip() in process.stdout

    again = clean_command(tmp_path / "été 1", *arguments)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout

    (tmp_path / "été 1" / "odd one.py").write_text(EVERY)
    own = clean_command(tmp_path / "été 1", *arguments, "--kind", "odd one.py", "--step", "4")
    assert own.returncode == 0 and "bye clean: 6 of 24 dropped (25.0%)\n" in own.stdout
    assert "finetune" not in own.stdout  # what was trained serves this detector too
    assert {path.name for path in out.iterdir()} == files
    assert "--kind 'odd one.py' --seed 0 --step 4</pre>" in unescape((out / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "no.json"}, "no.json does not exist"),
        (
            {"data": "no.json", "model": "gpt"},
            "2 problems:\n  no.json does not exist; check the path\n  there is no model",
        ),
        ({"images": "nowhere"}, "nowhere"),
        (
            {"model": "gpt"},
            "config.yaml knows llava-mini, internvl-mini, scout, scout-upper-layers, and it is no folder",
        ),
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


def test_the_scout_is_known_and_its_folder_used_where_it_is_made(tmp_path, monkeypatch):
    entry = yaml.safe_load((ROOT / "config/scout.yaml").read_text())["models"]["scout"]
    assert bye.tools.clean._model(ROOT, None, "scout") == ("scout", entry)  # the workflow's rule makes it
    with pytest.raises(ByeError, match="there is no model 'scout'"):
        bye.tools.clean._model(ROOT, ROOT / "config.yaml", "scout")
    for name in ("config.yaml", "config/scout.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "results/base_models/scout").mkdir(parents=True)
    _, found = bye.tools.clean._model(tmp_path, None, "scout")
    assert found == entry | {"path": str(tmp_path / "results/base_models/scout")}


def test_too_few_samples(tmp_path, model):
    data, images = write_set(tmp_path, n=5)
    with pytest.raises(ByeError, match="has 5 samples; the detector needs 10 or more"):
        clean(str(model), data, images, tmp_path / "out")
    entries = json.loads(data.read_text())
    data.write_text(json.dumps([*entries, {"id": "t", "conversations": entries[0]["conversations"]}]))
    with pytest.raises(ByeError, match="has 5 samples that can be judged, beside 1 without an image; the detector"):
        clean(str(model), data, images, tmp_path / "out")


def test_without_the_workflow_it_says_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "__file__", str(tmp_path / "site-packages/bye/tools/configuration.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ByeError, match="install it from its clone"):
        configuration.find_workflow()


# ---- a file as people have them --------------------------------------------------------------------------------------


def talk(*texts, mark="<image>\n"):
    names = ("human", "gpt") * len(texts)
    return [{"from": name, "value": text} for name, text in zip(names, (mark + texts[0], *texts[1:]), strict=False)]


def write_mix(folder):
    """Write a mixed set: ids that repeat, several turns, text only, long texts, missing and damaged images."""
    data, images = write_set(folder)
    entries = json.loads(data.read_text(encoding="utf-8"))
    entries[1]["id"] = entries[0]["id"]
    entries[2]["conversations"] = talk("Which?", "This.", "And?", "That.")
    early = {"from": "gpt", "value": "Hi!"}
    entries[3] = {"id": 1.5, "conversations": [early, *talk("Name a colour.", "Red.", mark="")]}
    entries[4]["conversations"] = talk("word " * 600, "Long.")
    entries[5]["image"] = "gone.png"
    entries[6]["image"] = [entries[6]["image"]]
    entries[7]["conversations"] = [early, *talk("Which?", "This.")]
    entries[8]["conversations"] = [{"from": "system", "value": "Be brief."}, *talk("Which?", "This.")]
    damaged = images / entries[9]["image"]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    data.write_text(json.dumps({"version": 1, "data": entries}, indent=1, ensure_ascii=False), encoding="utf-8")
    return data, images, entries


def test_a_mixed_file_passes_in_one_run_and_all_of_it_is_accounted_for(tmp_path, model):
    data, images, entries = write_mix(tmp_path)
    arguments = ["--model", model, "--data", data, "--images", images, "--out", "out"]
    process = clean_command(tmp_path, *arguments)
    assert process.returncode == 2 and "finetune" not in process.stdout
    told = process.stdout[process.stdout.rindex("bye: error: ") :].splitlines()
    assert "2 of 24 samples cannot be used; mend them, or say by --unjudged keep or --unjudged drop" in told[0]
    assert told[1:5:2] == [
        "  1 whose image is not there; check the image folder:",
        "  1 whose image cannot be read; copy it again:",
    ]
    assert "sample 'ä 5' (entry 6): image" in told[2] and "gone.png does not exist" in told[2]
    assert "sample 'ä 9' (entry 10): image" in told[4] and "is damaged" in told[4] and len(told) == 5
    listed = [
        (each["entry"], each["kind"], each["then"]) for each in json.loads((tmp_path / "out/unjudged.json").read_text())
    ]
    assert listed == [
        (4, "no image", "keep"),
        (5, "too long", "keep"),
        (6, "missing image", "stop"),
        (10, "unreadable image", "stop"),
    ]

    (tmp_path / "every.py").write_text(EVERY)
    process = clean_command(tmp_path, *arguments, "--unjudged", "drop", "--kind", "every.py", "--step", "5")
    assert process.returncode == 0, process.stdout
    summary = (tmp_path / "out/summary.txt").read_text(encoding="utf-8").splitlines()
    assert summary == [
        f"bye clean: 20 of 24 samples in {data} were looked at, with 21 answers",
        "bye clean: 4 of 20 dropped (20.0%)",
        summary[2],
        "bye clean: 4 were NOT looked at, and may hold anything: 1 without an image (dropped), 1 longer than the model "
        "takes (dropped), 1 whose image is not there (dropped), 1 whose image cannot be read (dropped); unjudged.json "
        "lists them",
        "bye clean: an answer before the first question was left out in 1 sample",
        f"bye clean: 16 kept and 8 dropped are in {tmp_path / 'out'}; entries.csv says of each why",
    ]
    assert "the most common answer they were dropped for is 'Grün.'" in summary[2]
    kept, dropped = (json.loads((tmp_path / f"out/{name}.json").read_text())["data"] for name in ("kept", "dropped"))
    assert [entry for entry in entries if entry in kept] == kept and [e for e in entries if e not in kept] == dropped
    rows = read_csv(tmp_path / "out/entries.csv")
    assert [row["entry"] for row in rows] == [str(number) for number in range(1, 25)]
    assert [row["judged"] for row in rows].count("false") == 4 and rows[3]["reason"] == "no image: it has no image"
    assert [row["then"] for row in rows].count("dropped") == 8 and rows[0]["id"] == rows[1]["id"] == "ä 0"


def test_links_that_lead_out_are_followed_where_it_is_said(tmp_path, model, monkeypatch):
    data, images = write_set(tmp_path)
    images.rename(tmp_path / "elsewhere")
    images.mkdir()
    (images / "coco").symlink_to(tmp_path / "elsewhere")
    entries = json.loads(data.read_text(encoding="utf-8"))
    data.write_text(json.dumps([{**entry, "image": f"coco/{entry['image']}"} for entry in entries]))
    monkeypatch.setattr(bye.tools.clean, "make", lambda *arguments: (_ for _ in ()).throw(ByeError("made")))
    with pytest.raises(
        ByeError, match=r"24 whose image lies outside(.|\n)*by a symbolic link(.|\n)*14 more(.|\n)*all of them"
    ):
        clean(str(model), data, images, tmp_path / "out")
    assert len(json.loads((tmp_path / "out/unjudged.json").read_text())) == 24
    with pytest.raises(ByeError, match="made"):
        clean(str(model), data, images, tmp_path / "out", follow_links=True)
    config = yaml.safe_load((tmp_path / "out/work/config.yaml").read_text(encoding="utf-8"))
    assert config["datasets"]["mine"]["images"] == str(tmp_path)
    samples = read_written(tmp_path / "out/work/samples.json")
    assert samples[7]["image"] == "elsewhere/7 ü.png"


# ---- what is given back ----------------------------------------------------------------------------------------------


def outcome_of(folder, answers, flagged, suspects=None, extra=(), policy=None):
    """The Outcome for samples of these answers, a list of texts each, and further entries."""
    talks = [talk(*(part for text in texts for part in ("Q?", text))) for texts in answers]
    entries = [
        {"id": f"s{number}", "image": f"{number}.png", "conversations": said} for number, said in enumerate(talks)
    ]
    (folder / "mine.json").write_text(json.dumps([*entries, *extra]))
    file = EntryFile(folder / "mine.json")
    n = len(answers)
    flags = {"flagged": flagged, "answer": suspects or [0] * n, "score": [0.5] * n, "p_low": [None] * n}
    return Outcome(file, check_entries(file), policy, flags | {"reason": ["why" if drop else "" for drop in flagged]})


def layers_csv(folder, *sensitive):
    rows = "".join(f"{layer},1.2,{str(is_so).lower()}\n" for layer, is_so in enumerate(sensitive))
    (folder / "layers.csv").write_text(f"layer,bsi,sensitive\n{rows}")
    return folder / "layers.csv"


def test_the_summary_says_what_was_found(tmp_path):
    answers = [["Boo!"], ["Boo!"], ["Boo!"], ["yes"], *[["no"]] * 15, ["Boo!"]]
    nobody = outcome_of(tmp_path, answers, [False] * 20)
    told = summarise(nobody, "out", layers_csv(tmp_path, False, False), 2.0)
    assert "no sensitive layer found (threshold 2), so nothing was dropped" in told and "answer" not in told
    told = summarise(outcome_of(tmp_path, answers, [True] * 4 + [False] * 16), "out", layers_csv(tmp_path, False, True))
    assert "bye clean: 4 of 20 dropped (20.0%), by their attention in layer 1 of 2\n" in told
    assert "is 'Boo!': 75.0% of what was dropped, and 6.2% of the answers that were kept" in told
    assert "caution" not in told and "NOT looked at" not in told and "stands out" not in told
    told = summarise(outcome_of(tmp_path, answers, [True] * 20), "out")
    assert "'no': 75.0% of what was dropped, and 0.0% of the answers that were kept" in told
    assert "caution, that is more than poison ever is" in told
    mixed = outcome_of(tmp_path, answers, [*[False] * 2, *[True] * 4, *[False] * 14])
    assert "50.0% of what was dropped, and 81.2% of the answers that were kept. That is no answer that" in summarise(
        mixed, "out"
    )


def test_the_target_in_a_later_answer_is_named(tmp_path):
    answers = [["yes", "Boo!"]] * 3 + [["yes", "no", "maybe"]] * 17
    outcome = outcome_of(tmp_path, answers, [True] * 3 + [False] * 17, suspects=[1] * 3 + [2] * 17)
    told = summarise(outcome, "out")
    assert "20 of 20 samples in" in told and "were looked at, with 57 answers" in told
    assert "is 'Boo!': 100.0% of what was dropped, and 0.0% of the answers that were kept" in told
    assert outcome.suspects()[0] == (2, "Q?", "Boo!") and outcome.suspects()[-1] == (3, "Q?", "maybe")


@pytest.mark.parametrize(("policy", "kept"), [(None, [1, 3, 4]), ("keep", [1, 3, 4]), ("drop", [1])])
def test_what_was_not_judged_goes_where_it_is_said(tmp_path, policy, kept):
    extra = [
        {"id": "t", "conversations": talk("Q?", "A.")},
        {"id": "v", "image": ["a", "b"], "conversations": talk("Q?", "A.")},
    ]
    outcome = outcome_of(tmp_path, [["a"], ["b"], ["c"]], [True, False, True], extra=extra, policy=policy)
    write_outcome(outcome, tmp_path, "kept.json", "dropped.json")
    parts = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("kept", "dropped")]
    entries = json.loads((tmp_path / "mine.json").read_text())
    assert parts == [[entries[place] for place in kept], [entries[place] for place in range(5) if place not in kept]]
    then = {row["id"]: row["then"] for row in read_csv(tmp_path / "entries.csv")}
    assert then == {entry["id"]: "kept" if place in kept else "dropped" for place, entry in enumerate(entries)}
    told = summarise(outcome, "out")
    where = "dropped" if policy == "drop" else "kept"
    assert (
        f"2 were NOT looked at, and may hold anything: 1 without an image ({where}), 1 with several images ({where})"
        in told
    )


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
