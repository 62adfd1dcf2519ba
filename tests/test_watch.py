"""The line that is rewritten while a run goes on: what it says, and what it leaves to be seen."""

import io
import logging
from types import SimpleNamespace

import pytest
from small_workflow import run, small_config, write_config

from bye.workflow import watch

JOBS = {
    1: ("poison", "d/badnet/0", None, None),
    2: ("finetune", "m/d/badnet/0/vanilla", "m/d/badnet/0/vanilla", None),
    3: ("evaluate", "m/d/badnet/0/vanilla", "m/d/badnet/0/vanilla", None),
    4: ("evaluate", "m/d/badnet/0/bye", "m/d/badnet/0/bye", "no such log"),
    5: ("table", "table1", None, None),
}


class Terminal(io.StringIO):
    def __init__(self, is_one):
        super().__init__()
        self.isatty = lambda: is_one


@pytest.fixture
def clock(monkeypatch):
    """The time, to be set; nothing is shown by itself."""
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(watch.time, "monotonic", lambda: now.value)
    monkeypatch.setattr(watch.Watch, "_tick", lambda self: None)
    return now


def event(name, level=logging.INFO, **values):
    record = logging.LogRecord("snakemake.logging", level, "", 0, "", None, None)
    record.__dict__.update(event=SimpleNamespace(value=name), **values)
    return record


def test_the_line_counts_jobs_and_cells_and_says_what_is_at_work(clock):
    seen = watch.Watch(JOBS, 2, Terminal(True))
    seen.emit(event("job_started", jobs=[1, 2]))
    assert seen.line(0).startswith("bye: 0 of 5 jobs, 0 of 2 cells, about ")
    assert seen.line(0).endswith("| poison d/badnet/0, finetune m/d/badnet/0/vanilla")
    for number in (1, 2, 3):
        seen.emit(event("job_finished", job_id=number))
    assert seen.line(0).startswith("bye: 3 of 5 jobs, 1 of 2 cells, ")
    seen.emit(event("job_started", jobs=[4]))
    assert seen.line(0).endswith("| evaluate m/d/badnet/0/bye")
    seen.emit(event("job_error", logging.ERROR, jobid=4))
    assert seen.line(0).endswith("| ")


def test_time_left_is_that_of_the_rules_own_jobs_and_of_the_pace_for_the_others(clock):
    seen = watch.Watch(JOBS, 2)
    expected = [watch.EXPECTED[rule] for rule in ("poison", "finetune", "evaluate", "evaluate")] + [watch.OTHERS]
    assert seen.seconds_left(0) == max(max(expected), sum(expected) / 2)
    for number in (2, 3):  # a machine that is twice as slow
        seen.emit(event("job_started", jobs=[number]))
        clock.value += 2 * watch.EXPECTED[JOBS[number][0]]
        seen.emit(event("job_finished", job_id=number))
    slow = [2 * watch.EXPECTED["poison"], 2 * watch.EXPECTED["evaluate"], 2 * watch.OTHERS]
    assert seen.seconds_left(clock.value) == pytest.approx(max(max(slow), sum(slow) / 2))
    seen.emit(event("job_started", jobs=[1]))
    clock.value += 2 * watch.EXPECTED["poison"] + 100  # longer than it should: none of the others' time is gone
    assert seen.seconds_left(clock.value) == pytest.approx((slow[1] + slow[2]) / 2, rel=0.5)


def test_time_left_of_a_running_job_is_what_its_log_tells(clock, tmp_path):
    """A large model's fine-tune takes longer than expected, and so will what comes after it."""
    log = tmp_path / "finetune.log"
    jobs = JOBS | {2: (*JOBS[2][:3], str(log))}
    seen = watch.Watch(jobs, 1)
    for number in (1, 3, 5):
        seen.left.pop(number)
    seen.emit(event("job_started", jobs=[2]))
    clock.value = 10 * watch.EXPECTED["finetune"]
    log.write_text("images: 8 of 8 images, 3.2 a second\n")
    assert seen.seconds_left(clock.value) == watch.EXPECTED["evaluate"]  # late, and nobody knows by how much
    log.write_text("images: 8 of 8 images\nfinetune: step 20 of 80, loss 0.5, 1 s left\n")
    left = 30 * watch.EXPECTED["finetune"]
    assert seen.seconds_left(clock.value) == pytest.approx(left + 40 * watch.EXPECTED["evaluate"])
    assert seen.line(clock.value).endswith("| finetune m/d/badnet/0/vanilla (20 of 80)")
    seen.emit(event("job_finished", job_id=2))
    seen.emit(event("job_started", jobs=[4]))
    assert seen.line(clock.value).endswith("| evaluate m/d/badnet/0/bye")


def test_a_terminals_line_is_rewritten_and_makes_room_for_errors(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    seen = watch.Watch(JOBS, 2, stream := Terminal(True))
    seen.emit(event("job_started", jobs=[1]))
    assert stream.getvalue() == "\r\x1b[Kbye: 0 of 5 jobs, 0 of 2 cells, about 4"
    seen.emit(event("job_error", logging.ERROR, jobid=1))
    assert stream.getvalue().endswith("\r\x1b[K")
    clock.value = 30
    seen.close()
    seen.close()
    assert stream.getvalue().endswith("bye: 0 of 5 jobs in 30 s\n")
    assert stream.getvalue().count("\n") == 1


def test_elsewhere_a_line_stands_now_and_then(clock):
    seen = watch.Watch(JOBS, 2, stream := Terminal(False))
    for clock.value in range(0, 100, 5):
        seen.emit(event("shellcmd"))
    assert len(stream.getvalue().splitlines()) == 4


def test_a_run_shows_the_line_where_it_is_wanted(tmp_path, tiny_model):
    folder = write_config(tmp_path, small_config(tiny_model("llava")))
    target = "results/data/scienceqa/s0/train.json"
    wanted = run(folder, target, environment={watch.WATCHED: "1"})
    assert wanted.returncode == 0, wanted.stdout
    assert "bye: 2 of 2 jobs in " in wanted.stdout
    assert "rule prepare" not in wanted.stdout
    assert "Nothing to be done" in run(folder, target, environment={watch.WATCHED: "1"}).stdout
    (folder / target).unlink()
    plain = run(folder, target, environment={watch.WATCHED: ""})
    assert "rule prepare" in plain.stdout
    assert "of 1 jobs in" not in plain.stdout
    (folder / target).unlink()
    for path in (folder / "results/data/scienceqa/raw").rglob("*.json"):
        path.write_text("{")
    broken = run(folder, target, environment={watch.WATCHED: "1"})
    assert broken.returncode != 0
    assert "bye: error: " in broken.stdout  # the log of the job that failed
