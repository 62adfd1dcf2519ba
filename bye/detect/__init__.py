"""Detectors: from attention features of the training samples to one flag a sample. NumPy and scikit-learn only."""
