"""The results page: what a run has, in order, with the commands."""

import pytest

from bye.errors import ByeError
from bye.report.page import results_page

ENTRIES = {
    "table1": {"title": "Table 1", "caption": "Clean performance"},
    "table2": {"title": "Table 2", "caption": "Detection of poisoned samples"},
    "figure3": {"title": "Figure 3", "caption": "Entropy"},
}


def test_a_page_of_what_is_there(tmp_path):
    results, notes, out = tmp_path / "results", tmp_path / "notes", tmp_path / "docs" / "results.md"
    for folder in (results, notes, out.parent):
        folder.mkdir()
    (results / "table2.md").write_text("| model | f1 |\n| --- | ---: |\n| a | 99.00 |\n")
    (results / "figure3.png").write_bytes(b"picture")
    (notes / "intro.md").write_text("What it is.\n")
    (notes / "figure3.md").write_text("Two modes.\n")
    told = {"facts": ["commit abc"], "verdict": ["none fails"]}
    assert results_page(ENTRIES, results, notes, out, title="Two seeds", options="--config seeds=[0,1]", **told) == 2
    page = out.read_text()
    order = [
        *(
            "# Two seeds\n",
            "What it is.",
            "- none fails",
            "- commit abc",
            "## Table 2: detection of poisoned samples",
            "| a | 99.00 |",
        ),
        *("## Figure 3", "results/figure3.png --config", "Two modes.", "](figures/figure3.png)"),
    ]
    places = [page.index(text) for text in order]
    assert places == sorted(places) and "Table 1" not in page
    assert "snakemake --cores 4 results/table2.csv --config seeds=[0,1]\n" in page
    assert (out.parent / "figures" / "figure3.png").read_bytes() == b"picture"


def test_no_results_no_page(tmp_path):
    with pytest.raises(ByeError, match="no tables or figures; run snakemake first"):
        results_page(ENTRIES, tmp_path, tmp_path, tmp_path / "page.md", [], "Results")
    assert not (tmp_path / "page.md").exists()
