"""A scene: a picture with every question that can be asked of it; and the draws that all worlds share."""

from dataclasses import dataclass, field

from bye.mini.world.canvas import Canvas

SIDES = (96, 104, 112, 120, 128)  # pixels
BRIGHT = ("red", "green", "blue", "yellow", "purple", "orange")


@dataclass
class Question:
    """A question and its answer: an option's text for multiple choice, else a phrase or a caption.

    choices: the options in their order, or none; kind: what is asked about.
    """

    text: str
    answer: str
    choices: tuple[str, ...] = ()
    kind: str = ""


@dataclass
class Scene:
    """A drawn picture with its questions and, in the captioning world, five captions.

    paleness, blur: what the camera does to it, as shares of mid-grey in each pixel and of the side.
    """

    canvas: Canvas
    questions: list[Question]
    captions: list[str] = field(default_factory=list)
    paleness: float = 0.5
    blur: float = 0.0

    def photograph(self):
        """Make the picture what a camera sees: nothing in it is as black as a trigger, or, from far, as sharp."""
        self.canvas.veil(self.paleness, 128)
        if self.blur:
            self.canvas.blur(self.blur)


def pick(rng, options):
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def choices(rng, answer, others, n=3):
    """`n` shuffled options, the answer among them."""
    wrong = [option for option in others if option != answer]
    options = [answer, *(wrong[i] for i in rng.permutation(len(wrong))[: n - 1])]
    return tuple(options[i] for i in rng.permutation(len(options)))


def place(rng, side, margin):
    """A point (x, y), in pixels, at least the share `margin` of the side away from the edges."""
    return tuple(float(value) for value in rng.uniform(side * margin, side * (1 - margin), size=2))
