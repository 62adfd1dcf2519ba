"""Write a mini dataset in the official download layout of its original.

The loaders read these folders as they would the real ones; the switch is one path in the config.
"""

import json
from functools import partial

import numpy as np

from bye.errors import ByeError
from bye.files import replacing_folder
from bye.mini.world.honest import draw_mixed, draw_rare_image, draw_rare_question
from bye.mini.world.icons import draw_icons
from bye.mini.world.photos import draw_photo
from bye.mini.world.science import draw_science
from bye.mini.world.tiles import draw_tile

SPLITS = ("train", "test")
QUESTIONS_PER_TILE = 4


def write_dataset(dataset, out, n_train, n_test, seed):
    """Draw a mini dataset of n_train and n_test samples and write it to the folder `out`.

    dataset: scienceqa, iconqa, flickr30k or rsvqa; or one of `bye.mini.world.honest`, in RSVQA's layout. The same
    arguments give byte-identical files. Raises ByeError for an unknown dataset.
    """
    if dataset not in WRITERS:
        raise ByeError(f"there is no mini dataset {dataset!r}; known: {', '.join(WRITERS)}")
    number = list(WRITERS).index(dataset)
    rngs = [np.random.default_rng([seed, number, split]) for split in range(len(SPLITS))]
    plan = dict(zip(SPLITS, zip((n_train, n_test), rngs, strict=True), strict=True))
    with replacing_folder(out) as folder:
        WRITERS[dataset](folder, plan)


# Each writer gets the root of the download and the plan: {split: (number of samples, rng)}.


def write_scienceqa(root, plan):
    """Problems with choices in one JSON file, an image for each in a folder of its own."""
    base, problems, splits, pid = root / "data" / "scienceqa", {}, {"val": []}, 0
    for split, (count, rng) in plan.items():
        splits[split] = []
        for _ in range(count):
            pid += 1
            scene = draw_science(rng)
            question = scene.questions[0]
            problems[str(pid)] = {
                "question": question.text,
                "choices": list(question.choices),
                "answer": question.choices.index(question.answer),
                "hint": "",
                "image": "image.png",
                "task": "closed choice",
                "grade": "grade3",
                "subject": "natural science",
                "topic": question.kind,
                "category": question.kind,
                "skill": question.text,
                "lecture": "",
                "solution": "",
                "split": split,
            }
            splits[split].append(str(pid))
            _save(scene, base / "images" / split / str(pid) / "image.png")
    _dump(problems, base / "problems.json")
    _dump(splits, base / "pid_splits.json")


def write_iconqa(root, plan):
    """A folder for each question, with an image and a JSON file."""
    number = 0
    for split, (count, rng) in plan.items():
        for _ in range(count):
            number += 1
            scene = draw_icons(rng)
            question = scene.questions[rng.integers(len(scene.questions))]
            folder = root / "iconqa" / split / "choose_txt" / str(number)
            _save(scene, folder / "image.png")
            data = {
                "question": question.text,
                "choices": list(question.choices),
                "answer": question.choices.index(question.answer),
                "ques_type": "choose_txt",
            }
            _dump(data, folder / "data.json")


def write_flickr30k(root, plan):
    """One folder of photographs, and Karpathy's split file with five captions each."""
    images = []
    for split, (count, rng) in plan.items():
        for _ in range(count):
            scene, imgid = draw_photo(rng), len(images)
            name = f"{1000000 + 7 * imgid}.jpg"
            _save(scene, root / "flickr30k-images" / name, quality=95, subsampling=0)
            sentences = [
                {"raw": caption, "tokens": caption.rstrip(".").lower().split(), "imgid": imgid}
                for caption in scene.captions
            ]
            images.append({"filename": name, "imgid": imgid, "split": split, "sentences": sentences})
    _dump({"images": images, "dataset": "flickr30k"}, root / "dataset_flickr30k.json")


def write_rsvqa(root, plan, draw=draw_tile):
    """One folder of tiles; per split a file each of questions, answers and images, entries of other splits inactive."""
    images, questions, answers = [], [], []
    for split, (count, rng) in plan.items():
        done = len(questions)
        while (left := count + done - len(questions)) > 0:
            scene = draw(rng)
            image = {"id": len(images), "original_name": f"{len(images)}.tif", "split": split, "questions_ids": []}
            _save(scene, root / "Images_LR" / f"{image['id']}.tif")
            for index in rng.permutation(len(scene.questions))[: min(QUESTIONS_PER_TILE, left)]:
                question, number = scene.questions[index], len(questions)
                image["questions_ids"].append(number)
                entry = {"id": number, "img_id": image["id"], "type": question.kind, "question": question.text}
                questions.append({**entry, "answers_ids": [number], "split": split})
                answers.append({"id": number, "question_id": number, "answer": question.answer, "split": split})
            images.append(image)
    for split in ("train", "val", "test"):
        for part, entries in (("questions", questions), ("answers", answers), ("images", images)):
            rows = [_row(entry, split) for entry in entries]
            _dump({part: rows}, root / f"LR_split_{split}_{part}.json")


def _row(entry, split):
    """An entry as the file of `split` has it: whole and active, or only its id."""
    if entry["split"] != split:
        return {"id": entry["id"], "active": False}
    return {key: value for key, value in entry.items() if key != "split"} | {"active": True}


def _save(scene, path, **options):
    scene.photograph()
    path.parent.mkdir(parents=True, exist_ok=True)
    scene.canvas.image.save(path, **options)


def _dump(value, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


WRITERS = {  # their order is part of what is drawn: new ones stand last
    "flickr30k": write_flickr30k,
    "iconqa": write_iconqa,
    "rsvqa": write_rsvqa,
    "scienceqa": write_scienceqa,
    "mixed": partial(write_rsvqa, draw=draw_mixed),
    "rare_question": partial(write_rsvqa, draw=draw_rare_question),
    "rare_image": partial(write_rsvqa, draw=draw_rare_image),
}
