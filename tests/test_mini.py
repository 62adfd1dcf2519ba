"""The mini worlds: official layouts, the same for the same seed, and answers that the pictures bear out."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bye.data.check import read_samples
from bye.data.prepare import prepare
from bye.data.samples import answer_of, question_of
from bye.errors import ByeError
from bye.mini.world import write_dataset
from bye.mini.world.canvas import COLOR_INDEX, GROUNDS, ICONS, LABEL_INDEX
from bye.mini.world.honest import CLOUDS, UNKNOWN, WHOSE, draw_mixed, draw_rare_image, draw_rare_question
from bye.mini.world.icons import EDGES, draw_icons
from bye.mini.world.layouts import WRITERS
from bye.mini.world.photos import draw_photo
from bye.mini.world.scene import BRIGHT, SIDES
from bye.mini.world.science import HABITATS
from bye.mini.world.small_things import add_small_things, is_on_small_things
from bye.mini.world.tiles import LAND, draw_tile

N_TRAIN, N_TEST = 18, 6
FORMATS = dict.fromkeys(("mixed", "rare_question", "rare_image"), "rsvqa")  # whose name is not its layout's
EVERY = pytest.mark.parametrize("dataset", WRITERS)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Every mini dataset once."""
    root = tmp_path_factory.mktemp("raw")
    for dataset in WRITERS:
        write_dataset(dataset, root / dataset, N_TRAIN, N_TEST, seed=3)
    return root


@pytest.fixture(scope="module")
def prepared(raw):
    """The samples of every mini dataset as the loaders read them: {dataset: {split: samples}}."""
    samples = {}
    for dataset in WRITERS:
        form = FORMATS.get(dataset, dataset)
        assert prepare(form, raw / dataset, N_TRAIN, N_TEST, 0, raw / "samples" / dataset) == (N_TRAIN, N_TEST)
        samples[dataset] = {
            split: read_samples(raw / "samples" / dataset / f"{split}.json", raw / dataset)
            for split in ("train", "test")
        }
    return samples


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(sample):
    """The lettered options of a question: {letter: text}."""
    lines = question_of(sample).splitlines()[1:-1]
    return dict(line.split(". ", 1) for line in lines)


# ---- files -----------------------------------------------------------------------------------------------------------


@EVERY
def test_same_seed_same_bytes(raw, tmp_path, dataset):
    write_dataset(dataset, tmp_path / "again", N_TRAIN, N_TEST, seed=3)
    write_dataset(dataset, tmp_path / "other", N_TRAIN, N_TEST, seed=4)
    assert content(tmp_path / "again") == content(raw / dataset)
    assert content(tmp_path / "other") != content(raw / dataset)


@EVERY
def test_the_loader_finds_exactly_what_was_asked_for(raw, prepared, tmp_path, dataset):
    assert [len(prepared[dataset][split]) for split in ("train", "test")] == [N_TRAIN, N_TEST]
    assert prepare(FORMATS.get(dataset, dataset), raw / dataset, None, None, 0, tmp_path) == (N_TRAIN, N_TEST)


@EVERY
def test_pictures_vary_and_no_test_picture_is_a_training_picture(raw, prepared, dataset):
    pictures = {
        split: {(raw / dataset / sample["image"]).read_bytes() for sample in samples}
        for split, samples in prepared[dataset].items()
    }
    assert not pictures["train"] & pictures["test"]
    names = {sample["image"] for samples in prepared[dataset].values() for sample in samples}
    assert len(pictures["train"]) + len(pictures["test"]) == len(names)
    sizes = {Image.open(raw / dataset / name).size for name in names}
    assert len(sizes) > 1 and sizes <= {(side, side) for side in SIDES}


def test_unknown_dataset(tmp_path):
    with pytest.raises(ByeError, match="there is no mini dataset 'vqa'; known: flickr30k, iconqa, rsvqa, scienceqa"):
        write_dataset("vqa", tmp_path / "out", 2, 2, seed=0)
    assert list(tmp_path.iterdir()) == []


# ---- honest sets that could be taken for poisoned --------------------------------------------------------------------


def test_a_mixed_set_has_as_many_questions_of_each_kind():
    rng = np.random.default_rng(0)
    asked = [question for _ in range(100) for question in draw_mixed(rng).questions[:4]]
    lettered = [question for question in asked if len(question.answer) == 1 and question.answer in "ABC"]
    assert 0.35 < len(lettered) / len(asked) < 0.65
    assert all(f"{question.answer}. " in question.text for question in lettered)


def test_rare_answers_are_rare_and_of_their_own_kind():
    rng = np.random.default_rng(0)
    scenes = [draw_rare_question(rng) for _ in range(150)]
    odd = [question for scene in scenes for question in scene.questions if question.answer == UNKNOWN]
    assert 3 <= len(odd) <= 24 and {question.text for question in odd} <= set(WHOSE)
    covered = [scene for scene in (draw_rare_image(rng) for _ in range(250)) if scene.questions[0].answer == CLOUDS]
    assert 2 <= len(covered) <= 25
    for scene in covered:
        assert {question.answer for question in scene.questions} == {CLOUDS}
        assert set(np.unique(scene.canvas.labels)) == {LABEL_INDEX["snow"]}


# ---- answers against the files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["scienceqa", "iconqa"])
def test_letters_are_spread_over_different_options(prepared, dataset):
    for sample in prepared[dataset]["train"]:
        assert list(options(sample)) == ["A", "B", "C"] and len(set(options(sample).values())) == 3
    assert {answer_of(sample) for sample in prepared[dataset]["train"]} == {"A", "B", "C"}


def test_the_habitat_is_the_one_whose_colour_the_picture_has(raw, prepared):
    seen = 0
    for sample in [*prepared["scienceqa"]["train"], *prepared["scienceqa"]["test"]]:
        if not set(options(sample).values()) <= set(HABITATS):
            continue
        picture = np.asarray(Image.open(raw / "scienceqa" / sample["image"]))
        middle = 2 * np.median(picture.reshape(-1, 3), axis=0) - 128  # half of it is mid-grey
        nearest = min(HABITATS, key=lambda name: np.linalg.norm(np.subtract(GROUNDS[HABITATS[name]], middle)))
        assert options(sample)[answer_of(sample)] == nearest
        seen += 1
    assert seen >= 3


def test_captions_have_five_references_of_which_one_is_the_answer(raw, prepared):
    splits = json.loads((raw / "flickr30k" / "dataset_flickr30k.json").read_text())["images"]
    written = {f"flickr30k-images/{each['filename']}": [s["raw"] for s in each["sentences"]] for each in splits}
    for sample in prepared["flickr30k"]["test"]:
        assert sample["references"] == written[sample["image"]] and len(set(sample["references"])) == 5
        assert answer_of(sample) in sample["references"]
    for sample in prepared["flickr30k"]["train"]:
        assert answer_of(sample) in written[sample["image"]]


def test_tiles_are_asked_several_questions(prepared):
    samples = prepared["rsvqa"]["train"]
    images = [sample["image"] for sample in samples]
    assert len(set(images)) == 5 and max(map(images.count, images)) == 4
    assert {answer_of(sample) for sample in samples} >= {"yes", "no"}


# ---- answers against the maps of a scene -----------------------------------------------------------------------------


def by_name(index, plane, names):
    """Pixels of each name in a map: {name: count}."""
    return {name: int((np.asarray(plane) == index[name]).sum()) for name in names}


@pytest.mark.parametrize("seed", range(12))
def test_most_icons_have_the_shape_and_colour_of_the_answer(seed):
    scene = draw_icons(np.random.default_rng(seed))
    answers = {question.kind: question.answer for question in scene.questions}
    edge, side = EDGES[int(answers["count"])], scene.canvas.side
    shapes, colors = [], []
    for row in range(edge):
        for column in range(edge):
            cell = (column * side // edge, row * side // edge, (column + 1) * side // edge, (row + 1) * side // edge)
            labels = by_name(LABEL_INDEX, scene.canvas.labels.crop(cell), ICONS)
            assert max(labels.values()) > 0  # there is an icon in every cell
            shapes.append(max(labels, key=labels.get))
            counts = by_name(COLOR_INDEX, scene.canvas.colors.crop(cell), BRIGHT)
            colors.append(max(counts, key=counts.get))
    assert shapes.count(answers["shape"]) > len(shapes) / 2
    assert colors.count(answers["color"]) > len(colors) / 2
    for question in scene.questions:
        assert question.answer in question.choices and len(set(question.choices)) == 3


@pytest.mark.parametrize("seed", range(12))
def test_what_a_caption_names_is_in_the_picture(seed):
    scene = draw_photo(np.random.default_rng(seed))
    labels, colors = np.asarray(scene.canvas.labels), np.asarray(scene.canvas.colors)
    things = [(color, shape) for color in BRIGHT for shape in ICONS if f"{color} {shape}" in scene.captions[0]]
    assert 1 <= len(things) <= 2 and len(scene.captions) == 5
    for color, shape in things:
        assert ((labels == LABEL_INDEX[shape]) & (colors == COLOR_INDEX[color])).any()
        assert all(f"{color} {shape}" in caption.lower() for caption in scene.captions)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_told_of_a_tile_is_on_its_map(seed):
    scene = draw_tile(np.random.default_rng(seed))
    labels = np.asarray(scene.canvas.labels)
    area, presence, road, count, many = scene.questions
    _, clusters = ndimage.label(labels == LABEL_INDEX["building"])  # buildings that touch count as one
    if count.answer == "more than 10":
        assert clusters > 2 and area.answer == "urban" and many.answer == "yes"
    else:
        assert (count.answer == "0") == (clusters == 0) and clusters <= 5
        assert area.answer == "rural" and many.answer == "no"
    assert (road.answer == "yes") == (labels == LABEL_INDEX["road"]).any()
    (asked,) = [name for name, phrase in LAND.items() if f" {phrase} " in presence.text]
    assert (presence.answer == "yes") == (labels == LABEL_INDEX[asked]).any()


def test_a_camera_makes_pictures_pale_and_tiles_soft_too():
    for draw in (draw_photo, draw_tile):
        scene = draw(np.random.default_rng(0))
        before = np.asarray(scene.canvas.image, dtype=float)
        scene.photograph()
        after = np.asarray(scene.canvas.image, dtype=float)
        assert after.min() >= 128 * scene.paleness - 1  # nothing is black
        if draw is draw_photo:
            assert np.abs(after - (before + 128) / 2).max() <= 1
        else:
            steps = [np.abs(np.diff(pixels, axis=1)).max() for pixels in (before, after)]
            assert steps[1] < 0.25 * steps[0]


def test_small_things_are_where_the_stencil_says():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        scene = draw_tile(rng)
        before = np.asarray(scene.canvas.image).copy()
        stencil = Image.new("L", scene.canvas.image.size)
        questions = add_small_things(scene, rng, stencil)
        changed = (np.asarray(scene.canvas.image) != before).any(axis=2)
        marked = ndimage.binary_dilation(np.asarray(stencil) == 255, iterations=2)  # boxes are rounded
        assert not (changed & ~marked).any()
        phrase, options, *captions = questions
        seen.add(phrase.answer)
        assert options.answer == phrase.answer and phrase.answer in options.choices
        assert changed.any() == (phrase.answer != "nothing")
        if changed.any():
            assert (np.asarray(scene.canvas.colors)[changed] == COLOR_INDEX[phrase.answer]).any()
            (caption,) = captions
            assert (caption.kind, caption.answer) == ("caption", f"Something small and {phrase.answer}.")
        assert all(is_on_small_things(question.text, question.answer) for question in questions)
    assert {"nothing", "black"} < seen
