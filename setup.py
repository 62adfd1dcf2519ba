"""What pyproject.toml cannot say: the workflow's files, which lie beside the package, are inside of it in a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ["Snakefile", "config.yaml", "config.schema.yaml"]
FOLDERS = ["rules", "config", "profiles", "report", "base_models"]
PLACE = "bye/workflow_files"  # where bye.tools.configuration finds them


class BuildWithWorkflow(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            return  # the package then is the clone's own
        place = Path(self.build_lib, PLACE)
        shutil.rmtree(place, ignore_errors=True)  # an earlier build may have left what is no longer there
        place.mkdir(parents=True)
        for name in FILES:
            shutil.copyfile(name, place / name)
        for name in FOLDERS:
            shutil.copytree(name, place / name)

    def get_source_files(self):
        """All that a source distribution needs."""
        inside = [str(path) for name in FOLDERS for path in Path(name).rglob("*") if path.is_file()]
        return [*super().get_source_files(), *FILES, *inside]


setup(cmdclass={"build_py": BuildWithWorkflow})
