"""Training in bfloat16 on a processor: LoRA's products, attention with a fast way back, batches sorted by length."""

import pytest
import torch
from tiny_models import write_samples, write_tiny_model
from torch.nn import functional as F

from bye.errors import ByeError
from bye.methods.tuning import lora
from bye.models import attention, load_model
from bye.training.finetune import finetune
from bye.training.trainer import EpochOrder


def test_lora_in_half_precision_by_its_formula():
    """In float64, where nothing is rounded: the value, and all gradients."""
    torch.manual_seed(0)
    x, weight, a, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 5), (7, 5), (4, 5), (7, 4)))
    for tensor in (x, a, b):
        tensor.requires_grad_(True)
    torch.testing.assert_close(lora.HalfLinear.apply(x, weight, a, b, 1.5), x @ weight.T + 1.5 * (x @ a.T) @ b.T)
    assert torch.autograd.gradcheck(
        lambda *tensors: lora.HalfLinear.apply(tensors[0], weight, *tensors[1:], 1.5), (x, a, b)
    )


@pytest.mark.parametrize("n_keys", [1, 2, 6])
def test_plain_attention_is_causal_attention(n_keys):
    torch.manual_seed(1)
    query, key, value = torch.randn(2, 6, 5, 4), torch.randn(2, n_keys, 5, 4), torch.randn(2, n_keys, 5, 4)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(attention.plain_attention(query, key, value), expected)
    scaled = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True, scale=0.1).transpose(
        1, 2
    )
    torch.testing.assert_close(attention.plain_attention(query, key, value, 0.1), scaled)


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_a_fine_tune_in_bfloat16_learns_what_one_in_float32_does(tmp_path, family):
    path = write_tiny_model(family, tmp_path / "model", layers=2)
    write_samples(tmp_path)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        log, out = tmp_path / f"{dtype}.csv", tmp_path / dtype
        options = {"epochs": 4, "learning_rate": 1e-2, "threads": 1, "dtype": dtype, "micro_batch_size": 4}
        finetune(path, tmp_path / "samples.json", tmp_path, out, log, **options)
        losses[dtype] = [float(line.split(",")[2]) for line in log.read_text().splitlines()[1:]]
    assert losses["float32"][-1] < 0.8 * losses["float32"][0]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    tuned = {dtype: load_model(path, tmp_path / dtype, dtype="float32").model for dtype in losses}
    for name, weight in tuned["float32"].named_parameters():
        torch.testing.assert_close(dict(tuned["bfloat16"].named_parameters())[name], weight, rtol=0.2, atol=0.05)


def test_lora_on_the_last_layers_alone(tmp_path):
    path = write_tiny_model("llava", tmp_path / "model", layers=3)
    adapted = lora.attach(load_model(path), lora_rank=2, lora_layers=2, lora_targets=["q_proj"])
    names = [name for name, each in adapted.named_parameters() if each.requires_grad]
    assert len(names) == 4 and all(".layers.1." in name or ".layers.2." in name for name in names)
    number, words = lora.count(load_model(path, weights=False), lora_rank=2, lora_layers=2)
    assert words == "LoRA of rank 2 on 14 linear layers"
    adapted = lora.attach(load_model(path), lora_rank=2, lora_layers=2)
    assert number == sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    with pytest.raises(ByeError, match="lora_layers is 4, and .* has 3 layers; give as many or fewer"):
        lora.attach(load_model(path), lora_layers=4)


def test_samples_of_a_batch_are_sorted_by_length_and_the_batches_stay():
    lengths = [(7 * number) % 23 for number in range(23)]
    plain, ordered = list(EpochOrder(23, 2, 5)), list(EpochOrder(23, 2, 5, 4, lengths))
    for start in range(0, 23, 4):
        batch = ordered[start : start + 4]
        assert sorted(batch) == sorted(plain[start : start + 4])
        assert [lengths[place] for place in batch] == sorted(lengths[place] for place in batch)
