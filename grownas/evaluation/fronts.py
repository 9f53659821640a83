"""Quality against bit operations of cells with bit widths, relative to the cell in real numbers, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Entry = Mapping[str, Any]

KINDS = ("mixed", "uniform", "ptq")  # widths from a search, one width trained, one width not trained
DECIBEL = "_db"  # ends the names of metrics in dB
REAL = 32 * 32  # bit operations of a multiplication of real numbers
TOLERANCES = {"1 %": 1.0, "0.3 dB": 100 * (10**0.03 - 1)}  # words -> largest rise of the metric, in per cent


def rise(found: float, base: float, metric: str) -> float:
    """Return by what share an error is above another one; below 0 if it is lower.

    Args:
        found: value of a metric, lower is better.
        base: the value that it is compared with.
        metric: its name. If it ends in `_db`, the values are in dB and the powers are compared: .3 dB more is .072.
    """
    if metric.endswith(DECIBEL):
        return float(10 ** ((found - base) / 10)) - 1
    return found / base - 1


def points(fronts: Sequence[Sequence[Entry]], metric: str) -> list[dict[str, Any]]:
    """Return a point for each row of the fronts of several seeds.

    Each seed has a cell of its own, so that only ratios can be compared over seeds.

    Args:
        fronts: the entry `front` of each run's summary, see `experiments.quantising.quantise`.
        metric: name of the metric.

    Returns:
        For each row but that in real numbers `model`, `kind`, and with a figure for each seed that has the row `cost`
        (bit operations for each multiplication, such as 64 at 8 bits), `val` and `test` (`rise` of the metric over
        that of the cell in real numbers, in per cent).
    """
    found: dict[str, dict[str, Any]] = {}
    for real, *rows in fronts:
        for row in rows:
            point = found.setdefault(
                row["model"], {"model": row["model"], "kind": row["kind"], "cost": [], "val": [], "test": []}
            )
            point["cost"].append(REAL * row["bit_operations"] / real["bit_operations"])
            for part in ("val", "test"):
                point[part].append(100 * rise(row[part], real[part], metric))
    return list(found.values())


def cheapest(found: Sequence[Entry], most: float) -> dict[str, Entry | None]:
    """Return for each kind the point of lowest mean cost whose mean validation rise is at most `most` per cent."""

    def of(kind: str) -> Entry | None:
        near = [one for one in found if one["kind"] == kind and np.mean(one["val"]) <= most]
        return min(near, key=lambda one: float(np.mean(one["cost"])), default=None)

    return {kind: of(kind) for kind in KINDS}
