"""What all tests of morphisms share."""

from __future__ import annotations

import pytest

from tests.grownas.morphisms import laboratory


@pytest.fixture(scope="session")
def lab():
    """The module `laboratory`."""
    return laboratory
