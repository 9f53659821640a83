"""Several teachers as one."""

from __future__ import annotations

import pytest
import torch

from grownas.training import distil
from grownas.training.distil import Distilled, MeanOf


def test_several_teachers_predict_their_mean_each_with_a_state_of_its_own(copy_task, make_model):
    task = copy_task()
    models = [make_model(task, seed=seed) for seed in (1, 2, 3)]
    teacher, (first, second) = MeanOf(models), list(task.windows("train", seed=0))[:2]
    states, hidden = [None] * 3, None
    for window in (first, second):
        expected = []
        for place, model in enumerate(models):
            out, states[place] = model(window.x, states[place])
            expected.append(out)
        predictions, hidden = teacher(window.x, hidden)
        assert torch.allclose(predictions, sum(expected) / 3, rtol=0, atol=1e-12)


def test_a_students_loss_draws_it_to_the_mean(copy_task, make_model):
    task = copy_task()
    models, student = [make_model(task, seed=seed) for seed in (1, 2)], make_model(task, seed=4)
    taught = Distilled(task, "train", weight=0.3, temperature=1.0, teacher=MeanOf(models))
    (before, plain), (_, window) = (list(one.windows("train", seed=0))[:2] for one in (task, taught))  # one of burn-in
    mean = sum(model(torch.cat([before.x, plain.x]))[0][len(before.x) :] for model in models) / 2
    out, _ = student.states(plain.x)
    expected = task.loss(student, out, plain) + 0.3 * (student.predictions(out, plain.x) - mean).square().mean()
    assert torch.allclose(taught.loss(student, out, window), expected, rtol=0, atol=1e-12)


def test_a_teacher_reads_several_windows_at_once_as_one_after_the_other(copy_task, make_model, monkeypatch):
    task, found = copy_task(), []
    for most in (1, 10**6):
        monkeypatch.setattr(distil, "AT_ONCE", most)
        teacher = MeanOf([make_model(task, seed=seed) for seed in (1, 2)])
        calls = []
        teacher.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        taught = Distilled(task, "train", weight=0.3, temperature=1.0, teacher=teacher)
        taught.teacher = teacher  # with the hook
        windows = list(taught.windows("train", seed=0))
        found.append((torch.cat([one.taught for one in windows if one.taught is not None]), len(calls), len(windows)))
    (alone, most_calls, count), (together, fewest_calls, _) = found
    assert (most_calls, fewest_calls) == (count, 2)  # the first window shows how large predictions are
    assert torch.allclose(alone, together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_slope_of_the_loss_is_its_gradient(copy_task, make_model, weighted):
    class Sloped(copy_task):
        def loss_and_slope(self, window, predictions):
            apart = predictions - window.target
            weight = torch.ones_like(apart) if window.weight is None else window.weight
            return (weight * apart**2).mean(), 2 * weight * apart / apart.numel()

    task = Sloped()
    taught = Distilled(task, "train", weight=0.3, temperature=1.0, teacher=make_model(task, seed=1))
    window = list(taught.windows("train", seed=0))[1]
    predictions = torch.randn(window.taught.shape, dtype=torch.float64, requires_grad=True)
    if weighted:
        window = window._replace(weight=torch.rand(*window.taught.shape[:2], 1, dtype=torch.float64))
    weight = 1 if window.weight is None else window.weight
    expected = (weight * (predictions - window.target) ** 2).mean()
    expected = expected + 0.3 * (weight * (predictions - window.taught) ** 2).mean()
    loss, slope = taught.loss_and_slope(window, predictions.detach())
    assert torch.allclose(loss, expected.detach(), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(expected, predictions)
    assert torch.allclose(slope, gradient, rtol=0, atol=1e-12)
    assert not hasattr(Distilled(copy_task(), "train", weight=0.3, temperature=1.0), "loss_and_slope")
