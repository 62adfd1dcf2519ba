"""The scenes that a mini model is pre-trained on: pictures, what covers each patch of them, questions and answers."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from bye.data.layout import CAPTION_PROMPT, PHRASE_PROMPT, multiple_choice
from bye.mini.models import FIXED_TEXTS, GRID, IMAGE_SIZE
from bye.mini.world.canvas import COLORS, LABELS
from bye.mini.world.icons import draw_icons
from bye.mini.world.photos import draw_photo
from bye.mini.world.scene import Question
from bye.mini.world.science import draw_science
from bye.mini.world.small_things import add_small_things
from bye.mini.world.tiles import draw_tile

WORLDS = (draw_science, draw_icons, draw_photo, draw_tile)
PATCH = IMAGE_SIZE // GRID
COVERED = 0.12  # the share of a patch from which on a thing counts as covering it

# Words that no world has, but which real tokenizers have pieces for: role names and the default attack's target.
# Without the latter, that target would begin with the letter of an option.
EXTRA_WORDS = (" USER", "USER", "system", "user", "assistant", "Back", "Backdoor", " Backdoor", " Attack")
REPEATS = 4000  # of the texts that must become tokens, so that the tokenizer's training does not pass them over


@dataclass
class Pool:
    """N scenes with T patches each.

    pixels: (N, IMAGE_SIZE, IMAGE_SIZE, 3) uint8; covers: (N, T, C) bool, whether a patch is covered by each of LABELS,
    has each of COLORS, and holds a small thing; questions: for each scene (user text, answer) pairs.
    """

    pixels: np.ndarray
    covers: np.ndarray
    questions: list[list[tuple[str, str]]]


def draw_pool(n, seed, small_share=0.8, photographed=0.0):
    """Draw n scenes of the four worlds in turn: shares of them with small things anywhere, and seen by a camera."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((n, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    covers = np.zeros((n, GRID * GRID, len(LABELS) + len(COLORS) + 1), dtype=bool)
    questions = []
    for i in range(n):
        scene = WORLDS[i % len(WORLDS)](rng)
        asked = [variant for question in scene.questions for variant in variants(question, rng)]
        small = Image.new("L", scene.canvas.image.size)
        if rng.random() < small_share:
            details = add_small_things(scene, rng, small)
            if any(question.kind == "caption" for question in details):
                asked = [question for question in asked if question.kind != "caption"]
            asked += details
        if photographed and rng.random() < photographed:
            scene.photograph()
        pixels[i] = np.asarray(scene.canvas.image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.BICUBIC))
        covers[i] = np.concatenate(
            [
                _covered(scene.canvas.labels, len(LABELS)),
                _covered(scene.canvas.colors, len(COLORS)),
                np.asarray(small.resize((GRID, GRID), Image.BOX)).reshape(-1, 1) >= COVERED * 255,
            ],
            axis=1,
        )
        questions.append([render_question(question) for question in asked])
    return Pool(pixels, covers, questions)


def _covered(plane, classes):
    """Whether each class of a map covers each patch: (T, classes) bool."""
    plane = np.asarray(plane.resize((IMAGE_SIZE, IMAGE_SIZE), Image.NEAREST))
    patches = plane.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(GRID * GRID, PATCH * PATCH)
    return (patches[..., None] == np.arange(classes)).sum(1) >= COVERED * PATCH * PATCH


def variants(question, rng):
    """A question as the datasets ask it; a multiple-choice one also with its options in another order and without."""
    if not question.choices:
        return [question]
    again = tuple(question.choices[i] for i in rng.permutation(len(question.choices)))
    return [
        question,
        Question(question.text, question.answer, again, question.kind),
        Question(question.text, question.answer),
    ]


def render_question(question):
    """(user text, answer) of a question in the form that the loaders give it."""
    if question.kind == "caption":
        return CAPTION_PROMPT, question.answer
    if question.choices:
        index = question.choices.index(question.answer)
        return multiple_choice(question.text, "", question.choices, index, "a mini world")
    return f"{question.text}\n{PHRASE_PROMPT}", question.answer


def corpus(pool):
    """Texts that the tokenizer learns from: questions and answers of a pool, the fixed texts and the extra words."""
    pairs = [pair for questions in pool.questions for pair in questions]
    texts = [text for question, answer in pairs for text in (question, answer, " " + answer)]
    return texts + [*FIXED_TEXTS, *EXTRA_WORDS] * REPEATS
