"""The plain fine-tune on everything, which every detector reads its features from."""

ACTS_ON = "nothing"
