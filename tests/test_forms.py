"""Forms of samples other than LLaVA's: each becomes the same sample; what is left out is said."""

import json

import pytest

from bye.data.findings import KINDS
from bye.data.forms import LEADING, SYSTEMS, UNANSWERED, to_sample
from bye.data.samples import system_of, turns_of
from bye.errors import SampleError

TURNS = [("What is it?", "A cat."), ("And now?", "Still.")]


def said(first_role="human", second_role="gpt", role="from", text="value", mark="<image>\n"):
    texts = [mark + TURNS[0][0], TURNS[0][1], *TURNS[1]]
    names = [first_role, second_role] * 2
    return [{role: name, text: value} for name, value in zip(names, texts, strict=True)]


def parts(*texts, image=None):
    return [*([image] if image else []), *({"type": "text", "text": text} for text in texts)]


def spoken(content):
    """A conversation in the form of messages, whose first content is this."""
    return [{"role": "user", "content": content}, *said("user", "assistant", "role", "content")[1:]]


SAME = {
    "LLaVA": {"image": "x.png", "conversations": said()},
    "a list of one": {"image": ["x.png"], "conversations": said()},
    "images of one": {"images": ["x.png"], "conversations": said()},
    "images as one text": {"images": "x.png", "conversations": said()},
    "both keys": {"image": "x.png", "images": ["x.png"], "conversations": said()},
    "other roles": {"image": "x.png", "conversations": said("user", "assistant")},
    "role and content": {"image": "x.png", "conversations": said("user", "assistant", "role", "content")},
    "messages": {"images": ["x.png"], "messages": said("user", "assistant", "role", "content")},
    "messages of from and value": {"images": ["x.png"], "messages": said()},
    "no placeholder": {"images": ["x.png"], "messages": said("user", "assistant", "role", "content", mark="")},
    "parts, image beside": {
        "images": ["x.png"],
        "messages": spoken(parts("What is it?", image={"type": "image"})),
    },
    "parts, image inside": {"messages": spoken(parts("What is it?", image={"type": "image", "image": "x.png"}))},
    "parts with empty fields, as Parquet has them": {
        "messages": spoken(
            [
                {"type": "image", "text": None, "image": "x.png"},
                {"type": "text", "text": "What is it?", "image": None},
            ]
        )
    },
    "an address of a file": {
        "messages": spoken(parts("What is it?", image={"type": "image_url", "image_url": {"url": "file://x.png"}}))
    },
    "an image as an object": {
        "images": [{"path": "x.png", "bytes": None}],
        "messages": said("user", "assistant", "role", "content"),
    },
    "query and response": {
        "query": "And now?",
        "response": "Still.",
        "history": [["<image>What is it?", "A cat."]],
        "images": ["x.png"],
    },
}


@pytest.mark.parametrize("form", SAME)
def test_every_form_becomes_the_same_sample(form):
    sample, notes = to_sample({"id": 7, **SAME[form], "weight": 0.5})
    assert turns_of(sample) == TURNS and sample["image"] == "x.png" and notes == [] and system_of(sample) is None
    assert sample["id"] == 7 and sample["weight"] == 0.5
    assert set(sample) == {"id", "image", "conversations", "weight"}
    again, notes = to_sample(sample)
    assert again == sample and notes == []  # the suite's own form stays as it is


def test_a_sample_of_the_suite_stays_as_it_is_with_the_order_of_its_keys():
    sample = {"source": [1], "conversations": [{**turn, "loss": True} for turn in said()], "image": "x.png", "id": 7}
    read, _ = to_sample(sample)
    assert read == sample and list(read) == list(sample)


@pytest.mark.parametrize(
    "entry",
    [
        {"image": "x.png", "conversations": [{"from": "system", "value": "Be brief."}, *said()]},
        {"image": "x.png", "conversations": said(), "system": "Be brief."},
        {"images": ["x.png"], "messages": [{"role": "system", "content": parts("Be brief.")}, *said()]},
        {"images": ["x.png"], "query": "What is it?", "response": "A cat.", "system": "Be brief."},
    ],
)
def test_a_system_turn_or_key(entry):
    sample, notes = to_sample({"id": 7, **entry})
    assert system_of(sample) == "Be brief." and turns_of(sample)[0] == TURNS[0] and notes == []
    assert to_sample(sample)[0] == sample


def test_what_is_left_out_is_noted():
    answered = {"image": "x.png", "conversations": [{"from": "gpt", "value": "Hello!"}, *said()]}
    sample, notes = to_sample({"id": 7, **answered})
    assert turns_of(sample) == TURNS and notes == [LEADING]
    sample, notes = to_sample({"id": 7, "image": "x.png", "conversations": said()[:3]})
    assert turns_of(sample) == TURNS[:1] and notes == [UNANSWERED]


@pytest.mark.parametrize(
    ("entry", "kind", "told"),
    [
        ({"messages": said()}, "no image", "although its text shows one"),
        ({"conversations": said(mark="")}, "no image", "it has no image"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}, *said(mark="")], "image": None}, "no image", "no image"),
        ({"conversations": [{"from": "tool", "value": "{}"}]}, "no image", "no image"),  # nobody looks at it
        ({"images": ["x.png", "y.png"], "messages": said()}, "several images", "it has 2 images"),
        ({"images": ["x.png"], "videos": ["x.mp4"], "messages": said()}, "video", "it has videos"),
        ({"messages": spoken([{"type": "video", "video": "x.mp4"}])}, "video", "turn 1 shows a video"),
        (
            {"messages": said(mark="") + [{"role": "user", "content": parts("And?", image={"type": "image"})}] * 1
             + [{"role": "assistant", "content": "Yes."}], "images": ["x.png"]},
            "image in a later turn",
            "its image stands in question 3",
        ),
        (
            {"images": [{"bytes": b"12345", "path": None}], "messages": said()},
            "no file",
            r"its image is in the file itself \(5 bytes\)",
        ),
        ({"images": ["http://x.org/a.png"], "messages": said()}, "no file", "its image is at http://x.org/a.png"),
        ({"images": ["x.png"], "query": "a", "response": 5}, "malformed", "must be texts"),
        ({"images": ["x.png"], "query": "a", "response": "b", "history": ["c"]}, "malformed", "`history` must be"),
        ({"images": ["x.png"], "messages": spoken([{"type": "table"}])}, "malformed", "turn 1 has a part "),
        ({"images": [["x.png"]], "messages": said()}, "malformed", r"must be the path of an image, .* not \['x.png'\]"),
        ({"img": "x.png", "questions": ["a"], "answers": ["b"]}, "unknown form", "the closest is query, response and"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_told_by_kind(entry, kind, told):
    assert kind in KINDS
    with pytest.raises(SampleError, match=told) as caught:
        to_sample({"id": 7, **entry})
    assert caught.value.kind == kind


def messages(*contents):
    names = ("user", "assistant") * len(contents)
    return [{"role": name, "content": content} for name, content in zip(names, contents, strict=False)]


IMAGE = {"type": "image", "image": "x.png"}
BOTH = {"from": None, "role": "user", "value": None, "content": "q"}  # as a Parquet column of both namings has it


@pytest.mark.parametrize(
    "entry",
    [
        {
            "messages": messages(
                [IMAGE, {"type": "text", "text": "q"}], "a", [{"type": "text", "text": "<image>?"}], "x"
            )
        },
        {"messages": messages([IMAGE, {"type": "text", "text": "q"}], [{"type": "text", "text": "an <image>"}])},
        {"image": "x.png", "conversations": [{"from": "human", "value": "x <ima<image>ge> y"}, *said()[1:]]},
        {"image": "file://file://a.png", "conversations": said()},
        {"image": "file://http://a.png", "conversations": said()},
        {"image": "x.png", "conversations": said(), "id": float("nan"), "score": float("inf"), "at": object()},
        {"image": "x.png", "conversations": said(), "deep": [[[[]]]]},
        {"messages": messages([IMAGE, {"type": "input_text", "text": "q"}], [{"type": "output_text", "text": "a"}])},
        {"images": ["x.png"], "messages": messages([IMAGE, "q"], "a")},
        {"image": None, "images": [{"bytes": None, "path": None}, "x.png"], "messages": messages("q", "a")},
        {
            "image": "x.png",
            "conversations": [{"from": None, "role": "user", "value": None, "content": "q"}, *said()[1:]],
        },
        {"image": "file:///a%20b.png", "conversations": said()},
        {"image": "d/" * 140 + "img", "conversations": said()},
    ],
)
def test_what_becomes_a_sample_stays_it(entry):
    """Samples are written to a file and read again: there they are the same, or were refused at once."""
    try:
        sample, _ = to_sample({"id": 7, **entry})
    except SampleError as error:
        assert error.kind in KINDS
        return
    again, notes = to_sample(json.loads(json.dumps(sample, allow_nan=False)))
    assert again == sample and notes == []


@pytest.mark.parametrize(
    ("entry", "kind", "told"),
    [
        ({"image": {"bytes": 5}, "conversations": said()}, "no file", "its image is in the file itself$"),
        ({"images": [None, ""], "messages": messages("q", "a")}, "no image", "it has no image$"),
        ({"images": ["x.png"], "messages": messages(None, "a")}, "malformed", "turn 1 has no text"),
        ({"images": ["x.png"], "query": "q"}, "malformed", "it has no response"),
        ({"image": "x.png", "conversations": None}, "malformed", "its conversation is null"),
        ({"video": "v.mp4", "conversations": [1, 2]}, "video", "it has video"),
        (
            {"messages": [{"role": "system", "content": [IMAGE]}, *messages("q", "a")]},
            "malformed",
            "its image stands before the first question",
        ),
        ({"conversations": [{"from": "gpt", "value": "an image"}]}, "no image", "it has no image"),
    ],
)
def test_odd_entries_are_told_for_what_they_are(entry, kind, told):
    with pytest.raises(SampleError, match=told) as caught:
        to_sample({"id": 7, **entry})
    assert caught.value.kind == kind


def test_a_system_prompt_in_parts_and_one_beside_another():
    parted = [{"type": "text", "text": "Be brief."}]
    sample, notes = to_sample({"id": 7, "image": "x.png", "conversations": said(), "system": parted})
    assert system_of(sample) == "Be brief." and notes == []
    turns = [{"from": "system", "value": "Be kind."}, *said()]
    sample, notes = to_sample({"id": 7, "image": "x.png", "conversations": turns, "system": parted})
    assert system_of(sample) == "Be kind." and notes == [SYSTEMS]
