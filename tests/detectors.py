"""Run the stage `detect` as tests need it: one call for a file of attention, of samples, or of both with labels."""

from bye.cleaning.run import SampleSet
from bye.cleaning.run import detect as run


def detect(attention, flags, kind="bye", seed=0, **settings):
    """Run a detector that reads attention features; return how many samples it flagged."""
    return run(kind, flags, seed, settings, attention=attention)


def detect_on_samples(kind, samples, flags, labels=None, seed=0, **settings):
    """Run a detector that reads samples, or labels; return how many samples it flagged."""
    return run(kind, flags, seed, settings, samples=SampleSet(samples), labels=labels)
