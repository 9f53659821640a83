"""Scores in one form, and the free run that finds out whether a model stays bounded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from grownas.evaluation.scoring import DIVERGED, Score, free_running
from grownas.protocols import Evaluation


class Times(nn.Module):
    """x_{t+1} = factor * x_t, and counts how often it is asked."""

    def __init__(self, factor, breaks_at=None):
        super().__init__()
        self.factor, self.breaks_at, self.calls, self.modes = factor, breaks_at, 0, set()

    def forward(self, x, hidden=None):
        self.calls += 1
        self.modes.add(self.training)
        hidden = 0 if hidden is None else hidden
        assert hidden == self.calls - 1  # the state is carried on
        return x * (math.nan if self.calls == self.breaks_at else self.factor), hidden + 1


FIRST = torch.tensor([[[9.0, 9.0]], [[1.0, -2.0]]])  # (T, 1, I); the last day counts


@pytest.mark.parametrize(("factor", "largest"), [(0.5, 1.0), (1.0, 2.0), (-1.0, 2.0), (0.0, 0.0)])
def test_a_bounded_model_runs_to_the_end(factor, largest):
    model = Times(factor)
    assert free_running(model, FIRST) == {"steps": 1000, "largest": largest, "diverged": False}
    assert model.calls == 1001  # what it reads first, then 1,000 steps


@pytest.mark.parametrize("factor", [2.0, -2.0])
def test_a_growing_model_is_stopped_where_it_leaves_the_bound(factor):
    # |forecasts| 4, 8, 16, 32, 64, 128: five are within 100, the sixth is not
    assert DIVERGED == 100.0
    assert free_running(Times(factor), FIRST) == {"steps": 5, "largest": 128.0, "diverged": True}


def test_slow_growth_is_found_only_if_the_run_is_long_enough():
    # 2 * 1.01^n passes 100 at n = ln(50) / ln(1.01) = 393.2
    assert not free_running(Times(1.01), FIRST, steps=390)["diverged"]
    found = free_running(Times(1.01), FIRST, steps=1000)
    assert (found["steps"], found["diverged"]) == (393, True)


@pytest.mark.parametrize("breaks_at", [1, 2, 7])
def test_nan_is_found_at_its_step(breaks_at):
    found = free_running(Times(1.0, breaks_at), FIRST)
    assert found == {"steps": breaks_at - 1, "largest": None, "diverged": True}
    json.dumps(found, allow_nan=False)


def test_overflow_is_found():
    assert free_running(Times(1e30), FIRST * 1e30) == {"steps": 0, "largest": None, "diverged": True}


def test_the_last_step_counts_too():
    assert free_running(Times(1.0, breaks_at=6), FIRST, steps=5)["diverged"]
    assert not free_running(Times(1.0, breaks_at=7), FIRST, steps=5)["diverged"]


def test_the_free_run_is_an_evaluation():
    model = Times(1.0).train()
    free_running(model, FIRST, steps=3)
    assert model.modes == {False}


# ---- the entry in summary.json


class FakeTask:
    def score(self, evaluation, part):
        return {"part": part, "sum": float(evaluation.forecasts.sum())}


def score(**changes):
    val = Evaluation(0.5, np.array([0.1, 0.2]), np.array([[1.0], [2.0]]))
    test = Evaluation(0.25, np.array([0.3]), np.array([[4.0]]))
    return Score("gru", 12, val, test, 1.23456, **changes)


def test_an_entry_has_the_contracts_keys_and_the_details_of_both_parts():
    assert score(settings=4, chosen={"loss": "huber"}).entry(FakeTask()) == {
        "model": "gru",
        "params": 12,
        "val": 0.5,
        "test": 0.25,
        "seconds": 1.235,
        "settings": 4,
        "chosen": {"loss": "huber"},
        "detail": {"val": {"part": "val", "sum": 3.0}, "test": {"part": "test", "sum": 4.0}},
    }


def test_nothing_is_shared_between_scores_by_default():
    assert score().chosen == {}
    assert score().chosen is not score().chosen


def test_forecasts_are_those_of_both_parts_in_time_order():
    assert score().forecasts().tolist() == [[1.0], [2.0], [4.0]]


class Halves(nn.Module):
    """Halves input and state until both underflow to zero."""

    calls = 0

    def forward(self, x, hidden=None):
        self.calls += 1
        return 0.5 * x, 0.5 * (torch.ones(1) if hidden is None else hidden)


def test_a_fixed_point_ends_the_run_with_the_same_result():
    model = Halves()
    assert free_running(model, FIRST) == {"steps": 1000, "largest": 1.0, "diverged": False}
    assert 100 < model.calls < 200  # 2 / 2^150 is the last number above zero in float32
