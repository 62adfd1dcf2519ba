"""Signs of life of a stage that takes a while."""

import sys
import time

from bye.machine import distributed

SECONDS_BETWEEN_LINES = 5


class Progress:
    """One line on stderr every few seconds: how many of `total` samples a stage has done; by its first process only."""

    def __init__(self, stage, total):
        self.stage, self.total, self.start = stage, total, time.monotonic()
        self.last, self.told = self.start, None

    def __call__(self, done):
        now = time.monotonic()
        due = now - self.last >= SECONDS_BETWEEN_LINES or done == self.total
        if due and done != self.told and distributed.rank() == 0:
            rate = done / (now - self.start)
            print(f"{self.stage}: {done} of {self.total} samples, {rate:.3g} a second", file=sys.stderr, flush=True)
            self.last, self.told = now, done
