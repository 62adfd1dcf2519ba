"""Answers of a user's own model to a user's own questions, which a guard may watch: what it caught, and where."""

import torch

from bye.answers.evaluate import reply
from bye.data.check import read_samples
from bye.data.images import load_image, token_box
from bye.data.samples import id_of, question_of
from bye.files import write_csv
from bye.formats import ANSWER, names
from bye.machine import distributed
from bye.models import load_model
from bye.workload import Workload


def ask(
    model,
    adapter,
    samples,
    images,
    out,
    guard=None,
    max_new_tokens=64,
    batch_size=16,
    family=None,
    quantization=None,
    tuning="lora",
    threads=None,
    device="auto",
    dtype="auto",
):
    """Answer the first question of each sample greedily and write a CSV file with the columns of `bye.formats.ANSWER`.

    adapter: folder of what was fine-tuned, or None; samples: file of a form that `bye.data.forms` knows, whose answers
    are not read, with the image folder; guard: a function from the loaded Family to a Guard, or None; the others as in
    `bye.answers.evaluate.evaluate`. Several processes share the samples, and the first one writes. Returns how many
    samples there are and how many were caught. Raises ByeError for bad input.
    """
    if threads:
        torch.set_num_threads(threads)
    entries = read_samples(samples, images)
    loaded = load_model(model, adapter, tuning, expected=family, device=device, dtype=dtype, quantization=quantization)
    work = Workload(loaded, entries, images)
    replies = reply(work, max_new_tokens, batch_size, None if guard is None else guard(loaded))
    rows = []
    for entry, size, given in zip(entries, work.sizes, replies, strict=True):
        row = {"id": id_of(entry), "image": entry["image"], "question": question_of(entry), "answer": given.text}
        if guard is not None:
            row |= {"caught": "true" if given.caught else "false", "hidden": len(given.hidden)}
        if given.hidden:
            row["where"] = hidden_box(loaded, load_image(images, entry), size, given.hidden)
        rows.append(row)
    if distributed.rank() == 0:
        write_csv(out, rows, names(ANSWER))
    return len(rows), sum(given.caught for given in replies)


def hidden_box(family, image, size, hidden):
    """Return the smallest box around hidden image tokens as a text, `left top right bottom` in pixels of the image.

    size: (height, width) of the image where the family asks for it, else None; hidden: numbers of tokens. Where a view
    of the whole image is followed by its parts, tokens of the parts do not count; without others the text is empty.
    """
    grid, seen = family.grid(size), family.seen(image)
    left, top = (image.width - seen.width) // 2, (image.height - seen.height) // 2
    cells = [divmod(number, grid[1]) for number in hidden if number < grid[0] * grid[1]]
    boxes = [token_box(cell, grid, seen.height, seen.width, around=0) for cell in cells]
    if not boxes:
        return ""
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    return f"{left + min(lefts)} {top + min(tops)} {left + max(rights)} {top + max(bottoms)}"
