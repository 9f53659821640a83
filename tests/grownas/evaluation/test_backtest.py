"""The result of a backtest: its events."""

from __future__ import annotations

import numpy as np

from grownas.evaluation.backtest import Course, summarise

COSTS = {"seconds": 0.0, "cpu_seconds": 0.0, "gradients": 0, "steps": 0}


def entry(accepted, *moves):
    """A block after which the model learned; `moves` are pairs of a kind and whether growth accepted it."""
    growth = [{"kind": kind, "node": 0, "accepted": taken} for kind, taken in moves]
    return {**COSTS, "accepted": accepted, "growth": growth, "params": 3, "forecasts": np.zeros((10, 1))}


def test_growth_is_an_event_of_its_block_also_before_the_model_is_followed():
    blocks = [entry(None), entry(False, ("add_node", True), ("add_node", False)), entry(True), entry(True)]
    begun = {**COSTS, "params": 2}
    course = Course(np.ones(40), begun, blocks, alarms=[25])
    dates = [f"2020-02-{day:02}" for day in range(1, 29)] + [f"2020-03-{day:02}" for day in range(1, 13)]
    events = summarise({"grown": course}, dates, every=10)["events"]
    assert [(one["row"], one["kind"]) for one in events] == [
        (10, "add_node"),
        (20, "learned"),
        (25, "drift"),
        (30, "learned"),
    ]
    assert events[0] == {"model": "grown", "date": "2020-02-11", "row": 10, "kind": "add_node"}
