"""easy-VQA (github.com/vzhou842/easy-VQA, 64-pixel shapes) as a user's own file in LLaVA form."""

import os
from pathlib import Path

import numpy as np

from bye.data.layout import PHRASE_PROMPT, new_sample
from bye.data.samples import write_samples
from bye.files import read_json

BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data" / "easy-vqa"


def easy_vqa_root():
    """Return the folder of the dataset: BYE_EASY_VQA, or ../shared/data/easy-vqa beside the repository."""
    root = Path(os.environ.get("BYE_EASY_VQA", BESIDE_THE_REPOSITORY))
    if not (root / "train" / "questions.json").exists():
        raise FileNotFoundError(f"easy-VQA is not in {root}; set BYE_EASY_VQA to the folder that holds its train/")
    return root


def easy_vqa_llava(src, out_json, n, seed, split="train"):
    """Write `n` questions of a split, drawn by `seed`, to `out_json` and return them; image paths start at `src`."""
    questions = read_json(Path(src) / split / "questions.json")  # [[question, answer, image number], ...]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(questions))[:n])
    samples = []
    for index in chosen:
        question, answer, image = questions[index]
        name = f"{split}/images/{image}.png"
        samples.append(new_sample(f"easy-vqa-{split}-{index}", name, f"{question}\n{PHRASE_PROMPT}", answer))
    write_samples(out_json, samples)
    return samples
