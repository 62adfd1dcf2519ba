"""The stages that flag and drop samples, from files to files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from detectors import detect, detect_on_samples
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from bye.cleaning.fold import fold
from bye.cleaning.keep import keep
from bye.cleaning.run import SampleSet
from bye.cleaning.run import detect as run
from bye.errors import ByeError
from bye.features import align_turns, read_entropies
from bye.flags import Verdict, read_flags, write_flags
from bye.metrics.detection import layer_aurocs, score

N = 200  # samples


def write_attention(path, entropies, ids=None, tokens=81, answers=None):
    """Write entropies (n_rows, n_layers) as the attention stage does; without answers as it once did."""
    columns = {"id": ids or [f"q{index}" for index in range(len(entropies))]}
    if answers is not None:
        columns["answer"] = np.array(answers, dtype=np.int32)
    columns["n_image_tokens"] = np.broadcast_to(tokens, len(entropies)).astype(np.int32)
    columns |= {f"entropy_{layer:02d}": column.astype(np.float32) for layer, column in enumerate(entropies.T)}
    columns["image_mass"] = [[0.1, 0.2]] * len(entropies)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_labels(path, poisoned, ids=None):
    ids = ids or [f"q{index}" for index in range(len(poisoned))]
    pyarrow.parquet.write_table(pyarrow.table({"id": ids, "poisoned": poisoned}), path)


def entry(index):
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": f"naïve {index}"}]
    return {"image": f"{index}.png", "id": f"q{index}", "conversations": turns, "source": {"big": 2**60, "x": 0.1}}


@pytest.fixture
def poisoned():
    return np.isin(np.arange(N), np.random.default_rng(0).permutation(N)[:20])


@pytest.fixture
def attention(tmp_path, poisoned):
    entropies = np.random.default_rng(1).normal(4.0, 0.3, (N, 4))
    entropies[poisoned, 2] -= 2.0
    path = tmp_path / "attention.parquet"
    write_attention(path, entropies)
    return path


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([entry(index) for index in range(N)]), encoding="utf-8")
    return path


def outputs(tmp_path):
    return tmp_path / "layers.csv", tmp_path / "flags.parquet"


# ---- detect --------------------------------------------------------------------------------------------------------


def test_detect_writes_layers_and_flags(tmp_path, attention, poisoned):
    layers, flags = outputs(tmp_path)
    assert detect(attention, flags, seed=0) == 20

    table = pyarrow.parquet.read_table(flags)
    types = {name: str(table.schema.field(name).type) for name in ("id", "score", "p_low", "flagged", "reason")}
    assert types == {"id": "string", "score": "double", "p_low": "double", "flagged": "bool", "reason": "string"}
    content = table.to_pydict()
    assert content["id"] == [f"q{index}" for index in range(N)]
    assert np.array_equal(content["flagged"], poisoned)
    entropy = pyarrow.parquet.read_table(attention)["entropy_02"].to_numpy()
    np.testing.assert_allclose(content["score"], entropy, rtol=1e-6)
    assert all((p > 0.5) == drop for p, drop in zip(content["p_low"], poisoned, strict=True))
    assert all(
        ("sensitive layer 2" in reason) == drop for reason, drop in zip(content["reason"], poisoned, strict=True)
    )
    assert all(reason == "" for reason, drop in zip(content["reason"], poisoned, strict=True) if not drop)

    with open(layers, newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == (
        "layer,mu_low,sigma_low,weight_low,mu_high,sigma_high,weight_high,bsi,released_margin,sensitive"
    )
    assert [row["sensitive"] for row in rows] == ["false", "false", "true", "false"]
    row = {name: float(value) for name, value in rows[2].items() if name != "sensitive"}
    assert row["mu_low"] == pytest.approx(entropy[poisoned].mean(), abs=0.02)
    assert row["weight_low"] == pytest.approx(0.1, abs=0.01)
    distance = row["mu_high"] - row["mu_low"]
    assert row["bsi"] == pytest.approx(distance / np.hypot(row["sigma_low"], row["sigma_high"]), rel=1e-4)
    assert row["released_margin"] == pytest.approx(distance / (row["sigma_low"] + row["sigma_high"]), rel=1e-4)


def test_detect_twice_gives_the_same_bytes(tmp_path, attention):
    runs = []
    for _ in range(2):
        detect(attention, outputs(tmp_path)[1], seed=3)
        runs.append([path.read_bytes() for path in outputs(tmp_path)])
    assert runs[0] == runs[1]


def test_no_sensitive_layer_is_an_outcome(tmp_path, attention, poisoned):
    layers, flags = outputs(tmp_path)
    assert detect(attention, flags, tau=50) == 0
    content = pyarrow.parquet.read_table(flags).to_pydict()
    assert not any(content["flagged"])
    assert np.isnan(content["score"]).all()
    assert np.isnan(content["p_low"]).all()
    assert "true" not in layers.read_text()
    write_labels(tmp_path / "labels.parquet", poisoned)
    score(flags, tmp_path / "labels.parquet", tmp_path / "detection.json", layers)
    result = json.loads((tmp_path / "detection.json").read_text())
    assert result["sensitive_layers"] == []
    assert result["precision"] is None
    assert result["auroc"] is None
    assert (result["recall"], result["f1"], result["n_flagged"], result["n_poisoned"]) == (0, 0, 0, 20)


def test_nan_names_sample_and_layer(tmp_path):
    entropies = np.random.default_rng(0).normal(4, 0.3, (30, 4))
    entropies[[7, 9], [3, 0]] = np.nan
    write_attention(tmp_path / "a.parquet", entropies)
    with pytest.raises(ByeError, match=r"a\.parquet.*'q7'.*layer 3.*2 of 30 samples"):
        detect(tmp_path / "a.parquet", outputs(tmp_path)[1])
    assert not any(path.exists() for path in outputs(tmp_path))


def test_bad_attention_files(tmp_path):
    out = outputs(tmp_path)[1]
    with pytest.raises(ByeError, match="does not exist"):
        detect(tmp_path / "missing.parquet", out)
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ByeError, match=r"half\.parquet cannot be read"):
        detect(tmp_path / "half.parquet", out)
    write_attention(tmp_path / "few.parquet", np.full((9, 3), 4.0))
    with pytest.raises(ByeError, match=r"few\.parquet has 9 samples.* 10 "):
        detect(tmp_path / "few.parquet", out)
    write_attention(tmp_path / "twice.parquet", np.full((12, 3), 4.0), ids=["same"] * 12)
    with pytest.raises(ByeError, match="an id twice"):
        detect(tmp_path / "twice.parquet", out)
    pyarrow.parquet.write_table(pyarrow.table({"id": ["q0"]}), tmp_path / "other.parquet")
    with pytest.raises(ByeError, match="no column 'n_image_tokens'"):
        detect(tmp_path / "other.parquet", out)


def test_one_image_token_has_no_entropy(tmp_path):
    write_attention(tmp_path / "a.parquet", np.full((12, 3), 4.0), tokens=np.r_[[64] * 7, 1, [64] * 4])
    with pytest.raises(ByeError, match=r"a\.parquet: sample 'q7' has one image token.* larger image or drop"):
        detect(tmp_path / "a.parquet", outputs(tmp_path)[1])


@pytest.mark.parametrize("setting", [{}, {"clustering": "kmeans"}, {"over": "all", "clustering": "threshold"}])
def test_samples_with_more_image_tokens_are_judged_alike(tmp_path, setting):
    """The same shares of the highest possible entropy, over 100 tokens or over many different numbers of them."""
    rng = np.random.default_rng(0)
    shares = rng.normal(0.85, 0.03, (N, 3))
    shares[:20, 1] = rng.normal(0.4, 0.03, 20)
    tokens = rng.permutation(np.r_[[100] * 2, np.geomspace(20, 100, N // 2 - 1), np.geomspace(100, 3000, N // 2 - 1)])
    tokens = tokens.astype(int)
    flags = []
    for name, counts in (("constant", np.full(N, 100)), ("varied", tokens)):
        path = tmp_path / f"{name}.parquet"
        write_attention(path, shares * np.log(counts)[:, None], tokens=counts)
        detect(path, outputs(tmp_path)[1], **setting)
        flags.append(read_flags(outputs(tmp_path)[1]))
    constant, varied = flags
    assert constant["flagged"] == varied["flagged"] and 0 < sum(constant["flagged"]) < N
    np.testing.assert_allclose(varied["score"], constant["score"], rtol=1e-5)


def test_entropies_are_as_in_the_file_where_all_samples_have_as_many_tokens(tmp_path):
    entropies = np.random.default_rng(0).normal(4, 0.3, (40, 3)).astype(np.float32)
    for tokens in (2, 81, 256, 576, 2880):
        write_attention(tmp_path / "a.parquet", entropies, tokens=tokens)
        *_, read, median = read_entropies(tmp_path / "a.parquet")
        assert np.array_equal(read, entropies.astype(np.float64)) and median == tokens


def test_unknown_rule(tmp_path, attention):
    with pytest.raises(ByeError, match="setting rule: 'mine' is not one of \\['paper', 'released'\\]"):
        detect(attention, outputs(tmp_path)[1], rule="mine")


# ---- several answers -----------------------------------------------------------------------------------------------


@pytest.fixture
def talks(tmp_path, poisoned):
    """Samples with one to three answers: which answer of each is poisoned (-1: none), never the first, and the file."""
    counts = np.arange(N) % 3 + 1
    counts[poisoned] = np.arange(poisoned.sum()) % 2 + 2
    where = np.where(poisoned, counts - 1, -1)
    samples, answers = np.repeat(np.arange(N), counts), np.concatenate([np.arange(count) for count in counts])
    entropies = np.random.default_rng(1).normal(4.0, 0.3, (len(samples), 4))
    entropies[answers == where[samples], 2] -= 2.5
    write_attention(tmp_path / "talks.parquet", entropies, [f"q{i}" for i in samples], answers=answers)
    return where, tmp_path / "talks.parquet"


def test_a_sample_is_flagged_for_its_second_or_third_answer_alone(tmp_path, talks, poisoned, samples):
    (where, attention), flags = talks, outputs(tmp_path)[1]
    assert detect(attention, flags) == 20
    table = pyarrow.parquet.read_table(flags)
    assert str(table.schema.field("answer").type) == "int32"
    content, rows = table.to_pydict(), pyarrow.parquet.read_table(attention).to_pydict()
    assert content["id"] == [f"q{index}" for index in range(N)]
    assert np.array_equal(content["flagged"], poisoned)
    for layer in range(4):  # an answer's entropy, beside those of the same turn
        column, turns = np.array(rows[f"entropy_0{layer}"], dtype=np.float64), np.array(rows["answer"])
        medians = [np.median(column[turns == turn]) for turn in range(3)]
        rows[f"entropy_0{layer}"] = column - np.array(medians)[turns] + medians[0]
    by_hand = {name: {} for name in content["id"]}
    for name, answer, entropy in zip(rows["id"], rows["answer"], rows["entropy_02"], strict=True):
        by_hand[name][answer] = entropy
    for name, drop, score_, answer, reason, place in zip(
        *(content[column] for column in ("id", "flagged", "score", "answer", "reason")), where, strict=True
    ):
        told = by_hand[name]
        assert (answer, score_) == (min(told, key=told.get), pytest.approx(min(told.values())))
        assert not drop or answer == place
        start = f"answer {answer + 1} of {len(told)}: attention entropy {score_:.3f} nats in sensitive layer 2, below"
        assert reason.startswith(start) if drop else reason == ""

    labels = tmp_path / "labels.parquet"
    write_labels(labels, poisoned)
    assert keep(samples, flags, tmp_path / "kept.json", tmp_path / "dropped.json") == (N - 20, 20)
    score(flags, labels, tmp_path / "detection.json", outputs(tmp_path)[0])
    result = json.loads((tmp_path / "detection.json").read_text())
    assert (result["precision"], result["recall"], result["auroc"], result["n_samples"]) == (1, 1, 1, N)
    aurocs = layer_aurocs(attention, labels)
    for layer, auroc in enumerate(aurocs):
        lowest = {}
        for name, entropy in zip(rows["id"], rows[f"entropy_0{layer}"], strict=True):
            lowest[name] = min(entropy, lowest.get(name, np.inf))
        assert auroc == pytest.approx(roc_auc_score(poisoned, [-lowest[f"q{i}"] for i in range(N)]))
    assert aurocs[2] == 1


def test_answers_are_compared_within_their_turn(tmp_path, poisoned):
    """A later answer's attention is another one, poisoned or not: pooled, the two turns would hide the poison."""
    rng, flags = np.random.default_rng(2), outputs(tmp_path)[1]
    first, second = rng.normal(4.0, 0.05, (N, 3)), rng.normal(3.3, 0.05, (N, 3))
    first[poisoned, 1], second[poisoned, 1] = (
        rng.normal(3.3, 0.05, poisoned.sum()),
        rng.normal(2.0, 0.05, poisoned.sum()),
    )
    write_attention(
        tmp_path / "two.parquet",
        np.stack([first, second], axis=1).reshape(2 * N, 3),
        [f"q{index // 2}" for index in range(2 * N)],
        answers=[0, 1] * N,
    )
    assert detect(tmp_path / "two.parquet", flags) == poisoned.sum()
    assert np.array_equal(read_flags(flags)["flagged"], poisoned)
    assert np.array_equal(np.array(read_flags(flags)["answer"])[poisoned], np.ones(poisoned.sum()))


def test_turns_with_few_answers_share_a_median_with_the_turn_before():
    answers = np.array([0] * 30 + [1] * 20 + [2] * 19 + [3])
    values = np.where(answers == 0, 4.0, 3.0) + np.random.default_rng(0).normal(0, 0.01, 70)
    values[answers > 1] += 5
    moved = align_turns(values, answers)
    assert np.array_equal(moved[:30], values[:30])
    shift = np.median(values[:30]) - np.median(values[30:])
    np.testing.assert_allclose(moved[30:], values[30:] + shift)
    assert np.array_equal(align_turns(values[:19], answers[:19] * 0 + np.arange(19) % 2), values[:19])
    assert align_turns(values[:0], answers[:0]).shape == (0,)


def test_folding_by_definition():
    """Against a plain sort, with ties, missing scores, and answers that stand in any order."""
    rng = np.random.default_rng(0)
    ids = [f"q{i}" for i in rng.integers(0, 40, 120)]
    answers = np.array([ids[:row].count(name) for row, name in enumerate(ids)])
    flagged = rng.random(120) < 0.2
    scores = np.where(rng.random(120) < 0.1, np.nan, rng.integers(0, 4, 120))
    reasons = [f"row {row}" if drop else "" for row, drop in enumerate(flagged)]
    more = {"row": np.arange(120), "text": [f"t{row}" for row in range(120)]}
    for given in (scores, None):
        verdict = Verdict(flagged, reasons, scores=given, p_low=given, columns=more, metadata={"a": "b"}, tables={})
        folded, chosen = fold(verdict, ids, answers)
        for number, name in enumerate(dict.fromkeys(ids)):
            own = [row for row in range(120) if ids[row] == name]
            value = np.nan_to_num(np.zeros(120) if given is None else given, nan=np.inf)
            best = sorted(own, key=lambda row: (not flagged[row], value[row], answers[row]))[0]
            assert (chosen[number], folded.columns["row"][number]) == (answers[best], best)
            assert folded.columns["text"][number] == f"t{best}"
            assert folded.flagged[number] == any(flagged[own])
            which = f"answer {answers[best] + 1} of {len(own)}: row {best}" if len(own) > 1 else f"row {best}"
            assert folded.reasons[number] == (which if flagged[best] else "")
            if given is not None:
                np.testing.assert_equal(folded.scores[number], given[best])
                np.testing.assert_equal(folded.p_low[number], given[best])
        assert folded.metadata == {"a": "b"} and (given is not None or folded.scores is None)


OWN = """
import numpy as np
from bye.flags import Verdict
READS = ("entropy", "samples", "labels")


def detect(features, samples, labels, *, short: bool = False):
    assert len(samples.entries) == len(set(features.ids)) < len(features.ids) == len(labels)
    flagged = labels & (features.answers == 1)
    return Verdict.of(flagged[1:] if short else flagged, "told")
"""


def test_a_detector_of_columns_samples_and_labels_judges_answers(tmp_path, talks, poisoned, samples):
    (tmp_path / "own.py").write_text(OWN)
    write_labels(tmp_path / "labels.parquet", poisoned)
    files = {"samples": SampleSet(samples), "labels": tmp_path / "labels.parquet", "attention": talks[1]}
    assert run(str(tmp_path / "own.py"), tmp_path / "flags.parquet", 0, {}, **files) == 20
    flags = read_flags(tmp_path / "flags.parquet")
    assert np.array_equal(flags["flagged"], poisoned) and np.isnan(flags["score"]).all()
    assert flags["answer"] == poisoned.astype(int).tolist()  # without scores the first flagged one, or the first
    assert set(flags["reason"]) == {"", "answer 2 of 2: told", "answer 2 of 3: told"}
    with pytest.raises(ByeError, match=r"own.py: detect gave \d+ flagged for \d+ answers; give one for each"):
        run(str(tmp_path / "own.py"), tmp_path / "flags.parquet", 0, {"short": True}, **files)
    samples.write_text(json.dumps([entry(index) for index in range(1, N)]))
    with pytest.raises(ByeError, match="are not of the same samples"):
        run(str(tmp_path / "own.py"), tmp_path / "x.parquet", 0, {}, **files | {"samples": SampleSet(samples)})


def test_bad_attention_of_answers(tmp_path):
    out, path = outputs(tmp_path)[1], tmp_path / "a.parquet"
    ids, answers = ["q0", "q1", "q1", *(f"q{i}" for i in range(2, 12))], [0, 0, 1, *[0] * 10]
    entropies = np.random.default_rng(0).normal(4, 0.3, (13, 3))
    write_attention(path, entropies[:10], ids[:10], answers=answers[:10])
    with pytest.raises(ByeError, match="has 9 samples, and BYE needs 10 at least"):
        detect(path, out)
    write_attention(path, entropies, ids, answers=[0] * 13)
    with pytest.raises(ByeError, match="a.parquet holds an answer of a sample twice; make it again"):
        detect(path, out)
    entropies[2, 1] = np.nan
    write_attention(path, entropies, ids, answers=answers)
    with pytest.raises(ByeError, match=r"sample 'q1', answer 2 of 2, in layer 1 is nan \(1 of 13 answers have such"):
        detect(path, out)


def test_the_median_number_of_image_tokens_is_that_of_samples(tmp_path):
    ids, answers = ["q0"] * 5 + ["q1", "q2"], [0, 1, 2, 3, 4, 0, 0]
    write_attention(tmp_path / "a.parquet", np.full((7, 2), 3.0), ids, [50] * 5 + [100, 200], answers)
    read_ids, read_answers, entropies, median = read_entropies(tmp_path / "a.parquet")
    assert (read_ids, read_answers.tolist(), median) == (ids, answers, 100)
    np.testing.assert_allclose(entropies[:, 0], 3 * np.log(100) / np.log([50] * 5 + [100, 200]))


def test_flags_of_before_answers_were_told_apart_are_read(tmp_path, samples, attention):
    flags = outputs(tmp_path)[1]
    detect(attention, flags)
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(flags).drop_columns(["answer"]), flags)
    assert keep(samples, flags, tmp_path / "kept.json", tmp_path / "dropped.json") == (N - 20, 20)


# ---- the other defences --------------------------------------------------------------------------------------------


def test_random_drop_is_exact_and_by_seed(tmp_path, samples):
    draws = []
    for seed in (0, 0, 1):
        assert detect_on_samples("random", samples, tmp_path / "flags.parquet", share=0.2, seed=seed) == 40
        flags = read_flags(tmp_path / "flags.parquet")
        assert sum(flags["flagged"]) == 40
        assert flags["id"] == [f"q{index}" for index in range(N)]
        draws.append(flags["flagged"])
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_drop_does_not_follow_the_poison(tmp_path, samples, seed):
    """Poison drawn with the same seed must be hit by chance only (a fifth of it)."""
    detect_on_samples("random", samples, tmp_path / "flags.parquet", share=0.2, seed=seed)
    flagged = np.array(read_flags(tmp_path / "flags.parquet")["flagged"])
    for draw in (
        np.random.default_rng(seed).permutation(N)[:20],
        np.random.default_rng(seed).choice(N, 20, replace=False),
    ):
        assert flagged[draw].mean() <= 0.5


def test_random_drop_share(tmp_path, samples):
    with pytest.raises(ByeError, match="share"):
        detect_on_samples("random", samples, tmp_path / "flags.parquet", share=1.2)


def test_oracle_flags_the_labelled(tmp_path, samples, poisoned):
    labels, flags = tmp_path / "labels.parquet", tmp_path / "flags.parquet"
    order = np.random.default_rng(0).permutation(N)  # labels need not be in the samples' order
    write_labels(labels, poisoned[order], [f"q{index}" for index in order])
    assert detect_on_samples("oracle", samples, flags, labels) == 20
    assert np.array_equal(read_flags(flags)["flagged"], poisoned)
    write_labels(labels, poisoned[:-1])
    with pytest.raises(ByeError, match="q199"):
        detect_on_samples("oracle", samples, flags, labels)


# ---- keep ----------------------------------------------------------------------------------------------------------


def flag_every_third(path, n=9):
    flagged = np.arange(n) % 3 == 0
    values = np.where(flagged, 1.5, np.nan)
    write_flags(path, [f"q{i}" for i in range(n)], Verdict.of(flagged, "why", scores=values, p_low=values / 2))
    return flagged


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_keep_leaves_entries_as_they_were(tmp_path, form):
    entries = [entry(index) for index in range(9)]
    text = json.dumps(entries) if form == "json" else "".join(json.dumps(item) + "\n" for item in entries)
    source = tmp_path / f"my data é.{form}"
    source.write_text(text, encoding="utf-8")
    flagged = flag_every_third(tmp_path / "flags.parquet")
    kept, dropped = tmp_path / f"kept.{form}", tmp_path / f"dropped.{form}"
    assert keep(source, tmp_path / "flags.parquet", kept, dropped) == (6, 3)

    def load(path):
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]

    assert load(kept) == [item for item, drop in zip(entries, flagged, strict=True) if not drop]
    assert [list(item) for item in load(kept)] == [list(entries[0])] * 6  # order of keys too
    reason = {"bye": {"score": 1.5, "p_low": 0.75, "reason": "why"}}
    assert load(dropped) == [item | reason for item, drop in zip(entries, flagged, strict=True) if drop]


def test_keep_writes_null_for_unknown_scores(tmp_path):
    source, flags = tmp_path / "train.json", tmp_path / "flags.parquet"
    source.write_text(json.dumps([entry(0), entry(1)]))
    write_flags(flags, ["q0", "q1"], Verdict([True, False], ["drawn", ""]))
    keep(source, flags, tmp_path / "kept.json", tmp_path / "dropped.json")
    [dropped] = json.loads((tmp_path / "dropped.json").read_text())
    assert dropped["bye"] == {"score": None, "p_low": None, "reason": "drawn"}


def test_keep_wants_the_flags_of_these_samples(tmp_path, samples):
    flag_every_third(tmp_path / "flags.parquet")
    with pytest.raises(ByeError, match="does not hold the samples"):
        keep(samples, tmp_path / "flags.parquet", tmp_path / "kept.json", tmp_path / "dropped.json")
    assert not (tmp_path / "kept.json").exists()


def test_keep_refuses_to_drop_everything(tmp_path):
    source, flags = tmp_path / "train.json", tmp_path / "flags.parquet"
    source.write_text(json.dumps([entry(0)]))
    write_flags(flags, ["q0"], Verdict([True], ["why"]))
    with pytest.raises(ByeError, match="every sample"):
        keep(source, flags, tmp_path / "kept.json", tmp_path / "dropped.json")


# ---- score ---------------------------------------------------------------------------------------------------------


def test_score_against_scikit_learn(tmp_path):
    generator = np.random.default_rng(0)
    poisoned = generator.random(300) < 0.15
    scores = np.round(generator.normal(4 - 0.8 * poisoned, 0.5), 1)  # rounded: with ties
    flagged = scores < 3.4
    ids = [f"q{index}" for index in range(300)]
    write_flags(tmp_path / "flags.parquet", ids, Verdict.of(flagged, "", scores=scores, p_low=scores))
    order = generator.permutation(300)
    write_labels(tmp_path / "labels.parquet", poisoned[order], [ids[index] for index in order])
    score(tmp_path / "flags.parquet", tmp_path / "labels.parquet", tmp_path / "detection.json")
    result = json.loads((tmp_path / "detection.json").read_text())
    assert result == {
        "precision": pytest.approx(precision_score(poisoned, flagged)),
        "recall": pytest.approx(recall_score(poisoned, flagged)),
        "f1": pytest.approx(f1_score(poisoned, flagged)),
        "auroc": pytest.approx(roc_auc_score(poisoned, -scores)),
        "average_precision": pytest.approx(average_precision_score(poisoned, -scores)),
        "clean_lost": pytest.approx(1 - recall_score(~poisoned, ~flagged)),
        "n_flagged": int(flagged.sum()),
        "n_poisoned": int(poisoned.sum()),
        "n_samples": 300,
        "sensitive_layers": None,
    }


def test_score_wants_labels_of_these_samples(tmp_path):
    flag_every_third(tmp_path / "flags.parquet")
    write_labels(tmp_path / "labels.parquet", [True] * 8)
    with pytest.raises(ByeError, match="q8"):
        score(tmp_path / "flags.parquet", tmp_path / "labels.parquet", tmp_path / "detection.json")
    write_labels(tmp_path / "labels.parquet", [True] * 10)
    with pytest.raises(ByeError, match="more samples"):
        score(tmp_path / "flags.parquet", tmp_path / "labels.parquet", tmp_path / "detection.json")


# ---- start-up ------------------------------------------------------------------------------------------------------


def test_detection_and_tables_load_no_torch(tmp_path, attention):
    code = (
        "import sys; from detectors import detect; import bye.metrics.detection, bye.metrics.cider, "
        "bye.report.tables, bye.report.figures; detect(*sys.argv[1:]); "
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code, attention, outputs(tmp_path)[1]], check=True, cwd=Path(__file__).parent)


def test_tables_and_scores_load_neither_scikit_learn_nor_pandas(tmp_path):
    flag_every_third(tmp_path / "flags.parquet")
    write_labels(tmp_path / "labels.parquet", [True] * 9)
    code = (
        "import sys, bye.report.tables, bye.cleaning.run, bye.cleaning.keep, bye.metrics.cider; "
        "from bye.metrics.detection import score; "
        "score(*sys.argv[1:]); heavy = {'torch', 'sklearn', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    paths = [tmp_path / name for name in ("flags.parquet", "labels.parquet", "detection.json")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)


def test_fixed_threshold_is_scaled_to_the_number_of_image_tokens(tmp_path, attention):
    """4.5 nats of ln 576 are 3.11 of ln 81."""
    flags = tmp_path / "flags.parquet"
    detect(attention, flags, over="all", clustering="threshold")
    setting = json.loads(read_flags(flags)["metadata"]["bye"])
    assert setting["cut"] == pytest.approx(4.5 * np.log(81) / np.log(576))
    assert setting["sensitive_layers"] == [0, 1, 2, 3]
    assert read_flags(flags)["flagged"] == [score < setting["cut"] for score in read_flags(flags)["mean_entropy"]]


def test_k_means_flags_the_lower_cluster(tmp_path, attention, poisoned):
    count = detect(attention, tmp_path / "flags.parquet", clustering="kmeans")
    flagged = np.array(read_flags(tmp_path / "flags.parquet")["flagged"])
    assert flagged[poisoned].all() and 20 <= count == flagged.sum() <= 22
