"""Tuning methods: what a fine-tune trains. One file a kind; `bye.registry` finds it."""
