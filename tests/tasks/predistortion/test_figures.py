"""Figures hold the numbers that they name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grownas.tasks.predistortion.figures import POINTS, am_am, am_pm, nmse_against, spectra
from grownas.tasks.predistortion.metrics import Band

BAND = Band(800e6, 200e6, 2, 80)


def signal(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2)).view(complex)[:, 0]


def test_am_am_shows_magnitudes_of_samples_spread_over_the_part():
    x = signal(5000)
    figure = am_am({"before": (x, 2j * x), "after": (x, 3 * x)})
    assert [line.label for line in figure.lines] == ["before", "after"]
    assert all(len(line.x) == POINTS and line.is_points for line in figure.lines)
    for line, gain in zip(figure.lines, (2, 3), strict=True):
        np.testing.assert_allclose(line.y, gain * np.array(line.x))
    assert figure.lines[0].x[-1] == abs(x[-1])


def test_am_pm_shows_phases_in_degrees_of_samples_that_are_not_quiet():
    x = np.concatenate([signal(300), 1e-6 * signal(50)])
    (line,) = am_pm({"a": (x, x * np.exp(-0.5j))}).lines
    assert len(line.x) < 301
    np.testing.assert_allclose(line.y, np.degrees(-0.5))


def test_spectra_are_relative_to_the_strongest_frequency_of_the_first_and_mark_the_adjacent_channels():
    t = np.arange(800)
    tones = np.exp(2j * np.pi * 50e6 / 800e6 * t) + 0.1 * np.exp(-2j * np.pi * 150e6 / 800e6 * t)
    figure = spectra({"x": tones, "x / 10": tones / 10}, BAND)
    for line, level in zip(figure.lines, (0, -20), strict=True):
        at = dict(zip(np.round(line.x), line.y, strict=True))
        assert at[50] == pytest.approx(level)
        assert at[-150] == pytest.approx(level - 20)
        assert at[300] == pytest.approx(-100)  # the lowest power shown
    assert [(span.low, span.high) for span in figure.spans] == [(-200, -100), (100, 200)]


def test_long_frames_are_shown_with_fewer_frequencies():
    (line,) = spectra({"x": signal(20_000)}, BAND._replace(nperseg=10_000)).lines
    assert len(line.x) == 400
    assert np.all(np.diff(line.x) > 0)


def test_a_model_is_a_point_of_its_cost_and_its_nmse():
    figure = nmse_against("real parameters", {"gmp": (474, -35.4), "gru": (1000, -29.0)})
    assert figure.is_log
    assert [(line.label, *line.x, *line.y) for line in figure.lines] == [("gmp", 474, -35.4), ("gru", 1000, -29.0)]


def test_figures_are_plain_values():
    x = signal(100)
    for figure in (am_am({"a": (x, x)}), spectra({"a": x}, BAND), nmse_against("parameters", {"a": (1, -1.0)})):
        plain = figure.to_dict()
        assert json.loads(json.dumps(plain)) == plain
