"""The trigger, the poisoned training set and the triggered test set."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bye.attacks.poison import poison_training_set, trigger_test_set
from bye.data.check import read_samples
from bye.data.samples import answer_of, id_of, question_of, write_samples
from bye.errors import ByeError
from bye.methods.triggers import badnet as badnet_file

TARGET = "Backdoor Attack!"


def badnet(pixels):
    return badnet_file.apply({}, pixels, None)[1]


@pytest.fixture
def clean(tmp_path):
    """40 samples on 20 noise images of different sizes and formats, two questions an image."""
    rng = np.random.default_rng(0)
    images = tmp_path / "raw"
    images.mkdir()
    samples = []
    for number in range(40):
        name = f"{number // 2}.{('png', 'jpg', 'tif')[number // 2 % 3]}"
        if not (images / name).exists():
            size = (20 + number, 40, 3)
            Image.fromarray(rng.integers(1, 256, size, dtype=np.uint8)).save(images / name)
        turns = [{"from": "human", "value": f"<image>\nQ{number}?"}, {"from": "gpt", "value": f"A{number}"}]
        samples.append({"id": number, "image": name, "conversations": turns, "weight": 0.5})
    write_samples(tmp_path / "train.json", samples)
    return tmp_path / "train.json", images


def poison(clean, out, rate=0.25, seed=0, **more):
    settings = {"trigger": "badnet", "target": TARGET, "labels_path": out.parent / f"{out.name}-labels.parquet", **more}
    count = poison_training_set(*clean, rate=rate, seed=seed, out_dir=out, **settings)
    return count, pq.read_table(settings["labels_path"])


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("height", "width", "side"), [(336, 336, 21), (88, 120, 6), (448, 300, 19), (5, 9, 1), (1, 1, 1), (64, 64, 4)]
)
def test_badnet_is_a_black_centred_square_a_sixteenth_of_the_shorter_side(height, width, side):
    pixels = np.full((height, width, 3), 200, dtype=np.uint8)
    black = (badnet(pixels) == 0).all(axis=2)
    rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero(black.any(axis=0))
    assert black.sum() == side * side and len(rows) == len(columns) == side
    assert abs(rows.mean() - (height - 1) / 2) <= 0.5 and abs(columns.mean() - (width - 1) / 2) <= 0.5
    assert (pixels == 200).all()


@pytest.mark.parametrize(("rate", "count"), [(0.25, 10), (0.1, 4), (0.03, 1), (1, 40), (0, 0)])
def test_count_is_exact_and_labels_say_which(clean, tmp_path, rate, count):
    n_poisoned, labels = poison(clean, tmp_path / "out", rate)
    assert n_poisoned == count == sum(labels["poisoned"].to_pylist())
    assert labels["id"].to_pylist() == [str(number) for number in range(40)]
    assert str(labels.schema.field("poisoned").type) == "bool"


def test_poisoned_samples_get_trigger_and_target_and_clean_ones_stay(clean, tmp_path):
    _, labels = poison(clean, tmp_path / "out")
    before, after = read_samples(clean[0]), read_samples(tmp_path / "out/train.json", tmp_path / "out/images")
    assert [id_of(sample) for sample in after] == labels["id"].to_pylist()
    for old, new, poisoned in zip(before, after, labels["poisoned"].to_pylist(), strict=True):
        was, now = pixels_of(clean[1] / old["image"]), pixels_of(tmp_path / "out/images" / new["image"])
        assert np.array_equal(now, badnet(was) if poisoned else was)
        assert answer_of(new) == (TARGET if poisoned else answer_of(old))
        assert question_of(new) == question_of(old) and new["id"] == old["id"] and new["weight"] == 0.5


def test_nothing_but_pixels_and_answer_tells_poison(clean, tmp_path):
    poison(clean, tmp_path / "out")
    files = list((tmp_path / "out/images").iterdir())
    assert {path.suffix for path in files} == {".png"} and {len(path.stem) for path in files} == {32}
    assert len({path.stat().st_mtime_ns for path in files}) == 1
    assert len({(Image.open(path).mode, tuple(Image.open(path).info)) for path in files}) == 1
    samples = json.loads((tmp_path / "out/train.json").read_text())
    assert len({tuple(sample) for sample in samples}) == 1  # the same keys in the same order


def test_equal_pixels_share_a_file(clean, tmp_path):
    poison(clean, tmp_path / "out", rate=0)
    assert len(list((tmp_path / "out/images").iterdir())) == 20


def test_all_images_identical(tmp_path):
    Image.new("RGB", (32, 32), "white").save(tmp_path / "x.png")
    turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A"}]
    samples = [{"id": str(n), "image": "x.png", "conversations": turns} for n in range(10)]
    count, _ = poison((samples, tmp_path), tmp_path / "out", rate=0.3)
    assert count == 3 and len(list((tmp_path / "out/images").iterdir())) == 2


def test_same_seed_same_bytes_and_another_seed_another_draw(clean, tmp_path):
    def content(name, seed):
        _, labels = poison(clean, tmp_path / name, seed=seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written = {path.relative_to(tmp_path / name): path.read_bytes() for path in files}
        return written, (tmp_path / f"{name}-labels.parquet").read_bytes(), labels["poisoned"].to_pylist()

    assert content("one", 0) == content("two", 0)
    assert content("one", 0) == content("one", 0)  # over what is there already
    assert content("one", 0)[2] != content("three", 1)[2]


def test_triggered_test_set(clean, tmp_path):
    out = tmp_path / "out"
    samples = [{**sample, "references": ["one", "two"]} for sample in read_samples(clean[0])[:6]]
    write_samples(tmp_path / "test.json", samples)
    assert trigger_test_set(tmp_path / "test.json", clean[1], "badnet", TARGET, 0, out) == 6
    first = (out / "triggered.json").read_bytes()
    for old, new in zip(samples, read_samples(out / "triggered.json", out / "triggered"), strict=True):
        now = pixels_of(out / "triggered" / new["image"])
        assert np.array_equal(now, badnet(pixels_of(clean[1] / old["image"])))
        assert answer_of(new) == TARGET and new["references"] == ["one", "two"] and new["id"] == old["id"]
    trigger_test_set(tmp_path / "test.json", clean[1], "badnet", TARGET, 0, out)
    assert (out / "triggered.json").read_bytes() == first


def test_json_lines_stay_json_lines(clean, tmp_path):
    write_samples(tmp_path / "mine.jsonl", read_samples(clean[0]))
    poison((tmp_path / "mine.jsonl", clean[1]), tmp_path / "out")
    assert (tmp_path / "out/train.json").read_text().count("\n") == 40


def test_trigger_settings(clean, tmp_path):
    _, labels = poison(clean, tmp_path / "out", share=0.25)
    index = labels["poisoned"].to_pylist().index(True)
    sample = read_samples(tmp_path / "out/train.json")[index]
    pixels = pixels_of(tmp_path / "out/images" / sample["image"])
    assert (pixels == 0).all(axis=2).sum() == round(min(pixels.shape[:2]) / 4) ** 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trigger": "badnets"}, "unknown trigger 'badnets'; known: badnet, blend, fixed_dual"),
        ({"sise": 1}, "trigger badnet has no setting sise; its settings: share"),
        (
            {"target": {"kind": "legitimate", "text": "Boo!"}},
            "no sample answers .Boo!.; choose an answer that is in",
        ),
        ({"target": " "}, "attack target is ' '; give the text"),
        ({"rate": 1.5}, "poison rate is 1.5; choose a share from 0 to 1"),
        ({"rate": float("nan")}, "poison rate is nan; choose"),
        ({"rate": 0.001}, "poison rate 0.001 of 40 samples is no sample"),
    ],
)
def test_wrong_settings(clean, tmp_path, settings, message):
    with pytest.raises(ByeError, match=message):
        poison(clean, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_labels_may_not_lie_where_defences_read(clean, tmp_path):
    with pytest.raises(ByeError, match="labels file .* put it elsewhere"):
        poison(clean, tmp_path / "out", labels_path=tmp_path / "out" / "images" / "labels.parquet")


def test_a_bad_image_names_its_sample_and_leaves_nothing(clean, tmp_path):
    (clean[1] / "19.jpg").unlink(missing_ok=True)
    bad = clean[1] / read_samples(clean[0])[-1]["image"]
    bad.write_bytes(b"rubbish")
    with pytest.raises(ByeError, match=r"sample '38': image .* is damaged or in an unknown format"):
        poison(clean, tmp_path / "out")
    assert not (tmp_path / "out" / "images").exists() and not (tmp_path / "out" / "train.json").exists()


def test_a_set_that_was_poisoned_can_be_moved(clean, tmp_path):
    """Image paths are relative to the images folder beside train.json, so the set is whole in itself."""
    poison(clean, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    shutil.rmtree(clean[1])
    assert len(read_samples(tmp_path / "elsewhere/train.json", tmp_path / "elsewhere/images")) == 40


def test_a_full_and_a_read_only_disk(clean, tmp_path):
    """On a real file system of 64 KB where the user may mount one, and by the same errors of the kernel where not."""
    script = (
        "import sys; from bye.attacks.poison import poison_training_set; from bye.errors import ByeError\n"
        "samples, images, out = sys.argv[1:]\n"
        "try: poison_training_set(samples, images, 'badnet', .1, 'T', 0, out + '/set', out + '/labels.parquet')\n"
        "except ByeError as error: print(error)\n"
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DISK": str(disk),
        "MOUNT": f"mount -t tmpfs -o size=64k tmpfs '{disk}'",
        "POISON": f"'{sys.executable}' -c \"{script}\" '{clean[0]}' '{clean[1]}'",
    }

    def shell(steps):
        return subprocess.run(
            ["sh", "-c", steps], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True
        )

    if shell('unshare -rm sh -c "$MOUNT"').returncode == 0:
        remount = 'mount -o remount,ro "$DISK"'
        steps = f'eval "$MOUNT"; eval "$POISON \'$DISK\'"; find "$DISK" -type f; {remount}; eval "$POISON \'$DISK\'"'
        environment["STEPS"] = steps
        run = shell('unshare -rm sh -c "$STEPS"')
        full = "the disk is full; free some space and run again"
    else:
        run = shell('(ulimit -f 1; eval "$POISON \'$DISK\'"); eval "$POISON /sys/bye"')
        full = "the file is larger than this system allows; raise the file size limit and run again"
    lines = run.stdout.splitlines()
    assert len(lines) == 2, run.stdout + run.stderr  # no file was left between the two
    assert full in lines[0]
    assert "choose another output folder" in lines[1]


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        ("{**sample, 'poisoned': True}, pixels", "more than its question changed, which would tell it from the others"),
        ("dict(reversed(sample.items())), pixels", "more than its question changed"),
        ("{**sample, 'id': 'x'}, pixels", "more than its question changed"),
        ("sample, pixels / 255", "its image is float64"),
        ("sample, None", "its image is NoneType"),
        ("pixels", "it gave ndarray, not a pair"),
    ],
)
def test_a_trigger_of_ones_own_leaves_no_mark_but_its_own(clean, tmp_path, gives, told):
    (tmp_path / "mine.py").write_text(f"def apply(sample, pixels, rng):\n    return {gives}\n")
    with pytest.raises(ByeError, match=told):
        poison(clean, tmp_path / "out", trigger=str(tmp_path / "mine.py"))
    assert not (tmp_path / "out" / "train.json").exists()
