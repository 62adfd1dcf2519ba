"""The page of a cleaned file: what stands on it, with nothing found and parts missing, and what strangers write."""

import re
from html.parser import HTMLParser

import pytest

from bye.report.file_page import file_page
from bye.report.html import page, sentence

PIXEL = "data:image/png;base64,iVBORw0KGgo="
EVIL = "<script>alert('x')</script>\"'&"
HISTOGRAM = {"what": "score", "names": ["kept", "dropped"], "counts": [[0, 9], [2, 0]], "first": -3.5, "last": 2.0}
LINES = [("bad", "Dropped: 2."), ("", "Suspicious: nothing."), ("good", "All were looked at.")]


def sample(**changes):
    told = {"question": "Is it red?", "answer": "Boo!", "turn": 0, "score": -3.0, "reason": "why", "nats": 0.5}
    return told | {"thumbnail": PIXEL, "attention": PIXEL, "poisoned": None, **changes}


def evidence_of(samples=None, groups=(), **changes):
    samples = samples if samples is not None else {"a": sample(), "b": sample(answer="no", score=1.0)}
    told = {"n_samples": 11, "n_dropped": 2, "layer": 3, "histogram": HISTOGRAM | {"cut": None}, "verdicts": {}}
    told |= {"groups": list(groups), "dropped": ["a"], "kept": ["b"], "by_score": True, "samples": samples}
    return told | changes


def group_of(**changes):
    row = {"group": "0", "answer": "Boo!", "shares": "answer", "samples": "1118", "verdict": "proven", "dropped": "118"}
    row |= {"question": "29 of 30", "question_controls": "0 of 27", "patch": "0 of 6", "patch_controls": ""}
    trial = {"proof": "question", "sample": "a", "host": "b", "before": "no", "said": "Boo!", "hit": "true"}
    return row | {"example": "a", "trials": [trial], "controls": [{**trial, "hit": "", "own": "yes"}], **changes}


class Reader(HTMLParser):
    """Elements of a page, those that are still open, and its texts."""

    def __init__(self, html):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(html):
    reader = Reader(html)
    assert reader.open == []
    return reader, " ".join(" ".join(reader.texts).split())


def shown(evidence, name="train.json", lines=LINES, made_by="bye clean --data x"):
    return read(file_page(name, lines, evidence, made_by, [("bye", evidence["histogram"])]))


def test_a_page_of_what_was_proven():
    large = {"picture": PIXEL, "patch": PIXEL, "pasted": True}
    reader, told = shown(evidence_of({"a": sample(**large), "b": sample()}, [group_of()]))
    order = [
        *("What is in train.json", "Dropped: 2.", "Suspicious: nothing.", "All were looked at.", "bye clean --data x"),
        *(
            "Proven: Boo!",
            "1,118 of 11 samples answer 'Boo!'. Their images, shown with other questions, make the model",
        ),
        *("in 97 % of 30 trials (controls: 0 % of 27). 118 dropped.", "The patch that is pasted on others", "(1 of 1)"),
        *("Some of the controls", "Scores of all samples", "Dropped (1 of 2)", "Kept, those with the lowest scores"),
    ]
    places = [told.index(part) for part in order]
    assert places == sorted(places)
    assert sum(tag == "rect" for tag, _ in reader.found) == 2


def test_a_page_where_nothing_was_found():
    _, told = shown(evidence_of({}, dropped=[], kept=[], n_dropped=0, histogram=None, by_score=False))
    assert "Dropped None." in told and "Kept None." in told and "It gives no scores." in told and "Proven" not in told


def test_parts_that_are_missing_are_left_out():
    _, told = shown(evidence_of(groups=[group_of(example=None, trials=[], controls=[], verdict="suspicious")]))
    assert "Suspicious: Boo!" in told and "proves nothing: they are kept" in told
    assert "The patch that is pasted on others" not in told and "Trials" not in told
    samples = {"a": sample(score=None, turn=2, poisoned=True), "b": sample(poisoned=False)}
    _, told = shown(evidence_of(samples, by_score=False))
    assert "of answer 3; attention before the first" in told and "poisoned" in told and "clean" in told
    none = group_of(question="0 of 0", question_controls="0 of 0", shares="phrase", answer="of a cat")
    told = sentence(none, 11)
    assert "11 samples have in their answers 'of a cat'." in told and "(no controls)" in told


def test_what_strangers_write_is_shown_as_text_and_never_run():
    evil = dict.fromkeys(("question", "answer", "reason"), EVIL)
    trials = [{"proof": "patch", **dict.fromkeys(("sample", "host", "before", "said", "own"), EVIL), "hit": "true"}]
    group = group_of(answer=EVIL, example=EVIL, trials=trials, controls=trials)
    found = evidence_of(
        {EVIL: sample(**evil, picture=PIXEL, patch=PIXEL, pasted=True)}, [group], dropped=[EVIL], kept=[EVIL]
    )
    found["histogram"]["what"] = EVIL
    html = file_page(EVIL, [("bad", EVIL)], found, f"bye clean --data {EVIL}", [(EVIL, found["histogram"])])
    reader, told = read(html)
    assert sum(tag == "script" for tag, _ in reader.found) == 1 and html.count("<script") == 1
    assert told.count("<script>alert('x')</script>\"'&") > 15
    known = {"class", "id", "for", "type", "checked", "title", "alt", "src", "open", "role", "aria-label", "viewbox"}
    known |= {"lang", "charset", "http-equiv", "content", "name", "x", "y", "x1", "x2", "y1", "y2", "width", "height"}
    known |= {"text-anchor"}
    assert {name for _, attributes in reader.found for name in attributes} <= known


def test_a_picture_is_a_data_uri_of_our_own():
    for evil in ("https://elsewhere/a.png", 'data:text/html,"><script>'):
        with pytest.raises(ValueError, match="data URI"):
            shown(evidence_of({"a": sample(thumbnail=evil), "b": sample()}))
    uri = f'{PIXEL}"><script>'
    reader, _ = shown(evidence_of({"a": sample(thumbnail=uri), "b": sample()}))
    assert uri in [attributes.get("src") for _, attributes in reader.found]


def test_a_page_loads_nothing_and_allows_its_own_script_alone():
    html = page("A page", "<p>Text</p>")
    assert not re.search(r"(src|href|url|import)\s*[=(:]\s*[\"']?(https?:)?//", html)
    assert "default-src 'none'; img-src data:" in html and "script-src 'sha256-" in html
