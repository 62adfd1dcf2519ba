"""Samples as the suite has them: the LLaVA conversation form, read, taken apart and written.

A sample is a dict with `id` (string or number), `image` (the path of one, relative to an image folder, which is always
given apart) and `conversations`, human and gpt turn by turn. The first human turn shows the image by one `<image>`, at
its start or its end; without one the image is taken to stand first. `system` is the system's text, where there is one.
Every other key is carried along untouched. What else files of samples look like: `bye.data.forms`.
"""

import json

from bye.data.entries import EntryFile
from bye.files import parse_json, read_text, write_text

PLACEHOLDER = "<image>"


def read_written(path):
    """Return the samples of a file that this suite wrote, a JSON list or JSON lines, in file order."""
    text = read_text(path)
    if text.lstrip()[:1] != "{":
        return parse_json(text, path)
    # Only \n ends a line: strings may hold the other characters that splitlines() takes for line ends.
    return [parse_json(line, path, number) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def write_samples(path, samples, like=None):
    """Write samples as a JSON list, one a line; as JSON lines if `path` ends in .jsonl or the file `like` has them."""
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    if str(path).endswith(".jsonl") or (like is not None and EntryFile(like).suffix == ".jsonl"):
        text = "".join(line + "\n" for line in lines)
    else:
        text = "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"
    write_text(path, text)


def id_of(sample):
    """Return the id as a string: the form in which ids are compared and stored in tables (7 and "7" are the same)."""
    return str(sample["id"])


def turns_of(sample):
    """Return [(question, answer), ...] of a valid sample, the image placeholder taken out of the first question."""
    values = [turn["value"] for turn in sample["conversations"]]
    values[0] = without_placeholder(values[0])
    return list(zip(values[0::2], values[1::2], strict=True))


def question_of(sample):
    """Return the first question, without the image placeholder."""
    return without_placeholder(sample["conversations"][0]["value"])


def answer_of(sample):
    """Return the first answer."""
    return sample["conversations"][1]["value"]


def system_of(sample):
    """Return the system prompt of its conversation, or None."""
    system = sample.get("system")
    return system if isinstance(system, str) and system.strip() else None


def with_answer(sample, answer):
    """Return a copy of the sample whose first answer is `answer`."""
    question, first, *rest = sample["conversations"]
    return {**sample, "conversations": [question, {**first, "value": answer}, *rest]}


def with_question(sample, question):
    """Return a copy of the sample whose first question is `question`, the image placeholder where it stood."""
    first, *rest = sample["conversations"]
    text = first["value"].strip()
    if text.startswith(PLACEHOLDER):
        question = f"{PLACEHOLDER}\n{question}"
    elif text.endswith(PLACEHOLDER):
        question = f"{question}\n{PLACEHOLDER}"
    return {**sample, "conversations": [{**first, "value": question}, *rest]}


def without_placeholder(value):
    """Return the first human turn without its one image placeholder, if it stands at the start or at the end."""
    text = value.strip()
    if text.startswith(PLACEHOLDER):
        return text.removeprefix(PLACEHOLDER).strip()
    return text.removesuffix(PLACEHOLDER).strip() if text.endswith(PLACEHOLDER) else value
