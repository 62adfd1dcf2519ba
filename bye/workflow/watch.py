"""What a person sees of a run: one line that is rewritten, of what is done of all, the time left and what is at work.

Snakemake tells the same and more in its log (.snakemake/log), which stays as it is; of that, warnings and errors alone
come to the screen. Asked for by the environment variable WATCHED; without it nothing is changed.
"""

import logging
import os
import re
import shutil
import sys
import threading
import time

from bye.machine.progress import duration

WATCHED = "BYE_WATCH"
SECONDS_BETWEEN_LINES = 30  # where the line cannot be rewritten: in a file, on a runner
EXPECTED = {  # seconds of a job of the mini scale (docs/speed.md), until a run has told its own
    "finetune": 40,
    "finetune_vanilla": 40,
    "attention": 8,
    "purify_test": 12,
    "purify_triggered": 12,
    "detect_groups_trials": 10,
    "mini_data": 12,
    "poison": 5,
    "evaluate": 3,
}
OTHERS = 1  # second
DONE_OF_ALL = re.compile(rb"(\d+) of (\d+)[ ,]")  # what the stages that take a while say in their logs
TAIL = 4096  # bytes of a log, its last ones
NOTHING = "Nothing to be done"  # what Snakemake says where all is there


def is_wanted():
    return bool(os.environ.get(WATCHED))


def quieten():
    """Keep what is no warning, no error and no NOTHING from the screen, where the line is wanted."""
    for handler in logging.getLogger("snakemake.logging").handlers:
        if is_wanted() and handler.name == "DefaultStreamHandler":
            handler.addFilter(lambda record: record.levelno >= logging.WARNING or NOTHING in record.getMessage())


class Watch(logging.Handler):
    """Keeps the line by the events of Snakemake's log.

    jobs: {Snakemake's number of a job: (name of the rule, what it is about, its cell or None, its log's path or None)},
    of all that are to be done; lanes: how many run at once.
    """

    def __init__(self, jobs, lanes, stream=None):
        super().__init__(logging.INFO)
        self.jobs, self.lanes, self.stream = jobs, max(1, lanes), stream or sys.stderr
        self.rewrites = self.stream.isatty()
        self.left = dict(jobs)
        self.begun = {}  # of those at work: when
        self.took = {}  # rule -> [seconds of its jobs that are done]
        self.start, self.printed, self.shown = time.monotonic(), float("-inf"), ""
        self.ended = threading.Event()
        threading.Thread(target=self._tick, daemon=True).start()

    def emit(self, record):
        event, now = getattr(getattr(record, "event", None), "value", None), time.monotonic()
        if event == "job_started":
            self.begun.update(dict.fromkeys(record.jobs, now))
        elif event == "job_finished" and record.job_id in self.left:
            rule, *_ = self.left.pop(record.job_id)
            self.took.setdefault(rule, []).append(now - self.begun.pop(record.job_id, now))
        elif event == "job_error":
            self.begun.pop(record.jobid, None)
        if record.levelno >= logging.WARNING:
            self._clear()
        else:
            self.show()

    def close(self):
        """Leave a last line: Snakemake closes the handlers of its log at the end."""
        if not self.ended.is_set():
            self.ended.set()
            self._clear()
            done, spent = len(self.jobs) - len(self.left), duration(time.monotonic() - self.start)
            print(f"bye: {done} of {len(self.jobs)} jobs in {spent}", file=self.stream)
        super().close()

    def show(self):
        now = time.monotonic()
        if self.ended.is_set() or (not self.rewrites and now - self.printed < SECONDS_BETWEEN_LINES):
            return
        self.printed = now
        if self.rewrites:
            width = shutil.get_terminal_size().columns - 1
            self.shown = self.line(now)[:width]
            self.stream.write(f"\r\x1b[K{self.shown}")
        else:
            self.stream.write(self.line(now) + "\n")
        self.stream.flush()

    def line(self, now):
        """Return the line: jobs and cells done of all, time left, jobs at work."""
        parts = [f"{len(self.jobs) - len(self.left)} of {len(self.jobs)} jobs"]
        cells = {cell for _, _, cell, _ in self.jobs.values() if cell}
        if cells:
            parts.append(f"{len(cells - {cell for _, _, cell, _ in self.left.values()})} of {len(cells)} cells")
        running = self._running()
        parts.append(f"about {duration(self.seconds_left(now, running))} left")
        at_work = [
            " ".join(self.left[number][:2]).strip() + (f" ({done[0]} of {done[1]})" if done else "")
            for number, done in running.items()
        ]
        return f"bye: {', '.join(parts)} | {', '.join(at_work)}"

    def _running(self):
        """{number of a running job: how much of it is done}."""
        return {number: self._done(number) for number in self.begun if number in self.left}

    def _done(self, number):
        """(done, all) of what a running job has told in its log last; None where that is all, or nothing yet."""
        path = self.left[number][3]
        try:
            with open(path or os.devnull, "rb") as log:
                size = os.fstat(log.fileno()).st_size
                log.seek(max(0, size - TAIL))
                done, total = map(int, (DONE_OF_ALL.findall(log.read()) or [(0, 0)])[-1])
        except OSError:
            return None
        return (done, total) if 0 < done < total else None

    def seconds_left(self, now, running=None):
        """What the jobs that are left take together, by what is done of the `_running` ones and how long their like
        took; unseen ones by EXPECTED, scaled."""
        took = {rule: list(seconds) for rule, seconds in self.took.items()}
        rest = {}  # of running jobs that tell what is done of them: seconds left
        for number, done in (self._running() if running is None else running).items():
            spent = now - self.begun[number]
            if done:
                rest[number] = spent * (done[1] - done[0]) / done[0]
                took.setdefault(self.left[number][0], []).append(spent + rest[number])
        known = [rule for rule in took if rule in EXPECTED]
        expected = sum(EXPECTED[rule] * len(took[rule]) for rule in known)
        pace = sum(sum(took[rule]) for rule in known) / expected if known else 1
        total, longest = 0, 0
        for number, (rule, *_) in self.left.items():
            seen = took.get(rule)
            seconds = sum(seen) / len(seen) if seen else EXPECTED.get(rule, OTHERS) * pace
            seconds = rest.get(number, max(0, seconds - (now - self.begun.get(number, now))))
            total, longest = total + seconds, max(longest, seconds)
        return max(total / self.lanes, longest)

    def _clear(self):
        if self.rewrites and self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.shown = ""

    def _tick(self):
        while not self.ended.wait(1):
            self.acquire()
            try:
                self.show()
            finally:
                self.release()
