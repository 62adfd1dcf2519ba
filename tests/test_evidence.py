"""The evidence of a cell: which samples are shown, their attention, and the stage on a tiny model."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import write_samples

from bye import formats
from bye.attacks.poison import poison_training_set
from bye.cleaning.run import SampleSet, detect
from bye.data.samples import read_written
from bye.errors import ByeError
from bye.extraction.attention import extract
from bye.files import read_json, write_csv
from bye.flags import Verdict, write_flags
from bye.formats import names
from bye.report.evidence import SHOWN, choose, most_telling, write_evidence
from bye.report.histogram import histogram
from bye.report.thumbnails import crop, heat, thumbnail


def flags_of(n, flagged, scores=None, **more):
    table = {"id": [f"s{i}" for i in range(n)], "flagged": [i in flagged for i in range(n)], "metadata": {}, **more}
    return table | {"score": scores or [float("nan")] * n}


def picture_of(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


# ---- which samples ---------------------------------------------------------------------------------------------------


def test_kept_samples_are_those_nearest_to_being_dropped():
    scores = [float(i) for i in range(40)]
    dropped, kept, by_score = choose(flags_of(40, range(3), scores), 0)
    assert dropped == ["s0", "s1", "s2"] and by_score
    assert kept == [f"s{i}" for i in range(3, 3 + SHOWN)]


def test_without_scores_kept_samples_are_drawn_by_seed():
    table = flags_of(100, range(50))
    dropped, kept, by_score = choose(table, 0)
    assert not by_score and (dropped, kept, by_score) == choose(table, 0) and dropped != choose(table, 1)[0]
    assert len(dropped) == len(kept) == SHOWN and {int(name[1:]) < 50 for name in dropped} == {True}
    assert choose(flags_of(4, ()), 0)[0] == [] and choose(flags_of(4, range(4)), 0)[1] == []


def test_the_layer_is_the_one_in_which_samples_differ():
    even, sharp = np.full((3, 3), 1 / 9), np.zeros((3, 3))
    sharp[1, 1] = 1
    assert most_telling([np.stack([sharp, even, sharp]), np.stack([sharp, sharp, sharp])]) == 1
    assert most_telling([]) == 0


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_veil_is_none_at_an_even_share_and_strongest_at_the_whole():
    attention = np.zeros((4, 4))
    attention[2, 1] = 1
    veil = np.asarray(picture_of(heat(attention)))
    assert veil.shape == (4, 4, 4) and veil[2, 1, 3] == 204 and veil[..., 3].sum() == 204
    assert np.asarray(picture_of(heat(np.full((4, 4), 1 / 16))))[..., 3].max() == 0


def test_the_crop_is_around_a_token():
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[30:, 50:] = 255
    part = crop(Image.fromarray(pixels), 23, (4, 6))
    assert part.size == (20, 20) and np.asarray(part)[10:, 10:].min() == 255
    small = picture_of(thumbnail(Image.fromarray(pixels), 30))
    assert small.size == (30, 20) and small.format == "WEBP"


# ---- histograms ------------------------------------------------------------------------------------------------------


def test_a_histogram_of_scores(tmp_path):
    flagged = np.arange(20) < 5
    write_flags(tmp_path / "a", [f"s{i}" for i in range(20)], Verdict(flagged, [""] * 20, np.arange(20.0), None))
    found = histogram(tmp_path / "a")
    assert [sum(counts) for counts in found["counts"]] == [15, 5] and found["names"] == ("kept", "dropped")
    assert (found["first"], found["last"], found["cut"]) == (0, 19, None)
    write_flags(tmp_path / "b", ["s0", "s1"], Verdict.of(np.array([True, False]), "why"))
    assert histogram(tmp_path / "b") is None


# ---- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell(tmp_path_factory, tiny_model):
    """A poisoned set, the features of a random model, and what BYE says of them."""
    root = tmp_path_factory.mktemp("evidence")
    write_samples(root)
    entries = read_written(root / "samples.json")
    poison_training_set(entries, root, "badnet", 0.25, "Boo!", 0, root / "data", root / "labels.parquet")
    extract(tiny_model("llava"), None, root / "data/train.json", root / "data/images", root / "attention.parquet")
    detect("bye", root / "flags.parquet", 0, {"tau": 0}, attention=root / "attention.parquet")
    return root, tiny_model("llava")


def test_evidence_of_bye(cell):
    root, model = cell
    files = (root / "flags.parquet", root / "data/train.json", root / "data/images", root / "out.json", model, None)
    count = write_evidence(*files, labels=root / "labels.parquet", threads=1)
    found = read_json(root / "out.json")
    assert tuple(found) == names(formats.EVIDENCE) and count == len(found["samples"])
    assert set(found["dropped"]) | set(found["kept"]) == set(found["samples"]) and found["groups"] == []
    assert found["histogram"]["names"] == ["clean", "poisoned"]
    assert sum(map(sum, found["histogram"]["counts"])) == 33 and found["n_samples"] == 33
    for sample in found["samples"].values():
        assert picture_of(sample["attention"]).size == (4, 4) and picture_of(sample["thumbnail"]).width <= 128
        assert sample["poisoned"] in (True, False) and 0 < sample["nats"] <= np.log(16) + 1e-6
    before = (root / "out.json").read_bytes()
    write_evidence(*files, labels=root / "labels.parquet", threads=1)
    assert (root / "out.json").read_bytes() == before


def test_evidence_of_groups(cell):
    root, model = cell
    samples = SampleSet(root / "data/train.json")
    ids = samples.ids
    proven = {"group": 0, "answer": "Boo!", "shares": "answer", "samples": 8, "verdict": "proven", "dropped": 8}
    rows = [proven | {"patch": "1 of 2", "patch_controls": "0 of 1"}, {**proven, "group": 1, "verdict": ""}]
    trial = {"for": "proof", "proof": "patch", "own": "Boo!", "before": "no", "said": "Boo!", "hit": "true"}
    trials = [
        {**trial, "group": 0, "sample": ids[2], "host": ids[3], "hit": "false"},
        {**trial, "group": 0, "sample": ids[4], "host": ids[5]},
        {**trial, "group": 0, "for": "sample", "sample": ids[2], "host": ids[5]},
        {**trial, "group": 1, "sample": ids[6], "host": ids[7]},
        {**trial, "group": "control", "sample": ids[8], "host": ids[9], "hit": ""},  # with the group's answer
        {**trial, "group": "control", "sample": ids[8], "own": "yes", "host": ids[9], "hit": ""},
        {**trial, "group": "control", "proof": "question", "sample": ids[8], "own": "yes", "host": ids[9], "hit": ""},
    ]
    write_csv(root / "groups.csv", rows, names(formats.GROUPS))
    write_csv(root / "trials.csv", trials, names(formats.TRIALS))
    write_flags(root / "more.parquet", ids, Verdict.of(np.arange(33) < 8, "why"))
    tables = {"groups": root / "groups.csv", "trials": root / "trials.csv"}
    files = (root / "more.parquet", root / "data/train.json", root / "data/images", root / "more.json")
    write_evidence(*files, model, None, **tables, threads=1)
    found = read_json(root / "more.json")
    [group] = found["groups"]
    assert group["example"] == ids[4] and len(group["trials"]) == 2 and found["verdicts"] == {"proven": 1, "": 1}
    assert [control["own"] for control in group["controls"]] == ["yes"]
    example = found["samples"][ids[4]]
    assert picture_of(example["picture"]).size == (32, 32)  # of 36 x 32 pixels: the part that the model sees
    assert "patch" in example and not example["pasted"] and found["histogram"] is None
    assert example["poisoned"] is None and [sample["score"] for sample in found["samples"].values()] == [None] * len(
        found["samples"]
    )


def test_the_patch_of_an_example_is_the_one_that_was_pasted(cell):
    root, model = cell
    ids = SampleSet(root / "data/train.json").ids
    rows = [{"group": 0, "answer": "Boo!", "shares": "answer", "samples": 8, "verdict": "proven", "dropped": 8}]
    trial = {
        "group": 0,
        "for": "proof",
        "proof": "patch",
        "sample": ids[4],
        "host": ids[5],
        "said": "Boo!",
        "hit": "true",
    }
    write_csv(root / "groups.csv", rows, names(formats.GROUPS))
    write_csv(root / "trials.csv", [trial], names(formats.TRIALS))
    shown = []
    for token in (0, 15):
        pasted = {"patch": np.full(33, token, dtype=np.int32)}
        write_flags(root / "more.parquet", ids, Verdict.of(np.arange(33) < 8, "why", columns=pasted))
        files = (root / "more.parquet", root / "data/train.json", root / "data/images", root / "more.json", model, None)
        write_evidence(*files, groups=root / "groups.csv", trials=root / "trials.csv", threads=1)
        shown.append(read_json(root / "more.json")["samples"][ids[4]])
        assert shown[-1]["pasted"] and picture_of(shown[-1]["patch"]).size == (16, 16)  # two tokens by two, at a corner
    assert shown[0]["patch"] != shown[1]["patch"]


def test_flags_of_other_samples_are_refused(cell, tmp_path):
    root, model = cell
    (tmp_path / "few.json").write_text(json.dumps(read_written(root / "data/train.json")[1:]))
    with pytest.raises(ByeError, match="has no sample '.*', which .*flags.parquet has"):
        write_evidence(root / "flags.parquet", tmp_path / "few.json", root / "data/images", tmp_path / "o", model, None)


def test_a_table_of_trials_that_lacks_a_column_is_told(cell):
    root, model = cell
    write_csv(root / "old.csv", [], [name for name in names(formats.TRIALS) if name not in ("for", "hit")])
    files = (root / "flags.parquet", root / "data/train.json", root / "data/images", root / "out.json", model, None)
    with pytest.raises(ByeError, match="old.csv has no column for, hit; give one that has, or make it anew"):
        write_evidence(*files, trials=root / "old.csv", threads=1)
