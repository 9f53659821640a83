"""A backtest walks through the rows: block by block, each forecast from earlier rows alone, then learned."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from grownas.cells.cell import GrownRNN
from grownas.config.loading import load
from grownas.errors import ConfigError, DataError
from grownas.evaluation.backtest import summarise
from grownas.evaluation.intervals import Intervals
from grownas.experiments import backtesting
from grownas.experiments.backtesting import backtest, blocks, check, walk
from grownas.experiments.timeline import SeriesTimeline
from grownas.experiments.updating import Learner
from grownas.experiments.walking import TaskSetting, Trained
from grownas.genotype import Genotype, Node, Op
from grownas.protocols import Verdict
from grownas.runs.journal import Journal
from grownas.runs.memory import MemoryFolder
from grownas.tasks.index_returns.task import IndexReturns
from grownas.training.recipe import Recipe

QUICK = {
    "task.values": "returns",
    "task.data": "frame",
    "task.loss": "squared",
    "task.context": 20,
    "task.streams": 4,
    "task.bptt": 10,
    "space.hidden_size": 6,
    "space.activation": ["identity", "tanh"],
    "start.rule": "single",
    "start.max_order": 2,
    "strategy.max_epochs": 3,
    "strategy.origins": 1,
    "strategy.max_nodes": 1,
    "strategy.accept": "better",
    "strategy.guard": False,
    "retrain.epochs": 2,
    "retrain.grown": False,
    "baselines.hidden_sizes": [4],
    "baselines.losses": ["huber"],
    "baselines.rates": [0.01],
    "baselines.weight_decays": [0],
    "backtest.every": 20,
    "backtest.holdout": 20,
    "update.epochs": 2,
}
ROWS, ORIGIN = 300, 255  # 15 % of the rows are the test part


def products(rows=ROWS, seed=0):
    """Each series follows a product of two others."""
    rng, x = np.random.default_rng(seed), np.zeros((rows, 3))
    for t in range(1, rows):
        x[t] = 0.9 * np.tanh(2 * x[t - 1][[1, 2, 0]] * x[t - 1]) + 0.3 * x[t - 1][[2, 0, 1]] + rng.normal(0, 0.3, 3)
    return 0.01 * x


def load_both(values, **overrides):
    given = {**QUICK, **{key.replace("__", "."): value for key, value in overrides.items()}}
    config = load("index_returns/growing", given)
    days = pd.bdate_range("2020-01-01", periods=len(values))
    frame = pd.DataFrame(values, columns=list(string.ascii_lowercase[: values.shape[1]]), index=days)
    return config, IndexReturns.load(config.task, frame=frame)


def run(values, **overrides):
    """Return the result of a backtest in memory, its forecasts and its intervals in the units of the series."""
    config, task = load_both(values, **overrides)
    folder = MemoryFolder()
    journals = dict.fromkeys(config.backtest.models, Journal.in_memory())
    result = backtest(config, folder, journals, task)
    forecasts, intervals = (
        {model: one.numpy() for model, one in folder.files[f"{name}.safetensors"][0].items()}
        for name in ("forecasts", "intervals")
    )
    return result, forecasts, intervals


def test_blocks_are_contiguous_and_the_last_may_be_shorter():
    assert blocks(10, 25, 5) == [slice(10, 15), slice(15, 20), slice(20, 25)]
    assert blocks(10, 27, 5)[-1] == slice(25, 27)
    assert blocks(10, 12, 5) == [slice(10, 12)]


def by_least_squares(known):
    """Return the coefficients of a VAR(1), shape `(1 + I, I)`."""
    design = np.column_stack([np.ones(len(known) - 1), known[:-1]])
    return np.linalg.lstsq(design, known[1:], rcond=None)[0]


@pytest.mark.parametrize(("every", "window"), [(None, None), (1, None), (63, None), (5, 100)])
def test_var1_equals_a_walk_forward_by_hand(every, window):
    values = products()
    result, forecasts, _ = run(values, backtest__models=["var1"], backtest__refit_every=every, backtest__window=window)
    expected, between = [], every or 20
    for row in range(ORIGIN, ROWS):
        if (row - ORIGIN) % between == 0:
            beta = by_least_squares(values[:row] if window is None else values[row - window : row])
        expected.append(np.concatenate([[1], values[row - 1]]) @ beta)
    np.testing.assert_allclose(forecasts["var1"], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(forecasts["actual"], values[ORIGIN:], rtol=0, atol=1e-15)
    sd = values[:210].std(axis=0)  # of the first training part
    losses = (((values[ORIGIN:] - np.array(expected)) / sd) ** 2).mean(axis=1)
    assert result["models"][0]["loss"] == pytest.approx(losses.mean(), rel=1e-10)
    assert [one["rows"] for one in result["blocks"]] == [20, 20, 5]
    assert result["blocks"][1]["losses"]["var1"] == pytest.approx(losses[20:40].mean(), rel=1e-10)


def test_zero_forecasts_the_mean_of_the_first_training_part():
    values = products()
    _, forecasts, _ = run(values, backtest__models=["zero"])
    np.testing.assert_allclose(forecasts["zero"], np.tile(values[:210].mean(axis=0), (45, 1)), atol=1e-15)


def test_an_origin_moves_the_first_block_and_keeps_the_proportion_of_the_parts():
    config, task = load_both(products(), backtest__origin="2020-10-26")
    assert task.dates("all")[ORIGIN - 1 - 42] == "2020-10-26"
    assert check(config, task) == (213 * 210 // 255, 213)


ALL = {
    "backtest__models": ["grown", "var_robust", "har", "lstm"],
    "backtest__how": ["state", "continue", "grow", "refit"],
}


@pytest.fixture(scope="module")
def whole():
    return run(products(), **ALL)


def test_changing_the_future_changes_no_earlier_forecast_interval_or_decision(whole):
    changed, row = products(), 20 + 7  # in the second block
    changed[ORIGIN + row :] = 0.05 * np.random.default_rng(5).normal(size=(45 - row, 3))
    result, forecasts, intervals = run(changed, **ALL)
    for name, one in whole[1].items():
        if name != "actual":
            np.testing.assert_array_equal(forecasts[name][: row + 1], one[: row + 1], err_msg=name)
            assert not np.array_equal(forecasts[name][row + 1 :], one[row + 1 :]), name
    for name, one in whole[2].items():
        np.testing.assert_array_equal(intervals[name][:, : row + 1], one[:, : row + 1], err_msg=name)
        width, before = (np.diff(bounds, axis=0)[0] for bounds in (intervals[name], one))
        assert not np.isclose(width[row + 1], before[row + 1]).any(), name
    before = [[event for event in found["events"] if event["row"] <= row] for found in (result, whole[0])]
    assert before[0] == before[1]


def test_a_window_hides_older_rows_from_what_is_learnt():
    values, other = products(), products()
    other[:150] = other[:150][::-1]  # the same mean and standard deviation, so the same scaling
    kept = []
    for rows in (values, other):
        _, task = load_both(rows)
        known = task.until(200, 220, 240, since=160)
        assert [known.rows(part) for part in ("train", "val", "test")] == [slice(0, 40), slice(40, 60), slice(60, 80)]
        assert known.dates("test") == task.dates("all")[219:239]
        kept.append(known.panel.returns)
    np.testing.assert_array_equal(*kept)
    one, two = (run(values, backtest__models=["gru"], backtest__window=window)[1]["gru"] for window in (None, 100))
    np.testing.assert_array_equal(one[:20], two[:20])
    assert not np.array_equal(one[20:], two[20:])


def test_continued_learning_may_have_a_window_of_its_own():
    given = {"backtest__models": ["gru"], "backtest__window": 150}
    both = [
        [
            run(products(), backtest__recurrent=how, **given, **own)[1]["gru"]
            for own in ({}, {"backtest__continue_window": 100})
        ]
        for how in ("continue", "refit")
    ]
    for name, (one, other), changes in zip(("continue", "refit"), both, (True, False), strict=True):
        np.testing.assert_array_equal(one[:20], other[:20], err_msg=name)
        assert np.array_equal(one[20:], other[20:]) != changes, name


def test_every_way_to_learn_is_a_model_and_only_state_never_changes(whole):
    models = {one["model"]: one for one in whole[0]["models"]}
    assert list(models) == [f"grown_{how}" for how in ALL["backtest__how"]] + ["var_robust", "har", "lstm"]
    learned = {name: one["learned"] for name, one in models.items()}
    assert learned == {
        "grown_state": 0, "grown_continue": 2, "grown_grow": 2, "grown_refit": 2, "var_robust": 0, "har": 0, "lstm": 2
    }  # fmt: skip
    assert models["grown_continue"]["accepted"] > 0
    forecasts = whole[1]
    np.testing.assert_array_equal(forecasts["grown_state"][:20], forecasts["grown_continue"][:20])
    assert not np.array_equal(forecasts["grown_state"][20:], forecasts["grown_continue"][20:])


def test_the_intervals_of_a_model_start_from_rows_that_it_had_not_learned():
    values = products()
    result, forecasts, intervals = run(values, backtest__models=["var1"], backtest__holdout=50)
    beta = by_least_squares(values[: ORIGIN - 50])
    past = values[ORIGIN - 50 : ORIGIN] - np.column_stack([np.ones(50), values[ORIGIN - 51 : ORIGIN - 1]]) @ beta
    found = Intervals.of(past, values[ORIGIN:] - forecasts["var1"], 0.9)
    np.testing.assert_allclose(intervals["var1"], forecasts["var1"] + np.stack([-found.half, found.half]), atol=1e-12)
    told = result["intervals"]["var1"]
    assert told["coverages"] == found.summary["coverages"]
    sd = values[:210].std(axis=0)  # of the first training part
    finite = np.isfinite(found.half)
    assert told["width"] == pytest.approx((2 * found.half / sd)[finite].mean())


def test_all_work_is_counted_and_the_search_once_for_each_way_to_learn(whole):
    models = {one["model"]: one for one in whole[0]["models"]}
    first = {models[f"grown_{how}"]["first_seconds"] for how in ALL["backtest__how"]}
    assert len(first) == 1
    assert all(one["seconds"] >= one["first_seconds"] >= 0 for one in models.values())
    assert models["grown_refit"]["gradients"] > models["grown_state"]["gradients"] > 0


@pytest.mark.parametrize("recurrent", ["continue", "refit"])
@pytest.mark.parametrize("kind", ["gru", "fixed_size_random"])
def test_a_trained_baseline_trains_on_or_is_trained_anew_at_each_block(kind, recurrent):
    result, *_ = run(products(), backtest__models=[kind], backtest__recurrent=recurrent)
    row = result["models"][0]
    assert row["learned"] == 2
    assert row["accepted"] == 2 or recurrent == "continue"


def trained(judge, **given):
    """Return a recurrent walker with scripted models: `kept` forecasts zeros, each update forecasts the truth."""
    _, task = load_both(products())
    genotype = Genotype((Node((Op("add", "tanh", 1.0),)),))
    model = task.model(GrownRNN(genotype, 3, 4), generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.data.zero_()
    first, setting = Learner(model.eval(), Recipe()), TaskSetting("squared", {})
    told = {"how": "refit", "settings": None, "again": None, "backend": "auto", "window": None}
    told |= {"timeline": SeriesTimeline(task), "origin": ORIGIN, "holdout": 20, "evidence": 40}
    first_of_all = (first, setting, dict.fromkeys(COSTS, 0))
    return Trained(first=lambda: first_of_all, judge=judge, **{**told, **given})


COSTS = ("seconds", "cpu_seconds", "gradients")


class Scores:
    """A judge that prefers a model by the mean of its gains, and remembers of how many rows they were."""

    def __init__(self):
        self.rows = []

    def of_gains(self, gains):
        self.rows.append(len(gains))
        return Verdict(bool(gains.mean() > 0), float(gains.mean()), "scripted", 0.0)


def again(bias):
    """Return what fits a model anew: one that forecasts a constant."""

    def fit(task, journal):
        learner = trained(None).first()[0]
        learner.model.readout.bias.data.fill_(bias)
        return learner

    return fit


def course_of(walker, every=10):
    return walk("one", walker, Journal.in_memory(), blocks(ORIGIN, ROWS, every))


def test_a_model_that_learned_forecasts_only_once_it_was_better_on_rows_that_it_had_not_learned():
    judge = Scores()
    values = products()
    shifted_up = values.copy()
    shifted_up[ORIGIN:] += 0.03
    _, task = load_both(shifted_up)
    course = course_of(replace(trained(judge, again=again(1.0)), timeline=SeriesTimeline(task)))
    firsts = [entry["forecasts"][0, 0] for entry in course.entries]
    assert firsts == [0, 0, 0, 1, 1]  # learned before block 1; judged on 20 rows, those of the blocks 1 and 2
    assert judge.rows == [20, 20, 30, 30]  # twice a block: against it, then for it
    assert [entry["accepted"] for entry in course.entries] == [None, False, False, True, True]


def test_a_model_that_is_worse_begins_again_from_the_kept_one():
    learned = []

    def fit(task, journal):
        learned.append(task.rows("val").stop)
        return again(9.0)(task, journal)

    course = course_of(trained(Scores(), again=fit))
    assert not np.concatenate([entry["forecasts"] for entry in course.entries]).any()
    assert [len(entry["gains"]) for entry in course.entries] == [0, 10, 20, 10, 15]  # forgotten after 20 rows
    assert learned == [ORIGIN + 10 * block for block in range(1, 5)]


def test_only_the_latest_evidence_counts():
    course = course_of(trained(Scores(), again=again(0.0), evidence=25))
    assert [len(entry["gains"]) for entry in course.entries] == [0, 10, 20, 25, 25]


def test_without_a_judge_the_forecasts_are_always_those_of_the_model_that_learned():
    firsts = [entry["forecasts"][0, 0] for entry in course_of(trained(None, again=again(2.0))).entries]
    assert firsts == [0, 2, 2, 2, 2]


def test_on_noise_continued_learning_is_seldom_followed():
    given = {"strategy__accept": "significant", "backtest__every": 15, "update__epochs": 4}
    rows = []
    for seed in range(6):
        result, *_ = run(np.random.default_rng(seed).normal(size=(600, 3)), backtest__models=["grown"], **given)
        rows += result["models"]
    assert [row["learned"] for row in rows] == [5] * 6
    assert sum(row["accepted"] for row in rows) <= 0.1 * 5 * 6


class Scripted:
    """A walker whose forecasts are zero; it remembers before which blocks it learned."""

    def __init__(self, known, values):
        self.known, self.values, self.learned = known, values, []

    def begin(self):
        return {"params": 1, "seconds": 0.0, "cpu_seconds": 0.0, "gradients": 0, "known": self.known}

    def block(self, number, rows, before, *, learns):
        if learns:
            self.learned.append(number)
        told = {"params": 1, "gradients": 0, "accepted": learns or None, "growth": []}
        return {"losses": (self.values[rows] ** 2).mean(axis=1), **told}


def shifted(rows=200, shift=100):
    values = np.random.default_rng(0).normal(size=(rows, 2))
    values[shift:] *= 3
    return values


@pytest.mark.parametrize("detector", ["page_hinkley", "adwin"])
def test_on_drift_a_model_learns_only_after_its_losses_have_risen(detector):
    values = shifted()
    walker = Scripted((np.random.default_rng(1).normal(size=(60, 2)) ** 2).mean(axis=1), values)
    course = walk("one", walker, Journal.in_memory(), blocks(0, 200, 20), when="drift", detector=detector)
    assert 100 <= course.alarms[0] < 120
    assert walker.learned == [alarm // 20 + 1 for alarm in course.alarms]
    dates = [str(day.date()) for day in pd.bdate_range("2020-01-01", periods=200)]
    kinds = [(one["row"], one["kind"]) for one in summarise({"one": course}, dates, 20)["events"]]
    assert kinds[:2] == [(course.alarms[0], "drift"), (120, "learned")]


def test_without_drift_a_model_learns_after_every_block_but_the_last():
    walker = Scripted(None, shifted())
    walk("one", walker, Journal.in_memory(), blocks(0, 200, 20))
    assert walker.learned == list(range(1, 10))


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ({"backtest.origin": "2020-01-20"}, DataError, "row 13 of 300: .* Choose a later origin"),
        ({"backtest.origin": "2030-01-01"}, DataError, "the last row of .* is 2021-02-23; choose an earlier day"),
        ({"backtest.origin": "soon"}, DataError, "soon: not a date"),
        ({"backtest.holdout": 250}, DataError, "row 255 of 300: .* 250 validation rows are too few"),
        ({"backtest.window": 30}, DataError, "30 training and 20 validation rows are too few"),
        ({"backtest.continue_window": 30}, DataError, "30 training and 20 validation rows are too few"),
        ({"backtest.every": 0}, ConfigError, "backtest.every"),
        ({"backtest.models": ["lsmt"]}, ConfigError, "lsmt"),
        ({"backtest.how": []}, ConfigError, "backtest.how"),
        ({"backtest.how": "grow", "space.backbone": "dag"}, ConfigError, "only a chain can grow on"),
    ],
    ids=["early", "late", "no date", "holdout", "window", "continue window", "every", "model", "no how", "dag"],
)
def test_wrong_input_is_refused_in_words(overrides, error, words):
    with pytest.raises(error, match=words):
        check(*load_both(products(), **overrides))


def test_a_linear_model_refuses_too_few_rows_before_a_search(monkeypatch):
    def search(*_):
        raise AssertionError("the search came first")

    monkeypatch.setattr(backtesting, "searched", search)
    values = np.random.default_rng(0).normal(0, 0.01, (130, 20))
    config, task = load_both(values, backtest__models=["grown", "har"], backtest__origin="2020-05-12")
    with pytest.raises(DataError, match="too few to choose a HAR"):
        backtest(config, MemoryFolder(), dict.fromkeys(("grown", "har"), Journal.in_memory()), task)
