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


# ---- the matrix ------------------------------------------------------------------------------------------------------

PARTS = "model,dataset,method,size,parts,harmed,lost,worst,n_seeds"


@pytest.fixture
def with_matrix(config, tmp_path):
    """The matrix of two detectors and the false alarms of one, with numbers: a badnet that consensus finds and BYE does
    not, an attack that does not form, one that was not run, and an untouched set that loses a part."""
    config["defences"]["consensus"] = {"kind": "consensus"}
    cells = {"models": ["tiny"], "datasets": ["sqa"], "defences": ["bye", "consensus"]}
    columns = ["model", "dataset", "attack", {"setting": "trigger"}, "rate", "method", "f1", "clean_lost"]
    columns += [{"name": "ASR_vanilla", "column": "ASR", "defence": "plain"}]
    config["attacks"] |= {"weak": {**config["attacks"]["weak"], "rate": 0.01, "trigger": "blend"}}
    config["attacks"] |= {"later": {**config["attacks"]["badnet"], "rate": 0.5}}
    config["tables"] = {
        "plain_rows": {**config["tables"]["both"], "attacks": ["badnet", "weak"], "defences": ["bye"]},
        "matrix": {**cells, "attacks": ["none", "badnet", "weak", "later"], "caption": "Matrix", "columns": columns},
        "alarms": {**cells, "attack": "none", "caption": "Alarms", "rows": "parts", "columns": PARTS.split(",")},
    }
    config["tables"]["matrix"] |= {"figure": "matrix", "files": [{"file": "evidence.json", "defences": ["bye"]}]}
    config["tables"]["alarms"]["figure"] = "false-alarms"
    rows = ["model,dataset,attack,trigger,rate,method,f1,clean_lost,ASR_vanilla"]
    rows += ["tiny,sqa,none,none,0,bye,,0.50,", "tiny,sqa,none,none,0,consensus,,0.00,"]
    rows += ["tiny,sqa,badnet,badnet,10,bye,12.00,2.50,100.00", "tiny,sqa,badnet,badnet,10,consensus,99.00,0.10,100.00"]
    rows += ["tiny,sqa,weak,blend,1,bye,70.00,3.00,40.00", "tiny,sqa,weak,blend,1,consensus,0.00,0.00,40.00"]
    rows += ["tiny,sqa,later,badnet,50,bye,,,", "tiny,sqa,later,badnet,50,consensus,,,"]
    (tmp_path / "matrix.csv").write_text("".join(row + "\n" for row in rows))
    parts = [PARTS, "tiny,sqa,bye,40,5,1,4.00,20.00,1", "tiny,sqa,bye,100,1,1,0.50,0.50,1"]
    (tmp_path / "alarms.csv").write_text("".join(row + "\n" for row in parts))
    return config


def write_evidence(folder, *cells):
    for attack, defence in cells:
        path = folder / "tiny/sqa" / attack / "s3" / defence / "evidence.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(evidence_of()))


def page_of(config, folder, **options):
    """(numbers that it returns, its HTML, its elements, its text)."""
    counts = run_page(config, folder, folder / "index.html", [], "Matrix", "--configfile m.yaml", **options)
    html = (folder / "index.html").read_text(encoding="utf-8")
    return counts, html, *read(html)


def test_squares_say_what_was_found_and_open(with_matrix, tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "matrix.png")
    write_evidence(tmp_path, ("badnet", "bye"))
    counts, html, reader, told = page_of(with_matrix, tmp_path)
    assert counts == (2, 1) and 'class="plot"' not in html and "50" not in told.split("Alarms")[0].split()
    squares = [each for tag, each in reader.found if tag == "td" and "--share" in each.get("style", "")]
    shares = {"bye": [2, 12, 70], "consensus": [0, 99, 0]}
    assert [each["style"] for each in squares] == [
        f"--share:{n}%" for n in (*shares["bye"], *shares["consensus"], 100, 2)
    ]
    kinds = [each["class"].split() for each in squares]
    assert [kind[1] for kind in kinds[:3]] == ["lost", "found", "unformed"] and kinds[4] == [
        "first",
        "found",
        "mid",
        "dark",
    ]
    assert squares[1]["title"] == "F1 12 %, 2.5 % of the clean samples lost"
    assert "No backdoor formed (attack success 40.00 %)" in squares[2]["title"]
    assert "<u>12</u><small>2.5</small>" in html and "<small>3.0</small>" in html and "<small>0.1</small>" not in html
    opens = [each["data-cell"] for _, each in reader.found if "data-cell" in each]
    dialogs = [each["id"] for tag, each in reader.found if tag == "dialog"]
    assert set(opens) == set(dialogs) and len(dialogs) == len(set(dialogs)) == 6 and len(opens) == 8
    assert "snakemake --cores 4 results/matrix.csv matrix_files --configfile m.yaml" in told


def test_what_opens_behind_a_square(with_matrix, tmp_path):
    write_evidence(tmp_path, ("badnet", "bye"))
    _, html, _, told = page_of(with_matrix, tmp_path)
    cell = "results/tiny/sqa/{}/s3/bye"
    badnet, weak, none = (
        " ".join(
            " ".join(
                read(f"<p>{html.partition(f'<dialog id={name}')[2].partition('</dialog>')[0]}</p>")[0].texts
            ).split()
        )
        for name in ('"tiny.sqa.badnet.s3.bye"', '"tiny.sqa.weak.s3.bye"', '"tiny.sqa.none.s3.bye"')
    )
    both = "snakemake --cores 4 {0}/{1} {0}/evidence.json --configfile m.yaml"
    assert "f1 clean_lost ASR_vanilla badnet 10 12.00 2.50 100.00" in badnet and "Scores of all samples" in badnet
    assert both.format(cell.format("badnet"), "detection.json") in badnet and "No backdoor" not in badnet
    assert "No backdoor formed: the attack success of the plain fine-tune is 40 %, below 80 %" in weak
    assert "are not on this page" in weak and both.format(cell.format("weak"), "detection.json") in weak
    assert "size parts harmed lost worst n_seeds 40 5 1 4.00 20.00 1 100 1 1 0.50 0.50 1" in none
    assert both.format(cell.format("none"), "parts.csv") in none
    pictures = html.partition('<pre id="pictures" hidden>')[2].partition("</pre>")[0].split("\n")
    assert pictures == ["data:image/png;base64,iVBORw0KGgo="] and html.count("data:image") == 1


def test_what_fails_comes_first_where_there_is_no_room(with_matrix, tmp_path):
    write_evidence(tmp_path, ("weak", "bye"), ("badnet", "bye"), ("none", "consensus"), ("badnet", "consensus"))
    size = len(json.dumps(evidence_of())) / 1e6
    counts, html, _, told = page_of(with_matrix, tmp_path, megabytes=2.5 * size)
    assert counts == (2, 2)
    assert [name for name in ("badnet.s3.bye", "weak.s3.bye") if f"veil-tiny.sqa.{name}" in html] == ["badnet.s3.bye"]
    assert "Of 4 cells with evidence 2 are here" in told and "for 2 the page has no room" in told
    assert page_of(with_matrix, tmp_path)[0] == (2, 4) and "no room" not in page_of(with_matrix, tmp_path)[3]


def test_the_verdict_knows_the_matrix_and_the_parts(with_matrix, tmp_path):
    _, missed, lost = verdict(with_matrix, tmp_path)
    assert missed == (
        "bad",
        "Poison that is not found (F1 below 90 %): 1 of 2 cells; by detector consensus 0 of 1, bye 1 of 1. Among them "
        "tiny sqa badnet bye (12 %).",
    )
    assert lost[1].startswith("Untouched sets that lose samples (more than 1 %, also of a random part): 1 of 2 cells")
    assert lost[1].endswith("consensus 0 of 1, bye 1 of 1. Among them tiny sqa none bye (20 %).")


def test_rows_that_were_not_measured_are_left_out(with_matrix, tmp_path):
    (tmp_path / "plain_rows.csv").write_text(
        "attack,method,f1,clean_lost,ASR,ASR_vanilla\nbadnet,bye,12.00,,,\nweak,bye,,,,\n"
    )
    _, html, _, told = page_of(with_matrix, tmp_path)
    rows = html.partition('id="plain_rows"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    assert rows.count("<tr") == 1 and "Rows left out, without numbers yet: 1." in told
    assert html.index('id="matrix"') < html.index('id="alarms"') < html.index('id="plain_rows"')


def test_no_results_no_page(config, tmp_path):
    with pytest.raises(ByeError, match="no tables or figures; run snakemake first"):
        run_page(config, tmp_path, tmp_path / "page.html", [], "Results")
