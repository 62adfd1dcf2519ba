"""`python -m bye.server FD PARENT`: the server of `bye.machine.forking` for the stages of this package."""

import importlib
import pkgutil
import sys

import bye
from bye import cli
from bye.machine import forking


def load():
    """Import what stages import as they run: all modules of the package, and what others load at first use."""
    for module in pkgutil.walk_packages(bye.__path__, "bye."):
        if not module.name.startswith(("bye.methods.", "bye.__main__", __name__)):  # methods stay the registry's
            importlib.import_module(module.name)
    for module in ("scipy.stats", "sklearn.datasets"):
        importlib.import_module(module)
    for name in ("InternVLForConditionalGeneration", "LlavaForConditionalGeneration"):
        getattr(importlib.import_module("transformers"), name)
    for name in ("DDIMScheduler", "UNet2DModel"):
        getattr(importlib.import_module("diffusers"), name)


if __name__ == "__main__":
    forking.serve(int(sys.argv[1]), int(sys.argv[2]), load, cli.main)
