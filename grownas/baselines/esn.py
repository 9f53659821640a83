"""Echo state network: a random leaky reservoir, and a ridge regression on its states, chosen by blocked folds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from grownas.baselines.var import FOLDS, Notify, cut_blocks, fit_rows, held_out, prefixed, silent
from grownas.errors import TooFewRowsError

Array = np.ndarray[Any, np.dtype[np.float64]]

UNITS = 200
WASHOUT = 50  # rows that fill the reservoir first; also left out after a held-out block
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # per observation; lower than a VAR's, since states are small


class Setting(NamedTuple):
    """What the folds choose of a reservoir.

    Attributes:
        leak: share of the new value in a state, in (0, 1]; low values remember longer.
        radius: spectral radius of the recurrent weights.
        scale: largest input weight and bias.
    """

    leak: float
    radius: float
    scale: float


SETTINGS = tuple(Setting(*one) for one in itertools.product((0.3, 1.0), (0.3, 0.6, 0.95), (0.3, 1.0)))


@dataclass(frozen=True)
class Reservoir:
    """Random weights, which are never trained.

    Attributes:
        bias: uniform in [-1, 1], shape `(U,)`.
        inputs: uniform in [-1, 1], shape `(U, I)`.
        recurrent: normal, divided by its spectral radius, shape `(U, U)`.
    """

    bias: Array
    inputs: Array
    recurrent: Array

    @classmethod
    def draw(cls, series: int, *, units: int = UNITS, seed: int) -> Reservoir:
        """Draw a reservoir of `units` units U for `series` series I."""
        rng = np.random.default_rng(seed)
        bias, inputs = rng.uniform(-1, 1, units), rng.uniform(-1, 1, (units, series))
        recurrent = rng.normal(size=(units, units))
        return cls(bias, inputs, recurrent / np.abs(np.linalg.eigvals(recurrent)).max())

    def states(self, values: Array, setting: Setting) -> Array:
        """Return h_t = (1 - leak) h_{t-1} + leak tanh(scale (b + W x_t) + radius R h_{t-1}) from h_{-1} = 0.

        Args:
            values: x, shape `(n, I)`.
            setting: leak, radius and scale.

        Returns:
            Shape `(n, U)`.
        """
        driven, recurrent = setting.scale * (self.bias + values @ self.inputs.T), setting.radius * self.recurrent
        states, state = np.empty_like(driven), np.zeros(len(self.bias))
        for row, drive in enumerate(driven):
            state = (1 - setting.leak) * state + setting.leak * np.tanh(drive + recurrent @ state)
            states[row] = state
        return states

    def regressors(self, values: Array, setting: Setting) -> Array:
        """Return a constant, x_t and h_t for each row, shape `(n, 1 + I + U)`."""
        return np.concatenate([np.ones((len(values), 1)), values, self.states(values, setting)], axis=1)


@dataclass(frozen=True)
class ESN:
    """A reservoir with a fitted readout.

    Attributes:
        reservoir: the random weights.
        setting: leak, radius and scale.
        readout: coefficients of the constant, x_t and h_t, shape `(1 + I + U, O)`.

    References:
        Jaeger (2001), The echo state approach to analysing and training recurrent neural networks.
        Lukosevicius (2012), A practical guide to applying echo state networks.
    """

    reservoir: Reservoir
    setting: Setting
    readout: Array

    @classmethod
    def fit(
        cls, reservoir: Reservoir, setting: Setting, values: Array, *, ridge: float, outputs: int | None = None
    ) -> ESN:
        """Fit the readout by least squares to the row after each row, apart from the first `WASHOUT`.

        Args:
            reservoir: the random weights.
            setting: leak, radius and scale.
            values: shape `(n, I)`, standardised.
            ridge: strength per observation, as in `var.fit_var`.
            outputs: see `var.fit_var`.
        """
        design = reservoir.regressors(values, setting)[WASHOUT:-1]
        return cls(reservoir, setting, fit_rows(design, values[WASHOUT + 1 :, :outputs], ridge=ridge))

    def forecast(self, values: Array) -> Array:
        """Return one-step-ahead forecasts, shape `(n, O)`: row t is the forecast of row t + 1 from rows up to t."""
        return self.reservoir.regressors(values, self.setting) @ self.readout


class Choice(NamedTuple):
    """The setting and ridge with the lowest held-out mean squared error, and the errors of all of them."""

    setting: Setting
    ridge: float
    scores: dict[tuple[Setting, float], float]


def choose(
    reservoir: Reservoir,
    values: Array,
    *,
    settings: Sequence[Setting] = SETTINGS,
    ridges: Sequence[float] = RIDGES,
    folds: int = FOLDS,
    outputs: int | None = None,
    notify: Notify = silent,
) -> Choice:
    """Choose leak, radius, scale and ridge by blocked folds.

    Args:
        reservoir: the random weights, the same for all settings.
        values: training rows only, shape `(n, I)`, standardised.
        settings: candidate settings.
        ridges: candidate ridge strengths, per observation.
        folds: number of blocks.
        outputs: see `var.fit_var`.
        notify: called with a message for each setting and fold.

    Raises:
        TooFewRowsError: there are too few rows.
    """
    if len(values) < 2 * WASHOUT + folds:
        raise TooFewRowsError(
            f"{len(values)} training rows are too few to choose an echo state network by folds; at least "
            f"{2 * WASHOUT + folds} are needed; give more rows, or leave esn out of baselines.use"
        )
    target = values[WASHOUT + 1 :, :outputs]
    blocks = cut_blocks(0, len(target), folds)
    scores = dict.fromkeys(itertools.product(settings, ridges), 0.0)
    for number, setting in enumerate(settings, start=1):
        design = reservoir.regressors(values, setting)[WASHOUT:-1]
        told = prefixed(notify, f"reservoir {number} of {len(settings)}, ")
        for _, ridge, block, forecasts in held_out(design, target, blocks, WASHOUT, ridges, ("squared",), told):
            scores[setting, ridge] += float(((target[block] - forecasts) ** 2).mean()) / folds
    setting, ridge = min(scores, key=lambda one: scores[one])
    return Choice(setting, ridge, scores)
