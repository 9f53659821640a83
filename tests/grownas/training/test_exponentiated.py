"""Exponentiated gradient steps on shares, against numpy and against the loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.training.bilevel import architecture_gradient_first
from grownas.training.loop import fit
from grownas.training.recipe import ExponentiatedGradient, OptimizerRecipe, Recipe

RECIPE = Recipe(
    epochs=2, patience=None, bilevel="first", weights=OptimizerRecipe(rate=0.02),
    alpha=OptimizerRecipe("exponentiated", 0.1),
)  # fmt: skip
NUMBERS = st.floats(-2, 2, allow_nan=False)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8), st.floats(0.01, 2), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_step_multiplies_the_shares_and_divides_by_their_sum(pairs, rate, steps):
    start, slope = (np.array(one) for one in zip(*pairs, strict=True))
    alpha = torch.nn.Parameter(torch.tensor(start))
    optimizer, shares = ExponentiatedGradient([alpha], lr=rate), softmax(start)
    for _ in range(steps):
        optimizer.zero_grad()
        p = torch.softmax(alpha, 0)
        (0.5 * p.square() @ torch.tensor(slope)).backward()  # dL/dp = slope p
        optimizer.step()
        shares = shares * np.exp(-rate * slope * shares)
        shares = shares / shares.sum()
        np.testing.assert_allclose(torch.softmax(alpha, 0).detach().numpy(), shares, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 50.0])
def test_after_thousands_of_steps_all_is_finite_and_the_best_op_has_the_shares(dtype, rate):
    alpha = torch.nn.Parameter(torch.zeros(4, dtype=dtype))
    optimizer, cost = ExponentiatedGradient([alpha], lr=rate), torch.tensor([1.0, 0.5, 3.0, 0.6], dtype=dtype)
    for step in range(2000):
        if step == 1000:
            cost = -cost  # what had no share left must not come back as something that is not a number
        optimizer.zero_grad()
        (torch.softmax(alpha, 0) @ cost).backward()
        optimizer.step()
        assert torch.isfinite(alpha).all()
    shares = torch.softmax(alpha, 0)
    assert shares.sum().item() == pytest.approx(1, abs=1e-6)
    assert alpha.max() == 0


def test_a_node_without_a_gradient_stays():
    alphas = [torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    optimizer = ExponentiatedGradient(alphas, lr=0.1)
    (torch.softmax(alphas[0], 0) @ torch.tensor([1.0, -1.0])).backward()
    optimizer.step()
    assert alphas[1].tolist() == [1.0, 2.0]
    assert alphas[0].tolist() != [1.0, 2.0]


@pytest.mark.parametrize("kind", ["chain", "dag"])
def test_shares_of_a_search_follow_their_own_gradients(copy_task, monkeypatch, kind):
    """Each mixture of a chain or a DAG: the gradient in the shares, by autograd through them, and numpy's update."""
    task, generator = copy_task(dropout=0.2), torch.Generator().manual_seed(0)
    ops = ["none", "tanh", "relu"] if kind == "dag" else [("add", "tanh"), ("hadamard", "sigmoid"), ("add", "identity")]
    core = (DagBackbone if kind == "dag" else Backbone)(task.input_size, 3, 2, ops, generator=generator)
    expected = []

    def checking(model, task, held_out, hidden):
        shares = [torch.softmax(alpha.detach(), 0) for alpha in model.core.alpha]
        if expected:
            for share, one in zip(shares, expected[-1], strict=True):
                np.testing.assert_allclose(share.numpy(), one, rtol=1e-9)
        drawn = torch.get_rng_state()
        variables = [share.requires_grad_() for share in shares]
        model.core.set_shares(variables)
        loss = task.loss(model, model.states(held_out.x, hidden)[0], held_out)
        slopes = torch.autograd.grad(loss, variables)
        model.core.set_shares(None)
        torch.set_rng_state(drawn)
        moved = [p.detach().numpy() * np.exp(-0.1 * g.numpy()) for p, g in zip(shares, slopes, strict=True)]
        expected.append([one / one.sum() for one in moved])
        return architecture_gradient_first(model, task, held_out, hidden)

    monkeypatch.setattr("grownas.training.loop.architecture_gradient_first", checking)
    done = fit(task.model(core, generator=generator), task, RECIPE, seed=0)
    assert len(expected) == done.steps > 6
    for nodes in done.shares:
        assert all(sum(shares) == pytest.approx(1, abs=1e-12) for shares in nodes)
    for shares, one in zip(done.shares[-1], expected[-1], strict=True):
        np.testing.assert_allclose(shares, one, rtol=1e-9)
