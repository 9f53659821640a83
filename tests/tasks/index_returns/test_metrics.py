"""Scores against hand calculation."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.tasks.index_returns.metrics import score

ACTUAL = np.array([[1.0, -2.0], [3.0, 0.0], [-1.0, 2.0]])
FORECASTS = np.array([[1.0, -1.0], [1.0, 5.0], [1.0, 0.0]])
# errors: 0, -1; 2, -5; -2, 2. Signs right: +, -; + ; wrong: -, and 2 against 0; not counted: the return of 0


def test_scores_by_hand():
    scores = score(ACTUAL, FORECASTS, ["a", "b"])
    assert scores["mse"] == pytest.approx((0 + 1 + 4 + 25 + 4 + 4) / 6)
    assert scores["mae"] == pytest.approx((0 + 1 + 2 + 5 + 2 + 2) / 6)
    assert scores["r2"] == pytest.approx(1 - 38 / 19)
    assert scores["hit_rate"] == pytest.approx(3 / 5)
    assert scores["count"] == 6


def test_scores_per_series_by_hand():
    each = score(ACTUAL, FORECASTS, ["a", "b"])["per_series"]
    assert each["a"] == pytest.approx({"mse": 8 / 3, "mae": 4 / 3, "r2": 1 - 8 / 11, "hit_rate": 2 / 3, "count": 3})
    assert each["b"] == pytest.approx({"mse": 10.0, "mae": 8 / 3, "r2": 1 - 30 / 8, "hit_rate": 1 / 2, "count": 3})


def test_perfect_and_zero_forecasts():
    actual = np.random.default_rng(0).normal(size=(50, 3))
    perfect, zero = (score(actual, forecasts, "abc") for forecasts in (actual, np.zeros_like(actual)))
    assert (perfect["mse"], perfect["mae"], perfect["r2"], perfect["hit_rate"]) == (0, 0, 1, 1)
    assert (zero["r2"], zero["hit_rate"]) == (0, 0)
    assert zero["mse"] == pytest.approx((actual**2).mean(), rel=1e-14)


def test_a_series_that_never_moves_has_no_r2_and_no_hit_rate():
    actual = np.array([[0.0, 1.0], [0.0, -1.0]])
    each = score(actual, np.ones_like(actual), ["still", "moves"])["per_series"]
    assert each["still"] == {"mse": 1.0, "mae": 1.0, "r2": None, "hit_rate": None, "count": 2}
    assert each["moves"]["hit_rate"] == 0.5
