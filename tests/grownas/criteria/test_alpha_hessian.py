"""The dominant eigenvalue against the full Hessian by autograd, and when its rise stops a search."""

from __future__ import annotations

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.criteria.alpha_hessian import counted_eigenvalue, dominant_eigenvalue, has_risen


def full_hessian(model, task, windows):
    """All second derivatives of the mean loss of the first windows in alpha; each begins at the model's own state."""
    alphas = list(model.core.alpha)
    total, hidden, count = 0.0, None, 0
    for window in task.windows("architecture", seed=0):
        out, after = model.states(window.x, hidden)
        if not window.burn_in and count < windows:
            total, count = total + task.loss(model, out, window) / windows, count + 1
        hidden = after.detach()
    first = torch.cat([one.flatten() for one in torch.autograd.grad(total, alphas, create_graph=True)])
    rows = [torch.cat(torch.autograd.grad(entry, alphas, retain_graph=True)) for entry in first]
    return torch.stack(rows)


@pytest.fixture
def supernet(copy_task):
    def build(kind, *, seed, dtype=torch.float64, **options):
        task, generator = copy_task(dtype=dtype, **options), torch.Generator().manual_seed(seed)
        chain = [("add", "identity"), ("add", "tanh"), ("hadamard", "sigmoid")]
        core = (
            DagBackbone(task.input_size, 3, 2, ["none", "tanh", "identity"], generator=generator, backend="reference")
            if kind == "dag"
            else Backbone(task.input_size, 3, 2, chain, generator=generator, backend="reference")
        )
        with torch.no_grad():
            for alpha in core.alpha:
                alpha.normal_(generator=generator)
        return task, task.model(core, generator=generator)

    return build


@pytest.mark.parametrize("kind", ["chain", "dag"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("windows", [1, 2])
def test_it_is_that_of_the_full_hessian(supernet, kind, seed, windows):
    task, model = supernet(kind, seed=seed)
    hessian = full_hessian(model.eval(), task, windows)
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-12)
    largest = torch.linalg.eigvalsh(hessian)[-1].item()
    assert largest > 1e-4
    assert dominant_eigenvalue(model, task, windows=windows) == pytest.approx(largest, rel=1e-3)


def test_each_gradient_of_a_window_is_counted(supernet, monkeypatch):
    (task, model), calls = supernet("chain", seed=0), []
    loss = type(task).loss
    monkeypatch.setattr(type(task), "loss", lambda *given: calls.append(1) or loss(*given))
    found = counted_eigenvalue(model, task, windows=2)
    assert found.gradients == len(calls) > 2 * 2
    assert found.value == dominant_eigenvalue(model, task, windows=2)


def test_it_does_without_dropout_and_leaves_the_model_alone(supernet):
    task, model = supernet("chain", seed=0, dropout=0.5)
    _, plain = supernet("chain", seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert dominant_eigenvalue(model.train(), task) == dominant_eigenvalue(plain, task)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_in_float32_is_computed_in_float64(supernet):
    (task, model), (_, exact) = (supernet("chain", seed=1, dtype=one) for one in (torch.float32, torch.float64))
    exact.load_state_dict(model.state_dict())
    assert dominant_eigenvalue(model, task) == dominant_eigenvalue(exact, task)


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ([1.0] * 30, None),
        ([1.0] * 12 + [3.0] * 9, 13),  # (4 + 3) / 5 = 1.4 over 1
        ([1.0] * 12 + [2.4] * 9, 14),  # 1.28, then 1.56
        ([1.0] * 4 + [9.0] * 30, 10),  # has risen long before, but may stop from epoch 10 on: 9 over 5.8
        ([1.07**i for i in range(30)], 10),  # 1.31 within 4 epochs
        ([1.06**i for i in range(30)], None),  # 1.26
        ([5.0 - 0.1 * i for i in range(30)], None),
        ([0.0] * 10 + [1.0] * 20, 15),  # no ratio to 0; at 15 it is 1 over .2
        ([-1.0] * 10 + [1.0] * 4, None),
    ],
)
def test_a_search_stops_where_the_mean_of_5_epochs_has_risen_by_a_third_within_4(values, stops):
    found = None
    for epoch in range(1, len(values) + 1):
        window = [values[max(0, at - 5) : at] for at in (epoch, epoch - 4)]
        means = [sum(one) / 5 for one in window]
        is_over = epoch >= 10 and means[1] > 0 and means[0] / means[1] > 1.3
        assert has_risen(values[:epoch]) == is_over
        if is_over and found is None:
            found = epoch
    assert found == stops
