"""Reads the input and the output of a power amplifier, in complex baseband, from CSVs with a `spec.json`.

The layout is that of the benchmark OpenDPD (Wu et al., 2024): a folder with `train_input.csv`, `train_output.csv` and
likewise for `val` and `test`, with the columns I and Q, or a single CSV with the columns I_in, Q_in, I_out and Q_out.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import DataError
from grownas.tasks.predistortion.metrics import Band
from grownas.text_files import read_text

PARTS = ("train", "val", "test")
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}  # of the samples, in time order, where a recording is not split
PAIR, BOTH = ("I", "Q"), ("I_in", "Q_in", "I_out", "Q_out")  # columns of a signal, and of a whole recording
SPEC = {  # key of spec.json -> field of `Recording`
    "input_signal_fs": "sample_rate",
    "bw_main_ch": "bandwidth",
    "n_sub_ch": "channels",
    "nperseg": "nperseg",
}


@dataclass(frozen=True)
class Recording:
    """The input and the output of an amplifier, sample by sample.

    Attributes:
        name: name of the recording in tables.
        x: input of each part, complex128, shape `(n,)`; the parts are `train`, `val` and `test`.
        y: output of each part, of the same shapes.
        sample_rate: samples per second, in Hz.
        bandwidth: width of the main channel around 0, in Hz.
        channels: number of equal sub-channels of the main channel; an adjacent channel is as wide as a sub-channel.
        nperseg: samples in a frame; spectra and scores are means over frames.
        source: where the recording comes from, for messages.

    Raises:
        DataError: an input and its output differ in length, a sample is not finite, a signal is zero throughout, or
            the frequencies do not fit.
    """

    name: str
    x: Mapping[str, np.ndarray]
    y: Mapping[str, np.ndarray]
    sample_rate: float
    bandwidth: float
    channels: int
    nperseg: int
    source: str

    def __post_init__(self) -> None:
        """Check the signals and the frequencies."""
        for part in PARTS:
            _check_part(f"{self.source}, part {part}", self.x[part], self.y[part])
        reach = self.bandwidth / 2 + self.bandwidth / self.channels
        if reach > self.sample_rate / 2:
            raise DataError(
                f"{self.source}: the adjacent channels reach to {reach:g} Hz, but a sample rate of "
                f"{self.sample_rate:g} Hz shows frequencies up to {self.sample_rate / 2:g} Hz; give a smaller "
                "bandwidth, or more sub-channels"
            )
        if self.nperseg * self.bandwidth / self.channels < 2 * self.sample_rate:
            raise DataError(
                f"{self.source}: frames of {self.nperseg} samples do not resolve a sub-channel of "
                f"{self.bandwidth / self.channels:g} Hz; give nperseg of at least "
                f"{math.ceil(2 * self.sample_rate * self.channels / self.bandwidth)}"
            )

    @property
    def band(self) -> Band:
        """The frequencies by which signals are scored."""
        return Band(self.sample_rate, self.bandwidth, self.channels, self.nperseg)

    @property
    def checksum(self) -> str:
        """The sha256 of all samples and of the numbers that define the scores."""
        digest = hashlib.sha256(repr(tuple(self.band)).encode())
        for part in PARTS:
            digest.update(np.ascontiguousarray(self.x[part]).tobytes())
            digest.update(np.ascontiguousarray(self.y[part]).tobytes())
        return f"sha256:{digest.hexdigest()}"

    @property
    def scales(self) -> tuple[float, float]:
        """Largest magnitude of the input and of the output in the training part, in their own units."""
        return float(np.abs(self.x["train"]).max()), float(np.abs(self.y["train"]).max())

    @property
    def delay(self) -> int:
        """Samples by which the output is behind the input: where their correlation in the training part is largest."""
        x, y = self.x["train"], self.y["train"]
        size = 2 * len(x)
        found = int(np.abs(np.fft.ifft(np.fft.fft(y, size) * np.fft.fft(x, size).conj())).argmax())
        return found if found < len(x) else found - size


def from_folder(folder: Path, **given: float | None) -> Recording:
    """Read a folder: `{train,val,test}_{input,output}.csv`, plain or `.gz`, or one CSV that `spec.json` names.

    Args:
        folder: the folder.
        given: `sample_rate`, `bandwidth`, `channels` and `nperseg`; a number replaces that of `spec.json`.

    Raises:
        DataError: a file is missing or cannot be used.
    """
    spec = _spec(folder, given)
    if spec.document.get("dataset_format") == "single_csv":
        file = str(spec.document.get("csv_filename", "data.csv"))
        if Path(file).name != file:
            raise DataError(f"{folder / 'spec.json'}: csv_filename is {file!r}, expected the name of a file beside it")
        samples = read_csv(_find(folder, file), BOTH)
        x, y = (_cut(signal, spec.shares, folder) for signal in samples.T)
    else:
        x, y = (
            {part: read_csv(_find(folder, f"{part}_{side}.csv"), PAIR)[:, 0] for part in PARTS}
            for side in ("input", "output")
        )
    return Recording(name=folder.resolve().name, x=x, y=y, source=str(folder), **spec.numbers)


def from_files(path: Path, output: Path | None = None, **given: float | None) -> Recording:
    """Read one CSV with the columns I_in, Q_in, I_out and Q_out, or a pair of CSVs with the columns I and Q.

    The samples are split in time order, by default 60, 20 and 20 %. A `spec.json` beside `path` is read if there is
    one.

    Args:
        path: the file of the whole recording, or of the input.
        output: the file of the output; None if `path` has both.
        given: as for `from_folder`.

    Raises:
        DataError: a file is missing or cannot be used.
    """
    spec = _spec(path.parent, given)
    signals = list(read_csv(path, BOTH).T) if output is None else [read_csv(one, PAIR)[:, 0] for one in (path, output)]
    if len(signals[0]) != len(signals[1]):
        raise DataError(f"{path}: {len(signals[0])} samples, but {output} has {len(signals[1])}; expected as many")
    x, y = (_cut(signal, spec.shares, path) for signal in signals)
    return Recording(name=path.name.split(".")[0], x=x, y=y, source=str(path), **spec.numbers)


def as_files(recording: Recording) -> dict[str, str]:
    """Return the files of a folder that `from_folder` reads as the same samples and numbers: text by name."""
    spec = {key: getattr(recording, field) for key, field in SPEC.items()}
    files = {"spec.json": json.dumps(spec, indent=2) + "\n"}
    for side, signals in (("input", recording.x), ("output", recording.y)):
        files |= {f"{part}_{side}.csv": as_csv(signal) for part, signal in signals.items()}
    return files


def as_csv(signal: np.ndarray) -> str:
    """Return a signal, complex, shape `(n,)`, as the text of a CSV with the columns I and Q; `read_csv` reads it."""
    rows = (f"{one.real!r},{one.imag!r}" for one in signal.tolist())
    return "\n".join([",".join(PAIR), *rows, ""])


def read_csv(path: Path, columns: Sequence[str]) -> np.ndarray:
    """Read pairs of columns as complex signals.

    Args:
        path: the file, in UTF-8, plain or `.gz`, with a header.
        columns: names of the columns, real and imaginary parts in turn.

    Returns:
        Complex128, shape `(n, signals)`.

    Raises:
        DataError: the file cannot be read, its header differs, or a cell is no finite number; the message names the
            row, where the header is row 1.
    """
    lines = read_text(path, "a CSV").rstrip().splitlines()
    header = [name.strip(' "') for name in lines[0].split(",")] if lines else []
    if header != list(columns):
        raise DataError(f"{path}, row 1: got the columns {', '.join(header) or '(none)'}; expected {','.join(columns)}")
    rows = [_row(path, number, line, len(columns)) for number, line in enumerate(lines[1:], start=2)]
    if not rows:
        raise DataError(f"{path}: no samples below the header; expected one row per sample")
    return np.array(rows).view(complex)


def _row(path: Path, number: int, line: str, columns: int) -> list[float]:
    """Return the numbers of a row."""
    cells = line.split(",")
    if len(cells) != columns:
        raise DataError(f"{path}, row {number}: got {len(cells)} fields, expected {columns} as in the header")
    row = list[float]()
    for cell in cells:
        try:
            row.append(float(cell))
        except ValueError:
            row.append(math.nan)
        if not math.isfinite(row[-1]):
            raise DataError(f"{path}, row {number}: got {cell.strip()!r}, expected a finite number")
    return row


def _find(folder: Path, file: str) -> Path:
    found = [path for path in (folder / file, folder / f"{file}.gz") if path.exists()]
    if not found:
        raise DataError(f"{folder}: no {file}; expected {file} or {file}.gz")
    if len(found) > 1:
        raise DataError(f"{folder}: both {file} and {file}.gz; keep one of them")
    return found[0]


@dataclass(frozen=True)
class _Spec:
    """The numbers that describe a recording, the shares of its parts, and the whole of `spec.json`."""

    numbers: Mapping[str, Any]
    shares: Mapping[str, float]
    document: Mapping[str, Any]


def _spec(folder: Path, given: Mapping[str, float | None]) -> _Spec:
    """Read `spec.json` in a folder, if there is one, and replace its numbers by those given.

    Raises:
        DataError: the file cannot be read, or a number is missing or wrong.
    """
    path, document = folder / "spec.json", {}
    if path.exists():
        try:
            document = json.loads(read_text(path, "JSON"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON: {error}") from error
        if not isinstance(document, dict):
            raise DataError(f"{path}: got a {type(document).__name__}, expected an object with {', '.join(SPEC)}")
    numbers = dict[str, Any]()
    for key, field in SPEC.items():
        value = document.get(key) if given.get(field) is None else given[field]
        if value is None:
            raise DataError(f"{path}: no {key}; add it to the file, or set task.{field}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise DataError(f"{path}: {key} is {value!r}, expected a number above 0")
        if field in ("channels", "nperseg") and value != int(value):
            raise DataError(f"{path}: {key} is {value!r}, expected a whole number")
        numbers[field] = int(value) if field in ("channels", "nperseg") else float(value)
    return _Spec(numbers, _shares(path, document.get("split_ratios", SHARES)), document)


def _shares(path: Path, shares: Any) -> Mapping[str, float]:
    """Check the shares of the parts."""
    try:
        found = {part: float(shares[part]) for part in PARTS}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: split_ratios is {shares!r}, expected a share for each of {', '.join(PARTS)}"
        ) from error
    if min(found.values()) <= 0 or not math.isclose(sum(found.values()), 1, abs_tol=1e-9):
        raise DataError(f"{path}: split_ratios is {shares!r}, expected shares above 0 that sum to 1")
    return found


def _cut(signal: np.ndarray, shares: Mapping[str, float], where: Path) -> dict[str, np.ndarray]:
    """Split a signal in time order; each part takes the whole number of samples in its share, the last takes the rest.

    Raises:
        DataError: a part would be empty.
    """
    count = len(signal)
    ends = [int(count * shares["train"]), int(count * shares["train"]) + int(count * shares["val"])]
    if not 0 < ends[0] < ends[1] < count:
        raise DataError(f"{where}: {count} samples are too few for three parts; give a longer recording")
    return dict(zip(PARTS, np.split(signal, ends), strict=True))


def _check_part(where: str, x: np.ndarray, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise DataError(f"{where}: the input has {len(x)} samples, the output {len(y)}; expected as many")
    for side, signal in (("input", x), ("output", y)):
        if not np.isfinite(signal).all():
            raise DataError(f"{where}: the {side} has a sample that is not finite; expected finite numbers")
        if not signal.any():
            raise DataError(f"{where}: every sample of the {side} is 0; expected a signal")
        with np.errstate(over="ignore", under="ignore"):
            energy = np.sum(np.abs(signal) ** 2)
        if not 0 < energy < math.inf:
            raise DataError(f"{where}: the squares of the {side} sum to {energy}; give the signal in another unit")
