"""The plan of a run: paths, and what the entries of the config section tables ask for. Pure functions of the config."""
