"""The page of a run: its verdict from the tables that are there, and the evidence behind the rows."""

import json
from html import unescape

import pytest
from PIL import Image
from small_workflow import shipped_entry
from test_file_page import EVIL, evidence_of, read, sample

from bye.errors import ByeError
from bye.report.measured import measured, rows_with_cells, verdict
from bye.report.run_page import run_page

CELLS = {"models": ["tiny"], "datasets": ["sqa"], "attacks": ["none", "badnet", "weak"]}
CELL = ("tiny", "sqa")


@pytest.fixture
def config():
    """What tables of three training sets ask for: untouched, poisoned, and poisoned by too little."""
    columns = [
        "attack",
        "method",
        "f1",
        "clean_lost",
        "ASR",
        {"name": "ASR_vanilla", "column": "ASR", "defence": "plain"},
    ]
    defences = ["bye", "random_drop", "oracle"]
    both = {"caption": "Both <b>", "text": "Columns of *paper*.", "columns": columns}
    return {
        "seeds": [3, 4],
        "models": {"tiny": {"paper": None}},
        "datasets": {"sqa": {"format": "scienceqa", "test": 8}},
        "attacks": {key: {"trigger": "badnet", "rate": 0.1, "target": "Boo!"} for key in ("badnet", "weak")},
        "defences": {"plain": {"kind": "none"}, "bye": {"kind": "bye"}, "oracle": {"kind": "oracle"}}
        | {"random_drop": {"kind": "random", "share": 0.2}},
        "tables": {"both": {**CELLS, "defences": defences, **both}, "turned": {**shipped_entry("table8"), **CELLS}},
    }


def write_table(folder, *rows):
    lines = ["attack,method,f1,clean_lost,ASR,ASR_vanilla", *rows]
    (folder / "both.csv").write_text("".join(line + "\n" for line in lines))


def test_rows_know_their_cells_and_turned_tables_none(config, tmp_path):
    write_table(tmp_path, "badnet,bye,99.00,0.10,0.00,100.00", "none,oracle,,,,")
    cells = [cell for _, cell in rows_with_cells(config, "both", tmp_path / "both.csv")]
    assert [(cell.attack, cell.defence, cell.seed) for cell in cells] == [("badnet", "bye", 3), ("none", "oracle", 3)]
    (tmp_path / "turned.csv").write_text("aspect,attack,bye\nF1,badnet,99\n")
    assert [cell for _, cell in rows_with_cells(config, "turned", tmp_path / "turned.csv")] == [None]
    assert measured(config, tmp_path)[*CELL, "badnet", "bye"] == {"f1": 99.0, "clean_lost": 0.1, "ASR": 0.0}
    assert measured(config, tmp_path)[*CELL, "badnet", "plain"] == {"ASR": 100.0}


def test_the_verdict_names_what_fails(config, tmp_path):
    rows = ["none,bye,,2.50,,", "badnet,bye,12.00,0.10,62.50,100.00", "weak,bye,0.00,0.00,30.00,40.00"]
    others = ["badnet,random_drop,,,100.00,", "badnet,oracle,100.00,0.00,50.00,"]  # no detector, an upper bound
    write_table(tmp_path, *rows, *others)
    stays = "Backdoors that stay after cleaning (attack success above 5 %)"
    lost = "Untouched sets that lose samples (more than 1 %)"
    missed = "Poison that is not found (F1 below 90 %)"
    assert verdict(config, tmp_path) == [
        ("bad", f"{stays}: 1 of 1 cells: tiny sqa badnet bye (62.5 %)."),
        ("bad", f"{missed}: 1 of 1 cells: tiny sqa badnet bye (12 %)."),
        ("bad", f"{lost}: 1 of 1 cells: tiny sqa none bye (2.5 %)."),
    ]


def test_the_verdict_where_all_is_well_and_where_nothing_is_told(config, tmp_path):
    write_table(tmp_path, "none,bye,,0.00,,", "badnet,bye,95.00,0.10,5.00,100.00")
    assert [mark for mark, _ in verdict(config, tmp_path)] == ["good"] * 3
    (tmp_path / "both.csv").unlink()
    assert [line.partition(": ")[2] for _, line in verdict(config, tmp_path)] == ["no table tells."] * 3


def test_a_row_opens_where_its_cell_has_evidence(config, tmp_path):
    write_table(tmp_path, "badnet,bye,99.00,0.10,0.00,100.00", "weak,bye,99.00,0.10,0.00,100.00")
    Image.new("RGB", (3000, 20)).save(tmp_path / "both.png")
    cell = tmp_path / "tiny/sqa/badnet/s3/bye"
    cell.mkdir(parents=True)
    (cell / "evidence.json").write_text(json.dumps(evidence_of({"a": sample(answer=EVIL), "b": sample()})))
    assert run_page(
        config, tmp_path, tmp_path / "index.html", ["commit <abc>"], "Two seeds", "--config seeds=[3,4]"
    ) == (1, 1)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    reader, told = read(html)
    opens = [attributes["data-cell"] for tag, attributes in reader.found if "data-cell" in attributes]
    assert opens == ["tiny.sqa.badnet.s3.bye"]
    assert [attributes["id"] for tag, attributes in reader.found if tag == "dialog"] == opens
    order = [
        "Two seeds",
        "Backdoors that stay",
        "commit <abc>",
        "Both <b>",
        "snakemake --cores 4 results/both.csv --config",
    ]
    order += [
        "tiny, sqa, badnet, bye, seed 3",
        "snakemake --cores 4 results/tiny/sqa/badnet/s3/bye/evidence.json --config",
    ]
    order += ["Scores of all samples", EVIL]
    places = [told.index(part) for part in order]
    assert places == sorted(places) and "<em>paper</em>" in html and html.count("<script") == 1
    assert "data:image/webp" in html and unescape(html).count("<script>alert") == 1


def test_no_results_no_page(config, tmp_path):
    with pytest.raises(ByeError, match="no tables or figures; run snakemake first"):
        run_page(config, tmp_path, tmp_path / "page.html", [], "Results")
