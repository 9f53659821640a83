"""What all tests of morphisms share."""

from __future__ import annotations

import pytest

from support import morphisms


@pytest.fixture(scope="session")
def lab():
    """The module `support.morphisms`."""
    return morphisms
