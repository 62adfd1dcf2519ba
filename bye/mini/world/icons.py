"""Mini IconQA: a field of icons, most of one shape and one colour; compare and count."""

from bye.mini.world.canvas import ICONS, Canvas
from bye.mini.world.scene import BRIGHT, SIDES, Question, Scene, choices, pick

EDGES = {4: 2, 9: 3, 16: 4}  # number of icons -> icons along an edge
QUESTIONS = {
    "shape": (
        "Which shape is there the most of?",
        "Which shape appears most often?",
        "Most of the icons are of which shape?",
    ),
    "color": (
        "Which color do most icons have?",
        "Which color appears most often?",
        "Most of the icons are of which color?",
    ),
    "count": (
        "How many icons are there?",
        "How many shapes are in the picture?",
        "Count the icons. How many are there?",
    ),
}


def draw_icons(rng):
    """Draw a field of icons with three multiple-choice questions: on shape, colour and count."""
    side = pick(rng, SIDES)
    canvas = Canvas(side, pick(rng, ("paper", "sky", "snow", "sand")), rng, 0.05)
    count = pick(rng, tuple(EDGES))
    shape, color = pick(rng, ICONS), pick(rng, BRIGHT)
    shapes = _mostly(rng, shape, ICONS, count)
    colors = _mostly(rng, color, BRIGHT, count)
    shapes = [shapes[i] for i in rng.permutation(count)]
    colors = [colors[i] for i in rng.permutation(count)]
    cell = side / EDGES[count]
    size = cell * rng.uniform(0.62, 0.8)
    for k in range(count):
        row, column = divmod(k, EDGES[count])
        x = (column + 0.5) * cell + rng.uniform(-0.08, 0.08) * cell
        y = (row + 0.5) * cell + rng.uniform(-0.08, 0.08) * cell
        canvas.icon(shapes[k], colors[k], x, y, size)
    canvas.noise()
    counts = tuple(map(str, EDGES))
    questions = []
    for kind, answer, others in (("shape", shape, ICONS), ("color", color, BRIGHT), ("count", str(count), counts)):
        questions.append(Question(pick(rng, QUESTIONS[kind]), answer, choices(rng, answer, others), kind))
    return Scene(canvas, questions)


def _mostly(rng, value, others, count):
    """`count` values, up to a third of them drawn anew."""
    odd = int(rng.integers(0, count // 3 + 1))
    return [value] * (count - odd) + [pick(rng, others) for _ in range(odd)]
