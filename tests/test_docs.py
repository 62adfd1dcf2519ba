"""The documentation: its links lead somewhere, and what it names exists."""

import importlib
import re

import pytest
from small_workflow import ROOT

from bye.data.findings import KINDS
from bye.registry import kinds
from bye.stages import STAGES

# The parts in docs/notes are pasted into pages of docs/, where their links are looked at.
PAGES = [ROOT / "README.md", *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "notes" not in page.parts)]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
LINK = re.compile(r"\]\(([^()\s]+)\)")
BAD_INPUT = ROOT / "docs" / "bad-input.md"


def prose_of(page):
    """The lines of a page outside of its code: no indented line, no `span`."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("    ")]
    return re.sub(r"(`+).+?\1", "", "\n".join(lines))


def anchors_of(page):
    """The anchors of a page's headings, as GitHub makes them; of equal ones all but the first have a number."""
    found = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"#{1,6} (.+)", line):
            text = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            found.append(f"{text}-{found.count(text)}" if text in found else text)
    return found


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page}: no file {path}"
        if anchor:
            assert anchor in anchors_of(target), f"{page}: no heading {link}"


@pytest.mark.parametrize("folder", [ROOT / "docs", ROOT / "docs" / "lab"], ids=lambda folder: folder.name)
def test_the_index_names_every_page_once(folder):
    index = folder / "README.md"
    linked = [link for link in LINK.findall(prose_of(index)) if "/" not in link]
    assert sorted(linked) == sorted(page.name for page in folder.glob("*.md") if page != index)


def resolve(name):
    """Import what a dotted name says: a module, or something in one. Raises ImportError or AttributeError."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


@EVERY_PAGE
def test_files_of_the_code_that_are_named_exist(page):
    pattern = r"`((?:bye|config|profiles|rules|tests)/[\w/.-]+\.(?:py|smk|yaml))`"
    named = re.findall(pattern, page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).is_file()] == []


@EVERY_PAGE
def test_modules_that_are_named_can_be_imported(page):
    text = page.read_text(encoding="utf-8")
    for module, names in re.findall(r"from (bye[\w.]*) import ([\w, ]+)", text):
        for name in names.split(", "):
            resolve(f"{module}.{name.split()[0]}")
    for modules in re.findall(r"^ +import (bye.+)$", text, re.MULTILINE):
        for module in modules.split(", "):
            resolve(module.split()[0])
    for name in re.findall(r"`(bye\.[a-z_]+\.\w[\w.]*\w)[`(]", text):
        resolve(name)


@EVERY_PAGE
def test_stages_in_commands_exist(page):
    commands = re.findall(r"^    (?:time )?(?:python -m )?bye ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(commands) <= set(STAGES)


def test_bad_input_lists_every_kind_of_finding_and_what_becomes_of_it():
    rows = re.findall(r"^\| ([a-z ]+) \| .* \| (kept|stops) \|$", BAD_INPUT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(kind, {"keep": "kept", "stop": "stops"}[about.default]) for kind, about in KINDS.items()]


def test_the_map_names_every_tuning_method_and_nothing_that_is_not_there():
    text = (ROOT / "docs" / "landscape.md").read_text(encoding="utf-8")
    attacks, defences, ways = re.split(r"^## ", text, flags=re.MULTILINE)[1:4]
    named = set(re.findall(r"\| `(\w+)` \|$", ways, re.MULTILINE))
    assert named == set(kinds("tuning method"))
    triggers = set(re.findall(r"`trigger: (\w+)`", attacks))
    detectors = set(re.findall(r"`kind: (\w+)`", defences))
    assert triggers and triggers <= set(kinds("trigger")) and detectors and detectors <= set(kinds("defence"))
