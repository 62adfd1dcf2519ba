"""Answers of a model: generated greedily, and scored."""
