"""A public set as a user's own file: 2,000 easy-VQA questions in LLaVA form, poisoned by the suite and untouched.

Run `pytest -m slow -s tests/test_easy_vqa.py` to see what was found and what an untouched set would lose.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from easy_vqa import easy_vqa_llava, easy_vqa_root
from PIL import Image
from small_workflow import ROOT, run, write_config

from bye.data.check import read_samples
from bye.data.images import image_path, upright_size
from bye.data.samples import id_of, turns_of

N, N_TEST = 2000, 300
MODELS = ["llava-mini", "internvl-mini"]


@pytest.fixture(scope="module")
def images():
    try:
        return easy_vqa_root()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("easy-vqa") / "train.json"
    easy_vqa_llava(images, path, N, seed=0)
    return path


def report(text):
    print(f"\neasy-VQA, {N} training questions: {text}", flush=True)


def test_its_training_questions_in_llava_form(images, data):
    samples = read_samples(data)
    assert len(samples) == len({id_of(sample) for sample in samples}) == N
    answers = set((images / "answers.txt").read_text().split())
    assert {turns_of(sample)[0][1] for sample in samples} == answers
    assert {upright_size(image_path(images, sample["image"])) for sample in samples[:50]} == {(64, 64)}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_poisoned_by_the_suite(images, data, tmp_path, model, shipped_config):
    """Told, not judged: how well the backdoor formed, and what of it was found and removed."""
    config = shipped_config
    easy_vqa_llava(images, tmp_path / "all.json", N + N_TEST, seed=0)
    config["models"] = {model: config["models"][model]}
    config["datasets"] = {
        "easyvqa": {"format": "llava", "json": "all.json", "images": str(images), "train": N, "test": N_TEST}
        | {"metric": "accuracy", "max_new_tokens": 16}
    }
    del config["tables"]
    write_config(tmp_path, config)
    cells = {defence: Path(f"results/{model}/easyvqa/badnet/s0/{defence}") for defence in ("vanilla", "bye")}
    names = ("detection.json", "kept.json", "entropy.png", "eval.json")
    process = run(tmp_path, cells["vanilla"] / "eval.json", *(cells["bye"] / name for name in names))
    assert process.returncode == 0, process.stdout
    found = json.loads((tmp_path / cells["bye"] / "detection.json").read_text())
    for defence, cell in cells.items():
        evaluated = json.loads((tmp_path / cell / "eval.json").read_text())
        report(f"{model}, {defence}: CP {evaluated['CP']:.1f}, ASR {evaluated['ASR']:.1f}")
    shares = ", ".join(f"{name} {found[name]}" for name in ("precision", "recall", "f1", "auroc"))
    report(f"{model}, 10 % poisoned: {shares}, {found['n_flagged']} flagged, layers {found['sensitive_layers']}")
    assert (found["n_samples"], found["n_poisoned"]) == (N, N // 10)
    parts = [read_samples(tmp_path / cells["bye"] / f"{part}.json", validate=False) for part in ("kept", "dropped")]
    assert sum(map(len, parts)) == N and len(parts[1]) == found["n_flagged"]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_untouched(images, data, tmp_path, model):
    """By the one command of a user; whatever it drops here is lost for nothing, so the share is told, not judged."""
    before = data.read_bytes()
    command = [sys.executable, "-m", "bye", "clean", "--kind", "bye", "--model", model]
    command += ["--data", str(data), "--images", str(images)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    kept, dropped = (read_samples(tmp_path / "out" / f"{part}.json", validate=False) for part in ("kept", "dropped"))
    report(f"{model}, untouched: {len(dropped)} dropped, {len(dropped) / N:.1%}")
    assert data.read_bytes() == before
    for entry in dropped:
        assert entry.pop("bye")["reason"]
    samples = {id_of(sample): sample for sample in read_samples(data)}
    assert {id_of(entry): entry for entry in kept + dropped} == samples  # as they were, every one in one of the two
    assert [id_of(entry) for entry in kept] == [name for name in samples if name in set(map(id_of, kept))]
    Image.open(tmp_path / "out" / "entropy.png").verify()
