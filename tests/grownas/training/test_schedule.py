"""How rates change within a fit, and when and how nt_asgd averages: against closed forms and lines of our own."""

from __future__ import annotations

import copy
import itertools
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.errors import TrainingError
from grownas.protocols import Evaluation
from grownas.strategies.growing.state import with_core
from grownas.training import loop
from grownas.training.bilevel import window_loss
from grownas.training.loop import Silent, Trainer, fit
from grownas.training.migrate import migrate
from grownas.training.recipe import (
    AveragedSGD,
    OptimizerRecipe,
    Recipe,
    make_optimizers,
    set_rates,
    split_parameters,
)

RATE, ALPHA_RATE, UNCLIPPED = 0.01, 0.02, 1e9
QUICK = Recipe(epochs=3, patience=None, weights=OptimizerRecipe(rate=RATE), alpha=OptimizerRecipe(rate=ALPHA_RATE))
AVERAGED = replace(
    QUICK, epochs=8, non_monotone=2, weights=OptimizerRecipe("nt_asgd", rate=0.1, weight_decay=0.01), clip=UNCLIPPED
)
RISING = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.5]  # with them averaging begins after the fourth epoch


class Watch(Silent):
    """Keeps a snapshot after each step, and before one that failed."""

    def __init__(self):
        self.snapshots = []

    def after_step(self, snapshot):
        self.snapshots.append(snapshot())

    def failed(self, snapshot):
        self.last_good = snapshot()

    @property
    def averaging(self):
        """The step of each snapshot in which there are means."""
        states = [(one["step"], one["optimizers"][0]["state"].values()) for one in self.snapshots]
        return [step for step, state in states if any("averaged" in each for each in state)]


@pytest.fixture
def rates():
    """The rates of all groups at each step of each optimiser, in the order of the steps."""
    with watched_rates() as seen:
        yield seen


@contextmanager
def watched_rates():
    """Keep the rates of all groups at each step of each optimiser within the context."""
    seen = []

    def noting(updater):
        seen.append([group["lr"] for group in updater.optimizer.param_groups])
        updater.optimizer.step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Updater, "__call__", noting)
        yield seen


def windows_of(task, part, seed, epoch):
    """Return an epoch's windows, as the loop seeds it."""
    return list(task.windows(part, seed=int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])))


def uneven(task_class, **options):
    """Return the task with epochs of different lengths, and a rate of each window's own."""

    class Uneven(task_class):
        def windows(self, part, *, seed):
            for number, window in enumerate(itertools.islice(super().windows(part, seed=seed), 3 + seed % 4)):
                yield window._replace(rate=(1 + number * 7 % 5) / 4)

    return Uneven(**options)


def factors(task, part, recipe, seed):
    """Return the factor on all rates at each step of a fit."""
    step, found, (first, last) = 0, [], recipe.decay_span
    for epoch in range(recipe.epochs):
        windows = windows_of(task, part, seed, epoch)
        for place, window in enumerate(windows):
            if window.burn_in:  # counts as a part of the epoch, but not as a step
                continue
            step += 1
            rise = min(1.0, step / recipe.warm_up) if recipe.warm_up else 1.0
            passed = (epoch + place / len(windows)) / recipe.epochs
            fall = 1 - (first + (last - first) * passed) if recipe.decay == "linear" else 1.0
            found.append(window.rate * rise * fall)
    return found


def losing(task, losses, *, epochs=None):
    """Give a task validation losses from a list, which begins with that of the untrained model; `seen` what it saw.

    Args:
        epochs: that were judged before; None if not even the untrained model was.
    """

    class Losing(task.__class__):
        def evaluate(self, model, part):
            self.seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
            value = losses[min(len(self.seen) - 1, len(losses) - 1)]
            return Evaluation(value, np.full(4, value))

    made = copy.copy(task)
    made.__class__, made.seen = Losing, [{}] * (0 if epochs is None else epochs + 1)
    return made


# --- rates ---


@pytest.mark.parametrize("bilevel", ["joint", "first", "second"])
@pytest.mark.parametrize("span", [(0.0, 1.0), (0.0, 0.25), (0.25, 1.0)])
@pytest.mark.parametrize("warm_up", [0, 5])
def test_all_rates_rise_in_the_warm_up_and_fall_to_zero_over_the_epochs(
    copy_task, make_model, rates, warm_up, span, bilevel
):
    """Alpha's, too, whose step comes first in a bilevel search."""
    task, seed = uneven(copy_task), 5
    start = make_model(task)
    recipe = replace(QUICK, epochs=5, warm_up=warm_up, decay="linear", decay_span=span, bilevel=bilevel)
    part = "train" if bilevel == "joint" else "weights"
    lengths = {len(windows_of(task, part, seed, epoch)) for epoch in range(recipe.epochs)}
    assert len(lengths) > 2
    optimizers, (weights, _) = make_optimizers(start, recipe), split_parameters(start)
    set_rates(optimizers[0], [(weights[:2], 3 * RATE), (weights[2:], RATE)])
    done = fit(start, task, recipe, seed=seed, optimizers=optimizers)
    expected = []
    for factor in factors(task, part, recipe, seed):
        both = [[3 * RATE * factor, RATE * factor], [ALPHA_RATE * factor]]
        expected += both if bilevel == "joint" else both[::-1]
    assert len(rates) == 2 * done.steps
    for got, wanted in zip(rates, expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-12)
    assert [g["lr"] for o in done.optimizers for g in o.param_groups] == [3 * RATE, RATE, ALPHA_RATE]


@given(
    epochs=st.integers(1, 4), warm_up=st.integers(0, 40), decay=st.sampled_from(["none", "linear"]),
    span=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).map(tuple), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_factor_of_each_step_is_that_of_the_closed_form(copy_task, make_model, epochs, warm_up, decay, span, seed):
    task, recipe = uneven(copy_task), replace(QUICK, epochs=epochs, warm_up=warm_up, decay=decay, decay_span=span)
    with watched_rates() as seen:
        fit(make_model(task, hidden=2), task, recipe, seed=seed)
    weights = [rates[0] for rates in seen[::2]]  # every second step is alpha's
    assert weights == pytest.approx([RATE * one for one in factors(task, "train", recipe, seed)], rel=1e-12, abs=1e-16)


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.25, 0.75)])
def test_the_first_epochs_alone_have_the_rates_of_the_whole(copy_task, make_model, rates, span):
    task = copy_task()
    whole = replace(QUICK, epochs=6, warm_up=3, decay="linear", decay_span=span, patience=7)
    for recipe in (whole, whole.first(4), whole.refit(4), whole.refit(0), whole.first(9)):
        fit(make_model(task), task, recipe, seed=1)
    steps = len(rates) // (6 + 4 + 4 + 1 + 9)  # an epoch's, of both optimisers
    taken = [steps * epochs for epochs in (6, 4, 4, 1, 9)]
    parts = [rates[end - count : end] for end, count in zip(itertools.accumulate(taken), taken, strict=True)]
    for part in parts[1:4]:
        np.testing.assert_allclose(part, parts[0][: len(part)], rtol=1e-12)
    step = (span[1] - span[0]) / (9 * len(list(task.windows("train", seed=1))))
    assert parts[4][-1][0] == pytest.approx(ALPHA_RATE * (1 - span[1] + step), rel=1e-12)  # alpha's, whose step is last
    assert (whole.first(4).patience, whole.refit(4).patience) == (7, None)


def gradient_descent(task, start, recipe, seed, losses):
    """Train by plain gradient descent at the closed form's rates, the weights averaged by AWD-LSTM's rule.

    Args:
        losses: validation losses, the untrained model's first.

    Returns:
        The weights that each epoch is judged by, and those after the last step.
    """
    model, optimizer = copy.deepcopy(start).train(), recipe.weights
    weights, alphas = split_parameters(model)
    of_alpha, scheduled = torch.optim.AdamW(alphas), iter(factors(task, "train", recipe, seed))
    since, judged, logs, hidden = None, [], [], None
    for epoch in range(recipe.epochs):
        for window in windows_of(task, "train", seed, epoch):
            loss, hidden = window_loss(model, task, window, None if window.fresh else hidden)
            if window.burn_in:
                continue
            model.zero_grad()
            loss.backward()
            factor = next(scheduled)
            of_alpha.param_groups[0].update(lr=recipe.alpha.rate * factor, weight_decay=recipe.alpha.weight_decay)
            of_alpha.step()
            with torch.no_grad():
                for w in weights:
                    w -= optimizer.rate * factor * (w.grad + optimizer.weight_decay * w)
            if since is not None:
                since.append([w.detach().clone() for w in weights])
        plain = [w.detach().clone() for w in weights]
        judged.append([torch.stack(each).mean(0) for each in zip(*since, strict=True)] if since else plain)
        value = losses[epoch + 1]
        if optimizer.optimizer == "nt_asgd" and since is None:
            if len(logs) > recipe.non_monotone and value > min(logs[: -recipe.non_monotone]):
                since = []
            logs.append(value)
    return judged, plain


@pytest.mark.parametrize("losses", [RISING, sorted(RISING, reverse=True)], ids=["rising", "falling"])
@pytest.mark.parametrize(("warm_up", "decay"), [(0, "none"), (9, "none"), (0, "linear"), (9, "linear")])
@pytest.mark.parametrize("optimizer", ["sgd", "nt_asgd"])
def test_the_loop_equals_gradient_descent_written_by_hand(copy_task, make_model, optimizer, warm_up, decay, losses):
    """Each step is as long as its own rate says; averages are judged and kept, the plain weights trained."""
    of_weights = replace(AVERAGED.weights, optimizer=optimizer, momentum=0.0)
    recipe = replace(AVERAGED, warm_up=warm_up, decay=decay, weights=of_weights, epochs=9)
    task, watch = losing(uneven(copy_task), losses), Watch()
    start = make_model(task)
    judged, plain = gradient_descent(task, start, recipe, 3, losses)
    done = fit(start, task, recipe, seed=3, monitor=watch)
    names = [name for name, _ in start.named_parameters() if not name.endswith("alpha")]
    for epoch, expected in enumerate(judged):
        for name, value in zip(names, expected, strict=True):
            torch.testing.assert_close(task.seen[epoch + 1][name], value, rtol=0, atol=1e-13)
    for name, mean, value in zip(names, judged[-1], plain, strict=True):
        torch.testing.assert_close(watch.snapshots[-1]["model"][name], value, rtol=0, atol=1e-13)
        torch.testing.assert_close(dict(done.model.named_parameters())[name], mean, rtol=0, atol=1e-13)
        averaged = optimizer == "nt_asgd" and losses is RISING
        assert torch.allclose(mean, value, rtol=0, atol=1e-4) != averaged


def test_no_schedule_leaves_the_rates_alone(copy_task, make_model, assert_equal, outcome, monkeypatch):
    """To the last bit: as if nothing ever touched them."""
    task = copy_task(dropout=0.2)
    start = make_model(task)
    found = [outcome(fit(start, task, recipe, seed=1)) for recipe in (QUICK, replace(QUICK, warm_up=1))]
    monkeypatch.setattr(Trainer, "_set_rates", lambda *_: None)
    untouched = outcome(fit(start, task, QUICK, seed=1))
    for one in found:
        assert_equal(one, untouched)


def test_windows_are_made_once_an_epoch_where_no_decay_must_count_them(copy_task, make_model):
    class Counting(copy_task):
        made = 0

        def windows(self, part, *, seed):
            for window in super().windows(part, seed=seed):
                self.made += 1
                yield window

    made = []
    for decay in ("none", "linear"):
        task = Counting()
        fit(make_model(task), task, replace(QUICK, decay=decay), seed=0)
        made.append(task.made)
    assert made[1] == 2 * made[0]


@pytest.mark.parametrize(("bilevel", "losses_a_step"), [("joint", 1), ("first", 2), ("second", 5)])
@pytest.mark.parametrize(("optimizer", "step"), [("adam", 2), ("nt_asgd", 2), ("nt_asgd", 20)])
def test_a_step_that_fails_leaves_all_as_it_was(
    copy_task, make_model, assert_equal, outcome, optimizer, step, bilevel, losses_a_step
):
    """In the warm-up, in the decay, and while the weights are averaged."""

    class Breaking(copy_task):
        calls, at = 0, 0

        def loss(self, model, out, window):
            self.calls += 1
            return super().loss(model, out, window) * (math.nan if self.calls == self.at else 1.0)

    recipe = replace(AVERAGED, epochs=6, warm_up=4, decay="linear", bilevel=bilevel)
    recipe = replace(recipe, weights=replace(recipe.weights, optimizer=optimizer))
    task, watch = losing(uneven(Breaking, dropout=0.3), RISING), Watch()
    start = make_model(task)
    whole = fit(start, task, recipe, seed=0)
    broken = losing(uneven(Breaking, dropout=0.3), RISING)
    broken.at = losses_a_step * (step + 1)  # the weights' own loss, the last of a step
    with pytest.raises(TrainingError, match=f"step {step}, epoch .: the loss is nan"):
        fit(start, broken, recipe, seed=0, monitor=watch)
    assert_equal(timeless(watch.last_good), timeless(watch.snapshots[-1]))
    assert watch.averaging == [] if step < 20 else watch.averaging[-1] == step
    later = losing(uneven(Breaking, dropout=0.3), RISING, epochs=watch.last_good["data"]["epoch"])
    assert_equal(outcome(fit(start, later, recipe, seed=0, resume=watch.last_good)), outcome(whole))


def test_averages_that_cannot_be_judged_leave_the_weights_as_they_were(copy_task, make_model, assert_equal):
    task, watch = losing(copy_task(), [*RISING[:5], math.nan]), Watch()
    with pytest.raises(TrainingError, match="epoch 5: the validation loss is nan"):
        fit(make_model(task), task, AVERAGED, seed=0, monitor=watch)
    assert watch.averaging[-1] == watch.snapshots[-1]["step"]
    assert_equal(timeless(watch.last_good), timeless(watch.snapshots[-1]))


@pytest.mark.parametrize("bilevel", ["joint", "first"])
@pytest.mark.parametrize("l2_sp", [0.0, 5.0])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "nt_asgd"])
def test_a_resumed_fit_is_the_same_from_any_step(
    copy_task, make_model, assert_equal, outcome, optimizer, l2_sp, bilevel
):
    """Through warm-up, decay, dropout, epochs of several lengths and the beginning of averaging."""
    recipe = replace(AVERAGED, epochs=6, warm_up=9, decay="linear", l2_sp=l2_sp, bilevel=bilevel)
    recipe = replace(recipe, weights=replace(recipe.weights, optimizer=optimizer))
    task, watch = losing(uneven(copy_task, dropout=0.3), RISING), Watch()
    start = make_model(task)
    whole = outcome(fit(start, task, recipe, seed=2, monitor=watch))
    assert len(watch.snapshots) > 20
    assert bool(watch.averaging) == (optimizer == "nt_asgd")
    for number, snapshot in enumerate(watch.snapshots):
        torch.manual_seed(number)  # must not matter
        again = Watch()
        later = losing(uneven(copy_task, dropout=0.3), RISING, epochs=snapshot["data"]["epoch"])
        assert_equal(outcome(fit(start, later, recipe, seed=2, monitor=again, resume=snapshot)), whole)
        for mine, unbroken in zip(again.snapshots, watch.snapshots[number + 1 :], strict=True):
            assert_equal(timeless(mine), timeless(unbroken))


def timeless(snapshot):
    return {key: value for key, value in snapshot.items() if key not in ("seconds", "cpu_seconds")}


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
    """The untrained model is the best of all here, and does not count."""
    task, watch = losing(uneven(copy_task), [0.0, *losses]), Watch()
    fit(make_model(task, hidden=2), task, replace(AVERAGED, non_monotone=n), seed=0, monitor=watch)
    expected = trigger_of(losses[:-1], n)  # a trigger after the last epoch moves nothing any more
    after = [one["step"] for one in watch.snapshots if expected is not None and one["data"]["epoch"] >= expected]
    steps = {one["step"] for one in watch.snapshots if one["data"]["epoch"] == (expected or 0) - 1}
    assert watch.averaging == [step for step in after if step > max(steps)]


def means_since(watch, names):
    """Return the mean of each weight after the steps since averaging began, from the snapshots of a fit."""
    by_step = {one["step"]: one["model"] for one in watch.snapshots}  # of a step and the warm-up windows after it
    first, last = min(watch.averaging), max(by_step)
    return {name: torch.stack([by_step[step][name] for step in range(first, last + 1)]).mean(0) for name in names}


def weights_of(model):
    return [name for name, p in model.named_parameters() if p.numel() and not name.endswith("alpha")]


@pytest.mark.parametrize("l2_sp", [0.0, 3.0])
def test_means_are_of_the_weights_as_they_are_after_each_step(copy_task, make_model, l2_sp):
    """After the penalty `l2_sp`, that is."""
    task, watch = losing(copy_task(), RISING), Watch()
    start = make_model(task)
    done = fit(start, task, replace(AVERAGED, l2_sp=l2_sp), seed=0, monitor=watch)
    means, found = means_since(watch, weights_of(start)), dict(done.model.named_parameters())
    assert len(set(watch.averaging)) > 30
    for name, mean in means.items():
        torch.testing.assert_close(found[name], mean, rtol=0, atol=1e-14)
        assert not torch.allclose(watch.snapshots[-1]["model"][name], mean, rtol=0, atol=1e-4)


def test_in_single_precision_means_are_as_exact_as_the_weights(copy_task, make_model):
    task, watch = losing(copy_task(dtype=torch.float32), RISING), Watch()
    start = make_model(task)
    done = fit(start, task, AVERAGED, seed=0, monitor=watch)
    for one in watch.snapshots:
        one["model"] = {name: value.double() for name, value in one["model"].items()}
    for name, mean in means_since(watch, weights_of(start)).items():
        found = dict(done.model.named_parameters())[name]
        torch.testing.assert_close(found.double(), mean, rtol=1e-6, atol=1e-7)


def test_before_the_trigger_it_is_plain_sgd(copy_task, make_model, assert_equal):
    task = copy_task(dropout=0.2)
    start, found = make_model(task), []
    for optimizer in ("nt_asgd", "sgd"):
        recipe = replace(AVERAGED, weights=OptimizerRecipe(optimizer, 0.05, 0.0, 0.01), warm_up=5, decay="linear")
        watch = Watch()
        fit(start, losing(task, RISING), recipe, seed=0, monitor=watch)
        found.append([dict(one["model"]) for one in watch.snapshots])
    assert_equal(*found)  # also after it: the weights that are trained are the plain ones


def test_the_kept_model_is_the_averaged_one_and_its_optimiser_goes_with_it(copy_task, make_model, assert_equal):
    task = losing(copy_task(), [9.0, 1.0, 2.0, 3.0, 4.0, 0.5, 4.0, 4.0, 4.0])  # the best is the first that is averaged
    start = make_model(task)
    done = fit(start, task, replace(AVERAGED, patience=9), seed=0)
    assert done.best_epoch == 5
    assert_equal({name: p.detach() for name, p in done.model.named_parameters()}, task.seen[5])
    assert_equal({name: p.detach() for name, p in done.model.named_parameters()}, task.seen[-1])  # judged at the end
    means = dict(done.optimizers[0].means())
    assert {id(p) for p in means} == {id(p) for p in split_parameters(done.model)[0]}
    for p, mean in means.items():
        assert torch.equal(p, mean)


GROWN = {  # by which a stage begins
    "nothing": None,
    "add_node": lambda core: morphisms.add_node(core, noise=0.1, generator=torch.Generator().manual_seed(0)),
    "duplicate_op": lambda core: morphisms.duplicate_op(core, 0, 1, 0.1, torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("morph", GROWN.values(), ids=GROWN)
def test_a_fit_that_goes_on_begins_without_means_and_makes_its_own(copy_task, make_model, morph):
    """Whatever an earlier stage averaged, and for how long: a new node's weights are younger than the others."""
    task = losing(copy_task(), RISING)
    first = fit(make_model(task), task, AVERAGED, seed=0)
    assert list(first.optimizers[0].means())
    model, optimizers = first.model, first.optimizers
    if morph is not None:
        core, origins = morph(model.core)
        model = with_core(model, core)
        optimizers = [migrate(one, origins, first.model, model, prefix="core.") for one in optimizers]
        assert list(optimizers[0].means())
    again, watch = losing(copy_task(), RISING), Watch()
    done = fit(model, again, AVERAGED, seed=1, monitor=watch, optimizers=optimizers)
    begun = sum(1 for epoch in range(4) for window in windows_of(task, "train", 1, epoch) if not window.burn_in)
    assert min(watch.averaging) == begun + 1
    assert list(optimizers[0].means())  # what was given is left alone
    for name, mean in means_since(watch, weights_of(model)).items():
        torch.testing.assert_close(dict(done.model.named_parameters())[name], mean, rtol=0, atol=1e-14)


def test_weights_without_a_gradient_do_not_stop_it(copy_task):
    """A cell without a Hadamard op has an empty bias, which no backward reaches on the reference."""
    task, generator = losing(copy_task(), RISING), torch.Generator().manual_seed(0)
    core = Backbone(2, 3, 1, [("add", "tanh"), ("add", "identity")], generator=generator, backend="reference")
    done = fit(task.model(core, generator=generator), task, AVERAGED, seed=0)
    assert list(done.optimizers[0].means())


@pytest.mark.parametrize("bilevel", ["joint", "first"])
def test_alpha_is_averaged_where_its_optimiser_says_so(copy_task, make_model, bilevel):
    task, watch = losing(copy_task(), RISING), Watch()
    recipe = replace(AVERAGED, alpha=replace(AVERAGED.weights, rate=0.5), bilevel=bilevel)
    done = fit(make_model(task), task, recipe, seed=0, monitor=watch)
    (mean,) = means_since(watch, ["core.nodes.0.alpha"]).values()
    torch.testing.assert_close(done.model.core.alpha[0].detach(), mean, rtol=0, atol=1e-14)


def test_means_are_forgotten_and_made_anew():
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = AveragedSGD([weight], lr=1.0)
    weight.grad = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    for on, mean in ((True, [2.0, -4.0]), (True, [3.5, -7.0]), (False, None), (True, [11.0, -22.0])):
        optimizer.set_averaging(on)
        for _ in range(3):
            optimizer.step()
            optimizer.average()
        found = [value.tolist() for _, value in optimizer.means()]
        assert found == ([] if mean is None else [pytest.approx(mean, rel=1e-15)])
