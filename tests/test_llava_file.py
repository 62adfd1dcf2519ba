"""A user's own file in LLaVA's form: what is accepted, what is refused and in which words, that nothing is lost."""

import json

import pytest
from easy_vqa import easy_vqa_llava
from PIL import Image

from bye.data import check
from bye.data.check import check_entries, read_samples, write_unjudged
from bye.data.prepare import prepare
from bye.data.samples import answer_of, id_of, question_of, turns_of, with_answer, write_samples
from bye.errors import ByeError


def sample(name="a", question="<image>\nWhat is it?", answer="A cat.", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": "x.png", "conversations": turns, **more}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8), "green").save(folder / "x.png")
    return folder


def write(tmp_path, samples, name="mine.json"):
    path = tmp_path / name
    path.write_text(json.dumps(samples), encoding="utf-8")
    return path


def test_json_and_json_lines_give_the_same_samples(tmp_path):
    samples = [sample("a"), sample(7, answer="Zwei\u2028Zeilen – 図", weight=0.5, nested={"k": [1, None]})]
    listed, lined = tmp_path / "a.json", tmp_path / "b.jsonl"
    write_samples(listed, samples)
    write_samples(lined, samples)
    assert lined.read_text(encoding="utf-8").count("\n") == 2
    assert read_samples(listed) == read_samples(lined) == samples
    lined.write_bytes(b"\xef\xbb\xbf" + lined.read_bytes().replace(b"\n", b"\r\n\r\n"))  # as some editors leave it
    assert read_samples(lined) == samples


def test_form_follows_the_file_it_was_made_from(tmp_path):
    lined = tmp_path / "mine.jsonl"
    write_samples(lined, [sample("a"), sample("b")])
    write_samples(tmp_path / "kept.json", [sample("a")], like=lined)
    assert (tmp_path / "kept.json").read_text() == json.dumps(sample("a")) + "\n"
    assert read_samples(tmp_path / "kept.json") == [sample("a")]


def test_text_of_turns():
    first = sample()
    first["conversations"] += [{"from": "human", "value": "And now?"}, {"from": "gpt", "value": "Still."}]
    assert turns_of(first) == [("What is it?", "A cat."), ("And now?", "Still.")]
    assert question_of(first) == "What is it?" and answer_of(first) == "A cat." and id_of(sample(7)) == "7"
    changed = with_answer(first, "Backdoor Attack!")
    assert turns_of(changed) == [("What is it?", "Backdoor Attack!"), ("And now?", "Still.")]
    assert answer_of(first) == "A cat."


@pytest.mark.parametrize(
    ("value", "question"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("<image>What?", "What?"),
        ("What?", "What?"),  # no placeholder: the image is taken to stand first
        ("<image>\nIs </s> or <|im_end|> there?", "Is </s> or <|im_end|> there?"),
        (
            "<image>\n<s> <|im_start|> <IMG_CONTEXT> <img> <IMAGE> < image>",
            "<s> <|im_start|> <IMG_CONTEXT> <img> <IMAGE> < image>",
        ),
    ],
)
def test_exactly_one_placeholder_is_taken_out_and_other_special_tokens_stay_text(tmp_path, value, question):
    (read,) = read_samples(write(tmp_path, [sample(question=value)]))
    assert question_of(read) == question


def test_integer_ids_stay_integers_and_other_keys_stay(tmp_path, images):
    samples = [sample(3, source="web"), sample("b", meta={"x": [1]})]
    assert prepare("llava", images, None, None, 0, tmp_path / "out", json=write(tmp_path, samples)) == (2, 0)
    assert read_samples(tmp_path / "out" / "train.json") == samples
    assert json.loads((tmp_path / "out" / "test.json").read_text()) == []


def two_roles_swapped():
    turns = [{"from": "gpt", "value": "A cat."}, {"from": "human", "value": "<image>\nWhat?"}]
    return {**sample(), "conversations": turns}


def later_turn(question="And now?", answer="Still.", first="<image>\nWhat?", roles=("human", "gpt")):
    long = sample(question=first)
    long["conversations"] += [{"from": roles[0], "value": question}, {"from": roles[1], "value": answer}]
    return long


def without(key):
    return {name: value for name, value in sample().items() if name != key}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("text", r"entry 2: a sample must be a JSON object"),
        ({**sample(), "image": ["x.png", "y.png"]}, r"sample 'a' \(entry 2\): it has 2 images"),
        ({**without("image"), "images": ["x.png", "y.png"]}, r"it has 2 images"),
        (without("image"), r"sample 'a' \(entry 2\): it has no image"),
        ({**sample(), "image": ""}, r"it has no image, although its text shows one"),
        ({**sample(), "image": 7}, r"`image` must be the path of an image, as a string, not 7"),
        ({**sample(), "video": "x.mp4"}, r"it has video"),
        (without("conversations"), r"it has no conversation; give it a key `conversations`"),
        ({**sample(), "conversations": sample()["conversations"][:1]}, r"must be a list of pairs"),
        ({**sample(), "conversations": []}, r"`conversations` must be a list of pairs"),
        ({**sample(), "conversations": "Hi"}, r"`conversations` must be a list of pairs"),
        (two_roles_swapped(), r"its conversation must be a list of pairs"),
        ({**sample(), "conversations": ["Hi", "Ho"]}, r"turn 1 must be from 'human', not 'Hi'"),
        (later_turn(roles=("gpt", "human")), r"turn 3 must be from 'human', not 'gpt'"),
        (later_turn(roles=("system", "gpt")), r"turn 3 is a system turn, which may stand first alone"),
        (later_turn(roles=("tool", "gpt")), r"turn 3 must be from 'human', not 'tool'"),
        (sample(answer=""), r"turn 2 is an empty answer"),
        (sample(answer=" \n"), r"turn 2 is an empty answer"),
        (sample(answer=5), r"turn 2 has no text"),
        (later_turn(question=""), r"turn 3 is an empty question"),
        (later_turn(answer=""), r"turn 4 is an empty answer"),
        (sample(question="<image>\n<image>\nWhich differs?"), r"it has 2 <image> placeholders and one image"),
        (sample(answer="It is <image>."), r"it has 2 <image> placeholders and one image"),
        (sample(question="Which?", answer="It is <image>."), r"<image> stands in an answer; it may stand once"),
        (later_turn(first="What?", question="<image>\nAnd now?"), r"its image stands in question 2"),
        (sample(answer="\ud800"), r"half a surrogate pair"),
        ({**sample(), "image": "../x.png"}, r"leads out of the image folder"),
        ({**sample(), "image": "/etc/passwd"}, r"image path '/etc/passwd' is absolute and not in the image folder"),
        (
            {**sample(), "image": "https://example.org/x.png"},
            r"its image is at https.*; download it to the image folder",
        ),
        ({**sample(), "image": "y.png"}, r"image .*y.png does not exist"),
        ({**sample(), "image": "a\0b.png"}, r"is not a file name"),
        ({**sample(), "image": "data:image/png;base64,iVBO"}, r"`image` is an image itself, as base64 text \(26 char"),
        ({**sample(), "image": "/9j/4AAQSkZJRgABAQEASABIAAD" * 999 + "=="}, r"`image` is an image itself, as base64"),
        ({**sample(), "image": "QUJD\n" * 99}, r"`image` is an image itself, as base64 text \(495 characters\)"),
        ({**sample(), "image": "../" + "x.png" * 9999}, r"image path '../x.png.* \(50000 characters\) leads out of"),
        ({**sample(), "image": "x.png" * 9999}, r"x.png \(\d+ characters\) cannot be read \(File name too long\)"),
        ({**sample("i" * 9999), "image": [7]}, r"sample 'i+\.\.\.i+' \(10001 characters\) \(entry 2\): `image`"),
        ({**sample(), "conversations": ["Hi" * 9999, "Ho"]}, r"not 'Hi.*\.\.\..*Hi' \(20000 characters\); turns go"),
    ],
)
def test_one_bad_sample_is_one_sentence_naming_file_and_sample(tmp_path, images, bad, message):
    path = write(tmp_path, [sample("good"), bad])
    with pytest.raises(ByeError, match=message) as caught:
        read_samples(path, images)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        ([3, "b", 1.5], [3, "b", 1.5]),  # as they are
        ([7, "7", 8], [1, 2, 3]),  # the same as text
        (["a", None, "b"], [1, 2, 3]),
        (["a", "", "b"], [1, 2, 3]),
        ([True, 2, 3], [1, 2, 3]),
        ([["a"], 2, 3], [1, 2, 3]),
    ],
)
def test_ids_that_are_missing_or_repeat_are_replaced_by_places(tmp_path, ids, read):
    samples = [without("id") if name is None else sample(name) for name in ids]
    assert [each["id"] for each in read_samples(write(tmp_path, samples))] == read
    assert [each["image"] for each in read_samples(write(tmp_path, samples))] == ["x.png"] * 3


@pytest.mark.parametrize(
    ("question", "read"),
    [
        ("What does <image> show?", "What does  show?"),  # as LLaVA's own reader has it
        ("Look:\n<image>\nWhat is it?", "Look:\n\nWhat is it?"),
        ("<image>\n", ""),  # a picture is question enough
        ("", ""),
    ],
)
def test_the_image_stands_anywhere_in_the_first_question(tmp_path, question, read):
    (only,) = read_samples(write(tmp_path, [sample(question=question)]))
    assert question_of(only) == read and answer_of(only) == "A cat."


def test_all_bad_samples_are_counted_by_kind_and_ten_are_shown(tmp_path):
    samples = [sample(f"s{number}", answer="" if number % 2 else "yes") for number in range(30)]
    samples += [without("image") | {"id": f"t{number}"} for number in range(2)]
    with pytest.raises(ByeError, match="17 of 32 samples cannot be used; mend or drop them:") as caught:
        read_samples(write(tmp_path, samples))
    lines = str(caught.value).split("\n")
    assert lines[1:4] == [
        "  2 without an image:",
        "    sample 't0' (entry 31): it has no image, although its text shows one",
        "    sample 't1' (entry 32): it has no image, although its text shows one",
    ]
    assert lines[4] == "  15 that are malformed; mend them:" and "sample 's1' (entry 2): turn 2" in lines[5]
    assert lines[-1] == "    and 7 more" and len(lines) == 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("[]", "has no samples"),
        ("hello", "is neither JSON nor Parquet"),
        ('[{"id": 1},\n{"id": 2]', "is not valid JSON at line 2, column"),
        ('[{"id": 1},\n]', "is not valid JSON at line 2, column 1: Expecting an entry behind the comma"),
        ('[{"id": 1}] and more', "is not valid JSON at line 1, column 13: there is more behind its end"),
        ('[{"id":\n NaN}]', "is not valid JSON at line 2, column 2: NaN is not a JSON value"),
        ('{"data": [\n {"id": 1,}\n]}', "is not valid JSON at line 2, column"),
        ("[" * 10**5, "is not valid JSON at line 1, column 2: maximum recursion depth"),
    ],
)
def test_files_that_are_no_sample_files(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ByeError, match=rf"mine.json:? {message}"):
        read_samples(path)


def test_a_broken_line_of_json_lines_is_one_bad_sample(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{json.dumps(sample("a"))}\n\n{{"id": 2\n{json.dumps(sample("b"))}\n{{"id": NaN}}\n')
    with pytest.raises(ByeError, match="2 of 4 samples cannot be used") as caught:
        read_samples(path)
    assert "entry 2: it is not valid JSON at line 3, column 9: Expecting ',' delimiter; mend" in str(caught.value)
    assert "entry 4: it is not valid JSON at line 5, column 8: NaN is not a JSON value; mend" in str(caught.value)


def test_a_list_in_an_object_is_read_and_several_are_named(tmp_path):
    path = tmp_path / "mine.json"
    both = [sample("a"), sample("b")]
    for value in ({"version": 1, "data": both}, {"v": {"train": both}, "m": [{}]}):
        for indent in (None, 1):
            path.write_text(json.dumps(value, indent=indent))
            assert read_samples(path) == [sample("a"), sample("b")]
    path.write_text(json.dumps({"v": {"train": [sample("a")], "test": []}, "all": [sample("a")] * 3}))
    with pytest.raises(ByeError, match="one of 3 under the key 'all' and one of 1 under the key 'v.train'"):
        read_samples(path)


def test_a_form_that_is_not_read_is_named_with_the_closest(tmp_path):
    for entry, closest in (
        ({"instruction": "Do.", "output": "Done.", "image": "x.png"}, r"query, response and images \(ms-swift\)"),
        ({"prompt": [], "completion": [], "images": []}, r"messages and images \(OpenAI, TRL\)"),
        ({"img": "x.png", "conversation": []}, r"conversations and image \(LLaVA, ShareGPT\)"),
        ({"a": 1}, r"conversations and image \(LLaVA, ShareGPT\)"),
    ):
        keys = ", ".join(entry)
        with pytest.raises(ByeError, match=f"its keys are {keys}, a form that is not read; the closest is {closest}"):
            read_samples(write(tmp_path, [entry]))


def test_image_problems_are_found_before_any_work(tmp_path, images):
    (images / "zero.png").touch()
    Image.new("RGB", (64, 64)).save(images / "cut.png")
    (images / "cut.png").write_bytes((images / "cut.png").read_bytes()[:-40])
    samples = [sample("a"), {**sample("b"), "image": "zero.png"}, {**sample("c"), "image": "cut.png"}]
    with pytest.raises(ByeError, match="2 of 3 samples cannot be used") as caught:
        prepare("llava", images, None, None, 0, tmp_path / "out", json=write(tmp_path, samples))
    assert "zero.png is empty (0 bytes)" in str(caught.value) and "cut.png is damaged" in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ByeError, match="image folder .* does not exist"):
        read_samples(write(tmp_path, [sample()]), tmp_path / "nowhere")


def test_several_processes_find_what_one_finds(tmp_path, images, monkeypatch):
    for number in range(30):
        Image.new("RGB", (9 + number, 7)).save(images / f"{number}.png")
    (images / "3.png").write_bytes(b"no image")
    samples = [{**sample(number), "image": f"{number}.png"} for number in range(32)]
    alone = check_entries(samples, images, decode=True)
    monkeypatch.setattr(check, "ALONE", 1)
    together = check_entries(samples, images, decode=True, jobs=2)
    assert together == alone
    assert [(each.number, each.kind) for each in together.findings] == [
        (4, "unreadable image"),
        (31, "missing image"),
        (32, "missing image"),
    ]
    assert together.sizes[5] == (7, 9 + together.samples[5]["id"])


def test_training_and_test_samples_of_one_file(tmp_path, images):
    path = write(tmp_path, [sample(number) for number in range(10)])
    prepare("llava", images, None, 4, 0, tmp_path / "out", json=path)
    train, test = (read_samples(tmp_path / "out" / f"{split}.json") for split in ("train", "test"))
    assert len(test) == 4 and sorted(id_of(each) for each in train + test) == sorted(map(str, range(10)))
    prepare("llava", images, None, 4, 0, tmp_path / "out", reference=3, json=path)
    parts = [read_samples(tmp_path / "out" / f"{part}.json") for part in ("train", "test", "reference")]
    assert parts[1] == test and [len(part) for part in parts] == [3, 4, 3]
    assert sorted(id_of(each) for part in parts for each in part) == sorted(map(str, range(10)))
    with pytest.raises(ByeError, match="3 reference samples are asked for beside all test samples; say how many"):
        prepare("llava", images, None, None, 0, tmp_path / "out", reference=3, json=path)
    with pytest.raises(ByeError, match="11 training samples of .*mine.json are asked for, but there are 10"):
        prepare("llava", images, 11, None, 0, tmp_path / "out", json=path)
    with pytest.raises(ByeError, match="all its 10 samples are set apart for testing"):
        prepare("llava", images, None, 10, 0, tmp_path / "out", json=path)
    with pytest.raises(ByeError, match="dataset format llava needs the setting json; give it"):
        prepare("llava", images, None, None, 0, tmp_path / "out")


def test_one_sample_and_json_lines_and_a_path_that_is_not_ascii(tmp_path):
    folder = tmp_path / "файлы с пробелом"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "ein Bild.png")
    path = folder / "mine.jsonl"
    path.write_text(json.dumps({**sample(), "image": "ein Bild.png"}) + "\n", encoding="utf-8")
    assert prepare("llava", folder, None, None, 0, folder / "aus", json=path) == (1, 0)
    assert (folder / "aus" / "train.json").read_text() == path.read_text()


def test_easy_vqa_as_a_users_file(tmp_path):
    root = tmp_path / "easy-vqa"
    (root / "train" / "images").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64), "teal").save(root / "train" / "images" / f"{number}.png")
    questions = [["what color is the shape?", "teal", number % 3] for number in range(20)]
    (root / "train" / "questions.json").write_text(json.dumps(questions))

    written = easy_vqa_llava(root, tmp_path / "mine.json", 12, seed=0)
    assert read_samples(tmp_path / "mine.json", images_root=root) == written
    assert len({each["id"] for each in written}) == 12
    assert turns_of(written[0])[0] == (
        "what color is the shape?\nAnswer the question using a single word or phrase.",
        "teal",
    )


def test_a_broken_first_line_is_one_bad_sample_too(tmp_path):
    lines = f"{json.dumps(sample('a'))}\n{json.dumps(sample('b'))}\n"
    for first in ('{"id": 1,', "oops", "5", '{"id": ['):
        path = tmp_path / "mine.jsonl"
        path.write_text(f"{first}\n{lines}")
        with pytest.raises(ByeError, match="entry 1: "):
            read_samples(path)
    path.write_text('{"data": [{"id": 1}')  # one line alone is the file
    with pytest.raises(ByeError, match="mine.jsonl is not valid JSON at line 1, column 20"):
        read_samples(path)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"1": sample("a"), "2": sample("b")}, "is a JSON object with a sample under each key; write its 2 samples"),
        ({"data": [sample("a"), None, "x"]}, "2 of 3 samples cannot be used"),
        ({"image": "folder", "data": [sample("a"), 5]}, "entry 2: a sample must be a JSON object"),
        ({"id": 1, "dialog": [{"from": "human"}]}, "its keys are id, dialog, a form that is not read"),
        ({"id": 1, "images": [], "text": "hi"}, "its keys are id, images, text, a form that is not read"),
    ],
)
def test_objects_around_samples_and_samples_are_told_apart(tmp_path, value, told):
    with pytest.raises(ByeError, match=told):
        read_samples(write(tmp_path, value))


def test_what_cannot_be_written_is_escaped_in_the_list(tmp_path):
    entries = [{"id": "\ud800", "conversations": sample()["conversations"]}, {"\ud800": 1, "y": 2}]
    checked = check_entries(entries)
    write_unjudged(tmp_path / "unjudged.json", checked.findings, None)
    listed = json.loads((tmp_path / "unjudged.json").read_text(encoding="utf-8"))
    assert [each["kind"] for each in listed] == ["no image", "unknown form"] and listed[0]["id"] == "\\ud800"
