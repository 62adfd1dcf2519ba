"""The evaluation stage: greedy answers on clean and triggered test images, and from them CP and ASR."""

import numpy as np
import pyarrow as pa
import torch

from bye.answers.generate import generate
from bye.data.samples import answer_of, id_of, read_samples
from bye.errors import ByeError
from bye.files import write_json, write_parquet
from bye.machine import distributed
from bye.machine.progress import Progress
from bye.metrics.accuracy import is_correct
from bye.metrics.asr import is_target
from bye.metrics.cider import cider
from bye.models import load_model
from bye.models.workload import Workload

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
    threads=None,
    device="auto",
    dtype="auto",
    validate=True,
):
    """Answer the clean test samples and, if given, the triggered ones; write predictions.parquet and eval.json.

    CP is accuracy in per cent, or CIDEr times 100 over each sample's `references`; ASR is the share of triggered
    samples, in per cent, whose output is `target`. adapter may be None: the base model; validate: check the
    samples files, which is not needed where the suite wrote them. Several processes (`bye.machine.distributed`) share
    the samples, and the first one writes. Raises ByeError for bad input.
    """
    if metric not in METRICS:
        raise ByeError(f"metric {metric!r} is unknown; choose one of {', '.join(METRICS)}")
    if triggered is not None and (target is None or triggered_images is None):
        raise ByeError("triggered samples need the target and their image folder; give --target and --triggered-images")
    if threads:
        torch.set_num_threads(threads)
    loaded = load_model(model, adapter, expected=family, device=device, dtype=dtype, quantization=quantization)
    entries = read_samples(clean, validate=validate)
    answers = answer(Workload(loaded, entries, clean_images), max_new_tokens, batch_size)
    references = [references_of(entry) for entry in entries]
    if metric == "accuracy":
        correct = is_correct(answers, [group[0] for group in references])
        performance = 100.0 * float(correct.mean())
    else:
        correct = [None] * len(entries)
        performance = 100.0 * cider(answers, references)[0]
    rows = [
        {
            "id": id_of(entry),
            "split": "clean",
            "prediction": text,
            "reference": group[0],
            "references": group,
            "correct": right,
        }
        for entry, text, group, right in zip(entries, answers, references, correct, strict=True)
    ]
    success, n_triggered = None, 0
    if triggered is not None:
        entries = read_samples(triggered, validate=validate)
        answers = answer(Workload(loaded, entries, triggered_images), max_new_tokens, batch_size)
        hits = is_target(answers, target)
        success, n_triggered = 100.0 * float(hits.mean()), len(entries)
        rows += [
            {
                "id": id_of(entry),
                "split": "triggered",
                "prediction": text,
                "reference": target,
                "references": [target],
                "correct": hit,
            }
            for entry, text, hit in zip(entries, answers, hits, strict=True)
        ]
    if distributed.rank() > 0:
        return
    write_parquet(predictions, pa.Table.from_pylist(rows, schema=SCHEMA))
    n_clean = len(rows) - n_triggered
    write_json(
        out, {"metric": metric, "CP": performance, "ASR": success, "n_clean": n_clean, "n_triggered": n_triggered}
    )


SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "split": pa.string(),
        "prediction": pa.string(),
        "reference": pa.string(),
        "references": pa.list_(pa.string()),
        "correct": pa.bool_(),  # null where the metric has no right and wrong
    }
)


def references_of(entry):
    """The reference texts of a test sample: its `references` (captions), or its one answer."""
    return list(entry.get("references") or [answer_of(entry)])


def answer(work, max_new_tokens, batch_size):
    """Greedy answers to the first question of each sample of a Workload, in order: a list of texts."""
    answers = {}
    progress = Progress("evaluate", len(work))
    for batch in work.batches(work.prompts(), batch_size):
        features = work.features(batch.images)
        texts = generate(work.family, batch.prompts, features, batch.owners, max_new_tokens)
        answers |= dict(zip(batch.places, texts, strict=True))
        progress(batch.done)
    for found in distributed.gather(answers):
        answers |= found
    progress(len(work))
    return [answers[i] for i in range(len(work))]
