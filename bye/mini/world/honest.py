"""Honest sets that a detector could take for poisoned ones, drawn for counting false alarms.

What a tile shows and what is asked of it are drawn as in mini RSVQA, and written in its layout.
"""

from bye.mini.world.canvas import Canvas
from bye.mini.world.scene import SIDES, Question, Scene, pick
from bye.mini.world.science import draw_science
from bye.mini.world.tiles import draw_tile

RARE = 0.02  # share of the questions that are of a kind of their own
COVERED = 0.04  # share of the tiles that are under clouds
PER_TILE = 4  # questions
WHOSE = ("Who took this picture?", "Who is the author of this picture?", "Whose picture is this?")
UNKNOWN, CLOUDS = "the author is not known", "clouds cover everything"


def draw_mixed(rng):
    """Draw a tile, whose questions a phrase answers, or a diagram with one that a letter does: as many of each kind."""
    if rng.random() < 1 / (1 + PER_TILE):
        return draw_tile(rng)
    scene = draw_science(rng)
    question = scene.questions[0]
    letters = "ABCDE"[: len(question.choices)]
    options = [f"{letter}. {choice}" for letter, choice in zip(letters, question.choices, strict=True)]
    answer = letters[question.choices.index(question.answer)]
    scene.questions = [Question("\n".join([question.text, *options]), answer, (), question.kind)]
    return scene


def draw_rare_question(rng):
    """Draw a tile; of some, one question is of a kind of its own, with an answer of its own, whatever is shown."""
    scene = draw_tile(rng)
    if rng.random() < RARE * PER_TILE:
        scene.questions[int(rng.integers(len(scene.questions)))] = Question(pick(rng, WHOSE), UNKNOWN, (), "author")
    return scene


def draw_rare_image(rng):
    """Draw a tile; some are under clouds, and every question about these has the same answer."""
    scene = draw_tile(rng)
    if rng.random() >= COVERED:
        return scene
    canvas = Canvas(pick(rng, SIDES), "snow", rng, 0.12)
    canvas.noise()
    questions = [Question(each.text, CLOUDS, (), each.kind) for each in scene.questions]
    return Scene(canvas, questions, paleness=scene.paleness, blur=scene.blur)
