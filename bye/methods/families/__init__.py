"""Families of vision-language models. One file a kind; `bye.registry` finds it."""
