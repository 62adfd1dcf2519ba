"""Layers that do not change are run once over each sample: the fine-tune is the same."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import write_samples, write_tiny_model

from bye.errors import ByeError
from bye.training import finetune as training
from bye.training.finetune import finetune
from bye.training.lower import LowerLayers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("lower")
    for family in ("llava", "internvl", "qwen3_vl"):
        write_tiny_model(family, root / family, layers=3)
    write_samples(root)
    return root


def tune(root, family, out, **options):
    options = {"epochs": 3, "learning_rate": 1e-2, "threads": 1, "lora_layers": 2, "checkpoints": 0, **options}
    finetune(root / family, root / "samples.json", root, out, out.with_suffix(".csv"), **options)
    losses = [float(line.split(",")[2]) for line in out.with_suffix(".csv").read_text().splitlines()[1:]]
    return losses, load_file(out / "adapter_model.safetensors")


@pytest.mark.parametrize("family", ["llava", "internvl"])
@pytest.mark.parametrize("micro", [None, 2])
def test_it_is_the_same_fine_tune(root, family, micro, tmp_path, monkeypatch):
    run = []

    class Counted(LowerLayers):
        def _run(self, *arguments):
            run.extend(arguments[2])
            super()._run(*arguments)

    monkeypatch.setattr(training, "LowerLayers", Counted)
    losses, weights = tune(root, family, tmp_path / "every", batch_size=4, micro_batch_size=micro)
    assert not run
    kept_losses, kept_weights = tune(
        root, family, tmp_path / "once", batch_size=4, micro_batch_size=micro, cache_layers=True
    )
    assert sorted(run) == list(range(len(run))) and len(run) > 4  # each sample once
    assert losses[-1] < losses[0] and kept_losses == pytest.approx(losses, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(kept_weights[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        (
            "llava",
            {"lora_layers": None},
            "the first decoder layer, or what comes before it, is trained; set it to false",
        ),
        ("llava", {"lora_projector": True}, "the first decoder layer, or what comes before it, is trained; set it"),
        ("qwen3_vl", {"lora_layers": 1}, "image features go to upper layers too; set it to false"),
    ],
)
def test_what_cannot_be_kept_is_refused(root, family, options, told, tmp_path):
    with pytest.raises(ByeError, match=f"cache_layers is true, but .*{told}"):
        tune(root, family, tmp_path / "out", cache_layers=True, **options)
    assert not (tmp_path / "out").exists()
