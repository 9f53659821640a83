"""Drift detectors: few false alarms on noise, a short delay after a shift, the alarms of another library."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grownas.criteria.drift import DETECTORS, Adwin, PageHinkley, first_alarm

NOISES = {  # of mean 0 and standard deviation 1; a squared error of normal noise is heavy-tailed
    "normal": lambda rng, rows: rng.normal(size=rows),
    "squared": lambda rng, rows: (rng.normal(size=rows) ** 2 - 1) / math.sqrt(2),
}


def alarms(name, losses):
    """Rows of all alarms of a detector that starts anew after each."""
    found, detector = [], DETECTORS[name]()
    for row, loss in enumerate(losses.tolist()):
        if detector.step(loss):
            found.append(row)
            detector = DETECTORS[name]()
    return found


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", DETECTORS)
def test_white_noise_raises_less_than_one_alarm_in_1000_rows(name, noise):
    drawn = [NOISES[noise](np.random.default_rng(seed), 400) for seed in range(50)]
    assert sum(len(alarms(name, losses)) for losses in drawn) <= 20  # of 20,000 rows; measured: 0 or 1


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("shift", "delay"), [(1.0, 45), (2.0, 20)])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_shift_of_the_mean_is_found_after_so_many_rows(name, noise, shift, delay):
    delays = []
    for seed in range(21):
        losses = NOISES[noise](np.random.default_rng(seed), 400)
        losses[200:] += shift
        delays.append(next((row - 200 for row in alarms(name, losses) if row >= 200), math.inf))
    assert np.median(delays) <= delay


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_that_fall_raise_no_alarm(name):
    losses = np.random.default_rng(0).normal(size=400)
    losses[200:] -= 3
    assert alarms(name, losses) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_constant_losses_raise_no_alarm(name):
    assert first_alarm(DETECTORS[name](), [0.3] * 200) is None


def test_first_alarm_is_the_index_of_the_loss():
    assert first_alarm(PageHinkley(threshold=1.0, tolerance=0.0, least=1), [0.0, 0.0, 0.0, 2.0, 0.0]) == 3


def test_adwin_drops_the_rows_before_a_shift():
    detector = Adwin(least=10)
    risen = [detector.step(loss) for loss in [0.0] * 100 + [5.0] * 40]
    assert 100 <= risen.index(True) < 110
    assert detector.window.count(5.0) == 40
    assert detector.window.count(0.0) < 10  # too few for a side of a split


def test_page_hinkley_alarms_where_river_does():
    river = pytest.importorskip("river.drift", reason="river is not installed")
    for seed in range(10):
        losses = np.random.default_rng(seed).normal(size=500)
        losses[250:] += 1
        theirs = river.PageHinkley(min_instances=30, delta=0.25, threshold=20.0, alpha=1.0, mode="up")
        expected = []
        for row, loss in enumerate(losses.tolist()):
            theirs.update(loss)
            if theirs.drift_detected:
                expected.append(row)
        assert expected
        assert alarms("page_hinkley", losses) == expected


def test_adwin_alarms_about_where_river_does():
    river = pytest.importorskip("river.drift", reason="river is not installed")
    for seed in range(5):  # river's compares only some splits of the window, and leaves out single rows otherwise
        losses = np.random.default_rng(seed).normal(size=400)
        losses[200:] += 1.5
        theirs, expected = river.ADWIN(delta=0.002, clock=1, min_window_length=10, grace_period=20), []
        for row, loss in enumerate(losses.tolist()):
            theirs.update(loss)
            if theirs.drift_detected:
                expected.append(row)
        assert alarms("adwin", losses)[0] == pytest.approx(expected[0], abs=15)
