"""Metrics: clean performance (accuracy, CIDEr), attack success rate, quality of a detector's flags. NumPy only."""
