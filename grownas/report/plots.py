"""Plots as SVG for inline use: text stays text, colours are the page's CSS variables, the bytes are repeatable.

Matplotlib draws in sentinel colours, one for each role; `_svg` replaces them by variables, so that a plot follows the
page's light or dark theme. Each function takes the width in inches: the page draws a wide and a narrow variant.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grownas.report.tables import METRICS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW, PANEL = 7.6, 4.0, 4.3  # inches: desktop, phone, one of a row of panels
INK, MUTED, GRID, OURS, OTHER = (f"#0{i}0{i}0{i}" for i in range(1, 6))
ROLES = {INK: "--ink", MUTED: "--muted", GRID: "--rim", OURS: "--ours", OTHER: "--other"}
STYLE: Any = {  # Matplotlib's own type names each key, and differs between versions
    "svg.fonttype": "none",
    "text.parse_math": False,  # a series may be called $x$
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",  # ships with Matplotlib: measures alike everywhere; the page sets its own
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
    "legend.frameon": False,
}
LONGEST = 24  # letters of a series' name


class Stretch(NamedTuple):
    """One fit of the growth on the axis of all steps: where it begins and ends, its label, the judge's answer."""

    begin: int
    end: int
    label: str
    accepted: bool | None


def learning_curves(metrics: Iterable[Mapping[str, Any]], events: Mapping[str, Any], *, width: float) -> str | None:
    """Draw training and validation loss by step, the growth's fits one after the other.

    Args:
        metrics: lines of `metrics.jsonl`; those of stage 0, the baselines' fits, are left out.
        events: by the name of a fit, `(label, accepted)`; accepted is None where nothing was judged.
        width: inches.

    Returns:
        The SVG, or None if nothing was logged.
    """
    lines = [line for line in metrics if line.get("stage")]
    wanted = "loss" if any(line["metric"] == "loss" for line in lines) else next((x["metric"] for x in lines), None)
    fits: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["metric"] == wanted and line["value"] is not None:
            fits.setdefault(str(line.get("part", f"stage-{line['stage']}")), []).append(line)
    if not fits:
        return None
    with _drawing(width, 2.7) as (canvas, axes):
        stretches, values, begin = [], [], 0
        for fit, evaluations in fits.items():
            end = begin + max(line["step"] for line in evaluations)
            for split, colour in (("train", MUTED), ("val", OURS)):
                points = [(begin + line["step"], line["value"]) for line in evaluations if line["split"] == split]
                values += [value for _, value in points]
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour, zorder=3 if split == "val" else 2)
            stretches.append(Stretch(begin, end, *events.get(fit, (fit.replace("-", " "), None))))
            begin = end
        axes.set_ylim(*_limits(values))
        axes.set_xlim(0, max(begin, 1))
        axes.set_xlabel("training step")
        axes.set_ylabel(str(wanted))
        _mark_growth(axes, stretches, width)
        return _svg(canvas)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return limits that hold all but the wildest fiftieth of the values."""
    finite = np.asarray([value for value in values if np.isfinite(value)] or [0.0])
    low, high = float(finite.min()), float(np.quantile(finite, 0.98))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _mark_growth(axes: Axes, stretches: Sequence[Stretch], width: float) -> None:
    """Mark where each fit begins: a filled triangle if its result was accepted, a cross if not."""
    total = max(stretches[-1].end, 1)
    for stretch in stretches:
        if stretch.begin:
            axes.axvline(stretch.begin, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        marker, colour = {True: ("^", OURS), False: ("x", OTHER), None: ("o", MUTED)}[stretch.accepted]
        axes.plot([stretch.begin], [1.045], marker=marker, color=colour, markersize=5, **place)
        room = (stretch.end - stretch.begin) / total * width * 12.5  # letters
        if room > len(stretch.label) + 2:
            colour = MUTED if stretch.accepted is False else INK
            axes.text(stretch.begin + 0.075 * total / width, 1.02, stretch.label, color=colour, **place)


def dots(
    figures: Mapping[str, Sequence[float]], *, metric: str, ours: Sequence[str] = ("grown",), width: float
) -> str | None:
    """Draw one row a model: a dot for each seed and a bar at the mean, the lowest mean on top.

    A model far beyond the others is drawn at the rim with an arrow, so that it does not squeeze them.
    """
    kept = {name: [v for v in values if v is not None and np.isfinite(v)] for name, values in figures.items()}
    ordered = sorted(((float(np.mean(v)), name, v) for name, v in kept.items() if v), reverse=True)
    if not ordered:
        return None
    means = np.array([mean for mean, _, _ in ordered])
    lowest, middle = min(min(v) for _, _, v in ordered), float(np.median(means))
    rim = middle + max(2.5 * (middle - lowest), 0.02 * abs(middle))
    high = max((v for _, _, values in ordered for v in values if v <= rim), default=rim)
    with _drawing(width, 0.55 + 0.25 * len(ordered)) as (canvas, axes):
        span = high - lowest or 0.05 * abs(high) or 1.0
        axes.set_xlim(lowest - 0.05 * span, high + 0.07 * span)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.grid(visible=False)
        axes.grid(visible=True, axis="x")
        axes.set_yticks(range(len(ordered)), [name for _, name, _ in ordered])
        axes.set_xlabel(f"test {METRICS.get(metric, metric)}, lower is better")
        for row, (mean, name, values) in enumerate(ordered):
            colour = OURS if name in ours else INK
            _dot_row(axes, row, mean, values, colour, high)
        for label, (_, name, _) in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_color(OURS if name in ours else INK)
        return _svg(canvas)


def _dot_row(axes: Axes, row: int, mean: float, values: Sequence[float], colour: str, high: float) -> None:
    """Draw one model; its mean stands at the right in figures."""
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center_baseline"}
    if mean > high:
        axes.text(1.0, row, f"{figure(mean)} →", ha="right", color=MUTED, **place)
        return
    several = len(values) > 1
    looks: dict[str, Any] = {"alpha": 0.45, "markersize": 4.5} if several else {"markersize": 5.5}
    axes.plot(values, [row] * len(values), "o", color=colour, markeredgewidth=0, **looks)
    if several:
        axes.plot([mean, mean], [row - 0.28, row + 0.28], color=colour, linewidth=1.8)
    axes.text(1.02, row, figure(mean), color=colour, **place)


def forecast_panel(
    dates: Sequence[str], actual: np.ndarray, forecast: np.ndarray, *, title: str, width: float = PANEL
) -> str:
    """Draw one series and its forecasts over some days, each shape `(n,)`, in the data's own units."""
    with _drawing(width, 1.9) as (canvas, axes):
        days = np.arange(len(actual))
        axes.axhline(0, color=GRID, linewidth=0.7)
        axes.plot(days, actual, color=MUTED, linewidth=0.9)
        axes.plot(days, forecast, color=OURS, linewidth=1.5)
        axes.set_title(shorten(title), loc="left", fontsize=9, color=INK)
        _date_ticks(axes, dates, 3)
        return _svg(canvas)


def cumulative(dates: Sequence[str], gains: Sequence[np.ndarray], *, width: float) -> str:
    """Draw how much loss was saved up to each day, one curve a seed and their mean.

    Args:
        dates: days of the test part.
        gains: one array a seed, shape `(n,)`: the other model's loss minus ours on each day.
        width: inches.
    """
    curves = np.cumsum(np.stack(gains), axis=1)
    with _drawing(width, 2.4) as (canvas, axes):
        days = np.arange(curves.shape[1])
        axes.axhline(0, color=MUTED, linewidth=0.8)
        if len(curves) > 1:
            axes.plot(days, curves.T, color=OURS, linewidth=0.8, alpha=0.4)
        axes.plot(days, curves.mean(0), color=OURS, linewidth=1.8)
        axes.set_ylabel("loss saved so far")
        _date_ticks(axes, dates, 5 if width > PANEL else 3)
        return _svg(canvas)


def _date_ticks(axes: Axes, dates: Sequence[str], most: int) -> None:
    last = max(len(dates) - 1, 1)
    places = sorted({round(last * i / most) for i in range(most + 1)} & set(range(len(dates))))
    labels = [dates[place][:7] if len(dates) > 250 else dates[place] for place in places]
    axes.set_xlim(0, last)
    axes.set_xticks(places, labels)
    sides: list[Any] = ["left", *["center"] * (len(places) - 2), "right"]
    for label, side in zip(axes.get_xticklabels(), sides, strict=False):
        label.set_horizontalalignment(side)


def shorten(name: str) -> str:
    """Cut a long name."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure without pyplot, in the house style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots()


def _svg(canvas: Figure) -> str:
    """Return a figure as an `<svg>` element that takes its colours and its font from the page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "grownas"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)  # would style the page
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg class="plot" viewBox="\1" role="img">', text, count=1)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # ids must be unique in a page, and nothing refers to a group
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    own = f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    text = re.sub(r'(id="|#)([mp][0-9a-f]{10})\b', rf"\1{own}\2", text)  # markers and clips: no other plot's
    for colour, role in ROLES.items():
        text = text.replace(colour, f"var({role})")
    return text.strip()
