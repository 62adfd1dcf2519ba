"""The lock: whole and of one piece on every machine that it is for, not on this one alone."""

import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from small_workflow import ROOT

LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split("\n") if line[:1].strip("#"))
PINNED = {canonicalize_name(name): version for name, version in LOCK.items()}
MACHINES = [("Linux", "linux", "x86_64"), ("Linux", "linux", "aarch64"), ("Darwin", "darwin", "arm64")]
PYTHONS = ["3.11", "3.12", "3.13"]


def needed(package, extra, environment):
    """Return the Requirements of an installed package (with one of its extras, or "") in an environment."""
    found = map(Requirement, metadata.requires(package) or [])
    return [each for each in found if each.marker is None or each.marker.evaluate({**environment, "extra": extra})]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine[0]} {machine[2]}")
@pytest.mark.parametrize("python", PYTHONS)
def test_what_a_package_needs_is_in_the_lock(machine, python):
    """At a version that it accepts; but for what a package itself pins, as torch does its builds of CUDA."""
    environment = {"python_version": python, "python_full_version": f"{python}.1", "os_name": "posix"}
    environment |= {"platform_python_implementation": "CPython", "implementation_name": "cpython"}
    environment |= dict(zip(("platform_system", "sys_platform", "platform_machine"), machine, strict=True))
    left, seen = [(package, "") for package in PINNED], set()
    while left:
        package, extra = left.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        for each in needed(package, extra, environment):
            name = canonicalize_name(each.name)
            if name in PINNED:
                assert each.specifier.contains(PINNED[name], prereleases=True), f"{package} needs {each}"
                left += [(name, more) for more in each.extras]
            else:
                assert str(each.specifier).startswith("=="), f"{package} needs {each}, which the lock has not"


@pytest.mark.parametrize("extra", ["", "dev", "scout"])
def test_the_lock_holds_what_the_project_asks_for(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for each in map(Requirement, project["optional-dependencies"][extra] if extra else project["dependencies"]):
        assert each.specifier.contains(PINNED[canonicalize_name(each.name)], prereleases=True), each
