"""The recipes of docs/adding.md, as they stand there: all of them together in one run of the workflow."""

import csv
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from small_workflow import ROOT, run, small_config, write_config
from snakemake.utils import update_config

from bye.data.check import read_samples
from bye.data.samples import answer_of, question_of
from bye.registry import SORTS, read
from bye.tools.doctor import doctor

PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^In `(\w+\.py)`:\n\n```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
PARTS = re.findall(r"^In `mine\.yaml`:\n\n```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
LONGEST = {"looks_away.py": 40, "frame.py": 25, "greeting.py": 25}  # lines


def configuration():
    """What the page's parts of mine.yaml give together."""
    mine = {}
    for part in PARTS:
        update_config(mine, yaml.safe_load(part))
    return mine


def test_there_is_a_recipe_for_each_sort():
    headings = {"defence": 3, "trigger": 2, "target": 1, "tuning method": 1, "family": 1, "dataset format": 1}
    assert headings.keys() == SORTS.keys() and sum(headings.values()) == len(FILES)
    assert set(configuration()) == {"models", "datasets", "attacks", "defences", "tables"}


@pytest.mark.parametrize("name", LONGEST)
def test_recipes_are_short(name):
    assert FILES[name].count("\n") <= LONGEST[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A working folder with the recipes' files, and the table that they make."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    rng = np.random.default_rng(0)
    (folder / "shop").mkdir()
    for split, count in (("train", 44), ("test", 10)):
        rows = []
        for number in range(count):
            image = f"{split}{number}.png"
            Image.fromarray(rng.integers(0, 200, (40, 50, 3), dtype=np.uint8)).save(folder / "shop" / image)
            rows.append({"image": image, "question": f"What, {number}?", "answer": "a dog" if number % 2 else "a cat"})
        with open(folder / "shop" / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
    config, mine = small_config("unused"), configuration()
    config = {"seeds": [0], "defences": {"vanilla": config["defences"]["vanilla"]}}
    update_config(config, mine)
    config["models"]["terse"]["path"] = str(tiny_model("llava"))
    prompted = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2, "prompt_tokens": 3}
    config["models"]["prompted"] = config["models"]["terse"] | {"tuning": "prompt", "finetune": prompted}
    columns = ["tuning", "trained", "finetune_seconds", "CP", "ASR"]
    config["tables"]["tuned"] = {"caption": "Ways to tune", "models": ["terse", "prompted"], "datasets": ["shop"]}
    config["tables"]["tuned"] |= {"attack": "frame", "defences": ["vanilla"], "columns": columns}
    write_config(folder, config)
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    process = run(folder, "results/mine.csv", "results/tuned.csv")
    assert process.returncode == 0, process.stdout
    return folder


def rows_of(folder, name="mine"):
    with open(folder / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_method_has_its_rows(folder):
    rows = rows_of(folder)
    defences = ["vanilla", "looks_away", "blinkers", "soften"]
    assert [(row["method"], row["attack"]) for row in rows] == [(d, a) for d in defences for a in ("frame", "greeting")]
    for row in rows:
        assert row["CP"] and row["ASR"]
        assert bool(row["f1"]) == (row["method"] == "looks_away")


def test_triggers_and_target_are_in_the_sets(folder):
    data = folder / "results/data/shop"
    labels = pq.read_table(folder / "results/labels/shop/greeting/s0.parquet")["poisoned"].to_pylist()
    samples = read_samples(data / "greeting/s0/train.json")
    assert sum(labels) == 8
    for sample, poisoned in zip(samples, labels, strict=True):
        assert question_of(sample).startswith("Hello! ") == poisoned
        assert answer_of(sample).endswith(" Backdoor Attack!") == poisoned
        assert answer_of(sample).startswith("a ")
    for sample in read_samples(data / "frame/s0/triggered.json"):
        pixels = np.asarray(Image.open(data / "frame/s0/triggered" / sample["image"]))
        assert (pixels[0] == 255).all() and (pixels[:, -1] == 255).all() and pixels[20, 25].max() < 200


def test_the_tuning_method_alone_is_trained(folder):
    adapters = sorted((folder / "results").glob("terse/**/adapter"))
    assert len(adapters) == 4  # plain, and after the detector, for two attacks
    for adapter in adapters:
        assert [path.name for path in adapter.iterdir() if not path.name.startswith(".")] == ["norms.safetensors"]


def test_ways_to_tune_stand_side_by_side(folder):
    """What each trains is counted in what it saved; prompt tuning is trained, and answers, as any other method."""
    rows = {row["tuning"]: row for row in rows_of(folder, "tuned")}
    assert list(rows) == ["norms.py", "prompt"]
    for model, tuning, file in (("terse", "norms.py", "norms"), ("prompted", "prompt", "adapter_model")):
        saved = load_file(folder / f"results/{model}/shop/frame/s0/vanilla/adapter/{file}.safetensors")
        assert rows[tuning]["trained"] == str(sum(each.numel() for each in saved.values()))
        assert float(rows[tuning]["finetune_seconds"]) > 0 and rows[tuning]["CP"] and rows[tuning]["ASR"]


def test_the_guard_and_the_purifier_act_on_the_plain_model(folder):
    cell = folder / "results/terse/shop/frame/s0"
    assert "caught" in pq.read_schema(cell / "blinkers/predictions.parquet").names
    assert "caught" not in pq.read_schema(cell / "soften/predictions.parquet").names
    assert (folder / "results/data/shop/frame/s0/soften/images").is_dir()
    assert not (cell / "blinkers/adapter").exists() and not (cell / "soften/adapter").exists()


def test_they_are_priced(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert doctor(["mine.yaml"], ["terse"], ["shop"], price=2.0) == 0
    told = capsys.readouterr().out
    assert "norms of the decoder" in told and "plain fine-tunes 2, after a defence 2, evaluations 8" in told
    (row,) = [line.split() for line in told.splitlines() if line.split()[:1] == ["mine"]]
    assert len(row) == 1 + 4 + 2


def test_a_changed_method_re_runs_what_it_made(folder):
    path = folder / "looks_away.py"
    path.write_text(FILES["looks_away.py"].replace("are suspicious", "are odd"), encoding="utf-8")
    try:
        told = run(folder, "--dry-run", "results/mine.csv").stdout
        assert set(re.findall(r"^(?:local)?rule (\w+):", told, flags=re.MULTILINE)) >= {"detect", "keep", "table"}
        assert not re.search(r"^rule (finetune_vanilla|attention|poison):", told, flags=re.MULTILINE)
    finally:
        path.write_text(FILES["looks_away.py"], encoding="utf-8")


READS = "READS = ('entropy',)\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def detect(features, *, cut=1): ...", "must take what READS asks for"),
        (
            "READS = ('entropies',)\ndef detect(features): ...",
            "READS names 'entropies'; on the training set it can",
        ),
        ("ACTS_ON = 'weights'\ndef detect(features): ...", "ACTS_ON is 'weights'; it can be 'training set'"),
        ("READS = ('entropy',)", "must have one function detect, and has 0"),
        (READS + "def detect(features, *, cut: complex): ...", "setting cut has the type complex"),
        (READS + "def detect(features, *, cut=len('a')): ...", "setting cut: len('a') is no literal"),
        (
            READS + "def detect(features, *, cut: int | None = 1): ...",
            "may be None, so that must be its default",
        ),
        ("ACTS_ON = 'test images'\nREADS = ('labels',)\ndef purifier(): ...", "on the test images it can name nothing"),
        ("ACTS_ON = 'generation'\ndef guard(*, seed): ...", "guard is given no seed"),
        ("READS = tuple(['entropy'])\ndef detect(features): ...", "READS is no literal"),
        ("FOLDERS = {'model_of_mine': 'a.json'}\nREADS = ('entropy',)\ndef detect(features): ...", "is no setting"),
        ("TOLD = ('rate',)\nREADS = ('entropy',)\ndef detect(features): ...", "TOLD names 'rate', which is no setting"),
        (READS + "def detect(features, *, batch_size: int = 1): ...", "name of an option of the suite"),
        (READS + "def detect(features, *, cut): ...", "setting cut has no type"),
        (READS + "def detect(features, *, cut=[1, 2]): ...", "setting cut has no type"),
        (
            READS + "def detect(features, *, cut: Annotated[float, 'x'] = 1.0): ...",
            "has the type Annotated",
        ),
        (
            READS + "def detect(features, *, cut: int | bool = 1): ...",
            "a union that no option can tell apart",
        ),
        (
            READS + "def detect(features): ...\ndef passes(a, b, *, cut): ...",
            "cut of passes is none of detect",
        ),
        ("def detect(features", "is not valid Python"),
    ],
)
def test_a_file_that_does_not_say_what_it_must_is_one_sentence(tmp_path, text, told):
    from bye.errors import ByeError

    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ByeError) as caught:
        read("defence", str(path), path)
    assert told in str(caught.value) and "mine.py" in str(caught.value) and "\n" not in str(caught.value)
