"""Plots are sound SVG in the page's colours, with the text as text, and draw what they are given."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from grownas.report import canvas, plots
from grownas.report.history import Curve

SVG = "{http://www.w3.org/2000/svg}"
DATES = [f"2020-01-{day:02d}" for day in range(1, 31)]


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
    assert root.tag == "svg"
    return ["".join(text.itertext()) for text in root.iter("text")]


CURVES = [
    Curve("grown", [(62, 3.0, 112.0), (124, 6.0, 60.0)]),
    Curve("lstm", [(62, 4.0, 113.0), (124, 8.0, 61.0)]),
    Curve("random", [(62, 2.0, 90.0), (124, 4.0, 55.0)]),
]


TRIALS = [
    {"number": 0, "val": None, "best": None, "wall_s": 0.5, "reason": "diverged"},
    {"number": 2, "val": 0.5, "best": 0.5, "wall_s": 1.0, "reason": "halving"},  # which ended before the one before it
    {"number": 1, "val": 0.7, "best": 0.5, "wall_s": 2.0, "reason": "patience"},
    {"number": 3, "val": 0.4, "best": 0.4, "wall_s": 3.0, "reason": "patience"},
]


def draw(width: float) -> dict[str, str]:
    rng = np.random.default_rng(0)
    return {
        "dots": plots.dots({"grown": [0.1, 0.2], "var": [0.3]}, metric="mse", width=width),
        "forecasts": plots.forecast_panel(DATES, rng.normal(size=30), rng.normal(size=30), title="A", width=width),
        "cumulative": plots.cumulative(DATES, [rng.normal(size=30)] * 2, width=width),
        "curves": plots.curves(CURVES, metric="perplexity", over="steps", width=width),
        "trials": plots.trials(TRIALS, metric="mse", over="trials", width=width),
    }


@pytest.mark.parametrize("width", [canvas.WIDE, canvas.NARROW])
@pytest.mark.parametrize("name", ["dots", "forecasts", "cumulative", "curves", "trials"])
def test_only_the_pages_colours_and_fonts_are_used(name, width):
    svg = draw(width)[name]
    assert texts(svg)
    assert not re.search(r"(fill|stroke): ?#", svg)
    assert set(re.findall(r"var\((--\w+)\)", svg)) <= {*canvas.ROLES.values(), "--sans"}
    assert "DejaVu" not in svg
    assert "<style" not in svg
    assert svg == draw(width)[name]


@pytest.mark.parametrize("over", plots.TRIAL_AXES)
def test_trials_are_drawn_over_their_number_and_over_time(over):
    assert {over, "validation MSE"} <= set(texts(plots.trials(TRIALS, metric="mse", over=over)))
    assert plots.trials(TRIALS[:1], metric="mse", over=over) is None


def test_a_curve_that_begins_far_above_the_others_leaves_room_for_them():
    points = [(step, 1.0, 0.41 - step / 1e5) for step in range(100)]
    svg = plots.curves([Curve("lstm", [(0, 0.1, 9.0), *points])], metric="mse", over="steps")  # warnings are errors
    assert "lstm" in texts(svg)


def test_dots_order_by_mean_and_keep_a_far_one_from_squeezing_the_others():
    figures = {"var": [0.47, 0.47], "zero": [9.0], "grown": [0.45, 0.46], "gru": [0.49]}
    shown = texts(plots.dots(figures, metric="mse", width=canvas.WIDE))
    assert [text for text in shown if text in figures] == ["zero", "gru", "var", "grown"]
    assert "9.0000 →" in shown
    assert {"0.4550", "0.4700", "0.4900", "test MSE, lower is better"} <= set(shown)
    assert max(float(text) for text in shown if re.fullmatch(r"0\.\d+", text)) < 0.6


@pytest.mark.parametrize("over", ["steps", "seconds"])
def test_curves_bear_the_models_names_in_the_order_of_their_ends_on_a_scale_of_ratios(over):
    svg = plots.curves(CURVES, metric="perplexity", over=over)
    shown = texts(svg)
    assert {f"{over} of training", "validation perplexity"} <= set(shown)
    assert [text for text in shown if text in ("grown", "lstm", "random")] == ["random", "grown", "lstm"]
    ticks = [float(text) for text in shown if re.fullmatch(r"\d+", text)]
    assert {60.0, 70.0, 100.0} <= set(ticks)
    assert max(ticks) <= 124


def test_curves_of_a_few_equal_or_no_values_can_be_drawn():
    assert plots.curves([], metric="mse", over="steps") is None
    for metric in ("mse", "perplexity"):
        for value in (1.0, 0.5):
            assert plots.curves([Curve("gru", [(0, 0.0, value)])], metric=metric, over="seconds")
    assert plots.curves([Curve("gru", [(1, 0.0, 0.0), (2, 0.1, 0.0)])], metric="mse", over="steps")


@pytest.mark.parametrize("metric", ["mse", "perplexity"])
def test_a_curve_that_begins_far_above_the_others_is_cut_off_and_leaves_room(metric):
    """With warnings as errors: a line beyond the panel left no room for the axes."""
    falling = [(epoch, 0.1 * epoch, 0.4 + 9.0 * (epoch == 1)) for epoch in range(1, 120)]
    svg = plots.curves([Curve("gru", falling), Curve("lstm", falling[1:])], metric=metric, over="steps")
    assert {"gru", "lstm"} <= set(texts(svg))


@pytest.mark.parametrize("figures", [{}, {"a": []}, {"a": [float("nan")]}, {"a": [None]}])
def test_dots_of_nothing_are_nothing(figures):
    assert plots.dots(figures, metric="mse", width=canvas.WIDE) is None


def test_dots_bear_equal_values():
    assert plots.dots({"a": [1.0], "b": [1.0]}, metric="mse", width=canvas.WIDE)
    assert plots.dots({"a": [0.0]}, metric="mse", width=canvas.WIDE)


@pytest.mark.parametrize("name", ["<script>", "$x^{$", "a--> b", "_hidden", "&amp;", "ü→"])
def test_a_series_name_is_shown_as_it_is(name):
    assert name in texts(plots.forecast_panel(DATES, np.ones(30), np.zeros(30), title=name))


def test_a_long_name_is_cut():
    assert canvas.shorten("x" * 100) == "x" * (canvas.LONGEST - 1) + "…"
    assert canvas.shorten("x" * canvas.LONGEST) == "x" * canvas.LONGEST


@pytest.mark.parametrize("days", [1, 2, 5, 30])
def test_any_number_of_days_can_be_drawn(days):
    values = np.arange(days, dtype=float)
    assert DATES[days - 1] in texts(plots.cumulative(DATES[:days], [values], width=canvas.NARROW))
    assert DATES[0] in texts(plots.forecast_panel(DATES[:days], values, values, title="A"))


def test_a_series_far_from_zero_fills_its_panel():
    values = 5.0 + np.random.default_rng(0).uniform(size=30)
    shown = texts(plots.forecast_panel(DATES, values, values, title="A"))
    assert min(float(text) for text in shown if re.fullmatch(r"\d\.\d+", text)) > 4.5


@pytest.mark.parametrize(("infinite", "pieces"), [([], 1), ([15], 2), (range(30), 0)])
def test_intervals_are_shaded_with_gaps_where_they_are_infinite(infinite, pieces):
    values = np.random.default_rng(0).normal(size=30)
    bounds = np.stack([values - 1, values + 1])
    bounds[:, infinite] = [[-np.inf], [np.inf]]
    svg = plots.forecast_panel(DATES, values, values, title="A", bounds=bounds)
    assert svg.count("fill-opacity: 0.15") == pieces
    assert "nan" not in svg


@pytest.mark.parametrize("days", [30, 300])
@pytest.mark.parametrize("width", [canvas.WIDE, canvas.NARROW])
def test_dates_do_not_touch(days, width):
    dates = [str(np.datetime64("2000-01-01") + day) for day in range(days)]
    svg = plots.cumulative(dates, [np.zeros(days)], width=width)
    labels = re.findall(r'text-anchor: middle[^>]* x="([\d.]+)"[^>]*>(\d{4}-[-\d]+)<', svg)
    middles, wide = [float(x) for x, _ in labels], 72 * canvas.LETTER * len(labels[0][1])
    assert len(labels) >= 3
    assert min(after - before for before, after in itertools.pairwise(middles)) > 1.1 * wide
