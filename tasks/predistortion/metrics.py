"""Scores of amplifier models and of predistorters, by the definitions of the benchmark OpenDPD (Wu et al., 2024).

A signal is cut into frames of `nperseg` samples, the last of which is padded with zeros. Spectra leave it out, unless
it is the only one: its hard end would leak into the adjacent channels (the benchmark's recordings have whole frames).
All scores are in dB; lower is better. Means over frames leave out frames in which the actual signal is 0 throughout,
such as pauses between bursts. EVM here is the benchmark's spectral error, without demodulation; do not compare it with
the EVM of a standard.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

LEAST = float(np.finfo(float).eps)  # smallest ratio that is told from 0: -156.5 dB of power


class Band(NamedTuple):
    """The frequencies by which signals are scored.

    Attributes:
        sample_rate: samples per second, in Hz.
        bandwidth: width of the main channel around 0, in Hz.
        channels: number of equal sub-channels of the main channel; an adjacent channel is as wide as a sub-channel.
        nperseg: samples in a frame.
    """

    sample_rate: float
    bandwidth: float
    channels: int
    nperseg: int

    @property
    def frequencies(self) -> np.ndarray:
        """The frequencies of a spectrum, in Hz, ascending, shape `(nperseg,)`."""
        return np.fft.fftshift(np.fft.fftfreq(self.nperseg, d=1 / self.sample_rate))

    @property
    def places(self) -> tuple[int, int, int]:
        """The first and the last place of the main channel in a spectrum, and the number of places of a sub-channel.

        As in the benchmark, the right adjacent channel begins at the last place, and a remainder that does not fill
        the sub-channels is left out.
        """
        inside = np.flatnonzero(np.abs(self.frequencies) <= self.bandwidth / 2)
        first, last = int(inside[0]), int(inside[-1])
        return first, last, (last - first) // self.channels


class Spectrum(NamedTuple):
    """A power spectrum.

    Attributes:
        frequencies: in Hz, ascending, shape `(nperseg,)`.
        power: power of each frequency, float64, shape `(nperseg,)`: a tone of amplitude a that fits a frame shows a².
    """

    frequencies: np.ndarray
    power: np.ndarray


def decibels(ratio: float | np.ndarray) -> np.ndarray:
    """Return ratios of powers in dB; those below `LEAST` count as `LEAST`, so that a perfect prediction has a score."""
    found: np.ndarray = 10 * np.log10(np.maximum(ratio, LEAST))
    return found


def frames(signal: np.ndarray, nperseg: int) -> np.ndarray:
    """Cut a signal of shape `(n,)` into frames `(frames, nperseg)`; zeros fill the last frame."""
    return np.pad(signal, (0, -len(signal) % nperseg)).reshape(-1, nperseg)


def nmse(predicted: np.ndarray, actual: np.ndarray, nperseg: int | None = None) -> float:
    """Return the normalised mean squared error in dB: `10 log10(sum |predicted - actual|² / sum |actual|²)`.

    Args:
        predicted: complex signal, shape `(n,)`.
        actual: complex signal, shape `(n,)`.
        nperseg: take the mean of the frames' values in dB, as the benchmark does; None: one value over all samples.
    """
    cut = [frames(one, nperseg or len(one)) for one in (predicted - actual, actual)]
    error, energy = (np.sum(np.abs(one) ** 2, axis=1) for one in cut)
    heard = energy > 0
    return float(np.mean(decibels(error[heard] / energy[heard])))


def evm(predicted: np.ndarray, actual: np.ndarray, band: Band) -> float:
    """Return the mean error of the spectrum in the main channel, in dB.

    With X the Fourier transform of a frame, the error of a sub-channel is `mean |X_predicted - X_actual|` over
    `mean |X_actual|`. The result is `20 log10` of its mean over sub-channels and frames.

    Args:
        predicted: complex signal, shape `(n,)`.
        actual: complex signal, shape `(n,)`.
        band: the main channel.
    """
    cut = [np.fft.fftshift(np.fft.fft(frames(one, band.nperseg)), axes=-1) for one in (predicted - actual, actual)]
    first, _, width = band.places
    inside = slice(first, first + band.channels * width)
    error, size = (np.abs(one[:, inside]).reshape(len(one), band.channels, width).mean(-1) for one in cut)
    heard = (size > 0).all(1)
    return float(2 * decibels(np.mean(error[heard] / size[heard])))


def spectrum(signal: np.ndarray, band: Band) -> Spectrum:
    """Return the power spectrum by Welch's method: periodic Hann window, whole frames without their mean, no overlap.

    Args:
        signal: complex, shape `(n,)`.
        band: the sample rate and the length of a frame.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(band.nperseg) / band.nperseg)
    whole = len(signal) - len(signal) % band.nperseg
    cut = frames(signal[: whole or None], band.nperseg)
    levels = np.fft.fft((cut - cut.mean(1, keepdims=True)) * window) / window.sum()
    return Spectrum(band.frequencies, np.fft.fftshift(np.mean(np.abs(levels) ** 2, axis=0)))


def noise_floor(actual: np.ndarray, band: Band) -> float:
    """Return the NMSE in dB that is left if the output holds white noise and all else is predicted.

    The outermost sixteenth of the frequencies on each side shows the level of the noise, if the amplifier's distortion
    does not reach there; else the result is too high.

    Args:
        actual: complex signal, shape `(n,)`.
        band: the sample rate and the length of a frame.
    """
    frequencies, power = spectrum(actual, band)
    outermost = np.abs(frequencies) >= 15 / 32 * band.sample_rate
    return float(10 * np.log10(power[outermost].mean() / power.mean()))


def aclr(signal: np.ndarray, band: Band) -> tuple[float, float]:
    """Return the adjacent channel leakage ratio on the left and on the right, in dBc.

    The power in the adjacent channel over the power of the strongest sub-channel. With one sub-channel this ratio is
    also called ACPR. It is nan if the main channel has no power, as that of a constant signal.

    Args:
        signal: complex, shape `(n,)`.
        band: the main channel.
    """
    power = spectrum(signal, band).power
    first, last, width = band.places
    strongest = power[first : first + band.channels * width].reshape(band.channels, width).sum(1).max()
    sides = power[first - width : first].sum(), power[last : last + width].sum()
    if not strongest:
        return math.nan, math.nan
    left, right = (float(decibels(side / strongest)) for side in sides)
    return left, right
