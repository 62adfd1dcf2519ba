"""Signs of life of what takes a while."""

import sys
import time

from bye.machine import distributed

SECONDS_BETWEEN_LINES = 5


class Progress:
    """One line on stderr every few seconds: how many of `total` things are done; by the first process only."""

    def __init__(self, stage, total, things="samples"):
        self.stage, self.total, self.things, self.start = stage, total, things, time.monotonic()
        self.last, self.told = self.start, None

    def __call__(self, done):
        now = time.monotonic()
        due = now - self.last >= SECONDS_BETWEEN_LINES or done == self.total
        if due and done != self.told and distributed.rank() == 0:
            rate = done / (now - self.start)
            print(
                f"{self.stage}: {done} of {self.total} {self.things}, {rate:.3g} a second", file=sys.stderr, flush=True
            )
            self.last, self.told = now, done


def watched(items, stage, total, things):
    """Iterate over `total` items: with a bar that fills on a terminal, with lines of Progress elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=stage, total=total, unit=f" {things}", leave=False)
        return
    progress = Progress(stage, total, things)
    for done, item in enumerate(items, start=1):
        yield item
        progress(done)


def duration(seconds):
    """A time in the unit that suits it: 40 s, 3.2 min, 2.5 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
