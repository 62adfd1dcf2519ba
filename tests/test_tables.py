"""Tables from result files, the paper's numbers beside ours."""

import csv
import json

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import yaml
from detectors import detect
from small_workflow import ROOT, shipped_entry

from bye.errors import ByeError
from bye.flags import Verdict, write_flags
from bye.plan.definition import definition
from bye.report.figures import poison_rate_figure
from bye.report.reference import paper_number
from bye.report.tables import cells_of, table

PAPER = {"llava-mini": "llava-1.5-7b", "internvl-mini": "internvl2.5-8b"}
MODELS = {**{key: {"paper": paper} for key, paper in PAPER.items()}, "mine": {"paper": None}}


def result(root, name, content, model="llava-mini", dataset="scienceqa", seed=0, defence="bye", attack="badnet"):
    path = root / model / dataset / attack / f"s{seed}" / defence / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def evaluation(root, clean, success, **cell):
    content = {"metric": "accuracy", "CP": clean, "ASR": success, "n_clean": 300, "n_triggered": 300}
    return result(root, "eval.json", content, **cell)


def detection(root, precision, recall, f1, auroc, n_flagged, layers, **cell):
    content = {"precision": precision, "recall": recall, "f1": f1, "auroc": auroc, "average_precision": auroc}
    content |= {"n_flagged": n_flagged, "n_poisoned": 100, "n_samples": 1000, "sensitive_layers": layers}
    return result(root, "detection.json", content, **cell)


def make(out, name, paths, labels=(), reference=(), seeds=(0,), config=None, **cells):
    """Make a table of the shipped configuration on other cells (by default llava-mini on scienceqa)."""
    everything = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    everything |= {"seeds": list(seeds), **(config or {})}
    one = {"models": ["llava-mini"], "datasets": ["scienceqa"]}
    everything["tables"] = {name: shipped_entry(name, **one | cells)}
    for attack in everything["attacks"].values():
        attack.setdefault("share", 1 / 16)
    for defence in everything["defences"].values():
        defence.setdefault("clustering", "gmm")
    table(definition(everything, name), out, paths, labels, reference)
    return rows_of(out)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- the paper's numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "number"),  # read off the paper
    [
        ((1, "llava-1.5-7b", "scienceqa", "vanilla", "CP"), 91.72),
        ((1, "llava-1.5-7b", "flickr30k", "random_drop", "ASR"), 81.50),
        ((1, "internvl2.5-8b", "rsvqa", "bye", "ASR"), 7.18),
        ((1, "internvl2.5-8b", "iconqa", "zip", "CP"), 86.89),
        ((2, "llava-1.5-7b", "flickr30k", "bye", "R"), 80.30),
        ((2, "internvl2.5-8b", "rsvqa", "bye", "F1"), 99.45),
        ((7, "llava-1.5-7b", "rsvqa", "threshold", "F1"), 28.99),
        ((1, "llava-1.5-7b", "scienceqa", "oracle", "CP"), None),
        ((1, None, "scienceqa", "bye", "CP"), None),
        ((2, "llava-1.5-7b", "scienceqa", "bye", "CP"), None),
    ],
)
def test_paper_numbers(cell, number):
    assert paper_number(*cell) == number


def test_paper_numbers_of_settings():
    assert paper_number(5, "llava-1.5-7b", "scienceqa", "bye", "F1", "tau_bsi=2.0") == 96.71
    assert paper_number(3, "llava-1.5-7b", "scienceqa", "bye", "P", "varied_multi") == 78.81


@pytest.mark.parametrize("model", PAPER.values())
@pytest.mark.parametrize("dataset", ["scienceqa", "iconqa", "flickr30k", "rsvqa"])
def test_paper_f1_is_the_harmonic_mean(model, dataset):
    precision, recall, f1 = (paper_number(2, model, dataset, "bye", metric) for metric in ("P", "R", "F1"))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=0.02)


# ---- table 1 -------------------------------------------------------------------------------------------------------


def test_table1(tmp_path):
    cells = {
        "models": ["llava-mini", "mine"],
        "datasets": ["scienceqa", "flickr30k"],
        "defences": ["vanilla", "bye", "oracle"],
    }
    paths = [
        evaluation(tmp_path, 90.125, 97, dataset=dataset, defence=defence, model=model)
        for dataset in cells["datasets"]
        for model in cells["models"]
        for defence in cells["defences"]
    ]
    rows = make(tmp_path / "table1.csv", "table1", paths, config={"models": MODELS}, **cells)
    assert list(rows[0]) == ["model", "method", "dataset", "CP", "ASR", "paper_CP", "paper_ASR", "note"]
    assert [(row["model"], row["method"], row["dataset"]) for row in rows[:4]] == [
        ("llava-mini", "vanilla", "scienceqa"),
        ("llava-mini", "vanilla", "flickr30k"),
        ("llava-mini", "bye", "scienceqa"),
        ("llava-mini", "bye", "flickr30k"),
    ]
    assert (rows[0]["CP"], rows[0]["ASR"]) == ("90.12", "97.00")
    assert (rows[0]["paper_CP"], rows[0]["paper_ASR"]) == ("91.72", "97.32")
    assert all((row["note"] != "") == (row["method"] == "oracle") for row in rows)
    assert all(row["paper_CP"] == "" for row in rows if row["model"] == "mine" or row["method"] == "oracle")


def test_table1_without_triggered_test_set(tmp_path):
    [row] = make(tmp_path / "t.csv", "table1", [evaluation(tmp_path, 80.0, None)], defences=["bye"])
    assert (row["CP"], row["ASR"]) == ("80.00", "")


def test_table1_over_seeds(tmp_path):
    paths = [evaluation(tmp_path, 80 + 2 * seed, 90 + seed, seed=seed) for seed in (2, 0, 1)]
    [row] = make(tmp_path / "table1.csv", "table1", paths, seeds=(0, 1, 2), defences=["bye"])
    assert (row["CP"], row["CP_std"]) == ("82.00", "2.00")  # 80, 82, 84: sample standard deviation 2
    assert (row["ASR"], row["ASR_std"], row["n_seeds"]) == ("91.00", "1.00", "3")
    assert list(row)[-4:] == ["CP_std", "ASR_std", "n_seeds", "note"]


def test_twins_hold_the_same_cells(tmp_path):
    paths = [evaluation(tmp_path, 80.0, 5.0, defence="random_drop")]
    [row] = make(tmp_path / "table1.csv", "table1", paths, defences=["random_drop"])
    markdown = (tmp_path / "table1.md").read_text().splitlines()
    assert [cell.strip() for cell in markdown[0].strip("|").split("|")] == list(row)
    assert [cell.strip() for cell in markdown[2].strip("|").split("|")] == list(row.values())
    latex = (tmp_path / "table1.tex").read_text()
    assert r"\toprule" in latex and r"\caption{Clean performance and attack success.}" in latex
    body = latex.split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    cells = [cell.strip().replace(r"\_", "_") for cell in body.removesuffix(r"\\").split("&")]
    assert cells == list(row.values())


def test_best_and_second_best_are_marked_among_what_competes(tmp_path):
    numbers = {"vanilla": (90, 97), "random_drop": (89, 95), "bye": (90, 0), "oracle": (99, 0)}
    paths = [evaluation(tmp_path, *pair, defence=defence) for defence, pair in numbers.items()]
    paths += [evaluation(tmp_path, 10, 50, dataset="iconqa"), evaluation(tmp_path, 5, None, dataset="rsvqa")]
    make(tmp_path / "table1.csv", "table1", paths, datasets=["scienceqa", "iconqa", "rsvqa"], defences=list(numbers))
    lines = (tmp_path / "table1.md").read_text().splitlines()[2:]
    marked = {(row[1], row[2]): row[3:5] for row in ([cell.strip() for cell in line.split("|")[1:]] for line in lines)}
    assert marked["vanilla", "scienceqa"] == ["**90.00**", "97.00"]  # CP up, ASR down; equals share the rank
    assert marked["random_drop", "scienceqa"] == ["89.00", "<u>95.00</u>"]
    assert marked["bye", "scienceqa"] == ["**90.00**", "**0.00**"]
    assert marked["oracle", "scienceqa"] == ["99.00", "0.00"]
    assert marked["bye", "iconqa"] == ["10.00", "50.00"] and marked["bye", "rsvqa"] == ["5.00", ""]  # alone
    latex = (tmp_path / "table1.tex").read_text()
    assert r"\textbf{0.00}" in latex and r"\underline{95.00}" in latex
    assert "*" not in (tmp_path / "table1.csv").read_text()


# ---- table 2 -------------------------------------------------------------------------------------------------------


def test_table2(tmp_path):
    paths = [
        detection(tmp_path, 0.9876, 0.9, 0.94178, 0.995, 91, [2, 3]),
        detection(tmp_path, None, 0.0, 0.0, None, 0, [], dataset="iconqa"),
    ]
    found, nothing = make(tmp_path / "table2.csv", "table2", paths, datasets=["scienceqa", "iconqa"])
    assert list(found) == (
        ["model", "dataset", "precision", "recall", "f1", "auroc", "n_flagged", "sensitive_layers"]
        + ["paper_P", "paper_R", "paper_F1"]
    )
    assert list(found.values()) == (
        ["llava-mini", "scienceqa", "98.76", "90.00", "94.18", "99.50", "91", "2 3", "98.82", "94.69", "96.71"]
    )
    assert nothing["sensitive_layers"] == "none"
    assert (nothing["precision"], nothing["recall"], nothing["f1"], nothing["auroc"]) == ("", "0.00", "0.00", "")
    assert nothing["n_flagged"] == "0"


def test_table2_over_seeds_tells_where_no_layer_was_sensitive(tmp_path):
    paths = [
        detection(tmp_path, 1.0, 0.9, 0.95, 0.99, 90, [2, 3], seed=0),
        detection(tmp_path, None, 0.0, 0.0, None, 0, [], seed=1),
    ]
    [row] = make(tmp_path / "table2.csv", "table2", paths, seeds=(0, 1))
    assert row["sensitive_layers"] == "2 3 | none"
    assert (row["recall"], row["f1"], row["n_flagged"], row["n_seeds"]) == ("45.00", "47.50", "45.0", "2")
    assert row["f1_std"] == "67.18"  # |95 - 0| / sqrt 2
    assert r"2 3 \| none" in (tmp_path / "table2.md").read_text()


# ---- wrong input ---------------------------------------------------------------------------------------------------


def test_missing_and_broken_results(tmp_path):
    out, path = tmp_path / "table1.csv", evaluation(tmp_path, 80.0, 5.0)
    with pytest.raises(ByeError, match="second result"):
        make(out, "table1", [path, path], defences=["bye"])
    path.write_text("{}")
    with pytest.raises(ByeError, match=r"eval\.json has no 'CP'"):
        make(out, "table1", [path], defences=["bye"])
    path.unlink()
    with pytest.raises(ByeError, match="does not exist"):
        make(out, "table1", [path], defences=["bye"])
    with pytest.raises(ByeError, match="not in a folder"):
        cells_of([tmp_path / "eval.json"])
    assert not out.exists()


# ---- ablations -----------------------------------------------------------------------------------------------------


def test_table_of_attacks_names_the_papers_settings(tmp_path):
    paths = []
    for attack, f1 in (("mine", 0.9), ("fixed_dual", 0.8)):
        paths.append(evaluation(tmp_path, 91.0, 1.5, attack=attack))
        paths.append(detection(tmp_path, 0.95, f1, f1, 0.99, 105, [1], attack=attack))
    attacks = {"mine": {"trigger": "badnet", "rate": 0.1}, "fixed_dual": {"trigger": "fixed_dual", "rate": 0.1}}
    first, second = make(
        tmp_path / "table3.csv", "table3", paths, config={"attacks": attacks}, attacks=["mine", "fixed_dual"]
    )
    assert (first["attack"], first["CP"], first["ASR"], first["f1"]) == ("mine", "91.00", "1.50", "90.00")
    assert (first["paper_F1"], second["paper_F1"], second["paper_ASR"]) == ("96.71", "94.73", "0.10")
    assert (tmp_path / "table3.md").exists() and "toprule" in (tmp_path / "table3.tex").read_text()


def test_a_number_that_the_paper_lacks_is_an_empty_cell(tmp_path):
    paths = [detection(tmp_path, 0.95, 0.9, 0.92, 0.99, 105, [1], attack="texture", model="other")]
    cells = {"models": ["other"], "attacks": ["texture"]}
    (row,) = make(tmp_path / "table6.csv", "table6", paths, config={"models": {"other": {"paper": None}}}, **cells)
    assert row["CP"] == row["ASR"] == row["paper_F1"] == "" and row["precision"] == "95.00"


def test_table5_is_in_the_order_of_tau_and_says_where_no_layer_is_sensitive(tmp_path):
    paths = [
        detection(tmp_path, None, 0.0, 0.0, None, 0, [], defence="tau_3.0"),
        detection(tmp_path, 0.5, 1.0, 0.66667, 0.9, 200, [0, 1, 2], defence="tau_0.0"),
        detection(tmp_path, 0.5, 1.0, 0.66667, 0.9, 200, [0, 1, 2], defence="bye"),
    ]
    rows = make(tmp_path / "table5.csv", "table5", paths, defences=["tau_3.0", "tau_0.0", "bye"])
    assert [row["tau"] for row in rows] == ["0", "2", "3"] and [row["n_layers"] for row in rows] == ["3", "3", "0"]
    assert [row["paper_F1"] for row in rows] == ["63.93", "96.71", ""]
    assert [row["note"] for row in rows] == ["", "", "no sensitive layer"] and rows[2]["precision"] == ""
    assert list(rows[0])[-1] == "note"


def test_table_of_variants(tmp_path):
    paths = [
        detection(tmp_path, 0.9, 0.9, f1, 0.9, 100, [1], defence=defence, seed=seed)
        for defence, f1 in (("wo_gmm", 0.5), ("bye", 0.75))
        for seed in (0, 1)
    ]
    cells = {"seeds": (0, 1), "defences": ["wo_gmm", "bye"]}
    first, second = make(tmp_path / "table7.csv", "table7", paths, **cells)
    assert (first["variant"], first["f1"], first["paper_F1"]) == ("threshold", "50.00", "71.52")
    assert (second["f1"], second["paper_F1"], second["n_seeds"], second["f1_std"]) == ("75.00", "96.71", "2", "0.00")
    first, second = make(tmp_path / "figure4.csv", "figure4", paths, **cells)
    assert (first["variant"], second["variant"]) == ("w/o GMM", "full BYE") and "paper_F1" not in first


def test_layers_table_has_the_auroc_of_each_layer(tmp_path):
    poisoned = np.arange(100) < 10
    entropies = np.random.default_rng(0).normal(4.0, 0.1, (100, 2))
    entropies[poisoned, 1] -= 2
    folder = tmp_path / "llava-mini/scienceqa/badnet/s0"
    (folder / "vanilla").mkdir(parents=True)
    (folder / "bye").mkdir()
    columns = {"id": [str(i) for i in range(100)], "n_image_tokens": [81] * 100}
    columns |= {f"entropy_0{layer}": entropies[:, layer] for layer in (0, 1)}
    pq.write_table(pyarrow.table(columns), folder / "vanilla/attention.parquet")
    detect(folder / "vanilla/attention.parquet", folder / "bye/flags.parquet")
    labels = tmp_path / "labels/scienceqa/badnet/s0.parquet"
    labels.parent.mkdir(parents=True)
    pq.write_table(pyarrow.table({"id": columns["id"], "poisoned": poisoned}), labels)
    paths = [folder / "vanilla/attention.parquet", folder / "bye/layers.csv"]
    first, second = make(tmp_path / "layers.csv", "layers", paths, labels=[labels])
    assert (first["layer"], first["sensitive"], second["sensitive"]) == ("0", "false", "true")
    assert second["auroc"] == "1.00" and 0.2 < float(first["auroc"]) < 0.8
    assert float(second["mu_low"]) == pytest.approx(2.0, abs=0.1) and float(second["bsi"]) > 10


def test_table4_is_of_the_datasets_as_loaded(tmp_path):
    turns = [{"from": "human", "value": "<image>\nHow many?\nA. 1\nB. 2\nAnswer."}, {"from": "gpt", "value": "B"}]
    for name, count in (("train", 3), ("test", 2)):
        entries = [{"id": str(i), "image": "a.png", "conversations": turns} for i in range(count)]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    paths = [tmp_path / "train.json", tmp_path / "test.json"] * 2
    sets = {"mine": {"format": "iconqa", "test": 2}, "own": {"format": "llava", "test": 1}}
    cells = {"datasets": ["mine", "own"]}
    first, second = make(tmp_path / "table4.csv", "table4", paths, config={"datasets": sets}, **cells)
    assert (first["train"], first["test"], first["paper_train"], first["answer"]) == ("3", "2", "10000", "option")
    assert (first["prompt"], first["question"], first["example"]) == ("Answer.", "How many? A. 1 B. 2", "B")
    assert (second["format"], second["paper_train"], second["task"]) == ("llava", "", "")


def test_poison_rates_and_the_untouched_set(tmp_path):
    paths = []
    for attack, share in (("none", 0.02), ("badnet", 0.1)):
        for defence in ("bye", "bye_released"):
            folder = tmp_path / "llava-mini/scienceqa" / attack / "s0" / defence
            folder.mkdir(parents=True)
            flagged = np.arange(50) < 50 * share
            write_flags(folder / "flags.parquet", [str(i) for i in range(50)], Verdict.of(flagged, ""))
            paths.append(folder / "flags.parquet")
    paths.append(detection(tmp_path, 0.8, 1.0, 0.9, 0.99, 5, [1]))
    paths += [evaluation(tmp_path, 90.0, 2.0), evaluation(tmp_path, 91.0, 99.0, defence="vanilla")]
    rows = make(tmp_path / "rate.csv", "poison_rate", paths, attacks=["none", "badnet"])
    untouched, poisoned, *released = rows
    assert (untouched["rate"], untouched["dropped"], untouched["ASR"], untouched["f1"]) == ("0", "2.00", "", "")
    assert (poisoned["rate"], poisoned["dropped"], poisoned["recall"]) == ("10", "10.00", "100.00")
    assert (poisoned["ASR_vanilla"], poisoned["ASR"]) == ("99.00", "2.00")
    assert [row["method"] for row in released] == ["bye_released"] * 2 and released[1]["ASR"] == ""
    poison_rate_figure(tmp_path / "rate.csv", tmp_path / "rate.pdf")
    assert (tmp_path / "rate.pdf").read_bytes().startswith(b"%PDF")


def test_table8_measures_both_beside_the_papers_aspects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths, steps = [], {"detect": ("sentinet", 50.0), "attention": ("", 4.0), "detect_layers": ("bye", 1.0)}
    for defence in ("sentinet", "bye"):
        paths.append(detection(tmp_path, 0.9, 0.8, 0.85, 0.9, 100, [1] if defence == "bye" else None, defence=defence))
        verdict = Verdict.of(np.arange(1000) < 100, "")
        write_flags(paths[-1].with_name("flags.parquet"), [str(i) for i in range(1000)], verdict)
        paths.append(paths[-1].with_name("flags.parquet"))
    for rule, (defence, seconds) in steps.items():
        path = tmp_path / "results/benchmarks" / rule / f"llava-mini.scienceqa.badnet.s0.{defence}".rstrip(".")
        path.parent.mkdir(parents=True)
        path.with_name(f"{path.name}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")
    reference = tmp_path / "scienceqa/s0/test.json"
    reference.parent.mkdir(parents=True)
    turns = [{"from": "human", "value": "<image>\nA?"}, {"from": "gpt", "value": "B"}]
    reference.write_text(json.dumps([{"id": i, "image": "a.png", "conversations": turns} for i in range(300)]))
    rows = make(tmp_path / "table8.csv", "table8", paths, reference=[reference], attacks=["badnet"])
    assert len(rows) == 5 + 1 + 4 and rows[0]["sentinet"].startswith("CNN-based")
    assert (rows[5]["sentinet"], rows[5]["bye"]) == ("300 clean samples", "none")
    assert (rows[-2]["aspect"], rows[-2]["bye"]) == ("F1 (%)", "85.00")
    assert (rows[-1]["sentinet"], rows[-1]["bye"]) == ("50", "5")


def test_seconds_per_answer_are_of_purification_and_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answered = {"CP": 90.0, "ASR": 1.0, "PU": 45.0, "n_clean": 30, "n_triggered": 20}
    paths = [result(tmp_path, "eval.json", answered, "m", defence=defence) for defence in ("vanilla", "zip")]
    for step, seconds in (
        ("evaluate/m.scienceqa.badnet.s0.vanilla", 10),
        ("evaluate/m.scienceqa.badnet.s0.zip", 12),
        ("purify_test/scienceqa.s0.zip", 30),
        ("purify_triggered/scienceqa.badnet.s0.zip", 58),
    ):
        path = tmp_path / f"results/benchmarks/{step}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")
    entry = {"caption": "x", "model": "m", "dataset": "scienceqa", "attack": "badnet", "defences": ["vanilla", "zip"]}
    config = {
        "seeds": [0], "models": {"m": {}}, "datasets": {"scienceqa": {"test": 30}}, "attacks": {"badnet": {}},
        "defences": {"vanilla": {"kind": "none"}, "zip": {"kind": "zip"}},
        "tables": {"t": {**entry, "columns": ["method", "PU", "answer_seconds"]}},
    }  # fmt: skip
    table(definition(config, "t"), tmp_path / "t.csv", paths)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["PU"], row["answer_seconds"]) for row in rows] == [("45.00", "0.200"), ("45.00", "2.000")]


def test_what_a_defence_is_told_of_the_poison_is_a_setting_that_its_file_names(tmp_path):
    (tmp_path / "mine.py").write_text(
        "READS = ('samples', 'reference')\nTOLD = ('rate',)\n"
        "def detect(samples, reference, *, rate: float | None = None): ...\n"
    )
    mine = {"kind": str(tmp_path / "mine.py")}
    reference = tmp_path / "scienceqa/s0/test.json"
    reference.parent.mkdir(parents=True)
    reference.write_text(json.dumps([{"id": 1}, {"id": 2}]))
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")) | {"seeds": [0]}
    config["defences"] = {"asked": mine | {"rate": 0.05}, "ranks": mine, "oracle": {"kind": "oracle"}}
    columns = ["method", "told"]
    config["tables"] = {"told": shipped_entry("table1", models=["llava-mini"], datasets=["scienceqa"])}
    config["tables"]["told"] |= {"defences": ["asked", "ranks", "oracle"], "columns": columns, "best": {}}
    table(definition(config, "told"), tmp_path / "told.csv", [], reference=[reference])
    told = {row["method"]: row["told"] for row in rows_of(tmp_path / "told.csv")}
    assert told == {"asked": "2 clean samples, rate 0.05", "ranks": "2 clean samples", "oracle": "the labels"}
