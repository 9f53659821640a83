"""A recipe checks itself: a misspelt name must not mean something else."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from grownas.errors import ConfigError
from grownas.training.recipe import (
    BILEVEL,
    OPTIMIZERS,
    OptimizerRecipe,
    Recipe,
    Updater,
    clip_gradients,
    set_rates,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(bilevel="frist"), "unknown bilevel 'frist'; choose one of joint, first, second"),
        (lambda: Recipe(decay="cosine"), "unknown decay 'cosine'; choose one of none, linear"),
        (lambda: OptimizerRecipe("adamw"), "unknown optimizer 'adamw'; choose one of adam, sgd, nt_asgd"),
        (lambda: OptimizerRecipe(rate=-0.1), "rate must be a number from 0 on, got -0.1"),
        (lambda: OptimizerRecipe(weight_decay=math.nan), "weight_decay must be a number from 0 on, got nan"),
        (lambda: Recipe(l2_sp=-1.0), "l2_sp must be a number from 0 on, got -1.0"),
        (lambda: Recipe(average=2.0), "average must be a number from 0 to 1, got 2.0"),
        (lambda: Recipe(patience=-1), "patience must be a number from 0 on, got -1"),
        (lambda: Recipe(decay_span=(0.5, 0.2)), r"decay_span .* got \(0.5, 0.2\)"),
        (lambda: replace(Recipe(), bilevel=""), "unknown bilevel ''"),
        (lambda: Recipe(last_only=True), "last_only=True evaluates no epoch but the last, which"),
        (
            lambda: Recipe(last_only=True, patience=None, weights=OptimizerRecipe("nt_asgd")),
            "last_only=True evaluates no",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_name_of_the_tables_is_taken():
    for bilevel in BILEVEL:
        assert Recipe(bilevel=bilevel).bilevel == bilevel
    for optimizer in OPTIMIZERS:
        assert OptimizerRecipe(optimizer).optimizer == optimizer


GRADIENTS = np.array([[1.0, -2.0], [0.5, 0.25], [-1.5, 3.0], [0.0, 1.0]])


def stepped(recipe):
    """Return two parameters, first 0.3 and -0.7, after a step for each of `GRADIENTS`."""
    parameter = nn.Parameter(torch.tensor([0.3, -0.7]))
    optimizer = OPTIMIZERS[recipe.optimizer]([parameter], recipe)
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_momentum_of_sgd_is_a_sum_and_that_of_adam_a_mean_of_past_gradients(momentum):
    """The rules of Polyak (1964) and of Kingma & Ba (2015), algorithm 1, in numpy."""
    plain, adam, (total, mean, square) = *(np.array([0.3, -0.7]) for _ in range(2)), np.zeros((3, 2))
    for step, gradient in enumerate(GRADIENTS, 1):
        total = momentum * total + gradient
        plain -= 0.1 * total
        mean = momentum * mean + (1 - momentum) * gradient
        square = 0.999 * square + 0.001 * gradient**2
        adam -= 0.1 * mean / (1 - momentum**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    for name, expected in (("sgd", plain), ("adam", adam)):
        np.testing.assert_allclose(stepped(OptimizerRecipe(name, 0.1, momentum)), expected, rtol=1e-5)


def test_adams_momentum_is_pytorchs_beta1_unless_it_is_set():
    parameter = nn.Parameter(torch.tensor([0.3, -0.7]))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.2, fused=True)
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    assert torch.equal(stepped(OptimizerRecipe("adam", 0.1, weight_decay=0.2)), parameter)


# --- the kernels of a step, called directly ---


def small(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (0, 3), (5,), (2, 2, 2))]


def with_gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for number, parameter in enumerate(parameters):
        has_none = step == number == 2 or (step == 3 and number >= 2)
        parameter.grad = None if has_none else torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("limit", [0.1, 5.3, 1e9])
def test_clipping_has_the_bits_of_pytorchs(limit):
    ours, theirs = small(), small()
    with_gradients(ours, 0)
    with_gradients(theirs, 0)
    norm = clip_gradients(ours, limit)
    assert norm == nn.utils.clip_grad_norm_(theirs, limit).item()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert math.sqrt(sum(p.grad.square().sum().item() for p in ours)) == pytest.approx(min(norm, limit), rel=1e-5)


@pytest.mark.parametrize("limit", [0.1, 5.3, 1e9])
def test_a_bound_on_the_norm_does_not_change_what_is_clipped(limit):
    ours, theirs = small(), small()
    with_gradients(ours, 0)
    with_gradients(theirs, 0)
    norm, bound = clip_gradients(theirs, limit), torch.full((40,), 0.5)
    found = clip_gradients(ours, limit, [torch.cat([p.grad.flatten() for p in ours]), bound])
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert found == (pytest.approx(math.hypot(norm, 0.5 * math.sqrt(40))) if limit == 1e9 else norm)


@pytest.mark.parametrize("share", [1.0, 0.9995, 0.9985, 0.99, 0.5])  # of the norm in the limit
@pytest.mark.parametrize("limit", [1e-6, 1e-4, 1e-3, 1.0])
def test_clipping_near_the_limit_has_the_bits_of_pytorchs(limit, share):
    """A limit as small as the constant that PyTorch adds to the norm clips norms that are below it."""
    ours, bounded, theirs = small(), small(), small()
    for parameters in (ours, bounded, theirs):
        with_gradients(parameters, 0)
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters))
        for p in parameters:
            p.grad *= share * limit / norm
    clip_gradients(ours, limit)
    clip_gradients(bounded, limit, [torch.cat([p.grad.flatten() for p in bounded])])
    nn.utils.clip_grad_norm_(theirs, limit)
    for a, b, c in zip(ours, bounded, theirs, strict=True):
        assert torch.equal(a.grad, c.grad)
        assert torch.equal(b.grad, c.grad)


def test_an_update_goes_on_with_a_state_that_was_loaded(assert_equal):
    def trained(update_of):
        parameters = small()
        optimizer = OPTIMIZERS["adam"](parameters, OptimizerRecipe(rate=0.01))
        update, saved = update_of(optimizer), {}
        for step in range(6):
            if step == 3:
                optimizer.load_state_dict(saved)
            with_gradients(parameters, 10 + step)
            update()
            if step == 1:
                saved = copy.deepcopy(optimizer.state_dict())
        return [p.detach() for p in parameters], optimizer.state_dict()

    assert_equal(trained(Updater), trained(lambda optimizer: optimizer.step))


@pytest.mark.parametrize("name", ["adam", "sgd", "nt_asgd"])
def test_an_update_has_the_bits_of_the_optimizers_step(name, assert_equal):
    def made():
        parameters = small()
        recipe = OptimizerRecipe(name, rate=0.01, weight_decay=0.3, momentum=0.8)
        optimizer = OPTIMIZERS[name](parameters, recipe)
        set_rates(optimizer, [(parameters[:2], 0.01), (parameters[2:], 0.1)])
        return parameters, optimizer

    (ours, updated), (theirs, stepped) = made(), made()
    update = Updater(updated)
    for step in range(5):  # in step 2 a parameter has no gradient, in step 3 a group
        with_gradients(ours, step)
        with_gradients(theirs, step)
        update()
        stepped.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert_equal(updated.state_dict(), stepped.state_dict())


def test_adamw_is_updated_by_its_kernel(monkeypatch):
    parameters = small()
    optimizer = OPTIMIZERS["adam"](parameters, OptimizerRecipe())
    with_gradients(parameters, 0)
    update = Updater(optimizer)
    update()  # makes the state
    monkeypatch.setattr(torch.optim.AdamW, "step", None)
    before = [parameter.detach().clone() for parameter in parameters]
    update()
    assert any((a != b).any() for a, b in zip(before, parameters, strict=True))
