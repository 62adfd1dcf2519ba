"""What the extraction keeps beside attention by role: heads, hidden states, likelihoods; against batch-of-one eager."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from scipy.special import entr
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model

from bye.errors import ByeError
from bye.extraction import states
from bye.extraction.attention import extract
from bye.features import read_features
from bye.models import load_model
from bye.models.prompt import ANSWER, IMAGE

EVERY = pytest.mark.parametrize("family", TEMPLATES)
SIZES = [(30, 36), (60, 20), (34, 90)]  # (height, width) of the images
# Image, system prompt and turns of each sample: of several lengths, questions that share an image, several answers.
TALKS = [
    (0, None, [("What is it?", "A dog"), ("Red?", "No.")]),
    (1, "Be kind.", [("Is it red?", "Yes")]),
    (2, None, [("a", "日本, a long answer of many words, and of more than that")]),
    (1, "Be kind.", [("What is in the small picture?", "a </s> user <s>"), ("b", "c"), ("d", "e and f")]),
    (1, "Be kind.", [("b", "x"), ("c", "y")]),
    (1, "Be kind.", [("Why?", "No")]),
]
NEW = ("head_entropy", "head_token", "hidden", "nll")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Checkpoints, images and a samples file."""
    root = tmp_path_factory.mktemp("extraction")
    for family in TEMPLATES:
        write_tiny_model(family, root / family)
    write_tiny_model("llava", root / "wide", layers=2, width=512)
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / f"{number}.png")
    entries = []
    for number, (image, system, turns) in enumerate(TALKS):
        told = [
            {"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)
        ]
        entries.append({"id": number, "image": f"{image}.png", "conversations": told})
        entries[-1] |= {} if system is None else {"system": system}
    (root / "samples.json").write_text(json.dumps(entries))
    return root


@torch.no_grad()
def expected(root, family):
    """What each answer of TALKS has, by the library's own outputs for its sample alone: a list of dicts."""
    loaded, found = load_model(root / family, attention="eager"), []
    for image, system, turns in TALKS:
        tokens = loaded.encoder.conversation(turns, SIZES[image], system)
        inputs = stock_inputs(loaded, tokens.ids, Image.open(root / f"{image}.png"))
        output = loaded.model(**inputs, output_attentions=True, output_hidden_states=True)
        attentions = torch.stack([layer[0] for layer in output.attentions]).numpy()  # (L, H, N, N)
        log_p = output.logits[0].double().log_softmax(dim=-1).numpy()
        ends = [*tokens.places[1:], len(tokens.ids) - 1]
        for place, end in zip(tokens.places, ends, strict=True):
            said = [i for i in range(place + 1, end + 1) if tokens.roles[i] == ANSWER]
            on_image = attentions[:, :, place, tokens.roles == IMAGE].astype(float)
            on_image /= on_image.sum(axis=-1, keepdims=True)
            answer = {"shares": on_image, "head_entropy": entr(on_image).sum(axis=-1)}
            answer["hidden"] = np.array([state[0, place].numpy() for state in output.hidden_states[1:]])
            answer["nll"] = -np.mean([log_p[i - 1, tokens.ids[i]] for i in said])
            found.append(answer | {"n_answer_tokens": len(said)})
    return found


@EVERY
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_heads_hidden_states_and_likelihoods_equal_eager(root, tmp_path, family, batch_size):
    out, layers = tmp_path / "attention.parquet", [-1, 0, 1]
    extract(root / family, None, root / "samples.json", root, out, batch_size, hidden_layers=layers)
    features, wanted = read_features(out, NEW), expected(root, family)
    assert features.head_entropy.shape == (len(wanted), 3, 4) == features.head_token.shape
    table = pyarrow.parquet.read_table(out)
    for row, answer in enumerate(wanted):
        of_heads = np.array(table["head_entropy"][row].as_py()).reshape(3, 4)
        np.testing.assert_allclose(of_heads, answer["head_entropy"], atol=1e-4)
        most = np.take_along_axis(answer["shares"], features.head_token[row, ..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(most, answer["shares"].max(axis=-1), atol=1e-6)
        np.testing.assert_allclose(features.hidden[row], answer["hidden"][layers], atol=1e-4)
        np.testing.assert_allclose(features.nll[row], answer["nll"], atol=1e-4)
        assert features.n_answer_tokens[row] == answer["n_answer_tokens"]
    assert json.loads(table.schema.metadata[b"hidden_layers"]) == [2, 0, 1]


@EVERY
def test_the_head_runs_on_a_few_tokens_at_a_time(root, tmp_path, family, monkeypatch):
    monkeypatch.setattr(states, "LOGITS_AT_ONCE", 1000)  # three of a vocabulary of 300
    extract(root / family, None, root / "samples.json", root, tmp_path / "out.parquet")
    nll = read_features(tmp_path / "out.parquet", ("nll",)).nll
    np.testing.assert_allclose(nll, [answer["nll"] for answer in expected(root, family)], atol=1e-4)


def test_a_wide_hidden_state_is_projected_the_same_way_everywhere(root, tmp_path):
    hidden = {}
    for batch_size in (2, 64):
        out = tmp_path / f"{batch_size}.parquet"
        extract(root / "wide", None, root / "samples.json", root, out, batch_size)
        hidden[batch_size] = read_features(out, ("hidden",)).hidden
    np.testing.assert_allclose(hidden[2], hidden[64], atol=1e-4)
    metadata = pyarrow.parquet.read_schema(out).metadata
    assert (metadata[b"hidden_size"], metadata[b"hidden_projection"]) == (b"256", b"Gaussian, 512 to 256, seed 0")
    matrix = np.random.default_rng(0).standard_normal((512, 256)) / 16
    whole = np.array([answer["hidden"][-1] for answer in expected(root, "wide")])
    np.testing.assert_allclose(hidden[64][:, 0], whole @ matrix, atol=1e-3)


def test_a_projection_keeps_distances():
    points = np.random.default_rng(1).standard_normal((20, 4096)) * np.linspace(0, 2, 4096)
    seen = points @ states.projection(4096)
    before, after = (np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(20, 1)] for x in (points, seen))
    assert seen.shape == (20, 256) and np.abs(after / before - 1).max() < 0.25
    assert states.projection(256) is None


@pytest.mark.parametrize("layer", [3, -4])
def test_a_hidden_layer_that_is_not_there(root, tmp_path, layer):
    with pytest.raises(ByeError, match=rf"no hidden layer {layer}: model .*/llava has 3 layers; name them from 0"):
        extract(root / "llava", None, root / "samples.json", root, tmp_path / "out.parquet", hidden_layers=[layer])


def test_features_that_were_not_asked_for_are_not_read(root, tmp_path):
    extract(root / "llava", None, root / "samples.json", root, tmp_path / "out.parquet")
    features = read_features(tmp_path / "out.parquet", ("hidden",))
    assert features.hidden.shape == (10, 1, 32) and features.hidden.dtype == np.float64
    others = ("entropies", "system_mass", "head_entropy", "head_token", "nll", "n_answer_tokens")
    assert all(getattr(features, name) is None for name in others)


def test_entropies_of_heads_are_comparable_as_those_of_layers_are(root, tmp_path):
    out = tmp_path / "out.parquet"
    extract(root / "qwen3_vl", None, root / "samples.json", root, out)
    table = pyarrow.parquet.read_table(out)
    tokens = table["n_image_tokens"].to_numpy()
    one_of_each = tokens[np.unique(table["id"].to_pylist(), return_index=True)[1]]
    factors = np.log(np.median(one_of_each)) / np.log(tokens)
    written = np.array(table["head_entropy"].to_pylist()).reshape(len(tokens), 3, 4)
    np.testing.assert_allclose(read_features(out, NEW).head_entropy, written * factors[:, None, None])
    assert len(set(tokens)) > 1


def test_features_that_are_not_finite_name_the_sample(root, tmp_path):
    out = tmp_path / "out.parquet"
    extract(root / "llava", None, root / "samples.json", root, out)
    table = pyarrow.parquet.read_table(out)
    numbers = table["nll"].to_numpy().copy()
    numbers[3] = np.inf
    place = table.column_names.index("nll")
    pyarrow.parquet.write_table(table.set_column(place, "nll", pyarrow.array(numbers)), out)
    with pytest.raises(ByeError, match=r"nll of sample '2' is not finite \(1 of 10 answers have such values\)"):
        read_features(out, ("nll",))
