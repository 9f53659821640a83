"""Parameters of tests of which a few run always, and all in a slow run."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], *, keep: Container[Any]) -> list[Any]:
    """Return the values as parameters, all but those to keep marked `slow`: they test the same code at other places."""
    return [value if value in keep else pytest.param(value, marks=pytest.mark.slow) for value in values]
