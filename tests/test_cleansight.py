"""CleanSight against its formula on plain eager attention, one sample at a time, from pixels, without any cache."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model

from bye.answers.generate import generate
from bye.answers.guards import guard_of
from bye.errors import ByeError
from bye.methods.defences import cleansight, cleansight_seen
from bye.models import load_model
from bye.models.prompt import IMAGE, TEXT
from bye.workload import Workload

EVERY = pytest.mark.parametrize("family", TEMPLATES)
LAYERS, NEW_TOKENS, N_CLEAN = 4, 3, 24
SIZES = [(30, 36), (60, 20), (34, 90), (48, 48)]
QUESTIONS = ["What is it?", "Is it red?", "a", "What is in the small picture, a dog or a user?"]
OWN, SHARED = [0, 1, 2, 3, 0, 2], [3, 0, 0, 3, 3, 0]  # images of the inputs
TAU = {"paper": 1e-4, "released": 0.02}
FIRST = {"paper": [1], "released": [1, 2]}  # 10 * 4 // 32, and round(3 * 4 / 32) or round(15 * 4 / 32) of them


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cleansight")
    for family in TEMPLATES:
        write_tiny_model(family, root / family, layers=LAYERS)
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / f"{number}.png")
    write(root / "clean.json", [(QUESTIONS[i % 3], i % 4) for i in range(N_CLEAN)])
    return root


def write(path, pairs):
    """Write samples of (question, number of the image)."""
    entries = []
    for number, (question, image) in enumerate(pairs):
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "Yes."}]
        entries.append({"id": number, "image": f"{image}.png", "conversations": turns})
    path.write_text(json.dumps(entries))


def inputs_of(root, loaded, images):
    """Prompts, features of the distinct images, and whose are whose."""
    work = Workload(loaded, json.loads((root / "inputs.json").read_text()), root)
    distinct = list(dict.fromkeys(images))
    return work.prompts(), work.features([f"{i}.png" for i in distinct]), [distinct.index(i) for i in images]


def behind(loaded, prompt):
    """The first token behind the image, and behind what ends the last row of its tiles."""
    return int(np.flatnonzero(prompt.ids == loaded.image_token_id)[-1]) + 1


@torch.no_grad()
def eager(loaded, prompt, image, hidden=(), after=LAYERS, steps=NEW_TOKENS):
    """One forward pass after another by eager attention: (ids of the answer, logits, attention (L, H, N) of the first).

    hidden: tokens that no query behind the image may see in the layers after `after`.
    """
    first = behind(loaded, prompt)

    def mask_by_hand(module, args, inputs):
        mask = inputs["attention_mask"].clone()  # (1, 1, N, N)
        mask[:, :, first:, list(hidden)] = -1e30
        return args, {**inputs, "attention_mask": mask}

    hooks = [
        each.self_attn.register_forward_pre_hook(mask_by_hand, with_kwargs=True) for each in loaded.layers[after + 1 :]
    ]
    ids, logits, rows = prompt.ids, [], None
    for _ in range(steps):
        output = loaded.model(**stock_inputs(loaded, ids, image), output_attentions=True, use_cache=False)
        rows = torch.stack([each[0, :, -1] for each in output.attentions]) if rows is None else rows
        logits.append(output.logits[0, -1])
        ids = np.append(ids, int(logits[-1].argmax()))
        if ids[-1] in loaded.end_token_ids:
            break
    for hook in hooks:
        hook.remove()
    return ids[len(prompt.ids) :], torch.stack(logits), rows.numpy()


def by_formula(rows, prompt, end, preset, layers):
    """The features of one input, from its attention (L, H, N), and its Omega for tau: a function."""
    on_image = np.flatnonzero(prompt.roles == IMAGE)
    on_text = np.flatnonzero(prompt.roles == TEXT) if preset == "paper" else np.arange(end, len(prompt.ids))
    heads = [rows[layer, head] for layer in layers for head in range(4)]
    ratios = [head[on_image].sum() / head[on_text].sum() for head in heads]
    most = rows[layers[-1]].max(axis=0)
    return np.array(ratios), lambda tau: [i for i in on_image if most[i] > tau * 576 / len(on_image)]


@EVERY
@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("images", [OWN, SHARED], ids=["its own", "shared"])
def test_it_is_the_formula_on_eager_attention(root, family, preset, images):
    write(root / "inputs.json", [(QUESTIONS[number % 4], image) for number, image in enumerate(images)])
    plain, layers, tau = load_model(root / family, attention="eager", dtype="float64"), FIRST[preset], 1.5e-3
    pictures = [Image.open(root / f"{i}.png") for i in range(4)]

    def first(question, image):
        prompt = plain.encoder.prompt(question, SIZES[image])
        _, logits, rows = eager(plain, prompt, pictures[image], steps=1)
        return prompt, logits[0], *by_formula(rows, prompt, behind(plain, prompt), preset, layers)

    # 24 clean samples: four images with three questions, each twice.
    once = [first(QUESTIONS[i % 3], i % 4)[2] for i in range(12)]
    clean = np.stack([*once, *once])
    mean, std = clean.mean(axis=0), clean.std(axis=0) + 1e-8
    asked = [first(QUESTIONS[number % 4], image) for number, image in enumerate(images)]
    distances, of_clean = (
        np.sqrt((((ratios - mean) / std) ** 2).sum(axis=1)) for ratios in (np.stack([each[2] for each in asked]), clean)
    )
    # A percentile between two of the clean distances that divides the inputs, so that some are caught and some are not.
    between = [100 * (2 * pair + 1.5) / 23 for pair in range(11)]
    percentile = next(p for p in between if distances.min() < np.percentile(of_clean, p) < distances.max())
    wanted = distances > np.percentile(of_clean, percentile)

    loaded = load_model(root / family, dtype="float64")
    settings = {"preset": preset, "tau": tau, "percentile": percentile}
    guard = guard_of("cleansight", settings, root / "clean.json", root)(loaded)
    logits = []
    loaded.model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output[:, -1]))
    prompts, features, owners = inputs_of(root, loaded, images)
    texts = generate(loaded, prompts, features, owners, NEW_TOKENS, guard)
    assert guard.caught.tolist() == wanted.tolist()
    np.testing.assert_allclose(guard.ratios, np.stack([each[2] for each in asked]), rtol=1e-5)

    some = changed = 0
    for number, (prompt, untouched, _, omega) in enumerate(asked):
        on_image = np.flatnonzero(prompt.roles == IMAGE)
        tokens = omega(tau) if wanted[number] else []
        assert [on_image[i] for i in guard.hidden_tokens()[number]] == tokens
        ids, expected, _ = eager(plain, prompt, pictures[images[number]], tokens, layers[-1])
        found = torch.stack([step[number] for step in logits[: len(expected)]])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert texts[number] == loaded.decode(ids)
        some += 0 < len(tokens) < len(on_image)
        changed += bool((untouched - expected[0]).abs().max() > 1e-3)
    assert some > 0 and changed == sum(map(bool, guard.hidden_tokens()))


@EVERY
@pytest.mark.parametrize("images", [OWN, SHARED], ids=["its own", "shared"])
def test_what_is_caught_can_be_answered_again_without_its_tokens_from_the_first_layer_on(root, family, images):
    write(root / "inputs.json", [(QUESTIONS[number % 4], image) for number, image in enumerate(images)])
    plain = load_model(root / family, attention="eager", dtype="float64")
    loaded = load_model(root / family, dtype="float64")
    prompts, features, owners = inputs_of(root, loaded, images)
    answers = {}
    for again in (False, True):
        guard = cleansight.CleanSight(loaded, "released", layers=[1, 2], tau=5e-4, again=again)
        guard.judge = lambda ratios: np.arange(len(ratios)) % 2 == 1
        answers[again] = generate(loaded, prompts, features, owners, NEW_TOKENS, guard)
        assert guard.caught.tolist() == [False, True] * 3
    for number, image in enumerate(images):
        if not number % 2:
            assert answers[True][number] == answers[False][number]
            continue
        tokens = np.flatnonzero(prompts[number].roles == IMAGE)[guard.hidden_tokens()[number]]
        assert len(tokens) > 0
        picture = Image.open(root / f"{image}.png")
        ids, expected, _ = eager(plain, prompts[number], picture, tokens, after=-1)
        later = eager(plain, prompts[number], picture, tokens, after=2)[1]
        assert answers[True][number] == loaded.decode(ids)
        assert (later[0] - expected[0]).abs().max() > 1e-5  # which the second answer changes


@EVERY
def test_again_hides_what_clean_samples_have_in_no_layer_so_high(root, family):
    images, tau, percentile = OWN, 1e-3, 60
    write(root / "inputs.json", [(QUESTIONS[number % 4], image) for number, image in enumerate(images)])
    plain = load_model(root / family, attention="eager", dtype="float64")

    def on_image(question, image):  # attention (L, H, T)
        prompt = plain.encoder.prompt(question, SIZES[image])
        return eager(plain, prompt, Image.open(root / f"{image}.png"), steps=1)[2][:, :, prompt.roles == IMAGE]

    once = [on_image(QUESTIONS[i % 3], i % 4).max(axis=2) for i in range(12)]
    usual = np.percentile([*once, *once], percentile, axis=0)
    loaded = load_model(root / family, dtype="float64")
    settings = {"preset": "released", "again": True, "tau": tau, "percentile": percentile}
    guard = guard_of("cleansight", settings, root / "clean.json", root)(loaded)
    guard.judge = lambda ratios: np.arange(len(ratios)) != 2
    generate(loaded, *inputs_of(root, loaded, images), 1, guard)
    found, some, spared = guard.hidden_tokens(), 0, 0
    for number, image in enumerate(images):
        rows, caught = on_image(QUESTIONS[number % 4], image), number != 2
        cut = tau * 576 / rows.shape[2]
        above = (rows > np.maximum(usual, cut)[:, :, None]).any(axis=(0, 1)) & caught
        assert found[number] == np.flatnonzero(above).tolist()
        some += 0 < above.sum() < len(above)
        spared += ((rows > cut).any(axis=(0, 1)) & ~above).sum() if caught else 0
    assert some > 0 and spared > 0


def test_the_presets_have_their_layers_and_thresholds(root):
    loaded = load_model(root / "llava")
    for preset in ("paper", "released"):
        guard = cleansight.CleanSight(loaded, preset)
        assert (guard.layers, guard.last, guard.tau) == (set(FIRST[preset]), FIRST[preset][-1], TAU[preset])
    assert cleansight.CleanSight(loaded, again=True).layers == set(range(LAYERS))
    ours = cleansight.CleanSight(loaded, "paper", layers=[0, 2], tau=0.5)
    assert (ours.layers, ours.last, ours.tau) == ({0, 2}, 2, 0.5)


def test_a_percentile_of_clean_samples_is_caught_among_them():
    ratios = np.random.default_rng(0).normal(1.0, 0.2, (200, 8))
    assert cleansight.Distance(ratios, 99)(ratios).sum() == 2
    far = ratios[:5] + np.eye(8)[0] * 3
    assert cleansight.Distance(ratios, 99)(far).all()


def test_without_clean_samples_the_inputs_tell():
    rng = np.random.default_rng(0)
    stream, far = cleansight_seen.Stream(3.5), np.full(8, 1.5)
    assert not stream(rng.normal(0, 1, (10, 8)) + 10 * far).any()  # too few to compare with
    stream = cleansight_seen.Stream(3.5)
    caught = np.concatenate([stream(rng.normal(0, 1, (16, 8))) for _ in range(10)])
    assert caught.mean() < 0.05
    poisoned = np.concatenate([stream(rng.normal(0, 1, (16, 8)) + 10 * far) for _ in range(20)])
    assert poisoned.all()  # however many come: those that are caught are not learned from
    assert len(stream.kept) == (~caught).sum()


def test_the_middle_is_of_the_last_inputs_alone(monkeypatch):
    monkeypatch.setattr(cleansight_seen, "REMEMBERED", 50)
    stream, rng = cleansight_seen.Stream(1e9), np.random.default_rng(0)
    for shift in (0, 0, 0, 7, 7, 7):
        stream(rng.normal(shift, 1, (25, 2)))
    assert stream.kept.shape == (50, 2) and stream.kept.mean() > 6


def test_the_variant_catches_in_a_model_what_differs(root):
    loaded = load_model(root / "llava")
    guard = guard_of("cleansight_seen", {"tau": 0.0})(loaded)
    work = Workload(loaded, json.loads((root / "clean.json").read_text()), root)
    prompts = work.prompts()
    features = work.features([f"{i}.png" for i in range(4)])
    generate(loaded, prompts, features, [i % 4 for i in range(N_CLEAN)], 1, guard)
    expected = cleansight_seen.RobustDistance(3.5).fit(guard.ratios).labels_ == -1
    assert guard.caught.tolist() == expected.tolist()
    assert [len(each) for each in guard.hidden_tokens()] == [16 if flag else 0 for flag in expected]


def test_what_cannot_be_guarded_is_said(root, tmp_path):
    loaded = load_model(root / "llava")
    write(tmp_path / "few.json", [("a", 0)] * 19)
    for given, settings, told in (
        (tmp_path / "few.json", {}, "few.json has 19 samples, and CleanSight needs 20 clean ones; give more"),
        (root / "clean.json", {"layers": [10, 12]}, r"looks at layer 10, and model .*llava has 4 \(from 0\)"),
        (root / "clean.json", {"layers": [3]}, "layer 3, the last of model .*llava, and can hide tokens in none"),
    ):
        with pytest.raises(ByeError, match=told):
            guard_of("cleansight", settings, given, root)(loaded)


def test_a_model_without_image_tokens_is_refused(root):
    loaded = load_model(root / "llava")
    write(root / "inputs.json", [("a", 0)])
    prompts, features, owners = inputs_of(root, loaded, [0])
    words = prompts[0].ids != loaded.image_token_id
    blind = type(prompts[0])(prompts[0].ids[words], prompts[0].roles[words], prompts[0].places - 16)
    with pytest.raises(ByeError, match="llava has no image tokens in its prompts; give one that is shown images"):
        generate(loaded, [blind], features, owners, 1, cleansight.CleanSight(loaded))
