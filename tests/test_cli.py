"""The command line: every stage is there, asks for what its function takes, and says what is wrong in one sentence."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_workflow import ROOT

import bye.answers.ask
import bye.answers.evaluate
import bye.cli
import bye.extraction.attention
import bye.tools.bench_guard
import bye.training.finetune
from bye.errors import ByeError
from bye.registry import RESERVED
from bye.stages import STAGES, Stage, options

# What a stage with **options calls; of several functions, the first is always called.
FUNCTIONS = {
    "finetune": (bye.training.finetune.finetune, bye.training.finetune.finetune_kept),
    "attention": (bye.extraction.attention.extract,),
    "evaluate": (bye.answers.evaluate.evaluate,),
    "answer": (bye.answers.ask.ask,),
    "bench-guard": (bye.tools.bench_guard.bench_guard,),
}


# options that the stage makes an argument of
APART = dict.fromkeys(("evaluate", "answer", "bench-guard"), {"reference", "reference_images"})


def option_names(stage):
    return {flags[0].removeprefix("--").replace("-", "_") for flags, _ in stage.options}


@pytest.mark.parametrize("name", STAGES)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        bye.cli.main([name, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert " ".join(STAGES[name].summary.split()) in " ".join(told.split())
    assert "None" not in told


@pytest.mark.parametrize("name", STAGES)
def test_options_are_what_the_function_takes(name):
    parameters = inspect.signature(STAGES[name].run).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        assert option_names(STAGES[name]) == set(parameters)
    elif name in FUNCTIONS:
        wanted = [inspect.signature(function).parameters for function in FUNCTIONS[name]]
        assert option_names(STAGES[name]) - {"processes"} <= set().union(*wanted, APART.get(name, ()))
        needed = {key for key, each in wanted[0].items() if each.default is each.empty and key != "settings"}
        assert needed <= option_names(STAGES[name])


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (
            ByeError("data.json does not exist; check the path"),
            2,
            "bye: error: data.json does not exist; check the path\n",
        ),
        (ByeError("2 are bad:\n  one\ntwo"), 2, "bye: error: 2 are bad:\n  one\n  two\n"),
        (MemoryError(), 2, "bye: error: out of memory; run fewer jobs at once or make the batch smaller\n"),
        (KeyboardInterrupt(), 130, "bye: interrupted\n"),
    ],
)
def test_a_problem_is_one_sentence_and_an_exit_status(monkeypatch, capsys, raised, status, told):
    def stage():
        raise raised

    monkeypatch.setitem(STAGES, "fails", Stage(stage, "It fails.", ()))
    with pytest.raises(SystemExit) as ended:
        bye.cli.main(["fails"])
    assert ended.value.code == status
    assert capsys.readouterr().err == told


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(STAGES, "fails", Stage(lambda: 1 / 0, "It fails.", ()))
    with pytest.raises(ZeroDivisionError):
        bye.cli.main(["fails"])


def test_unknown_stage_and_missing_option(capsys):
    for arguments, told in (
        (["cook"], "invalid choice: 'cook'"),
        (["keep", "--samples", "a"], "--flags, --kept, --dropped"),
    ):
        with pytest.raises(SystemExit) as ended:
            bye.cli.main(arguments)
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


def test_module_and_missing_file(tmp_path):
    command = [
        sys.executable,
        "-m",
        "bye",
        "keep",
        "--samples",
        "no such.json",
        "--flags",
        "flags",
        "--kept",
        "k",
        "--dropped",
        "d",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == "bye: error: no such.json does not exist; check the path\n"
    assert list(tmp_path.iterdir()) == []


# ---- methods that bring their settings -------------------------------------------------------------------------------

OWN_TRIGGER = '''
from typing import Annotated, Literal

def apply(
    pixels,
    *,
    seed,
    side: Annotated[int, {"minimum": 1}],
    share: Annotated[float, {"maximum": 1}] = 0.5,
    corner: Literal["left", "right"] = "left",
    stage: int | None = None,
    size: int | str = 3,
    colours: list[Literal["red", "blue"]] | None = None,
    numbers: list[float] = (1, 2.5),
    solid: bool = True,
):
    """Paint. side: edge of it, pixels; share: of 100 % of them; solid: without holes."""
'''


@pytest.fixture
def painted(monkeypatch, tmp_path):
    """A stage that runs a trigger, and the calls of it."""
    calls = []

    def paint(**options):
        calls.append(options)

    own = (options.need("--trigger", "which"), options.may("--text", "none", "any"), options.SEED)
    monkeypatch.setitem(STAGES, "paint", Stage(paint, "It paints.", own, (("trigger", "trigger"),)))
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN_TRIGGER)
    return calls


def refused(capsys, *arguments):
    """What the command line says to arguments that it refuses."""
    with pytest.raises(SystemExit) as ended:
        bye.cli.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_method_brings_its_settings_as_options(painted):
    bye.cli.main(["paint", "--side", "7", "--trigger", "own.py", "--text", "paint"])
    defaults = {"share": 0.5, "corner": "left", "stage": None, "size": 3, "colours": None, "numbers": [1, 2.5]}
    assert painted.pop() == {"trigger": "own.py", "text": "paint", "seed": 0, "side": 7, **defaults, "solid": True}
    words = "--side 1 --share 1 --corner right --stage 2 --size auto --colours red blue --numbers 3 --no-solid"
    bye.cli.main(["--gpus", "0", "paint", "--trigger=own.py", *words.split()])
    changed = {"share": 1.0, "corner": "right", "stage": 2, "size": "auto", "colours": ["red", "blue"]}
    changed |= {"numbers": [3.0], "solid": False}
    assert painted.pop() == {"trigger": "own.py", "text": "none", "seed": 0, "side": 1, **changed}


def test_help_shows_the_settings_of_the_method_that_is_named(painted, capsys):
    for arguments, told, untold in (
        (["--trigger", "own.py"], "settings of the trigger own.py: --side SIDE edge of it, pixels", "None"),
        ([], "--trigger TRIGGER which", "settings of"),
    ):
        with pytest.raises(SystemExit) as ended:
            bye.cli.main(["paint", *arguments, "--help"])
        assert ended.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert told in text and untold not in text
    assert "--trigger" in refused(capsys, "paint", "--side", "7")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "the following arguments are required: --side"),
        ("--side 0", "argument --side: 0 is less than the minimum of 1"),
        ("--side 1.5", "argument --side: '1.5' is no integer"),
        ("--side 1 --corner top", "argument --corner: invalid choice: 'top'"),
        ("--side 1 --colours red green", "argument --colours: invalid choice: 'green'"),
        ("--side 1 --share 1.1", "argument --share: 1.1 is greater than the maximum of 1"),
        ("--side 1 --sol", "unrecognized arguments: --sol"),
    ],
)
def test_a_wrong_setting_is_refused(painted, capsys, words, told):
    assert told in refused(capsys, "paint", "--trigger", "own.py", *words.split())


def test_an_unknown_kind_and_a_file_that_is_no_method(painted, capsys):
    assert refused(capsys, "paint", "--trigger", "sparkle").startswith("bye: error: unknown trigger 'sparkle'; known: ")
    assert refused(capsys, "paint", "--trigger", "no.py").startswith("bye: error: there is no file no.py for a trigger")
    Path("empty.py").write_text("")
    assert "must have one function apply, and has 0" in refused(capsys, "paint", "--trigger", "empty.py")
    Path("clash.py").write_text("def apply(pixels, *, text: str = 'a'): pass")
    told = refused(capsys, "paint", "--trigger", "clash.py")
    assert told.endswith("clash.py has a setting with the name of another option, --text; rename the setting\n")
    assert not painted


@pytest.mark.parametrize("sort", RESERVED)
def test_no_setting_can_have_the_name_of_an_option(sort):
    """Options of the stages that run a method of the sort, and arguments of what the fine-tune calls."""
    taken = {
        name for stage in STAGES.values() for _, own in stage.methods if own == sort for name in option_names(stage)
    }
    if sort == "tuning method":
        parameters = inspect.signature(bye.training.finetune.finetune).parameters.values()
        taken |= {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    assert taken <= set(RESERVED[sort])
