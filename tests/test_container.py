"""The container recipes: pinned, complete, without root, and alike."""

import re
import shlex
import tomllib

import pytest
from small_workflow import ROOT

DOCKERFILE = (ROOT / "envs/Dockerfile").read_text()
DEFINITION = (ROOT / "envs/bye.def").read_text()


def instructions():
    """Return [(instruction, words)] of the Dockerfile, continued lines joined."""
    text = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    lines = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, shlex.split(rest)) for name, rest in lines]


def sections():
    """Return {section: its lines} of the apptainer definition; the header's is ""."""
    parts = re.split(r"^%(\w+)$", DEFINITION, flags=re.MULTILINE)
    texts = {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
    return {name: [line.strip() for line in text.splitlines() if line.strip()] for name, text in texts.items()}


def test_both_start_from_the_same_pinned_python():
    [(_, (image,))] = [each for each in instructions() if each[0] == "FROM"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image)
    assert sections()[""][:2] == ["Bootstrap: docker", f"From: {image}"]


def test_both_install_from_the_lock_and_then_nothing_more():
    runs = [words for name, words in instructions() if name == "RUN"]
    posts = [shlex.split(line) for line in sections()["post"]]
    for commands in (runs, posts):
        installs = [words for words in commands if "install" in words and "pip" in words]
        assert [("--requirement" in words, "requirements.lock" in words) for words in installs] == [
            (True,) * 2,
            (False,) * 2,
        ]
        assert "--no-deps" in installs[1] and "--editable" in installs[1]
    names = [name for name, words in instructions() if name in ("COPY", "RUN")]
    assert instructions()[[name for name, _ in instructions()].index("COPY")][1][0] == "requirements.lock"
    assert names[:2] == ["COPY", "RUN"]  # the packages are a layer of their own


def test_both_hold_the_same_files_and_all_that_the_workflow_reads():
    copied = [source for name, words in instructions() if name == "COPY" for source in words[:-1]]
    held = dict(line.split() for line in sections()["files"])
    assert sorted(copied) == sorted(held) and all(target == f"/opt/bye/{name}" for name, target in held.items())
    assert [name for name in copied if not (ROOT / name).exists()] == []
    read = {
        "Snakefile",
        "rules",
        "bye",
        "config.yaml",
        "config.schema.yaml",
        "config",
        "profiles",
        "report",
        "base_models",
        "envs",
    }
    assert read <= set(copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "setup.py", project["readme"], "LICENSE"} <= set(copied)  # what pip installs it by


def test_the_last_user_is_not_root():
    users = [words for name, words in instructions() if name == "USER"]
    assert users and users[-1] not in (["root"], ["0"])


@pytest.mark.parametrize("text", [DOCKERFILE, DEFINITION])
def test_no_host_of_packages_is_named(text):
    assert not re.search(r"https?://|--index-url|--extra-index-url|--find-links|--trusted-host", text)
