"""Perturbed shares: where they lie, who sees them, how large they are, and what they do to the loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.training import loop, perturb
from grownas.training.bilevel import window_loss
from grownas.training.loop import fit
from grownas.training.perturb import ATTACK_STEPS, perturbed_shares, project_on_simplex, with_shares
from grownas.training.recipe import OptimizerRecipe, Recipe

NUMBERS = st.floats(-3, 3, allow_nan=False)
RECIPE = Recipe(
    epochs=3, patience=None, bilevel="first", perturb="random", perturb_size=(0.1, 0.4),
    weights=OptimizerRecipe(rate=0.02), alpha=OptimizerRecipe(rate=0.05),
)  # fmt: skip


def nearest_by_faces(point):
    """Project on each face of the simplex, given by its corners, and return the nearest projection that lies on it."""
    found = []
    for size in range(1, len(point) + 1):
        for corners in itertools.combinations(range(len(point)), size):
            on = np.zeros_like(point)
            chosen = point[list(corners)]
            on[list(corners)] = chosen + (1 - chosen.sum()) / size
            if (on >= 0).all():
                found.append(on)
    return min(found, key=lambda on: ((on - point) ** 2).sum())


@given(st.lists(NUMBERS, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_the_projection_is_the_nearest_point_of_all_faces(values):
    point = np.array(values)
    found = project_on_simplex(torch.tensor(point)).numpy()
    np.testing.assert_allclose(found, nearest_by_faces(point), rtol=0, atol=1e-12)


def test_a_point_of_the_simplex_stays_and_equal_values_become_equal_shares():
    point = torch.tensor([0.2, 0.5, 0.0, 0.3])
    torch.testing.assert_close(project_on_simplex(point), point, rtol=0, atol=1e-7)
    assert project_on_simplex(torch.full((4,), -7.0)).tolist() == [0.25] * 4
    assert project_on_simplex(torch.tensor([9.0, 0.0])).tolist() == [1.0, 0.0]


@pytest.fixture
def shared(copy_task):
    """Return a task, a model around a supernet of a kind, and a window."""

    def build(kind="chain", **options):
        task, generator = copy_task(**options), torch.Generator().manual_seed(0)
        ops = ["none", "tanh", "identity"] if kind == "dag" else [("add", "tanh"), ("hadamard", "sigmoid")]
        core = (DagBackbone if kind == "dag" else Backbone)(task.input_size, 3, 2, ops, generator=generator)
        with torch.no_grad():
            for alpha in core.alpha:
                alpha.normal_(generator=generator)
        return task, task.model(core, generator=generator).train(), list(task.windows("weights", seed=0))[1]

    return build


@pytest.mark.parametrize("core", ["chain", "dag"])
@pytest.mark.parametrize("kind", ["random", "adversarial"])
def test_shares_stay_on_the_simplex_and_near_their_own_and_the_model_as_it_was(shared, kind, core):
    task, model, window = shared(core)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = [torch.softmax(alpha.detach(), 0) for alpha in model.core.alpha]
    torch.manual_seed(1)
    for size in (0.0, 0.05, 0.3):
        shares, gradients = perturbed_shares(model, task, window, None, kind=kind, size=size)
        assert gradients == (ATTACK_STEPS if kind == "adversarial" else 0)
        for share, one in zip(shares, own, strict=True):
            assert not share.requires_grad
            assert (share >= 0).all()
            assert share.sum().item() == pytest.approx(1, abs=1e-12)
            # the nearest point of the simplex to one within `size` in each share; the projection adds at most as much
            assert (share - one).abs().max() <= 2 * size + 1e-12
            assert size == 0 or (share - one).abs().max() > size / 20
    assert all(alpha.grad is None for alpha in model.core.alpha)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for share, one in zip(model.core.shares, own, strict=True):
        assert torch.equal(share, one)


@pytest.mark.parametrize("core", ["chain", "dag"])
def test_an_attack_raises_the_loss_more_than_chance(shared, core):
    task, model, window = shared(core)

    @torch.no_grad()
    def mean_loss(kind):
        losses = []
        for _ in range(10):
            with torch.enable_grad():
                shares, _ = perturbed_shares(model, task, window, None, kind=kind, size=0.2)
            with with_shares(model.core, shares):
                losses.append(window_loss(model, task, window, None)[0].item())
        return np.mean(losses)

    torch.manual_seed(0)
    unperturbed = window_loss(model, task, window, None)[0].item()
    attacked, random = mean_loss("adversarial"), mean_loss("random")
    assert attacked > random
    assert attacked > unperturbed


def test_the_attack_is_that_of_a_few_lines(shared):
    """With uniform draws replaced by zeros: 7 steps of 2 size / 7 along the sign, in the box, on the simplex."""
    task, model, window = shared()
    own = [torch.softmax(alpha.detach(), 0) for alpha in model.core.alpha]
    size, found = 0.2, [p.clone() for p in own]
    torch.manual_seed(0)
    drawn = [torch.empty_like(p).uniform_(-size, size) for p in own]
    found = [torch.from_numpy(nearest_by_faces((p + u).numpy())) for p, u in zip(own, drawn, strict=True)]
    for _ in range(7):
        found = [p.requires_grad_() for p in found]
        model.core.set_shares(found)
        task.loss(model, model.states(window.x)[0], window).backward()
        stepped = [(p + 2 * size / 7 * p.grad.sign()).detach() for p in found]
        boxed = [torch.minimum(torch.maximum(p, o - size), o + size) for p, o in zip(stepped, own, strict=True)]
        found = [torch.from_numpy(nearest_by_faces(p.numpy())) for p in boxed]
    model.core.set_shares(None)
    torch.manual_seed(0)
    shares, _ = perturbed_shares(model, task, window, None, kind="adversarial", size=size)
    for share, expected in zip(shares, found, strict=True):
        torch.testing.assert_close(share, expected, rtol=0, atol=1e-12)


def test_only_the_step_of_the_weights_sees_them(copy_task, make_model, monkeypatch):
    """Alpha's own step and every evaluation see softmax(alpha), and they are alpha's again after each step."""
    seen, made, inner = {"weights": [], "alpha": [], "val": []}, [], perturb.perturbed_shares

    def is_given(model):
        own = [torch.softmax(alpha, 0) for alpha in model.core.alpha]
        return not all(torch.equal(one, share) for one, share in zip(own, model.core.shares, strict=True))

    class Watched(copy_task):
        def loss(self, model, out, window):
            seen["alpha" if (window.x.data_ptr() in held_out) else "weights"].append(is_given(model))
            if made and window.x.data_ptr() not in held_out:
                assert all(torch.equal(a, b) for a, b in zip(model.core.shares, made[-1], strict=True))
            return super().loss(model, out, window)

        def evaluate(self, model, part):
            seen["val"].append(is_given(model))
            return super().evaluate(model, part)

        def windows(self, part, *, seed):
            for window in super().windows(part, seed=seed):
                if part == "architecture":
                    held_out.add(window.x.data_ptr())
                yield window

    def noting(*args, **options):
        shares, gradients = inner(*args, **options)
        made.append(shares)
        return shares, gradients

    held_out = set()
    monkeypatch.setattr(loop, "perturbed_shares", noting)
    task = Watched()
    done = fit(make_model(task, nodes=2), task, RECIPE, seed=0)
    assert seen["weights"] == [True] * done.steps
    assert seen["alpha"] == [False] * done.steps
    assert seen["val"] == [False] * (done.epochs + 2)
    assert not is_given(done.model)


def test_the_size_grows_linearly_over_all_steps(copy_task, make_model, monkeypatch):
    sizes, inner = [], perturb.perturbed_shares
    monkeypatch.setattr(loop, "perturbed_shares", lambda *args, **o: (sizes.append(o["size"]), inner(*args, **o))[1])
    task = copy_task()
    done = fit(make_model(task), task, RECIPE, seed=0)
    windows = 1 + done.steps // 3  # of an epoch: the first carries the state only
    expected = [0.1 + 0.3 * (epoch + step / windows) / 3 for epoch in range(3) for step in range(1, windows)]
    assert sizes == pytest.approx(expected, rel=1e-12)


def test_a_perturbation_of_size_0_is_none(copy_task, make_model, assert_equal):
    task, found = copy_task(), []
    for kind in ("none", "random"):
        recipe = Recipe(epochs=2, patience=None, bilevel="first", perturb=kind, perturb_size=(0.0, 0.0))
        found.append(fit(make_model(task), task, recipe, seed=0))
    for one, other in zip(*(done.model.state_dict().values() for done in found), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)  # the projection rounds
