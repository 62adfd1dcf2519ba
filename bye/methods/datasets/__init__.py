"""Dataset formats: how samples are read. One file a kind; `bye.registry` finds it."""
