"""A simulated amplifier with memory, so that a search runs offline and the best possible score is known.

The input is one long OFDM symbol: random 64-QAM on the sub-carriers in the occupied band, and an inverse Fourier
transform. So it is strictly band-limited, with a crest factor of about 9 dB. The amplifier is a Wiener-Hammerstein
system, a filter before and a filter behind a nonlinearity without memory:

    u = a * x,    v = f(|u|) u / |u|,    y = b * v + noise
    f(r) = r / (1 + (r / s)^(2 p))^(1 / (2 p)) exp(i A r² / (1 + B r²))

with the AM/AM of Rapp (1991) and the AM/PM of Saleh (1981). The noise is white, `NOISE_DB` below the output, so no
model of the amplifier can have a lower NMSE than that on average.
"""

from __future__ import annotations

import numpy as np

from grownas.tasks.predistortion.reading import PARTS, SHARES, Recording

SAMPLES, NPERSEG = 20_000, 1000
SAMPLE_RATE, BANDWIDTH, OCCUPIED = 100e6, 20e6, 0.9  # Hz, Hz, and the share of the band that has sub-carriers
NOISE_DB = -50.0
SATURATION, SMOOTHNESS = 0.8, 2.0  # s and p of Rapp, where the largest input has magnitude 1
PHASE_GAIN, PHASE_BEND = 1.2, 1.5  # A, in radians, and B of Saleh
TAPS = 5  # of each filter
ECHO = 0.25, 0.6  # magnitude of a filter's second tap, and the factor from each tap to the next


def simulated(seed: int) -> Recording:
    """Draw a signal and an amplifier with gain of about 1; the same seed gives the same recording."""
    generator = np.random.default_rng([seed, 20])
    x = _ofdm(generator)
    before, behind = _filter(generator), _filter(generator)
    clean = _causal(behind, amplify(_causal(before, x)))
    scale = np.sqrt(np.mean(np.abs(clean) ** 2) * 10 ** (NOISE_DB / 10))
    y = clean + scale * _complex_normal(generator, SAMPLES)
    ends = np.cumsum([int(SAMPLES * SHARES[part]) for part in PARTS])[:-1]
    parts = [dict(zip(PARTS, np.split(signal, ends), strict=True)) for signal in (x, y)]
    return Recording(
        name="simulated",
        x=parts[0],
        y=parts[1],
        sample_rate=SAMPLE_RATE,
        bandwidth=BANDWIDTH,
        channels=1,
        nperseg=NPERSEG,
        source=f"simulated (Wiener-Hammerstein amplifier, seed {seed})",
    )


def amplify(u: np.ndarray) -> np.ndarray:
    """Apply the nonlinearity without memory to a complex signal."""
    r = np.abs(u)
    compression = (1 + (r / SATURATION) ** (2 * SMOOTHNESS)) ** (-1 / (2 * SMOOTHNESS))
    phase = PHASE_GAIN * r**2 / (1 + PHASE_BEND * r**2)
    output: np.ndarray = u * compression * np.exp(1j * phase)
    return output


def _ofdm(generator: np.random.Generator) -> np.ndarray:
    """Return an OFDM symbol of largest magnitude 1."""
    half = int(SAMPLES * OCCUPIED * BANDWIDTH / SAMPLE_RATE / 2)
    carriers = np.r_[1 : half + 1, -half:0]  # places of the sub-carriers; 0 Hz stays empty
    levels = generator.choice(np.arange(-7, 8, 2), size=(2, len(carriers)))
    bins = np.zeros(SAMPLES, complex)
    bins[carriers] = levels[0] + 1j * levels[1]
    signal: np.ndarray = np.fft.ifft(bins)
    signal /= np.abs(signal).max()
    return signal


def _filter(generator: np.random.Generator) -> np.ndarray:
    """Return a filter whose first tap is 1 and whose later taps decay, with random phases."""
    first, ratio = ECHO
    phases = np.exp(2j * np.pi * generator.random(TAPS - 1))
    return np.concatenate([[1], first * ratio ** np.arange(TAPS - 1) * phases])


def _causal(taps: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Filter a signal that is zero before its first sample."""
    return np.convolve(signal, taps)[: len(signal)]


def _complex_normal(generator: np.random.Generator, count: int) -> np.ndarray:
    """Draw complex noise of mean power 1."""
    return generator.normal(scale=np.sqrt(0.5), size=(count, 2)).view(complex)[:, 0]
