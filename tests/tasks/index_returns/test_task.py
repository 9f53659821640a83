"""The task on a small CSV. Above all: nothing knows the future."""

from __future__ import annotations

import datetime
import itertools
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grownas.baselines.combination import combine_by_folds
from grownas.baselines.har import select_har
from grownas.baselines.naive import zero_forecast
from grownas.baselines.var import fit_var, select_by_folds, select_by_validation
from grownas.cells.cell import GrownRNN
from grownas.errors import DataError
from grownas.genotype import Genotype, Node, Op
from grownas.tasks.index_returns.cleaning import Panel, clean
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.reading import Table
from grownas.tasks.index_returns.task import IndexReturns

LATE, ROWS = 3, 300  # as in conftest
TRAIN, VAL = 210, 45
PARTS = ("train", "weights", "architecture")
BATCHES = ("streams", "windows")


# ---- small models and panels


class Sum(nn.Module):
    """A core that never forgets: its state is the sum of all it has read, so a forecast says what was read."""

    def __init__(self, size):
        super().__init__()
        self.hidden_size = size

    def forward(self, x, hidden=None):
        start = 0 if hidden is None else hidden
        out = start + x.cumsum(0)
        return out, out[-1]


def identity_readout(model):
    with torch.no_grad():
        model.readout.weight.copy_(torch.eye(len(model.readout.weight)))
        model.readout.bias.zero_()
    return model


def grown(task, seed=0):
    ops = (Op("add", "tanh", 0.5), Op("hadamard", "sigmoid", 0.3), Op("add", "identity", 0.2))
    core = GrownRNN(Genotype((Node(ops), Node((*ops[:1], Op("add", "relu", 0.5))))), task.input_size, 4)
    generator = torch.Generator().manual_seed(seed)
    core.reset_parameters(generator)
    return task.model(core, generator=generator)


def gru(task, seed=0):
    torch.manual_seed(seed)
    return task.model(nn.GRU(task.input_size, 4), generator=torch.Generator().manual_seed(seed))


MODELS = {"grown": grown, "gru": gru}


def counting(rows=ROWS, *, architecture_share=0.2, **options):
    """A task whose standardised value of row r is r: a window then says which days it holds."""
    given = {"loss": "squared", "bptt": 5, "streams": 4, "context": 30}
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(rows)]
    panel = Panel(days, ["A"], np.arange(rows, dtype=float)[:, None], {})
    n_train, n_val = int(rows * 0.7), int(rows * 0.85) - int(rows * 0.7)
    chosen = Options(**{**given, **options})
    return IndexReturns(
        chosen, panel, "counting", n_train, n_val, chosen.loss, architecture_share, scaled_by=(np.zeros(1), np.ones(1))
    )


def days(tensor):
    """Return the rows that a window of `counting` holds, `(T, B)`."""
    return tensor[..., 0].long().numpy()


def change_after(closes, day, seed):
    """Return closes that are others from the row after `day` on; blanks stay."""
    changed = closes.copy()
    later = changed[day + 1 :]
    later *= np.exp(np.random.default_rng(seed).normal(size=later.shape) * 0.1)
    return changed


def same_windows(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a.fresh, a.burn_in) == (b.fresh, b.burn_in)
        for x, y in ((a.x, b.x), (a.target, b.target), (a.weight, b.weight)):
            assert (x is None and y is None) or torch.equal(x, y)


# ---- the future changes nothing before it


@settings(max_examples=25, deadline=None)
@given(day=st.integers(LATE, LATE + ROWS - 1), seed=st.integers(0, 99), difference=st.sampled_from([(), ("B",)]))
def test_cleaning_and_returns_do_not_know_the_future(closes, load, day, seed, difference):
    before = load(difference=difference).panel
    after = load(change_after(closes, day, seed), difference=difference).panel
    assert before.dates == after.dates
    known = max(0, day - LATE - len(difference))  # rows of the days up to `day`; the first has no return, no change
    np.testing.assert_array_equal(before.returns[:known], after.returns[:known])
    assert (before.returns[known:] != after.returns[known:]).any()


@settings(max_examples=25, deadline=None)
@given(row=st.integers(TRAIN - 1, ROWS - 2), seed=st.integers(0, 99))
def test_scaling_and_values_know_the_training_part_alone(closes, load, row, seed):
    before, after = load(), load(change_after(closes, row + LATE + 1, seed))
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.sd, after.sd)
    np.testing.assert_array_equal(before.values[: row + 1], after.values[: row + 1])
    assert torch.equal(before.tensor("train"), after.tensor("train"))


def test_scaling_is_the_training_parts_mean_and_sd(load):
    task = load()
    train = task.panel.returns[:TRAIN]
    np.testing.assert_allclose(task.mean, train.sum(0) / TRAIN, rtol=1e-12)
    np.testing.assert_allclose(task.sd, np.sqrt(((train - task.mean) ** 2).sum(0) / TRAIN), rtol=1e-12)
    np.testing.assert_allclose(task.values[:TRAIN].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(task.values[:TRAIN].std(0), 1, rtol=1e-12)
    np.testing.assert_allclose(task.in_own_units(task.values), task.panel.returns, rtol=0, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(
    part=st.sampled_from(PARTS),
    batches=st.sampled_from(BATCHES),
    loss=st.sampled_from(["squared", "volatility"]),
    refit=st.booleans(),
    seed=st.integers(0, 99),
)
def test_windows_do_not_know_what_comes_after_their_part(closes, load, part, batches, loss, refit, seed):
    tasks = []
    for values in (closes, None):
        task = load(batches=batches, loss=loss)
        task = task.with_refit() if refit else task
        if values is None:  # change what comes after the part, but not the scaling, which knows the training part
            end = max(task.rows(part).stop, TRAIN)
            task = load(change_after(closes, end + LATE, seed), batches=batches, loss=loss)
            task = task.with_refit() if refit else task
        tasks.append(task)
    assert (tasks[0].values != tasks[1].values).any()
    same_windows(*(task.windows(part, seed=seed) for task in tasks))


@settings(max_examples=25, deadline=None)
@given(
    part=st.sampled_from(PARTS), batches=st.sampled_from(BATCHES), row=st.integers(0, ROWS - 2), seed=st.integers(0, 99)
)
def test_a_window_holds_the_days_it_says(part, batches, row, seed):
    """With the scaling given, values after any day, also one within the part, change nothing up to that day."""
    task = counting(batches=batches)
    returns = task.panel.returns.copy()
    returns[row + 1 :] = -1
    changed = replace(task, panel=replace(task.panel, returns=returns))
    for a, b in zip(task.windows(part, seed=seed), changed.windows(part, seed=seed), strict=True):
        for x, y in ((a.x, b.x), (a.target, b.target)):
            assert torch.equal(y, torch.where(x <= row, x, -torch.ones_like(x)))


@settings(max_examples=15, deadline=None)
@given(row=st.integers(TRAIN, ROWS - 2), seed=st.integers(0, 99), kind=st.sampled_from(sorted(MODELS)))
def test_a_models_forecasts_do_not_know_the_future(closes, load, row, seed, kind):
    before, after = load(), load(change_after(closes, row + LATE + 1, seed))  # rows up to `row` stay
    for part in ("val", "test", "all"):
        model = MODELS[kind](before)
        one, other = before.evaluate(model, part).forecasts, after.evaluate(model, part).forecasts
        known = max(0, row + 2 - before.rows(part).start)  # the forecast of row + 1 is made from row
        np.testing.assert_array_equal(one[:known], other[:known])
        if known < len(one):
            assert (one[known:] != other[known:]).any()


FITTED = {  # name -> what may be known beside the training part, and the forecasts of row t + 1 from rows up to t
    "zero": (TRAIN, lambda values: zero_forecast(values)),
    "var1": (TRAIN, lambda values: fit_var(values[:TRAIN], 1).forecast(values)),
    "var": (
        TRAIN + VAL,  # its order is chosen on validation data
        lambda values: select_by_validation(values, TRAIN, TRAIN + VAL, range(1, 4)).var.forecast(values),
    ),
    "var_robust": (
        TRAIN,
        lambda values: select_by_folds(values[:TRAIN], orders=range(1, 3), ridges=(0.0, 0.1)).var.forecast(values),
    ),
    "har": (TRAIN, lambda values: select_har(values[:TRAIN], ridges=(0.0, 0.1)).var.forecast(values)),
    "start": (TRAIN, lambda values: combine_by_folds(values[:TRAIN], ridges=(0.01, 0.1)).var.forecast(values)),
}


@pytest.mark.parametrize("name", FITTED)
@settings(max_examples=4, deadline=None)
@given(ahead=st.integers(0, VAL - 2), seed=st.integers(0, 99))
def test_a_fitted_baselines_forecasts_do_not_know_the_future(closes, load, name, ahead, seed):
    known, forecast = FITTED[name]
    row = known - 1 + ahead
    before, after = load(), load(change_after(closes, row + LATE + 1, seed))
    one, other = forecast(before.values), forecast(after.values)
    np.testing.assert_array_equal(one[: row + 1], other[: row + 1])
    assert name == "zero" or (one[row + 1 :] != other[row + 1 :]).any()


# ---- parts


def test_parts_follow_each_other_without_overlap(load):
    task = load()
    parts = [range(ROWS)[task.rows(part)] for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [TRAIN, VAL, ROWS - TRAIN - VAL]
    assert [row for part in parts for row in part] == list(range(ROWS))
    inner = [range(ROWS)[task.rows(part)] for part in ("weights", "architecture")]
    assert [row for part in inner for row in part] == list(parts[0])
    assert len(inner[1]) == round(TRAIN * 0.2)
    assert list(range(ROWS)[task.rows("all")]) == list(range(1, ROWS))  # the first day has none before it
    assert task.dates("val") + task.dates("test") == task.describe()["dates"]
    assert len(task.dates("val")) == VAL


@given(share=st.floats(0.15, 0.8))
def test_architecture_and_weights_are_disjoint(share):
    for task in (counting(architecture_share=share), counting(architecture_share=share).with_refit()):
        seen = {
            part: {int(day) for window in task.windows(part, seed=1) for day in np.ravel(days(window.target))}
            for part in ("weights", "architecture")
        }
        assert max(seen["weights"]) < min(seen["architecture"])
        inputs = [days(window.x).min() for window in task.windows("architecture", seed=1)]
        assert min(inputs) >= task.rows("architecture").start  # not even read


@pytest.mark.parametrize("batches", BATCHES)
@settings(max_examples=40, deadline=None)
@given(
    part=st.sampled_from(PARTS),
    bptt=st.integers(2, 12),
    streams=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    refit=st.booleans(),
)
def test_every_target_lies_in_its_part_and_every_input_is_the_day_before(batches, part, bptt, streams, seed, refit):
    task = counting(bptt=bptt, streams=streams, batches=batches)
    task = task.with_refit() if refit else task
    rows = task.rows(part)
    windows = list(task.windows(part, seed=seed))
    for window in windows:
        target = days(window.target)
        np.testing.assert_array_equal(days(window.x), target - 1)
        np.testing.assert_array_equal(np.diff(target, axis=0), 1)  # time goes on within a window
        assert target.min() > rows.start
        assert target.max() < rows.stop
        assert 1 <= len(target) <= bptt
        assert window.x.dtype == window.target.dtype == torch.float32
    assert windows[0].x.shape[1] <= streams
    assert not any(window.burn_in for window in windows[1:])


@settings(max_examples=40, deadline=None)
@given(part=st.sampled_from(PARTS), bptt=st.integers(2, 12), streams=st.integers(1, 60), seed=st.integers(0, 999))
def test_streams_carry_their_state_from_day_to_day(part, bptt, streams, seed):
    task = counting(bptt=bptt, streams=streams)
    first, *rest = task.windows(part, seed=seed)
    assert (first.fresh, first.burn_in) == (True, True)
    assert len(days(first.x)) == bptt  # each stream reads as far back as a gradient reaches
    last = days(first.target)[-1]
    for window in rest:
        assert (window.fresh, window.burn_in) == (False, False)
        np.testing.assert_array_equal(days(window.target)[0], last + 1)
        last = days(window.target)[-1]


@settings(max_examples=40, deadline=None)
@given(part=st.sampled_from(PARTS), bptt=st.integers(2, 12), streams=st.integers(1, 60), seed=st.integers(0, 999))
def test_an_epoch_of_streams_covers_nearly_all_days_once(part, bptt, streams, seed):
    task = counting(bptt=bptt, streams=streams)
    learned = np.concatenate([np.ravel(days(w.target)) for w in task.windows(part, seed=seed) if not w.burn_in])
    assert len(set(learned)) == len(learned)
    rows = task.rows(part)
    assert len(learned) > rows.stop - rows.start - 2 * bptt - streams  # warm-up, shift, and what does not divide
    assert len(learned) <= rows.stop - rows.start - 2 * bptt


@settings(max_examples=40, deadline=None)
@given(part=st.sampled_from(PARTS), bptt=st.integers(2, 12), size=st.integers(1, 60), seed=st.integers(0, 999))
def test_an_epoch_of_windows_learns_every_day_that_has_a_whole_window_once(part, bptt, size, seed):
    task = counting(bptt=bptt, streams=size, batches="windows")
    rows, last = task.rows(part), []
    for window in task.windows(part, seed=seed):
        assert (window.fresh, window.burn_in, len(window.x)) == (True, False, bptt)
        assert window.weight.shape == (bptt, window.x.shape[1], 1)
        assert not window.weight[:-1].any()
        last += days(window.target)[-1].tolist()
    assert sorted(last) == list(range(rows.start + bptt, rows.stop))
    assert len(last) < 10 or last != sorted(last)  # in random order


@pytest.mark.parametrize("batches", BATCHES)
def test_a_seed_fixes_an_epoch_and_another_gives_another(load, batches):
    task = load(batches=batches)
    torch.manual_seed(1)
    one = list(task.windows("train", seed=5))
    torch.manual_seed(2)
    np.random.seed(2)  # the global state must not matter
    same_windows(one, task.windows("train", seed=5))
    others = [next(iter(task.windows("train", seed=seed))).target for seed in range(8)]
    assert any(not torch.equal(one[0].target, other) for other in others)


def test_over_the_epochs_no_day_but_the_first_few_is_left_out():
    """Where the streams begin is drawn anew, so that what does not divide is not the same days each time."""
    task = counting()
    seen = {
        int(day)
        for seed in range(60)
        for window in task.windows("train", seed=seed)
        if not window.burn_in
        for day in np.ravel(days(window.target))
    }
    assert set(range(2 * 5, TRAIN - 5)) <= seen


# ---- too little data


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bptt": 60}, r"300 rows make 210 training, 45 validation and 45 test rows; at least 240, 2 and 2 are needed"),
        ({"train": 0.994, "val": 0.003}, r"300 rows make 298 training, 1 validation and 1 test rows"),
        ({"train": 0.5, "val": 0.499}, r"300 rows make 150 training, 149 validation and 1 test rows"),
    ],
)
def test_too_few_rows_for_a_part_are_refused(load, options, words):
    with pytest.raises(DataError, match=words):
        load(**options)


def test_too_few_rows_at_all_are_refused(closes, load):
    with pytest.raises(DataError, match="89 rows of returns are left after C begins on 2020-01-06, at least 100"):
        load(closes[: LATE + 90])


@pytest.mark.parametrize(("batches", "least"), [("streams", 15), ("windows", 6)])
def test_a_part_too_short_for_a_window_is_refused_before_the_first(load, batches, least):
    short = load(batches=batches, architecture_share=(least - 1) / TRAIN)
    with pytest.raises(
        DataError, match=f"the part architecture has {least - 1} rows, but {batches} of 5 days need at least"
    ):
        short.windows("architecture", seed=1)  # not only when it is iterated
    enough = load(batches=batches, architecture_share=least / TRAIN)
    assert len(list(enough.windows("architecture", seed=1))) >= 1


def test_a_series_constant_over_the_training_part_is_refused(closes, load):
    flat = closes.copy()
    flat[: LATE + TRAIN + 1, 1] = 100.0
    with pytest.raises(DataError, match="constant over the training part: B; remove the column"):
        load(flat)


# ---- loss

STRAIGHT = SimpleNamespace(readout=nn.Linear(3, 3, bias=False).requires_grad_(False))
nn.init.eye_(STRAIGHT.readout.weight)  # what it is given is the forecast


@pytest.mark.parametrize("name", ["squared", "huber"])
def test_the_loss_of_streams_is_the_mean_of_pytorchs(load, name):
    task = load().with_loss(name)
    theirs = {"squared": lambda a, b: nn.MSELoss()(a, b) / 2, "huber": nn.HuberLoss(delta=1.5)}[name]
    for window in task.windows("train", seed=1):
        output = 2 * torch.randn(window.target.shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(task.loss(STRAIGHT, output, window), theirs(output, window.target))


@pytest.mark.parametrize("name", ["squared", "huber"])
def test_the_loss_of_windows_is_that_of_their_last_day(load, name):
    task = load(batches="windows").with_loss(name)
    theirs = {"squared": lambda a, b: nn.MSELoss()(a, b) / 2, "huber": nn.HuberLoss(delta=1.5)}[name]
    for window in task.windows("train", seed=1):
        output = 2 * torch.randn(window.target.shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(task.loss(STRAIGHT, output, window), theirs(output[-1], window.target[-1]))


@pytest.mark.parametrize("batches", BATCHES)
def test_the_volatility_loss_weights_each_day_by_its_own_weight(load, batches):
    from grownas.tasks.index_returns.losses import calmness

    task = load(batches=batches, loss="volatility")
    weight_of = {  # standardised day -> its weight
        tuple(row): float(weight)
        for row, weight in zip(task.values.astype(np.float32).tolist(), calmness(task.values, TRAIN)[:, 0], strict=True)
    }
    for window in task.windows("train", seed=1):
        output = torch.zeros_like(window.target)
        days = slice(-1, None) if batches == "windows" else slice(None)
        target = window.target[days]
        weights = torch.tensor([[weight_of[tuple(row)] for row in day] for day in target.tolist()])
        expected = (weights.unsqueeze(-1) * target**2 / 2).mean()
        torch.testing.assert_close(task.loss(STRAIGHT, output, window), expected)


@pytest.mark.parametrize("loss", ["squared", "huber", "volatility"])
def test_with_loss_is_the_task_loaded_with_that_loss(load, loss):
    other = load(loss="volatility" if loss == "huber" else "huber")
    other.evaluate(gru(other), "val")  # nothing of the old loss is kept
    task, loaded = other.with_loss(loss), load(loss=loss)
    assert task.loss_name == loss
    assert other.loss_name != loss
    model = gru(task)
    np.testing.assert_array_equal(task.evaluate(model, "val").losses, loaded.evaluate(model, "val").losses)
    same_windows(task.windows("train", seed=1), loaded.windows("train", seed=1))


# ---- evaluation


@pytest.mark.parametrize("loss", ["squared", "huber", "volatility"])
@pytest.mark.parametrize("kind", sorted(MODELS))
@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluate_equals_a_loop_by_hand(load, part, kind, loss):
    from grownas.tasks.index_returns.losses import calmness

    task = load(loss=loss)
    model = MODELS[kind](task)
    found = task.evaluate(model, part)
    rows = task.rows(part)
    hidden, forecasts = None, {}
    for row in range(rows.start - 1 - 30, rows.stop - 1):
        with torch.no_grad():
            output, hidden = model(torch.tensor(task.values[row], dtype=torch.float32).view(1, 1, -1), hidden)
        forecasts[row + 1] = output[0, 0].double().numpy()
    by_hand = np.array([forecasts[row] for row in range(rows.start, rows.stop)])
    np.testing.assert_allclose(found.forecasts, by_hand, rtol=0, atol=1e-6)
    error = found.forecasts - task.values[rows]
    assert found.metric == pytest.approx((error**2).mean(), rel=1e-12)
    size = np.abs(error)
    expected = np.where(size <= 1.5, size**2 / 2, 1.5 * (size - 0.75)) if loss == "huber" else error**2 / 2
    if loss == "volatility":
        expected *= calmness(task.values, TRAIN)[rows]
    np.testing.assert_allclose(found.losses, expected.mean(1), rtol=1e-6)
    assert found.losses.shape == (rows.stop - rows.start,)
    assert found.losses.dtype == found.forecasts.dtype == np.float64
    assert task.score(found, part)["mse"] == pytest.approx(found.metric, rel=1e-12)


@pytest.mark.parametrize("context", [1, 30, 209, 1000])
def test_context_is_how_many_days_are_read_before(context):
    """The state is the sum of the days read: row r's forecast is first + .. + (r - 1)."""
    task = counting(context=context)
    model = identity_readout(task.model(Sum(1)))
    first = max(0, TRAIN - 1 - context)
    found = task.evaluate(model, "val").forecasts[:, 0]
    assert found.tolist() == [sum(range(first, row)) for row in range(TRAIN, TRAIN + VAL)]
    assert task.day_ahead(model).tolist() == [sum(range(max(0, ROWS - 1 - context), ROWS))]


def test_forecasts_of_a_float32_model_are_its_own_numbers(load):
    task = load()
    model = gru(task)
    found = task.evaluate(model, "test").forecasts
    np.testing.assert_array_equal(found, found.astype(np.float32).astype(np.float64))
    assert next(model.parameters()).dtype == torch.float32
    assert model.mean.dtype == model.sd.dtype == torch.float64  # the scaling is kept exactly
    assert task.tensor("val").shape == (VAL, 1, 3)
    np.testing.assert_array_equal(task.tensor("val")[:, 0].numpy(), task.values[TRAIN : TRAIN + VAL].astype(np.float32))


def test_evaluation_asks_for_no_gradient_and_no_dropout(load):
    task = load()
    model = task.model(nn.GRU(3, 4, num_layers=2, dropout=0.9)).train()
    one, other = (task.evaluate(model, "val") for _ in range(2))
    np.testing.assert_array_equal(one.forecasts, other.forecasts)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_given_forecasts_are_scored_alike(load):
    task = load(loss="huber")
    found = task.evaluate(gru(task), "test")
    again = task.evaluate_forecasts(found.forecasts, "test")
    assert again.metric == found.metric
    np.testing.assert_array_equal(again.losses, found.losses)
    nothing = task.evaluate_forecasts(np.zeros((ROWS - TRAIN - VAL, 3)), "test")
    assert nothing.metric == pytest.approx((task.values[TRAIN + VAL :] ** 2).mean(), rel=1e-12)


def test_the_first_day_of_all_has_no_day_before_it_and_is_not_scored(load):
    task = load()
    model = gru(task)
    found = task.evaluate(model, "train")
    assert found.forecasts.shape == (TRAIN - 1, 3)
    with torch.no_grad():
        whole, _ = model.eval()(task.tensor("train"))
    np.testing.assert_allclose(found.forecasts, whole[:-1, 0], rtol=0, atol=1e-6)  # day t from days up to t - 1
    assert found.metric == pytest.approx(((found.forecasts - task.values[1:TRAIN]) ** 2).mean(), rel=1e-12)


def test_forecasts_of_another_shape_are_not_broadcast(load):
    with pytest.raises(AssertionError):
        load().evaluate_forecasts(np.zeros((1, 3)), "val")


# ---- the day ahead


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_day_ahead_is_the_forecast_of_a_row_appended(load, kind):
    task = load(context=1000)  # all days are read both times
    model = MODELS[kind](task)
    panel = task.panel
    longer = replace(
        task,
        panel=replace(
            panel,
            returns=np.concatenate([panel.returns, panel.returns[:1] * 3]),
            dates=[*panel.dates, datetime.date.fromisoformat(task.next_day)],
        ),
    )
    np.testing.assert_allclose(task.day_ahead(model), longer.evaluate(model, "test").forecasts[-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("last", "ahead"),
    [
        ("2024-01-01", "2024-01-02"),  # a Monday
        ("2024-01-04", "2024-01-05"),
        ("2024-01-05", "2024-01-08"),  # a Friday
        ("2024-01-06", "2024-01-08"),  # a Saturday: some markets trade
        ("2024-01-07", "2024-01-08"),
        ("2023-12-29", "2024-01-01"),  # over the year's end
        ("2024-02-28", "2024-02-29"),
    ],
)
def test_the_next_day_of_a_panel_of_weekdays_is_a_weekday(load, last, ahead):
    task = load()
    end = datetime.date.fromisoformat(last)
    before = [end - datetime.timedelta(days=i) for i in range(len(task.panel.dates) * 2, 0, -1)]
    dates = [*[day for day in before if day.weekday() < 5][-len(task.panel.dates) + 1 :], end]
    assert replace(task, panel=replace(task.panel, dates=dates)).next_day == ahead


# ---- variants and description


def test_with_refit_joins_training_and_validation_part_and_nothing_else(load):
    task = load()
    both = task.with_refit()
    assert both.rows("train") == slice(0, TRAIN + VAL)
    assert both.rows("weights").stop == both.rows("architecture").start == round((TRAIN + VAL) * 0.8)
    for part in ("val", "test", "all"):
        assert both.rows(part) == task.rows(part)
    np.testing.assert_array_equal(both.mean, task.mean)  # the scaling stays: scores stay comparable
    np.testing.assert_array_equal(both.values, task.values)
    assert task.rows("train") == slice(0, TRAIN)
    learned = {
        int(day) for window in counting().with_refit().windows("train", seed=1) for day in days(window.target)[-1]
    }
    assert max(learned) >= TRAIN + VAL - 5 - 4


def test_with_scaling_standardises_as_told(load):
    task = load()
    mean, sd = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 8.0])
    scaled = task.with_scaling(mean, sd, ["A", "B", "C"])
    np.testing.assert_array_equal(scaled.values, (task.panel.returns - mean) / sd)
    np.testing.assert_array_equal(scaled.in_own_units(np.ones((1, 3))), [[3.0, 6.0, 11.0]])
    model = scaled.model(Sum(3))
    assert (model.mean.tolist(), model.sd.tolist()) == (mean.tolist(), sd.tolist())
    np.testing.assert_array_equal(task.with_scaling(task.mean, task.sd, task.names).values, task.values)


def standing_still(closes, column=1, rows=20):
    """Return closes of which a series does not move at the end of the training part."""
    flat = closes.copy()
    flat[LATE + TRAIN - rows : LATE + TRAIN, column] = 100.0
    return flat


def test_a_series_that_stands_still_is_dropped_with_a_warning(closes, load):
    with pytest.warns(UserWarning, match=r"index_returns.csv: dropped B, which does not move for \d+ rows"):
        task = load(standing_still(closes))
    assert task.names == ["A", "C"]
    np.testing.assert_array_equal(task.panel.returns, load().panel.returns[:, [0, 2]])
    (one,) = task.describe()["cleaning"]["dropped"]
    assert one["series"] == "B"
    assert task.model(Sum(2)).mean.shape == (2,)
    assert load(standing_still(closes), longest_still=30).names == ["A", "B", "C"]


def test_the_parts_of_the_task_are_those_that_are_looked_at(closes, load):
    dead = closes.copy()
    dead[LATE + TRAIN + 1 : LATE + 1 + TRAIN + VAL, 0] = closes[0, 0]
    dead[LATE + TRAIN, 0] = closes[0, 0]
    said = f"dropped A, which does not move in the validation part for {VAL} rows"
    with pytest.warns(UserWarning, match=said):
        load(dead, longest_still=100)


def test_a_fitted_models_series_is_taken_back_though_it_stands_still(closes, load):
    """Without it the model could not be scored on the new data at all."""
    flat = standing_still(closes)
    with pytest.warns(UserWarning, match="dropped B"):
        task = load(flat, loss="huber").with_loss("huber").with_device("meta")
    with pytest.warns(UserWarning, match=r"kept B, which does not move for \d+ rows.*: the model reads this series"):
        back = task.with_scaling(np.zeros(3), np.ones(3), ["A", "B", "C"])
    assert back.names == ["A", "B", "C"]
    assert (back.loss_name, back.device) == ("huber", "meta")
    np.testing.assert_array_equal(back.values, load(flat, longest_still=30).panel.returns)
    with pytest.warns(UserWarning, match="kept B"):
        one = task.with_scaling(np.zeros(3), np.ones(3), ["A", "B", "C"]).describe()["cleaning"]["kept_still"]
    assert one[0]["series"] == "B"


def test_a_model_fitted_without_the_dropped_series_needs_nothing_back(closes, load):
    with pytest.warns(UserWarning, match="dropped B"):
        task = load(standing_still(closes))
    assert task.with_scaling(np.zeros(2), np.ones(2), ["A", "C"]).names == ["A", "C"]


def test_other_columns_are_refused_with_the_name_of_what_was_dropped(closes, load):
    with pytest.warns(UserWarning, match="dropped B"):
        task = load(standing_still(closes), difference=("B",))
    words = r"its columns are A, C \(B was dropped because it does not move\); the model was fitted to A, B, D"
    with pytest.raises(DataError, match=words):
        task.with_scaling(np.zeros(3), np.ones(3), ["A", "B", "D"])
    with pytest.raises(DataError, match="the model was fitted to B, A, C"):
        task.with_scaling(np.zeros(3), np.ones(3), ["B", "A", "C"])


@pytest.mark.parametrize("names", [["A", "C", "B"], ["A", "B"], ["A", "B", "C", "D"]])
def test_other_columns_are_refused(load, names):
    with pytest.raises(DataError, match=f"its columns are A, B, C; the model was fitted to {', '.join(names)}"):
        load().with_scaling(np.zeros(3), np.ones(3), names)


def test_the_checksum_tells_data_apart(closes, load):
    task = load()
    assert task.checksum.startswith("sha256:")
    assert task.checksum == load(bptt=7, loss="huber").with_refit().checksum  # of the data, not of their use
    moved = closes.copy()
    moved[-1, 0] = np.nextafter(moved[-1, 0], 1e9) * (1 + 1e-12)
    assert load(moved).checksum != task.checksum
    assert load(difference=("B",)).checksum != task.checksum


def test_the_checksum_is_of_what_was_read_not_of_its_logarithms():
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(120)]
    values = np.random.default_rng(0).normal(size=(120, 2))
    read = Table(days, ["a", "b"], values, "somewhere", kind="returns", origin="sha256:raw")
    told = clean(read).checksum
    assert clean(replace(read, values=np.nextafter(values, 9))).checksum == told
    for other in (
        replace(read, origin="sha256:other"),
        replace(read, origin=""),
        replace(read, origin="", names=["a", "c"]),
        replace(read, origin="", dates=[*days[:-1], days[-1] + datetime.timedelta(days=1)]),
        replace(read, origin="", values=np.nextafter(values, 9)),
    ):
        assert clean(other).checksum != told
    assert len({clean(replace(read, origin="", names=names)).checksum for names in (["a", "b"], ["a", "c"])}) == 2


def test_the_description_is_plain_and_complete(load):
    import json

    task = load()
    told = json.loads(json.dumps(task.describe(), allow_nan=False))
    assert told["names"] == task.names == ["A", "B", "C"]
    assert (told["n_train"], told["n_val"], told["n_test"]) == (TRAIN, VAL, ROWS - TRAIN - VAL)
    assert told["mean"] == task.mean.tolist()
    assert told["sd"] == task.sd.tolist()
    assert told["source"] == "index_returns.csv"
    assert told["checksum"] == task.checksum
    assert told["cleaning"]["rows_used"] == ROWS
    assert all(count > 0 for count in told["cleaning"]["carried_forward"].values())
    assert len(told["dates"]) == ROWS - TRAIN


def test_a_models_readout_is_drawn_from_the_generator_alone(load):
    task = load()

    def draw(seed, elsewhere):
        torch.manual_seed(elsewhere)
        return task.model(Sum(3), generator=torch.Generator().manual_seed(seed)).readout

    one, same, other = draw(1, 1), draw(1, 2), draw(2, 1)
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.bias, same.bias)
    assert not torch.equal(one.weight, other.weight)
    bound = 3**-0.5  # as nn.Linear
    assert one.weight.abs().max() <= bound
    state = torch.get_rng_state()
    task.model(Sum(3), generator=torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())


def test_a_models_file_holds_the_scaling(load):
    task = load()
    state = gru(task).state_dict()
    assert {"readout.weight", "readout.bias", "mean", "sd"} < set(state)
    np.testing.assert_array_equal(state["mean"].numpy(), task.mean)
    np.testing.assert_array_equal(state["sd"].numpy(), task.sd)


# ---- earlier origins


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_origin_is_so_many_validation_parts_earlier(number):
    task = counting()
    earlier = task.at_origin(number)
    train = TRAIN - number * VAL
    assert earlier.rows("train") == slice(0, train)
    assert earlier.rows("val") == slice(train, train + VAL)
    read = np.concatenate([days(window.target).ravel() for window in earlier.windows("train", seed=0)])
    assert read.max() < train
    assert len(earlier.evaluate_forecasts(np.zeros((VAL, 1)), "val").losses) == VAL
    assert (task.rows("train"), task.rows("val")) == (slice(0, TRAIN), slice(TRAIN, TRAIN + VAL))  # left alone


def test_the_blocks_of_all_origins_follow_each_other(load):
    task = load()
    blocks = [task.at_origin(number).rows("val") for number in (3, 2, 1)] + [task.rows("val")]
    assert all(one.stop == other.start for one, other in itertools.pairwise(blocks))
    assert blocks[-1].stop == task.rows("test").start


def test_at_an_origin_values_are_scaled_as_they_were(load):
    """Losses of all origins are added up, so that their unit must be one."""
    task = load()
    earlier = task.at_origin(2)
    np.testing.assert_array_equal(earlier.values, task.values)
    np.testing.assert_array_equal(earlier.mean, task.mean)
    np.testing.assert_array_equal(earlier.sd, task.sd)
    other = earlier.at_origin(1)
    np.testing.assert_array_equal(other.values, task.values)
    assert other.rows("val") == task.at_origin(3).rows("val")


def test_an_origin_with_too_few_rows_is_refused():
    task = counting(bptt=19)  # 76 rows at least: 210 - 2 * 45 = 120, 210 - 3 * 45 = 75
    assert task.at_origin(2).n_train == 120
    words = r"counting: 3 earlier validation parts of 45 rows leave 75 of 210 training rows; at least 76 are"
    with pytest.raises(DataError, match=words):
        task.at_origin(3)


@pytest.mark.parametrize("training", [True, False])
def test_forecasting_leaves_the_mode(training):
    task = counting()
    model = grown(task).train(training)
    task.evaluate(model, "val")
    task.day_ahead(model)
    assert {part.training for part in model.modules()} == {training}


# ---- data for a finished run's model


@pytest.fixture(scope="session")
def read_for(load):
    """Load data for a model of A, B and C."""

    def read_for(run_dates=(), **options):
        return IndexReturns.load_for(load(**options).options, ["A", "B", "C"], run_dates=run_dates)

    return read_for


def test_data_for_a_model_have_all_rows_and_no_training_part(load, read_for):
    own, task = load(), read_for()
    np.testing.assert_array_equal(task.panel.returns, own.panel.returns)
    assert task.checksum == own.checksum
    assert task.rows("train") == slice(0, 0)
    assert task.scored_parts(("seen", "new")) == ("new",)
    assert task.rows("new") == task.rows("all") == slice(1, ROWS)
    parts = task.with_parts()
    assert (parts.n_train, parts.n_val, parts.seen) == (own.n_train, own.n_val, 0)
    np.testing.assert_array_equal(parts.values, own.values)


@given(last=st.integers(0, ROWS - 1), since=st.integers(-1, ROWS - 2))
def test_rows_of_the_run_and_new_rows_share_all_rows_out(read_for, last, since):
    days = [str(day) for day in read_for().panel.dates]
    task = read_for(run_dates=days[: last + 1])
    one, other = task.rows("seen"), task.rows("new")
    assert (one.start, max(one.stop, one.start), other.stop) == (1, max(other.start, 1), ROWS)
    assert all(day <= days[last] for day in task.dates("seen"))
    assert all(day > days[last] for day in task.dates("new"))
    if since < 0:
        return
    after = task.after(days[since])
    wanted = [day for part in ("seen", "new") for day in task.dates(part) if day > days[since]]
    assert [day for part in after.scored_parts(("seen", "new")) for day in after.dates(part)] == wanted


def test_new_rows_are_forecast_with_the_rows_before_them(load, read_for):
    """What a part's forecasts read does not depend on how long the past before `context` is."""
    days = [str(day) for day in load().panel.dates]
    task, model = read_for(run_dates=days[:250]), gru(load())
    scaled = task.with_scaling(load().mean, load().sd, task.names)
    found = scaled.evaluate(model, "new")
    by_hand = load().at_origin(0)
    by_hand = replace(by_hand, n_train=205, n_val=45)  # its test part begins where the new rows begin
    np.testing.assert_array_equal(found.forecasts, by_hand.evaluate(model, "test").forecasts)
    assert scaled.short_past("new") == 0
    assert scaled.short_past("seen") == 30  # the context


@pytest.mark.parametrize("loss", ["squared", "huber", "volatility"])
def test_without_a_training_part_every_loss_scores(read_for, loss):
    task = read_for().with_loss(loss)
    task = task.with_scaling(np.zeros(3), np.ones(3), task.names)
    found = task.evaluate(gru(task), "new")
    assert np.isfinite(found.losses).all()
    assert found.metric == pytest.approx(((found.forecasts - task.values[1:]) ** 2).mean())


def test_synthetic_dates_say_nothing_about_what_was_seen():
    options = Options(data="white_noise", data_seed=2)
    names = [f"x{i}" for i in (1, 2, 3, 4)]
    task = IndexReturns.load_for(options, names, run_dates=["2000-01-03", "2010-01-01"])
    assert task.scored_parts(("seen", "new")) == ("new",)


def test_a_named_source_gives_a_models_series():
    with pytest.warns(UserWarning, match="bundled .*: ignored NASDAQ, NASDAQ_range, which the model does not read"):
        task = IndexReturns.load_for(Options(), ["SP500_range", "SP500"])
    whole = IndexReturns.load(Options())
    np.testing.assert_array_equal(task.panel.returns, whole.panel.returns[:, [2, 0]])
    with pytest.raises(DataError, match="DAX missing; its columns are SP500, NASDAQ"):
        IndexReturns.load_for(Options(), ["SP500", "DAX"])


@pytest.mark.parametrize(
    ("last", "since", "is_after"),
    [
        ("2024-01-05", "2024-01-05", False),
        ("2024-01-06", "2024-01-05", True),
        ("2024-01-05", "2024-01-05 09:00", False),  # a day has no hours that come later
        ("2024-01-06", "2024-01-05 09:00", True),
        ("2024-01-05 10:00", "2024-01-05", False),  # the day is over at midnight
        ("2024-01-05 10:00", "2024-01-05 09:00", True),
        ("2024-01-05 10:00", "2024-01-05 10:00", False),
        ("2024-01-05 10:00+01:00", "2024-01-05 09:30+00:00", False),
        ("2024-01-05 10:00+01:00", "2024-01-05 08:30+00:00", True),
        ("2024-01-05 10:00+01:00", "2024-01-05 09:30", True),  # by the clock at the place
    ],
)
def test_a_row_is_after_a_day_or_a_time(last, since, is_after):
    task = counting()
    first = datetime.datetime.fromisoformat(last)
    dates = [first - datetime.timedelta(days=i) for i in range(ROWS - 1, -1, -1)]
    if len(last) == 10:
        dates = [day.date() for day in dates]
    task = replace(task, panel=replace(task.panel, dates=dates))
    if is_after:
        assert task.after(since).dates("test")[-1] == last.replace("10:00", "10:00:00")
        return
    with pytest.raises(DataError, match="no row is dated after since=; the last row is 2024-01-05"):
        task.after(since).scored_parts(("val", "test"))


# ---- units of what is written


def of_kind(tmp_path, closes, kind, **options):
    values = closes if kind == "prices" else closes - 100
    path = write_closes(tmp_path / f"{kind}.csv", values)
    given = {"loss": "squared", "bptt": 5, "streams": 4, "context": 30, "longest_still": 300}
    return IndexReturns.load(Options(data=str(path), values=kind, **{**given, **options}))


def write_closes(path, values):
    lines = ["date,A,B,C"]
    for number, row in enumerate(values.tolist()):
        day = datetime.date(2020, 1, 1) + datetime.timedelta(days=number)
        lines.append(",".join([day.isoformat(), *("" if value != value else repr(value) for value in row)]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", ["prices", "levels"])
@pytest.mark.parametrize("part", ["val", "test", "all"])
def test_prices_and_levels_go_on_from_the_last_known_value(tmp_path, closes, kind, part):
    task = of_kind(tmp_path, closes, kind, units="prices")
    rows = task.rows(part)
    filled = closes.copy()
    for row in range(1, len(filled)):
        filled[row] = np.where(np.isnan(filled[row]), filled[row - 1], filled[row])
    filled = (filled if kind == "prices" else filled - 100)[LATE:]  # row t + 1 is that of return t
    np.testing.assert_array_equal(task.actual(part), filled[rows.start + 1 : rows.stop + 1])
    nothing = np.zeros((rows.stop - rows.start, 3)) - task.mean / task.sd  # a forecast of no change
    np.testing.assert_allclose(task.written(nothing, part), filled[rows.start : rows.stop], rtol=1e-12)
    perfect = task.written(task.values[rows], part)
    np.testing.assert_allclose(perfect, task.actual(part), rtol=1e-9, atol=1e-9)
    one = task.written((1 - task.mean)[None] / task.sd, None)
    np.testing.assert_allclose(one[0], filled[-1] * np.e if kind == "prices" else filled[-1] + 1, rtol=1e-12)
    assert task.units == kind


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("prices", "log returns in decimals; task.units=prices gives prices"),
        ("levels", "changes of the levels; task.units=prices gives levels"),
        ("returns", "the data's own units"),
    ],
)
def test_returns_are_written_as_they_are_forecast(tmp_path, closes, kind, words):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*replaced blank returns by 0")
        task = of_kind(tmp_path, closes, kind)
    rows = task.rows("val")
    np.testing.assert_array_equal(task.written(task.values[rows], "val"), task.in_own_units(task.values[rows]))
    np.testing.assert_array_equal(task.actual("val"), task.in_own_units(task.values[rows]))
    assert task.units == words


def test_prices_of_returns_are_refused(tmp_path, closes):
    words = "bundled .*: task.units=prices, but the data are returns, so prices are unknown; set task"
    task = IndexReturns.load(Options(units="prices"))
    for ask in (lambda: task.units, lambda: task.actual("val"), lambda: task.written(np.zeros((1, 4)), None)):
        with pytest.raises(DataError, match=words):
            ask()
    differenced = of_kind(tmp_path, closes, "prices", units="prices", difference=("B",))
    with pytest.raises(DataError, match="prices cannot be computed from differenced returns"):
        differenced.actual("val")


def test_a_subpanel_knows_its_prices():
    whole = IndexReturns.load(Options(data="random_walk", units="prices"))
    part = IndexReturns.load(Options(data="random_walk", units="prices", subpanel=3))
    drawn = part.panel.report["subpanel"]
    columns = [whole.names.index(name) for name in part.names]
    first = drawn["first_row"]
    np.testing.assert_array_equal(part.panel.known, whole.panel.known[first : first + drawn["rows"] + 1, columns])
    perfect = part.written(part.values[part.rows("test")], "test")
    np.testing.assert_allclose(perfect, part.actual("test"), rtol=1e-9)


def test_intraday_rows_are_dated_with_their_time(tmp_path, closes):
    times = [datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=i) for i in range(len(closes))]
    lines = ["timestamp,A"] + [f"{time},{value!r}" for time, value in zip(times, closes[:, 0].tolist(), strict=True)]
    (tmp_path / "hours.csv").write_text("\n".join(lines).replace("nan", "") + "\n")
    task = IndexReturns.load(Options(data=str(tmp_path / "hours.csv"), bptt=5, longest_still=300))
    assert task.dates("test")[-1] == str(times[-1]) == "2020-01-13 15:00:00"
    assert task.next_day == "2020-01-13 16:00:00"
    assert task.describe()["next"] == {"when": task.next_day, "frequency": task.next_step.frequency, "doubt": ""}
