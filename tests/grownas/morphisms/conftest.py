"""What all tests of morphisms share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lab():
    """The module `laboratory`: test files cannot import from this folder."""
    spec = importlib.util.spec_from_file_location("laboratory", Path(__file__).with_name("laboratory.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
