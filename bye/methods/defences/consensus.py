"""Consensus: flag, group, prove, drop. What is dropped has been shown to carry its answer to other samples.

Flags say where to look first. Flagged or not, answers that are given again and again are groups, and a group is dropped
where something of its samples, carried to others, makes the model give the group's answer: their images, their most
attended patch, what their images have in common, or words of their questions. All else is kept, and reported.
"""

import json
from typing import Annotated

import numpy as np

from bye.data.samples import system_of, turns_of
from bye.errors import counted, shortened
from bye.features import align_turns, number_samples
from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("entropy", "image_mass", "head_entropy", "head_token", "samples", "model")
WRITES = ("groups.csv", "trials.csv")


def detect(
    features,
    samples,
    model,
    *,
    seed,
    flag: Annotated[float, {"exclusiveMinimum": 0}] = 4.0,
    least: Annotated[int, {"minimum": 2}] = 3,
    screening: Annotated[int, {"minimum": 2}] = 6,
    trials: Annotated[int, {"minimum": 5}] = 20,
    rate: Annotated[float, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}] = 0.5,
    confidence: Annotated[float, {"exclusiveMinimum": 0.5, "exclusiveMaximum": 1}] = 0.99,
    budget: Annotated[float, {"exclusiveMinimum": 0}] = 0.5,
):
    """Find groups of answers that follow something of their samples to others, and drop those.

    flag: robust standard deviations of entropy below the centre of its kind of question, in any layer, from which an
    answer is flagged; least: answers of a group; screening: trials of a proof that a group gets, half of them where
    none succeeds; trials: those of one that half of the screening speaks for; rate: share of them in which a proof must
    succeed, at least; confidence: of the binomial bounds by which it must do so more often than controls; budget:
    answers of the model, for each of the training set, after which groups are left untried. groups.csv has the groups
    and their proofs, trials.csv each trial. Raises ByeError for bad input.
    """
    from bye.answers.carry import Carrier, Row
    from bye.answers.court import Case, Court
    from bye.answers.trials import Asker
    from bye.detect.groups import group_answers, kind_of
    from bye.detect.robust import low_scores

    entries, places = samples.entries, features.sample_of
    told = [turns_of(entry) for entry in entries]
    turns = [told[place][turn] for place, turn in zip(places, features.answers, strict=True)]
    kinds = number_samples([kind_of(question) for question, _ in turns])
    scores = low_scores(align_turns(features.entropies, features.answers), kinds).max(axis=1)
    suspects = scores > flag
    cases = [Case(group) for group in group_answers([answer for _, answer in turns], suspects, least)]

    asker = Asker(model.load(), entries, samples.images, model.batch_size)
    grids = [asker.grid(place) for place in places.tolist()]
    attended = _attended(features, grids)
    cells = [divmod(int(token), grid[1]) for token, grid in zip(attended, grids, strict=True)]
    rows = [
        Row(place, question, answer, system_of(entries[place]), int(kind), cell, grid)
        for place, (question, answer), kind, cell, grid in zip(places.tolist(), turns, kinds, cells, grids, strict=True)
    ]
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    court = Court(Carrier(asker, rows, order), suspects, screening, trials, rate, confidence)
    court.hear(cases, budget * len(rows))

    reasons, flagged = [""] * len(rows), np.zeros(len(rows), dtype=bool)
    for case in cases:
        reason = _sentence(case, rows)
        for row in case.dropped:
            flagged[row], reasons[row] = True, reason
    tables = {"groups.csv": _group_rows(cases, rows), "trials.csv": _trial_rows(cases, court, rows, features.ids)}
    found = {"groups": len(cases), "untried": sum(case.verdict is None for case in cases), "passes": asker.passes}
    columns = {"flagged_by_attention": suspects, "patch": attended.astype(np.int32)}
    return Verdict(flagged, reasons, -scores, None, columns, {"consensus": json.dumps(found)}, tables)


def passes(samples, reference, *, budget: float):
    """Return how many answers of the model it takes, about, for a number of training samples."""
    return round(samples * budget)


def _attended(features, grids):
    """The image token that each row's heads attend to more than those of other rows of its grid do: (n,) int.

    grids: (rows, columns) of the first image tokens of each, a view of the whole image; tokens of its parts, which
    follow, do not count. A head counts by its mass on the image, and by how far its entropy lies below the highest
    possible one.
    """
    weights = features.image_mass * np.maximum(0, 1 - features.head_entropy / np.log(features.n_image_tokens))
    weights, tokens = (each.reshape(len(weights), -1) for each in (weights, features.head_token))
    counts = np.zeros((len(tokens), int(tokens.max(initial=0)) + 1))
    np.add.at(counts, (np.arange(len(tokens))[:, None], tokens), weights)
    found, numbers = np.zeros(len(tokens), dtype=int), number_samples(grids)
    for number, (rows, columns) in enumerate(dict.fromkeys(grids)):
        alike = numbers == number
        some = counts[alike, : rows * columns]
        found[alike] = (some - np.median(some, axis=0)).argmax(axis=1)
    return found


def _sentence(case, rows):
    """Why the rows of a proven group are dropped."""
    from bye.detect.proofs import PROOFS

    answer = rows[case.group.members[0]].answer
    text = case.group.text if case.group.phrase else answer
    short = repr(shortened(text))
    n, told = _samples(case.dropped, rows), []
    for name, proof in case.proofs.items():
        share = f"{100 * proof.hits / proof.trials:.0f} % of {counted(proof.trials, 'trial')}"
        control = "none" if not proof.control_trials else f"{100 * proof.control_hits / proof.control_trials:.0f} %"
        told.append(f"{PROOFS[name]} in {share} (controls: {control})")
    how = "has" if case.group.phrase else "is"
    return f"its answer {how} {short}, as that of {n} dropped samples; {'; '.join(told)}"


def _samples(members, rows):
    """How many samples some answers are of."""
    return len({rows[member].place for member in members})


def _group_rows(cases, rows):
    """The rows of groups.csv."""
    from bye.detect.proofs import PROOFS

    found = []
    for number, case in enumerate(cases):
        group = case.group
        row = {"group": number, "answer": group.text if group.phrase else rows[group.members[0]].answer}
        row |= {"shares": "phrase" if group.phrase else "answer", "samples": _samples(group.members, rows)}
        row |= {"flagged": group.n_flagged, "p_value": f"{group.p_value:.3g}", "moved": case.phrase or ""}
        for name in PROOFS:
            proof = case.proofs.get(name)
            tried = len(case.tried.get(name, ()))
            row[name] = f"{case.hits(name)} of {tried}" if tried else ""
            row[f"{name}_controls"] = f"{proof.control_hits} of {proof.control_trials}" if proof else ""
        verdict = "not tried" if case.verdict is None else case.verdict
        found.append(row | {"verdict": verdict, "dropped": _samples(case.dropped, rows)})
    return found


def _trial_rows(cases, court, rows, ids):
    """The rows of trials.csv, those of controls too."""
    groups = [(number, "proof", case.hit, tried) for number, case in enumerate(cases) for tried in case.tried.values()]
    groups += [(number, "sample", case.hit, case.divided) for number, case in enumerate(cases)]
    groups += [("control", "proof", None, tried) for tried in (*court.controls.values(), *court.own_controls)]
    found = []
    for number, purpose, hit, tried in groups:
        for one in tried:
            row = {"group": number, "for": purpose, "proof": one.proof, "sample": ids[one.member]}
            row |= {
                "own": rows[one.member].answer,
                "host": ids[one.host],
                "before": court.carrier.before.get(one.host, ""),
                "said": one.said,
            }
            found.append(row | {"hit": "" if hit is None else str(hit(one.said)).lower()})
    return found
