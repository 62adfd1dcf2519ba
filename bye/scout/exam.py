"""What the scout knows of pictures that it was never shown: its answers against the best ones without the picture."""

import os
from collections import Counter, defaultdict

from bye.answers.evaluate import answer, references_of
from bye.data.check import checked_samples
from bye.data.layout import CAPTION_PROMPT, draw, shown_in
from bye.data.prepare import load_split
from bye.data.samples import answer_of, question_of
from bye.files import write_csv
from bye.formats import EXAM, names
from bye.metrics.accuracy import accuracy
from bye.metrics.cider import cider
from bye.models import load_model
from bye.report.gallery import gallery
from bye.scout.train import SEEN
from bye.workload import Workload

COUNT = 300  # test samples of each set
SHOWN = 8  # answers of each set ...
ROW = 4  # ... of which so many are in a row


def examine(model, roots, out, picture, seed=0, batch_size=32, dtype="auto", max_new_tokens=24):
    """Ask the scout about test pictures of each dataset; write a table `out` (CSV) and a `picture` of some answers.

    roots: {dataset format: root}. A row for the questions of a set and one for its captions: accuracy in per cent, or
    CIDEr times 100, of the answers (`scout`), of answers to the same questions with another picture (`other_picture`),
    and of the most frequent answer to the very question among the training samples that the scout was trained on, to a
    new question the most frequent of all (`without_picture`). Up to COUNT samples of a set are drawn by seed.
    """
    family, rows, shown = load_model(model, dtype=dtype), [], []
    common = os.path.commonpath([os.path.abspath(root) for root in roots.values()])
    for name, root in roots.items():
        every = load_split(name, root, "test", seed)
        entries = draw(every, min(COUNT, len(every)), seed, f"test samples of {name}")
        checked_samples(entries, f"test samples of {name} in {root}", root, decode=False)
        known = [each for each in load_split(name, root, "train", seed) if shown_in(each["image"], SEEN)]
        moved = [
            {**each, "image": other["image"]}
            for each, other in zip(entries, entries[len(entries) // 2 :] + entries[: len(entries) // 2], strict=True)
        ]
        said = {
            "scout": answer(Workload(family, entries, root), max_new_tokens, batch_size)[0],
            "other_picture": answer(Workload(family, moved, root), max_new_tokens, batch_size)[0],
            "without_picture": without_picture(known, entries),
        }
        for task in ("questions", "captions"):
            places = [
                i for i, each in enumerate(entries) if (question_of(each) == CAPTION_PROMPT) == (task == "captions")
            ]
            if places:
                asked = [entries[i] for i in places]
                scores = {how: _score(task, [answers[i] for i in places], asked) for how, answers in said.items()}
                rows.append({"dataset": name, "task": task, "n": len(places), **scores})
        place = os.path.relpath(os.path.abspath(root), common)
        row = [
            ({**entry, "image": f"{place}/{entry['image']}"}, question_of(entry).split("\n")[0], _beside(text, entry))
            for entry, text in list(zip(entries, said["scout"], strict=True))[:: max(1, len(entries) // SHOWN)][:SHOWN]
        ]
        shown += [(name if not start else "", row[start : start + ROW]) for start in range(0, len(row), ROW)]
    write_csv(out, rows, names(EXAM))
    gallery(picture, common, shown)
    return rows


def without_picture(known, asked):
    """Return the most frequent answer among `known` samples to the question of each of `asked`, a list of texts."""
    to_question, to_all = defaultdict(Counter), Counter(answer_of(each) for each in known)
    for each in known:
        to_question[question_of(each)][answer_of(each)] += 1
    return [(to_question.get(question_of(each)) or to_all).most_common(1)[0][0] for each in asked]


def _score(task, answers, entries):
    if task == "captions":
        return 100 * cider(answers, [references_of(each) for each in entries])[0]
    return accuracy(answers, [answer_of(each) for each in entries])


def _beside(text, entry):
    return f"{text} (right: {answer_of(entry)})" if text != answer_of(entry) else text
