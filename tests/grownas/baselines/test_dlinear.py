"""DLinear against its equations, and the number of parameters in its paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.baselines.dlinear import DLinear, decompose


def made(series, lookback):
    return DLinear(series, lookback, generator=torch.Generator().manual_seed(0)).double()


def moving_average(row, kernel):
    """Centred, with both ends repeated; `row` has one series."""
    half = kernel // 2
    padded = np.concatenate([np.repeat(row[0], half), row, np.repeat(row[-1], half)])
    return np.convolve(padded, np.full(kernel, 1 / kernel), mode="valid")


@pytest.mark.parametrize(("lookback", "kernel"), [(40, 25), (8, 25), (12, 5), (1, 3)])
def test_the_trend_is_the_moving_average_and_both_parts_add_up(lookback, kernel):
    rows = np.random.default_rng(0).normal(size=(4, 2, 3, lookback))
    trend, remainder = decompose(torch.from_numpy(rows), kernel)
    wanted = np.apply_along_axis(moving_average, -1, rows, kernel)
    np.testing.assert_allclose(trend.numpy(), wanted, rtol=0, atol=1e-13)
    np.testing.assert_allclose((trend + remainder).numpy(), rows, rtol=0, atol=1e-13)


def test_a_line_within_the_window_is_all_trend():
    rows = torch.arange(100.0, dtype=torch.float64).expand(1, 1, 1, 100)
    _, remainder = decompose(rows)
    torch.testing.assert_close(
        remainder[..., 12:-12], torch.zeros(1, 1, 1, 76, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_the_forecast_is_linear_in_both_parts_and_reads_no_other_series():
    core, x = made(3, 10), np.random.default_rng(0).normal(size=(15, 2, 3))
    w = {name: value.numpy() for name, value in core.state_dict().items()}
    known = np.concatenate([np.zeros((9, 2, 3)), x])
    wanted = np.empty_like(x)
    for t, b, i in np.ndindex(x.shape):
        row = known[t : t + 10, b, i]
        trend = moving_average(row, 25)
        wanted[t, b, i] = w["trend.weight"][0] @ trend + w["remainder.weight"][0] @ (row - trend)
    wanted += w["trend.bias"] + w["remainder.bias"]
    out, past = core(torch.from_numpy(x))
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(past.numpy(), x[-9:])


def test_the_number_of_parameters_is_that_of_the_paper():
    """139.7 thousand for 720 forecasts from 96 rows: each forecast has weights of its own; ours is the first."""
    count = sum(parameter.numel() for parameter in made(7, 96).parameters())
    assert count == 2 * (96 + 1)
    assert round(720 * count / 1000, 1) == 139.7
