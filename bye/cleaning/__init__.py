"""The stages that run a defence on a training set, divide the set, and score what was flagged."""
