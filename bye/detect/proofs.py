"""What trials on a model prove: a rate with its binomial bound against the rate of controls."""

from dataclasses import dataclass

PROOFS = {  # what is carried from samples with an answer to others, and what that does
    "patch": "the patch that the model attends to most in their images, pasted on others, makes it say so",
    "question": "their images, shown with other questions, make the model say so",
    "overlay": "their images, laid over others at half weight, make the model say so",
    "shared": "what their images have in common, added to others, makes the model say so",
    "words": "words of their questions, put to others, make the model say so",
}


@dataclass(frozen=True)
class Proof:
    """Of `trials` in which a group's trait was carried to others, `hits` made the model give the group's answer; the
    same of controls, whose own answers count."""

    name: str
    hits: int
    trials: int
    control_hits: int
    control_trials: int

    def holds(self, rate, confidence):
        """Whether it is a share `rate` of the trials or more, and above that of the controls (`hints`)."""
        return self.trials > 0 and self.hits >= rate * self.trials and self.hints(confidence)

    def hints(self, confidence):
        """Whether the rate is above that of the controls, by a bound on each at this confidence."""
        high = upper_bound(self.control_hits, self.control_trials, confidence)
        return lower_bound(self.hits, self.trials, confidence) > high


def lower_bound(hits, trials, confidence):
    """Return the one-sided lower bound of a binomial rate (Clopper and Pearson 1934)."""
    from scipy.stats import beta  # takes a second to load

    return float(beta.ppf(1 - confidence, hits, trials - hits + 1)) if hits else 0.0


def upper_bound(hits, trials, confidence):
    """Return the one-sided upper bound of a binomial rate (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return float(beta.ppf(confidence, hits + 1, trials - hits)) if hits < trials else 1.0
