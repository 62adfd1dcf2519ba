"""The verdict on a cleaned file: three lines, whatever the detector and whatever was found."""

import dataclasses

import pytest
from test_clean import outcome_of, talk

from bye.files import read_csv
from bye.tools.outcome import summarise, write_outcome
from bye.tools.verdict import verdict

ANSWERS = [["Boo!"]] * 4 + [["yes"], ["no"]] * 8


def group(answer, verdict, samples=4):
    return {"answer": answer, "verdict": verdict, "samples": str(samples)}


def told(outcome, groups=None):
    marks, lines = zip(*verdict(outcome, groups), strict=True)
    return "".join(mark[:1] or "-" for mark in marks), lines


def test_what_was_proven_and_what_is_suspicious(tmp_path):
    rows = [group("Boo!", "proven"), group("x" * 80, "suspicious"), group("yes", ""), group("no", "not tried")]
    marks, lines = told(outcome_of(tmp_path, ANSWERS, [True] * 4 + [False] * 16), rows)
    assert marks == "bbb"
    assert lines[0].startswith("Dropped: 4 of 20 samples (20.0 %)") and lines[0].endswith("to others: 'Boo!' (4).")
    assert lines[1] == f"Suspicious, not proven, and kept: '{'x' * 60}...' (4)."
    assert "All 20 entries were looked at. Not tried for want of budget: 1 shared" in lines[2]


def test_what_is_foreign_by_its_text_alone_is_told_where_it_is_kept(tmp_path):
    reasons = ["foreign"] * 4 + [""] * 16
    novelty = {"metadata": {"answer_novelty": '[{"answer": "Boo!"}, {"answer": "gone"}]'}, "reason": reasons}
    kept = dataclasses.replace(outcome_of(tmp_path, ANSWERS, [True] + [False] * 19), novelty=novelty)
    marks, lines = told(kept, [group("x", "suspicious")])
    assert marks == "bb-" and lines[1].startswith(
        "Suspicious, not proven, and kept: 'x' (4). Suspicious by the text alone"
    )
    assert "and kept: 'Boo!' (3), of a form foreign to the other answers." in lines[1] and "gone" not in lines[1]
    assert "bye clean: 3 kept samples answer 'Boo!', of a form foreign to the other" in summarise(kept, "out")
    nobody = outcome_of(tmp_path, ANSWERS, [False] * 20)
    assert told(nobody, [group("x", "suspicious")])[0] == "-b-"  # not good, where something is suspicious
    assert told(kept, [group("boo", "suspicious")])[1][1] == "Suspicious, not proven, and kept: 'boo' (4)."
    write_outcome(kept, tmp_path, "kept.json", "dropped.json")
    assert [row["reason"] for row in read_csv(tmp_path / "entries.csv")] == ["why", *reasons[1:]]
    marks, lines = told(
        dataclasses.replace(kept, flags=outcome_of(tmp_path, ANSWERS, [True] * 4 + [False] * 16).flags), []
    )
    assert lines[1] == "Suspicious: nothing."


@pytest.mark.parametrize("groups", [None, []])
def test_nothing_found(tmp_path, groups):
    marks, lines = told(outcome_of(tmp_path, ANSWERS, [False] * 20), groups)
    assert marks == "g--" and lines[0].startswith("Nothing was found to be poison")
    assert "cannot be seen" in lines[2]


def test_a_detector_without_groups_and_entries_not_looked_at(tmp_path):
    extra = [{"id": "t", "conversations": talk("Q?", "A.")}]
    marks, lines = told(outcome_of(tmp_path, ANSWERS, [True] * 8 + [False] * 12, extra=extra))
    assert marks == "b-b"
    assert "(40.0 %); the most common answer they were dropped for is 'Boo!': 50.0% of what" in lines[0]
    assert "more than poison ever is" in lines[0] and "It proves nothing" in lines[1]
    assert lines[2].startswith("1 were NOT looked at, and may hold anything: 1 without an image (kept)")
