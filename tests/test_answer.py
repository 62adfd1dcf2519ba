"""`bye answer`: a user's own model answers a user's own questions, and a guard says what it caught and where."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_models import write_tiny_model

import bye.cli
from bye.answers.ask import hidden_box
from bye.models import load_model

N = 24
GUARD = """
from bye.models.guard import Guard
from bye.models.prompt import IMAGE

ACTS_ON = "generation"

def guard(*, from_token: int = 5, layer: int = 0):
    return Hides(from_token, layer)

class Hides(Guard):
    def __init__(self, from_token, layer):
        self.from_token, self.layers = from_token, {layer}

    def see(self, layer, row, roles):
        number = (roles == IMAGE).cumsum(dim=1) - 1
        self.caught[1::2] = True
        return (roles == IMAGE) & (number >= self.from_token) & (number <= self.from_token + 1) & self.caught[:, None]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("answer")
    write_tiny_model("llava", root / "m", layers=4)
    write_tiny_model("llava_next", root / "next", layers=4)
    (root / "hides.py").write_text(GUARD)
    rng, entries = np.random.default_rng(0), []
    for number in range(N):
        Image.fromarray(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(root / f"{number}.png")
        turns = [{"from": "human", "value": f"<image>\nIs it {number}?"}, {"from": "gpt", "value": "Yes."}]
        entries.append({"id": f"s{number}", "image": f"{number}.png", "conversations": turns})
    (root / "samples.json").write_text(json.dumps(entries))
    (root / "few.json").write_text(json.dumps(entries[:4]))
    return root


def answer(root, *words, model="m", samples="samples.json"):
    """The rows that the command writes."""
    given = [
        "answer",
        "--model",
        root / model,
        "--samples",
        root / samples,
        "--images",
        root,
        "--out",
        root / "out.csv",
    ]
    bye.cli.main([*map(str, [*given, *words]), "--max-new-tokens", "3", "--threads", "1"])
    with open(root / "out.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_without_a_guard_it_answers(root, capsys):
    rows = answer(root)
    assert [row["id"] for row in rows] == [f"s{number}" for number in range(N)]
    assert list(rows[0]) == ["id", "image", "question", "answer", "caught", "hidden", "where"]
    assert rows[3]["question"] == "Is it 3?" and rows[3]["image"] == "3.png" and any(row["answer"] for row in rows)
    assert {row["caught"] + row["hidden"] + row["where"] for row in rows} == {""}
    assert capsys.readouterr().out == f"answer: 24 samples, in {root}/out.csv\n"


def test_what_a_guard_caught_and_where(root, capsys):
    rows = answer(root, "--guard", root / "hides.py", "--from-token", "6", "--batch-size", "2", samples="few.json")
    assert [row["caught"] for row in rows] == ["false", "true"] * 2 and rows[0]["where"] == ""
    # The model sees the middle square, from x = 16 on, in 4 x 4 tokens of 8 pixels: tokens 6 and 7 end its second row.
    assert [rows[1][name] for name in ("hidden", "where")] == ["2", "32 8 48 16"]
    assert "4 samples, 2 caught by" in capsys.readouterr().out


def test_cleansight_from_the_command_line(root):
    words = ["--guard", "cleansight", "--reference", root / "samples.json", "--reference-images", root]
    rows = answer(root, *words, "--percentile", "50", "--tau", "0")
    caught = [row for row in rows if row["caught"] == "true"]
    assert len(caught) == N / 2 and {(row["hidden"], row["where"]) for row in caught} == {("16", "16 0 48 32")}


def test_the_benchmark_of_a_guard_says_how_many_were_caught(root, capsys):
    words = ["bench-guard", "--model", root / "m", "--samples", root / "few.json", "--images", root, "--rounds", "2"]
    bye.cli.main([*map(str, [*words, "--guard", root / "hides.py"]), "--max-new-tokens", "2", "--threads", "1"])
    heading, line = capsys.readouterr().out.splitlines()
    assert heading == f"{root}/m: 4 answers in batches of 64, 2 pairs of runs, 2 caught"
    assert re.fullmatch(r"  [\d.]+ ms an answer without, [\d.]+ ms with the guard: [\d.]+ x the time", line), line
    with pytest.raises(SystemExit):
        bye.cli.main([*map(str, words)])
    assert "bench-guard measures a guard; give --guard" in capsys.readouterr().err


def test_of_an_image_in_parts_the_view_of_all_of_it_counts(root):
    loaded, image = load_model(root / "next"), Image.new("RGB", (64, 32))
    assert hidden_box(loaded, image, (32, 64), [0, 5, 17, 30]) == "0 0 32 16"
    assert hidden_box(loaded, image, (32, 64), [17, 30]) == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--guard", "cleansight"], "guard cleansight reads clean samples; give --reference and --reference-images"),
        (["--guard", "cleansight", "--reference", "few.json"], "give --reference and --reference-images"),
        (
            ["--guard", "cleansight", "--reference", "few.json", "--reference-images", "."],
            "few.json has 4 samples, and CleanSight needs 20 clean ones; give more",
        ),
        (["--guard", "hides.py", "--layer", "12"], "the guard looks at layer 12, and model m has 4 (from 0); give"),
        (["--guard", "spectral"], "defence spectral acts on training set, not on generation; it is no guard"),
    ],
)
def test_what_is_wrong_is_one_sentence(root, words, told, monkeypatch, capsys):
    monkeypatch.chdir(root)
    given = ["answer", "--model", "m", "--samples", "samples.json", "--images", ".", "--out", "wrong.csv"]
    with pytest.raises(SystemExit) as ended:
        bye.cli.main([*given, *words, "--threads", "1"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert told in error and error.count("bye: error") == 1 and not (root / "wrong.csv").exists()
