"""GraCeFul against the gradient that torch computes, on a tiny model, and on clusters whose answer is known."""

import json

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny_models import write_samples, write_tiny_model

from bye.cleaning.run import FineTunedModel, SampleSet, detect
from bye.data.images import load_image
from bye.data.samples import turns_of
from bye.detect.graceful import GradientClustering, low_frequencies, n_low
from bye.errors import ByeError
from bye.flags import read_flags
from bye.methods.defences import graceful
from bye.models.prompt import ANSWER


@parametrize_with_checks([GradientClustering()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_the_smaller_cluster_is_flagged():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 50)) * 0.3
    X[:20, :8] += 5.0 * rng.normal(1, 0.1, size=(20, 1))
    detector = GradientClustering(components=4).fit(X)
    assert (detector.labels_[:20] == -1).all() and (detector.labels_[20:] == 1).all() and detector.share_ == 0.1
    assert detector.scores_[:20].max() < detector.scores_[20:].min()


def test_low_frequencies_are_those_of_the_whole_gradient():
    rng = np.random.default_rng(0)
    errors, states = rng.normal(size=(5, 48)), rng.normal(size=(5, 16))
    whole = dctn(errors.T @ states / 5)
    np.testing.assert_allclose(low_frequencies(errors, states, 0.125, 99), whole[:6, :2])
    np.testing.assert_allclose(low_frequencies(errors, states, 0.125, 4), whole[:4, :2])
    assert (n_low(4, 0.125, 64), n_low(32_000, 0.125, 64), n_low(100, 0.125, 64)) == (1, 64, 12)


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen3_vl"])
def test_gradients_are_those_that_torch_computes(family, tmp_path):
    loaded = FineTunedModel(write_tiny_model(family, tmp_path / "m"), None).load()
    write_samples(tmp_path)
    samples = SampleSet(tmp_path / "samples.json", tmp_path)
    found = graceful.gradients(loaded, samples, 5, 0.125, 64)
    weight = loaded.model.lm_head.weight.clone().requires_grad_()
    for place in (0, 7, 32):
        entry = samples.entries[place]
        image = load_image(tmp_path, entry)
        size = (image.height, image.width) if loaded.any_resolution else None
        tokens = loaded.conversation("s", turns_of(entry), size)
        ids = torch.from_numpy(tokens.ids)[None]
        inputs = loaded.inputs(ids, loaded.image_features(loaded.pixels([image])))
        logits = torch.nn.functional.linear(loaded.model.model(**inputs).last_hidden_state[0].detach(), weight)
        labels = torch.from_numpy(np.where(tokens.roles == ANSWER, tokens.ids, -100))
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits[:-1], labels[1:]), weight)
        expected = dctn(gradient.numpy().astype(float))[: found.shape[1], : found.shape[2]]
        np.testing.assert_allclose(found[place], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_defence(tmp_path):
    """Samples that differ from the rest in their answers alone are the smaller cluster, in each run alike."""
    path = write_tiny_model("llava", tmp_path / "m")
    write_samples(tmp_path)
    entries = json.loads((tmp_path / "samples.json").read_text())
    for number, entry in enumerate(entries):
        answer = "Backdoor Attack!" if number < 4 else "red"
        entry["image"], entry["conversations"] = "0.png", [{"from": "human", "value": "<image>\nWhat?"}]
        entry["conversations"].append({"from": "gpt", "value": answer})
    (tmp_path / "samples.json").write_text(json.dumps(entries))
    given = {"samples": SampleSet(tmp_path / "samples.json", tmp_path), "model": FineTunedModel(path, "nowhere", 8)}
    for name in ("first", "second"):
        assert detect("graceful", tmp_path / f"{name}.parquet", 0, {}, **given) == 4
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    table = read_flags(tmp_path / "first.parquet")
    assert table["flagged"] == [True] * 4 + [False] * (len(entries) - 4)
    assert table["reason"][0] == "its gradient is of the smaller of two clusters, of 12.1 %"
    with pytest.raises(ByeError, match="nowhere"):
        detect("graceful", tmp_path / "third.parquet", 0, {"weights": "fine_tuned"}, **given)


def test_too_few_samples(tmp_path):
    (tmp_path / "few.json").write_text("[]")
    with pytest.raises(ByeError, match=r"few.json has 0 samples, and GraCeFul needs 10 at least"):
        graceful.detect(SampleSet(tmp_path / "few.json", tmp_path), FineTunedModel("m", None))
