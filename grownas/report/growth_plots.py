"""Plots of a growth: its timeline, the shares of each node's ops, predicted against measured changes of the loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grownas.genotype import GATED
from grownas.report.canvas import (
    ACCENT,
    FOURTH,
    GRID,
    INK,
    LETTER,
    LINE,
    MUTED,
    OTHER,
    PANEL,
    THIRD,
    as_svg,
    drawing,
    shorten,
)
from grownas.report.growth_log import op_label
from grownas.report.history import Fit, Mark, Node, Prediction, Shares, Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS: dict[bool | None, tuple[str, str]] = {True: ("^", ACCENT), False: ("x", OTHER), None: ("o", MUTED)}
HEIGHT = 2.75  # inches: height of the timeline without the labels above it
LANES = 4  # number of label rows above the timeline
COLOURS = (MUTED, ACCENT, OTHER, THIRD, FOURTH)  # one per activation
DASHES: dict[str, tuple[float, tuple[float, ...] | None]] = {"add": (0.0, None), "hadamard": (0.0, (4.0, 1.5))}
MARKS = ("none", "o", "s", "D", "v", "P")  # markers of the first, second, ... op with the same name
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Label(NamedTuple):
    """A label above the axis: its mark, its begin and end in steps, its row counted from below."""

    mark: Mark
    begin: float
    end: float
    lane: int


def timeline(fits: Sequence[Fit], marks: Sequence[Mark], *, metric: str, width: float) -> str | None:
    """Draw training and validation loss by step for the fits of a growth, one after the other, with their moves.

    Args:
        fits: the fits in order; trials are drawn fainter.
        marks: the moves before each fit.
        metric: label of the vertical axis.
        width: inches.

    Returns:
        The SVG, or None if there are no fits.
    """
    if not fits:
        return None
    total = max([fit.end for fit in fits if fit.train or fit.val], default=fits[-1].end) or 1
    marks = [mark for mark in marks if mark.step <= total]
    inch = total / (width - 0.7)  # in steps
    lying = _lying(marks, total, inch)
    standing = [] if lying is not None else _standing(marks, inch)
    above = LINE * max((label.lane for label in lying or ()), default=0)
    above += max((len(mark.label) * LETTER for mark in standing), default=0)
    with drawing(width, HEIGHT + above) as (canvas, axes):
        for fit in fits:
            looks: dict[str, Any] = {"alpha": 0.45, "linewidth": 0.9} if fit.is_trial else {}
            for points, colour, zorder in ((fit.train, MUTED, 2), (fit.val, ACCENT, 3)):
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour, zorder=zorder, **looks)
        axes.set_ylim(*_limits([value for fit in fits for _, value in (*fit.train, *fit.val)]))
        axes.set_xlim(0, total)
        axes.set_xlabel("training step")
        axes.set_ylabel(metric)
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        rise = 1 / (HEIGHT - 0.5)  # an inch in units of the axes' height
        _draw_marks(axes, marks, rise, place)
        for mark, begin, end, lane in lying or ():
            height = 1 + (0.16 + LINE * (lane - 1)) * rise
            axes.plot([mark.step] * 2, [1 + 0.13 * rise, height + 0.11 * rise], color=GRID, linewidth=0.8, **place)
            if begin == mark.step:
                axes.text(begin + 0.04 * inch, height, mark.label, color=_ink(mark), **place)
            else:
                axes.text(end - 0.04 * inch, height, mark.label, color=_ink(mark), ha="right", **place)
        for mark in standing:
            words: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 7.5, **place}
            axes.text(mark.step, 1 + 0.17 * rise, mark.label, color=_ink(mark), **words)
        return as_svg(canvas)


def _ink(mark: Mark) -> str:
    return INK if mark.accepted else MUTED


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return axis limits from the lowest value to the 98 % quantile, with a margin."""
    finite = np.asarray([value for value in values if np.isfinite(value)] or [0.0])
    low, high = float(finite.min()), float(np.quantile(finite, 0.98))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _by_weight(mark: Mark) -> tuple[Any, ...]:
    """Sort key of marks for placing labels: accepted moves first, trials last, later moves before earlier ones."""
    return mark.is_trial, not mark.accepted, -mark.step


def _lying(marks: Sequence[Mark], total: float, inch: float) -> list[Label] | None:
    """Place horizontal labels in at most `LANES` rows; None if the label of a full training does not fit.

    Labels overlap neither each other nor the lines from marks to labels. Labels of trials that do not fit are dropped.
    """
    latest_first = sorted(marks, key=lambda mark: (mark.is_trial, -mark.step))
    orders = sorted(marks, key=_by_weight), latest_first  # if the labels do not fit in one order, try the other
    return next((labels for order in orders if (labels := _placed(order, total, inch)) is not None), None)


def _placed(marks: Sequence[Mark], total: float, inch: float) -> list[Label] | None:
    placed = list[Label]()
    for mark in marks:
        wide = (len(mark.label) * LETTER + 0.12) * inch
        rightwards = (Label(mark, mark.step, mark.step + wide, lane) for lane in range(1, LANES + 1))
        leftwards = (Label(mark, mark.step - wide, mark.step, lane) for lane in range(LANES, 0, -1))
        within = (one for one in (*rightwards, *leftwards) if one.begin >= 0 and one.end <= total + 0.15 * inch)
        label = next((one for one in within if not any(_collide(one, other) for other in placed)), None)
        if label is not None:
            placed.append(label)
        elif not mark.is_trial:
            return None
    for number, label in sorted(
        enumerate(placed), key=lambda item: item[1].lane
    ):  # move labels down as far as possible
        others = placed[:number] + placed[number + 1 :]
        sunk = (label._replace(lane=lane) for lane in range(1, label.lane + 1))
        placed[number] = next(one for one in sunk if not any(_collide(one, other) for other in others))
    return placed


def _collide(a: Label, b: Label) -> bool:
    if a.lane == b.lane:
        return a.begin < b.end and b.begin < a.end
    low, high = sorted((a, b), key=lambda label: label.lane)
    return low.begin < high.mark.step < low.end or low.mark.step == high.mark.step


def _standing(marks: Sequence[Mark], inch: float) -> list[Mark]:
    """Return the marks whose vertical labels fit beside each other."""
    placed = list[Mark]()
    for mark in sorted(marks, key=_by_weight):
        if all(abs(mark.step - other.step) >= 0.7 * LINE * inch for other in placed):
            placed.append(mark)
    return placed


def _draw_marks(axes: Axes, marks: Sequence[Mark], rise: float, place: Mapping[str, Any]) -> None:
    """Draw a marker where each fit begins: a filled triangle if it was accepted, a cross if it was rejected."""
    for mark in marks:
        if mark.step and not mark.is_trial:
            colour = MUTED if mark.accepted else GRID
            axes.axvline(mark.step, color=colour, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        marker, colour = MARKERS[mark.accepted]
        size = 3.2 if mark.is_trial else 5.2
        axes.plot([mark.step], [1 + 0.08 * rise], marker=marker, color=colour, markersize=size, zorder=4, **place)


# --- shares ---


class Look(NamedTuple):
    """Label, colour, line style and marker of an op."""

    label: str
    colour: str
    line: tuple[float, tuple[float, ...] | None]
    marker: str


def share_panels(shares: Shares, *, width: float = PANEL) -> list[str]:
    """Draw for each node of the final cell the shares of its ops, over the epochs of the fits that led to the cell.

    Colours show activations, dashes the combination; markers distinguish ops with the same name. Labels at the right
    name the remaining ops. The line of a removed or replaced op ends in a cross.
    """
    names = [_parts(track)[1] for node in shares.nodes for track in node.tracks]
    colours = dict(zip(dict.fromkeys(names), itertools.cycle(COLOURS), strict=False))
    return [_share_panel(number, node, shares, colours, width) for number, node in enumerate(shares.nodes, start=1)]


def _parts(track: Track) -> tuple[str, str]:
    """Return an op's combination and activation."""
    combine, _, activation = str(track.name).partition("/")
    return combine, activation


def _share_panel(number: int, node: Node, shares: Shares, colours: Mapping[str, str], width: float) -> str:
    height, end, looks = max(1.9, 0.55 + LINE * len(node.ops)), max(shares.end, 1), look_of(node, colours)
    most = 1.06 * max((share for track in node.tracks for _, share in track.points), default=1.0)
    with drawing(width, height) as (canvas, axes):
        axes.set_title(_title(number, node), loc="left", fontsize=9, color=INK)
        axes.set_xlim(0, end)
        axes.set_ylim(0, most)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="y", nbins=5)
        axes.locator_params(axis="x", nbins=6, integer=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 3):g} %")
        _draw_stages(axes, shares, room=0.45 * end / (width - 1.5))
        for track in node.tracks:
            look, often = looks[track], max(1, end // 8)
            plain: dict[str, Any] = {"color": look.colour, "zorder": 2}
            points = list(zip(*track.points, strict=True))
            axes.plot(*points, linestyle=look.line, linewidth=1.2, **plain)
            axes.plot(
                *points,
                marker=look.marker,
                linestyle="none",
                markersize=3,
                markevery=((len(track.points) - 1) % often, often),
                **plain,
            )
            if track not in node.ops:
                axes.plot(*track.points[-1], marker="x", markersize=4.5, clip_on=False, **plain)
        _name_ops(axes, node, looks, most, most / (height - 0.5))
        return as_svg(canvas)


def _title(number: int, node: Node) -> str:
    """Return the name of a mixture, counted from 1: a node of a chain, or an edge of a DAG, whose ops are gated."""
    if not any(_parts(track)[0] == GATED for track in node.tracks):
        return f"node {number}"
    reader = (1 + math.isqrt(8 * number - 7)) // 2  # edge 1 goes to state 1, edges 2 and 3 to state 2, 4 to 6 to 3
    return f"state {number - 1 - reader * (reader - 1) // 2} to state {reader}"


def _draw_stages(axes: Axes, shares: Shares, room: float) -> None:
    """Draw a vertical line where each fit begins; label the first fit of a stage if there is room."""
    last = 0.3 * room
    for (_, before), (begin, stage) in itertools.pairwise(shares.begins):
        axes.axvline(begin, color=GRID, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        if stage != before and begin - last >= room:
            place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "va": "bottom", "ha": "center"}
            axes.text(begin, 1.01, f"stage {stage}", color=MUTED, fontsize=7, **place)
            last = begin


def _name_ops(axes: Axes, node: Node, looks: Mapping[Track, Look], most: float, inch: float) -> None:
    """Write the ops' names at the right, as near to the ends of their lines as they fit without overlap."""
    ordered = sorted(node.ops, key=lambda track: track.points[-1][1])
    ends = [track.points[-1][1] for track in ordered]
    heights = spread(ends, gap=0.95 * LINE * inch, low=0.0, high=most)
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    for track, end, height in zip(ordered, ends, heights, strict=True):
        label, colour, _, marker = looks[track]
        axes.plot([1.005, 1.045], [end, height], color=colour, linewidth=0.6, **place)
        axes.plot([1.045], [height], marker=marker, color=colour, markersize=3, **place)
        axes.text(1.06, height, label, color=colour, va="center_baseline", **place)


def look_of(node: Node, colours: Mapping[str, str]) -> dict[Track, Look]:
    """Return the look of each op; if a node ever had several ops of the same name, they are numbered in order.

    Args:
        node: the node with all its ops.
        colours: activation -> colour.
    """
    same: dict[str | None, list[Track]] = {}
    for track in node.tracks:
        same.setdefault(track.name, []).append(track)
    looks = {}
    for name, tracks in same.items():
        for number, track in enumerate(tracks):
            combine, activation = _parts(track)
            label = shorten(op_label(name)) + (f" {number + 1}" if len(tracks) > 1 else "")
            line = DASHES.get(combine, DASHES["add"])
            looks[track] = Look(label, colours[activation], line, MARKS[number % len(MARKS)])
    return looks


def spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move ascending values apart to a distance of at least `gap`, between the limits if there is room."""
    places = list(values)
    for i, place in enumerate(places):
        places[i] = max(place, places[i - 1] + gap if i else low)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else high)
    return places


# --- predictions ---


def scatter(predictions: Sequence[Prediction], *, width: float = PANEL) -> str | None:
    """Draw the measured against the predicted fall of the loss by each move, on logarithmic axes with a diagonal.

    If a predicted or measured value is not a fall, the axes are linear around zero.
    """
    if not predictions:
        return None
    sizes = [abs(value) for one in predictions for value in (one.predicted, one.measured) if value]
    rises = max(one.predicted for one in predictions), max(one.measured for one in predictions)
    inner = None  # the axes are linear up to this value
    if max(rises) >= 0:
        inner = 10.0 ** math.floor(math.log10(min(abs(one.predicted) for one in predictions)))
    x_ticks, y_ticks = (_ticks(sizes, rise, inner) for rise in rises)
    scale: dict[str, Any] = {"value": "log"} if inner is None else {"value": "symlog", "linthresh": inner}
    with drawing(width, 0.86 * width) as (canvas, axes):
        axes.set_xscale(**scale)
        axes.set_yscale(**scale)
        axes.set_xlim(x_ticks.low, x_ticks.high)
        axes.set_ylim(y_ticks.low, y_ticks.high)
        axes.set_xticks(x_ticks.places, [power(place) for place in x_ticks.places])
        axes.set_yticks(y_ticks.places, [power(place) for place in y_ticks.places])
        axes.grid(visible=True, axis="both")
        both = [max(x_ticks.low, y_ticks.low), x_ticks.high]
        axes.plot(both, both, color=MUTED, linewidth=0.9, zorder=2)
        for one in predictions:
            marker, colour = MARKERS[one.accepted]
            axes.plot([-one.predicted], [-one.measured], marker=marker, color=colour, markersize=5.5, zorder=3)
        axes.minorticks_off()
        axes.set_xlabel("predicted fall of the loss")
        axes.set_ylabel("measured fall of the loss")
        return as_svg(canvas)


class Ticks(NamedTuple):
    """Limits of an axis and the positions of its ticks."""

    low: float
    high: float
    places: list[float]


def _ticks(sizes: Sequence[float], rise: float, inner: float | None) -> Ticks:
    """Return limits and ticks of an axis that shows falls of the loss.

    Args:
        sizes: absolute values of all changes.
        rise: largest change (a rise of the loss if positive); the axis then extends below zero.
        inner: the axis is linear up to this value; None: it is logarithmic.
    """
    high = 1.7 * max(sizes)
    if inner is None:
        low = min(sizes) / 1.7
        return Ticks(low, high, log_ticks(low, high))
    low = -1.7 * max(rise, inner) if rise > 0 else -0.5 * inner
    below = [-place for place in log_ticks(inner, -low, most=2)]
    return Ticks(low, high, sorted({*below, 0.0, *log_ticks(inner, high, most=4)}))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round numbers between two positive numbers: powers of ten, or finer steps if needed."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        places = [digit * 10.0**exponent for exponent in range(first, last + 1) for digit in digits]
        places = [place for place in places if low <= place <= high]
        if len(places) >= 3:
            break
    step = math.ceil(len(places) / most)
    return places[::-1][::step][::-1] if places else []


def power(value: float) -> str:
    """Return a number with one digit as a power of ten, such as 2·10⁻⁵."""
    if not value:
        return "0"
    digit, exponent = f"{abs(value):.0e}".split("e")
    times = "" if digit == "1" else f"{digit}·"
    return ("\N{MINUS SIGN}" if value < 0 else "") + f"{times}10{str(int(exponent)).translate(SUPERSCRIPT)}"
