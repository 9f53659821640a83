"""The second order against plain differentiation in float64, where masks are drawn and rates differ."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from grownas.backbones.dag import DagBackbone
from grownas.training import loop
from grownas.training.bilevel import architecture_gradient_first, architecture_gradient_second, window_loss
from grownas.training.loop import fit
from grownas.training.perturb import perturbed_shares
from grownas.training.recipe import OptimizerRecipe, Recipe, make_optimizers, set_rates, split_parameters

SEED = 5


def exact_gradient(model, rates, window, held_out, *, hidden=(None, None), clip=math.inf):
    """Differentiate through the step of the weights; masks are drawn once for each of the two losses.

    Also returned: the largest part that the step adds, and the generator's state afterwards.
    """
    named = dict(model.named_parameters())
    weights = {name: p for name, p in named.items() if not name.endswith("alpha")}
    alphas = {name: p for name, p in named.items() if name.endswith("alpha")}

    def loss(values, at, state):
        return (torch.func.functional_call(model, values, (at.x, state))[0] - at.target).square().mean()

    begun = torch.get_rng_state()
    slopes = torch.autograd.grad(loss(named, window, hidden[0]), list(weights.values()), create_graph=True)
    norm = torch.cat([slope.detach().flatten() for slope in slopes]).norm().item()
    factor = clip / norm if norm > clip else 1.0
    stepped = {n: w - factor * r * s for (n, w), r, s in zip(weights.items(), rates, slopes, strict=True)}
    exact = torch.autograd.grad(loss({**stepped, **alphas}, held_out, hidden[1]), list(alphas.values()))
    drawn = torch.get_rng_state()
    torch.set_rng_state(begun)
    loss(named, window, hidden[0])
    fixed = {name: w.detach() for name, w in stepped.items()}
    direct = torch.autograd.grad(loss({**fixed, **alphas}, held_out, hidden[1]), list(alphas.values()))
    torch.set_rng_state(begun)
    return exact, max(float((e - d).abs().max()) for e, d in zip(exact, direct, strict=True)), drawn


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("rates", ["one", "each"])
def test_second_order_equals_the_exact_gradient_of_the_masks_it_draws(copy_task, make_model, dropout, rates):
    task = copy_task(dropout=dropout)
    model = make_model(task, seed=4, nodes=2, backend="reference").train()
    window, held_out = list(task.windows("weights", seed=0))[1], list(task.windows("architecture", seed=0))[2]
    weights, _ = split_parameters(model)
    each = [0.7 if rates == "one" else 0.2 * (1 + number % 4) for number in range(len(weights))]
    torch.manual_seed(SEED)
    exact, implicit, drawn = exact_gradient(model, each, window, held_out)
    assert implicit > 1e-4
    rate = 0.7 if rates == "one" else each
    found, _ = architecture_gradient_second(model, task, window, None, held_out, None, rate=rate)
    for gradient, true in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient, true, rtol=0, atol=1e-4 * implicit)
    assert torch.equal(torch.get_rng_state(), drawn)  # as if each loss had been computed once


@pytest.mark.parametrize("clip", [0.05, 1e3])
def test_the_look_ahead_is_clipped_as_the_step_is(copy_task, make_model, clip):
    task = copy_task()
    model = make_model(task, seed=4, nodes=2, backend="reference").train()
    window, held_out = list(task.windows("weights", seed=0))[1], list(task.windows("architecture", seed=0))[2]
    each = [0.7] * len(split_parameters(model)[0])
    exact, implicit, _ = exact_gradient(model, each, window, held_out, clip=clip)
    found, _ = architecture_gradient_second(model, task, window, None, held_out, None, rate=0.7, clip=clip)
    plain, _ = architecture_gradient_second(model, task, window, None, held_out, None, rate=0.7)
    for gradient, true, one in zip(found, exact, plain, strict=True):
        torch.testing.assert_close(gradient, true, rtol=0, atol=1e-4 * implicit)
        assert torch.equal(gradient, one) == (clip == 1e3)


BOTH = {"decay": "linear", "warm_up": 7}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("momentum", "changes"),
    [(0.9, {"decay": "linear"}), (0.9, {"warm_up": 7}), (0.9, BOTH), (0.5, BOTH), (0.0, BOTH)],
    ids=str,
)
def test_every_step_of_a_fit_has_the_exact_gradient_at_the_rate_of_that_very_step(
    copy_task, make_model, monkeypatch, optimizer, momentum, changes
):
    """With dropout, states that are carried along, clipping, and weights moved by momentum or Adam.

    Alpha is moved by the other optimiser with the same momentum.
    """
    asked, taken, inner = [], [], architecture_gradient_second

    def checking(model, task, window, hidden, held_out, held_out_hidden, *, rate, clip):
        exact, implicit, drawn = exact_gradient(
            model, rate, window, held_out, hidden=(hidden, held_out_hidden), clip=clip
        )
        before = [p.detach().clone() for p in model.parameters()]
        found, after = inner(model, task, window, hidden, held_out, held_out_hidden, rate=rate, clip=clip)
        assert all(one.equal(own) for one, own in zip(before, model.parameters(), strict=True))
        for gradient, true in zip(found, exact, strict=True):
            torch.testing.assert_close(gradient, true, rtol=0, atol=1e-3 * implicit)
        assert torch.equal(torch.get_rng_state(), drawn)
        asked.append(rate[0])
        return found, after

    def noting(updater):
        if len(updater.optimizer.param_groups[0]["params"]) > 1:  # not alpha's
            taken.append(updater.optimizer.param_groups[0]["lr"])
        updater.optimizer.step()

    monkeypatch.setattr(loop.Updater, "__call__", noting)
    monkeypatch.setattr(loop, "architecture_gradient_second", checking)
    task = copy_task(dropout=0.3)
    weights = OptimizerRecipe(optimizer, 0.5 if optimizer == "sgd" else 0.05, momentum)
    alpha = OptimizerRecipe("adam" if optimizer == "sgd" else "sgd", 0.05, momentum)
    recipe = Recipe(
        epochs=2,
        patience=None,
        clip=0.3,
        bilevel="second",
        weights=weights,
        alpha=alpha,
        **changes,
    )
    fit(make_model(task, seed=4, backend="reference"), task, recipe, seed=0)
    assert asked == taken
    assert len(set(taken)) > 6


def test_the_look_ahead_has_the_rates_of_the_step(copy_task, make_model, monkeypatch):
    """In the warm-up, on a window with a factor, for two groups of weights with rates of their own."""
    asked, inner = [], architecture_gradient_second

    def noting(*args, rate, clip):
        asked.append(rate)
        return inner(*args, rate=rate, clip=clip)

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
        loop, "architecture_gradient_second", lambda *args, rate, clip: (rates.extend(rate), inner(*args, rate=rate))[1]
    )
    task = copy_task()
    recipe = replace(Recipe(), epochs=1, bilevel="second", weights=OptimizerRecipe(rate=0.02))
    fit(make_model(task), task, recipe, seed=0)
    assert set(rates) == {0.02}


def test_running_moments_follow_the_steps_of_the_weights_alone(copy_task):
    """Not the gradients of alpha, nor an attack on the shares: they are taken at other weights or shares."""
    task, generator = copy_task(), torch.Generator().manual_seed(0)
    core = DagBackbone(task.input_size, 3, 2, ["none", "tanh", "relu"], norm=True, generator=generator)
    model = task.model(core, generator=generator).train()
    window, held_out = list(task.windows("weights", seed=0))[1], list(task.windows("architecture", seed=0))[2]
    before = core.moments.clone()
    architecture_gradient_first(model, task, held_out, None)
    architecture_gradient_second(model, task, window, None, held_out, None, rate=0.1)
    perturbed_shares(model, task, window, None, kind="adversarial", size=0.1)
    assert torch.equal(core.moments, before)
    window_loss(model, task, window, None)
    assert not torch.equal(core.moments, before)
