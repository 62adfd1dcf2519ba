"""Drop exactly the poison: an upper bound, the one defence that reads the ground truth."""

from bye.flags import Verdict

ACTS_ON = "training set"
READS = ("labels",)


def detect(labels):
    """Flag the samples that the labels, (n,) bool, call poisoned."""
    return Verdict.of(labels, "labelled as poisoned")
