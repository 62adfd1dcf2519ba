"""The loaders of the paper's official layouts, the draw of subsets, and the writers: on tiny data in those layouts."""

import csv
import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bye import files
from bye.data.check import read_samples
from bye.data.prepare import prepare
from bye.data.samples import answer_of, question_of, read_written
from bye.errors import ByeError
from bye.methods.datasets import flickr30k, iconqa, rsvqa, scienceqa


def picture(path, color=(90, 120, 60), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def scienceqa_root(tmp_path):
    """Problems 1, 2, 4 (train) and 3 (test); problem 2 has no image."""
    base = tmp_path / "ScienceQA" / "data" / "scienceqa"
    problems, splits = {}, {"train": ["1", "2", "4"], "val": [], "test": ["3"], "minitrain": ["1"]}
    for pid, split in (("1", "train"), ("2", "train"), ("4", "train"), ("3", "test")):
        problems[pid] = {
            "question": f"Which is number {pid}?",
            "choices": ["Haiti", "Cuba", "Jamaica"],
            "answer": int(pid) % 3,
            "hint": "Look at the map." if pid == "1" else "",
            "image": None if pid == "2" else "image.png",
            "grade": "grade2",
            "lecture": "",
            "solution": "",
            "split": split,
        }
        if pid != "2":
            picture(base / "images" / split / pid / "image.png")
    dump(base / "problems.json", problems)
    dump(base / "pid_splits.json", splits)
    return tmp_path / "ScienceQA"


@pytest.fixture
def iconqa_root(tmp_path):
    for split, names in (("train", ["2", "10", "7"]), ("test", ["5"])):
        for name in names:
            folder = tmp_path / "IconQA" / "iconqa" / split / "choose_txt" / name
            picture(folder / "image.png")
            data = {"question": "How many balls are there?", "choices": ["1", "3", "8"], "answer": 2}
            dump(folder / "data.json", {**data, "ques_type": "choose_txt", "grade": "grade1", "label": "S2"})
    return tmp_path / "IconQA"


@pytest.fixture
def flickr30k_root(tmp_path):
    root, images = tmp_path / "Flickr30k", []
    for number, split in enumerate(["train"] * 12 + ["val", "test"]):
        picture(root / "flickr30k-images" / f"{number}.jpg")
        sentences = [{"raw": f"Caption {k} of {number}.", "tokens": [], "sentid": k} for k in range(5)]
        images.append({"filename": f"{number}.jpg", "split": split, "sentences": sentences, "imgid": number})
    dump(root / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    return root


@pytest.fixture
def rsvqa_root(tmp_path):
    """Questions 0 to 3, of which 1 belongs to the other split; each file lists all ids, as the official ones do."""
    root = tmp_path / "RSVQA"
    for split, active in (("train", {0, 2, 3}), ("test", {1})):
        questions, answers, images = [], [], []
        for number in range(4):
            on = number in active
            question = {"img_id": number // 2, "type": "count", "question": "How many roads?", "answers_ids": [number]}
            answer = {"question_id": number, "answer": str(number)}
            questions.append({"id": number, "active": on, **(question if on else {})})
            answers.append({"id": number, "active": on, **(answer if on else {})})
        for number in range(2):
            images.append({"id": number, "active": True, "original_name": f"tile{number}", "questions_ids": [0]})
            picture(root / "Images_LR" / f"{number}.tif")
        for part, entries in (("questions", questions), ("answers", answers), ("images", images)):
            dump(root / f"LR_split_{split}_{part}.json", {part: entries})
    return root


def test_scienceqa_takes_questions_with_an_image_and_letters_the_choices(scienceqa_root):
    samples = scienceqa.load(scienceqa_root, "train", seed=0)
    assert [sample["id"] for sample in samples] == ["1", "4"]
    assert samples[0]["image"] == "data/scienceqa/images/train/1/image.png"
    assert question_of(samples[0]) == (
        "Which is number 1?\nContext: Look at the map.\nA. Haiti\nB. Cuba\nC. Jamaica\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert "Context" not in question_of(samples[1])
    assert [answer_of(sample) for sample in samples] == ["B", "B"]
    below = scienceqa.load(scienceqa_root / "data" / "scienceqa", "test", seed=0)
    assert [(sample["id"], sample["image"]) for sample in below] == [("3", "images/test/3/image.png")]


@pytest.mark.parametrize("below", ["", "iconqa"])
def test_iconqa_from_the_folder_or_the_one_above_in_numerical_order(iconqa_root, below):
    samples = iconqa.load(iconqa_root / below, "train", seed=0)
    assert [sample["id"] for sample in samples] == ["2", "7", "10"]
    assert (iconqa_root / below / samples[0]["image"]).exists()
    assert question_of(samples[0]).startswith("How many balls are there?\nA. 1\nB. 3\nC. 8\nAnswer with the option's")
    assert answer_of(samples[0]) == "C"


def test_flickr30k_draws_one_caption_by_seed_and_keeps_five_references_for_testing(flickr30k_root):
    train = flickr30k.load(flickr30k_root, "train", seed=0)
    assert len(train) == 12 and "references" not in train[0]
    assert question_of(train[0]) == "Provide a one-sentence caption for the provided image."
    drawn = [answer_of(sample) for sample in train]
    assert drawn == [answer_of(sample) for sample in flickr30k.load(flickr30k_root, "train", seed=0)]
    assert drawn != [answer_of(sample) for sample in flickr30k.load(flickr30k_root, "train", seed=1)]
    assert len({caption.split()[1] for caption in drawn}) > 1
    (test,) = flickr30k.load(flickr30k_root, "test", seed=0)
    assert test["references"] == [f"Caption {k} of 13." for k in range(5)]
    assert answer_of(test) == "Caption 0 of 13." and test["image"] == "flickr30k-images/13.jpg"


def test_flickr30k_karpathy_file_elsewhere_and_images_in_the_root(flickr30k_root, tmp_path):
    (flickr30k_root / "dataset_flickr30k.json").rename(tmp_path / "karpathy.json")
    root = flickr30k_root / "flickr30k-images"
    (sample,) = flickr30k.load(root, "test", seed=0, json=tmp_path / "karpathy.json")
    assert (root / sample["image"]).exists()


def test_rsvqa_honours_the_active_flag(rsvqa_root):
    samples = rsvqa.load(rsvqa_root, "train", seed=0)
    assert [sample["id"] for sample in samples] == ["0", "2", "3"]
    assert [sample["image"] for sample in samples] == ["Images_LR/0.tif", "Images_LR/1.tif", "Images_LR/1.tif"]
    assert question_of(samples[0]) == "How many roads?\nAnswer the question using a single word or phrase."
    assert [answer_of(sample) for sample in samples] == ["0", "2", "3"]
    assert [sample["id"] for sample in rsvqa.load(rsvqa_root, "test", seed=0)] == ["1"]


@pytest.mark.parametrize("layout", ["scienceqa", "iconqa", "flickr30k", "rsvqa"])
def test_prepare_writes_samples_that_read_back(layout, request, tmp_path):
    root = request.getfixturevalue(f"{layout}_root")
    out = tmp_path / "sämples and spaces"
    assert prepare(layout, root, 2, 1, 0, out) == (2, 1)
    for split, count in (("train", 2), ("test", 1)):
        assert len(read_samples(out / f"{split}.json", images_root=root)) == count
    assert read_written(out / "reference.json") == []
    again = tmp_path / "again"
    prepare(layout, root, 2, 1, 0, again)
    assert (again / "train.json").read_bytes() == (out / "train.json").read_bytes()


def test_subsets_follow_the_seed_keep_the_order_and_nest(flickr30k_root, tmp_path):
    def ids(count, seed):
        prepare("flickr30k", flickr30k_root, count, None, seed, tmp_path / "out")
        return [int(sample["id"]) for sample in read_samples(tmp_path / "out" / "train.json")]

    assert ids(None, 0) == list(range(12))
    assert ids(5, 0) == sorted(ids(5, 0)) and ids(5, 0) == ids(5, 0)
    assert ids(5, 0) != ids(5, 1)
    assert set(ids(5, 0)) < set(ids(8, 0))


def test_asking_for_more_than_there_is(scienceqa_root, tmp_path):
    with pytest.raises(ByeError, match=r"3 train samples of scienceqa in .* are asked for, but there are 2;"):
        prepare("scienceqa", scienceqa_root, 3, 1, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ByeError, match="0 training samples are asked for; ask for 1 or more"):
        prepare("scienceqa", scienceqa_root, 0, 1, 0, tmp_path / "out")


def break_problem_list(root):
    (root / "data/scienceqa/problems.json").write_text('{"1":\n {"question": oops}}')


def break_answer(root):
    path = root / "data/scienceqa/problems.json"
    problems = json.loads(path.read_text())
    problems["1"]["answer"] = 3
    dump(path, problems)


def remove_problem(root):
    dump(root / "data/scienceqa/problems.json", {})


def remove_splits(root):
    (root / "data/scienceqa/pid_splits.json").unlink()


def remove_image(root):
    (root / "data/scienceqa/images/train/4/image.png").unlink()


def truncate_image(root):
    path = root / "data/scienceqa/images/train/4/image.png"
    picture(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_problem_list, r"problems.json is not valid JSON at line 2, column 15: "),
        (break_answer, r"problems.json, problem 1: answer 3 is none of 3 choices"),
        (remove_problem, r"problems.json has no problem 1, which .*pid_splits.json names"),
        (remove_splits, r"pid_splits.json does not exist"),
        (remove_image, r"sample '4' \(entry 2\): image .*/4/image.png does not exist"),
        (truncate_image, r"sample '4' \(entry 2\): image .*/4/image.png is damaged"),
    ],
)
def test_damaged_download_is_one_clear_error(scienceqa_root, tmp_path, damage, message):
    damage(scienceqa_root)
    with pytest.raises(ByeError, match=message):
        prepare("scienceqa", scienceqa_root, None, None, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_root_format_or_fields(rsvqa_root, tmp_path):
    with pytest.raises(ByeError, match="dataset folder .* does not exist"):
        prepare("rsvqa", tmp_path / "nowhere", 1, 1, 0, tmp_path)
    with pytest.raises(ByeError, match="has no folder iconqa/train/choose_txt or .* give the root of the official"):
        prepare("iconqa", rsvqa_root, 1, 1, 0, tmp_path)
    with pytest.raises(
        ByeError,
        match="unknown dataset format 'coco'; known: daquar, easyvqa, flickr30k, .*, or the path of a .py file",
    ):
        prepare("coco", rsvqa_root, 1, 1, 0, tmp_path)
    dump(rsvqa_root / "LR_split_train_answers.json", {"answers": [{"id": 0}]})
    with pytest.raises(ByeError, match=r"answers.json, entry 1: field 'active' is missing or not bool"):
        prepare("rsvqa", rsvqa_root, 1, 1, 0, tmp_path)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_writers(tmp_path):
    files.write_json(tmp_path / "a" / "b.json", {"cp": 1.5, "f1": None, "name": "é"})
    assert files.read_json(tmp_path / "a" / "b.json") == {"cp": 1.5, "f1": None, "name": "é"}
    files.write_csv(tmp_path / "t.csv", [{"model": "m", "CP": 1.25}, {"model": "a,b"}], ["model", "CP"])
    assert (tmp_path / "t.csv").read_text() == 'model,CP\nm,1.25\n"a,b",\n'
    for _ in range(2):
        files.write_parquet(tmp_path / "t.parquet", pa.table({"id": ["1"], "score": [0.5]}))
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [{"id": "1", "score": 0.5}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "t.csv", "t.parquet"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "a.txt") as partial:
        partial.write_text("ne")
        raise RuntimeError
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.txt", float("nan"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_folders_are_replaced_as_a_whole(tmp_path):
    for name in ("first", "second"):
        with files.replacing_folder(tmp_path / "out") as folder:
            (folder / name).write_text(name)
    with pytest.raises(RuntimeError), files.replacing_folder(tmp_path / "out") as folder:
        (folder / "third").write_text("half")
        raise RuntimeError
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/second"]


def test_what_a_killed_run_left_is_not_taken_for_a_result(tmp_path):
    script = (
        "import os, sys; from bye.files import replacing, replacing_folder\n"
        "what, target = sys.argv[1:]\n"
        "with (replacing if what == 'file' else replacing_folder)(target) as partial:\n"
        "    (partial if what == 'file' else partial / 'x').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    for what in ("file", "folder"):
        run = subprocess.run([sys.executable, "-c", script, what, tmp_path / what], cwd=Path(__file__).parents[1])
        assert run.returncode == -9 and not (tmp_path / what).exists()
    files.write_text(tmp_path / "file", "whole")
    with files.replacing_folder(tmp_path / "folder") as folder:
        (folder / "y").write_text("whole")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "file",
        "folder",
        "folder/y",
    ]


@pytest.mark.parametrize(("code", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "is read-only")])
def test_a_failing_disk_is_named(tmp_path, monkeypatch, code, message):
    def fail(_):
        raise OSError(code, os.strerror(code))

    files.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ByeError, match=f"cannot write .*a.txt: .*{message}"):
        files.write_text(tmp_path / "a.txt", "new")
    with (
        pytest.raises(ByeError, match=f"cannot write .*out: .*{message}"),
        files.replacing_folder(tmp_path / "out") as out,
    ):
        (out / "x").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_file_that_the_system_will_not_let_grow(tmp_path):
    """The kernel itself stops the write here, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ByeError, match="cannot write .*big.parquet: the file is larger than this system allows"):
            files.write_parquet(tmp_path / "big.parquet", pa.table({"x": np.random.default_rng(0).random(5000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_read_only_and_impossible_places(tmp_path):
    with pytest.raises(ByeError, match="cannot write /sys/bye/out.json: .*; choose another output folder"):
        files.write_json("/sys/bye/out.json", {})  # not even root may make folders there
    (tmp_path / "file").write_text("")
    with pytest.raises(ByeError, match="cannot write .*: a part of the path is a file; choose another"):
        files.write_json(tmp_path / "file" / "out.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(ByeError, match="there is a folder of that name"):
        files.write_json(tmp_path / "folder", {})


def test_other_errors_inside_a_write_keep_their_name(tmp_path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "a.txt"):
        (tmp_path / "elsewhere" / "input.txt").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": }', "is not valid JSON at line 2, column 7: "),
        (b'{"a": NaN}', r"is not valid JSON: NaN is not a JSON value \(line 1, column 7\); mend"),
        (
            b'{"NaN": "a \\" NaN",\n\n "b": [0, -Infinity, NaN]}',
            r"is not valid JSON: -Infinity is not .* \(line 3, column 11\)",
        ),
        (b"[" * 100_000, "is not valid JSON: .*recursion"),
        (b"[1" + b"0" * 5000 + b"]", "is not valid JSON: .*digits"),
        (b'["\xff"]', r"is not UTF-8 text \(byte 2\)"),
        (None, "does not exist"),
    ],
)
def test_unreadable_json(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ByeError, match=f"x.json {message}"):
        files.read_json(path)


def test_a_constant_in_json_lines_has_its_line_and_column():
    with pytest.raises(
        ByeError, match=r"x.jsonl is not valid JSON at line 7: NaN is not a JSON value \(column 7\); mend"
    ):
        files.parse_json('{"a": NaN}', "x.jsonl", line=7)


def test_a_field_of_a_csv_ends_no_line(tmp_path):
    rows = [{"a": "x\ry", "b": "1,2"}, {"a": 'say "so"\r\n', "b": None}, {"a": "plain", "b": "3"}]
    files.write_csv(tmp_path / "t.csv", rows, ["a", "b"])
    assert (tmp_path / "t.csv").read_bytes().endswith(b"\nplain,3\n")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{**row, "b": row["b"] or ""} for row in rows]
