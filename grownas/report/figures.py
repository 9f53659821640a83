"""Draws the figures that a task adds to the report, from the numbers in `figures.json`."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np

from grownas.report.canvas import ACCENT, FOURTH, GRID, INK, MUTED, OTHER, PANEL, THIRD, as_svg, drawing, shorten
from grownas.report.growth_plots import log_ticks
from grownas.report.reading import Tree

COLOURS, MARKERS = (ACCENT, INK, OTHER, THIRD, FOURTH, MUTED), "osD^vP"  # of the lines in order; repeated after six
FEW = 20  # so many points or fewer are drawn large
ROW = 0.17  # inches: height of a row of the legend
HEIGHT = 2.6  # inches, without the legend


def draw(figure: Tree, width: float = PANEL) -> str:
    """Draw a figure as SVG.

    Args:
        figure: a figure as in `figures.json`, see `protocols.Figure`; null is a missing value.
        width: inches.
    """
    lines, spans = figure["lines"], figure["spans"]
    with drawing(width, HEIGHT + ROW * -(-len(lines) // 2)) as (canvas, axes):
        for span in spans:
            axes.axvspan(span["low"], span["high"], color=GRID, alpha=0.5, linewidth=0)
            middle = (span["low"] + span["high"]) / 2
            place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
            axes.text(middle, 0.02, shorten(span["label"]), color=MUTED, fontsize=7, **place)
        for line, colour, marker in zip(lines, cycle(COLOURS), cycle(MARKERS), strict=False):
            x, y = (np.array(line[axis], dtype=float) for axis in ("x", "y"))
            axes.plot(x, y, color=colour, label=shorten(line["label"]), **_looks(line["is_points"], len(x), marker))
        if figure["is_log"]:
            axes.set_xscale("log")
            ticks = log_ticks(*axes.get_xlim())
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set_xlabel(figure["x_label"])
        axes.set_ylabel(figure["y_label"])
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=8)
        return as_svg(canvas)


def _looks(is_points: bool, count: int, marker: str) -> dict[str, Any]:
    if not is_points:
        return {"linewidth": 1.1}
    few = {"markersize": 5, "alpha": 1.0} if count <= FEW else {"markersize": 1.6, "alpha": 0.5}
    return {"linestyle": "none", "marker": marker, "markeredgewidth": 0, **few}
