"""The second order against plain differentiation in float64, where masks are drawn and rates differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grownas.training import loop
from grownas.training.bilevel import architecture_gradient_second
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, Recipe, make_optimizers, set_rates, split_parameters

SEED = 5


def exact_gradient(model, rates, window, held_out):
    """Differentiate through the step of the weights; masks are drawn once for each of the two losses."""
    named = dict(model.named_parameters())
    weights = {name: p for name, p in named.items() if not name.endswith("alpha")}
    alphas = {name: p for name, p in named.items() if name.endswith("alpha")}

    def loss(values, at):
        return (torch.func.functional_call(model, values, (at.x,))[0] - at.target).square().mean()

    torch.manual_seed(SEED)
    slopes = torch.autograd.grad(loss(named, window), list(weights.values()), create_graph=True)
    stepped = {name: w - r * s for (name, w), r, s in zip(weights.items(), rates, slopes, strict=True)}
    exact = torch.autograd.grad(loss({**stepped, **alphas}, held_out), list(alphas.values()))
    drawn = torch.get_rng_state()
    torch.manual_seed(SEED)
    loss(named, window)
    direct = torch.autograd.grad(
        loss({**{k: v.detach() for k, v in stepped.items()}, **alphas}, held_out), list(alphas.values())
    )
    return exact, max(float((e - d).abs().max()) for e, d in zip(exact, direct, strict=True)), drawn


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("rates", ["one", "each"])
def test_second_order_equals_the_exact_gradient_of_the_masks_it_draws(copy_task, make_model, dropout, rates):
    task = copy_task(dropout=dropout)
    model = make_model(task, seed=4, nodes=2, backend="reference").train()
    window, held_out = list(task.windows("weights", seed=0))[1], list(task.windows("architecture", seed=0))[2]
    weights, _ = split_parameters(model)
    each = [0.7 if rates == "one" else 0.2 * (1 + number % 4) for number in range(len(weights))]
    exact, implicit, drawn = exact_gradient(model, each, window, held_out)
    assert implicit > 1e-4
    torch.manual_seed(SEED)
    rate = 0.7 if rates == "one" else each
    found, _ = architecture_gradient_second(model, task, window, None, held_out, None, rate=rate)
    for gradient, true in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient, true, rtol=0, atol=1e-4 * implicit)
    assert torch.equal(torch.get_rng_state(), drawn)  # as if each loss had been computed once


def test_the_look_ahead_has_the_rates_of_the_step(copy_task, make_model, monkeypatch):
    """In the warm-up, on a window with a factor, for two groups of weights with rates of their own."""
    asked, inner = [], architecture_gradient_second

    def noting(*args, rate):
        asked.append(rate)
        return inner(*args, rate=rate)

    class Slower(copy_task):
        def windows(self, part, *, seed):
            return (window._replace(rate=0.5) for window in super().windows(part, seed=seed))

    monkeypatch.setattr(loop, "architecture_gradient_second", noting)
    task = Slower()
    model = make_model(task)
    recipe = Recipe(epochs=1, patience=None, warm_up=10, bilevel="second", weights=OptimizerRecipe("sgd", 0.1, 0.0))
    optimizers = make_optimizers(model, recipe)
    weights, _ = split_parameters(model)
    set_rates(optimizers[0], [(weights[:2], 0.3), (weights[2:], 0.1)])
    fit(model, task, recipe, seed=0, optimizers=optimizers)
    own = [0.3, 0.3] + [0.1] * (len(weights) - 2)
    for step, rates in enumerate(asked, 1):
        assert rates == pytest.approx([0.5 * step / 10 * one for one in own], rel=1e-12)
    assert len(asked) > 4


def test_without_a_schedule_the_look_ahead_has_the_rate_of_the_recipe(copy_task, make_model, monkeypatch):
    rates = []
    inner = architecture_gradient_second
    monkeypatch.setattr(
        loop, "architecture_gradient_second", lambda *args, rate: (rates.extend(rate), inner(*args, rate=rate))[1]
    )
    task = copy_task()
    recipe = replace(Recipe(), epochs=1, bilevel="second", weights=OptimizerRecipe(rate=0.02))
    fit(make_model(task), task, recipe, seed=0)
    assert set(rates) == {0.02}
