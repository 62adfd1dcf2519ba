"""The stages of the workflow as sub-commands: their options, and the function of the package that does each.

One file a room. Imports stand inside the functions, so that a stage loads only what it needs (a table must not wait for
torch).
"""

from bye.stages import answers, attacks, cleaning, data, extraction, mini, options, report, scout, tools, training
from bye.stages.options import Stage

__all__ = ["STAGES", "Stage"]

ROOMS = [room.__name__ for room in (data, attacks, training, extraction, cleaning, answers, report, mini, scout, tools)]
STAGES = dict(sorted(options.STAGES.items(), key=lambda item: ROOMS.index(item[1].run.__module__)))  # as they run
