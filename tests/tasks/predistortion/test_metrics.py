"""Scores against closed forms, and against the benchmark's own functions where `opendpd` is installed."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.tasks.predistortion.metrics import LEAST, Band, aclr, evm, frames, nmse, noise_floor, spectrum
from grownas.tasks.predistortion.simulated import simulated

RATE, SIZE = 800.0, 80  # so that a place of a spectrum is 10 Hz
BAND = Band(RATE, bandwidth=200.0, channels=2, nperseg=SIZE)


def noise(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2)).view(complex)[:, 0]


def tone(frequency, amplitude, count=4 * SIZE):
    return amplitude * np.exp(2j * np.pi * frequency / RATE * np.arange(count))


def test_the_last_frame_is_filled_with_zeros():
    assert frames(np.array([1, 2, 3]), 2).tolist() == [[1, 2], [3, 0]]
    assert frames(np.array([1, 2, 3, 4]), 2).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("nperseg", [None, 100])
def test_an_error_of_the_gain_gives_its_own_nmse_and_evm(nperseg):
    y = noise(250)
    assert nmse(y * (1 + 0.1j), y, nperseg) == pytest.approx(-20)
    assert evm(y * (1 + 0.1j), y, BAND) == pytest.approx(-20)


def test_nmse_pools_samples_or_averages_the_frames_decibels():
    y = np.ones(4, complex)
    error = np.array([0.1, 0.1, 0.01, 0.01])
    assert nmse(y + error, y) == pytest.approx(10 * np.log10((0.01 + 0.0001) / 2))
    assert nmse(y + error, y, 2) == pytest.approx((-20 - 40) / 2)


def test_frames_without_a_signal_are_left_out_of_means():
    y = noise(2 * SIZE)
    paused = np.concatenate([y, np.zeros(SIZE)])
    error = 0.1 * noise(3 * SIZE, seed=1)
    assert nmse(paused + error, paused, SIZE) == nmse(y + error[: 2 * SIZE], y, SIZE)
    assert evm(paused + error, paused, BAND) == evm(y + error[: 2 * SIZE], y, BAND)


def test_a_perfect_prediction_has_finite_scores():
    y = noise(250)
    assert nmse(y, y) == nmse(y, y, 100) == pytest.approx(10 * np.log10(LEAST))
    assert evm(y, y, BAND) == pytest.approx(20 * np.log10(LEAST))


def test_evm_counts_errors_in_the_main_channel_only():
    y = noise(SIZE)
    assert evm(y + tone(300, 0.5, SIZE), y, BAND) < -200
    assert evm(y + tone(50, 0.5, SIZE), y, BAND) > -40


def test_evm_is_a_mean_over_sub_channels():
    y = tone(-60, 1.0) + tone(60, 2.0)  # one in each sub-channel
    assert evm(y + tone(60, 0.2), y, BAND) == pytest.approx(20 * np.log10((0 + 0.1) / 2), abs=1e-6)


def test_a_tone_shows_the_square_of_its_amplitude():
    found = spectrum(tone(70, 3.0), BAND)
    assert found.frequencies[found.power.argmax()] == 70
    assert found.power.max() == pytest.approx(9)
    assert np.all(np.diff(found.frequencies) == pytest.approx(10))


def test_white_noise_shows_its_power():
    """A Hann window is 1.5 places wide, so white noise of power P shows 1.5 P / nperseg a place."""
    found = spectrum(noise(SIZE * 4000), BAND)  # mean power 2
    away = np.abs(found.frequencies) > 15  # the frames' means are taken away
    assert found.power[away].mean() == pytest.approx(1.5 * 2 / SIZE, rel=0.01)


def test_aclr_is_the_ratio_of_the_powers_of_tones():
    signal = tone(-60, 1.0) + tone(50, 2.0) + tone(-140, 0.1) + tone(160, 0.02) + tone(-300, 1.0)
    left, right = aclr(signal, BAND)  # beside the stronger sub-channel, of power 4
    assert left == pytest.approx(10 * np.log10(0.01 / 4))
    assert right == pytest.approx(10 * np.log10(0.0004 / 4))


def test_a_last_frame_that_is_not_whole_does_not_leak():
    signal = 2 * tone(-50, 1.0, 8 * SIZE)  # in the main channel, and nothing beside it
    whole = aclr(signal, BAND)
    assert max(whole) < -120
    assert aclr(signal[: 5 * SIZE + SIZE // 3], BAND) == pytest.approx(whole, abs=1e-6)


def test_aclr_of_noise_with_known_levels():
    bins = np.fft.fftfreq(SIZE * 500, 1 / RATE)
    levels = np.select([np.abs(bins) <= 90, np.abs(bins) <= 110, bins < 0], [1.0, 0.0, 1e-2], 1e-3)
    signal = np.fft.ifft(levels * np.fft.fft(noise(SIZE * 500)))
    left, right = aclr(signal, BAND._replace(channels=1, nperseg=SIZE * 10))
    narrower = 10 * np.log10((300 - 110) / (2 * 90))
    assert left == pytest.approx(-40 + narrower, abs=0.2)
    assert right == pytest.approx(-60 + narrower, abs=0.2)


def test_the_noise_floor_is_the_nmse_of_a_perfect_model():
    of = simulated(1)
    assert noise_floor(of.y["train"], of.band) == pytest.approx(-50, abs=0.7)  # some distortion reaches the edge
    tones = tone(50, 1.0, 40_000)
    noisy = tones + 10 ** (-30 / 20) * np.sqrt(0.5) * noise(40_000)
    assert noise_floor(noisy, BAND) == pytest.approx(nmse(tones, noisy), abs=0.1)


def test_a_constant_signal_has_no_leakage_ratio():
    assert np.isnan(aclr(np.ones(4 * SIZE, complex), BAND)).all()


@pytest.fixture(scope="module")
def benchmark():
    """The module of the benchmark's scores."""
    return pytest.importorskip("utils.metrics", reason="needs the package opendpd")


def agree(benchmark, predicted, of):
    """Assert that the scores of a prediction of the test part are the benchmark's."""
    y = of.y["test"]
    cut = [np.stack([frames(one.real, of.nperseg), frames(one.imag, of.nperseg)], -1) for one in (predicted, y)]
    theirs = {"bw_main_ch": of.bandwidth, "n_sub_ch": of.channels, "nperseg": of.nperseg}
    assert nmse(predicted, y, of.nperseg) == pytest.approx(benchmark.NMSE(*cut), abs=1e-9)
    theirs_evm = benchmark.EVM(*cut, sample_rate=of.sample_rate, **theirs)
    assert evm(predicted, y, of.band) == pytest.approx(theirs_evm, abs=1e-9)
    assert aclr(predicted, of.band) == pytest.approx(benchmark.ACLR(cut[0], fs=of.sample_rate, **theirs), abs=1e-9)


def test_scores_are_the_benchmarks_on_a_simulated_amplifier(benchmark):
    of = simulated(1)
    agree(benchmark, of.x["test"] * of.scales[1] / of.scales[0], of)
    agree(benchmark, of.y["test"] + 1e-3 * noise(len(of.y["test"])), of)


def test_scores_are_the_benchmarks_on_measured_amplifiers(benchmark, recording):
    y = recording.y["test"]
    agree(benchmark, y + 1e-2 * noise(len(y)), recording)
