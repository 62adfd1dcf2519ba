"""The fine-tuning stage."""
