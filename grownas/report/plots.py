"""Plots of scores and forecasts. Each takes a width in inches, because the page has a wide and a narrow variant."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from grownas.report.canvas import (
    ACCENT,
    FOURTH,
    GRID,
    INK,
    LINE,
    MUTED,
    OTHER,
    PANEL,
    THIRD,
    WIDE,
    as_svg,
    drawing,
    shorten,
)
from grownas.report.growth_plots import log_ticks, spread
from grownas.report.history import Course, Curve
from grownas.report.tables import METRICS, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"steps": 0, "seconds": 1}  # horizontal axis -> index in a curve's points
TRIAL_AXES = {"trials": "number", "seconds of search": "wall_s"}  # horizontal axis -> key of trials.jsonl
SCALES: dict[str | None, tuple[Callable[[float], float], Callable[[float], float]]] = {  # metric -> scale and inverse
    None: (float, float),
    "perplexity": (math.log, math.exp),
}


def dots(
    figures: Mapping[str, Sequence[float]], *, metric: str, ours: Sequence[str] = ("grown",), width: float
) -> str | None:
    """Draw one row per model, the lowest mean on top: a dot for each seed and a bar at the mean.

    A model far above the others is shown at the right edge with an arrow, so that the others keep their room.
    """
    kept = {name: [v for v in values if v is not None and np.isfinite(v)] for name, values in figures.items()}
    ordered = sorted(((float(np.mean(v)), name, v) for name, v in kept.items() if v), reverse=True)
    if not ordered:
        return None
    means = np.array([mean for mean, _, _ in ordered])
    lowest, middle = min(min(v) for _, _, v in ordered), float(np.median(means))
    rim = middle + max(2.5 * (middle - lowest), 0.02 * abs(middle))
    high = max((v for _, _, values in ordered for v in values if v <= rim), default=rim)
    with drawing(width, 0.55 + 0.25 * len(ordered)) as (canvas, axes):
        span = high - lowest or 0.05 * abs(high) or 1.0
        axes.set_xlim(lowest - 0.05 * span, high + 0.07 * span)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.grid(visible=False)
        axes.grid(visible=True, axis="x")
        axes.set_yticks(range(len(ordered)), [name for _, name, _ in ordered])
        axes.locator_params(axis="x", nbins=6 if width > PANEL else 4)
        axes.set_xlabel(f"test {METRICS.get(metric, metric)}, lower is better")
        for row, (mean, name, values) in enumerate(ordered):
            colour = ACCENT if name in ours else INK
            _dot_row(axes, row, mean, values, colour, high, metric)
        for label, (_, name, _) in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_color(ACCENT if name in ours else INK)
        return as_svg(canvas)


def _dot_row(axes: Axes, row: int, mean: float, values: Sequence[float], colour: str, high: float, metric: str) -> None:
    """Draw the row of a model, with its mean as a number at the right."""
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center_baseline"}
    if mean > high:
        axes.text(1.0, row, f"{score(mean, metric)} →", ha="right", color=MUTED, **place)
        return
    several = len(values) > 1
    looks: dict[str, Any] = {"alpha": 0.45, "markersize": 4.5} if several else {"markersize": 5.5}
    axes.plot(values, [row] * len(values), "o", color=colour, markeredgewidth=0, **looks)
    if several:
        axes.plot([mean, mean], [row - 0.28, row + 0.28], color=colour, linewidth=1.8)
    axes.text(1.02, row, score(mean, metric), color=colour, **place)


def curves(found: Sequence[Curve], *, metric: str, over: str, width: float = PANEL) -> str | None:
    """Draw the validation metric of each model during training, with the model's name at the end of its curve.

    Args:
        found: the curves.
        metric: the metric that they show.
        over: the horizontal axis, `steps` or `seconds`.
        width: inches.

    Returns:
        The SVG, or None if there are no curves.
    """
    if not found:
        return None
    other, column = itertools.cycle((INK, OTHER, THIRD, FOURTH, MUTED)), AXES[over]
    colours = {curve.model: ACCENT if curve.model == "grown" else next(other) for curve in found}
    values = np.array([point[2] for curve in found for point in curve.points])
    to, back = SCALES.get(metric, SCALES[None])
    low, high = to(float(values.min())), to(float(np.quantile(values, 0.98)))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    height = 2.4
    with drawing(width, height) as (canvas, axes):
        if metric in SCALES:
            axes.set_yscale("log")
            ticks = log_ticks(back(low), back(high))
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set_ylim(back(low), back(high))
        axes.set_xlim(0, max(point[column] for curve in found for point in curve.points) or 1.0)
        axes.set_xlabel(f"{over} of training")
        axes.set_ylabel(f"validation {METRICS.get(metric, metric)}")
        for curve in found:
            points = [(point[column], point[2]) for point in curve.points]
            looks: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(points) < 20 else {}
            axes.plot(*zip(*points, strict=True), color=colours[curve.model], linewidth=1.2, **looks)
        ordered = sorted(found, key=lambda curve: curve.points[-1][2])
        ends = [to(curve.points[-1][2]) for curve in ordered]
        heights = spread(ends, gap=0.95 * LINE * (high - low) / (height - 0.5), low=low, high=high)
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "clip_on": False}
        for curve, end in zip(ordered, heights, strict=True):
            axes.text(1.03, back(end), curve.model, color=colours[curve.model], **place)
        return as_svg(canvas)


def trials(lines: Sequence[Mapping[str, Any]], *, metric: str, over: str, width: float = PANEL) -> str | None:
    """Draw the validation score of each genotype that was trained on its own, and the lowest so far.

    Args:
        lines: lines of `trials.jsonl`.
        metric: the metric of their scores.
        over: the horizontal axis, a key of `TRIAL_AXES`.
        width: inches.

    Returns:
        The SVG, or None if no trial has a score.
    """
    key = TRIAL_AXES[over]
    scored = [(one[key], one["val"], one["best"]) for one in lines if None not in (one["val"], one["best"])]
    if not scored:
        return None
    at, values, lowest = (np.array(column, dtype=float) for column in zip(*sorted(scored), strict=True))
    low, high = lowest.min(), max(np.quantile(values, 0.9), lowest[0])
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    with drawing(width, 2.4) as (canvas, axes):
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlabel(over)
        axes.set_ylabel(f"validation {METRICS.get(metric, metric)}")
        axes.plot(at, values, "o", color=MUTED, markersize=3, markeredgewidth=0, alpha=0.6)
        axes.step(at, np.minimum.accumulate(lowest), where="post", color=ACCENT, linewidth=1.5)
        return as_svg(canvas)


def courses(found: Mapping[str, Sequence[Course]], *, metric: str, width: float) -> str | None:
    """Draw the lowest validation score of each strategy over time: mean over seeds, band from best to worst seed.

    Ticks at the bottom mark accepted changes. A strategy's line starts when all its seeds have a score and ends with
    its last seed.

    Args:
        found: name of each strategy -> its courses, one per seed.
        metric: name of the metric.
        width: width in inches.

    Returns:
        The SVG, or None if there are no courses.
    """
    found = {name: each for name, each in found.items() if each}
    if not found:
        return None
    first = min(course.seconds[0] for each in found.values() for course in each)
    last = max(course.seconds[-1] for each in found.values() for course in each)
    looks = itertools.product(("-", "--", ":", "-."), (INK, OTHER, THIRD, FOURTH, MUTED))
    height = 2.6 + 0.165 * len(found)
    with drawing(width, height) as (canvas, axes):
        axes.set_xscale("log")
        begin, end = max(first, last / 1000), last * 1.05
        axes.set_xlim(begin, end)
        ticks = log_ticks(begin, end)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("seconds of search")
        axes.set_ylabel(f"lowest validation {METRICS.get(metric, metric)}")
        ends, tops = list[float](), list[float]()
        for name, each in found.items():
            style, colour = ("-", ACCENT) if name == "growing" else next(looks)
            since, until = max(one.seconds[0] for one in each), max(one.seconds[-1] for one in each)
            at = np.geomspace(max(since, 1e-3), max(until, since, 1e-3), 200)
            lines = np.stack([_held(one, at) for one in each])
            axes.plot(at, lines.mean(0), color=colour, linestyle=style, linewidth=1.3, label=name)
            if len(each) > 1:
                axes.fill_between(at, lines.min(0), lines.max(0), color=colour, alpha=0.12, linewidth=0)
            for one in each:
                axes.plot(
                    one.accepted, [0.02] * len(one.accepted), "|", color=colour, transform=axes.get_xaxis_transform()
                )
            ends.append(float(lines[:, -1].min()))
            tops.append(float(np.quantile(lines.mean(0), 0.5)))
        low, high = min(ends), max(tops)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2 if width < WIDE else 4, fontsize=8)
        return as_svg(canvas)


def _held(course: Course, at: np.ndarray) -> np.ndarray:
    """Return the lowest score up to each time in `at`."""
    places = np.searchsorted(course.seconds, at, side="right") - 1
    return np.array(course.lowest)[np.clip(places, 0, None)]


def forecast_panel(
    dates: Sequence[str],
    actual: np.ndarray,
    forecast: np.ndarray,
    *,
    title: str,
    bounds: np.ndarray | None = None,
    width: float = PANEL,
) -> str:
    """Draw one series and its forecasts over some days, each of shape `(n,)`, in the units of the data.

    `bounds`, shape `(2, n)`, are those of prediction intervals; where they are infinite, there is a gap.
    """
    with drawing(width, 1.9) as (canvas, axes):
        days = np.arange(len(actual))
        if min(actual.min(), forecast.min()) <= 0 <= max(actual.max(), forecast.max()):
            axes.axhline(0, color=GRID, linewidth=0.7)
        if bounds is not None:
            low, high = np.where(np.isfinite(bounds), bounds, np.nan)
            axes.fill_between(days, low, high, color=ACCENT, alpha=0.15, linewidth=0)
        axes.plot(days, actual, color=MUTED, linewidth=0.9)
        axes.plot(days, forecast, color=ACCENT, linewidth=1.5)
        axes.set_title(shorten(title), loc="left", fontsize=9, color=INK)
        date_ticks(axes, dates, 3)
        return as_svg(canvas)


def cumulative(dates: Sequence[str], gains: Sequence[np.ndarray], *, width: float) -> str:
    """Draw the cumulative difference of two models' losses, one curve per seed and their mean.

    Args:
        dates: days of the test part.
        gains: for each seed the other model's loss minus ours on each day, shape `(n,)`.
        width: inches.
    """
    curves = np.cumsum(np.stack(gains), axis=1)
    with drawing(width, 2.4) as (canvas, axes):
        days = np.arange(curves.shape[1])
        axes.axhline(0, color=MUTED, linewidth=0.8)
        if len(curves) > 1:
            axes.plot(days, curves.T, color=ACCENT, linewidth=0.8, alpha=0.4)
        axes.plot(days, curves.mean(0), color=ACCENT, linewidth=1.8)
        axes.set_ylabel("cumulative loss difference")
        date_ticks(axes, dates, 5 if width > PANEL else 3)
        return as_svg(canvas)


def date_ticks(axes: Axes, dates: Sequence[str], most: int) -> None:
    """Label the horizontal axis, whose unit is a row, with up to `most` + 1 of the rows' dates."""
    last = max(len(dates) - 1, 1)
    places = sorted({round(last * i / most) for i in range(most + 1)} & set(range(len(dates))))
    labels = [dates[place][:7] if len(dates) > 250 else dates[place] for place in places]
    axes.set_xlim(0, last)
    axes.set_xticks(places, labels)
