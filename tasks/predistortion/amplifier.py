"""The frozen model of an amplifier that a predistorter drives: a fitted polynomial, or the model of a finished run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import grownas
from grownas.errors import DataError
from grownas.tasks.predistortion.model import delayed
from grownas.tasks.predistortion.options import MEMORY, POLYNOMIAL
from grownas.tasks.predistortion.polynomial_fit import choose
from grownas.tasks.predistortion.polynomial_path import path_of
from grownas.tasks.predistortion.reading import Recording

Array = np.ndarray[Any, np.dtype[Any]]
MOST, RIDGE = 200, 1e-4  # parameters, and ridge, see `polynomial_fit`, of the amplifier that is fitted


@dataclass(frozen=True)
class Amplifier:
    """A frozen model of an amplifier, of scaled signals.

    Attributes:
        module: maps the delayed input `(T, B, 2 * L)` to the output `(T, B, 2)`, and to its last state if it has one.
        memory: L - 1, the number of earlier samples that it reads.
        words: what it is, for the report.
        checksum: of its weights, if they do not follow from the recording; else empty.
        has_state: whether the module carries a state. It then reads the first `memory` samples, too, from a zero state
            and after zeros, as in `Predistortion.evaluate`.
        gains: factors on its input and on its output, which convert signals to the scaling of the module and back.
    """

    module: nn.Module
    memory: int
    words: str
    checksum: str = ""
    has_state: bool = False
    gains: tuple[float, float] = (1.0, 1.0)

    def __call__(self, signal: Tensor) -> Tensor:
        """Return the output from sample `memory` on; gradients reach the signal only.

        Args:
            signal: input, shape `(T, B, 2)`.

        Returns:
            Shape `(T - memory, B, 2)`.
        """
        signal = self.gains[0] * signal.to(next(self.module.parameters()))
        if not self.has_state:
            output: Tensor = self.gains[1] * self.module(delayed(signal, self.memory))
            return output
        zeros = signal.new_zeros(self.memory, *signal.shape[1:])
        output, _ = self.module(delayed(torch.cat([zeros, signal]), self.memory))
        return self.gains[1] * output[self.memory :]


def amplifier_of(x: Array, y: Array, used: Array | None = None) -> Amplifier:
    """Fit a generalised memory polynomial as an amplifier; folds choose its shape.

    A predistorted signal has a wider band than the recorded input. With a ridge that is best for the recorded input,
    the polynomial is arbitrary in the rest of the band, and its output can be far too large, hence `RIDGE`.

    Args:
        x: scaled input of the training part, complex, shape `(n,)`.
        y: scaled output, shape `(n,)`.
        used: see `choose`.
    """
    polynomial = choose(x, y, "gmp", used=used, most=MOST, ridges=(RIDGE,))
    module = path_of(polynomial, x, y, used)[0].float().requires_grad_(False)
    return Amplifier(module, polynomial.context, f"generalised memory polynomial of {polynomial.params} parameters")


def amplifier_of_run(folder: str, recording: Recording, scales: tuple[float, float]) -> Amplifier:
    """Return the model of a finished run as an amplifier.

    Args:
        folder: the run folder.
        recording: the recording from which the run must have learned.
        scales: what a scaled 1 is at the input and at the output of the amplifier that is returned.

    Raises:
        DataError: the run has no model of an amplifier, or one of another recording.
        RunError: the folder is no finished run.
    """
    run = grownas.load(folder)
    if not isinstance(run, grownas.Run) or run.about_data.get("job") != "model":
        raise DataError(
            f"task.amplifier={folder}: expected a search of the task predistortion with task.job=model, or "
            f"{POLYNOMIAL}; give the folder of such a run"
        )
    known, model = run.about_data["checksum"], run.model
    if known != recording.checksum:
        raise DataError(
            f"task.amplifier={folder}: its recording has the checksum {known}, this one {recording.checksum}; give a "
            "run that learned from the same recording; `grownas update` makes one of a new recording"
        )
    model.eval().requires_grad_(False)
    x, y = run.config.task.scales or recording.scales
    gains, checksum = (scales[0] / x, y / scales[1]), f" amplifier:{_checksum(model)}"
    return Amplifier(model, MEMORY, f"the model of {folder}", checksum, has_state=True, gains=gains)


def _checksum(model: nn.Module) -> str:
    """Return the sha256 of all weights; the bytes of their file differ between runs that find the same weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
