"""What tests of several files start from: random models and the shipped configuration."""

from functools import cache

import pytest
import yaml
from small_workflow import ROOT


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A function (family, layers) -> folder of a random checkpoint, written once for all tests: only to be read."""
    from tiny_models import write_tiny_model  # here, since it loads torch

    @cache
    def folder_of(family, layers=3):
        return write_tiny_model(family, tmp_path_factory.mktemp(family), layers=layers)

    return folder_of


@pytest.fixture
def shipped_config():
    """The shipped configuration, for the test to change."""
    return yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
