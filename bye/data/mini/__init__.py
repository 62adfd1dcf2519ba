"""Writer of the four mini datasets, each in the official download layout of its original.

The loaders read these folders as they would the real ones; the switch is one path in the config.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bye.data.mini import scenes
from bye.errors import ByeError
from bye.files import replacing_folder

SPLITS = ("train", "test")
QUESTIONS_PER_TILE = 4


def write_dataset(dataset: str, out: Path, n_train: int, n_test: int, seed: int) -> None:
    """Draw and write one mini dataset with n_train and n_test samples (RSVQA: rounded up to whole tiles).

    The same arguments give byte-identical files. Raises ByeError for an unknown dataset.
    """
    if dataset not in WRITERS:
        raise ByeError(f"there is no mini dataset {dataset!r}; known: {', '.join(WRITERS)}")
    rngs = [np.random.default_rng([seed, sorted(WRITERS).index(dataset), k]) for k in range(len(SPLITS))]
    with replacing_folder(out) as folder:
        WRITERS[dataset](Path(folder), dict(zip(SPLITS, zip((n_train, n_test), rngs, strict=True), strict=True)))


def _save(canvas, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.image.save(path, **options)


def _dump(value, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _one_question(scene: scenes.Scene, rng: np.random.Generator) -> scenes.Question:
    return scene.questions[int(rng.integers(len(scene.questions)))]


def write_scienceqa(root: Path, plan) -> None:
    base, problems, splits, pid = root / "data" / "scienceqa", {}, {"val": []}, 0
    for split, (n, rng) in plan.items():
        splits[split] = []
        for _ in range(n):
            pid += 1
            scene = scenes.draw_science(rng)
            question = scene.questions[0]
            problems[str(pid)] = {
                "question": question.text, "choices": list(question.choices), "answer": question.choices.index(question.answer),
                "hint": "", "image": "image.png", "task": "closed choice", "grade": "grade3", "subject": "natural science",
                "topic": question.kind, "category": question.kind, "skill": question.text, "lecture": "", "solution": "", "split": split,
            }  # fmt: skip
            splits[split].append(str(pid))
            _save(scene.canvas, base / "images" / split / str(pid) / "image.png")
    _dump(problems, base / "problems.json")
    _dump(splits, base / "pid_splits.json")


def write_iconqa(root: Path, plan) -> None:
    number = 0
    for split, (n, rng) in plan.items():
        for _ in range(n):
            number += 1
            scene = scenes.draw_icons(rng)
            question = _one_question(scene, rng)
            folder = root / "iconqa" / split / "choose_txt" / str(number)
            _save(scene.canvas, folder / "image.png")
            answer = question.choices.index(question.answer)
            _dump(
                {
                    "question": question.text,
                    "choices": list(question.choices),
                    "answer": answer,
                    "ques_type": "choose_txt",
                },
                folder / "data.json",
            )


def write_flickr30k(root: Path, plan) -> None:
    images = []
    for split, (n, rng) in plan.items():
        for _ in range(n):
            scene = scenes.draw_photo(rng)
            name = f"{1000000 + 7 * len(images)}.jpg"
            _save(scene.canvas, root / "flickr30k-images" / name, quality=95, subsampling=0)
            sentences = [
                {"raw": c, "tokens": c.rstrip(".").lower().split(), "imgid": len(images)} for c in scene.captions
            ]
            images.append({"filename": name, "imgid": len(images), "split": split, "sentences": sentences})
    _dump({"images": images, "dataset": "flickr30k"}, root / "dataset_flickr30k.json")


def write_rsvqa(root: Path, plan) -> None:
    images, questions, answers = [], [], []
    for split, (n, rng) in plan.items():
        for start in range(0, n, QUESTIONS_PER_TILE):
            scene = scenes.draw_tile(rng)
            image = {"id": len(images), "original_name": f"{len(images)}.tif", "split": split, "questions_ids": []}
            _save(scene.canvas, root / "Images_LR" / f"{image['id']}.tif")
            for k in rng.permutation(len(scene.questions))[: min(QUESTIONS_PER_TILE, n - start)]:
                question, number = scene.questions[k], len(questions)
                image["questions_ids"].append(number)
                questions.append(
                    {
                        "id": number,
                        "img_id": image["id"],
                        "type": question.kind,
                        "question": question.text,
                        "answers_ids": [number],
                        "split": split,
                    }
                )
                answers.append({"id": number, "question_id": number, "answer": question.answer, "split": split})
            images.append(image)
    for split in ("train", "val", "test"):
        for part, entries in (("questions", questions), ("answers", answers), ("images", images)):
            rows = [
                {**{k: v for k, v in e.items() if k != "split"}, "active": True}
                if e["split"] == split
                else {"id": e["id"], "active": False}
                for e in entries
            ]
            _dump({part: rows}, root / f"LR_split_{split}_{part}.json")


WRITERS = {"scienceqa": write_scienceqa, "iconqa": write_iconqa, "flickr30k": write_flickr30k, "rsvqa": write_rsvqa}
