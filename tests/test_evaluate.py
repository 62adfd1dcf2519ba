"""Greedy batched answers against the stock one-at-a-time generation from pixels, and the files of the stage."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model

from bye.answers.evaluate import answer, evaluate
from bye.errors import ByeError
from bye.models import load_model
from bye.workload import Workload

EVERY = pytest.mark.parametrize("family", TEMPLATES)
SIZES = [(32, 32), (60, 20), (32, 80), (48, 48), (30, 36)]
QUESTIONS = ["What is it?", "Is it red?", "a", "What is in the small picture, a dog or a user?", "b"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    for family in TEMPLATES:
        write_tiny_model(family, root / family)
    rng = np.random.default_rng(0)
    for number in range(len(QUESTIONS)):
        Image.fromarray(rng.integers(0, 255, (*SIZES[number], 3), dtype=np.uint8)).save(root / f"{number}.png")
    return root


def samples(answers, **extra):
    return [
        {
            "id": f"s{i}",
            "image": f"{i}.png",
            "conversations": [{"from": "human", "value": f"<image>\n{q}"}, {"from": "gpt", "value": a}],
            **extra,
        }
        for i, (q, a) in enumerate(zip(QUESTIONS, answers, strict=True))
    ]


def stock_answers(root, family, new_tokens, images=range(5)):
    loaded = load_model(root / family)
    texts = []
    for number, question in zip(images, QUESTIONS, strict=True):
        ids = loaded.encoder.prompt(question, SIZES[number]).ids
        inputs = stock_inputs(loaded, ids, Image.open(root / f"{number}.png"))
        output = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=new_tokens)
        texts.append(loaded.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip())
    return texts


@EVERY
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batched_answers_equal_one_at_a_time(root, family, batch_size):
    loaded = load_model(root / family)
    texts, _ = answer(Workload(loaded, samples(["x"] * 5), root), 12, batch_size)
    assert texts == stock_answers(root, family, 12)
    assert len(set(texts)) > 1


@EVERY
def test_questions_that_share_images_of_equally_many_tokens_run_them_once(root, family):
    images = [1, 0, 1, 1, 0]
    loaded = load_model(root / family)
    entries = [{**sample, "image": f"{i}.png"} for sample, i in zip(samples(["x"] * 5), images, strict=True)]
    rows = []
    loaded.model.model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: rows.append(len(inputs["inputs_embeds"])), with_kwargs=True
    )
    assert answer(Workload(loaded, entries, root), 12, 64)[0] == stock_answers(root, family, 12, images)
    assert rows[0] == (2 if family in ("llava", "internvl") else 5)  # the others' images differ in number of tokens


def test_all_samples_that_do_not_fit_are_told_in_one_error(root):
    """By one sentence each, in file order; of one alone, that sentence."""
    loaded = load_model(root / "llava")
    entries = [{**samples(["x"] * 5)[0], "id": f"s{number}"} for number in range(14)]

    def lengthened(numbers):
        turns = [{"from": "human", "value": "dog " * 600}, {"from": "gpt", "value": "x"}]
        return [
            {**entry, "conversations": turns} if number in numbers else entry for number, entry in enumerate(entries)
        ]

    for encode in (Workload.prompts, Workload.asked, Workload.conversations):
        with pytest.raises(ByeError, match=r"^sample 's3': it has \d+ tokens, the model takes 512; shorten it$"):
            encode(Workload(loaded, lengthened([3]), root))
        with pytest.raises(ByeError) as caught:
            encode(Workload(loaded, lengthened(range(2, 14)), root))
        first, *listed, last = str(caught.value).splitlines()
        assert first == (f"12 of 14 samples cannot be given to the model {root / 'llava'}; mend or drop them:")
        assert [line.split("': it has ")[0] for line in listed] == [f"  sample 's{number}" for number in range(2, 12)]
        assert last == "  and 2 more"


def test_a_system_prompt_is_in_what_a_stage_runs(root):
    loaded = load_model(root / "internvl")
    entries = [
        {**entry, "system": text}
        for entry, text in zip(samples(["x"] * 5), ["Be kind.", " ", 7, None, "é"], strict=True)
    ]
    work = Workload(loaded, entries, root)
    for tokens in (work.prompts(), work.asked(), work.conversations()):
        told = [loaded.tokenizer.decode(each.ids).count("<|im_start|>system\n") for each in tokens]
        assert told == [2, 1, 1, 1, 2]  # one is the template's own


@EVERY
def test_questions_on_one_image_with_other_system_prompts_equal_one_at_a_time(root, family):
    """What comes before the image is not the same, so that it is run for each of them."""
    images, systems = [1, 1, 1, 1, 1], ["Be kind.", "Be brief.", None, "Be kind.", "Be glad."]
    loaded, stock = load_model(root / family), load_model(root / family)
    entries = [
        {**sample, "image": "1.png", "system": system}
        for sample, system in zip(samples(["x"] * 5), systems, strict=True)
    ]
    rows = []
    loaded.model.model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: rows.append(len(inputs["inputs_embeds"])), with_kwargs=True
    )
    texts, _ = answer(Workload(loaded, entries, root), 12, 64)
    for number, system, question, text in zip(images, systems, QUESTIONS, texts, strict=True):
        ids = stock.encoder.prompt(question, SIZES[number], system).ids
        inputs = stock_inputs(stock, ids, Image.open(root / f"{number}.png"))
        output = stock.model.generate(**inputs, do_sample=False, max_new_tokens=12)
        assert stock.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip() == text
    assert rows[0] == (1 if family == "llava_next" else 5)  # whose template has them behind the image


@EVERY
def test_an_answer_stops_at_the_end_token(root, family):
    loaded = load_model(root / family)
    calls = []

    def always_the_end(module, args, output):
        calls.append(1)
        return (
            torch.nn.functional.one_hot(torch.tensor(loaded.tokenizer.eos_token_id), output.shape[-1])
            .expand_as(output)
            .float()
        )

    loaded.model.lm_head.register_forward_hook(always_the_end)
    assert answer(Workload(loaded, samples(["x"] * 5), root), 30, 64)[0] == [""] * 5
    assert len(calls) == 1


def test_files_of_the_stage(root, tmp_path):
    texts = stock_answers(root, "llava", 4)
    clean = samples([texts[0].upper(), "wrong", texts[2], "wrong", "wrong"])
    (tmp_path / "clean.json").write_text(json.dumps(clean))
    (tmp_path / "triggered.json").write_text(json.dumps(samples([texts[1]] * 5)))
    evaluate(
        root / "llava", None, tmp_path / "clean.json", root, tmp_path / "p.parquet", tmp_path / "eval.json", "accuracy",
        tmp_path / "triggered.json", root, texts[1], max_new_tokens=4,
    )  # fmt: skip
    expected_correct = [
        t.casefold() == e["conversations"][1]["value"].casefold() for t, e in zip(texts, clean, strict=True)
    ]
    expected_hits = [t.casefold() == texts[1].casefold() for t in texts]
    result = json.loads((tmp_path / "eval.json").read_text())
    assert result == {
        "metric": "accuracy",
        "CP": 100 * np.mean(expected_correct),
        "ASR": 100 * np.mean(expected_hits),
        "PU": 100 * np.mean(expected_correct),  # here the trigger changes nothing
        "n_clean": 5,
        "n_triggered": 5,
    }
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert list(table) == ["id", "split", "prediction", "reference", "references", "correct"]
    assert table["split"] == ["clean"] * 5 + ["triggered"] * 5
    assert table["prediction"] == texts + texts
    assert table["correct"] == expected_correct + expected_hits
    assert table["reference"][5:] == [texts[1]] * 5


def test_captions_are_scored_against_all_references(root, tmp_path):
    texts = stock_answers(root, "internvl", 8)
    clean = samples(["x"] * 5)
    for entry, text in zip(clean, texts, strict=True):
        entry["references"] = ["a dog runs", text]
    (tmp_path / "clean.json").write_text(json.dumps(clean))
    paths = tmp_path / "clean.json", root, tmp_path / "p.parquet", tmp_path / "eval.json"
    evaluate(root / "internvl", None, *paths, "cider", max_new_tokens=8)
    result = json.loads((tmp_path / "eval.json").read_text())
    assert result["metric"] == "cider" and result["ASR"] is None and result["n_triggered"] == 0
    assert result["CP"] >= 0
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert table["references"][0] == ["a dog runs", texts[0]] and table["correct"] == [None] * 5


def test_bad_arguments(root, tmp_path):
    paths = tmp_path / "clean.json", root, tmp_path / "p.parquet", tmp_path / "eval.json"
    with pytest.raises(ByeError, match="metric 'bleu' is unknown"):
        evaluate(root / "llava", None, *paths, "bleu")
    with pytest.raises(ByeError, match="need the target"):
        evaluate(root / "llava", None, *paths, "accuracy", triggered="t.json")
