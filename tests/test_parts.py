"""Random parts of untouched sets and the matrix: what is counted, tabulated and drawn, from temporary files."""

import json

import numpy as np
import pytest
from small_workflow import ROOT, small_config
from test_defences import write_attention
from test_tables import evaluation, result, rows_of

from bye import config as settings
from bye.cleaning.run import SampleSet, detect, detect_parts
from bye.errors import ByeError
from bye.flags import Verdict, write_flags
from bye.plan.definition import definition
from bye.plan.entries import table_files
from bye.plan.problems import check
from bye.registry import find
from bye.report.matrix import false_alarms_figure, matrix_figure
from bye.report.panels import matrix_panels, short
from bye.report.tables import table
from bye.tools.configuration import read_configuration

BELOW = """import numpy as np
from bye.flags import Verdict
ACTS_ON = "training set"
READS = ("entropy", "samples")
def detect(features, samples, *, nats: float = 1.0):
    assert [str(each["id"]) for each in samples.entries] == samples.ids == list(dict.fromkeys(features.ids))
    return Verdict.of(features.entropies.min(axis=1) < nats, "low")
"""


@pytest.fixture
def low(tmp_path):
    """A detector of one's own and what it reads: 50 samples of two answers, the second one low in every fifth."""
    (tmp_path / "below.py").write_text(BELOW)
    entropies = np.full((100, 2), 2.0)
    entropies[1::10] = 0.5
    ids = [f"q{row // 2}" for row in range(100)]
    write_attention(tmp_path / "attention.parquet", entropies, ids, answers=[row % 2 for row in range(100)])
    turns = [{"from": "human", "value": "<image>\nA?"}, {"from": "gpt", "value": "B"}]
    entries = [{"id": f"q{i}", "image": "a.png", "conversations": turns * 2} for i in range(50)]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    read = {"attention": tmp_path / "attention.parquet", "samples": SampleSet(str(tmp_path / "train.json"))}
    return str(tmp_path / "below.py"), read


def test_parts_are_drawn_of_samples_with_all_their_answers(tmp_path, low):
    kind, read = low
    rows = detect_parts(kind, tmp_path / "parts.csv", 0, {}, [20, 10, 80], 4, **read)
    assert [(row["size"], row["draw"]) for row in rows] == [(s, d) for s in (10, 20) for d in range(4)] + [(50, 0)]
    assert rows[-1]["flagged"] == 10 == detect(kind, tmp_path / "flags.parquet", 0, {}, **read)
    assert len({row["flagged"] for row in rows if row["size"] == 20}) > 1  # parts differ
    assert 0 < sum(row["flagged"] for row in rows if row["size"] == 20) < 4 * 10
    again = detect_parts(kind, tmp_path / "again.csv", 0, {}, [10, 20], 4, **read)
    other = detect_parts(kind, tmp_path / "other.csv", 1, {}, [10, 20], 4, **read)
    assert again == rows != other
    assert detect_parts(kind, tmp_path / "none.csv", 0, {"nats": 0.1}, [10], 2, **read)[0]["flagged"] == 0


def test_what_parts_cannot_be_drawn_of(tmp_path, low):
    kind, read = low
    with pytest.raises(ByeError, match="give numbers from 1 on"):
        detect_parts(kind, tmp_path / "parts.csv", 0, {}, [0], 1, **read)
    with pytest.raises(ByeError, match="oracle reads labels; give --labels"):
        detect_parts("oracle", tmp_path / "parts.csv", 0, {}, [10], 1, **read)
    assert not (tmp_path / "parts.csv").exists()


@pytest.fixture
def config(tiny_model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = small_config(tiny_model("llava"))
    config["attacks"]["some"] = {"trigger": "badnet", "rate": 0.05, "target": "Backdoor Attack!"}
    config["tables"] = {
        "false_alarms": {
            "models": ["tiny"],
            "datasets": ["scienceqa"],
            "attack": "none",
            "defences": ["bye"],
            "rows": "parts",
            "columns": ["model", "dataset", "method", "size", "parts", "harmed", "lost", "worst", "n_seeds"],
        },
        "matrix": {
            "models": ["tiny"],
            "datasets": ["scienceqa"],
            "attacks": ["none", "some", "badnet"],
            "defences": ["bye"],
            "columns": [
                *("model", "dataset", "attack", {"setting": "trigger"}, "rate", "method", "f1", "clean_lost"),
                {"name": "ASR_vanilla", "column": "ASR", "defence": "vanilla"},
            ],
            "figure": "matrix",
        },
    }
    settings.check(config, ROOT)
    return config


def test_rows_of_parts_are_over_draws_and_seeds(tmp_path, config):
    found = table_files(config, "false_alarms")["cells"]
    assert found == ["results/tiny/scienceqa/none/s0/bye/parts.csv"]
    paths = []
    for seed, flagged in ((0, (0, 4, 20)), (1, (0, 0, 0))):
        rows = zip((40, 40, 100), (0, 1, 0), flagged, strict=True)
        paths.append(result(tmp_path, "parts.csv", "", "tiny", "scienceqa", seed, "bye", "none"))
        paths[-1].write_text("size,draw,flagged\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    table(definition(config, "false_alarms"), tmp_path / "alarms.csv", paths)
    small, whole = rows_of(tmp_path / "alarms.csv")
    told = {"size": "40", "parts": "4", "harmed": "1", "lost": "2.50", "worst": "10.00", "n_seeds": "2"}
    assert small == {"model": "tiny", "dataset": "scienceqa", "method": "bye", **told}
    false_alarms_figure(tmp_path / "alarms.csv", tmp_path / "alarms.png")
    assert (tmp_path / "alarms.png").read_bytes().startswith(b"\x89PNG")
    assert (whole["size"], whole["harmed"], whole["lost"], whole["worst"]) == ("100", "1", "10.00", "20.00")


def test_parts_are_of_the_untouched_set_alone(config):
    config["tables"]["false_alarms"]["attack"] = "badnet"
    with pytest.raises(ByeError, match="rows that are parts of the untouched set; name the attack none"):
        check(config)


def test_the_untouched_set_stands_in_the_matrix(tmp_path, config):
    paths = []
    for attack, f1, lost, success in (("none", None, 0.5, 0), ("some", 0.25, 0.0, 40.0), ("badnet", 0.9, 0.02, 99.0)):
        cell = {"model": "tiny", "attack": attack}
        if attack == "none":
            path = result(tmp_path, "flags.parquet", "", **cell)
            write_flags(path, [str(i) for i in range(10)], Verdict.of(np.arange(10) < 10 * lost, "low"))
            paths.append(path)
            continue
        paths.append(result(tmp_path, "detection.json", {"f1": f1, "clean_lost": lost}, **cell))
        paths.append(evaluation(tmp_path, 90.0, success, defence="vanilla", **cell))
    table(definition(config, "matrix"), tmp_path / "matrix.csv", paths)
    untouched, some, badnet = rows_of(tmp_path / "matrix.csv")
    assert (untouched["trigger"], untouched["rate"], untouched["f1"], untouched["clean_lost"]) == (
        "none",
        "0",
        "",
        "50.00",
    )
    assert (some["trigger"], some["rate"], some["ASR_vanilla"]) == ("badnet", "5", "40.00")
    assert (badnet["f1"], badnet["clean_lost"]) == ("90.00", "2.00")
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        matrix_figure(tmp_path / "matrix.csv", tmp_path / f"matrix.{suffix}")
        assert (tmp_path / f"matrix.{suffix}").read_bytes().startswith(start)


MATRIX = "model,dataset,attack,trigger,rate,ASR_vanilla,method,f1,clean_lost"


def panels_of(path, *rows):
    path.write_text("".join(line + "\n" for line in (MATRIX, *rows)))
    return matrix_panels([(row, None) for row in rows_of(path)])


def test_squares_of_the_matrix_say_what_was_measured(tmp_path):
    columns, panels = panels_of(
        tmp_path / "matrix.csv",
        *(
            "a,s,rate_5,badnet,5,100.00,bye,25.00,1.50",
            "a,s,none,none,0,,bye,,5.00",
            "a,s,wanet,wanet,10,79.9,bye,90.00,0",
        ),
        *("a,s,rate_1,badnet,1,80.00,bye,0.00,1.00", "a,s,rate_2,badnet,2,,bye,,", "b,s,none,none,0,,bye,,"),
    )
    assert columns == [("none", "0"), ("badnet", "1"), ("badnet", "5"), ("wanet", "10")]
    squares = {column: panels["a", "s"]["bye", column] for column in columns}
    assert list(panels) == [("a", "s")]
    assert [square.kind for square in squares.values()] == ["lost", "found", "found", "unformed"]
    assert [square.share for square in squares.values()] == [0.25, 0.0, 0.25, 0.9]
    assert [square.is_marked for square in squares.values()] == [False, False, True, False]
    assert [short(number) for number in (0, 0.04, 9.94, 9.96, 100)] == ["0", "0.0", "9.9", "10", "100"]


def test_a_matrix_without_numbers_is_no_picture(tmp_path):
    panels_of(tmp_path / "matrix.csv", "a,s,none,none,0,,bye,,")
    with pytest.raises(ByeError, match=r"matrix.csv has no numbers to draw; make its cells first"):
        matrix_figure(tmp_path / "matrix.csv", tmp_path / "matrix.png")


@pytest.mark.parametrize("name", ["matrix.yaml", "easy-vqa.yaml"])
def test_the_shipped_matrix_can_be_made(name):
    over = [ROOT / "config" / file for file in dict.fromkeys(["matrix.yaml", name])]
    _, config = read_configuration(over)
    assert {"matrix", "table9", "triggers_5", "false_alarms", "targets"} <= set(config["tables"])
    assert "none" in config["tables"]["matrix"]["attacks"]


def test_a_setting_of_several_texts_has_a_list_as_its_default():
    default = find("target", "paraphrase").settings["texts"].default
    assert isinstance(default, list) and len(default) == 4
