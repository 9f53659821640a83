"""A NumPy evaluator of `equations.txt` of a model of signals that knows nothing but the text."""

from __future__ import annotations

import numpy as np

from support.following import Followed
from support.following_blocks import delay, from_text

SCALARS = ("unit_in", "unit_out")
FUNCTIONS = {"re": np.real, "im": np.imag, "abs": np.abs}  # what the formulas of features call


def over_size(v):
    """v / |v|, or 1 where v = 0."""
    return np.where(v == 0, 1, v / np.where(v == 0, 1, np.abs(v)))


class FollowedSignal(Followed):
    """Reads the part from `begin` to `end` as the file says, and filters."""

    def output(self, signal: np.ndarray) -> np.ndarray:
        """From complex samples `(T,)` in their own units to the output in its own units."""
        is_relative, number = self.words["phase"] == "relative", {name: self.blocks[name].item() for name in SCALARS}
        v = (signal / number["unit_in"]).astype(np.result_type(self.dtype, np.complex64))
        phase = over_size(v) if is_relative else np.ones_like(v)
        x = self.features(v, phase.conj())
        if "cells" in self.words:
            network = from_text(self, x[:, 0] + 1j * x[:, 1])
            h = np.stack([network.real, network.imag], axis=-1)
        else:
            h = self.states(x)
        i, q = (self.blocks["scale"] * (h @ self.blocks["W_out"] + self.blocks["b_out"])).T
        return number["unit_out"] * ((i + 1j * q) * phase + self.polynomial(v.astype(complex)))

    def features(self, v: np.ndarray, turn: np.ndarray) -> np.ndarray:
        samples = [delay(v, k) * turn for k in range(int(self.words["taps"]) + 1)]
        return np.stack([self.value(name, r) for name in self.words["features"].split() for r in samples], axis=-1)

    def value(self, name: str, r: np.ndarray) -> np.ndarray:
        silent = r == 0
        return np.where(silent, 0, eval(self.feature[name], {**FUNCTIONS, "r": np.where(silent, 1, r)})).astype(
            self.dtype
        )

    def polynomial(self, v: np.ndarray) -> np.ndarray:
        total = np.zeros_like(v)
        if "polynomial_terms" in self.blocks:
            terms, coefficients = self.blocks["polynomial_terms"].astype(int), self.blocks["polynomial_coefficients"]
            for (late, envelope, power), (real, imaginary) in zip(terms, coefficients, strict=True):
                total += (real + 1j * imaginary) * delay(v, late) * np.abs(delay(v, envelope)) ** power
        return total
