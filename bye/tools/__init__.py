"""Commands around the workflow: clean, doctor, rates, bench."""
