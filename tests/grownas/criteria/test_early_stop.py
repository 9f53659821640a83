"""Both levels of early stopping: patience over epochs, acceptance over stages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.criteria.early_stop import ACCEPT, Patience, better, logged, significant
from grownas.protocols import Verdict

values = st.lists(st.floats(-10, 10), min_size=1, max_size=20)


@given(values, st.integers(1, 5))
def test_patience_ends_after_so_many_values_without_a_lower_one(sequence, patience):
    level, taken = Patience(patience), []
    for value in sequence:
        assert level.step(value) == all(value < before for before in taken)
        taken.append(value)
        since_best = len(taken) - 1 - taken.index(min(taken))
        assert level.is_over == (since_best >= patience)
        assert level.best == min(taken)


@given(values)
def test_without_patience_every_value_is_taken_and_it_never_ends(sequence):
    level = Patience(None)
    assert all(level.step(value) for value in sequence)
    assert not level.is_over


def test_an_equal_value_is_no_progress():
    level = Patience(1)
    assert level.step(1.0)
    assert not level.step(1.0)
    assert level.is_over


@given(values, values, st.integers(1, 4))
def test_patience_goes_on_from_its_written_state(before, after, patience):
    level, again = Patience(patience), Patience(patience)
    for value in before:
        level.step(value)
    again.restore(level.state())
    assert [(level.step(v), level.is_over) for v in after] == [(again.step(v), again.is_over) for v in after]


def test_better_takes_the_lower_mean():
    best, lower = np.array([1.0, 3.0]), np.array([2.5, 1.0])
    assert better(best, lower, threshold=9.0) == Verdict(True, 0.25, "better", 0.0)
    assert better(lower, best, threshold=9.0) == Verdict(False, -0.25, "better", 0.0)
    assert not better(best, best, threshold=-9.0).accepted


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)  # the import of statsmodels is slow
def test_significant_is_the_t_of_statsmodels(seed):
    from statsmodels.regression.linear_model import OLS

    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 300))
    best, candidate = rng.normal(1.0, 0.5, n), rng.normal(0.95, 0.5, n)
    lags = math.floor(4 * (n / 100) ** (2 / 9))
    fitted = OLS(best - candidate, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    verdict = significant(best, candidate, threshold=1.645)
    assert verdict.figure == pytest.approx(float(fitted.tvalues[0]), rel=1e-9)
    assert verdict.accepted == (verdict.figure > 1.645)
    assert logged(verdict) == {"rule": "significant", "figure": verdict.figure, "threshold": 1.645}


def test_significant_is_one_sided_and_takes_no_lucky_draw():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 200)
    best = rng.normal(1, 0.1, 200)
    assert significant(best, best - 1 + 0.1 * noise, threshold=1.645).accepted
    assert not significant(best, best + 1 + 0.1 * noise, threshold=1.645).accepted
    lower = best - (noise - noise.mean() + 0.01)  # lower in the mean, but far inside the noise
    assert better(best, lower, threshold=1.645).accepted
    assert not significant(best, lower, threshold=1.645).accepted


@pytest.mark.parametrize("rule", ACCEPT.values(), ids=ACCEPT)
def test_no_rule_accepts_equal_losses(rule):
    losses = np.random.default_rng(1).normal(size=50)
    verdict = rule(losses, losses.copy(), threshold=1.645)
    assert not verdict.accepted
    assert verdict.figure == 0
