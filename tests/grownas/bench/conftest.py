"""Tiny settings: the machine's own times are for tests/benchmarks/."""

from __future__ import annotations

import pytest

from grownas.bench.figures import Figure, Must, Row
from grownas.bench.results import Results
from grownas.bench.settings import DERIVED, SUPERNET, Setting

MACHINE = {"cpu": "a cpu", "capability": "AVX2", "torch": "2.9", "blas": "mkl", "gpu": None, "backends": ["torch"]}


def figures(**medians: float) -> dict[str, Figure]:
    """Figures without spread."""
    return {name.replace("_", "."): Figure(ms, ms, ms, 3) for name, ms in medians.items()}


def timed(name: str = "supernet T4", *, torch: float = 2.0, floor: float = 0.5) -> Row:
    medians = figures(reference=8.0, torch=torch, nn_LSTM=4.0, nn_GRU=3.0, floor=floor)
    return Row(name, "ms", medians, "floor", (Must("reference", 0.25, "torch"), Must("floor", 2.0, "torch")), 10**6)


def found(*rows: Row, **machine: object) -> Results:
    return Results("2026-11-24T10:00:00+00:00", False, {**MACHINE, **machine}, rows)


@pytest.fixture
def make_row():
    return timed


@pytest.fixture
def make_results():
    return found


@pytest.fixture
def tiny():
    """Settings by what is special about them."""
    supernet = Setting("supernet", 4, 3, 2, 5, SUPERNET)
    derived = supernet._replace(kind="derived", ops=DERIVED)
    return {
        "supernet": supernet,
        "derived": derived,
        "no_grad": derived._replace(T=1, mode="no_grad"),
        "inference_mode": derived._replace(T=1, mode="inference_mode"),
    }
