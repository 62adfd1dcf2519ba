"""The entropy histogram: what it says, and that it is a picture."""

import re

import matplotlib
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from detectors import detect, detect_on_samples
from matplotlib.axes import Axes
from PIL import Image

from bye.data.samples import write_samples
from bye.errors import ByeError
from bye.report.figures import (
    HIGH,
    LOW,
    SERIES,
    bars_figure,
    designs_figure,
    entropy_figure,
    histograms_figure,
    layers_figure,
    maps_figure,
    poison_rate_figure,
    purified_figure,
    triggers_figure,
)
from bye.report.gallery import gallery
from bye.report.guarded import ratios_figure
from bye.report.matrix import false_alarms_figure, matrix_figure


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


BLUE, ORANGE = rgb(HIGH), rgb(LOW)


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the detector on 300 samples and gives the paths of flags and layers."""

    def run(tau=2.0, spread=0.2):
        generator = np.random.default_rng(0)
        entropies = 4.0 + spread * generator.normal(size=(300, 3))
        entropies[:30, 1] -= 10 * spread
        columns = {"id": [f"q{index}" for index in range(300)], "n_image_tokens": [81] * 300}
        columns |= {f"entropy_{layer:02d}": column for layer, column in enumerate(entropies.T)}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "attention.parquet")
        flags, layers = tmp_path / "flags.parquet", tmp_path / "layers.csv"
        detect(tmp_path / "attention.parquet", flags, tau=tau)
        return flags, layers

    return run


@pytest.fixture
def drawn(monkeypatch):
    """Collect the text that a figure gets."""
    texts = []
    for name in ("set_title", "set_xlabel"):
        plain = getattr(Axes, name)
        monkeypatch.setattr(
            Axes, name, lambda self, text, *a, _plain=plain, **k: texts.append(text) or _plain(self, text, *a, **k)
        )
    return texts


def has_colour(path, colour):
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    return (np.abs(pixels - colour).max(axis=1) <= 8).sum() > 50


def test_figure_of_a_run(tmp_path, run, drawn):
    flags, layers = run()
    entropy_figure(flags, tmp_path / "a.png", layers=layers)
    assert drawn == ["mean attention entropy over the sensitive layer (nats)", "30 of 300 samples flagged, by layer 1"]
    assert has_colour(tmp_path / "a.png", BLUE)
    assert has_colour(tmp_path / "a.png", ORANGE)
    assert Image.open(tmp_path / "a.png").size[0] > 800


def test_same_input_same_bytes_whatever_the_user_set(tmp_path, run):
    flags, layers = run()
    entropy_figure(flags, tmp_path / "a.png", layers=layers)
    with matplotlib.rc_context({"font.size": 30, "figure.dpi": 30}):
        entropy_figure(flags, tmp_path / "b.png", layers=layers)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in (tmp_path / "a.png").read_bytes()


def test_labels_decide_the_colours(tmp_path, run):
    flags, _ = run()
    labels = tmp_path / "labels.parquet"
    ids = [f"q{index}" for index in range(300)]
    pyarrow.parquet.write_table(pyarrow.table({"id": ids, "poisoned": [False] * 300}), labels)
    entropy_figure(flags, tmp_path / "a.png", labels=labels)
    assert has_colour(tmp_path / "a.png", BLUE)
    assert not has_colour(tmp_path / "a.png", ORANGE)
    pyarrow.parquet.write_table(pyarrow.table({"id": ids[1:], "poisoned": [False] * 299}), labels)
    with pytest.raises(ByeError, match="'q0'"):
        entropy_figure(flags, tmp_path / "a.png", labels=labels)


def test_no_sensitive_layer_is_told(tmp_path, run, drawn):
    flags, layers = run(tau=40)
    entropy_figure(flags, tmp_path / "a.png", layers=layers)
    xlabel, title = drawn
    assert xlabel == "mean attention entropy over all layers (nats)"
    assert title.startswith("No sensitive layer: nobody is flagged (highest BSI ")
    assert title.endswith("needed 40)")
    assert has_colour(tmp_path / "a.png", BLUE)
    assert not has_colour(tmp_path / "a.png", ORANGE)


def test_identical_samples(tmp_path, run):
    flags, layers = run(spread=0.0)
    entropy_figure(flags, tmp_path / "a.png", layers=layers)
    assert has_colour(tmp_path / "a.png", BLUE)


def test_flags_of_another_defence(tmp_path):
    (tmp_path / "train.json").write_text('[{"id": "q0"}, {"id": "q1"}]')
    detect_on_samples("random", tmp_path / "train.json", tmp_path / "flags.parquet", share=0.5)
    with pytest.raises(ByeError, match="needs the flags of the bye detector"):
        entropy_figure(tmp_path / "flags.parquet", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


# ---- figures of many cells -------------------------------------------------------------------------------------------


def test_histograms_of_many_cells(tmp_path, run, drawn):
    flags, _ = run()
    cells = {("a", "x"): (flags, None), ("a", "y"): (flags, None), ("b", "x"): (flags, None)}
    for name in ("figure3.png", "figure3.pdf", "again.pdf"):
        histograms_figure(cells, tmp_path / name)
    assert drawn[:4] == ["x, layer 1", "y, layer 1", "x, layer 1", "mean entropy (nats)"]
    assert has_colour(tmp_path / "figure3.png", ORANGE)
    assert (tmp_path / "figure3.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figure3.pdf").read_bytes() == (tmp_path / "again.pdf").read_bytes()


def test_bars_of_a_table(tmp_path):
    rows = ["model,variant,dataset,f1", "m,a,x,50.00", "m,b,x,75.00", "m,a,y,", "m,b,y,100.00"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    bars_figure(tmp_path / "table.csv", tmp_path / "a.png", "variant", "f1", "F1 (%)")
    assert has_colour(tmp_path / "a.png", rgb(SERIES[0])) and has_colour(tmp_path / "a.png", rgb(SERIES[1]))


DRAWN = {  # a figure of a table, and a column of it with numbers
    "layers": (lambda table, out: layers_figure(table, out, 2.0), "bsi"),
    "poison rate": (poison_rate_figure, "rate"),
    "bars": (lambda table, out: bars_figure(table, out, "variant", "f1", "F1 (%)"), "f1"),
    "matrix": (matrix_figure, "f1"),
    "false alarms": (false_alarms_figure, "worst"),
}
COLUMNS = ["model", "dataset", "method", "variant", "trigger", "size", "sensitive"]
NUMBERS = ["layer", "bsi", "auroc", "rate", "f1", "recall", "precision", "dropped", "ASR", "ASR_vanilla", "clean_lost"]


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(
    ("lacking", "numbers", "told"),
    [
        (False, [], "table.csv has no rows to draw; make its cells first"),
        (True, ["1.00"], "table.csv has no column {}; give one that has, or make it anew"),
        (False, ["1.00", "a few"], "table.csv: {} of row 2 is 'a few', which is no number; make the table anew"),
        (False, ["a few"] * 9, "{0} of row 4 is 'a few', {0} of row 5 is 'a few', and 4 more, which is no number"),
    ],
)
def test_a_table_that_cannot_be_drawn_is_told(tmp_path, name, lacking, numbers, told):
    draw, column = DRAWN[name]
    header = [each for each in (*COLUMNS, *NUMBERS, "worst") if not (lacking and each == column)]
    lines = [",".join(number if each == column else "1" for each in header) for number in numbers]
    (tmp_path / "table.csv").write_text("\n".join([",".join(header), *lines]))
    with pytest.raises(ByeError, match=re.escape(told.format(column))):
        draw(tmp_path / "table.csv", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_number_that_may_not_be_left_out_is_told(tmp_path):
    (tmp_path / "table.csv").write_text("model,dataset,layer,bsi,auroc,sensitive\nm,x,0,,,true\nm,x\n")
    with pytest.raises(
        ByeError, match=r"bsi of row 1 is '', layer of row 2 is None, bsi of row 2 is None, which is no"
    ):
        layers_figure(tmp_path / "table.csv", tmp_path / "a.png", 2.0)


@pytest.mark.parametrize("n", [2, 30])
def test_layers(tmp_path, monkeypatch, n):
    turned, annotate = [], Axes.annotate
    monkeypatch.setattr(Axes, "annotate", lambda *a, **k: turned.append(k.get("rotation")) or annotate(*a, **k))
    rows = ["model,dataset,layer,bsi,auroc,sensitive", *(f"m,x,{layer},1.10,0.52,false" for layer in range(n - 1))]
    (tmp_path / "layers.csv").write_text("\n".join([*rows, f"m,x,{n - 1},3.00,0.99,true"]))
    layers_figure(tmp_path / "layers.csv", tmp_path / "a.png", 2.0)
    assert turned == [90 if n == 30 else None] * n
    assert has_colour(tmp_path / "a.png", BLUE) and has_colour(tmp_path / "a.png", ORANGE)


# ---- figures of single samples ---------------------------------------------------------------------------------------


@pytest.fixture
def examples(tmp_path):
    """Files of two clean and two poisoned samples with maps of three layers."""
    rng = np.random.default_rng(0)
    entries, maps = [], np.full((4, 3, 81), 1 / 81, dtype=np.float32)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        turns = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A"}]
        entries.append({"id": f"q{index}", "image": f"{index}.png", "conversations": turns})
    maps[2:, 1] = 0
    maps[2:, 1, 40] = 1
    write_samples(tmp_path / "train.json", entries)
    labels = {"id": [f"q{index}" for index in range(4)], "poisoned": [False, False, True, True]}
    pyarrow.parquet.write_table(pyarrow.table(labels), tmp_path / "labels.parquet")
    maps[0, :, :15], maps[0, :, 15:] = 1 / 15, 0
    grids = np.array([(9, 9)] * 3 + [(3, 5)])
    np.savez(tmp_path / "maps.npz", ids=np.array(labels["id"])[::-1], maps=maps[::-1], grids=grids)
    return tmp_path / "maps.npz", tmp_path / "train.json", tmp_path, tmp_path / "labels.parquet"


def test_maps_over_the_layers_clean_above_poisoned(tmp_path, examples, drawn, monkeypatch):
    for name in ("figure2.png", "figure2.pdf"):
        maps_figure([("badnet", *examples)], tmp_path / name)
    half = len(drawn) // 2
    first = [text for layer in range(3) for text in ("4.39 nats", f"layer {layer}")]
    assert drawn[:half] == ["image", *first, *["2.71 nats"] * 3, *["4.39 nats", "0.00 nats", "4.39 nats"] * 2]
    assert Image.open(tmp_path / "figure2.png").size[0] > 600
    drawn.clear()
    monkeypatch.setattr("bye.report.figures.LAYERS", 2)  # the third goes below, beside an empty place
    maps_figure([("badnet", *examples)], tmp_path / "blocks.png")
    below = ["image", "4.39 nats", "layer 2", "2.71 nats", "4.39 nats", "4.39 nats"]
    assert drawn == ["image", *first[:4], *["2.71 nats"] * 2, *["4.39 nats", "0.00 nats"] * 2, *below]


def test_triggers_are_shown_in_their_sharpest_layer(tmp_path, examples, drawn):
    triggers_figure([("one", *examples), ("two", *examples)], tmp_path / "figure5.pdf")
    assert drawn == ["one", "layer 1, 0.00 nats", "two", "layer 1, 0.00 nats"]


def test_designs_are_shown_with_what_they_change(tmp_path, drawn, monkeypatch):
    said, draw = [], Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, *a, **k: said.append(a[2]) or draw(self, *a, **k))
    grey = np.full((30, 30, 3), 100, dtype=np.uint8)
    darker = grey.copy()
    darker[10:20, 10:20] -= 51
    sets = {}
    for name, pixels, question in (("plain", grey, "Q?"), ("patch", darker, "Q?"), ("words", grey, "Hello! Q?")):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "A"}]
        write_samples(tmp_path / f"{name}.json", [{"id": "q0", "image": "0.png", "conversations": turns}])
        sets[name] = (tmp_path / f"{name}.json", tmp_path / name)
    plain = sets.pop("plain")
    designs_figure(plain, sets, tmp_path / "designs.png", columns=2)
    psnr = 10 * np.log10(255**2 / (51**2 / 9))
    assert drawn == ["no trigger", "patch", f"change up to 51, {psnr:.0f} dB", "words"]
    assert said == ["Q?", "Hello! Q?"]
    assert has_colour(tmp_path / "designs.png", (0, 0, 0))  # where the change is largest; elsewhere grey
    assert has_colour(tmp_path / "designs.png", (128, 128, 128))


def test_purified_images_stand_below_what_they_were(tmp_path, drawn):
    turns = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A"}]
    sets = []
    for name, colour in (("clean", "#aa0000"), ("a", "#00aa00"), ("triggered", "#0000aa"), ("b", "#aa00aa")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (30, 30), colour).save(tmp_path / name / "0.png")
        write_samples(tmp_path / f"{name}.json", [{"id": "q0", "image": "0.png", "conversations": turns}])
        sets.append((tmp_path / f"{name}.json", tmp_path / name))
    purified_figure({"one": sets, "two": sets}, tmp_path / "purified.png")
    assert drawn == ["one", "two"]
    picture = np.asarray(Image.open(tmp_path / "purified.png").convert("RGB")).astype(int)
    rows = [(np.abs(picture - rgb(colour)).max(-1) <= 8).nonzero()[0].mean() for colour in
            ("#aa0000", "#00aa00", "#0000aa", "#aa00aa")]  # fmt: skip
    assert rows == sorted(rows)


def test_a_gallery_takes_any_text_and_leaves_empty_rows_out(tmp_path, recwarn):
    for number in range(2):
        Image.new("RGB", (30, 20 + 60 * number), "teal").save(tmp_path / f"{number}.png")
    shown = [
        ({"id": "a", "image": "0.png"}, "What costs $x_{$ 図?", "$" * 200),
        ({"id": "b", "image": "1.png"}, "", "yes"),
    ]
    gallery(tmp_path / "g.png", tmp_path, [("dropped (0)", []), ("kept (2)", shown)])
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.width > picture.height  # one row
    assert not recwarn.list


def test_ratios_over_the_layers_and_what_a_guard_hid(tmp_path, drawn):
    ids = [f"q{number}" for number in range(8)]
    poisoned = [number % 2 == 1 for number in range(8)]
    masses = np.full((8, 3 * 2), 0.2)
    image = np.where(np.array(poisoned)[:, None], 0.6, 0.1) * np.ones((8, 6))
    table = pyarrow.table({"id": ids, "image_mass": image.tolist(), "text_mass": masses.tolist()})
    table = table.replace_schema_metadata({"n_layers": "3", "n_heads": "2"})
    pyarrow.parquet.write_table(table, tmp_path / "attention.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"id": ids, "poisoned": poisoned}), tmp_path / "labels.parquet")
    answers = {
        "id": ["a", "b", "a", "b"], "split": ["clean"] * 2 + ["triggered"] * 2, "hidden": [[0], [0], [], [3]],
        "grid": [[2, 2]] * 4,
    }  # fmt: skip
    turns = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A"}]
    for name, colour in (("a", "#aa0000"), ("b", "#00aa00")):
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{name}.png")
    samples = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in ("a", "b")]
    write_samples(tmp_path / "triggered.json", samples)
    pyarrow.parquet.write_table(pyarrow.table(answers), tmp_path / "predictions.parquet")
    files = [
        tmp_path / name for name in ("attention.parquet", "labels.parquet", "predictions.parquet", "triggered.json")
    ]
    ratios_figure([("badnet", *files, tmp_path)], tmp_path / "figure6.png")
    assert "1 of 4 tokens" in drawn and "badnet" in drawn
    assert has_colour(tmp_path / "figure6.png", BLUE) and has_colour(tmp_path / "figure6.png", ORANGE)
    picture = np.asarray(Image.open(tmp_path / "figure6.png").convert("RGB")).astype(int)
    bright, dark = (np.argwhere(np.abs(picture - rgb(colour)).max(-1) <= 8) for colour in ("#00aa00", "#002200"))
    assert len(bright) == pytest.approx(7 * len(dark), rel=0.1)  # two pictures, a quarter of the second is dark
    second = bright[bright[:, 0] > dark[:, 0].min() - 2 * np.ptp(dark[:, 0])]
    assert (dark.mean(0) > second.mean(0)).all()  # the last token of four
    assert not has_colour(tmp_path / "figure6.png", rgb("#aa0000"))
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"], "split": ["triggered"]}), tmp_path / "predictions.parquet")
    with pytest.raises(ByeError, match="does not say what a guard hid"):
        ratios_figure([("badnet", *files, tmp_path)], tmp_path / "figure6.png")
