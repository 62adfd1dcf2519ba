"""Targets: what an attack makes of a sample's answer. One file a kind; `bye.registry` finds it."""
