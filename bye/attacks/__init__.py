"""Backdoor attacks: triggers drawn into images, and the poisoned sets made with them."""
