"""The forms that samples are written in, and how each becomes a sample of the suite (`bye.data.samples`).

- LLaVA and ShareGPT: `conversations`, a list of {"from", "value"}, and `image` or `images`.
- OpenAI and TRL: `messages`, a list of {"role", "content"}, the content a text or a list of parts, images in the parts
  or beside in `images`.
- ms-swift: `query`, `response`, perhaps `history`, and `images`.

Names of turns and of keys may be mixed. A `system` turn or key comes first. A model's turn before the first question is
left out, as LLaVA's own reader does, and so is a last question without an answer.
"""

import json
from dataclasses import dataclass, field
from difflib import get_close_matches

from bye.data.entries import SHORT
from bye.data.entry_image import BEFORE, image_of
from bye.data.json_text import Broken
from bye.data.samples import PLACEHOLDER, without_placeholder
from bye.errors import SampleError, cut

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "model": "gpt", "system": "system"}
LIST_KEYS = ("conversations", "messages")  # of a list of turns
TEXT_PARTS, IMAGE_PARTS = ("text", "input_text", "output_text"), ("image", "image_url", "input_image")
OTHER_MEDIA = ("video", "videos", "audio", "audios")
FORMS = {
    "conversations": "conversations and image (LLaVA, ShareGPT)",
    "messages": "messages and images (OpenAI, TRL)",
    "query": "query, response and images (ms-swift)",
}
# Keys of forms that are not read, and the read form that is closest.
ALIKE = {
    **dict.fromkeys(("conversation", "dialog", "dialogue", "turns", "text", "texts", "caption"), "conversations"),
    **dict.fromkeys(("chat", "prompt", "completion", "chosen", "rejected"), "messages"),
    **dict.fromkeys(("question", "answer", "instruction", "input", "output", "problem", "solution"), "query"),
}
LEADING = "an answer before the first question was left out"
UNANSWERED = "a last question without an answer was left out"
SYSTEMS = "a system key beside another system turn was left out"


@dataclass
class Turns:
    """What an entry says: [(role, text), ...] with the roles human and gpt, the system's text, the images shown.

    shown: [(turn from 0, "mark" or the path), ...]: an image stands there, by a placeholder or a part of the content.
    """

    said: list = field(default_factory=list)
    system: str | None = None
    shown: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def to_sample(entry):
    """Return (sample, notes) of one entry, in whichever form: its id as it is or None; images are not looked at.

    A sample that this function gave comes back as it is: such samples are written to a file and read again. notes: what
    was left out, in words of LEADING, UNANSWERED and SYSTEMS. Other keys are carried along where JSON can hold their
    values. Raises SampleError.
    """
    if isinstance(entry, Broken):
        raise SampleError("malformed", entry.text)
    if not isinstance(entry, dict):
        raise SampleError("malformed", "a sample must be a JSON object with an image and a conversation")
    for name in OTHER_MEDIA:
        if entry.get(name):
            raise SampleError("video", f"it has {name}")
    key = _form(entry)
    try:
        turns = _from_query(entry) if key == "query" else _from_list(entry[key], key)
    except SampleError as problem:
        if problem.kind == "malformed" and not _may_show_an_image(entry, key):
            raise SampleError("no image", "it has no image") from None  # and so nobody looks at the rest of it
        raise
    image = image_of(entry, turns.shown)
    if entry.get("system"):
        system, _ = _content(entry["system"], "system")
        if turns.system is None:
            turns.system = system
        elif system != turns.system:
            turns.notes.append(SYSTEMS)
    _check_turns(turns)
    sample = _assemble(entry, key, image, turns)
    if not _encodable(sample):
        raise SampleError(
            "malformed",
            "its text has half a surrogate pair (\\ud800 to \\udfff alone), which is no character; mend the text",
        )
    return sample, turns.notes


def problem_of(entry):
    """Return what is wrong with an entry, its image file aside, or None."""
    try:
        to_sample(entry)
    except SampleError as error:
        return str(error)
    return None


def given_id(entry):
    """Return the id that an entry has, as a text, or None."""
    found = entry.get("id") if isinstance(entry, dict) else None
    usable = isinstance(found, str | int | float) and not isinstance(found, bool) and found != ""
    return str(found) if usable and _is_json(found) else None


def _may_show_an_image(entry, key):
    """Whether an entry has a key for images, or a turn whose content has parts."""
    if entry.get("image") or entry.get("images"):
        return True
    turns = entry.get(key)
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and isinstance(_first(turn, "value", "content"), list) for turn in turns
    )


def _first(values, *names):
    """The first of these values that is there and not null, or None."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def _form(entry):
    """The key by which the form of an entry is known."""
    for key in LIST_KEYS:
        if entry.get(key) is not None:
            return key
    if entry.get("query") is not None and entry.get("response") is not None:
        return "query"
    if "query" in entry or "response" in entry:
        missing = "response" if entry.get("response") is None else "query"
        raise SampleError("malformed", f"it has no {missing}")
    if set(LIST_KEYS) & set(entry):
        raise SampleError("malformed", "its conversation is null")
    closest = next((ALIKE[key] for key in entry if key in ALIKE), None)
    if closest is None:
        near = [found for key in entry for found in get_close_matches(str(key), [*FORMS, *ALIKE], 1, 0.75)]
        closest = next((ALIKE.get(key, key) for key in near), None)
    if closest is None and set(entry) <= {"id", "image", "images"}:
        raise SampleError("malformed", "it has no conversation; give it a key `conversations`")
    keys = cut(", ".join(map(str, entry)) or "none", SHORT)
    raise SampleError(
        "unknown form",
        f"its keys are {keys}, a form that is not read; the closest is {FORMS[closest or 'conversations']}",
    )


# ---- turns -----------------------------------------------------------------------------------------------------------


def _from_list(listed, key):
    """The Turns of a list of turns. Raises SampleError for a turn that is none."""
    turns = Turns()
    if not isinstance(listed, list) or not listed:
        raise SampleError("malformed", f"`{key}` must be a list of pairs, a human turn and then a gpt turn")
    for number, turn in enumerate(listed, start=1):
        named = _first(turn, "from", "role") if isinstance(turn, dict) else turn
        role = ROLES.get(named) if isinstance(named, str) else None
        if not isinstance(turn, dict) or role is None:
            shown = cut(repr(named), SHORT)
            raise SampleError("malformed", f"turn {number} must be from {_expected(turns)}, not {shown}; {_ORDER}")
        text, shown = _content(_first(turn, "value", "content"), f"turn {number}")
        if role == "system":
            if turns.said or turns.system is not None:
                raise SampleError("malformed", f"turn {number} is a system turn, which may stand first alone")
            turns.system = text
            turns.shown += [(BEFORE, each) for each in shown]
            continue
        if role == "gpt" and not turns.said and LEADING not in turns.notes:
            turns.notes.append(LEADING)
            turns.shown += [(BEFORE, each) for each in shown]
            continue
        if role != ("gpt" if len(turns.said) % 2 else "human"):
            raise SampleError("malformed", f"turn {number} must be from {_expected(turns)}, not {named!r}; {_ORDER}")
        turns.shown += [(len(turns.said), each) for each in shown]
        turns.said.append((role, text))
    return turns


_ORDER = "turns go human, gpt, human, gpt"


def _expected(turns):
    return repr("gpt" if len(turns.said) % 2 else "human")


def _content(content, where):
    """Return (text, images) of a turn's content: a text with placeholders, or a list of parts. where: for errors."""
    if isinstance(content, str):
        return content, ["mark"] * content.count(PLACEHOLDER)
    if not isinstance(content, list):
        raise SampleError("malformed", f"{where} has no text; it must be a string, or a list of parts")
    texts, shown = [], []
    for part in content:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        given = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
        kind = given.get("type")
        if kind in TEXT_PARTS and isinstance(given.get("text"), str):
            texts.append(given["text"])
        elif kind in IMAGE_PARTS:
            shown.append(_first(given, "image", "image_url", "path", "url") or "mark")
        elif isinstance(kind, str) and kind.split("_")[0] in OTHER_MEDIA:
            raise SampleError("video", f"{where} shows a {kind}")
        else:
            raise SampleError("malformed", f"{where} has a part {cut(repr(part), SHORT)}; give texts or images")
    text = "".join(texts)
    return text, shown + ["mark"] * text.count(PLACEHOLDER)


def _from_query(entry):
    """The Turns of an entry with query, response and perhaps history."""
    history = entry.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise SampleError("malformed", "`history` must be a list of pairs, a query and its response")
    turns = Turns()
    for text in [*(text for pair in history for text in pair), entry["query"], entry["response"]]:
        if not isinstance(text, str):
            raise SampleError("malformed", "`query`, `response` and the pairs of `history` must be texts")
        turns.shown += [(len(turns.said), "mark")] * text.count(PLACEHOLDER)
        turns.said.append(("gpt" if len(turns.said) % 2 else "human", text))
    return turns


def _check_turns(turns):
    """Raise SampleError unless questions and answers go in pairs, none empty but a first question on the image."""
    if turns.said and turns.said[-1][0] == "human" and len(turns.said) > 1:
        turns.said.pop()
        turns.notes.append(UNANSWERED)
    if len(turns.said) < 2:
        raise SampleError("malformed", "its conversation must be a list of pairs, a human turn and then a gpt turn")
    for place, (role, text) in enumerate(turns.said):
        if place and not text.strip():
            what = "question" if role == "human" else "answer"
            raise SampleError("malformed", f"turn {place + 1} is an empty {what}; fill it in or drop the sample")


# ---- the sample ------------------------------------------------------------------------------------------------------


def _assemble(entry, key, image, turns):
    """A sample with the keys of the entry, in their order, its turns and its image as the suite has them."""
    (role, first), *rest = turns.said
    if PLACEHOLDER in without_placeholder(first):  # LLaVA's own reader moves it to the front
        rest_of_it = first.replace(PLACEHOLDER, "").strip()
        if PLACEHOLDER in rest_of_it:  # it was spelled around another one
            raise SampleError("malformed", f"{PLACEHOLDER} stands inside of another one in its first question")
        first = f"{PLACEHOLDER}\n{rest_of_it}"
    said = [(role, first), *rest]
    listed = entry[key]
    if key != "conversations" or [(turn.get("from"), turn.get("value")) for turn in listed] != said:
        listed = [{"from": role, "value": text} for role, text in said]
    own = {"conversations": listed, "image": image}
    if turns.system and turns.system.strip():
        own["system"] = turns.system
    names = {"messages": "conversations", "query": "conversations", "images": "image"}
    left_out = {"system", *(["response", "history"] if key == "query" else [])}
    sample = {} if "id" in entry else {"id": None}
    for name, value in entry.items():
        name = names.get(name, name)
        if name in own:
            sample[name] = own[name]
        elif name == "id":
            sample[name] = None if given_id(entry) is None else value
        elif name not in left_out and _is_json(value):
            sample[name] = value
    return sample | own


def _is_json(value):
    """Whether JSON can hold a value: no NaN, no time, nothing nested too deeply."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _encodable(sample):
    try:
        json.dumps(sample, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
