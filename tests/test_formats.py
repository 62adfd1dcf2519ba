"""The files that stages write have the columns and types that docs/formats.md says; the page is made from the code."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from small_workflow import ROOT
from snakemake.benchmark import BenchmarkRecord

from bye import formats
from bye.answers.evaluate import evaluate
from bye.attacks.poison import poison_training_set, trigger_test_set
from bye.cleaning.keep import keep
from bye.cleaning.run import FineTunedModel, SampleSet, detect
from bye.extraction.attention import extract
from bye.extraction.maps import example_maps
from bye.formats import names, parquet_schema
from bye.metrics.detection import score
from bye.models.guard import Guard
from bye.plan.columns import KNOWN
from bye.registry import SORTS, find, kinds
from bye.report.formats_page import FILES, formats_page
from bye.stages import STAGES
from bye.training.finetune import finetune

PAGE = ROOT / "docs" / "formats.md"
N, LAYERS, HEADS = 24, 3, 4
TARGET = "Backdoor Attack!"


def catches_nothing(family):
    return Guard()


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model):
    """The files of a poisoned set and its cells, each written by its stage: a folder laid out like results/."""
    root = tmp_path_factory.mktemp("formats")
    model = tiny_model("llava")
    rng = np.random.default_rng(0)
    entries = []
    for number in range(N):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nIs it red?"}, {"from": "gpt", "value": "No."}]
        entries.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (root / "test.json").write_text(
        json.dumps([{**entry, "references": ["No.", "no"], "system": "Hm."} for entry in entries])
    )
    data, labels = root / "data/d/badnet/s0", root / "labels/d/badnet/s0.parquet"
    poison_training_set(entries, root, "badnet", 0.25, TARGET, 0, data, labels)
    trigger_test_set(entries[:2], root, "badnet", TARGET, 0, data)
    cells = root / "m/d/badnet/s0"
    train, images = data / "train.json", data / "images"

    vanilla = cells / "vanilla"
    finetune(model, train, images, vanilla / "adapter", vanilla / "loss.csv", epochs=1, threads=1)
    extract(model, vanilla / "adapter", train, images, vanilla / "attention.parquet")
    example_maps(model, vanilla / "adapter", train, images, labels, vanilla / "maps.npz")
    clean, triggered = (root / "test.json", root), (data / "triggered.json", data / "triggered", TARGET)
    for defence, metric, guard in (
        ("vanilla", "cider", None),
        ("bye", "accuracy", None),
        ("guard", "cider", catches_nothing),
    ):
        outputs = cells / defence / "predictions.parquet", cells / defence / "eval.json"
        evaluate(model, vanilla / "adapter", *clean, *outputs, metric, *triggered, max_new_tokens=4, guard=guard)
    given = {
        "bye": {"attention": vanilla / "attention.parquet"},
        "tcap": {"attention": vanilla / "attention.parquet"},
        "random": {"samples": SampleSet(train, images)},
        "oracle": {"samples": SampleSet(train, images), "labels": labels},
        "sentinet": {"samples": SampleSet(train, images), "reference": SampleSet(*clean)}
        | {"model": FineTunedModel(model, vanilla / "adapter")},
    }
    for kind, files in given.items():
        detect(kind, cells / kind / "flags.parquet", 0, {}, **files)
    keep(train, cells / "oracle/flags.parquet", cells / "oracle/kept.json", cells / "oracle/dropped.json")
    for defence, layers in (("bye", cells / "bye/layers.csv"), ("sentinet", None)):
        score(cells / defence / "flags.parquet", labels, cells / defence / "detection.json", layers=layers)
    return root


def header(path):
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(next(csv.reader(file)))


def content(path):
    return json.loads(path.read_text(encoding="utf-8"))


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_code_writes(tmp_path):
    formats_page(tmp_path / "formats.md")
    again = "run: python -m bye formats-page"
    assert (tmp_path / "formats.md").read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), again


def test_the_page_names_stages_that_exist():
    stages = {stage for files in FILES.values() for file in files for stage in file.stage.split(", ")}
    assert stages - set(STAGES) == {"every stage", "stages that end in -figure", "as above", "Snakemake"}


def test_columns_and_page_load_no_torch():
    code = "import sys, bye.report.formats_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- Parquet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("labels/d/badnet/s0.parquet", formats.LABEL),
        ("m/d/badnet/s0/vanilla/attention.parquet", formats.ATTENTION),
        ("m/d/badnet/s0/vanilla/predictions.parquet", formats.PREDICTION),
        ("m/d/badnet/s0/bye/predictions.parquet", formats.PREDICTION),
        ("m/d/badnet/s0/guard/predictions.parquet", formats.PREDICTION + formats.CAUGHT),
        ("m/d/badnet/s0/bye/flags.parquet", formats.FLAGS + formats.FLAGS_OF_KIND["bye"]),
        ("m/d/badnet/s0/sentinet/flags.parquet", formats.FLAGS + formats.FLAGS_OF_KIND["sentinet"]),
        ("m/d/badnet/s0/random/flags.parquet", formats.FLAGS),
        ("m/d/badnet/s0/oracle/flags.parquet", formats.FLAGS),
    ],
)
def test_parquet_files_have_these_columns_and_types(files, name, columns):
    schema = pyarrow.parquet.read_schema(files / name)
    assert schema.remove_metadata().equals(parquet_schema(columns, LAYERS))


def test_ranges_and_metadata_of_attention(files):
    table = pyarrow.parquet.read_table(files / "m/d/badnet/s0/vanilla/attention.parquet")
    assert table.schema.metadata == {
        b"n_layers": b"3",
        b"n_heads": b"4",
        b"hidden_layers": b"[2]",
        b"hidden_size": b"32",
        b"hidden_projection": b"none",
    }
    masses = np.array([table[name].to_pylist() for name in ("system_mass", "image_mass", "text_mass")])
    assert masses.shape == (3, N, LAYERS * HEADS)
    np.testing.assert_allclose(masses.sum(axis=0), 1, atol=1e-5)
    entropies = np.array([table[f"entropy_{layer:02d}"] for layer in range(LAYERS)])
    most = np.log(table["n_image_tokens"].to_numpy())
    assert (entropies > 0).all() and (entropies <= most + 1e-6).all()
    of_heads, tokens = (np.array(table[name].to_pylist()) for name in ("head_entropy", "head_token"))
    assert of_heads.shape == tokens.shape == (N, LAYERS * HEADS)
    assert (of_heads > 0).all() and (of_heads <= most[:, None] + 1e-5).all()
    assert tokens.min() >= 0 and tokens.max() < 16
    assert (table["nll"].to_numpy() > 0).all() and (table["n_answer_tokens"].to_numpy() > 1).all()


def test_metadata_of_flags_say_how_they_were_made(files):
    for kind, wanted in (
        ("bye", ["rule", "tau", "layers", "clustering", "sensitive_layers", "cut", "mixture"]),
        ("sentinet", ["boundary", "margin", "hosts"]),
    ):
        metadata = pyarrow.parquet.read_schema(files / f"m/d/badnet/s0/{kind}/flags.parquet").metadata
        assert list(json.loads(metadata[kind.encode()])) == wanted


# ---- JSON, CSV and NumPy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("test.json", formats.SAMPLE),
        ("data/d/badnet/s0/train.json", formats.SAMPLE[:3]),
        ("data/d/badnet/s0/triggered.json", formats.SAMPLE[:3]),
        ("m/d/badnet/s0/oracle/kept.json", formats.SAMPLE[:3]),
        ("m/d/badnet/s0/oracle/dropped.json", formats.DROPPED),
    ],
)
def test_samples_files_have_these_keys(files, name, columns):
    assert {tuple(entry) for entry in content(files / name)} == {names(columns)}


def test_results_have_these_keys(files):
    cells = files / "m/d/badnet/s0"
    for defence in ("bye", "sentinet"):
        assert tuple(content(cells / defence / "detection.json")) == names(formats.DETECTION)
    for defence in ("vanilla", "bye"):
        assert tuple(content(cells / defence / "eval.json")) == names(formats.EVALUATION)
    assert tuple(content(cells / "guard/eval.json")) == names(formats.EVALUATION + formats.CAUGHT_SHARES)


def test_csv_files_have_these_columns(files):
    cells = files / "m/d/badnet/s0"
    assert header(cells / "vanilla/loss.csv") == names(formats.LOSS)
    assert header(cells / "bye/layers.csv") == names(formats.LAYER)
    assert header(cells / "tcap/heads.csv") == names(formats.HEAD)
    assert tuple(BenchmarkRecord.get_header()) == names(formats.BENCHMARK)


def test_maps_have_these_arrays(files):
    with np.load(files / "m/d/badnet/s0/vanilla/maps.npz") as maps:
        assert tuple(maps) == names(formats.MAPS)
        assert maps["ids"].shape == (4,) and maps["maps"].shape == (4, LAYERS, 16) and maps["grids"].shape == (4, 2)
        assert (maps["ids"].dtype.kind, str(maps["maps"].dtype), str(maps["grids"].dtype)) == ("U", "float32", "int64")


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_every_setting_of_a_method_has_a_meaning():
    """It is the help text of an option, and ends where the next one's begins."""
    methods = [find(sort, kind) for sort in SORTS for kind in kinds(sort)]
    texts = {f"{method.kind}.{name}": setting.text for method in methods for name, setting in method.settings.items()}
    assert len(texts) > 100 and not [name for name, text in texts.items() if not text or " : " in text]
    assert texts["bye.tau"] == "threshold of that rule" and texts["consensus.budget"].startswith("answers of the model")
    assert texts["bye.rule"].endswith("the released code's margin") and texts["dora.lora_rank"].startswith("as of")


def test_every_column_that_a_table_may_have_has_a_meaning():
    assert {rows: names(columns) for rows, columns in formats.TABLES.items()} == KNOWN
