"""The stages of the workflow as sub-commands: their options, and the function of the package that does each.

One file a room. Imports stand inside the functions, so that a stage loads only what it needs (a table must not wait for
torch).
"""

from bye.stages import answers, attacks, cleaning, data, extraction, mini, report, tools, training
from bye.stages.options import STAGES, Stage

__all__ = [
    "STAGES",
    "Stage",
    "answers",
    "attacks",
    "cleaning",
    "data",
    "extraction",
    "mini",
    "report",
    "tools",
    "training",
]
