"""The simulated amplifier against what its formulas promise."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.tasks.predistortion import simulated as module
from grownas.tasks.predistortion.metrics import nmse
from grownas.tasks.predistortion.reading import PARTS
from grownas.tasks.predistortion.simulated import amplify, simulated


@pytest.fixture(scope="module")
def one():
    return simulated(1)


def test_a_seed_fixes_the_recording(one):
    assert simulated(1).checksum == one.checksum != simulated(2).checksum


def test_the_input_is_band_limited_with_the_crest_factor_of_ofdm(one):
    x = np.concatenate([one.x[part] for part in PARTS])
    power = np.abs(np.fft.fft(x)) ** 2
    outside = np.abs(np.fft.fftfreq(len(x), 1 / one.sample_rate)) > module.OCCUPIED * one.bandwidth / 2
    assert power[outside].sum() < 1e-20 * power.sum()
    assert np.abs(x).max() == pytest.approx(1)
    assert 8 < 10 * np.log10(1 / np.mean(np.abs(x) ** 2)) < 11


def test_no_noise_leaves_the_two_filters_and_the_nonlinearity(monkeypatch, one):
    monkeypatch.setattr(module, "NOISE_DB", -np.inf)
    clean = simulated(1)
    for part in PARTS:
        assert np.array_equal(clean.x[part], one.x[part])
    y, noisy = (np.concatenate([of.y[part] for part in PARTS]) for of in (clean, one))
    assert nmse(noisy, y) == pytest.approx(-50, abs=0.1)  # 20,000 samples: a standard deviation of 0.03 dB


def test_memory_is_as_long_as_both_filters(monkeypatch):
    impulse = np.zeros(module.SAMPLES, complex)
    impulse[:: module.SAMPLES // 10] = 1
    monkeypatch.setattr(module, "NOISE_DB", -np.inf)
    monkeypatch.setattr(module, "_ofdm", lambda _: impulse)
    reach = np.flatnonzero(simulated(1).y["train"])
    assert set(reach % (module.SAMPLES // 10)) == set(range(2 * module.TAPS - 1))


def test_the_nonlinearity_is_linear_when_small_and_saturates():
    assert amplify(np.array([1e-4j])) == pytest.approx([1e-4j], rel=1e-7)
    large = amplify(np.array([100.0]))
    assert abs(large[0]) == pytest.approx(module.SATURATION, rel=1e-6)
    assert np.angle(large[0]) == pytest.approx(module.PHASE_GAIN / module.PHASE_BEND, rel=1e-3)
    assert abs(amplify(np.array([module.SATURATION]))[0]) == pytest.approx(module.SATURATION * 2**-0.25)
