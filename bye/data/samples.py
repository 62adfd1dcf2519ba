"""Samples: the LLaVA conversation form, as a JSON list or as JSON lines, read, checked, taken apart and written.

A sample is a dict with `id` (string or integer), `image` (a path relative to an image folder, which is always given
apart) and `conversations`, human and gpt turn by turn. The first human turn shows the image by one `<image>`, at its
start or its end; without one the image is taken to stand first. Every other key is carried along untouched.
"""

import json
import os
import re

from bye.data.images import check_image, image_path, load_rgb
from bye.errors import ByeError, cut
from bye.files import parse_json, read_text, write_text

PLACEHOLDER = "<image>"
ROLES = ("human", "gpt")
SHOWN = 10  # bad samples listed in one error
SHORT = 80  # characters of a value that an error shows
# Base64 in place of a path: longer than a file name can be, or starting as PNG, JPEG, GIF, WEBP and BMP do.
BASE64 = re.compile(r"[\w+/\s-]{256,}|(iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[01])[\w+/\s-]{59,}", re.ASCII)
OF_A_SAMPLE = {"conversations", "messages", "image"}  # one of them tells a sample from an object around samples


def read_samples(path, images_root=None, validate=True):
    """Return the samples of a JSON or JSON lines file as a list of dicts, in file order and with all their keys.

    With `validate`, everything about the samples is checked and ByeError lists up to ten bad ones; with `images_root`,
    so are the images' paths and headers. `validate=False` is for files that this suite wrote.
    """
    samples, _ = _parse(path)
    if validate:
        validate_samples(samples, path, images_root)
    return samples


def write_samples(path, samples, like=None):
    """Write samples as a JSON list, one a line; as JSON lines if `path` ends in .jsonl or the file `like` has them."""
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    if str(path).endswith(".jsonl") or (like is not None and read_text(like).lstrip()[:1] == "{"):
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
    values[0] = _without_placeholder(values[0])
    return list(zip(values[0::2], values[1::2], strict=True))


def question_of(sample):
    """Return the first question, without the image placeholder."""
    return _without_placeholder(sample["conversations"][0]["value"])


def answer_of(sample):
    """Return the first answer."""
    return sample["conversations"][1]["value"]


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


def validate_samples(samples, source, images_root=None, decode=False):
    """Raise ByeError if any sample is malformed, naming `source`, how many are, and what is wrong with the first ten.

    Images are looked at only if `images_root` is given: path inside the folder, file there, header readable, size sane;
    with `decode`, each is decoded too, which finds damage behind the header but takes the time of reading them all.
    """
    if not samples:
        raise ByeError(f"{source} has no samples; give a file with at least one")
    if images_root is not None and not os.path.isdir(images_root):
        raise ByeError(f"image folder {images_root} does not exist; check the path")
    problems, text_only, seen, images = [], [], {}, {}
    for number, sample in enumerate(samples, start=1):
        problem = problem_of(sample) or _repeated_id(sample, number, seen)
        if problem is None and images_root is not None:
            image = sample["image"]
            if image not in images:
                images[image] = _image_problem(images_root, image, decode)
            problem = images[image]
        if problem == NO_IMAGE:
            text_only.append(number)
        if problem is not None:
            problems.append(f"{_name(sample, number)}: {problem}")
    if text_only:
        raise ByeError(
            f"{source}: {len(text_only)} of {len(samples)} samples have no image (the first is "
            f"{_name(samples[text_only[0] - 1], text_only[0])}); the detector reads attention to image tokens, "
            "so move samples without an image to a file of their own"
        )
    if len(problems) == 1:
        raise ByeError(f"{source}: {problems[0]}")
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        shown = "\n  ".join(problems[:SHOWN] + more)
        raise ByeError(f"{source}: {len(problems)} of {len(samples)} samples are bad; mend or drop them:\n  {shown}")


NO_IMAGE = "it has no image"


def problem_of(sample):
    """Return what is wrong with one sample, its image file aside, or None."""
    if not isinstance(sample, dict):
        return "a sample must be a JSON object with id, image and conversations"
    if isinstance(sample.get("id"), bool) or not isinstance(sample.get("id"), str | int) or sample["id"] == "":
        return "it has no id; give each sample a string or an integer that no other has"
    if sample.get("image") is None and not sample.get("images"):
        return NO_IMAGE
    if not isinstance(sample.get("image"), str) or not sample["image"]:
        return "`image` must be the path of exactly one image, as a string; give one image a sample"
    if sample["image"].startswith("data:") or BASE64.fullmatch(sample["image"].rstrip("=\n")):
        return (
            f"`image` is an image itself, as base64 text ({len(sample['image'])} characters), and not the path of one; "
            "write it to a file in the image folder and give its path there"
        )
    problem = _conversation_problem(sample.get("conversations"))
    if problem is None and not _encodable(sample):
        problem = "its text has half a surrogate pair (\\ud800 to \\udfff alone), which is no character; mend the text"
    return problem


def _conversation_problem(turns):
    if not isinstance(turns, list) or len(turns) < 2 or len(turns) % 2:
        return "`conversations` must be a list of pairs, a human turn and then a gpt turn"
    for index, turn in enumerate(turns):
        role = ROLES[index % 2]
        if not isinstance(turn, dict) or turn.get("from") != role:
            found = turn.get("from") if isinstance(turn, dict) else turn
            found = cut(repr(found), SHORT)
            return f"turn {index + 1} must be from {role!r}, not {found}; turns go human, gpt, human, gpt"
        if not isinstance(turn.get("value"), str):
            return f"turn {index + 1} has no text; its `value` must be a string"
        text = turn["value"] if index else _without_placeholder(turn["value"])
        if PLACEHOLDER in text:
            count = turn["value"].count(PLACEHOLDER)
            if index == 0 and count > 1:
                return f"its first turn has {count} {PLACEHOLDER} placeholders; one is allowed"
            place = "inside the text of its first turn" if index == 0 else f"in turn {index + 1}"
            return f"{PLACEHOLDER} stands {place}; it may stand once, at the start or the end of the first turn"
        if not text.strip():
            what = "question" if role == "human" else "answer"
            return f"turn {index + 1} is an empty {what}; fill it in or drop the sample"
    return None


def _without_placeholder(value):
    """Return the first human turn without its one image placeholder, if it stands at the start or at the end."""
    text = value.strip()
    if text.startswith(PLACEHOLDER):
        return text.removeprefix(PLACEHOLDER).strip()
    return text.removesuffix(PLACEHOLDER).strip() if text.endswith(PLACEHOLDER) else value


def _repeated_id(sample, number, seen):
    first = seen.setdefault(id_of(sample), number)
    return None if first == number else f"its id is also that of entry {first}; ids must differ, also as strings"


def _image_problem(images_root, image, decode):
    try:
        (load_rgb if decode else check_image)(image_path(images_root, image))
    except ByeError as error:
        return str(error)
    return None


def _encodable(sample):
    try:
        json.dumps(sample, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _name(sample, number):
    known = isinstance(sample, dict) and isinstance(sample.get("id"), str | int)
    return f"sample {cut(repr(str(sample['id'])), SHORT)} (entry {number})" if known else f"entry {number}"


def _parse(path):
    """Return (samples, True if the file is JSON lines)."""
    text = read_text(path)
    start = text.lstrip()[:1]
    if start == "":
        raise ByeError(f"{path} is empty; give a file with at least one sample")
    if start == "[":
        return parse_json(text, path), False
    if start != "{":
        raise ByeError(f"{path} is neither a JSON list of samples nor JSON lines; it must start with [ or {{")
    return _parse_lines(text, path), True


def _parse_lines(text, path):
    # Only \n ends a line: strings may hold the other characters that splitlines() takes for line ends.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    number, first = lines[0]
    if first.rstrip().endswith(("{", "[", ",")):  # no line of JSON lines does, but the first of an indented object
        _refuse_object(parse_json(text, path), path, number)
    samples = [parse_json(line, path, number) for number, line in lines]
    if len(samples) == 1 and _lists_in(samples[0]):
        _refuse_object(samples[0], path, number)
    return samples


def _refuse_object(value, path, number):
    """Raise ByeError for a file that is one JSON object, and so neither a list nor JSON lines."""
    lists = _lists_in(value)
    if not lists:
        raise ByeError(
            f"{path} is not valid JSON at line {number}, column 1, read as JSON lines: it is one JSON object over "
            "several lines; put it into a list, with [ before and ] after it"
        )
    found = " and ".join(f"a list of {size} under the key {cut(repr(key), SHORT)}" for key, size in lists)
    raise ByeError(
        f"{path} is a JSON object around the list of samples: it has {found}; write that list as the file, or each of "
        "its entries on a line of its own (JSON lines)"
    )


def _lists_in(value):
    """Return [(key, length), ...] of the lists that could be samples in an object that is no sample itself.

    Those of an object in it have keys like `data.train`. At most three, the longest first.
    """
    if OF_A_SAMPLE & set(value):
        return []
    inner = {
        f"{key}.{name}": each for key, part in value.items() if isinstance(part, dict) for name, each in part.items()
    }
    lists = {key: each for key, each in {**value, **inner}.items() if isinstance(each, list)}
    lists = {key: len(each) for key, each in lists.items() if all(isinstance(entry, dict) for entry in each)}
    return sorted(lists.items(), key=lambda item: -item[1])[:3]
