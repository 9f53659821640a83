"""How rates change within a fit, and when and how nt_asgd averages: against closed forms and lines of our own."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grownas.protocols import Evaluation
from grownas.recipe import OptimizerRecipe, Recipe, make_optimizers, set_rates, split_parameters
from grownas.train import Silent, fit

RATE, ALPHA_RATE = 0.01, 0.02
QUICK = Recipe(epochs=3, patience=None, weights=OptimizerRecipe(rate=RATE), alpha=OptimizerRecipe(rate=ALPHA_RATE))
AVERAGED = replace(QUICK, epochs=8, non_monotone=2, weights=OptimizerRecipe("nt_asgd", rate=0.5), clip=1e9)


class Watch(Silent):
    """Keeps a snapshot after each step, and the epoch and the validation loss of each evaluation."""

    def __init__(self):
        self.snapshots, self.losses = [], []

    def record(self, line):
        if (line["split"], line["metric"]) == ("val", "loss"):
            self.losses.append(line["value"])

    def after_step(self, snapshot):
        self.snapshots.append(snapshot())

    def rates(self):
        """Return the rates of all groups at each step."""
        return [[g["lr"] for o in one["optimizers"] for g in o["param_groups"]] for one in self.snapshots]


def windows_in(task, part, seed, epoch):
    """Count what an epoch gives, as the loop seeds it."""
    words = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    return [window.warm_up for window in task.windows(part, seed=words)]


def losing(task_class, losses):
    """Return the task with validation losses from a list, which begins with that of the untrained model."""

    class Losing(task_class):
        def evaluate(self, model, part):
            self.asked = getattr(self, "asked", -1) + 1
            value = losses[min(self.asked, len(losses) - 1)]
            return Evaluation(value, np.full(4, value))

    return Losing()


# --- rates ---


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.0, 0.25), (0.25, 1.0)])
@pytest.mark.parametrize("warm_up", [0, 7])
def test_rates_rise_in_the_warm_up_and_fall_to_zero_over_the_epochs(copy_task, make_model, warm_up, span):
    task, watch, seed = copy_task(), Watch(), 5
    start = make_model(task)
    recipe = replace(QUICK, warm_up=warm_up, decay="linear", decay_span=span)
    optimizers = make_optimizers(start, recipe)
    weights, _ = split_parameters(start)
    set_rates(optimizers[0], [(weights[:2], 3 * RATE), (weights[2:], RATE)])
    done = fit(start, task, recipe, seed=seed, monitor=watch, optimizers=optimizers)
    expected, step = [], 0
    for epoch in range(recipe.epochs):
        warm = windows_in(task, "train", seed, epoch)
        for place, only_carries in enumerate(warm):
            if only_carries:
                expected += expected[-1:] or [[3 * RATE, RATE, ALPHA_RATE]]  # a warm-up window makes no step
                continue
            step += 1
            rise = min(1.0, step / warm_up) if warm_up else 1.0
            passed = (epoch + place / len(warm)) / recipe.epochs
            factor = rise * (1 - (span[0] + (span[1] - span[0]) * passed))
            expected.append([3 * RATE * factor, RATE * factor, ALPHA_RATE * factor])
    steps = [(got, wanted) for got, wanted in zip(watch.rates(), expected, strict=True)]
    carried = list(itertools.accumulate(len(windows_in(task, "train", seed, e)) for e in range(recipe.epochs)))
    for number, (got, wanted) in enumerate(steps):
        if number not in {0, *carried}:  # after an evaluation the rates stand at their own until the next step
            assert got == pytest.approx(wanted, rel=1e-12)
    assert [g["lr"] for o in done.optimizers for g in o.param_groups] == [3 * RATE, RATE, ALPHA_RATE]


def test_a_windows_own_factor_scales_its_step(copy_task, make_model):
    class Uneven(copy_task):
        def windows(self, part, *, seed):
            for number, window in enumerate(super().windows(part, seed=seed)):
                yield window._replace(rate=1 / (1 + number))

    task, watch = Uneven(), Watch()
    fit(make_model(task), task, replace(QUICK, epochs=1), seed=0, monitor=watch)
    rates = [step[0] for step in watch.rates()][1:]  # the first carries the state only
    assert rates == pytest.approx([RATE / (2 + number) for number in range(len(rates))], rel=1e-12)
    assert len(rates) > 5


def test_no_schedule_gives_the_same_bits_as_one_that_does_nothing(copy_task, make_model, assert_equal, outcome):
    task = copy_task(dropout=0.2)
    start = make_model(task)
    plain = fit(start, task, QUICK, seed=1)
    assert_equal(outcome(plain), outcome(fit(start, task, replace(QUICK, warm_up=1), seed=1)))


# --- nt_asgd ---


def trigger_of(losses, n):
    """Return the epoch after which AWD-LSTM's rule begins to average; None if it never does."""
    logs = []
    for epoch, value in enumerate(losses, 1):
        if len(logs) > n and value > min(logs[:-n]):
            return epoch
        logs.append(value)
    return None


@given(losses=st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0]), min_size=8, max_size=8), n=st.integers(1, 4))
def test_averaging_begins_by_the_published_rule(copy_task, make_model, losses, n):
    task, watch = losing(copy_task, [0.0, *losses]), Watch()  # the untrained model is the best, and does not count
    fit(make_model(task, hidden=2), task, replace(AVERAGED, non_monotone=n), seed=0, monitor=watch)
    begins = {one["optimizers"][0]["param_groups"][0]["t0"] for one in watch.snapshots} - {math.inf}
    expected = trigger_of(losses[:-1], n)  # a trigger after the last epoch moves nothing any more
    steps_by_epoch = {one["data"]["epoch"]: one["step"] for one in watch.snapshots}
    assert begins == (set() if expected is None else {steps_by_epoch[expected - 1] - 1})


def test_the_averages_are_the_means_of_the_weights_since_the_trigger(copy_task, make_model):
    seen = []

    class Looking(losing(copy_task, [9.0, 1.0, 2.0, 3.0, 4.0, 0.5]).__class__):
        def evaluate(self, model, part):
            seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
            return super().evaluate(model, part)

    task, watch = Looking(), Watch()
    start = make_model(task)
    recipe = replace(AVERAGED, epochs=6)
    done = fit(start, task, recipe, seed=0, monitor=watch)
    group = watch.snapshots[-1]["optimizers"][0]["param_groups"][0]
    begun = group["t0"] + 1
    assert 0 < begun < watch.snapshots[-1]["step"]
    names = [name for name, _ in start.named_parameters() if not name.endswith("alpha")]
    by_step = {one["step"]: one["model"] for one in watch.snapshots}
    last = max(by_step)
    for name in names:  # the optimiser keeps its weights of the mean in float32
        mean = torch.stack([by_step[step][name] for step in range(begun + 1, last + 1)]).mean(0)
        torch.testing.assert_close(seen[-2][name], mean, rtol=0, atol=1e-6)  # what the last epoch was judged by
        assert not torch.equal(seen[-2][name], by_step[last][name])  # while training went on from the plain weights
        torch.testing.assert_close(dict(done.model.named_parameters())[name], mean, rtol=0, atol=1e-6)


def test_before_the_trigger_it_is_plain_sgd(copy_task, make_model):
    task = copy_task()
    start = make_model(task)
    plain = OptimizerRecipe("sgd", rate=0.05, momentum=0.0)
    one = fit(start, task, replace(AVERAGED, epochs=2, weights=replace(AVERAGED.weights, rate=0.05)), seed=0)
    other = fit(start, task, replace(AVERAGED, epochs=2, weights=plain), seed=0)
    for name, p in one.model.named_parameters():
        torch.testing.assert_close(
            p, dict(other.model.named_parameters())[name], rtol=0, atol=1e-8
        )  # ASGD keeps its rate in float32


def test_a_fit_that_goes_on_begins_without_averaging(copy_task, make_model):
    task = losing(copy_task, [9.0, 1.0, 2.0, 3.0, 4.0, 0.5])
    first = fit(make_model(task), task, AVERAGED, seed=0)
    assert math.isfinite(first.optimizers[0].param_groups[0]["t0"])
    watch = Watch()
    again = losing(copy_task, [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    fit(first.model, again, AVERAGED, seed=0, monitor=watch, optimizers=first.optimizers)
    assert {one["optimizers"][0]["param_groups"][0]["t0"] for one in watch.snapshots} == {math.inf}


@pytest.mark.parametrize("optimizer", ["adam", "nt_asgd"])
def test_a_resumed_fit_is_the_same_from_any_step(copy_task, make_model, assert_equal, outcome, optimizer):
    """Through warm-up, decay, dropout and the beginning of averaging."""
    losses = [9.0, 1.0, 2.0, 3.0, 4.0, 0.5]
    recipe = replace(AVERAGED, epochs=5, warm_up=9, decay="linear", weights=OptimizerRecipe(optimizer, rate=0.05))

    def task():
        made = losing(copy_task, losses)
        made.dropout = 0.3
        return made

    watch = Watch()
    start = make_model(task())
    whole = fit(start, task(), recipe, seed=2, monitor=watch)
    for snapshot in watch.snapshots[::3]:
        later = task()
        later.asked = snapshot["data"]["epoch"]  # the script goes on, too
        assert_equal(outcome(whole), outcome(fit(start, later, recipe, seed=2, resume=snapshot)))
    if optimizer == "nt_asgd":
        begins = {one["optimizers"][0]["param_groups"][0]["t0"] for one in watch.snapshots}
        assert len(begins) == 2  # the switch was passed
