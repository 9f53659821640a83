"""Panels whose truth is known: what a search must find, and where it must find nothing."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from grownas.tasks.index_returns.cleaning import Table, checksum_of

SERIES, ROWS, BURN_IN = 4, 4000, 200
SIGNAL = 0.7  # share of the variance that the true mean is made to explain, before chance
MOST_LINEAR, LEAST_TRUE = 0.15, 0.6  # bounds that a planted cell must keep
CHECKED_LAGS = 5
CELLS, HIDDEN, SETTLING_ROWS = 64, 8, 1000  # drawn at once; units of each; rows on which they are tried
GRID = 2.0**-16  # of a planted cell's states and means

Array = np.ndarray


class Truth(NamedTuple):
    """Simulated series and their true conditional means, both `(n, I)`: values[t] = mean[t] + noise."""

    values: Array
    mean: Array


def white_noise(seed: int) -> Truth:
    """Independent standard normal returns: nothing can be forecast."""
    values = np.random.default_rng([seed, 0]).normal(size=(ROWS, SERIES))
    return Truth(values, np.zeros_like(values))


def nonlinear(seed: int) -> Truth:
    """Simulate a two-input recurrence that no linear model sees: a mean is a product of newest value and state.

    With the state s_t = tanh(x_t) + 0.3 roll(s_{t-1}), where roll moves the series on by one, the mean of x_{t+1} is
    tanh(4 x_t * roll(s_{t-1})). The bound keeps it from running away, the slope 4 and the noise from dying out at
    zero, and the noise flips signs often enough that no sign settles, which a linear model could learn.
    """
    noise = 0.5 * np.random.default_rng([seed, 1]).normal(size=(ROWS + BURN_IN, SERIES))
    values, means = np.zeros_like(noise), np.zeros_like(noise)
    x, state = np.zeros(SERIES), np.zeros(SERIES)
    for t in range(len(noise)):
        means[t] = np.tanh(4 * x * np.roll(state, 1))
        state = np.tanh(x) + 0.3 * np.roll(state, 1)
        x = values[t] = means[t] + noise[t]
    return Truth(values[BURN_IN:], means[BURN_IN:])


class _Op(NamedTuple):
    """One op of a node, for many cells at once.

    Shapes: `is_tanh` `(cells, 1)`, `W_x` `(cells, I, H)`, `W_h` `(cells, H, H)`. Biases are zero. The
    activation is tanh or sigmoid: both are bounded, so that no cell runs away.
    """

    is_additive: bool
    is_tanh: Array
    W_x: Array
    W_h: Array


class _Cells(NamedTuple):
    """Chain cells and their readouts: `raw = h @ readout`, `mean = (raw - shift) * scale`."""

    nodes: list[list[_Op]]
    readout: Array
    shift: Array
    scale: Array

    def pick(self, cell: int) -> _Cells:
        """Return one of them."""
        nodes = [[_Op(op[0], *(part[[cell]] for part in op[1:])) for op in ops] for ops in self.nodes]
        return _Cells(nodes, *(part[[cell]] for part in self[1:]))


def planted(seed: int) -> Truth:
    """Simulate a random three-node chain cell plus noise (ALGORITHMS 1): two ops a node, hidden size 8.

    Cells are drawn until a VAR explains less than 15 % and the true mean more than 60 % of the variance.
    """
    for attempt in range(100):
        rng = np.random.default_rng([seed, 2, attempt])
        cells, values, means = _settle(_draw_cells(rng), rng)
        for cell in range(CELLS):
            if not _is_planted(Truth(values[:, cell], means[:, cell])):
                continue
            values_of, means_of, _ = _run_cells(cells.pick(cell), _noise(rng, ROWS + BURN_IN, 1))
            truth = Truth(values_of[BURN_IN:, 0], means_of[BURN_IN:, 0])
            if _is_planted(truth):
                return truth
    raise AssertionError(f"no planted cell in 100 draws of {CELLS} for data_seed {seed}")


def _is_planted(truth: Truth) -> bool:
    true_part = 1 - (truth.values - truth.mean).var() / truth.values.var()
    return bool(true_part > LEAST_TRUE and linear_r2(truth.values, CHECKED_LAGS) < MOST_LINEAR)


def _draw_cells(rng: np.random.Generator) -> _Cells:
    """Draw cells of three nodes, each an additive and a Hadamard op. Gain 2.5: smaller ones are nearly linear."""

    def weight(rows: int) -> Array:
        drawn: Array = rng.normal(size=(CELLS, rows, HIDDEN)) * 2.5 / np.sqrt(rows)
        return drawn

    def op(is_additive: bool) -> _Op:
        return _Op(is_additive, rng.integers(2, size=(CELLS, 1)) == 0, weight(SERIES), weight(HIDDEN))

    nodes = [[op(True), op(False)] for _ in range(3)]
    readout = rng.normal(size=(CELLS, HIDDEN, SERIES))
    return _Cells(nodes, readout, np.zeros((CELLS, SERIES)), np.full((CELLS, SERIES), 0.1))


def _settle(cells: _Cells, rng: np.random.Generator) -> tuple[_Cells, Array, Array]:
    """Scale the readouts until signal and noise stand as wanted; return the last short run as well."""
    noise = _noise(rng, SETTLING_ROWS + BURN_IN, CELLS)
    for _ in range(6):  # the feedback changes the readout's moments: a few rounds settle them
        values, means, raw = (part[BURN_IN:] for part in _run_cells(cells, noise))
        cells = cells._replace(shift=raw.mean(0), scale=np.sqrt(SIGNAL) / np.maximum(raw.std(0), 1e-6))
    return cells, values, means


def _noise(rng: np.random.Generator, rows: int, cells: int) -> Array:
    drawn: Array = rng.normal(size=(rows, cells, SERIES)) * np.sqrt(1 - SIGNAL)
    return drawn


def _run_cells(cells: _Cells, noise: Array) -> tuple[Array, Array, Array]:
    """Feed each cell its own values; return values, means and raw readouts, `(n, cells, I)`."""
    values, means, raw = np.zeros_like(noise), np.zeros_like(noise), np.zeros_like(noise)
    x, state = np.zeros(noise.shape[1:]), np.zeros((noise.shape[1], HIDDEN))
    for t in range(len(noise)):
        for ops in cells.nodes:
            state = _on_grid(sum((_apply(op, x, state) for op in ops), np.zeros_like(state)) / len(ops))
        raw[t] = _times(state, cells.readout)
        means[t] = _on_grid((raw[t] - cells.shift) * cells.scale)
        x = values[t] = means[t] + noise[t]
    return values, means, raw


def _apply(op: _Op, x: Array, state: Array) -> Array:
    p, q = _times(x, op.W_x), _times(state, op.W_h)
    z = p + q if op.is_additive else p * q
    y = np.tanh(np.where(op.is_tanh, z, z / 2))
    activated: Array = np.where(op.is_tanh, y, (1 + y) / 2)  # sigmoid(z) = (1 + tanh(z / 2)) / 2
    return activated


def _on_grid(values: Array) -> Array:
    """Round to multiples of `GRID`: the cells are chaotic, and last bits, which processors differ in, would grow."""
    rounded: Array = np.round(values / GRID) * GRID
    return rounded


def _times(vectors: Array, matrices: Array) -> Array:
    """Multiply each cell's vector by its own matrix."""
    product: Array = np.matmul(vectors[:, None], matrices)[:, 0]
    return product


def linear_r2(values: Array, lags: int) -> float:
    """Return the share of the variance that a VAR with this many lags explains, in sample."""
    target = values[lags:]
    design = np.concatenate([np.ones((len(target), 1)), *(values[lags - i : -i] for i in range(1, lags + 1))], 1)
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return float(1 - residual.var() / target.var())


def _random_walk(seed: int) -> Table:
    """Prices that are random walks: their returns are noise."""
    steps = np.random.default_rng([seed, 3]).normal(size=(ROWS, SERIES)) * 0.01
    return _table("random_walk", 100 * np.exp(np.cumsum(steps, axis=0)), returns=False)


PANELS: dict[str, Callable[[int], Truth]] = {"white_noise": white_noise, "nonlinear": nonlinear, "planted": planted}
NAMES = (*PANELS, "random_walk")


def table(name: str, seed: int) -> Table:
    """Return a synthetic panel by name as if it had been read."""
    made = _random_walk(seed) if name == "random_walk" else _table(name, PANELS[name](seed).values, returns=True)
    return replace(made, origin=checksum_of(name, seed))


def _table(name: str, values: Array, *, returns: bool) -> Table:
    first = datetime.date(2000, 1, 3)
    dates = [first + datetime.timedelta(days=day) for day in range(len(values))]
    return Table(dates, [f"x{i + 1}" for i in range(values.shape[1])], values, f"synthetic: {name}", returns)
