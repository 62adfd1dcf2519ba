"""What a detector reads of a model: attention of its training samples, from one forward pass."""
