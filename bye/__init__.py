"""BYE: backdoor cleaning of vision-language fine-tuning sets from the model's own attention entropy."""

__version__ = "0.1.0"
