"""The training loop on a small task: what it keeps, when it stops, and that a broken fit equals an unbroken one."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from grownas.errors import TrainingError
from grownas.morphisms import blend_node
from grownas.protocols import Evaluation
from grownas.training.bilevel import architecture_gradient_first, architecture_gradient_second, window_loss
from grownas.training.loop import Silent, Trainer, fit
from grownas.training.recipe import (
    OptimizerRecipe,
    Recipe,
    count_parameters,
    make_optimizers,
    set_rates,
    split_parameters,
)

SGD = OptimizerRecipe("sgd", rate=0.1, momentum=0.0)
QUICK = Recipe(epochs=2, patience=None, weights=OptimizerRecipe(rate=0.01), alpha=OptimizerRecipe(rate=0.02))
UNCLIPPED = 1e9


class Watch(Silent):
    """Keeps the lines without their times, and a snapshot after each step."""

    def __init__(self) -> None:
        self.lines, self.snapshots = [], []

    def record(self, line):
        assert line["wall_s"] >= 0
        self.lines.append({key: value for key, value in line.items() if key != "wall_s"})

    def after_step(self, snapshot):
        self.snapshots.append(snapshot())

    def failed(self, snapshot):
        self.last_good = snapshot()

    def losses(self, split="val"):
        return [line["value"] for line in self.lines if (line["split"], line["metric"]) == (split, "loss")]


def scripted(task_class, losses):
    """The task with validation losses from a list, the last one for ever."""

    class Scripted(task_class):
        def evaluate(self, model, part):
            self.asked = getattr(self, "asked", -1) + 1
            value = losses[min(self.asked, len(losses) - 1)]
            return Evaluation(value, np.full(4, value))

    return Scripted()


# --- what is kept, and when it stops ---


def test_training_learns_the_task(copy_task, make_model):
    task = copy_task()
    start = make_model(task, hidden=4)
    done = fit(start, task, Recipe(epochs=40, weights=OptimizerRecipe(rate=0.02)), seed=0)
    assert done.loss < 0.3 * task.evaluate(start, "val").losses.mean()


def test_the_best_epoch_is_kept(copy_task, make_model):
    task, watch = copy_task(), Watch()
    recipe = Recipe(epochs=30, patience=5, weights=OptimizerRecipe(rate=0.3))
    done = fit(make_model(task), task, recipe, seed=0, monitor=watch)
    losses = watch.losses()
    assert 0 < done.best_epoch < done.epochs
    assert losses.index(min(losses)) == done.best_epoch
    assert len(losses) == done.epochs + 1
    assert done.loss == min(losses) == task.evaluate(done.model, "val").losses.mean()
    assert done.steps == watch.lines[-1]["step"]


def test_the_untrained_model_is_the_first_candidate(copy_task, make_model, assert_equal):
    task = copy_task()
    start = make_model(task)
    recipe = Recipe(epochs=50, patience=2, weights=OptimizerRecipe("sgd", rate=0.05, momentum=0.0))
    done = fit(start, scripted(copy_task, [1.0, 2.0]), recipe, seed=0)
    assert (done.best_epoch, done.epochs) == (0, 2)
    assert_equal(dict(done.model.state_dict()), dict(start.state_dict()))
    assert not done.optimizers[0].state


def test_the_optimizers_are_those_of_the_best_epoch(copy_task, make_model):
    task = scripted(copy_task, [3.0, 2.0, 1.0, 4.0, 4.0])
    done = fit(make_model(task), task, Recipe(patience=2, epochs=9), seed=0)
    steps = {int(state["step"]) for state in done.optimizers[0].state.values()}
    assert (done.best_epoch, done.epochs) == (2, 4)
    assert steps == {done.steps // 2}


@pytest.mark.parametrize(
    ("patience", "epochs", "best", "reason"),
    [
        (1, 2, 1, "no lower validation loss for 1 epochs"),
        (2, 3, 1, "no lower validation loss for 2 epochs"),
        (3, 7, 4, "no lower validation loss for 3 epochs"),
        (6, 9, 4, "9 epochs reached"),
    ],
)
def test_patience(copy_task, make_model, patience, epochs, best, reason):
    task = scripted(copy_task, [5.0, 4.0, 4.0, 4.5, 3.0, 3.5, 3.0, 3.9, 3.1, 3.2])
    done = fit(make_model(task), task, Recipe(epochs=9, patience=patience), seed=0)
    assert (done.epochs, done.best_epoch, done.reason) == (epochs, best, reason)


def test_all_epochs_are_trained_without_patience_and_the_last_is_kept(copy_task, make_model):
    task = scripted(copy_task, [1.0, 2.0, 3.0, 4.0])
    done = fit(make_model(task), task, Recipe(epochs=3, patience=None), seed=0)
    assert (done.epochs, done.best_epoch, done.reason) == (3, 3, "3 epochs reached")


def test_evaluating_the_last_epoch_only_gives_the_same_model_and_goes_on_after_a_break(
    copy_task, make_model, assert_equal
):
    task, recipe, watch = copy_task(), replace(QUICK, epochs=3), Watch()
    model = make_model(task)
    every = fit(model, task, recipe, seed=1)
    last = fit(model, task, replace(recipe, last_only=True), seed=1, monitor=watch)
    assert_equal(last.model.state_dict(), every.model.state_dict())
    assert [line["epoch"] for line in watch.lines if line["split"] == "val"] == [3, 3]  # loss and metric
    assert (last.epochs, last.best_epoch, last.reason) == (3, 3, every.reason)
    again = fit(model, task, replace(recipe, last_only=True), seed=1, resume=watch.snapshots[2])
    assert_equal(again.model.state_dict(), every.model.state_dict())


def test_lines_say_epoch_step_split_and_metric(copy_task, make_model):
    task, watch = copy_task(), Watch()
    fit(make_model(task), task, QUICK, seed=0, monitor=watch)
    kinds = [(line["epoch"], line["split"], line["metric"]) for line in watch.lines]
    later = [(epoch, *kind) for epoch in (1, 2) for kind in (("val", "loss"), ("val", "mse"), ("train", "loss"))]
    assert kinds == [(0, "val", "loss"), (0, "val", "mse"), *later]
    assert [line["step"] for line in watch.lines if line["metric"] == "mse"] == [0, 10, 20]


# --- one step ---


def by_hand(task, model, recipe, epochs, *, seed):
    """The joint loop again, written plainly: AdamW, clipping, l2_sp."""
    model = copy.deepcopy(model)
    weights, alphas = split_parameters(model)
    start = [p.detach().clone() for p in (*weights, *alphas)]
    optimizers = [torch.optim.AdamW(weights, lr=recipe.weights.rate, weight_decay=recipe.weights.weight_decay)]
    optimizers.append(torch.optim.AdamW(alphas, lr=recipe.alpha.rate, weight_decay=recipe.alpha.weight_decay))
    hidden = None
    for epoch in range(epochs):
        data_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        for window in task.windows("train", seed=data_seed):
            output, hidden = model(window.x, None if window.fresh else hidden)
            hidden = hidden.detach()
            if window.burn_in:
                continue
            for optimizer in optimizers:
                optimizer.zero_grad()
            (output - window.target).square().mean().backward()
            norm = math.sqrt(sum(float(w.grad.square().sum()) for w in weights))
            for w in weights:
                w.grad *= min(1.0, recipe.clip / (norm + 1e-6))
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                for number, (p, p_0) in enumerate(zip((*weights, *alphas), start, strict=True)):
                    rate = recipe.weights.rate if number < len(weights) else recipe.alpha.rate
                    p += rate * recipe.l2_sp * (p_0 - p)
    return model


@pytest.mark.parametrize("l2_sp", [0.0, 30.0])
def test_the_loop_equals_one_written_by_hand(copy_task, make_model, l2_sp):
    task = copy_task()
    start = make_model(task)
    recipe = replace(QUICK, clip=0.05, l2_sp=l2_sp, weights=OptimizerRecipe(rate=0.01, weight_decay=0.1))
    done, expected = fit(start, task, recipe, seed=5).model, by_hand(task, start, recipe, 2, seed=5)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(done.state_dict()[name], value, rtol=0, atol=1e-13)


@pytest.mark.parametrize("clip", [0.01, UNCLIPPED])
def test_clip_bounds_the_norm_of_the_weights_gradient(copy_task, make_model, clip):
    task = copy_task()
    trainer = Trainer(make_model(task), task, replace(QUICK, clip=clip, weights=SGD), seed=0, monitor=Silent())
    window = list(task.windows("train", seed=0))[1]
    before = [w.detach().clone() for w in trainer.weights]
    gradients = torch.autograd.grad(window_loss(trainer.model, task, window, None)[0], trainer.weights)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert norm > 0.1
    trainer._train_on(window)
    for w, old, gradient in zip(trainer.weights, before, gradients, strict=True):
        torch.testing.assert_close(old - w, 0.1 * gradient * min(1.0, clip / (norm + 1e-6)), rtol=1e-9, atol=1e-15)


def test_l2_sp_moves_each_parameter_back_by_its_own_rate_times_l2_sp(copy_task, make_model):
    task = copy_task()
    start = make_model(task)
    recipe, window = replace(QUICK, clip=UNCLIPPED), list(task.windows("train", seed=0))[1]
    optimizers = make_optimizers(start, recipe)  # alpha has twice the weights' rate
    weights, _ = split_parameters(start)
    rates = {"core.nodes.0.W_h": 0.1, "core.nodes.0.alpha": 0.02}  # a group of its own
    own = [w for w in weights if w is start.core.nodes[0].W_h]
    set_rates(optimizers[0], [([w for w in weights if w is not own[0]], 0.01), (own, 0.1)])
    trainers = [
        Trainer(start, task, replace(recipe, l2_sp=l2_sp), seed=0, monitor=Silent(), optimizers=optimizers)
        for l2_sp in (0.0, 5.0)
    ]
    for trainer in trainers:
        trainer._train_on(window)
    named = [dict(trainer.model.named_parameters()) for trainer in trainers]
    for name, p_0 in start.named_parameters():
        p, pulled = named[0][name], named[1][name]
        torch.testing.assert_close(pulled, p + rates.get(name, 0.01) * 5.0 * (p_0 - p), rtol=0, atol=1e-15)


def test_with_a_constant_gradient_l2_sp_holds_a_parameter_within_one_over_l2_sp(copy_task, make_model):
    class Falling(copy_task):
        def loss(self, model, out, window):
            return model.predictions(out, window.x).sum(2).mean()  # the readout's bias has gradient 1, always

    task, l2_sp, rate = Falling(), 50.0, 0.002
    start = make_model(task)
    recipe = Recipe(epochs=12, patience=None, l2_sp=l2_sp, clip=UNCLIPPED, weights=OptimizerRecipe(rate=rate))
    done = fit(start, task, recipe, seed=0)
    moved = start.readout.bias - done.model.readout.bias
    a = rate * l2_sp  # d <- (1 - a) (d + rate): Adam's step is the rate where the gradient is constant
    expected = rate * (1 - a) / a * (1 - (1 - a) ** done.steps)
    torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-6, atol=0)
    assert 0.8 / l2_sp < expected < 1 / l2_sp


def test_l2_sp_bounds_every_parameter(copy_task, make_model):
    task = copy_task()
    start = make_model(task)
    adam = 0.1 / math.sqrt(0.001 * (1 - 0.81 / 0.999))  # the largest step in rates, by Cauchy-Schwarz

    def farthest(l2_sp):
        recipe = Recipe(epochs=30, patience=None, l2_sp=l2_sp, weights=OptimizerRecipe(rate=0.01))
        done = dict(fit(start, task, recipe, seed=0).model.named_parameters())
        return max(float((done[name] - p).detach().abs().max()) for name, p in start.named_parameters())

    assert farthest(50.0) <= adam / 50.0 < farthest(0.0)


def test_an_l2_sp_that_would_overshoot_stops_at_the_start(copy_task, make_model):
    task = copy_task()
    start = make_model(task)
    done = fit(start, task, replace(QUICK, l2_sp=1000.0), seed=0)  # rate x l2_sp = 10
    for name, p in done.model.named_parameters():
        torch.testing.assert_close(p, dict(start.named_parameters())[name], rtol=0, atol=1e-15)


# --- a loss that is not finite ---


def failing(task_class, at, value):
    class Failing(task_class):
        calls = 0

        def loss(self, model, out, window):
            self.calls += 1
            return super().loss(model, out, window) * (value if self.calls == at else 1.0)

    return Failing()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_and_epoch(copy_task, make_model, value, assert_equal):
    task, watch = failing(copy_task, 14, value), Watch()
    task.dropout = 0.3
    with pytest.raises(TrainingError, match=rf"step 13, epoch 1: the loss is {value:g}, .*learning rate"):
        fit(make_model(task), task, replace(QUICK, epochs=9), seed=0, monitor=watch)
    assert_equal(drop_time(watch.last_good), drop_time(watch.snapshots[-1]))


def test_a_gradient_that_is_not_finite_stops(copy_task, make_model):
    class Edge(copy_task):
        def loss(self, model, out, window):
            return (model.predictions(out, window.x) * 0).abs().sum().sqrt()  # 0, with a slope without bound

    task = Edge()
    with pytest.raises(TrainingError, match="step 0, epoch 0: the loss is 0, its gradient's norm nan"):
        fit(make_model(task), task, QUICK, seed=0)


@pytest.mark.parametrize(("losses", "place"), [([math.nan], "step 0, epoch 0"), ([1.0, math.inf], "step 10, epoch 1")])
def test_a_validation_loss_that_is_not_finite_stops(copy_task, make_model, losses, place, assert_equal):
    task = scripted(copy_task, losses)
    watch = Watch()
    with pytest.raises(TrainingError, match=f"{place}: the validation loss is {losses[-1]:g}"):
        fit(make_model(task), task, QUICK, seed=0, monitor=watch)
    if len(losses) > 1:
        assert_equal(drop_time(watch.last_good), drop_time(watch.snapshots[-1]))


@pytest.mark.parametrize("bilevel", ["first", "second"])
def test_an_architecture_gradient_that_is_not_finite_stops_before_alpha_moves(copy_task, make_model, bilevel):
    class Broken(copy_task):
        def windows(self, part, *, seed):
            for window in super().windows(part, seed=seed):
                yield window if part != "architecture" else window._replace(target=window.target * math.nan)

    task = Broken()
    start = make_model(task)
    watch, recipe = Watch(), replace(QUICK, bilevel=bilevel)
    with pytest.raises(TrainingError, match="step 0, epoch 0: the architecture weights' gradient is not finite"):
        fit(start, task, recipe, seed=0, monitor=watch)
    for name, old in start.state_dict().items():
        assert torch.equal(watch.last_good["model"][name], old), name
    assert watch.last_good["architecture"]["index"] == 0
    with pytest.raises(TrainingError, match="step 0, epoch 0: the architecture"):  # and again, not past it
        fit(start, task, recipe, seed=0, resume=watch.last_good)


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(("bilevel", "losses_a_step"), [("first", 2), ("second", 5)])
@pytest.mark.parametrize("alpha", ["adam", "sgd"])
def test_the_last_good_state_is_from_before_alphas_step(
    copy_task, make_model, assert_equal, outcome, bilevel, losses_a_step, step, alpha
):
    """The weights' loss, the last of a step, is not finite: alpha has moved by then."""
    task, watch = failing(copy_task, losses_a_step * (step + 1), math.nan), Watch()
    task.dropout = 0.3
    start, recipe = make_model(task), replace(QUICK, bilevel=bilevel, alpha=OptimizerRecipe(alpha, rate=0.02))
    with pytest.raises(TrainingError, match=f"step {step}, epoch 0: the loss is nan"):
        fit(start, task, recipe, seed=0, monitor=watch)
    assert_equal(drop_time(watch.last_good), drop_time(watch.snapshots[-1]))
    healthy = copy_task(dropout=0.3)
    again = fit(start, healthy, recipe, seed=0, resume=watch.last_good)
    assert_equal(outcome(again), outcome(fit(start, healthy, recipe, seed=0)))


def test_a_fit_says_the_shares_of_every_epoch(copy_task, make_model):
    task = copy_task()
    start, recipe = make_model(task, nodes=2), replace(QUICK, epochs=3, alpha=OptimizerRecipe(rate=0.1))
    done = fit(start, task, recipe, seed=0)
    assert len(done.shares) == 4

    def shares(state):
        alphas = [value for name, value in state.items() if name.endswith("alpha")]
        return [torch.softmax(alpha.double(), 0).tolist() for alpha in alphas]

    assert done.shares[0] == shares(start.state_dict())
    assert done.shares[done.best_epoch] == shares(done.model.state_dict())
    for epoch in range(3):
        assert done.shares[epoch] != done.shares[epoch + 1]
        assert all(sum(one) == pytest.approx(1) for one in done.shares[epoch])


def test_a_model_without_alpha_has_no_shares(copy_task):
    task = copy_task()
    model = task.model(nn.GRU(2, 3), generator=torch.Generator().manual_seed(0))
    assert fit(model, task, QUICK, seed=0).shares == []


# --- bilevel ---


class Parts:
    """Mixed into a task: notes which parts are asked for."""

    def windows(self, part, *, seed):
        self.__dict__.setdefault("parts", set()).add(part)
        return super().windows(part, seed=seed)


@pytest.mark.parametrize(
    ("bilevel", "parts"),
    [("joint", {"train"}), ("first", {"weights", "architecture"}), ("second", {"weights", "architecture"})],
)
def test_weights_and_alpha_learn_from_their_own_parts(copy_task, make_model, bilevel, parts):
    task = type("Noting", (Parts, copy_task), {})()
    fit(make_model(task), task, replace(QUICK, bilevel=bilevel), seed=0)
    assert task.parts == parts


def test_a_model_without_alpha_learns_from_all_training_data(copy_task):
    task = type("Noting", (Parts, copy_task), {})()
    torch.manual_seed(0)
    model = task.model(nn.GRU(2, 3), generator=torch.Generator().manual_seed(0))
    done = fit(model, task, replace(QUICK, bilevel="first"), seed=0)
    assert task.parts == {"train"}
    assert len(done.optimizers) == 1


@pytest.mark.parametrize("bilevel", ["first", "second"])
def test_alpha_moves_first_and_on_architecture_data_only(copy_task, make_model, bilevel):
    task = copy_task()
    start = make_model(task)
    recipe = Recipe(bilevel=bilevel, clip=UNCLIPPED, weights=SGD, alpha=OptimizerRecipe("sgd", rate=0.5, momentum=0.0))
    trainer = Trainer(start, task, recipe, seed=0, monitor=Silent())
    trainer.model.train()
    held_out = list(task.windows("architecture", seed=int(np.random.SeedSequence([0, 0]).generate_state(1)[0])))
    window = list(task.windows("weights", seed=0))[1]
    _, carried = start(held_out[0].x)
    carried = carried.detach()
    if bilevel == "first":
        (gradient,), _ = architecture_gradient_first(start, task, held_out[1], carried)
        weights, alphas = split_parameters(start)
        (plain,) = torch.autograd.grad(window_loss(start, task, held_out[1], carried)[0], alphas)
        assert torch.equal(gradient, plain)
    else:
        (gradient,), _ = architecture_gradient_second(start, task, window, None, held_out[1], carried, rate=0.1)
    trainer._train_on(window)
    moved = copy.deepcopy(start)
    with torch.no_grad():
        moved.core.alpha[0] -= 0.5 * gradient
    torch.testing.assert_close(trainer.model.core.alpha[0], moved.core.alpha[0], rtol=0, atol=1e-15)
    weights, _ = split_parameters(moved)  # they move down the training loss at the new alpha
    slopes = torch.autograd.grad(window_loss(moved, task, window, None)[0], weights)
    for w, slope, now in zip(weights, slopes, trainer.weights, strict=True):
        torch.testing.assert_close(now, w - 0.1 * slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize("nodes", [1, 2])
def test_second_order_equals_the_exact_gradient(copy_task, make_model, nodes):
    task, rate = copy_task(), 0.7
    model = make_model(task, seed=4, nodes=nodes, backend="reference")
    with torch.no_grad():
        for alpha in model.core.alpha:
            alpha.copy_(torch.tensor([0.3, -0.2, 0.5]))
    window, held_out = list(task.windows("weights", seed=0))[1], list(task.windows("architecture", seed=0))[2]
    hidden = torch.randn(2, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(values, at, state):
        return (torch.func.functional_call(model, values, (at.x, state))[0] - at.target).square().mean()

    named = dict(model.named_parameters())
    weights = {name: p for name, p in named.items() if not name.endswith("alpha")}
    alphas = {name: p for name, p in named.items() if name.endswith("alpha")}
    slopes = torch.autograd.grad(loss(named, window, hidden[0]), list(weights.values()), create_graph=True)
    stepped = {name: w - rate * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}
    exact = torch.autograd.grad(loss({**stepped, **alphas}, held_out, hidden[1]), list(alphas.values()))
    direct = torch.autograd.grad(loss(named, held_out, hidden[1]), list(alphas.values()))

    before = copy.deepcopy(model.state_dict())
    found, after = architecture_gradient_second(model, task, window, hidden[0], held_out, hidden[1], rate=rate)
    implicit = max(float((e - d).abs().max()) for e, d in zip(exact, direct, strict=True))
    for gradient, true in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient, true, rtol=0, atol=1e-4 * implicit)
    assert after.shape == hidden[1].shape
    assert not after.requires_grad
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


def test_second_order_without_a_hadamard_op_on_the_reference(copy_task):
    from grownas.backbones.chain import Backbone

    task, generator = copy_task(), torch.Generator().manual_seed(0)
    core = Backbone(2, 3, 1, [("add", "tanh"), ("add", "identity")], generator=generator, backend="reference")
    model = task.model(core, generator=generator)  # b_h is empty: no gradient reaches it
    done = fit(model, task, replace(QUICK, epochs=1, bilevel="second"), seed=0)
    assert done.steps == 6


# --- breaking off and going on ---


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("bilevel", ["joint", "first", "second"])
def test_going_on_after_any_step_equals_an_unbroken_fit(copy_task, make_model, assert_equal, bilevel, dropout, outcome):
    task, watch = copy_task(dropout=dropout), Watch()
    start, recipe = make_model(task), replace(QUICK, bilevel=bilevel, l2_sp=10.0, patience=3)
    whole = outcome(fit(start, task, recipe, seed=2, monitor=watch))
    assert len(watch.snapshots) == (22 if bilevel == "joint" else 14)  # warm-up windows count
    for number, snapshot in enumerate(watch.snapshots):
        later = Watch()
        torch.manual_seed(number)  # must not matter
        again = fit(start, copy_task(dropout=dropout), recipe, seed=2, monitor=later, resume=snapshot)
        assert_equal(outcome(again), whole)
        assert later.lines == watch.lines[len(watch.lines) - len(later.lines) :]
        for mine, unbroken in zip(later.snapshots, watch.snapshots[number + 1 :], strict=True):
            assert_equal(drop_time(mine), drop_time(unbroken))


def test_going_on_with_groups_of_several_rates_equals_an_unbroken_fit(copy_task, make_model, assert_equal, outcome):
    task, watch = copy_task(), Watch()
    start, recipe = make_model(task), replace(QUICK, l2_sp=10.0)

    def grouped():
        optimizers, (weights, _) = make_optimizers(start, recipe), split_parameters(start)
        set_rates(optimizers[0], [(weights[:2], 0.003), (weights[2:], 0.03)])
        return optimizers

    whole = outcome(fit(start, task, recipe, seed=2, monitor=watch, optimizers=grouped()))
    assert [group["lr"] for group in whole["optimizers"][0]["param_groups"]] == [0.003, 0.03]
    for snapshot in watch.snapshots:
        again = fit(start, task, recipe, seed=2, resume=snapshot, optimizers=grouped())
        assert_equal(outcome(again), whole)


def drop_time(snapshot):
    return {key: value for key, value in snapshot.items() if key not in ("seconds", "cpu_seconds")}


def test_going_on_leaves_the_snapshot_as_it_was(copy_task, make_model, assert_equal):
    task, watch = copy_task(), Watch()
    start = make_model(task)
    fit(start, task, QUICK, seed=2, monitor=watch)
    snapshot = watch.snapshots[5]
    kept = copy.deepcopy(snapshot)
    fit(start, task, QUICK, seed=2, resume=snapshot)
    assert_equal(snapshot, kept)


def test_time_spent_before_a_break_is_counted(copy_task, make_model):
    task, watch = copy_task(), Watch()
    start = make_model(task)
    fit(start, task, QUICK, seed=2, monitor=watch)
    assert fit(start, task, QUICK, seed=2, resume={**watch.snapshots[-1], "seconds": 1000.0}).seconds > 1000


def test_same_seed_same_fit_and_another_seed_another(copy_task, make_model, assert_equal, outcome):
    task = copy_task(dropout=0.3)
    start = make_model(task)
    first, again, other = (outcome(fit(start, task, QUICK, seed=seed)) for seed in (3, 3, 4))
    assert_equal(first, again)
    assert not torch.equal(first["model"]["readout.weight"], other["model"]["readout.weight"])


@pytest.mark.parametrize("bilevel", ["joint", "first", "second"])
def test_the_model_its_optimizers_and_the_global_generator_are_left_alone(copy_task, make_model, assert_equal, bilevel):
    task = copy_task(dropout=0.3)
    recipe = replace(QUICK, bilevel=bilevel)
    trained = fit(make_model(task), task, recipe, seed=0)
    model, optimizers = trained.model, trained.optimizers
    before = copy.deepcopy((dict(model.state_dict()), [o.state_dict() for o in optimizers]))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    done = fit(model, task, recipe, seed=0, optimizers=optimizers)
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal((dict(model.state_dict()), [o.state_dict() for o in optimizers]), before)
    assert not torch.equal(done.model.readout.weight, model.readout.weight)
    mine = {id(p) for p in done.model.parameters()}
    assert {id(p) for o in done.optimizers for g in o.param_groups for p in g["params"]} == mine


def test_a_fit_goes_on_with_the_optimizers_it_is_given(copy_task, make_model):
    task = copy_task()
    trained = fit(make_model(task), task, QUICK, seed=0)
    warm = fit(trained.model, task, QUICK, seed=0, optimizers=trained.optimizers)
    cold = fit(trained.model, task, QUICK, seed=0)
    assert {int(state["step"]) for state in warm.optimizers[0].state.values()} == {40}
    assert {int(state["step"]) for state in cold.optimizers[0].state.values()} == {20}
    assert not torch.equal(warm.model.readout.weight, cold.model.readout.weight)


def test_parameters_are_split_by_name_and_counted(copy_task, make_model):
    model = make_model(copy_task(), nodes=2)
    weights, alphas = split_parameters(model)
    assert [id(a) for a in alphas] == [id(a) for a in model.core.alpha]
    node = 3 * (2 * 3 + 3 + 3 * 3) + 3  # three ops of W_x, b_x, W_h; one b_h
    assert sum(w.numel() for w in weights) == 2 * node + 2 * 3 + 2
    assert count_parameters(model) == 2 * node + 2 * 3 + 2 + 6
    model.readout.bias.requires_grad_(False)
    assert count_parameters(model) == 2 * node + 2 * 3 + 6


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_groups_of_one_rate_train_as_one_group_does(copy_task, make_model, assert_equal, kind):
    task = copy_task()
    start, recipe = make_model(task), replace(QUICK, l2_sp=5.0, weights=OptimizerRecipe(kind, 0.01, 0.9, 0.1))
    optimizers, (weights, _) = make_optimizers(start, recipe), split_parameters(start)
    set_rates(optimizers[0], [(weights[1:], 0.01), (weights[:1], 0.01)])
    divided = fit(start, task, recipe, seed=0, optimizers=optimizers).model
    assert_equal(dict(divided.state_dict()), dict(fit(start, task, recipe, seed=0).model.state_dict()))


def test_set_rates_keeps_state_and_other_settings(copy_task, make_model):
    task = copy_task()
    trained = fit(make_model(task), task, replace(QUICK, weights=OptimizerRecipe(rate=0.01, weight_decay=0.2)), seed=0)
    optimizer, (weights, _) = trained.optimizers[0], split_parameters(trained.model)
    before = {p: dict(optimizer.state[p]) for p in weights}
    for rates in ([0.1, 0.2], [0.3, 0.4]):  # the second time from two groups
        set_rates(optimizer, [(weights[:3], rates[0]), (weights[3:], rates[1])])
        assert [(group["params"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
            (weights[:3], rates[0], 0.2), (weights[3:], rates[1], 0.2),
        ]  # fmt: skip
    assert {p: dict(optimizer.state[p]) for p in weights} == before


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimisers_of_weights_and_alpha_are_chosen_separately(copy_task, make_model, name, kind):
    recipe = Recipe(weights=OptimizerRecipe(name, 0.5, 0.8, 0.01), alpha=OptimizerRecipe("sgd", 0.25, 0.7, 0.02))
    weights, alpha = make_optimizers(make_model(copy_task()), recipe)
    assert type(weights) is kind
    assert type(alpha) is torch.optim.SGD
    assert (weights.defaults["lr"], weights.defaults["weight_decay"]) == (0.5, 0.01)
    assert (alpha.defaults["lr"], alpha.defaults["momentum"], alpha.defaults["weight_decay"]) == (0.25, 0.7, 0.02)


# --- nodes that are blended in ---


def blended(task, make_model):
    """A model of two nodes, the second of which is not mixed in yet."""
    model = make_model(task)
    model.core = blend_node(model.core, generator=torch.Generator().manual_seed(5)).backbone
    return model


class Blends(Watch):
    """Keeps the blend after each step."""

    def __init__(self, model):
        super().__init__()
        self.trained, self.blends = model, []

    def after_step(self, snapshot):
        super().after_step(snapshot)
        self.blends.append(self.snapshots[-1]["blend"])


def test_a_node_is_mixed_in_linearly_over_the_steps(copy_task, make_model):
    task, model = copy_task(), blended(copy_task(), make_model)
    watch = Blends(model)
    done = fit(model, task, replace(QUICK, epochs=4, blend_steps=8), seed=0, monitor=watch)
    learned = [snapshot["step"] for snapshot in watch.snapshots]
    assert watch.blends == [min(1.0, max(1, step) / 8) if step else 1 / 8 for step in learned]
    assert done.model.core.blend == [1, 1]
    assert model.core.blend == [1, 0]


def test_no_epoch_counts_before_all_nodes_are_plain(copy_task, make_model):
    task, watch = copy_task(), Watch()
    recipe = replace(QUICK, epochs=6, patience=2, blend_steps=20, weights=OptimizerRecipe(rate=0.3))
    done = fit(blended(task, make_model), task, recipe, seed=0, monitor=watch)
    steps = [snapshot["step"] for snapshot in watch.snapshots if snapshot["data"]["index"] == 1]
    assert done.best_epoch * max(1, steps[1] - steps[0]) >= 20 - 8
    assert done.best_epoch > 0  # the untrained model is no candidate: its node has no effect
    assert done.loss == min(watch.losses()[done.best_epoch :])


def test_the_last_epoch_that_is_allowed_has_plain_nodes(copy_task, make_model):
    task = copy_task()
    done = fit(blended(task, make_model), task, replace(QUICK, epochs=2, blend_steps=10_000), seed=0)
    assert (done.best_epoch, done.model.core.blend) == (2, [1, 1])


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_fit_broken_while_a_node_is_mixed_in_equals_an_unbroken_one(copy_task, make_model, average):
    task = copy_task(dropout=0.2)
    recipe = replace(QUICK, epochs=3, blend_steps=15, average=average)
    watch = Watch()
    whole = fit(blended(task, make_model), task, recipe, seed=0, monitor=watch)
    for number in (1, 8, len(watch.snapshots) - 2):
        again = fit(blended(task, make_model), task, recipe, seed=0, resume=watch.snapshots[number])
        assert again.evaluation.losses.tolist() == whole.evaluation.losses.tolist()
        for name, value in again.model.state_dict().items():
            assert torch.equal(value, whole.model.state_dict()[name]), name


# --- averaged weights ---


def test_the_moving_average_is_evaluated_and_kept(copy_task, make_model):
    task, watch = copy_task(), Watch()
    recipe = replace(QUICK, epochs=1, patience=None, average=0.5)
    done = fit(make_model(task), task, recipe, seed=0, monitor=watch)
    paths = [
        snapshot for before, snapshot in pairwise([{"step": 0}, *watch.snapshots]) if snapshot["step"] > before["step"]
    ]
    name = "readout.weight"
    mean = paths[0]["model"][name]
    for snapshot in paths[1:]:
        step = snapshot["step"]
        mean = mean.lerp(snapshot["model"][name], 1 - min(0.5, (1 + step) / (10 + step)))
    torch.testing.assert_close(done.model.state_dict()[name], mean)
    assert not torch.equal(mean, paths[-1]["model"][name])


def test_without_an_average_the_last_weights_are_kept(copy_task, make_model):
    task, watch = copy_task(), Watch()
    done = fit(make_model(task), task, replace(QUICK, epochs=1, patience=None), seed=0, monitor=watch)
    assert torch.equal(done.model.state_dict()["readout.weight"], watch.snapshots[-1]["model"]["readout.weight"])
