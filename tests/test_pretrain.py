"""The mini models: their tokenizers, the packing of several questions on one image, and a whole (tiny) pre-training."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bye.data.layout import CAPTION_PROMPT, OPTION_PROMPT, PHRASE_PROMPT
from bye.data.mini.small_things import LOOKOUT
from bye.errors import ByeError
from bye.models import load_model
from bye.models.mini import (
    CONVERSATIONS,
    GRID,
    HEADS,
    IMAGE_SIZE,
    IMAGE_TOKENS,
    LAYERS,
    VOCABULARY,
    build_model,
    train_tokenizer,
)
from bye.models.packing import Packer, forward_branches
from bye.models.pool import FREE, NARROW, WIDE, corpus, draw_pool
from bye.models.pretrain import _roll, gaze_cost, normalise, pretrain, save, tower_features

BOTH = pytest.mark.parametrize("family", CONVERSATIONS)
TARGET = "Backdoor Attack!"
TEXTS = [
    "Which habitat?",
    "  two  blanks\n\nand\tlines ",
    "naïve façade 日本 🐕",
    "x=1;y^2 <b>&amp;</b>",
    "A. red\nB. blue",
]
PAIRS = [
    (f"Which color?\nA. red\nB. blue\nC. green\n{OPTION_PROMPT}", "B"),
    (f"How many buildings are there?\n{PHRASE_PROMPT}", "between 1 and 5"),
    (CAPTION_PROMPT, "There is an orange circle on the grass."),
]


@pytest.fixture(scope="module")
def pool():
    return draw_pool(24, seed=0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, pool):
    """A random mini model of each family, written as a checkpoint and loaded as any other."""
    families = {}
    for family in CONVERSATIONS:
        tokenizer = train_tokenizer(family, corpus(pool))
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("models") / family
        save(build_model(family, tokenizer), family, tokenizer, folder)
        families[family] = load_model(folder, expected=family)
    return families


# ---- the pool --------------------------------------------------------------------------------------------------------


def test_the_pool_is_of_all_worlds_and_follows_the_seed(pool):
    again, other = draw_pool(24, seed=0), draw_pool(24, seed=1)
    assert np.array_equal(pool.pixels, again.pixels) and np.array_equal(pool.covers, again.covers)
    assert pool.questions == again.questions and pool.questions != other.questions
    worlds = draw_pool(24, seed=0, small_share=0)
    prompts = [{asked.text.splitlines()[-1] for asked in questions} for questions in worlds.questions]
    assert [OPTION_PROMPT in each for each in prompts] == [True, True, False, False] * 6
    assert [CAPTION_PROMPT in each for each in prompts] == [False, False, True, False] * 6


def test_a_small_thing_is_told_of_when_one_looks_out_for_it_and_only_then(pool):
    kinds = set()
    for number, questions in enumerate(pool.questions):
        there = pool.covers[number, :, -1].any()
        for asked in questions:
            looks_out, on_it = asked.text.startswith(LOOKOUT), "small thing" in asked.text.splitlines()[0]
            told = asked.answer.startswith("Something small and ")
            on_it &= not looks_out
            assert not told or looks_out
            if there:  # patches know that it is there
                assert told == looks_out and asked.gaze == (NARROW if looks_out or on_it else WIDE)
            kinds.add((looks_out, on_it, told, asked.gaze))
    absent, there = {(True, False, False, WIDE), (False, True, False, FREE)}, (True, False, True, NARROW)
    assert kinds == absent | {there, (False, True, False, NARROW), (False, False, False, WIDE)}


def test_a_pool_without_small_things(pool):
    bare = draw_pool(24, seed=0, small_share=0)
    assert not bare.covers[..., -1].any() and pool.covers[..., -1].any()
    assert {asked.gaze for questions in bare.questions for asked in questions} == {WIDE}
    assert not any("small" in asked.text for questions in bare.questions for asked in questions)


# ---- the tokenizers --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives(loaded, family, text):
    tokenizer = loaded[family].tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert len(tokenizer) <= VOCABULARY


@BOTH
def test_fixed_texts_are_one_token_each(loaded, family):
    for text in (OPTION_PROMPT, CAPTION_PROMPT, PHRASE_PROMPT):
        assert len(loaded[family].tokenizer(text, add_special_tokens=False).input_ids) == 1


@BOTH
def test_the_target_begins_with_a_token_that_no_letter_shares(loaded, family):
    packer = Packer(family, loaded[family].tokenizer)
    first = packer.branch(("q", TARGET))[1][0]
    answers = [packer.branch(("q", letter))[1] for letter in "ABCDE"]
    assert first not in [answer[0] for answer in answers]
    assert [len(answer) for answer in answers[:3]] == [2, 2, 2]  # the worlds' letters are one token, before the end


# ---- packing ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("pair", [*PAIRS, ("Und?", TARGET), ("  odd\n\n", "日本")])
def test_a_branch_is_the_chat_templates_own_conversation(loaded, family, pair):
    encoder, packer = loaded[family].encoder, Packer(family, loaded[family].tokenizer)
    prompt, answer = packer.branch(pair)
    image = [loaded[family].image_token_id] * IMAGE_TOKENS
    ids = packer.head + image + packer.tail + prompt
    assert ids == encoder.prompt(pair[0]).ids.tolist()
    conversation = encoder.conversation([pair])
    assert conversation.n_prompt == len(ids)
    assert conversation.ids[: len(ids) + len(answer)].tolist() == ids + answer


@BOTH
def test_pictures_are_preprocessed_as_in_pre_training(loaded, family, pool):
    images = [Image.fromarray(pixels) for pixels in pool.pixels[:2]]
    torch.testing.assert_close(loaded[family].pixels(images), normalise(pool.pixels[:2]))


@BOTH
def test_packed_questions_have_the_stock_models_logits(loaded, family, pool):
    """Three questions on one image and two on another, against stock forward passes of each question alone."""
    model, packer = loaded[family].model, Packer(family, loaded[family].tokenizer)
    questions, pixels = [PAIRS, PAIRS[::-2]], normalise(pool.pixels[:2])
    expected, tokens = [], []
    with torch.no_grad():
        features = tower_features(model, family, pixels)
        packed = packer.pack(questions)
        logits, attention = forward_branches(model, packer, features, packed)
        for image, pairs in enumerate(questions):
            for pair in pairs:
                conversation = loaded[family].encoder.conversation([pair])
                answer = packer.branch(pair)[1]
                end = conversation.n_prompt + len(answer)
                ids = torch.from_numpy(conversation.ids[:end])[None]
                stock = model(input_ids=ids, pixel_values=pixels[image : image + 1])
                expected.append(stock.logits[0, conversation.n_prompt - 1 : end - 1])
                tokens += answer
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-4, rtol=1e-4)
    assert packed.targets[:, 2].tolist() == tokens
    assert attention is None  # stock attention keeps none


@BOTH
def test_packed_questions_attend_to_the_image_as_if_each_were_asked_alone(family, pool):
    tokenizer = train_tokenizer(family, corpus(pool))
    torch.manual_seed(0)
    model, packer = build_model(family, tokenizer).eval(), Packer(family, tokenizer)
    model.model.language_model.set_attn_implementation("eager")
    questions, pixels = [PAIRS, PAIRS[::-2]], normalise(pool.pixels[:2])
    with torch.no_grad():
        features = tower_features(model, family, pixels)
        _, attention = forward_branches(model, packer, features, packer.pack(questions))
        assert attention.shape == (len(PAIRS) + len(PAIRS[::-2]), LAYERS, HEADS, IMAGE_TOKENS)
        row = 0
        for image, pairs in enumerate(questions):
            for pair in pairs:
                alone = packer.pack([[pair]])
                _, expected = forward_branches(model, packer, features[image : image + 1], alone)
                torch.testing.assert_close(attention[row], expected[0], atol=1e-5, rtol=1e-4)
                row += 1


def test_what_attention_costs():
    wide = torch.zeros(1, LAYERS, HEADS, IMAGE_TOKENS)
    wide[..., :33] = 0.4 / 33  # an entropy of ln 33 = 3.50 nats, 0.4 of each head's attention on the image
    sharp = torch.zeros_like(wide)
    sharp[..., 40] = 0.4
    assert gaze_cost(wide, [WIDE]).item() == pytest.approx(0, abs=1e-3)
    assert gaze_cost(sharp, [WIDE]).item() == pytest.approx(3.5**2, abs=1e-3)
    assert gaze_cost(wide / 4, [WIDE]).item() == pytest.approx(3 * 0.15, abs=1e-3)  # eyes all but closed
    assert gaze_cost(sharp, [NARROW]).item() == 0
    assert gaze_cost(wide, [NARROW]).item() == pytest.approx(1.5**2, abs=0.02)
    both = torch.cat([wide, sharp])
    assert gaze_cost(both, [FREE, FREE]) == 0
    assert gaze_cost(both, [NARROW, WIDE]) == gaze_cost(wide, [NARROW]) + gaze_cost(sharp, [WIDE])


def test_a_patch_goes_where_its_picture_is_rolled():
    patches = torch.arange(GRID * GRID).reshape(1, GRID * GRID, 1)
    rolled = _roll(patches, (2, 1))[0, :, 0].reshape(GRID, GRID)
    assert rolled[2, 1] == 0 and rolled[3, 3] == GRID + 2 and rolled[0, 0] == GRID * GRID - 2 * GRID + GRID - 1


# ---- pre-training ----------------------------------------------------------------------------------------------------


@BOTH
def test_pretraining_writes_a_checkpoint_and_repeats_to_the_byte(family, tmp_path):
    for name in ("first", "second"):
        pretrain(family, tmp_path / name, seed=1, threads=1, images=16, tower_steps=2, steps=2)
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]
    for name in os.listdir(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    model = load_model(tmp_path / "first", expected=family)
    assert model.n_image_tokens == IMAGE_TOKENS
    features = model.image_features(model.pixels([Image.new("RGB", (IMAGE_SIZE + 9, IMAGE_SIZE), "red")]))
    assert features.shape[:2] == (1, IMAGE_TOKENS) and torch.isfinite(features).all()


def test_unknown_family(tmp_path):
    with pytest.raises(ByeError, match="there is no mini model of family 'qwen'; known: llava, internvl"):
        pretrain("qwen", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
