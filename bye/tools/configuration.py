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
    """Return the folder of the Snakefile: the clone that the package is imported from, or the working folder."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "Snakefile").is_file() and (folder / "rules" / "detect.smk").is_file():
            return folder
    raise ByeError(
        "bye clean and bye doctor need the workflow's files, which an installed package does not contain; "
        "install the package from its clone by `pip install -e .`, or run the command in the clone"
    )
