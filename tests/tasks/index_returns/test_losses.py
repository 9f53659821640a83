"""Losses against PyTorch's own, and the weights of the volatility loss against their closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grownas.tasks.index_returns.losses import DECAY, DELTA, FLOOR, LOSSES, calmness, with_slope

THEIRS = {
    "squared": lambda output, target: 0.5 * nn.MSELoss(reduction="none")(output, target),
    "huber": nn.HuberLoss(reduction="none", delta=1.5),
    "volatility": lambda output, target: 0.5 * nn.MSELoss(reduction="none")(output, target),
}


def draw(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_pytorchs(name):
    output, target = draw(4, 5, 3, seed=1), draw(4, 5, 3, seed=2)
    results = []
    for loss in (LOSSES[name], THEIRS[name]):
        leaf = output.clone().requires_grad_()
        value = loss(leaf, target)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        results.append((value.detach(), gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_slopes_are_those_of_autograd_and_losses_have_the_same_bits(name):
    output, target = draw(4, 5, 3, seed=1).float(), draw(4, 5, 3, seed=2).float()
    leaf = output.clone().requires_grad_()
    wanted = LOSSES[name](leaf, target)
    (gradient,) = torch.autograd.grad(wanted.sum(), leaf)
    value, slope = with_slope(name, output, target)
    assert torch.equal(value, wanted.detach())
    assert torch.equal(slope, gradient)


def test_huber_is_squared_near_zero_and_linear_beyond():
    assert DELTA == 1.5
    error = torch.tensor([0.0, 1.0, -1.0, 1.5, -3.0, 10.0], dtype=torch.float64)
    # e^2 / 2 up to 1.5, then 1.5 (|e| - 0.75)
    assert LOSSES["huber"](error, torch.zeros_like(error)).tolist() == [0.0, 0.5, 0.5, 1.125, 3.375, 13.875]


def closed_form(values, train_end):
    """The same by sums instead of a recursion."""
    squares = (values**2).mean(1)
    typical = squares[:train_end].mean()
    expected = [
        DECAY**t * typical + (1 - DECAY) * sum(DECAY ** (t - 1 - s) * squares[s] for s in range(t))
        for t in range(len(values))
    ]
    weights = 1 / np.maximum(expected, FLOOR * typical)
    return (weights / weights[:train_end].mean())[:, None]


@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 1000))
def test_weights_have_the_closed_form(train_end, more, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(train_end + more, 2)) * rng.uniform(0.01, 3, size=(train_end + more, 1))
    weights = calmness(values, train_end)
    assert weights.shape == (train_end + more, 1)
    np.testing.assert_allclose(weights, closed_form(values, train_end), rtol=1e-10)
    assert weights[:train_end].mean() == pytest.approx(1, rel=1e-12)


def test_a_wild_day_lowers_the_weight_of_the_next_not_its_own():
    values = np.ones((20, 1))
    values[12] = 5.0
    weights = calmness(values, 10)[:, 0]
    np.testing.assert_allclose(weights[:13], 1, rtol=1e-12)
    assert weights[13] == pytest.approx(1 / (0.94 + 0.06 * 25), rel=1e-12)
    assert (np.diff(weights[13:]) > 0).all()  # and is forgotten again


def test_calm_days_do_not_rule_the_loss():
    values = np.concatenate([np.ones((50, 1)), np.zeros((200, 1))])
    assert calmness(values, 50).max() == pytest.approx(1 / FLOOR, rel=1e-12)


@given(st.integers(9, 28), st.integers(0, 100))
def test_a_weight_depends_on_days_before_alone(day, seed):
    """From the end of the training part on; within it the mean over the part sets the scale."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(30, 2))
    changed = values.copy()
    changed[day + 1 :] = rng.normal(size=changed[day + 1 :].shape) * 10
    before, after = calmness(values, 10), calmness(changed, 10)
    np.testing.assert_array_equal(before[: day + 2], after[: day + 2])
    assert day == 28 or (before[day + 2 :] != after[day + 2 :]).all()
