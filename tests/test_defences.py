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

from bye.cleaning.keep import keep
from bye.errors import ByeError
from bye.features import read_entropies
from bye.flags import Verdict, read_flags, write_flags
from bye.metrics.detection import score

N = 200  # samples


def write_attention(path, entropies, ids=None, tokens=81):
    """Write entropies (n_samples, n_layers) as the attention stage does."""
    columns = {"id": ids or [f"q{index}" for index in range(len(entropies))]}
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
        _, read, median = read_entropies(tmp_path / "a.parquet")
        assert np.array_equal(read, entropies.astype(np.float64)) and median == tokens


def test_unknown_rule(tmp_path, attention):
    with pytest.raises(ByeError, match="setting rule: 'mine' is not one of \\['paper', 'released'\\]"):
        detect(attention, outputs(tmp_path)[1], rule="mine")


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
