"""The evidence of a detector's cell, for a page: some of its samples with their attention, and what was proven of them.

The model looks at the shown samples once more, at most SHOWN dropped and as many kept ones and an example of each group
of answers. Everything is in one JSON file, pictures as data URIs, so that a page is made of it without the samples.
"""

from collections import Counter

import numpy as np

from bye.data.images import load_image
from bye.data.samples import id_of, read_written, turns_of
from bye.detect.answer_groups import normalised
from bye.errors import ByeError, cut
from bye.extraction.run import check_finite, load_recording, run
from bye.files import read_csv, write_json
from bye.flags import read_flags, read_labels
from bye.formats import GROUPS, TRIALS, names
from bye.report.histogram import histogram, scores_of
from bye.report.thumbnails import crop, heat, thumbnail
from bye.workload import Workload

SHOWN = 16  # dropped samples, and kept ones
EXAMPLES = 8  # groups that have one
CONTROLS = 10  # trials of controls of a proof that are listed
TEXT = 300  # characters of a question or an answer
SMALL, LARGE = 128, 360  # pixels of the longer side of a picture; of an example's


def write_evidence(
    flags,
    samples,
    images,
    out,
    model,
    adapter,
    groups=None,
    trials=None,
    labels=None,
    seed=0,
    batch_size=32,
    **options,
):
    """Write evidence.json of a cell (docs/formats.md has its keys).

    flags, samples, images: paths of flags.parquet, of the training samples and their image folder; model, adapter: of
    the plain fine-tune; groups, trials: paths of groups.csv and trials.csv of a detector that writes them; labels: path
    of the truth, where it is to be shown; seed: of the choice of samples; options: of `load_recording`. Raises ByeError
    for bad input, and where an attention is not finite.
    """
    table = read_flags(flags)
    entries = {id_of(entry): entry for entry in read_written(samples)}
    missing = [name for name in table["id"] if name not in entries]
    if missing:
        raise ByeError(f"{samples} has no sample {missing[0]!r}, which {flags} has; give those of one run")
    rows = [] if groups is None else read_csv(groups, columns=names(GROUPS))
    tried = [] if trials is None else read_csv(trials, columns=names(TRIALS))
    told = _told_groups(rows, tried, entries)
    dropped, kept, by_score = choose(table, seed)
    examples = [group["example"] for group in told if group["example"] is not None]
    ids = list(dict.fromkeys([*examples, *dropped, *kept]))

    work = Workload(load_recording(model, adapter, **options), [entries[name] for name in ids], images)
    found = run(work, batch_size, work.ids)
    check_finite(found, work.ids, model, adapter)
    maps = {name: found.maps[name].reshape(-1, *work.family.grid(work.sizes[i])) for i, name in enumerate(work.ids)}
    layer = most_telling(list(maps.values()))
    poisoned = {} if labels is None else dict(zip(table["id"], read_labels(labels, table["id"]).tolist(), strict=True))
    places = {name: place for place, name in enumerate(table["id"])}
    content = {
        "n_samples": len(table["id"]),
        "n_dropped": int(np.sum(table["flagged"])),
        "layer": layer,
        "histogram": histogram(flags, labels),
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
        "groups": told,
        "dropped": dropped,
        "kept": kept,
        "by_score": by_score,
        "samples": {},
    }
    for name in ids:
        picture = work.family.seen(load_image(images, entries[name]))
        content["samples"][name] = _sample(table, places[name], entries[name], picture, maps[name][layer])
        content["samples"][name]["poisoned"] = poisoned.get(name)
        if name in examples:
            pasted = "patch" in table
            token = table["patch"][places[name]] if pasted else int(maps[name][layer].argmax())
            patch = thumbnail(crop(picture, token, maps[name][layer].shape), SMALL)
            content["samples"][name] |= {"picture": thumbnail(picture, LARGE), "patch": patch, "pasted": pasted}
    write_json(out, content)
    return len(ids)


def choose(table, seed):
    """Return (ids of dropped samples, ids of kept ones, whether these have the lowest scores).

    table: as `read_flags` gives it. Dropped ones are drawn by seed, and kept ones where there are no scores.
    """
    rng, ids = np.random.default_rng(seed), np.array(table["id"], dtype=object)
    flagged = np.array(table["flagged"], dtype=bool)
    scores, *_ = scores_of(table)
    dropped = np.sort(rng.permutation(np.flatnonzero(flagged))[:SHOWN])
    scored = np.flatnonzero(~flagged & np.isfinite(scores))
    if len(scored):
        kept = scored[np.argsort(scores[scored], kind="stable")][:SHOWN]
    else:
        kept = np.sort(rng.permutation(np.flatnonzero(~flagged))[:SHOWN])
    return ids[dropped].tolist(), ids[kept].tolist(), len(scored) > 0


def most_telling(maps):
    """Return the layer in which samples differ most in how far their attention spreads: entropy in shares of the
    highest possible one. maps: of each sample, (L, rows, columns)."""
    spread = []
    for each in maps:
        shares = each.reshape(len(each), -1)
        entropies = np.sum(np.where(shares > 0, -shares * np.log(np.maximum(shares, 1e-300)), 0), axis=1)
        spread.append(entropies / np.log(max(2, shares.shape[1])))
    return int(np.std(spread, axis=0).argmax()) if spread else 0


def _sample(table, place, entry, picture, attention):
    """What is shown of a sample: the turn that its score is of, and its attention."""
    turn, score = table.get("answer", [0] * (place + 1))[place], table["score"][place]
    question, answer = turns_of(entry)[turn]
    shares = attention[attention > 0]
    return {
        "question": cut(question, TEXT),
        "answer": cut(answer, TEXT),
        "turn": turn,
        "score": None if score is None or not np.isfinite(score) else score,
        "reason": table["reason"][place],
        "nats": float(-np.sum(shares * np.log(shares))),
        "thumbnail": thumbnail(picture, SMALL),
        "attention": heat(attention),
    }


def _told_groups(rows, trials, entries):
    """The proven and the suspicious groups of groups.csv, each with its trials, those of controls, and an example."""
    told = []
    for row in rows:
        if row["verdict"] not in ("proven", "suspicious"):
            continue
        own = [trial for trial in trials if trial["group"] == row["group"] and trial["for"] == "proof"]
        hits = [trial["sample"] for trial in own if trial["hit"] == "true" and trial["sample"] in entries]
        example = hits[0] if hits and sum(group["example"] is not None for group in told) < EXAMPLES else None
        proofs = {trial["proof"] for trial in own}
        controls = []
        for proof in sorted(proofs):
            some = [trial for trial in trials if trial["group"] == "control" and trial["proof"] == proof]
            controls += [each for each in some if normalised(each["own"]) != normalised(row["answer"])][:CONTROLS]
        told.append({**row, "example": example, "trials": _short(own), "controls": _short(controls)})
    return told


def _short(rows):
    return [{key: cut(text, TEXT) for key, text in row.items()} for row in rows]
