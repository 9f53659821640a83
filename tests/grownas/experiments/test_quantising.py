"""Which of several searched cells is chosen, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.cells.blocks import BlocksNetwork
from grownas.config.sections import Quantise
from grownas.evaluation.scoring import Score
from grownas.experiments.quantising import _choice, quantise
from grownas.protocols import Evaluation
from grownas.readout import LinearReadout


def score(name, val):
    evaluation = Evaluation(val, np.zeros(1))
    return Score(name, 1, evaluation, evaluation, 0.0)


FRONT = [
    {"model": "grown", "val": 1.0, "bit_operations": 1000},
    {"model": "dear", "val": 0.99, "bit_operations": 90},
    {"model": "near", "val": 1.05, "bit_operations": 50},
    {"model": "poor", "val": 1.5, "bit_operations": 10},
]


@pytest.mark.parametrize(
    ("tolerance", "names", "chosen"),
    [
        (0.1, ["dear", "near", "poor"], "near"),
        (0.01, ["dear", "near", "poor"], "dear"),
        (0.6, ["dear", "near", "poor"], "poor"),
        (0.0, ["near", "poor"], "near"),  # none is within the tolerance: the lowest validation figure
    ],
)
def test_the_cheapest_cell_within_the_tolerance_is_chosen(tolerance, names, chosen):
    found = [(score(one["model"], one["val"]), None) for one in FRONT if one["model"] in names]
    winner, _ = _choice(found, FRONT, tolerance, "mse")
    assert winner.model == chosen


@pytest.mark.parametrize(("tolerance", "expected"), [(0.07, "cheap"), (0.03, "good")])
def test_a_tolerance_is_a_share_of_the_error_for_a_metric_in_decibels(tolerance, expected):
    front = [{"model": "grown", "val": -40.0, "bit_operations": 1024}]
    front += [{"model": model, "bit_operations": count} for model, count in (("cheap", 16), ("good", 64))]
    found = [(score("good", -40.1), None), (score("cheap", -39.75), None)]
    winner, _ = _choice(found, front, tolerance, "nmse_db")
    assert winner.model == expected


def test_a_network_of_delays_alone_has_nothing_to_quantise():
    node = BlockNode((BlockEdge(0, "delay(1)"), BlockEdge(1, "delay(2)")))
    model = LinearReadout(BlocksNetwork(BlocksGenotype((node,))), 2)
    with pytest.warns(UserWarning, match="neither a FIR nor a polynomial, so nothing has a width"):
        assert quantise(None, Quantise(widths=(4, 8)), None, model) is None
