"""Quality against bit operations, relative to each seed's own cell: figures known by hand."""

from __future__ import annotations

import pytest

from grownas.evaluation.fronts import TOLERANCES, cheapest, points, rise


def entry(model, kind, operations, val, test):
    return {"model": model, "kind": kind, "bits": [], "bit_operations": operations, "val": val, "test": test}


def front(size, base, mixed):
    """A seed whose cell has `size` multiplications."""
    return [
        entry("grown", "real", 1024 * size, base, 2 * base),
        entry("ptq_4", "ptq", 16 * size, 1.5 * base, 3 * base),
        entry("uniform_4", "uniform", 16 * size, 1.03 * base, 2.1 * base),
        entry("uniform_8", "uniform", 64 * size, base, 2 * base),
        entry("quantised", "mixed", mixed * size, 1.005 * base, 2.02 * base),
    ]


SEEDS = [front(10, 0.5, 24), front(30, 0.8, 32)]


def test_costs_are_for_each_multiplication_and_changes_are_in_per_cent():
    found = {one["model"]: one for one in points(SEEDS, "mse")}
    assert list(found) == ["ptq_4", "uniform_4", "uniform_8", "quantised"]
    assert found["uniform_8"]["cost"] == [64, 64]
    assert found["quantised"]["cost"] == [24, 32]
    assert found["quantised"]["val"] == pytest.approx([0.5, 0.5])
    assert found["quantised"]["test"] == pytest.approx([1, 1])
    assert found["uniform_4"]["test"] == pytest.approx([5, 5])


def test_the_cheapest_within_a_tolerance():
    assert TOLERANCES["0.3 dB"] == pytest.approx(7.1519, abs=1e-4)

    def named(most):
        return {kind: one and one["model"] for kind, one in cheapest(points(SEEDS, "mse"), most).items()}

    assert named(1.0) == {"mixed": "quantised", "uniform": "uniform_8", "ptq": None}
    assert named(TOLERANCES["0.3 dB"]) == {"mixed": "quantised", "uniform": "uniform_4", "ptq": None}
    assert named(0.1) == {"mixed": None, "uniform": "uniform_8", "ptq": None}


def test_a_seed_without_a_row_has_no_figure():
    assert {one["model"]: len(one["cost"]) for one in points([SEEDS[0], SEEDS[1][:-1]], "mse")}["quantised"] == 1


def test_errors_in_decibels_are_compared_as_powers():
    assert rise(-30, -40, "nmse_db") == pytest.approx(9)
    assert rise(-43, -40, "nmse_db") == pytest.approx(10**-0.3 - 1)
    assert rise(1, -1, "nmse_db") == pytest.approx(10**0.2 - 1)
    found = points(
        [
            [
                entry("grown", "real", 1024, -40, -30),
                entry("uniform_4", "uniform", 16, -39.6, -30),
                entry("uniform_8", "uniform", 64, -39.8, -30),
            ]
        ],
        "nmse_db",
    )
    nearest = cheapest(found, TOLERANCES["0.3 dB"])["uniform"]
    assert nearest is not None
    assert nearest["model"] == "uniform_8"
