"""`bye doctor` on folders with one fault each, and its estimates against what torch and peft count."""

import json

import pytest
import torch
import yaml
from PIL import Image
from small_workflow import ROOT, small_config
from test_data import dump, flickr30k_root, iconqa_root, rsvqa_root, scienceqa_root  # noqa: F401
from tiny_models import write_tiny_model

import bye.cli
from bye.data.prepare import check_folder
from bye.errors import ByeError
from bye.methods.tuning import lora
from bye.models import load_model
from bye.tools import budget
from bye.tools.doctor import doctor
from bye.tools.rates import measure_rates

BOTH = pytest.mark.parametrize("family", ["llava", "internvl"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a tiny model; returns a function that examines the small configuration, changed."""
    monkeypatch.chdir(tmp_path)
    folder = write_tiny_model("llava", tmp_path / "model", layers=2)
    models = small_config("model")["models"]

    def examine(keys=("rsvqa",), finetune=(), rates=None, price=None, **sections):
        config = {"models": models, **sections}
        config["models"]["tiny"]["finetune"].update(finetune)
        (tmp_path / "more.yaml").write_text(yaml.safe_dump(config))
        return doctor([tmp_path / "more.yaml"], ["tiny"], keys, rates, price)

    examine.model = folder
    return examine


def problems(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem ")]


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_a_sound_configuration_and_the_spans_of_a_sample(here, capsys):
    (here.model / "model.safetensors").write_bytes(b"")  # weights are not read
    assert here() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no problems"
    assert any(
        "dataset rsvqa: 1800 training and 200 test samples; the rule mini_data generates them" in line for line in lines
    )
    (total,) = [line for line in lines if "tiny on rsvqa: sample '0' has" in line]
    spans = [line.split(maxsplit=4) for line in lines if line[9:14].strip().isdigit()]
    assert [int(span[0]) for span in spans] == [1] + [int(span[2]) + 1 for span in spans[:-1]]
    assert f"has {spans[-1][2]} tokens" in total
    by_role = {role: line for line in lines for role in ("image", "user text", "answer") if line[24:].startswith(role)}
    assert by_role["image"].endswith(" 16  <image> 16 times")
    assert "'Are there more buildings than 10 ... n using a single word or phrase.'" in by_role["user text"]
    assert by_role["answer"].endswith("no</s>'")
    assert any("LoRA of rank 4 on 14 linear layers" in line for line in lines)


def test_exit_status_and_unknown_key(here, capsys, monkeypatch):
    here()
    for options, status in ((["--models", "tiny"], 0), (["--models", "gpt"], 2)):
        monkeypatch.setattr(bye.cli.sys, "argv", ["bye"])
        with pytest.raises(SystemExit) as ended:
            bye.cli.main(["doctor", "--configfile", "more.yaml", "--datasets", "rsvqa", *options])
        assert ended.value.code == status
    assert "option --models names the unknown model 'gpt'; config knows: llava-mini, internvl-mini, tiny" in (
        capsys.readouterr().err
    )
    (here.model / "model.safetensors").unlink()
    with pytest.raises(SystemExit) as ended:
        bye.cli.main(["doctor", "--configfile", "more.yaml", "--datasets", "rsvqa", "--models", "tiny"])
    assert ended.value.code == 1
    (line,) = problems(capsys)
    assert "model tiny: model model has no weights; give one with safetensors" in line


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "config.json",
            {"model_type": "internvl"},
            "models.tiny.family is 'llava', but model/config.json is of model_type 'internvl'",
        ),
        (
            "config.json",
            {"model_type": "own", "auto_map": {}},
            "code in a checkpoint is never run, so use one in the native format",
        ),
        ("chat_template.jinja", None, "has no chat template"),
    ],
)
def test_a_model_that_cannot_be_used(here, capsys, name, content, told):
    if content is None:
        (here.model / name).unlink()
    else:
        (here.model / name).write_text(json.dumps(content))
    assert here() == 1
    (line,) = problems(capsys)
    assert told in line


def test_layers_that_are_not_there(here, capsys, monkeypatch):
    monkeypatch.setattr("bye.methods.tuning.lora.pattern", lambda family, targets, projector: "none")
    assert here(finetune={"lora_targets": ["k_proj"]}) == 1
    told = "config section models.tiny.finetune: no layer is called k_proj; correct lora_targets"
    assert told in problems(capsys)[0]


@pytest.mark.parametrize(
    ("finetune", "told"),
    [
        ({}, "change config key models.tiny.finetune.micro_batch_size (now 16), or take a device with more"),
        ({"micro_batch_size": 1}, "models.tiny.finetune.gradient_checkpointing (now false)"),
    ],
)
def test_too_little_memory_names_the_knob(here, capsys, monkeypatch, finetune, told):
    monkeypatch.setattr(budget, "find_device", lambda wants_gpu: budget.Device("a small one", 1e8, 1e12, 2))
    assert here(finetune=finetune) == 2
    training, answering = problems(capsys)
    assert "the fine-tune needs about 1.0 GB, and a small one has 0.1 GB" in training and told in training
    assert "models.tiny.inference_batch_size (now 8)" in answering


# ---- datasets --------------------------------------------------------------------------------------------------------


def official(form, root):
    return {"format": form, "root": str(root), "train": 1, "test": 1, "metric": "accuracy"}


def test_a_dataset_that_is_there_or_is_too_small(here, capsys, scienceqa_root):  # noqa: F811
    entry = official("scienceqa", scienceqa_root)
    assert here(["mine"], datasets={"mine": entry}) == 0
    told = capsys.readouterr().out
    assert f"1 training and 1 test samples, of 2 train and 1 test samples in {scienceqa_root}" in told
    assert "sample '1' has an image of 8 x 6 pixels" in told
    assert here(["mine"], datasets={"mine": {**entry, "train": 7}}) == 1
    assert "7 training and 1 test samples are asked for" in problems(capsys)[0]


def test_a_file_of_ones_own(here, capsys, tmp_path):
    Image.new("RGB", (9, 7)).save(tmp_path / "x.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    dump(tmp_path / "mine.json", [{"id": number, "image": "x.png", "conversations": turns} for number in range(3)])
    entry = {"format": "llava", "json": "mine.json", "images": "."}
    assert here(["mine"], datasets={"mine": entry}) == 0
    assert "all training and no test samples, of 3 in mine.json" in capsys.readouterr().out
    assert here(["mine"], datasets={"mine": {**entry, "test": 3}}) == 1
    assert "all training and 3 test samples are asked for, and mine.json has 3; ask for fewer" in problems(capsys)[0]


def test_what_is_wrong_with_a_file_of_ones_own_is_seen_at_once(here, capsys, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "x.png").read_bytes()[:-40])
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    entries = [{"id": name, "image": "x.png", "conversations": turns} for name in "abcd"]
    del entries[0]["image"]
    dump(tmp_path / "mine.json", entries)
    entry = {"format": "llava", "json": "mine.json", "images": "."}
    assert here(["mine"], datasets={"mine": entry}) == 0
    told = capsys.readouterr().out
    assert "all training and no test samples, of 3 in mine.json" in told and "left out: 1 without an image" in told
    entries[1]["conversations"] = [{"from": "human", "value": "word " * 5000}, turns[1]]
    dump(tmp_path / "mine.json", entries)
    assert here(["mine"], datasets={"mine": entry}) == 1
    assert "dataset mine: sample 'b' (entry 2): it has" in problems(capsys)[0]
    entries[2]["image"], entries[3]["image"] = "cut.png", "gone.png"
    dump(tmp_path / "mine.json", entries)
    assert here(["mine"], datasets={"mine": entry}) == 2  # images and texts
    told = capsys.readouterr().out
    assert (
        "mine.json: 2 of 4 samples cannot be used" in told and "cut.png is damaged" in told and "gone.png does" in told
    )
    assert (
        here(["mine"], datasets={"mine": {**entry, "unjudged": "drop", "headers": True}}) == 1
    )  # one sample is too long
    assert "left out: 1 without an image, 1 whose image is not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("form", "missing"),
    [
        ("scienceqa", "data/scienceqa/pid_splits.json"),
        ("scienceqa", "data/scienceqa/images/test"),
        ("iconqa", "iconqa/test/choose_txt"),
        ("flickr30k", "dataset_flickr30k.json"),
        ("flickr30k", "flickr30k-images"),
        ("rsvqa", "LR_split_test_answers.json"),
        ("rsvqa", "Images_LR"),
    ],
)
def test_a_folder_half_there_names_what_is_missing(request, form, missing):
    root = request.getfixturevalue(f"{form}_root")
    check_folder(form, root)
    path = root / missing
    path.rename(root / "elsewhere")
    with pytest.raises(ByeError, match=f"dataset folder {root} is half there: {path} is missing; copy it there or"):
        check_folder(form, root)
    if path.suffix != ".json":
        path.mkdir()
        with pytest.raises(ByeError, match=f"dataset folder {root} is half there: {path} is empty; copy it again or"):
            check_folder(form, root)


@pytest.mark.parametrize("form", ["scienceqa", "iconqa", "flickr30k", "rsvqa"])
def test_what_the_generator_writes_is_whole(form, tmp_path):
    from bye.mini.world import write_dataset

    write_dataset(form, tmp_path / "raw", n_train=2, n_test=1, seed=0)
    check_folder(form, tmp_path / "raw")


# ---- what tables cost ------------------------------------------------------------------------------------------------


def table_of(capsys):
    """What doctor printed last about the tables: its heading, and {table: numbers}."""
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("ok       tables: "))
    names = lines[start + 1].split()
    rows = [line.split() for line in lines[start + 2 : -1]]
    return lines[start], {name: dict(zip(names, map(float, numbers), strict=True)) for name, *numbers in rows}


def test_each_run_is_paid_for_once(here, capsys, tmp_path):
    tables = small_config("model")["tables"]
    everything = dict.fromkeys(("fine-tune", "attention", "evaluation"), 2.0e9)
    content = {"device": "a small one", "memory": 1e12, "bytes": 2, "rates": {"tiny": everything}}
    dump(tmp_path / "rates.json", content)
    config = {**small_config("model"), "seeds": [0, 1]}
    pair = dict.fromkeys(budget.STAGES, 60.0)
    costs = budget.costs(config, {("tiny", "scienceqa"): pair})
    assert costs["table1"] == {"fine-tune": 240.0, "attention": 120.0, "evaluation": 240.0, "detection": 0.0}
    assert all(amount == 0 for name in tables if name != "table1" for amount in costs[name].values())
    assert budget.costs(config, {}) == {name: dict.fromkeys(budget.STAGES, 0) for name in tables}

    assert here(rates=tmp_path / "rates.json", price=60.0, tables={"table1": {"models": ["tiny"]}}) == 0
    heading, rows = table_of(capsys)
    assert "plain fine-tunes 1, after a defence 3, evaluations 5; minutes of one device" in heading
    row = rows["table1"]
    assert row["together"] == pytest.approx(row["fine-tune"] + row["attention"] + row["evaluation"], abs=0.2)
    assert row["price"] == pytest.approx(row["together"], abs=0.1)  # 60 an hour is 1 a minute
    assert rows["together"]["together"] == row["together"] > 0


def test_rates_are_measured_and_read(here, capsys, tmp_path):
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"models": small_config("model")["models"]}))
    measure_rates("rates.json", ["more.yaml"], ["tiny"], steps=2, batches=1, max_new_tokens=2)
    told = capsys.readouterr().out
    stages = ["fine-tune", "attention", "evaluation"]
    assert [line.split()[0] for line in told.splitlines()] == ["tiny:", *stages, *stages[:2]]
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert list(rates["rates"]["tiny"]) == stages
    assert min(rates["rates"]["tiny"].values()) > 0
    assert here(rates="rates.json") == 0
    for other in ({"tiny": 3}, [], {**rates, "rates": {"tiny": 3}}, {**rates, "rates": {"tiny": {"attention": 0}}}):
        dump(tmp_path / "other.json", other)
        with pytest.raises(ByeError, match="other.json is no file of `bye rates`; make it anew by that command"):
            here(rates="other.json")
    with pytest.raises(ByeError, match="--steps is 0, and at least 1 is needed"):
        measure_rates("rates.json", ["more.yaml"], ["tiny"], steps=0)
    assert json.loads((tmp_path / "rates.json").read_text()) == rates


# ---- estimates -------------------------------------------------------------------------------------------------------


@BOTH
def test_sizes_are_what_torch_and_peft_count(family, tmp_path):
    from torch.utils.flop_counter import FlopCounterMode

    folder = write_tiny_model(family, tmp_path / "model", width=64)
    empty, loaded = load_model(folder, weights=False), load_model(folder)
    n_trained, words = lora.count(empty, lora_rank=4, lora_projector=True)
    assert words == "LoRA of rank 4 on 23 linear layers"  # seven in each of three, two of the projector
    sizes = budget.sizes_of(empty, n_trained, image_tokens=16)
    assert sizes.parameters == sum(each.numel() for each in loaded.model.parameters())
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        loaded.model.model.language_model(inputs_embeds=torch.zeros(1, 40, 64), use_cache=False)
    assert sizes.forward(40, image=False) == pytest.approx(counted.get_total_flops(), rel=0.1)
    with FlopCounterMode(display=False) as counted:
        loaded.image_features(loaded.pixels([Image.new("RGB", (32, 32))]))
    assert 0.5 < sizes.forward(0) / counted.get_total_flops() < 1.2  # the tower's attention is left out
    adapted = lora.attach(loaded, lora_rank=4, lora_projector=True)
    assert sizes.trained == adapted.get_nb_trainable_parameters()[0]


def test_activations_are_what_torch_keeps_for_the_backward_pass():
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaModel

    shape = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = LlamaModel(LlamaConfig(num_key_value_heads=2, vocab_size=8, **shape)).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=r".*layers.*_proj"))
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept, alive = {}, []

    def keep(tensor):
        alive.append(tensor)  # so that no other gets its place
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs_embeds=torch.randn(2, 150, 128), use_cache=False)
    measured = sum(size for place, size in kept.items() if place not in weights)
    sizes = budget.Sizes(0, 0, 0, 0, width=128, mlp=352, keys=64, layers=3, patches=0)
    estimated = (sizes.train_bytes(150, 2, False, 4) - 1e9) / 1.1
    assert estimated == pytest.approx(measured, rel=0.3)
    assert sizes.train_bytes(150, 2, True, 4) < sizes.train_bytes(150, 2, False, 4)


def test_four_bits_are_a_quarter_of_the_decoders_weights():
    sizes = budget.Sizes(1000, 800, 100, 0, 1, 1, 1, 1, 1)
    assert sizes.weights(2) == 2000
    assert sizes.weights(2, "4bit") == pytest.approx(800 * 0.52 + 400)
    assert sizes.train_bytes(1, 1, True, 2, "4bit") < sizes.train_bytes(1, 1, True, 2)


def test_the_papers_models_at_the_papers_scale():
    """LLaVA-1.5-7B: 14 GB of weights in half precision; its fine-tune takes 20 to 30 GB, without checkpointing more."""
    sizes = budget.Sizes(7_063_427_072, 6_476_271_616, 324_000_000, 322_000_000, 4096, 11008, 4096, 32, 576)
    assert 20e9 < sizes.train_bytes(650, 4, True, 2) < 30e9 < sizes.train_bytes(650, 4, False, 2)
    assert sizes.fine_tune(10_000, 3, 650, True, False) > 1.4 * sizes.fine_tune(10_000, 3, 650, False, False)


def test_a_scout_first_is_priced_for_large_models():
    large = budget.Sizes(7_000_000_000, 6_500_000_000, 300_000_000, 1, 4096, 11008, 4096, 32, 576)
    seconds = {"fine-tune": 3600.0, "attention": 400.0, "evaluation": 1.0}
    itself, scout = budget.ways_to_clean(large, seconds, 10_000, 60, rate=1e14)
    assert itself == 2 * 3600 + 400
    forward = 181 * (2 * 106_202_880 + 2 * 181 * 576 * 30)
    image = 2 * 22_000_000 * 121
    assert scout - 3600 == pytest.approx(10_000 * (5 * 2 * forward + image + forward + image) / 1e14)
    models = yaml.safe_load((ROOT / "config/scout.yaml").read_text())["models"].values()
    assert {model["finetune"]["epochs"] for model in models} == {budget.SCOUT_EPOCHS}
    assert budget.ways_to_clean(budget.SCOUT, seconds, 10_000, 60, rate=1e14) is None
