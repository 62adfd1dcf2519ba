"""What a detector reads of a model: attention and hidden states of its training samples, from one forward pass."""
