"""Figures of amplifiers and predistorters for the report: AM/AM, AM/PM, spectra, and NMSE against cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grownas.protocols import Figure, Line, Span
from grownas.tasks.predistortion.metrics import Band, spectrum

POINTS = 300  # samples shown of a signal
PLACES = 400  # frequencies shown of a spectrum
QUIET = 0.02  # of the largest input; the phase of smaller inputs is mostly noise
LOWEST = 1e-10  # power shown, of the strongest: a computed input has none outside of its band
MEGA = 1e6


def am_am(signals: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Return the magnitude of the output over that of the input.

    Args:
        signals: name -> complex input and output, each of shape `(n,)`.
    """
    shown = {name: _sampled(*pair) for name, pair in signals.items()}
    return Figure(
        "AM/AM",
        "Each point is a sample of the test part. A linear amplifier lies on a straight line; memory scatters points.",
        "magnitude of the input",
        "magnitude of the output",
        [Line(name, np.abs(x), np.abs(y), is_points=True) for name, (x, y) in shown.items()],
    )


def am_pm(signals: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Return the phase from input to output over the magnitude of the input; the arguments are those of `am_am`."""
    shown = {name: _sampled(*pair, quiet=QUIET) for name, pair in signals.items()}
    return Figure(
        "AM/PM",
        f"Each point is a sample of the test part with at least {QUIET:.0%} of the largest magnitude.",
        "magnitude of the input",
        "phase shift, degrees",
        [Line(n, np.abs(x), np.degrees(np.angle(y * x.conj())), is_points=True) for n, (x, y) in shown.items()],
    )


def spectra(signals: Mapping[str, np.ndarray], band: Band) -> Figure:
    """Return the power spectra of signals, with the adjacent channels marked.

    Args:
        signals: name -> complex signal, shape `(n,)`. The strongest frequency of the first signal is 0 dB.
        band: the main channel.
    """
    shown = {name: _shown_spectrum(signal, band) for name, signal in signals.items()}
    strongest = next(iter(shown.values()))[1].max()
    side, width = band.bandwidth / 2 / MEGA, band.bandwidth / band.channels / MEGA
    return Figure(
        "Spectra",
        f"Power over frequency, mean over frames of {band.nperseg:,} samples, relative to the strongest frequency of "
        f"{next(iter(shown))}. The grey bands are the adjacent channels: ACLR compares their power with that of the "
        "strongest sub-channel.",
        "frequency, MHz",
        "power, dB",
        [
            Line(name, frequencies / MEGA, 10 * np.log10(np.maximum(power / strongest, LOWEST)))
            for name, (frequencies, power) in shown.items()
        ],
        [Span("left", -side - width, -side), Span("right", side, side + width)],
    )


def nmse_against(cost: str, found: Mapping[str, tuple[float, float]]) -> Figure:
    """Return the NMSE of models over what they cost.

    Args:
        cost: name of the cost, such as `real multiplications per sample`.
        found: name of a model -> its cost, above 0, and its NMSE on the test part in dB.
    """
    lines = [Line(name, [amount], [nmse], is_points=True) for name, (amount, nmse) in found.items()]
    title, caption = f"NMSE against {cost}", "Lower and further left is better."
    return Figure(title, caption, cost, "test NMSE, dB", lines, is_log=True)


def _sampled(x: np.ndarray, y: np.ndarray, quiet: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return up to `POINTS` samples, evenly spread in time, whose input is not quiet."""
    loud = np.flatnonzero(np.abs(x) >= quiet * np.abs(x).max())
    kept = loud[np.linspace(0, len(loud) - 1, min(POINTS, len(loud))).astype(int)]
    return x[kept], y[kept]


def _shown_spectrum(signal: np.ndarray, band: Band) -> tuple[np.ndarray, np.ndarray]:
    """Return up to `PLACES` frequencies and their power, means over neighbouring frequencies."""
    groups = np.array_split(np.arange(band.nperseg), min(PLACES, band.nperseg))
    frequencies, power = (np.array([one[group].mean() for group in groups]) for one in spectrum(signal, band))
    return frequencies, power
