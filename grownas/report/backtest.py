"""Tables and the figure of a backtest, from `backtest.json` and the losses of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grownas.report.canvas import ACCENT, FOURTH, MUTED, OTHER, PANEL, THIRD, as_svg, drawing
from grownas.report.plots import date_ticks, forecast_panel
from grownas.report.reading import Forecast
from grownas.report.tables import (
    METRICS,
    NONE,
    Column,
    Row,
    Table,
    as_text,
    figure,
    percent,
    probability,
    seconds,
    size_words,
)

Tree = Mapping[str, Any]
COLOURS = (ACCENT, OTHER, THIRD, FOURTH)
MEANING = {"perplexity": "of all words, each block before it is learned"}  # by metric
SHOWN_DAYS, SHOWN_SERIES = 120, 4  # in the drawings of intervals
MARKS = {"drift": "x", "learned": "o"}  # kind of event -> marker; a move of growth is a triangle
TEST_NOTE = "The Diebold-Mariano test compares two given forecasts over all rows and says nothing about other seeds."


def text(result: Tree) -> str:
    """Return a backtest as text: one row per model, its intervals, then the means per year."""
    tables = (models(result), intervals(result), means(result, "years", period(result)))
    return "\n\n".join(as_text(one) for one in tables if one is not None)


def period(result: Tree) -> str:
    """Return what the means are over, `year` or `text`; a backtest of an earlier version has years."""
    return str(result.get("period", "year"))


def models(result: Tree) -> Table:
    """Return one row per model, the lowest mean loss first."""
    metric, reference = str(result["metric"]), result["reference"]
    columns = (
        Column("model", figures=False),
        Column(
            METRICS.get(metric, metric),
            MEANING.get(metric, "mean over all rows and series, standardised as in the first fit"),
        ),
        Column(f"minus {reference}", "difference of the means; above 0: worse than the reference"),
        Column("DM p", "two-sided p of the Diebold-Mariano test against the reference"),
        Column("MCS", "'in': member of the model confidence set of size 10 %", figures=False),
        Column("params", "number of parameters after the last block"),
        Column("s", "wall time of all work: choice of settings, first fit and all learning"),
        Column("CPU s", "processor time of the same work"),
        Column("first s", "part of the wall time before the first block"),
        Column("learned", "blocks after which it changed, of those after which it tried to"),
        Column("drifts", "rises of its losses that the detector found"),
    )
    tests = {one["baseline"]: one for one in result["tests"]}
    rows = sorted(result["models"], key=lambda one: one["loss"])
    own = next(one["loss"] for one in rows if one["model"] == reference)
    words = f"{result['rows']} rows from {result['first']} to {result['last']} in blocks of {result['every']}."
    return Table(columns, tuple(_row(one, own, tests, result) for one in rows), (words, TEST_NOTE, size_words(result)))


def _row(one: Tree, own: float, tests: Mapping[str, Tree], result: Tree) -> Row:
    test = tests.get(one["model"])
    members = result["mcs"]["members"] if result["mcs"] else None
    cells = (
        one["model"],
        figure(one["loss"]),
        NONE if one["model"] == result["reference"] else figure(one["loss"] - own),
        NONE if test is None else "same" if test["equal"] else probability(test["p_value"]),
        NONE if members is None else "in" if one["model"] in members else "out",
        str(one["params"]),
        seconds(one["seconds"]),
        seconds(one["cpu_seconds"]),
        seconds(one["first_seconds"]),
        f"{one['accepted']} of {one['learned']}" if one["learned"] else NONE,
        str(one["drifts"]),
    )
    return Row(cells, marked=one["model"] == result["reference"])


def intervals(result: Tree) -> Table | None:
    """Return one row per model on its prediction intervals; None if there are none."""
    if not (found := result.get("intervals")):
        return None
    columns = (
        Column("model", figures=False),
        Column("coverage", "share of the values that lie within the intervals, mean over series"),
        Column("of a series", "lowest and highest coverage of a series"),
        Column("width", "mean width, in standard deviations of the first training part"),
        Column("joint", "share of the rows that have all series within the joint intervals"),
        Column("joint width"),
        Column("Gaussian", "coverage of normal quantiles times the root mean square of all errors before"),
        Column("Gaussian width"),
        Column("infinite", "share of the intervals that are infinite, which the widths leave out"),
    )
    rows = (Row((name, *_interval(one)), marked=name == result["reference"]) for name, one in found.items())
    note = f"Adaptive conformal intervals for {100 * result['coverage']:g} %, formed before each row."
    return Table(columns, tuple(rows), (note,))


def _interval(one: Tree) -> tuple[str, ...]:
    least, most = min(one["coverages"]), max(one["coverages"])
    return (
        percent(one["coverage"]),
        f"{100 * least:.1f} to {percent(most)}",
        figure(one["width"]),
        percent(one["joint_coverage"]),
        figure(one["joint_width"]),
        percent(one["gaussian_coverage"]),
        figure(one["gaussian_width"]),
        percent(one["unbounded"]),
    )


def bands(of: Forecast, dates: Sequence[str]) -> list[str]:
    """Draw forecasts and intervals over the last days, as one SVG for each of the first series."""
    days = slice(-SHOWN_DAYS, None)
    return [
        forecast_panel(dates[days], of.actual[days, i], of.forecast[days, i], title=name, bounds=of.bounds[:, days, i])
        for i, name in enumerate(of.names[:SHOWN_SERIES])
    ]


def means(result: Tree, key: str, title: str) -> Table:
    """Return the mean losses per year or block.

    Args:
        result: the backtest.
        key: `years` or `blocks`.
        title: of the first column.
    """
    names = [one["model"] for one in result["models"]]
    columns = (Column(title, figures=False), Column("rows"), *(Column(name) for name in names))
    rows = (
        Row((one["name"], str(one["rows"]), *(figure(one["losses"][name]) for name in names))) for one in result[key]
    )
    return Table(columns, tuple(rows))


def draw(result: Tree, losses: Mapping[str, np.ndarray], dates: Sequence[str], width: float) -> str:
    """Draw each model's cumulative loss minus that of the best baseline; events are marks on the curves.

    Args:
        result: the backtest.
        losses: by model, one per row, shape `(n,)`.
        dates: of the rows.
        width: inches.
    """
    rival, shown = rival_of(result), shown_of(result)
    with drawing(width, 3.0) as (canvas, axes):
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for name, colour in zip(shown, COLOURS, strict=False):
            curve = np.cumsum(losses[name] - losses[rival])
            axes.plot(np.arange(len(curve)), curve, color=colour, label=name)
            for event in result["events"]:
                if event["model"] == name:
                    marker = MARKS.get(event["kind"], "^")
                    axes.plot(event["row"], curve[event["row"]], marker=marker, color=colour, markersize=6)
        axes.set_ylabel(f"cumulative loss minus {rival}'s")
        axes.legend(loc="best")
        date_ticks(axes, dates, 5 if width > PANEL else 3)
        return as_svg(canvas)


def shown_of(result: Tree) -> list[str]:
    """Return the models whose curves are drawn: those that were trained, or all others than the rival."""
    rival = rival_of(result)
    others = [one for one in result["models"] if one["model"] != rival]
    trained = [one["model"] for one in others if one["model"].startswith("grown") or one["learned"]]
    return (trained or [one["model"] for one in others])[: len(COLOURS)]


def rival_of(result: Tree) -> str:
    """Return the model with the lowest mean loss that is not a grown cell, if there is one."""
    others = [one for one in result["models"] if not one["model"].startswith("grown")] or result["models"]
    return str(min(others, key=lambda one: one["loss"])["model"])
