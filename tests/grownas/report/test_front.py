"""The table and the figure of cells with bit widths."""

from __future__ import annotations

import re

from grownas.report import front
from grownas.report.tables import as_text

FRONT = [
    {"model": "grown", "kind": "real", "bits": [], "bit_operations": 10240, "val": 0.5, "test": 0.6},
    {"model": "uniform_4", "kind": "uniform", "bits": [], "bit_operations": 160, "val": 0.6, "test": 0.72},
    {"model": "uniform_8", "kind": "uniform", "bits": [], "bit_operations": 640, "val": 0.5, "test": 0.597},
    {"model": "quantised", "kind": "mixed", "bits": [], "bit_operations": 320, "val": 0.504, "test": 0.606},
    {"model": "ptq_4", "kind": "ptq", "bits": [], "bit_operations": 160, "val": 5.0, "test": 6.0},
]


def test_the_table_is_sorted_by_cost_and_says_what_equal_quality_needs():
    text = as_text(front.table([FRONT, FRONT], "mse"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[2:6]]
    assert rows == [
        ["uniform_4", "16.0 ± 0.0", "20.00 ± 0.00", "20.00 ± 0.00"],
        ["ptq_4", "16.0 ± 0.0", "900.00 ± 0.00", "900.00 ± 0.00"],
        ["quantised", "32.0 ± 0.0", "0.80 ± 0.00", "1.00 ± 0.00"],
        ["uniform_8", "64.0 ± 0.0", "0.00 ± 0.00", "−0.50 ± 0.00"],
    ]
    assert "widths from a search: quantised with 32.0; one width, trained: uniform_8 with 64.0; one width, not" in text
    assert "The search needs 0.50 times the bit operations of the cheapest uniform width." in text


def test_a_kind_that_is_never_near_enough_is_told():
    assert "widths from a search: none;" in front.table([FRONT[:-2]], "mse").notes[0]


def test_the_figure_leaves_out_what_is_far_above():
    drawn = front.draw([FRONT], "mse", 7.6)
    assert drawn is not None
    assert "bit operations of a multiplication" in drawn
    assert "one width, trained" in drawn
    assert "one width, not trained" not in drawn  # ten times the error
    assert front.draw([], "mse", 7.6) is None
