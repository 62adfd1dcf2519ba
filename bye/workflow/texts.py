"""Texts that Snakemake and the shell read: patterns, options, names of records."""

import json
import re
import shlex


def keys_pattern(keys):
    """Return the regular expression that matches exactly these keys (and nothing, if there are none)."""
    return "|".join(re.escape(key) for key in keys) or "(?!)"


def as_options(values):
    """Write settings as options: {"batch_size": 16, "plain": False, "root": None, "of": [1, 2]} is
    "--batch-size 16 --no-plain --of 1 2"; a mapping is JSON."""
    words = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            words.append(f"--{option} {' '.join(map(shlex.quote, map(str, value)))}" if value else "")
        elif isinstance(value, dict):
            words.append(f"--{option} {shlex.quote(json.dumps(value, ensure_ascii=False))}")
        elif value is not None:
            words.append(f"--{option} {shlex.quote(str(value))}")
    return " ".join(filter(None, words))


def record_name(rule, output):
    """Return where a rule's log and benchmark lie: RULE/WILDCARDS, by the wildcards of its first output."""
    wildcards = dict.fromkeys(re.findall(r"{(\w+)", str(output)))
    names = [f"s{{{name}}}" if name == "seed" else f"{{{name}}}" for name in wildcards]
    return f"{rule}/{'.'.join(names)}" if names else rule
