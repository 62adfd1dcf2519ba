"""The recorded attention rows, and the extraction stage, against batch-of-one eager attention."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model

from bye.errors import ByeError
from bye.extraction.attention import extract
from bye.extraction.maps import example_maps
from bye.extraction.reductions import Reduction, averaged, entropy
from bye.extraction.rows import answer_rows
from bye.extraction.run import Extracted, check_finite
from bye.models import load_model
from bye.models.attention import ROWS_AT_ONCE, Rows, record_decoder
from bye.models.family import pad, processing_order
from bye.models.prompt import ANSWER, IMAGE, SYSTEM, TEXT

EVERY = pytest.mark.parametrize("family", TEMPLATES)
# (height, width) of the images: for llava_next two to four tiles, for qwen3_vl grids of other shapes and sizes
SIZES = [(30, 36), (60, 20), (34, 90), (48, 48), (30, 36)]
QUESTIONS = ["What is it?", "Is it red?", "a", "What is in the small picture, a dog or a </s> user <image>?", "b"]

N_IMAGE_TOKENS = {"llava_next": [32, 32, 48, 80, 32], "qwen3_vl": [4, 4, 12, 9, 4]}  # by hand; the others have 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints, images and a samples file."""
    root = tmp_path_factory.mktemp("attention")
    for family in TEMPLATES:
        write_tiny_model(family, root / family)
    rng = np.random.default_rng(0)
    entries = []
    for number, question in enumerate(QUESTIONS):
        Image.fromarray(rng.integers(0, 255, (*SIZES[number], 3), dtype=np.uint8)).save(root / f"{number}.png")
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "No."}]
        if number == 1:
            turns += [{"from": "human", "value": "Really?"}, {"from": "gpt", "value": "Yes"}]
        entries.append({"id": f"sample {number}", "image": f"{number}.png", "conversations": turns})
    # the placeholder inside a question is refused by the reader; as the model sees it, it is only text
    entries[3]["conversations"][0]["value"] = "<image>\n" + QUESTIONS[3].replace("<image>", "<s>")
    (root / "samples.json").write_text(json.dumps(entries))
    return root


def eager_rows(root, family, questions, owners=range(5)):
    """[(L, H, N), ...]: the last prompt token's attention by eager attention, one sample at a time, from pixels."""
    loaded = load_model(root / family, attention="eager")
    rows = []
    for question, image in zip(questions, owners, strict=True):
        ids = loaded.encoder.prompt(question, SIZES[image]).ids
        with torch.no_grad():
            inputs = stock_inputs(loaded, ids, Image.open(root / f"{image}.png"))
            attentions = loaded.model(**inputs, output_attentions=True).attentions
        rows.append(torch.stack([layer[0, :, -1] for layer in attentions]))
    return rows


def last_rows(loaded, prompts, features, owners=None):
    """Whole rows of the last answers, (B, L, H, N), and the tokens' roles (B, N)."""
    rows, roles = whole_rows(loaded, prompts, features, owners)
    return rows[:, -1], roles


def whole_rows(loaded, prompts, features, owners=None):
    """Whole rows of all answers, (B, R, L, H, N), and the tokens' roles (B, N)."""
    kept = []

    def whole(roles):
        kept.append(roles)
        return lambda rows: (rows,)

    (rows,) = answer_rows(loaded, prompts, features, whole, owners).rows
    return rows, kept[0]


def prompts_and_features(loaded, root, owners=range(5)):
    """Tokens of each question on its image, and the features of the distinct images."""
    prompts = [loaded.encoder.prompt(question, SIZES[i]) for question, i in zip(QUESTIONS, owners, strict=True)]
    images = [Image.open(root / f"{i}.png") for i in sorted(set(owners))]
    return prompts, loaded.image_features(loaded.pixels(images))


@EVERY
@pytest.mark.parametrize("side", ["left", "right", "right, unmasked"])
def test_rows_equal_batch_of_one_eager(folders, family, side):
    expected = eager_rows(folders, family, QUESTIONS)
    loaded = load_model(folders / family)
    record_decoder(loaded.model)
    prompts, features = prompts_and_features(loaded, folders)
    ids = pad([prompt.ids for prompt in prompts], 0, side=side.split(",")[0])
    mask = pad([np.ones(len(prompt.ids)) for prompt in prompts], 0, side=side.split(",")[0])
    last = (mask * torch.arange(mask.shape[1])).argmax(dim=1)
    with torch.no_grad(), Rows(last[:, None], lambda rows: (rows,)) as rows:
        loaded.model(**loaded.inputs(ids, features, None if "unmasked" in side else mask))
    heads = loaded.n_heads
    assert [tuple(layer.shape) for (layer,) in rows.layers] == [
        (5, 1, heads, ids.shape[1])
    ] * loaded.n_layers  # heads x N only
    attention = torch.cat([layer for (layer,) in rows.layers], dim=1)  # (B, L, H, N)
    for got, real, row in zip(attention, mask.bool(), expected, strict=True):
        torch.testing.assert_close(got[..., real], row, atol=1e-5, rtol=0)
        assert (got[..., ~real] == 0).all()


@EVERY
def test_one_forward_pass_of_the_stage_equals_eager(folders, family):
    expected = eager_rows(folders, family, QUESTIONS)
    loaded = load_model(folders / family)
    record_decoder(loaded.model)
    attention, roles = last_rows(loaded, *prompts_and_features(loaded, folders))
    prompts, _ = prompts_and_features(loaded, folders)
    for got, prompt, row in zip(attention, prompts, expected, strict=True):
        torch.testing.assert_close(got[..., : len(prompt.ids)], row, atol=1e-5, rtol=0)


@EVERY
def test_questions_that_share_images_run_the_images_once_and_equal_eager(folders, family):
    pictures = [4, 0, 0, 4, 4]  # of one size
    expected = eager_rows(folders, family, QUESTIONS, pictures)
    loaded = load_model(folders / family)
    record_decoder(loaded.model)
    prompts, features = prompts_and_features(loaded, folders, pictures)
    seen = []
    loaded.model.model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(tuple(inputs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    attention, roles = last_rows(loaded, prompts, features, [1, 0, 0, 1, 1])
    n_prefix = int(np.flatnonzero(prompts[0].ids == loaded.image_token_id).max()) + 1
    assert seen == [(2, n_prefix), (5, roles.shape[1] - n_prefix)]
    for got, prompt, row in zip(attention, prompts, expected, strict=True):
        torch.testing.assert_close(got[..., : len(prompt.ids)], row, atol=1e-5, rtol=0)
        assert (got[..., len(prompt.ids) :] == 0).all()


@EVERY
def test_questions_that_share_images_of_several_sizes_equal_eager(folders, family):
    pictures = [2, 1, 1, 2, 2]
    loaded = load_model(folders / family)
    record_decoder(loaded.model)
    prompts, features = prompts_and_features(loaded, folders, pictures)
    attention, _ = last_rows(loaded, prompts, features, [1, 0, 0, 1, 1])
    expected = eager_rows(folders, family, QUESTIONS, pictures)
    for got, prompt, row in zip(attention, prompts, expected, strict=True):
        torch.testing.assert_close(got[..., : len(prompt.ids)], row, atol=1e-5, rtol=0)


# ---- several answers -------------------------------------------------------------------------------------------------

MANY = [(f"And number {number}?", "Yes" * (number % 3 + 1)) for number in range(ROWS_AT_ONCE + 2)]
TALKS = [
    [("What is it?", "A dog"), ("Red?", "No.")],
    [("Is it red?", "Yes")],
    [("a", "日本"), *MANY],
    [("What is in the small picture?", "a </s> user <s>"), ("b", "c"), ("d", "e")],
    [("b", "x"), ("c", "y")],
]
SYSTEMS = [None, "Be kind.", "Be brief.", None, "Be kind."]


@torch.no_grad()
def eager_rows_of_talks(root, family, owners, systems):
    """[(A, L, H, N), ...]: rows at the places of a talk's answers, by eager attention on it alone, from pixels."""
    loaded = load_model(root / family, attention="eager")
    rows = []
    for turns, image, system in zip(TALKS, owners, systems, strict=True):
        tokens = loaded.encoder.asked(turns, SIZES[image], system)
        inputs = stock_inputs(loaded, tokens.ids, Image.open(root / f"{image}.png"))
        attentions = loaded.model(**inputs, output_attentions=True).attentions
        rows.append(torch.stack([layer[0] for layer in attentions])[:, :, tokens.places].permute(2, 0, 1, 3))
    return rows


@EVERY
@pytest.mark.parametrize("owners", [[0, 1, 2, 3, 4], [4, 0, 0, 4, 4]], ids=["its own", "shared"])
@pytest.mark.parametrize("systems", [[None] * 5, ["Be kind."] * 5, SYSTEMS], ids=["none", "one", "several"])
def test_rows_of_all_answers_equal_eager(folders, family, owners, systems):
    expected = eager_rows_of_talks(folders, family, owners, systems)
    loaded = load_model(folders / family)
    record_decoder(loaded.model)
    prompts = [
        loaded.encoder.asked(turns, SIZES[i], system) for turns, i, system in zip(TALKS, owners, systems, strict=True)
    ]
    distinct = sorted(set(owners))
    features = loaded.image_features(loaded.pixels([Image.open(folders / f"{i}.png") for i in distinct]))
    runs = []
    loaded.model.model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: runs.append(len(inputs["inputs_embeds"])), with_kwargs=True
    )
    rows, roles = whole_rows(loaded, prompts, features, [distinct.index(i) for i in owners])
    # The system prompts stand before the image but for llava_next, whose template has none.
    alike = systems != SYSTEMS or family == "llava_next"
    assert runs == ([2, 5] if len(distinct) == 2 and alike else [5])
    assert rows.shape[:2] == (5, len(MANY) + 1)
    for got, prompt, row in zip(rows, prompts, expected, strict=True):
        n_answers, n = len(row), len(prompt.ids)
        assert n_answers == len(prompt.places)
        torch.testing.assert_close(got[:n_answers, ..., :n], row, atol=1e-5, rtol=0)
        assert (got[..., n:] == 0).all()
        for answer, place in enumerate(prompt.places):  # nothing that is said later is seen
            assert (got[answer, ..., place + 1 :] == 0).all()


@EVERY
@pytest.mark.parametrize("batch_size", [2, 64])
def test_the_stage_writes_a_row_for_each_answer(folders, tmp_path, family, batch_size):
    entries, owners = [], [4, 0, 0, 4, 4]
    for number, (turns, image, system) in enumerate(zip(TALKS, owners, SYSTEMS, strict=True)):
        told = [
            {"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)
        ]
        entries.append({"id": number, "image": f"{image}.png", "conversations": told, "system": system})
    (tmp_path / "talks.json").write_text(json.dumps(entries))
    out, maps = tmp_path / "attention.parquet", tmp_path / "maps.npz"
    extract(folders / family, None, tmp_path / "talks.json", folders, out, batch_size, ["3"], maps)
    table = pyarrow.parquet.read_table(out)
    assert table.column_names[:3] == ["id", "answer", "n_image_tokens"]
    assert str(table.schema.field("answer").type) == "int32"
    table = table.to_pydict()
    wanted = [(str(number), answer) for number, turns in enumerate(TALKS) for answer in range(len(turns))]
    assert list(zip(table["id"], table["answer"], strict=True)) == wanted
    loaded = load_model(folders / family)
    rows = eager_rows_of_talks(folders, family, owners, SYSTEMS)
    for line, (number, answer) in enumerate(wanted):
        sample = int(number)
        roles = loaded.encoder.asked(TALKS[sample], SIZES[owners[sample]], SYSTEMS[sample]).roles
        row = rows[sample][answer].numpy()  # (L, H, N)
        image = row[..., roles == IMAGE].mean(axis=1)
        image /= image.sum(axis=-1, keepdims=True)
        entropies = [table[f"entropy_{layer:02d}"][line] for layer in range(3)]
        np.testing.assert_allclose(entropies, -(image * np.log(image)).sum(axis=-1), atol=1e-5)
        told = (roles == TEXT) | (roles == ANSWER)
        masses = [table[name][line] for name in ("system_mass", "image_mass", "text_mass")]
        for mass, members in zip(masses, (roles == SYSTEM, roles == IMAGE, told), strict=True):
            np.testing.assert_allclose(mass, row[..., members].sum(axis=-1).ravel(), atol=1e-5)
        if (number, answer) == ("3", 0):
            with np.load(maps) as file:
                assert file["ids"].tolist() == ["3"]
                np.testing.assert_allclose(file["maps"][0], image[:, : file["maps"].shape[-1]], atol=1e-5)
    masses = np.array([table[name] for name in ("system_mass", "image_mass", "text_mass")])
    np.testing.assert_allclose(masses.sum(axis=0), 1, atol=1e-5)


@EVERY
def test_what_is_kept_of_a_layer_does_not_grow_with_the_number_of_tokens(folders, family):
    """Of each layer rows of a few answers at once, and of all answers no more than entropies and masses."""
    loaded = load_model(folders / family)
    record_decoder(loaded.model)
    prompts = [loaded.encoder.asked(TALKS[2], SIZES[0])] * 2
    features = loaded.image_features(loaded.pixels([Image.open(folders / "0.png")] * 2))
    seen = []

    class Watched(Reduction):
        def __call__(self, rows):
            seen.append(tuple(rows.shape))
            return super().__call__(rows)

    distribution, entropies, masses, *of_heads = answer_rows(loaded, prompts, features, Watched).rows
    layers, heads, answers, n = loaded.n_layers, loaded.n_heads, len(TALKS[2]), len(prompts[0].ids)
    assert seen == [(2, ROWS_AT_ONCE, heads, n), (2, answers - ROWS_AT_ONCE, heads, n)] * layers
    assert distribution.shape == (2, 2, layers, (prompts[0].roles == IMAGE).sum())  # of the first row of each part
    assert entropies.shape == (2, answers, layers) and masses.shape == (2, answers, layers, 3, heads)
    assert [each.shape for each in of_heads] == [(2, answers, layers, heads)] * 2


def test_attention_that_is_not_finite_names_the_answer():
    """By hand: of three samples the second has three answers, of which two are not finite."""
    samples, answers = np.array([0, 1, 1, 1, 2]), np.array([0, 0, 1, 2, 0])
    kept = {"entropies": np.zeros((5, 2)), "masses": np.zeros((5, 3, 4)), "head_entropies": np.zeros((5, 4))}
    kept |= {"hidden": np.zeros((5, 1, 6)), "nll": np.zeros(5)}
    kinds = {"entropies": "attention", "head_entropies": "attention", "hidden": "hidden state", "nll": "likelihood"}
    for name, what in kinds.items():
        numbers = {other: array.copy() for other, array in kept.items()}
        numbers[name].reshape(5, -1)[[2, 3], -1] = np.nan
        found = Extracted(
            samples, answers, np.full(5, 16), np.ones(5), head_tokens=None, hidden_layers=[1], maps={}, **numbers
        )
        layer = ", layer 1" if name == "entropies" else ""
        with pytest.raises(
            ByeError, match=rf"the {what} of 1 sample is not finite \(the first is 'b', answer 2 of 3{layer}\)"
        ):
            check_finite(found, ["a", "b", "c"], "m", None)


def test_order_puts_questions_on_one_image_together_and_then_like_lengths():
    images, lengths = ["a", "b", "c", "a", "d", "b", "a"], [9, 8, 7, 5, 2, 6, 7]
    assert processing_order(images, lengths).tolist() == [3, 6, 0, 5, 1, 4, 2]


@EVERY
def test_output_of_the_model_is_unchanged_and_the_tower_is_left_alone(folders, family):
    plain, recording = load_model(folders / family), load_model(folders / family)
    record_decoder(recording.model)
    tower = recording.model.model.visual if family == "qwen3_vl" else recording.model.model.vision_tower
    assert tower.config._attn_implementation == "sdpa"
    assert recording.model.model.language_model.config._attn_implementation == "sdpa_rows"
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain.model(inputs_embeds=x).logits
        assert torch.equal(recording.model(inputs_embeds=x).logits, expected)  # also outside of Rows
        with Rows(torch.tensor([[8], [3]]), lambda rows: (rows,)):
            assert torch.equal(recording.model(inputs_embeds=x).logits, expected)


@EVERY
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_stage_writes_what_eager_attention_gives(folders, tmp_path, family, batch_size):
    out, maps = tmp_path / "attention.parquet", tmp_path / "maps.npz"
    chosen = ["sample 3", "sample 1"]
    extract(folders / family, None, folders / "samples.json", folders, out, batch_size, chosen, maps)
    table = pyarrow.parquet.read_table(out).to_pydict()
    assert table["id"] == ["sample 0", "sample 1", "sample 1", "sample 2", "sample 3", "sample 4"]
    assert table["answer"] == [0, 0, 1, 0, 0, 0]
    first = np.flatnonzero(np.array(table["answer"]) == 0)  # the second answer is another test's
    table = {name: [column[row] for row in first] for name, column in table.items()}
    assert table["n_image_tokens"] == N_IMAGE_TOKENS.get(family, [16] * 5)
    questions = [*QUESTIONS[:3], QUESTIONS[3].replace("<image>", "<s>"), QUESTIONS[4]]
    loaded = load_model(folders / family)
    for number, rows in enumerate(eager_rows(folders, family, questions)):
        roles = loaded.encoder.prompt(questions[number], SIZES[number]).roles
        image = rows.numpy()[..., roles == 1].mean(axis=1)
        image /= image.sum(axis=-1, keepdims=True)
        entropies = [table[f"entropy_{layer:02d}"][number] for layer in range(3)]
        np.testing.assert_allclose(entropies, -(image * np.log(image)).sum(axis=-1), atol=1e-5)
        for role, name in enumerate(("system_mass", "image_mass", "text_mass")):
            np.testing.assert_allclose(
                table[name][number], rows.numpy()[..., roles == role].sum(axis=-1).ravel(), atol=1e-5
            )
        if f"sample {number}" in chosen:
            with np.load(maps) as file:
                assert file["ids"].tolist() == ["sample 1", "sample 3"]
                assert file["grids"].tolist() == ([[4, 1], [3, 3]] if family == "qwen3_vl" else [[4, 4]] * 2)
                drawn = image[:, :16]  # of llava_next the view of the whole image
                drawn = np.pad(drawn, ((0, 0), (0, file["maps"].shape[-1] - drawn.shape[1])))
                np.testing.assert_allclose(file["maps"][file["ids"] == f"sample {number}"][0], drawn, atol=1e-5)


def test_reductions_on_known_numbers():
    roles = torch.tensor([[0, 1, 1, 2], [0, 1, 1, -1]])
    attention = torch.tensor(
        [[[[0.1, 0.2, 0.6, 0.1], [0.5, 0.2, 0.0, 0.3]]], [[[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]]]
    )
    reduction = Reduction(roles)
    distribution = averaged(reduction.on_image(attention))
    torch.testing.assert_close(distribution, torch.tensor([[[0.4, 0.6]], [[1.0, 0.0]]], dtype=torch.float64))
    expected = torch.tensor([[0.6730116670], [0.0]], dtype=torch.float64)
    torch.testing.assert_close(entropy(distribution), expected)
    _, entropies, _, of_heads, tokens = reduction(attention)
    torch.testing.assert_close(entropies, expected)
    # by hand: a quarter and three quarters, all on one token twice, and none at all, as if on both alike
    quarter = 0.25 * np.log(4) + 0.75 * np.log(4 / 3)
    torch.testing.assert_close(of_heads[:, 0], torch.tensor([[quarter, 0.0], [0.0, np.log(2)]]).float())
    assert tokens[:, 0].tolist() == [[1, 0], [0, 0]]
    masses = reduction.masses_by_role(attention)
    torch.testing.assert_close(masses[0, :, 0, 0], torch.tensor([0.1, 0.8, 0.1]))
    torch.testing.assert_close(masses[1, :, 0], torch.tensor([[0.5, 1.0], [0.5, 0.0], [0.0, 0.0]]))


def test_attention_that_is_not_finite_is_an_error(folders, tmp_path):
    folder = write_tiny_model("llava", tmp_path / "diverged")
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if "layers.1.self_attn.q_proj" in key and "language" in key)
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ByeError, match="'sample 0', layer 1"):
        extract(folder, None, folders / "samples.json", folders, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_maps_of_an_unknown_id(folders, tmp_path):
    with pytest.raises(ByeError, match="no sample 'nobody'"):
        extract(
            folders / "llava", None, folders / "samples.json", folders, tmp_path / "o", 8, ["nobody"], tmp_path / "m"
        )


def test_maps_without_a_file_for_them(folders, tmp_path):
    with pytest.raises(ByeError, match="give --maps-out"):
        extract(folders / "llava", None, folders / "samples.json", folders, tmp_path / "o", maps_for=["sample 1"])


def test_maps_of_a_few_samples_of_each_kind(folders, tmp_path):
    labels = {"id": [f"sample {number}" for number in range(5)], "poisoned": [True, False, True, True, False]}
    pyarrow.parquet.write_table(pyarrow.table(labels), tmp_path / "labels.parquet")
    files = folders / "samples.json", folders, tmp_path / "labels.parquet"
    example_maps(folders / "llava", None, *files, tmp_path / "maps.npz", count=2, seed=1)
    with np.load(tmp_path / "maps.npz") as content:
        chosen, maps = set(content["ids"].tolist()), content["maps"]
    assert {"sample 1", "sample 4"} < chosen and len(chosen) == 4
    np.testing.assert_allclose(maps.sum(axis=-1), 1, rtol=1e-5)
    pyarrow.parquet.write_table(pyarrow.table({"id": ["sample 0"], "poisoned": [True]}), tmp_path / "labels.parquet")
    with pytest.raises(ByeError, match="no label for sample 'sample 1'"):
        example_maps(folders / "llava", None, *files, tmp_path / "maps.npz")


def test_a_file_of_the_suite_is_not_checked_again(folders, tmp_path):
    first, *_ = json.loads((folders / "samples.json").read_text())
    (tmp_path / "samples.json").write_text(json.dumps([{**first, "video": "x.mp4"}]))
    files = folders / "llava", None, tmp_path / "samples.json", folders, tmp_path / "attention.parquet"
    with pytest.raises(ByeError, match="it has video"):
        extract(*files)
    extract(*files, validate=False)
    assert pyarrow.parquet.read_table(tmp_path / "attention.parquet")["id"].to_pylist() == ["sample 0"]
