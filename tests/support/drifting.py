"""Recordings of a simulated amplifier that drifts, in folders of CSVs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from grownas.tasks.predistortion.reading import PARTS, Recording, as_files
from grownas.tasks.predistortion.simulated import amplify, simulated

LENGTHS = dict(zip(PARTS, (2000, 400, 400), strict=True))
COLD, WARM, HOT = 0.6, 0.8, 0.9  # drive: how far the amplifier is in compression
ECHO = np.array([1, 0.2 - 0.15j, 0.1j])


def recording(drives: float | Mapping[str, float], seed: int) -> Recording:
    """Return a short recording without noise; the amplifier has a drive, or one for each part."""
    drawn = simulated(seed)
    x = {part: _clipped(2 * drawn.x[part][: LENGTHS[part]]) for part in PARTS}
    drive = drives if isinstance(drives, Mapping) else dict.fromkeys(PARTS, drives)
    y = {part: _amplified(x[part], drive[part]) for part in PARTS}
    return replace(drawn, x=x, y=y, nperseg=100, source="drifting")


def _clipped(signal: np.ndarray) -> np.ndarray:
    """Return a signal whose magnitude is at most 1, so that no part has larger peaks than those that are learned."""
    return signal / np.maximum(1, np.abs(signal))


def _amplified(x: np.ndarray, drive: float) -> np.ndarray:
    """Return the output: its gain falls with the drive."""
    return amplify(drive * np.convolve(x, ECHO)[: len(x)]) / drive


def write(folder: Path, one: Recording) -> Path:
    """Write a recording to a new folder; return it."""
    folder.mkdir()
    for name, text in as_files(one).items():
        (folder / name).write_text(text)
    return folder
