"""Defences: detectors, purifiers and guards. One file a kind; `bye.registry` finds it."""
