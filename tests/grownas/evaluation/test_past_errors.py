"""Errors of past forecasts: aligned by origin and step, kept as they were when later rows come."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.errors import DataError
from grownas.evaluation import conformal
from grownas.evaluation.past_errors import PastErrors

H = 4


def forecasts(actual: np.ndarray) -> np.ndarray:
    """Forecast k + 1 steps ahead by the row times 0.5^(k + 1), shape `(n, H, I)`."""
    return np.stack([0.5 ** (k + 1) * actual for k in range(H)], axis=1)


@pytest.fixture
def actual():
    return np.random.default_rng(0).normal(size=(40, 2))


def test_errors_stand_at_their_origin_and_step(actual):
    found = PastErrors.of(forecasts(actual), actual, 30, summed=False)
    assert found.ahead.shape == (11, H, 2)
    for t in range(29, 40):
        for k in range(H):
            error = found.ahead[t - 29, k]
            if t + k + 1 < 40:
                np.testing.assert_allclose(error, actual[t + k + 1] - 0.5 ** (k + 1) * actual[t])
            else:
                assert np.isnan(error).all()
    np.testing.assert_allclose(found.one_step, actual[1:] - 0.5 * actual[:-1])


def test_summed_errors_are_errors_of_sums(actual):
    found = PastErrors.of(forecasts(actual), actual, 30, summed=True)
    t, k = 31, 2
    expected = actual[t + 1 : t + k + 2].sum(0) - forecasts(actual)[t, : k + 1].sum(0)
    np.testing.assert_allclose(found.ahead[t - 29, k], expected)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_further_rows_give_the_same_errors_as_all_rows_at_once(actual, steps, summed):
    whole = PastErrors.of(forecasts(actual), actual, 25, summed=summed)
    part = PastErrors.of(forecasts(actual[:30]), actual[:30], 25, summed=summed)
    for rows in range(30 + steps, 41, steps):
        start = part.first_open
        part = part.extended(forecasts(actual[:rows])[start:], actual[start:rows])
    assert part.rows == 40
    np.testing.assert_allclose(part.ahead, whole.ahead)
    np.testing.assert_allclose(part.one_step, whole.one_step)


def test_a_model_that_has_learned_rows_does_not_change_their_errors(actual):
    before = PastErrors.of(forecasts(actual[:30]), actual[:30], 25, summed=False)
    start = before.first_open
    after = before.extended(np.zeros((40 - start, H, 2)), actual[start:])
    known = ~np.isnan(before.ahead)
    np.testing.assert_array_equal(after.ahead[: len(before.ahead)][known], before.ahead[known])
    np.testing.assert_allclose(after.ahead[-2, 0], actual[39])  # the later model forecasts zero


def test_half_widths_are_the_quantile_times_the_current_volatility(actual):
    found = PastErrors.of(forecasts(actual), actual, 20, summed=False)
    scale = conformal.volatility(found.one_step)
    scores = np.abs(found.ahead[:-1, 0]) / scale[19:-1]
    np.testing.assert_allclose(found.half_widths(1, 0.8), np.sort(scores, axis=0)[16] * scale[-1])  # ceil(21 * .8) = 17
    joint = np.sort(scores.max(axis=1))[16] * scale[-1]
    np.testing.assert_allclose(found.half_widths(1, 0.8, joint=True), joint)


def test_half_widths_follow_the_misses_that_are_known_at_the_step(actual):
    """By hand: the interval for step k is formed and adapted from the scores of forecasts k and more rows before."""
    rng, step, target = np.random.default_rng(1), 3, 0.2
    later = np.concatenate([actual, 4 * rng.normal(size=(160, 2))])  # errors four times as large as before
    found = PastErrors.of(forecasts(later), later, 20, summed=False)
    scale = conformal.volatility(found.one_step)
    scores = (np.abs(found.ahead[:, step - 1]) / scale[19:])[:, 0]
    miss, missed = target, {}
    for t in range(4 + step - 1, len(scores)):  # coverage .8 needs 4 scores
        if t - step in missed:
            miss += 0.005 * (target - missed[t - step])
        known = np.sort(scores[: t - step + 1])
        bound = known[int(np.ceil((len(known) + 1) * (1 - miss))) - 1]
        missed[t] = scores[t] > bound
    assert abs(miss - target) > 0.005
    np.testing.assert_allclose(found.half_widths(step, 0.8)[0], bound * scale[-1, 0], rtol=1e-12)


def test_what_is_out_of_range_is_refused(actual):
    found = PastErrors.of(forecasts(actual), actual, 30, summed=False)
    with pytest.raises(DataError, match="coverage=1: expected a probability below 1"):
        found.half_widths(1, 1.0)
    with pytest.raises(DataError, match="fh=5: intervals reach at most 4 steps ahead"):
        found.half_widths(5, 0.5)
    with pytest.raises(DataError, match=r"coverage=0\.9 needs 9 or more rows .*, got 8 at 3 steps ahead"):
        found.half_widths(3, 0.9)
