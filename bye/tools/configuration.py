"""The configuration that a command around the workflow looks at, and the folder that the workflow's files are in."""

from pathlib import Path

from bye import config as settings
from bye.errors import ByeError


def read_configuration(configfile=()):
    """Return (the workflow's folder, config.yaml with `configfile` laid over it). Raises ByeError."""
    root = find_workflow()
    config = settings.read_config([root / "config.yaml", *configfile])
    settings.check_content(config, root)
    return root, config


def find_workflow():
    """Return the folder of the Snakefile: the clone that the package is imported from, or one in an installed package.

    Nothing is ever written there: Snakemake works in another folder (--directory). Raises ByeError.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent, package / "workflow_files"):
        if (folder / "Snakefile").is_file() and (folder / "rules" / "detect.smk").is_file():
            return folder
    raise ByeError(
        f"the package in {package} came without the workflow's files, which bye clean and bye doctor need; install it "
        "from its clone, by `pip install .` or `pip install -e .`"
    )
