"""Table and figure of cells with bit widths: quality against bit operations, from the summaries' entry `front`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grownas.evaluation.fronts import KINDS, TOLERANCES, cheapest, points
from grownas.report.canvas import ACCENT, MUTED, OTHER, THIRD, as_svg, drawing
from grownas.report.tables import METRICS, MINUS, NONE, Column, Row, Table

Front = Sequence[Mapping[str, Any]]

LOOKS = {  # kind -> colour, marker, words
    "mixed": (ACCENT, "o", "widths from a search"),
    "uniform": (OTHER, "s", "one width, trained"),
    "ptq": (THIRD, "^", "one width, not trained"),
}
SHOWN = 60.0  # per cent: higher points are left out of the figure


def table(fronts: Sequence[Front], metric: str) -> Table:
    """Return a row for each cell, the cheapest first, and below it what the kinds need at equal quality."""
    columns = (
        Column("model", figures=False),
        Column("bit operations", "of a multiplication: bits of weights times bits of inputs, mean over products"),
        Column("val %", "rise of the validation error over that of the cell in real numbers, mean ± sd over seeds"),
        Column("test %", "the same of the test error"),
    )
    found = sorted(points(fronts, metric), key=lambda one: float(np.mean(one["cost"])))
    rows = tuple(
        Row(
            (one["model"], _spread(one["cost"], 1), _spread(one["val"]), _spread(one["test"])),
            marked=one["kind"] == "mixed",
        )
        for one in found
    )
    return Table(columns, rows, tuple(_needed(found, words, most) for words, most in TOLERANCES.items()))


def _needed(found: Sequence[Mapping[str, Any]], words: str, most: float) -> str:
    """Say in a sentence how many bit operations each kind needs within a tolerance."""
    best = cheapest(found, most)
    parts = [f"{LOOKS[kind][2]}: {_named(best[kind])}" for kind in KINDS]
    text = f"Within {words} of the cell in real numbers on validation, mean over seeds: {'; '.join(parts)}."
    mixed, uniform = best["mixed"], best["uniform"]
    if mixed and uniform:
        ratio = float(np.mean(mixed["cost"])) / float(np.mean(uniform["cost"]))
        text += f" The search needs {ratio:.2f} times the bit operations of the cheapest uniform width."
    return text


def _named(point: Mapping[str, Any] | None) -> str:
    return "none" if point is None else f"{point['model']} with {np.mean(point['cost']):.1f}"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    sd = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{sd}".replace("-", MINUS) if values else NONE


def draw(fronts: Sequence[Front], metric: str, width: float) -> str | None:
    """Draw test quality against bit operations: a small mark for each seed, a large one for the mean.

    Returns:
        The SVG, or None if there are no cells with bit widths.
    """
    found = points(fronts, metric)
    if not found:
        return None
    with drawing(width, 3.0) as (canvas, axes):
        axes.set_xscale("log", base=2)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for kind, (colour, marker, words) in LOOKS.items():
            own = sorted((one for one in found if one["kind"] == kind), key=lambda one: float(np.mean(one["cost"])))
            means = [(np.mean(one["cost"]), np.mean(one["test"])) for one in own if np.mean(one["test"]) <= SHOWN]
            if means:
                axes.plot(*zip(*means, strict=True), color=colour, marker=marker, markersize=5, label=words)
            for one in own:
                near = [each for each in zip(one["cost"], one["test"], strict=True) if each[1] <= SHOWN]
                if near:
                    axes.plot(*zip(*near, strict=True), marker, color=colour, markersize=2.5, alpha=0.5)
        ticks = [4, 9, 16, 36, 64, 144, 256]
        axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("bit operations of a multiplication")
        axes.set_ylabel(f"rise of test {METRICS.get(metric, metric)}, %")
        axes.legend(loc="upper right", fontsize=8)
        return as_svg(canvas)
