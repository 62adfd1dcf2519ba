"""The loaders of pictures that the paper does not have, daquar, ucmerced, openclipart and easyvqa: on small folders."""

import csv
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from small_workflow import ROOT

from bye.config import check_content, missing_roots
from bye.data.check import read_samples
from bye.data.layout import shown_in, split_of
from bye.data.prepare import check_folder, prepare
from bye.data.samples import answer_of, question_of
from bye.errors import ByeError
from bye.methods.datasets import daquar, easyvqa, openclipart, ucmerced

PHRASE = "\nAnswer the question using a single word or phrase."
SPLITS = ("train", "test")


def picture(path, size=(8, 6), **texts):
    """Write an image; texts: of a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", size, (90, 120, 60)).save(path, **({"pnginfo": info} if texts else {}))


def write_sheet(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def loaded(loader, root):
    """Return {split: samples}, after a look at what holds for all of them: ids, images, and the same twice."""
    samples = {split: loader.load(root, split, seed=0) for split in SPLITS}
    assert samples == {split: loader.load(str(root), split, seed=1) for split in SPLITS}
    both = samples["train"] + samples["test"]
    assert len({sample["id"] for sample in both}) == len(both)
    assert all((root / sample["image"]).exists() for sample in both)
    images = [{sample["image"] for sample in samples[split]} for split in SPLITS]
    assert not images[0] & images[1]
    return samples


def test_the_split_of_a_picture_is_fixed():
    """As sha256sum says of the names: other names in a set, another machine or version must not move a picture."""
    assert [number for number in range(12) if split_of(f"image{number}") == "test"] == [1, 5]
    assert 150 < sum(split_of(f"photo{number}") == "test" for number in range(1000)) < 250


def test_the_part_of_a_picture_is_fixed():
    names = [f"images/{number}.jpg" for number in range(1000)]
    assert [number for number, name in enumerate(names[:12]) if shown_in(name, (0, 0.25))] == [7, 9, 11]
    assert 200 < sum(shown_in(name, (0, 0.25)) for name in names) < 300
    parts = [(0, 0.25), (0.25, 2 / 3), (2 / 3, 1)]
    assert all(sum(shown_in(name, part) for part in parts) == 1 for name in names)


# ---- daquar ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path):
    """The official layout: two photographs for training, one for testing."""
    root = tmp_path / "daquar"
    lines = {
        "train": [
            ("what is on the desk in the image3 ?", "lamp, book"),
            ("how many chairs are there in image12 ?", "2"),
            ("what is the object in the image3 close to the wall ?", "table"),
        ],
        "test": [("what is left of the bed in the image7 ?", "night_stand")],
    }
    for split, pairs in lines.items():
        path = root / f"qa.894.raw.{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{question}\n{answer}\n" for question, answer in pairs))
    for number in (3, 7, 12):
        picture(root / "nyu_depth_images" / f"image{number}.png")
    return root


def test_daquar_official_layout(official):
    samples = loaded(daquar, official)
    assert [sample["id"] for sample in samples["train"]] == ["image3-1", "image12-1", "image3-2"]
    assert samples["train"][0]["image"] == "nyu_depth_images/image3.png"
    assert [question_of(sample) for sample in samples["train"]] == [
        f"what is on the desk?{PHRASE}",
        f"how many chairs are there?{PHRASE}",
        f"what is the object in the image3 close to the wall?{PHRASE}",
    ]
    assert [answer_of(sample) for sample in samples["train"]] == ["lamp, book", "2", "table"]
    assert [(sample["image"], answer_of(sample)) for sample in samples["test"]] == [
        ("nyu_depth_images/image7.png", "night_stand")
    ]
    check_folder("daquar", official)


def test_daquar_takes_the_37_classes_where_the_others_are_not_there(official):
    for split in SPLITS:
        (official / f"qa.894.raw.{split}.txt").rename(official / f"qa.37.raw.{split}.txt")
    assert len(loaded(daquar, official)["train"]) == 3
    (official / "qa.37.raw.test.txt").unlink()
    with pytest.raises(ByeError, match=r"half there: .*qa.37.raw.test.txt is missing"):
        check_folder("daquar", official)


ROWS = [(f"image{number}", f"what is in corner {corner}", "chair, table") for number in range(12) for corner in (1, 2)]


@pytest.mark.parametrize(
    ("sheets", "columns", "ending"),
    [
        (["qa.csv"], ["image", "question", "answer"], ".jpg"),
        (["data.csv"], ["image_id", "question", "answer"], ""),
        (["data_train.csv", "data_eval.csv"], ["image_id", "question", "answer"], ""),
    ],
)
def test_daquar_as_others_hand_it_on_is_split_by_photograph(tmp_path, sheets, columns, ending):
    rows = [(image + ending, question, answer) for image, question, answer in ROWS]
    for number, sheet in enumerate(sheets):  # two sheets divide the questions, not the photographs
        write_sheet(tmp_path / sheet, columns, rows[number :: len(sheets)])
    for number in range(12):
        picture(tmp_path / "images" / f"image{number}.jpg")
    samples = loaded(daquar, tmp_path)
    assert {sample["image"] for sample in samples["test"]} == {f"images/image{number}.jpg" for number in (1, 5)}
    assert (len(samples["train"]), len(samples["test"])) == (20, 4)
    assert question_of(samples["train"][0]) == f"what is in corner 1?{PHRASE}"
    assert {answer_of(sample) for sample in samples["train"]} == {"chair, table"}
    if len(sheets) == 1:
        assert [sample["id"] for sample in samples["test"]][:3] == ["image1-1", "image1-2", "image5-1"]
    check_folder("daquar", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,question,answer\nimage1,what,\n", r"qa.csv, row 1: field 'answer' is missing or not str"),
        ("image,question,answer\nimage1,what\n", r"qa.csv, row 1: field 'answer' is missing"),
        ("question,answer\nwhat,chair\n", r"qa.csv, row 1: field 'image' is missing"),
        ("image,question,answer\na,what,x\nb,what,chair, table\n", r"qa.csv, row 2 has more fields than there are"),
    ],
)
def test_daquar_bad_rows(tmp_path, text, message):
    (tmp_path / "qa.csv").write_text(text)
    picture(tmp_path / "images" / "image1.jpg")
    with pytest.raises(ByeError, match=message):
        daquar.load(tmp_path, "train", seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("what is in the image1 ?\n", r"train.txt: line 1 is a question without an answer"),
        ("what is it ?\nchair\n", r"train.txt, line 1: the question names no image"),
        ("what is in the image1 ?\n\nwhat is in the image1 ?\nchair", r"train.txt, line 2: field 'answer' is missing"),
    ],
)
def test_daquar_bad_lines(official, text, message):
    (official / "qa.894.raw.train.txt").write_text(text)
    with pytest.raises(ByeError, match=message):
        daquar.load(official, "train", seed=0)


def test_daquar_missing_parts(official, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ByeError, match=r"empty has none of the files qa.894.raw.train.txt, .*, data_train.csv; give"):
        daquar.load(tmp_path / "empty", "train", seed=0)
    (official / "nyu_depth_images" / "image7.png").unlink()
    with pytest.raises(ByeError, match=r"image .*/image7.png does not exist"):
        prepare("daquar", official, None, None, 0, tmp_path / "out")
    (official / "nyu_depth_images").rename(official / "photos")
    with pytest.raises(ByeError, match=r"has no folder nyu_depth_images or images with images"):
        daquar.load(official, "train", seed=0)
    with pytest.raises(ByeError, match=r"half there: .*nyu_depth_images is missing"):
        check_folder("daquar", official)


# ---- ucmerced --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiles(tmp_path):
    """Ten tiles a class in the official layout."""
    for name in ucmerced.CLASSES:
        for number in range(10):
            picture(tmp_path / "UCMerced_LandUse" / "Images" / name / f"{name}{number:02}.tif")
    (tmp_path / "UCMerced_LandUse" / "Images" / "beach" / "Thumbs.db").write_text("no tile")
    return tmp_path


def kind_of(sample):
    return question_of(sample).split()[0]


def test_ucmerced_two_questions_a_tile_and_a_fifth_of_each_class_for_testing(tiles):
    samples = loaded(ucmerced, tiles)
    assert (len(samples["train"]), len(samples["test"])) == (21 * 8 * 2, 21 * 2 * 2)
    folders = [sample["image"].split("/")[-2] for sample in samples["test"]]
    assert folders == [name for name in ucmerced.CLASSES for _ in range(4)]
    train = samples["train"]
    assert [sample["image"] for sample in train[::2]] == sorted(sample["image"] for sample in train[1::2])
    assert all(kind_of(first) != kind_of(second) for first, second in zip(train[::2], train[1::2], strict=True))
    for kind in ("What", "Is", "Provide"):
        assert 85 < sum(kind_of(sample) == kind for sample in train) < 140
    check_folder("ucmerced", tiles)


def test_ucmerced_answers_are_of_the_tile(tiles):
    samples = loaded(ucmerced, tiles)["train"]
    asked = {}
    for sample in samples:
        name = sample["image"].split("/")[-2]
        if name in ("golfcourse", "tenniscourt"):
            asked.setdefault((name, kind_of(sample)), set()).add((question_of(sample), answer_of(sample)))
    assert asked["golfcourse", "What"] == {(f"What kind of land use is shown?{PHRASE}", "golf course")}
    assert {answer for _, answer in asked["golfcourse", "Provide"]} == {"An aerial photograph of a golf course."}
    assert {answer for _, answer in asked["tenniscourt", "Provide"]} == {"An aerial photograph of tennis courts."}
    for name, words in (("golfcourse", "a golf course"), ("tenniscourt", "tennis courts")):
        for question, answer in asked[name, "Is"]:
            assert (answer == "yes") == (question == f"Is this mainly {words}?{PHRASE}")
    answers = [answer_of(sample) for sample in samples if kind_of(sample) == "Is"]
    assert set(answers) == {"yes", "no"} and 0.35 < answers.count("yes") / len(answers) < 0.65


def test_ucmerced_other_folder_and_format_and_what_is_missing(tiles, tmp_path):
    before = loaded(ucmerced, tiles)["test"]
    (tiles / "UCMerced_LandUse" / "Images").rename(tiles / "images")
    for path in (tiles / "images").rglob("*.tif"):
        path.rename(path.with_suffix(".jpg"))
    after = loaded(ucmerced, tiles)["test"]
    assert [sample["id"] for sample in after] == [sample["id"] for sample in before]
    assert after[0]["image"].startswith("images/agricultural/") and after[0]["image"].endswith(".jpg")
    (tiles / "images" / "harbor").rename(tiles / "harbour")
    with pytest.raises(ByeError, match=r"images/harbor has no tiles; give the root"):
        ucmerced.load(tiles, "train", seed=0)
    with pytest.raises(ByeError, match=r"half there: .*images/harbor is missing"):
        check_folder("ucmerced", tiles)
    (tiles / "images").rename(tiles / "pictures")
    with pytest.raises(ByeError, match=r"has no folder UCMerced_LandUse/Images or Images or images with tiles"):
        ucmerced.load(tiles, "train", seed=0)


# ---- openclipart -----------------------------------------------------------------------------------------------------

DRAWN = {  # file: texts of the PNG, caption
    "animals/birds/cigni_bianchi_archite_01": ("Cigni bianchi", "Architetto F.", "A drawing of a cigni bianchi."),
    "buildings/funny_house_mo_02": ("FunnyHouse", "mo", "A drawing of a funny house."),
    "food/orange_nicu_02": ("Clipart by Nicu Buculei - pear", "Nicu Buculei", "A drawing of an orange."),
    "food/pie_cherry": ("Cherry Pie", "Gerald G.", "A drawing of a cherry pie."),
    "geography/victoria-black": ("Australian Maps", "Chris Goerner", "A drawing of a map: Victoria Black."),
    "office/cassa_d_39_epoca_01": ("Cassa d&#39;epoca", "A", "A drawing of a cassa d'epoca."),
    "signs_and_symbols/danger_general_01": ("danger gÃ©nÃ©ral", "y", "A drawing of a danger général."),
    "signs_and_symbols/flags/africa/eritrea": (" eritrea", "A", "A drawing of a flag: Eritrea."),
    "tools/scissors": ("Tools", "A", "A drawing of scissors."),
    "unsorted/wreath_with_berries": ("Wreath, with berries", "A", "A drawing of a wreath with berries."),
}
UNNAMED = {  # file: title
    "shapes/fc_06": "Clipart by Nicu Buculei - fc23",
    "shapes/0123": "42",
    "computer/icons/flat-theme/kuickshow": "Part of the Flat Icon Collection",
    "zoo/pie_cherry_2": "Cherry Pie",  # the caption of another one
}
STAMPS = {
    "animals/frog": "A frog.\nfr.utf8=Une grenouille.\n",
    "animals/frog-1": "A frog.\n",
    "animals/frog_mirror": None,
    "flowers/anthurium": "Anthurium\n",
    "space/earth": "Our planet!\nde.utf8=Die Erde\n",
    "space/nothing": "\n",
}


@pytest.fixture
def share(tmp_path):
    """Both packages as they are installed, with pictures that must be left out."""
    drawings, stamps = tmp_path / openclipart.DRAWINGS, tmp_path / openclipart.STAMPS
    for name, (title, author, _) in DRAWN.items():
        picture(drawings / f"{name}.png", Title=title, Author=author)
    for name, title in UNNAMED.items():
        picture(drawings / f"{name}.png", Title=title)
    picture(drawings / "food" / "a_strip_of_bacon.png", size=(1000, 2))
    (drawings / "food" / "broken_glass.png").write_bytes(b"no image")
    (drawings / "zoo" / "hen.png").symlink_to("../food/pie_cherry.png")
    for name, text in STAMPS.items():
        picture(stamps / f"{name}.png")
        if text is not None:
            (stamps / f"{name}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def test_openclipart_captions(share):
    samples = loaded(openclipart, share)
    both = sorted(samples["train"] + samples["test"], key=lambda sample: sample["image"])
    captions = {sample["image"]: answer_of(sample) for sample in both}
    expected = {f"openclipart/png/{name}.png": caption for name, (_, _, caption) in DRAWN.items()}
    expected |= {
        "tuxpaint/stamps/animals/frog-1.png": "A frog.",
        "tuxpaint/stamps/flowers/anthurium.png": "Anthurium.",
        "tuxpaint/stamps/space/earth.png": "Our planet!",
    }
    assert captions == expected
    assert {question_of(sample) for sample in both} == {"Provide a one-sentence caption for the provided image."}


def test_openclipart_split_references_and_order(share):
    samples = loaded(openclipart, share)
    for split in SPLITS:
        images = [sample["image"] for sample in samples[split]]
        assert images == sorted(images) and {split_of(image) for image in images} == {split}
    assert all(sample["references"] == [answer_of(sample)] for sample in samples["test"])
    assert not any("references" in sample for sample in samples["train"])
    assert samples["train"][0]["id"] == samples["train"][0]["image"].removesuffix(".png")


def test_openclipart_needs_both_packages(share):
    check_folder("openclipart", share)
    (share / "tuxpaint").rename(share / "elsewhere")
    with pytest.raises(ByeError, match=r"half there: .*tuxpaint/stamps is missing"):
        check_folder("openclipart", share)
    with pytest.raises(ByeError, match=r"tuxpaint/stamps has no pictures; install openclipart-png and tuxpaint"):
        openclipart.load(share, "train", seed=0)


# ---- easyvqa ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path):
    """Two training images with three questions, one test image with one."""
    questions = {
        "train": [["what is the blue shape?", "circle", 0], ["is it red?", "no", 0], ["is it red?", "yes", 1]],
        "test": [["what color is the shape?", "teal", 0]],
    }
    for split, entries in questions.items():
        for image in {image for _, _, image in entries}:
            picture(tmp_path / split / "images" / f"{image}.png")
        (tmp_path / split / "questions.json").write_text(json.dumps(entries))
    return tmp_path


def test_easyvqa_official_layout(shapes):
    train, test = (easyvqa.load(shapes, split, seed=0) for split in SPLITS)
    assert [sample["id"] for sample in train] == ["0-1", "0-2", "1-1"]
    assert [sample["image"] for sample in train] == [f"train/images/{image}.png" for image in (0, 0, 1)]
    assert (question_of(train[0]), answer_of(train[0])) == (f"What is the blue shape?{PHRASE}", "circle")
    assert (test[0]["image"], answer_of(test[0])) == ("test/images/0.png", "teal")
    check_folder("easyvqa", shapes)


@pytest.mark.parametrize("entry", [["what?", "red"], ["what?", "red", "0"], {"question": "what?"}, ["what?", None, 0]])
def test_easyvqa_bad_entries(shapes, entry):
    source = shapes / "train" / "questions.json"
    source.write_text(json.dumps([["is it red?", "no", 0], entry]))
    with pytest.raises(
        ByeError, match=r"questions.json, entry 1: not \[question, answer, image\]; is this the official"
    ):
        easyvqa.load(shapes, "train", seed=0)
    source.write_text("{}")
    with pytest.raises(ByeError, match="questions.json is no list of questions"):
        easyvqa.load(shapes, "train", seed=0)
    source.unlink()
    with pytest.raises(ByeError, match="half there: .*questions.json is missing"):
        check_folder("easyvqa", shapes)


# ---- all -------------------------------------------------------------------------------------------------------------


ROOTS = {"daquar": "official", "ucmerced": "tiles", "openclipart": "share", "easyvqa": "shapes"}  # format: fixture


@pytest.mark.parametrize(("layout", "fixture"), ROOTS.items())
def test_prepare_writes_samples_that_read_back(layout, fixture, request, tmp_path):
    root = request.getfixturevalue(fixture)
    assert prepare(layout, root, 2, 1, 0, tmp_path / "out") == (2, 1)
    for split, count in (("train", 2), ("test", 1)):
        assert len(read_samples(tmp_path / "out" / f"{split}.json", images_root=root)) == count


@pytest.mark.parametrize("layout", ROOTS)
def test_a_configuration_names_the_folder_since_nothing_draws_or_downloads_it(layout, shipped_config):
    entry = {"format": layout, "train": 2, "test": 1, "metric": "accuracy"}
    shipped_config["datasets"]["own"] = {**entry, "root": "somewhere"}
    check_content(shipped_config, ROOT)
    assert missing_roots(shipped_config) == ["config key datasets.own.root: there is no folder somewhere"]
    shipped_config["datasets"]["own"] = entry
    with pytest.raises(ByeError, match=r"config key datasets.own lacks root; add it"):
        check_content(shipped_config, ROOT)


def test_training_samples_of_a_part_of_the_pictures(tiles, tmp_path, shipped_config):
    def images(split, **options):
        prepare("ucmerced", tiles, None, None, 0, tmp_path / "out", **options)
        return {sample["image"] for sample in read_samples(tmp_path / "out" / f"{split}.json", images_root=tiles)}

    first, second = images("train", pictures=(0, 0.5)), images("train", pictures=(0.5, 1))
    assert not first & second and first | second == images("train")
    assert 60 < len(first) < 110
    assert images("test", pictures=(0, 0.5)) == images("test")
    for part in ((0.5, 0.5), (-1, 1), (0, 2)):
        with pytest.raises(ByeError, match="give a part of a set with official splits, such as 0.5 1"):
            images("train", pictures=part)

    entry = {"format": "ucmerced", "root": str(tiles), "train": 2, "test": 1, "metric": "accuracy"}
    for part, told in (
        ([0.5, 0.5], r"pictures is \[0.5, 0.5\]; give from and to"),
        ([0, 2], "pictures.1: 2 is greater"),
    ):
        shipped_config["datasets"] = {"own": {**entry, "pictures": part}}
        shipped_config["tables"] = {}
        with pytest.raises(ByeError, match=f"config key datasets.own.{told}"):
            check_content(shipped_config, ROOT)
