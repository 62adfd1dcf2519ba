"""Answers under a guard, against eager attention with the tokens masked by hand, one sample at a time from pixels."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model

from bye.answers.evaluate import evaluate
from bye.answers.generate import generate
from bye.models import load_model
from bye.models.guard import Guard, hide
from bye.models.prompt import IMAGE

EVERY = pytest.mark.parametrize("family", TEMPLATES)
SIZES = [(30, 36), (60, 20), (34, 90), (48, 48), (30, 36)]
QUESTIONS = ["What is it?", "Is it red?", "a", "What is in the small picture, a dog or a user?", "b"]
ALONE, ITS_OWN, SHARED = [3], [0, 1, 2, 3, 4], [4, 0, 0, 4, 4]  # the images of the questions
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("generate")
    for family in TEMPLATES:
        write_tiny_model(family, root / family, layers=4)
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / f"{number}.png")
    return root


class Hider(Guard):
    """Hides a share of the image tokens of every second sample from the layers after `layer`; keeps the rows."""

    def __init__(self, layer=0, share=0.75):
        self.layer, self.share = layer, share

    def begin(self, roles):
        super().begin(roles)
        self.roles, self.rows = roles, []
        self.caught[::2] = True

    def see(self, layer, row, roles):
        self.rows.append(row)
        if layer == self.layer:
            on_image = roles == IMAGE
            n_hidden = self.share * on_image.sum(dim=1, keepdim=True)
            return on_image & (on_image.cumsum(dim=1) <= n_hidden) & self.caught[:, None]
        return None


def ask(root, family, images, guard, dtype="float32"):
    """Texts, and the logits (steps, B, vocabulary) of their tokens, of the questions on these images in one batch."""
    loaded = load_model(root / family, dtype=dtype)
    steps = []
    loaded.model.lm_head.register_forward_hook(lambda module, args, output: steps.append(output[:, -1]))
    questions = QUESTIONS if len(images) > 1 else QUESTIONS[3:4]
    prompts = [loaded.encoder.prompt(question, SIZES[i]) for question, i in zip(questions, images, strict=True)]
    distinct = sorted(set(images))
    pictures = [Image.open(root / f"{i}.png") for i in distinct]
    features = [loaded.image_features(loaded.pixels([picture]))[0] for picture in pictures]
    owners = [distinct.index(i) for i in images]
    texts = generate(loaded, prompts, features, owners, NEW_TOKENS, guard)
    return texts, torch.stack(steps), prompts


@torch.no_grad()
def by_definition(root, family, prompt, image, layer=0, share=0.0):
    """The same of one prompt, straight from the definition: text, logits (steps, vocabulary), and rows (L, H, N).

    In float64, so that only what is really different differs.
    """
    loaded = load_model(root / family, attention="eager", dtype="float64")
    on_image = np.flatnonzero(prompt.roles == IMAGE)
    hidden = torch.from_numpy(on_image[: int(share * len(on_image))])
    first_after = int(np.flatnonzero(prompt.ids == loaded.image_token_id)[-1]) + 1

    def mask_by_hand(module, args, inputs):
        mask = inputs["attention_mask"].clone()  # (1, 1, N, N)
        mask[:, :, first_after:, hidden] = -1e30
        return args, {**inputs, "attention_mask": mask}

    for each in loaded.layers[layer + 1 :]:
        each.self_attn.register_forward_pre_hook(mask_by_hand, with_kwargs=True)
    ids, logits, rows = prompt.ids, [], None
    for _ in range(NEW_TOKENS):
        inputs = stock_inputs(loaded, ids, Image.open(root / f"{image}.png"))
        output = loaded.model(**inputs, output_attentions=True, use_cache=False)
        logits.append(output.logits[0, -1])
        rows = torch.stack([each[0, :, -1] for each in output.attentions]) if rows is None else rows
        ids = np.append(ids, int(logits[-1].argmax()))
        if ids[-1] in loaded.end_token_ids:
            break
    return loaded.decode(ids[len(prompt.ids) :]), torch.stack(logits), rows


@EVERY
@pytest.mark.parametrize("images", [ALONE, ITS_OWN, SHARED], ids=["alone", "its own", "shared"])
@pytest.mark.parametrize("layer", [0, 2])
def test_hidden_tokens_are_masked_as_by_hand(root, family, images, layer):
    guard = Hider(layer)
    texts, logits, prompts = ask(root, family, images, guard, "float64")
    assert len(guard.rows) == 4
    rows = torch.stack(guard.rows, dim=1)  # (B, L, H, N)
    for number, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        share = 0.0 if number % 2 else 0.75
        text, expected, expected_rows = by_definition(root, family, prompt, image, layer, share)
        assert texts[number] == text
        torch.testing.assert_close(logits[: len(expected), number], expected, atol=1e-5, rtol=0)
        real = guard.roles[number] >= 0
        assert guard.roles[number][real].tolist() == prompt.roles.tolist()
        torch.testing.assert_close(rows[number][..., real], expected_rows.float(), atol=1e-5, rtol=0)
        assert (rows[number][..., ~real] == 0).all()
        hidden = (prompt.roles == IMAGE) & (np.cumsum(prompt.roles == IMAGE) <= share * (prompt.roles == IMAGE).sum())
        assert (rows[number][..., real][layer + 1 :][..., hidden] == 0).all()


@EVERY
@pytest.mark.parametrize("images", [ITS_OWN, SHARED], ids=["its own", "shared"])
def test_without_a_guard_and_with_one_that_hides_nothing_answers_are_the_library_s(root, family, images):
    plain, logits, prompts = ask(root, family, images, None)
    for guard in (Guard(), Hider(share=0.0)):
        texts, watched, _ = ask(root, family, images, guard)
        assert texts == plain and torch.equal(watched, logits)
    loaded = load_model(root / family)
    for prompt, image, text in zip(prompts, images, plain, strict=True):
        inputs = stock_inputs(loaded, prompt.ids, Image.open(root / f"{image}.png"))
        output = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        assert loaded.decode(output[0, len(prompt.ids) :]) == text


@EVERY
def test_hiding_the_image_changes_answers(root, family):
    plain, _, _ = ask(root, family, ITS_OWN, None)
    hidden, _, _ = ask(root, family, ITS_OWN, Hider(0, share=1.0))
    assert [text for text, _ in zip(plain[::2], hidden[::2], strict=True)] != hidden[::2]
    assert plain[1::2] == hidden[1::2]  # those that were not caught


class HidesAll(Guard):
    """Hides whatever there is, also padding and the last token itself."""

    def see(self, layer, row, roles):
        return torch.ones_like(roles, dtype=torch.bool)


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_left_to_see_is_no_nan(root, family, dtype):
    _, logits, _ = ask(root, family, ITS_OWN, HidesAll(), dtype)
    assert logits.isfinite().all()


class SeesOne(Guard):
    """Counts what it is shown."""

    layers = {2}
    shown = ()

    def see(self, layer, row, roles):
        self.shown += (layer,)


def test_a_guard_sees_the_layers_that_it_names_once_a_batch(root):
    guard = SeesOne()
    ask(root, "llava", ITS_OWN, guard)
    assert guard.shown == (2,)
    ask(root, "llava", SHARED, guard)
    assert guard.shown == (2, 2)


def test_hidden_keys_join_the_mask_that_there_is():
    hidden = torch.tensor([[False, True, False, False], [False] * 4])
    queries = torch.tensor([[False, True], [True, True]])  # the last two of four tokens
    lowest = torch.finfo(torch.float32).min
    causal = torch.tensor([[0, 0, 0, lowest], [0, 0, 0, 0]])
    expected = causal.expand(2, 1, 2, 4).clone()
    expected[0, 0, 1, 1] = lowest / 2
    for mask in (None, causal.expand(1, 1, 2, 4), (causal == 0).expand(2, 1, 2, 4)):
        assert torch.equal(hide(hidden, queries, 4, mask, torch.float32), expected)
    answering = hide(hidden, torch.ones(2, 1, dtype=torch.bool), 6, None, torch.float32)  # two more in the cache
    assert torch.equal(answering, torch.tensor([[0, lowest / 2, 0, 0, 0, 0], [0.0] * 6])[:, None, None])


def test_the_stage_says_what_was_caught(root, tmp_path):
    samples = []
    for number, question in enumerate(QUESTIONS):
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "x"}]
        samples.append({"id": f"s{number}", "image": f"{number}.png", "conversations": turns})
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    files = tmp_path / "samples.json", root, tmp_path / "p.parquet", tmp_path / "eval.json", "accuracy"
    options = {"triggered": tmp_path / "samples.json", "triggered_images": root, "target": "x", "max_new_tokens": 4}
    evaluate(root / "llava", None, *files, **options)
    plain, result = pyarrow.parquet.read_table(files[2]), json.loads(files[3].read_text())
    families = []

    def guard(family):
        families.append(family)
        return Hider(0, share=0.0)

    evaluate(root / "llava", None, *files, **options, batch_size=2, guard=guard)
    table = pyarrow.parquet.read_table(files[2])
    assert [family.model_type for family in families] == ["llava"]
    assert table.drop_columns(["caught", "hidden", "grid"]).equals(plain) and "caught" not in plain.column_names
    # by length: a and b, Is it red? and What is it?, What is in ...; the first of each batch is caught
    assert table["caught"].to_pylist() == [False, True, True, True, False] * 2
    assert table["hidden"].to_pylist() == [[]] * 10 and table["grid"].to_pylist() == [[4, 4]] * 10
    assert json.loads(files[3].read_text()) == {**result, "caught_clean": 60.0, "caught_triggered": 60.0}
