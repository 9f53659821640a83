"""Several teachers as one."""

from __future__ import annotations

import torch

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
    expected = task.loss(student, out, plain) + 0.3 * (student.decode(out) - mean).square().mean()
    assert torch.allclose(taught.loss(student, out, window), expected, rtol=0, atol=1e-12)
