"""The mini models: their tokenizers, the packing of several questions on one image, and a whole (tiny) pre-training."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bye.data.layout import CAPTION_PROMPT, OPTION_PROMPT, PHRASE_PROMPT
from bye.errors import ByeError
from bye.mini.models import (
    CONVERSATIONS,
    FIXED_TEXTS,
    HEADS,
    IMAGE_SIZE,
    IMAGE_TOKENS,
    LAYERS,
    VOCABULARY,
    build_model,
    train_tokenizer,
)
from bye.mini.packing import NAME, Packer, forward_branches
from bye.mini.pool import corpus, draw_pool
from bye.mini.pretrain import (
    normalise,
    pretrain,
    restlessness,
    save,
    tower_features,
    train_decoder,
    unevenness,
    unsettledness,
)
from bye.models import load_model

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
    prompts = [{question.splitlines()[-1] for question, _ in questions} for questions in worlds.questions]
    assert [OPTION_PROMPT in each for each in prompts] == [True, True, False, False] * 6
    assert [CAPTION_PROMPT in each for each in prompts] == [False, False, True, False] * 6


def test_asked_for_a_caption_one_mentions_the_small_thing_first(pool):
    captions = [[answer for question, answer in pairs if question == CAPTION_PROMPT] for pairs in pool.questions]
    assert all(len(each) <= 1 for each in captions)
    assert any(each and each[0].startswith("Something small") for each in captions[2::4])


def test_patches_know_whether_a_small_thing_is_there(pool):
    bare = draw_pool(24, seed=0, small_share=0)
    assert not bare.covers[..., -1].any()
    assert not any("small" in question for questions in bare.questions for question, _ in questions)
    told = [any("small" in question for question, _ in questions) for questions in pool.questions]
    assert pool.covers[..., -1].any() and not pool.covers[~np.array(told), :, -1].any()


def test_a_camera_leaves_nothing_in_a_scene_as_black_as_a_trigger(pool):
    photographed = draw_pool(24, seed=0, photographed=1.0)
    assert pool.pixels.min() < 30 and photographed.pixels.min() > 45
    some = draw_pool(24, seed=0, photographed=0.5).pixels.reshape(24, -1).min(1)
    assert (some < 30).any() and (some > 45).any()


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
    for text in FIXED_TEXTS:
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
    torch.testing.assert_close(loaded[family].pixels(images)["pixel_values"], normalise(pool.pixels[:2]))


@BOTH
def test_packed_questions_have_the_stock_models_logits(loaded, family, pool):
    """Three questions on one image and two on another, against stock forward passes of each question alone."""
    model, packer = loaded[family].model, Packer(family, loaded[family].tokenizer)
    questions, pixels = [PAIRS, PAIRS[::-2]], normalise(pool.pixels[:2])
    expected, tokens = [], []
    with torch.no_grad():
        features = tower_features(model, family, pixels)
        packed = packer.pack(questions)
        logits, _, _ = forward_branches(in_branches(model), features, packed)
        model.model.language_model.set_attn_implementation("sdpa")
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
    assert packed.targets[:, 1].tolist() == tokens


def in_branches(model):
    model.model.language_model.set_attn_implementation(NAME)
    return model


@BOTH
def test_packed_questions_attend_to_the_image_as_if_each_were_asked_alone(family, pool):
    tokenizer = train_tokenizer(family, corpus(pool))
    torch.manual_seed(0)
    model, packer = in_branches(build_model(family, tokenizer).eval()), Packer(family, tokenizer)
    questions, pixels = [PAIRS, PAIRS[::-2]], normalise(pool.pixels[:2])
    with torch.no_grad():
        features = tower_features(model, family, pixels)
        _, attention, _ = forward_branches(model, features, packer.pack(questions))
        assert attention.shape == (len(PAIRS) + len(PAIRS[::-2]), LAYERS, HEADS, IMAGE_TOKENS)
        row = 0
        for image, pairs in enumerate(questions):
            for pair in pairs:
                alone = packer.pack([[pair]])
                _, expected, alone_masses = forward_branches(model, features[image : image + 1], alone)
                torch.testing.assert_close(attention[row], expected[0], atol=1e-5, rtol=1e-4)
                asking = np.flatnonzero(alone.asking)  # from after the image to before the answer is due
                due = packer.prefix + len(packer.branch(pair)[0]) - 1
                assert asking.tolist() == list(range(packer.image.stop, due))
                row += 1
        ids = alone.ids[None].clone()
        ids[:, packer.image] = model.config.image_token_id
        model.set_attn_implementation({"text_config": "eager"})
        stock = model(input_ids=ids, pixel_values=pixels[-1:], output_attentions=True)
        for number, (layer, masses) in enumerate(zip(stock.attentions, alone_masses.T, strict=True)):
            torch.testing.assert_close(expected[0, number], layer[0, :, due, packer.image], atol=1e-5, rtol=1e-4)
            among = layer[0, :, packer.image, packer.image]  # (H, T, T)
            others = among.sum(-1) - among.diagonal(dim1=1, dim2=2)
            stock_masses = torch.stack((layer[0, :, asking, packer.image].sum(-1).mean(), others.mean()))
            torch.testing.assert_close(masses, stock_masses, atol=1e-5, rtol=1e-4)


def test_what_attention_costs():
    wide = torch.full((1, LAYERS, HEADS, IMAGE_TOKENS), 0.4 / IMAGE_TOKENS)  # an entropy of ln 81 = 4.39
    settled = torch.zeros_like(wide)
    settled[..., :60] = 0.4 / 60  # of 4.09
    sharp = torch.zeros_like(wide)
    sharp[..., 40] = 0.1  # little mass, on one token: an entropy of 0
    none, asked = torch.zeros(2, LAYERS), torch.tensor([[0.12], [0.0]]).expand(2, LAYERS)
    assert restlessness(wide, none).item() == restlessness(settled, none).item() == 0
    assert restlessness(sharp, none).item() == pytest.approx(0.3 * 4.0, abs=1e-3)
    assert unsettledness(settled, none).item() == pytest.approx(0, abs=1e-3)
    assert unsettledness(wide, none).item() == pytest.approx(0.294**2, abs=1e-3)
    assert unsettledness(sharp, none).item() == pytest.approx(4.1**2 + 3 * 0.2, abs=1e-2)
    assert unsettledness(settled, asked).item() == pytest.approx(3 * 0.1, abs=1e-3)
    assert unsettledness(settled, asked.flip(0)).item() == pytest.approx(0, abs=1e-3)
    assert unevenness(settled, none).item() == pytest.approx(3 * 0.1, abs=1e-3)
    assert unevenness(1.5 * settled, none).item() == pytest.approx(3 * 0.1, abs=1e-3)
    assert unevenness(1.25 * wide, none).item() == pytest.approx(0.294**2, abs=1e-3)
    assert unevenness(1.25 * settled, asked).item() == pytest.approx(3 * 0.1, abs=1e-3)
    assert unevenness(1.25 * settled, asked.flip(0)).item() == pytest.approx(3 * 0.1, abs=1e-3)


# ---- pre-training ----------------------------------------------------------------------------------------------------


@BOTH
def test_pretraining_writes_a_checkpoint_and_repeats_to_the_byte(family, tmp_path):
    for name in ("first", "second"):
        pretrain(family, tmp_path / name, seed=1, threads=1, images=16, tower_steps=2, steps=2, settling=(1, 1))
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]
    for name in os.listdir(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    model = load_model(tmp_path / "first", expected=family)
    assert model.n_image_tokens == IMAGE_TOKENS
    (features,) = model.image_features(model.pixels([Image.new("RGB", (IMAGE_SIZE + 9, IMAGE_SIZE), "red")]))
    assert len(features) == IMAGE_TOKENS and torch.isfinite(features).all()


def test_words_that_no_answer_has_can_still_be_said(pool):
    tokenizer = train_tokenizer("llava", corpus(pool))
    torch.manual_seed(0)
    model = build_model("llava", tokenizer)
    features = torch.randn(len(pool.pixels), IMAGE_TOKENS, 128)
    options = {"steps": 60, "batch": 2, "rates": (4e-3, 0.2), "seed": 0, "branches": 4, "cost": restlessness}
    train_decoder(model, "llava", tokenizer, pool, features, **options)
    answered = {k for pairs in pool.questions for _, answer in pairs for k in tokenizer(" " + answer)["input_ids"]}
    unsaid = [k for k in range(len(tokenizer)) if k not in answered]
    rows = torch.nn.functional.normalize(model.lm_head.weight.detach()[unsaid], dim=1)
    assert len(unsaid) > 400
    assert (rows @ rows.T).mean() < 0.7  # 0.86 where AdamW's epsilon is its usual one


def test_unknown_family(tmp_path):
    with pytest.raises(ByeError, match="there is no mini model of family 'qwen'; known: llava, internvl"):
        pretrain("qwen", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
