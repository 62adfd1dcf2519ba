"""The command line: every stage is there, asks for what its function takes, and says what is wrong in one sentence."""

import inspect
import os
import subprocess
import sys

import pytest
from small_workflow import ROOT

import bye.answers.evaluate
import bye.cli
import bye.extraction.attention
import bye.methods.defences.zip
import bye.training.finetune
from bye.errors import ByeError
from bye.stages import STAGES, Stage

# What a stage with **options calls; of several functions, the first is always called.
FUNCTIONS = {
    "finetune": (bye.training.finetune.finetune, bye.training.finetune.finetune_kept),
    "attention": (bye.extraction.attention.extract,),
    "evaluate": (bye.answers.evaluate.evaluate,),
    "purify": (bye.methods.defences.zip.purify,),
}


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
        assert option_names(STAGES[name]) - {"processes"} <= set().union(*wanted)  # the command line starts them
        needed = {key for key, each in wanted[0].items() if each.default is each.empty}
        assert needed <= option_names(STAGES[name])


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (
            ByeError("data.json does not exist; check the path"),
            2,
            "bye: error: data.json does not exist; check the path\n",
        ),
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
    command = [sys.executable, "-m", "bye", "random-drop", "--samples", "no such.json", "--flags", "flags.parquet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == "bye: error: no such.json does not exist; check the path\n"
    assert list(tmp_path.iterdir()) == []
