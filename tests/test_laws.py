"""The laws of the house: which room may know which, and what must not be loaded with what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from small_workflow import ROOT

# From the ground up: a room knows rooms before it, and none after it.
ORDER = [
    *("errors", "formats", "files", "registry", "machine", "flags", "features"),
    *("data", "metrics", "detect", "models", "attacks", "workload"),
    *("plan", "config", "workflow"),
    *("extraction", "training", "cleaning", "answers", "methods", "report", "mini", "scout", "tools"),
    *("stages", "cli", "server", "__main__"),
]
STRANGERS = {"data", "metrics", "detect", "models", "attacks"}  # they know each other through plain data only ...
KNOWN_TO_STRANGERS = {("attacks", "data")}  # ... but that a poisoned set is made of samples and images


def room_of(module):
    return module.split(".")[1] if "." in module else "bye"


def modules():
    """{module: path} of the package."""
    found = {}
    for path in sorted((ROOT / "bye").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(module):
    """The modules of the package that a module imports, inside its functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bye":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("bye.")}
    return found


def test_every_room_has_its_place():
    assert {room_of(module) for module in MODULES} - {"bye"} == set(ORDER)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_no_room_knows_one_above_it(module):
    here = room_of(module)
    for other in imports_of(module):
        there = room_of(other)
        if there not in ("bye", here):
            assert ORDER.index(there) < ORDER.index(here), f"{module} imports {other}"
            strange = {here, there} <= STRANGERS and (here, there) not in KNOWN_TO_STRANGERS
            assert not strange, f"{module} imports {other}"


def test_modules_import_in_no_circle():
    left = {module: imports_of(module) - {module} for module in MODULES}
    while left:
        free = [module for module, others in left.items() if not others & set(left)]
        assert free, f"a circle among {sorted(left)}"
        for module in free:
            del left[module]


def test_methods_are_known_to_the_registry_alone():
    """No module names a method's file; but the methods of one sort may build on each other."""
    for module in MODULES:
        if room_of(module) not in ("methods", "bye"):
            assert not [other for other in imports_of(module) if room_of(other) == "methods"], module


@pytest.mark.parametrize(
    ("loaded", "heavy"),
    [
        ("bye.config, bye.workflow, bye.registry, bye.plan.problems", "torch transformers sklearn pandas matplotlib"),
        ("bye.cli, bye.stages", "torch transformers sklearn pandas matplotlib pyarrow"),
        ("bye.detect.bye, bye.cleaning.run, bye.metrics.detection", "torch transformers"),
        ("bye.report.tables, bye.report.page", "torch transformers sklearn pandas matplotlib"),
    ],
)
def test_light_rooms_load_nothing_heavy(loaded, heavy):
    code = f"import sys, {loaded}; print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


def test_the_configuration_is_checked_without_what_methods_need(tmp_path):
    """Also with a method of the user's own that imports torch: its file is read, not run."""
    own = [
        "import torch",
        "ACTS_ON = 'training set'",
        "READS = ('entropy',)",
        "def detect(features, *, cut: float = 2.0): ...",
    ]
    (tmp_path / "mine.py").write_text("\n".join(own))
    code = (
        "import sys, yaml; from bye import config; from bye.workflow import Files\n"
        f"content = yaml.safe_load(open({str(ROOT / 'config.yaml')!r}))\n"
        "content['defences']['mine'] = {'kind': 'mine.py'}\n"
        "content['tables']['table1']['defences'].append('mine')\n"
        f"config.check(content, {str(ROOT)!r}); plan = Files(content)\n"
        "assert content['defences']['mine'] == {'kind': 'mine.py', 'cut': 2.0} and plan.targets()\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'peft'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_the_house_is_small():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    assert len((ROOT / "rules" / "common.smk").read_text(encoding="utf-8").splitlines()) <= 100
    at_the_root = [path for path in lines if path.parent == Path(ROOT / "bye")]
    assert len(at_the_root) <= 12
