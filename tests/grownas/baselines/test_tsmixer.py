"""TSMixer against its equations, window by window."""

from __future__ import annotations

import numpy as np
import torch

from grownas.baselines.tsmixer import TSMixer


def made(series, units, lookback):
    """Return a TSMixer whose norms have weights that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    core = TSMixer(series, units, lookback=lookback, generator=generator).double()
    with torch.no_grad():
        for norm in (core.time_norm, core.series_norm):
            for parameter in norm.parameters():
                parameter.normal_(generator=generator)
    return core


def norm(x, weight, bias):
    """Over rows and series together."""
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def test_it_is_the_papers_mixing_layer():
    core, x = made(3, 4, 6), np.random.default_rng(0).normal(size=(9, 2, 3))
    w = {name: value.numpy() for name, value in core.state_dict().items()}
    known = np.concatenate([np.zeros((5, 2, 3)), x])
    wanted = np.empty_like(x)
    for t in range(9):
        for b in range(2):
            rows = known[t : t + 6, b].T  # (I, L)
            inner = norm(rows, w["time_norm.weight"], w["time_norm.bias"])
            rows = rows + np.maximum(0, inner @ w["time.weight"].T + w["time.bias"])
            inner = norm(rows, w["series_norm.weight"], w["series_norm.bias"]).T  # (L, I)
            hidden = np.maximum(0, inner @ w["widen.weight"].T + w["widen.bias"])
            rows = rows + (hidden @ w["narrow.weight"].T + w["narrow.bias"]).T
            wanted[t, b] = rows @ w["forecast.weight"][0] + w["forecast.bias"]
    out, past = core(torch.from_numpy(x))
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(past.numpy(), x[-5:])


def test_every_series_is_read_by_every_other():
    core, x = made(3, 16, 6), torch.randn(9, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    for series in range(3):
        (gradient,) = torch.autograd.grad(core(x)[0][-1, 0, series], x)
        assert (gradient[-6:, 0].abs().sum(0) > 0).all()
        assert not gradient[:-6].any()


def test_the_number_of_parameters_is_the_sum_over_the_parts():
    series, units, lookback = 3, 4, 6
    wanted = 2 * 2 * series * lookback + lookback * (lookback + 1) + lookback + 1
    wanted += units * (series + 1) + series * (units + 1)
    assert sum(parameter.numel() for parameter in made(series, units, lookback).parameters()) == wanted
