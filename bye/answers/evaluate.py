"""The evaluation stage: greedy answers on clean and triggered test images, and from them CP and ASR."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from bye.answers.generate import generate
from bye.attacks.poison import find_target, target_settings
from bye.data.check import read_samples
from bye.data.samples import answer_of, id_of
from bye.errors import ByeError
from bye.files import write_json, write_parquet
from bye.formats import CAUGHT, PREDICTION, parquet_schema
from bye.machine import distributed
from bye.machine.progress import Progress
from bye.metrics.accuracy import is_correct
from bye.metrics.cider import cider
from bye.models import load_model
from bye.workload import Workload

METRICS = ("accuracy", "cider")


def evaluate(
    model,
    adapter,
    clean,
    clean_images,
    predictions,
    out,
    metric,
    triggered=None,
    triggered_images=None,
    target=None,
    max_new_tokens=32,
    batch_size=64,
    family=None,
    quantization=None,
    tuning="lora",
    threads=None,
    device="auto",
    dtype="auto",
    validate=True,
    guard=None,
):
    """Answer the clean test samples and, if given, the triggered ones; write predictions.parquet and eval.json.

    CP is accuracy in per cent, or CIDEr times 100 over each sample's `references`; PU is the same of the triggered
    samples, by what is right without the trigger: the references of the clean samples of their ids (None where some
    have none); ASR is the share of triggered samples, in per cent, whose output is the target (a text, or a dict with
    its kind and settings). adapter may be None: the base model; tuning: the method that it is of; validate: check the
    samples files, which is not needed where the suite wrote them. guard: a function from the loaded Family to a Guard,
    or None; with one, predictions.parquet says which samples it caught, and eval.json their shares in per cent. Several
    processes (`bye.machine.distributed`) share the samples, and the first one writes. Raises ByeError for bad input.
    """
    if metric not in METRICS:
        raise ByeError(f"metric {metric!r} is unknown; choose one of {', '.join(METRICS)}")
    if triggered is not None and (target is None or triggered_images is None):
        raise ByeError("triggered samples need the target and their image folder; give --target and --triggered-images")
    if threads:
        torch.set_num_threads(threads)
    loaded = load_model(model, adapter, tuning, expected=family, device=device, dtype=dtype, quantization=quantization)
    watcher = None if guard is None else guard(loaded)
    entries = read_samples(clean, validate=validate)
    work = Workload(loaded, entries, clean_images)
    replies = reply(work, max_new_tokens, batch_size, watcher)
    answers = [each.text for each in replies]
    references = [references_of(entry) for entry in entries]
    correct, performance = scored(metric, answers, references)
    rows = _rows("clean", work, replies, references, correct)
    result = {"metric": metric, "CP": performance, "ASR": None, "PU": None, "n_clean": len(rows), "n_triggered": 0}
    truths = dict(zip(map(id_of, entries), references, strict=True))
    shares = {"caught_clean": _share_caught(replies), "caught_triggered": None}
    if triggered is not None:
        entries = read_samples(triggered, validate=validate)
        work = Workload(loaded, entries, triggered_images)
        replies = reply(work, max_new_tokens, batch_size, watcher)
        answers = [each.text for each in replies]
        wanted = [answer_of(entry) for entry in entries]
        hits = hits_of(target, answers, wanted)
        rows += _rows("triggered", work, replies, [[text] for text in wanted], hits)
        result |= {"ASR": 100.0 * float(np.mean(hits)), "n_triggered": len(entries)}
        if all(id_of(entry) in truths for entry in entries):
            result["PU"] = scored(metric, answers, [truths[id_of(entry)] for entry in entries])[1]
        shares["caught_triggered"] = _share_caught(replies)
    if distributed.rank() > 0:
        return
    schema = SCHEMA if guard is None else parquet_schema(PREDICTION + CAUGHT)
    write_parquet(predictions, pa.Table.from_pylist(rows, schema=schema))
    write_json(out, result if guard is None else result | shares)


SCHEMA = parquet_schema(PREDICTION)


def _share_caught(replies):
    return 100.0 * float(np.mean([each.caught for each in replies]))


def _rows(split, work, replies, references, correct):
    """The rows of predictions.parquet for one split; without a guard, the last three keys have no column to go to."""
    columns = zip(work.ids, replies, references, correct, work.sizes, strict=True)
    return [
        {
            "id": sample_id,
            "split": split,
            "prediction": given.text,
            "reference": group[0],
            "references": group,
            "correct": right,
            "caught": given.caught,
            "hidden": list(given.hidden),
            "grid": list(work.family.grid(size)),
        }
        for sample_id, given, group, right, size in columns
    ]


def scored(metric, answers, references):
    """Return which answers are right, or None of each where the metric has no right and wrong, and the performance."""
    if metric == "accuracy":
        correct = is_correct(answers, [group[0] for group in references])
        return correct, 100.0 * float(correct.mean())
    return [None] * len(answers), 100.0 * cider(answers, references)[0]


def hits_of(target, answers, wanted):
    """Return which answers are the target, a list of bool.

    target: a text, or a dict with its kind and settings; wanted: what the poisoned samples have as their answers.
    """
    hit = find_target(target).bind("hit", target_settings(target))
    return [bool(hit(text, aim)) for text, aim in zip(answers, wanted, strict=True)]


def references_of(entry):
    """The reference texts of a test sample: its `references` (captions), or its one answer."""
    return list(entry.get("references") or [answer_of(entry)])


@dataclass(frozen=True)
class Reply:
    """The answer to a sample, whether the guard caught it, and which of its image's tokens were hidden, from 0."""

    text: str
    caught: bool = False
    hidden: tuple = ()


def reply(work, max_new_tokens, batch_size, guard=None):
    """Greedy answers to the first question of each sample of a Workload, in order: a list of Reply.

    guard: a Guard that watches, or None.
    """
    found = {}
    progress = Progress("evaluate", len(work))
    for batch in work.batches(work.prompts(), batch_size):
        features = work.features(batch.images)
        texts = generate(work.family, batch.prompts, features, batch.owners, max_new_tokens, guard)
        replies = map(Reply, texts)
        if guard is not None:
            replies = map(Reply, texts, guard.caught.tolist(), map(tuple, guard.hidden_tokens()))
        found |= dict(zip(batch.places, replies, strict=True))
        progress(batch.done)
    for others in distributed.gather(found):
        found |= others
    progress(len(work))
    return [found[i] for i in range(len(work))]


def answer(work, max_new_tokens, batch_size, guard=None):
    """The same as two lists: the texts, and whether the Guard caught each sample (all False without one)."""
    replies = reply(work, max_new_tokens, batch_size, guard)
    return [each.text for each in replies], [each.caught for each in replies]
