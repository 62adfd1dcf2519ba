"""Triggers: what an attack puts into a sample's image or question. One file a kind; `bye.registry` finds it."""
