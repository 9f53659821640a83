"""minGRU against its equations, and against the figures of its paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from grownas.baselines.min_gru import MinGRU


def made(series, units, seed=0):
    return MinGRU(series, units, generator=torch.Generator().manual_seed(seed)).double()


def test_it_is_the_papers_recurrence():
    core, x = made(3, 4), np.random.default_rng(0).normal(size=(25, 2, 3))
    weight, bias = (parameter.detach().numpy() for parameter in core.parameters())
    state, wanted = np.zeros((2, 4)), []
    for now in x:
        gate, candidate = np.split(now @ weight.T + bias, 2, axis=-1)
        z = 1 / (1 + np.exp(-gate))
        state = (1 - z) * state + z * candidate
        wanted.append(state)
    out, last = core(torch.from_numpy(x))
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=0, atol=1e-12)
    assert torch.equal(last, out[-1:])


@pytest.mark.parametrize(("ratio", "percent"), [(1, 33), (2, 22), (3, 17), (4, 13)])
def test_the_share_of_a_grus_parameters_is_that_of_the_paper(ratio, percent):
    """Section 3.1.3: about 33, 22, 17 and 13 % with 1, 2, 3 and 4 times as many units as inputs, biases aside."""
    counts = [
        sum(parameter.numel() for name, parameter in core.named_parameters() if "bias" not in name)
        for core in (made(10, 10 * ratio), nn.GRU(10, 10 * ratio))
    ]
    assert round(100 * counts[0] / counts[1]) == percent


def test_the_number_of_parameters_is_that_of_two_linear_layers():
    assert sum(parameter.numel() for parameter in made(3, 7).parameters()) == 2 * 7 * (3 + 1)
