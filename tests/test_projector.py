"""The projector in full, of every family, alone and beside LoRA: trained, saved, loaded, and refused if another's."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import TEMPLATES, write_samples, write_tiny_model

from bye.errors import ByeError
from bye.methods.tuning import lora, lora_and_projector, projector
from bye.models import load_model
from bye.training.finetune import finetune

EVERY = pytest.mark.parametrize("family", TEMPLATES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("projector")
    for family in TEMPLATES:
        write_tiny_model(family, root / family, layers=2)
    write_samples(root)
    return root


@EVERY
def test_the_projector_is_trained_saved_and_loaded(root, family, tmp_path):
    out, log = tmp_path / "tuned", tmp_path / "loss.csv"
    options = {"epochs": 4, "learning_rate": 1e-2, "threads": 1, "tuning": "projector"}
    finetune(root / family, root / "samples.json", root, out, log, **options)
    losses = [float(line.split(",")[2]) for line in log.read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]

    base, saved = load_model(root / family), load_file(out / projector.FILE)
    before = dict(base.model.named_parameters())
    loaded = load_model(root / family, out, tuning="projector")
    changed = {name for name, each in loaded.model.named_parameters() if not torch.equal(each, before[name])}
    assert changed == set(saved)
    used = {id(each) for each in base.projector_parameters()}
    assert set(saved) == {name for name, each in before.items() if id(each) in used}
    number, words = projector.count(load_model(root / family, weights=False))
    assert number == sum(each.numel() for each in saved.values()) and words == "the projector in full"
    assert not any(each.requires_grad for each in loaded.model.parameters())


def test_a_folder_of_another_model_is_refused(root, tmp_path):
    out = tmp_path / "tuned"
    options = {"epochs": 1, "threads": 1, "tuning": "projector"}
    finetune(root / "llava", root / "samples.json", root, out, tmp_path / "loss.csv", **options)
    wide = write_tiny_model("llava", tmp_path / "wide", layers=2, width=64)
    with pytest.raises(ByeError, match=r"projector.safetensors is not of the projector of .*linear_1.* in the model"):
        load_model(wide, out, tuning="projector")
    with pytest.raises(ByeError, match="give a folder of the tuning method projector"):
        load_model(root / "llava", root, tuning="projector")


@EVERY
def test_lora_and_the_projector_in_full(root, family, tmp_path, capsys):
    out, log = tmp_path / "tuned", tmp_path / "loss.csv"
    options = {"epochs": 4, "learning_rate": 1e-2, "threads": 1, "tuning": "lora_and_projector", "lora_rank": 2}
    finetune(root / family, root / "samples.json", root, out, log, **options)
    losses = [float(line.split(",")[2]) for line in log.read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]

    base = load_model(root / family)
    before, saved = dict(base.model.named_parameters()), load_file(out / "non_lora_trainables.safetensors")
    names = {name for name, each in before.items() if any(each is own for own in base.projector_parameters())}
    assert set(saved) == {f"base_model.model.{name}" for name in names}
    loaded = load_model(root / family, out, tuning="lora_and_projector")
    after = dict(loaded.model.named_parameters())
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert "converted" not in capsys.readouterr().err
    assert all(torch.equal(after[name], saved[f"base_model.model.{name}"]) for name in names) and names <= changed
    assert any(".q_proj." in name for name in changed - names)
    assert all(".language_model.layers." in name for name in changed - names)

    skeleton = load_model(root / family, weights=False)
    number, words = lora_and_projector.count(skeleton, lora_rank=2)
    assert number == lora.count(skeleton, lora_rank=2)[0] + projector.count(skeleton)[0]
    assert words.endswith("linear layers and the projector in full")
    lora_and_projector.check(skeleton, out)
    with pytest.raises(ByeError, match="is no PEFT adapter"):
        lora_and_projector.check(skeleton, root)
