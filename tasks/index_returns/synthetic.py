"""Synthetic panels with a known truth: some have structure that a search must find, others have none."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from grownas.errors import DataError
from grownas.tasks.index_returns.reading import Kind, Table, checksum_of

SERIES, ROWS, BURN_IN = 4, 4000, 200
SIGNAL = 0.7  # target share of the variance explained by the true mean
MOST_LINEAR, LEAST_TRUE = 0.15, 0.6  # bounds for a planted cell: R² of a VAR, R² of the true mean
MOST_LINEAR_OF_STREAM = 0.35  # the same for each regime of a stream
CHECKED_LAGS = 5
NODES, UNITS = 3, 8  # defaults for a planted cell
CELLS, DRAWS, SETTLING_ROWS = 64, 100, 1000  # cells per draw; most draws; rows on which cells are tested
MATRIX_NUMBERS = 2**17  # most numbers in a matrix of all cells of a draw: 1 MiB, so that it stays in the CPU cache
GRID = 2.0**-16  # a planted cell's states and means are multiples of this number

Array = np.ndarray


class Truth(NamedTuple):
    """Simulated series and their true conditional means, both `(n, I)`: values[t] = mean[t] + noise."""

    values: Array
    mean: Array


def white_noise(seed: int) -> Truth:
    """Draw independent standard normal returns: nothing can be forecast."""
    values = np.random.default_rng([seed, 0]).normal(size=(ROWS, SERIES))
    return Truth(values, np.zeros_like(values))


def nonlinear(seed: int) -> Truth:
    """Simulate a recurrence that no linear model can fit: the mean depends on the product of newest value and state.

    The state is s_t = tanh(x_t) + 0.3 roll(s_{t-1}), where roll shifts the series by one. The mean of x_{t+1} is
    tanh(4 x_t * roll(s_{t-1})). The tanh keeps the process bounded. The slope 4 and the noise keep it from decaying to
    zero. The noise flips signs so often that no sign persists, which a linear model could learn.
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
    """One op of a node, for many cells at a time.

    Shapes: `is_tanh` `(cells, 1)`, `W_x` `(cells, I, H)`, `W_h` `(cells, H, H)`. Biases are zero. The activation is
    tanh or sigmoid; both are bounded, so that no cell diverges.
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
        """Return a single cell."""
        nodes = [[_Op(op[0], *(part[[cell]] for part in op[1:])) for op in ops] for ops in self.nodes]
        return _Cells(nodes, *(part[[cell]] for part in self[1:]))


def planted(seed: int, nodes: int = NODES, units: int = UNITS) -> Truth:
    """Simulate a random chain cell plus noise, with two ops per node.

    Cells are drawn until a VAR explains less than 15 % and the true mean more than 60 % of the variance.

    Args:
        seed: seed of the cell and the noise.
        nodes: number of nodes.
        units: hidden size H.

    Raises:
        DataError: no drawn cell of this size fulfils the bounds.
    """
    at_once = max(1, min(CELLS, MATRIX_NUMBERS // units**2))
    for attempt in range(DRAWS):
        rng = np.random.default_rng([seed, 2, attempt])
        cells, values, means = _settle(_draw_cells(rng, at_once, nodes, units), rng)
        for cell in range(at_once):
            if not _is_planted(Truth(values[:, cell], means[:, cell])):
                continue
            values_of, means_of, *_ = _run_cells(cells.pick(cell), _noise(rng, ROWS + BURN_IN, 1))
            truth = Truth(values_of[BURN_IN:, 0], means_of[BURN_IN:, 0])
            if _is_planted(truth):
                return truth
    raise DataError(
        f"no cell of {nodes} nodes and {units} units in {DRAWS} draws of {at_once} for task.data_seed={seed}: the true "
        f"mean must explain more than {LEAST_TRUE:.0%} of the variance, and a VAR less than {MOST_LINEAR:.0%}; "
        "choose another task.data_seed, or other task.planted_nodes or task.planted_units"
    )


def stream(seed: int, nodes: Sequence[int]) -> Truth:
    """Simulate a chain cell whose number of nodes changes at equal distances of rows.

    In each regime the first so many nodes of one cell are computed, so that a cell with more nodes contains the one
    before; its readout is scaled anew. In every regime the true mean explains more than 60 % of the variance, and a
    VAR less than 35 %: few cells fulfil the bound of `planted` with each number of nodes.

    Args:
        seed: seed of the cell and the noise.
        nodes: number of nodes in each regime, in the order of time.

    Raises:
        DataError: no drawn cell fulfils the bounds in every regime.
    """
    for attempt in range(DRAWS):
        rng = np.random.default_rng([seed, 4, attempt])
        drawn = _draw_cells(rng, CELLS, max(nodes), UNITS)
        settled = {count: _settle(drawn._replace(nodes=drawn.nodes[:count]), rng) for count in sorted(set(nodes))}
        for cell in range(CELLS):
            alone = [Truth(values[:, cell], means[:, cell]) for _, values, means in settled.values()]
            if not all(_is_planted(truth, MOST_LINEAR_OF_STREAM) for truth in alone):
                continue
            truth = _regimes([settled[count][0].pick(cell) for count in nodes], rng)
            if all(_is_planted(regime, MOST_LINEAR_OF_STREAM) for regime in regimes_of(truth, len(nodes))):
                return truth
    raise DataError(
        f"no cell in {DRAWS} draws of {CELLS} for task.data_seed={seed} fulfils the bounds of a planted cell with "
        f"{', '.join(map(str, nodes))} nodes; choose another task.data_seed"
    )


def regimes_of(truth: Truth, count: int) -> list[Truth]:
    """Cut a stream into its regimes."""
    return [Truth(*parts) for parts in zip(*(np.array_split(one, count) for one in truth), strict=True)]


def _regimes(cells: Sequence[_Cells], rng: np.random.Generator) -> Truth:
    """Run one cell after the other; values and state are carried on."""
    noise = _noise(rng, ROWS + BURN_IN, 1)
    first, *others = np.array_split(noise[BURN_IN:], len(cells))
    past, parts = None, []
    for cell, own in zip(cells, [np.concatenate([noise[:BURN_IN], first]), *others], strict=True):
        values, means, _, state = _run_cells(cell, own, past)
        past = values[-1], state
        parts.append((values[:, 0], means[:, 0]))
    values, means = (np.concatenate(part)[BURN_IN:] for part in zip(*parts, strict=True))
    return Truth(values, means)


def _is_planted(truth: Truth, most_linear: float = MOST_LINEAR) -> bool:
    true_part = 1 - (truth.values - truth.mean).var() / truth.values.var()
    return bool(true_part > LEAST_TRUE and linear_r2(truth.values, CHECKED_LAGS) < most_linear)


def _draw_cells(rng: np.random.Generator, cells: int, nodes: int, units: int) -> _Cells:
    """Draw cells whose nodes have an additive and a Hadamard op. With gains below 2.5 cells are nearly linear."""

    def weight(rows: int) -> Array:
        drawn: Array = rng.normal(size=(cells, rows, units)) * 2.5 / np.sqrt(rows)
        return drawn

    def op(is_additive: bool) -> _Op:
        return _Op(is_additive, rng.integers(2, size=(cells, 1)) == 0, weight(SERIES), weight(units))

    chain = [[op(True), op(False)] for _ in range(nodes)]
    readout = rng.normal(size=(cells, units, SERIES))
    return _Cells(chain, readout, np.zeros((cells, SERIES)), np.full((cells, SERIES), 0.1))


def _settle(cells: _Cells, rng: np.random.Generator) -> tuple[_Cells, Array, Array]:
    """Scale the readouts so that the signal has the share `SIGNAL`; return cells, values and means of the last run."""
    noise = _noise(rng, SETTLING_ROWS + BURN_IN, len(cells.readout))
    for _ in range(6):  # feedback changes the readout's moments; they converge in a few rounds
        values, means, raw = (part[BURN_IN:] for part in _run_cells(cells, noise)[:3])
        cells = cells._replace(shift=raw.mean(0), scale=np.sqrt(SIGNAL) / np.maximum(raw.std(0), 1e-6))
    return cells, values, means


def _noise(rng: np.random.Generator, rows: int, cells: int) -> Array:
    drawn: Array = rng.normal(size=(rows, cells, SERIES)) * np.sqrt(1 - SIGNAL)
    return drawn


def _run_cells(
    cells: _Cells, noise: Array, past: tuple[Array, Array] | None = None
) -> tuple[Array, Array, Array, Array]:
    """Feed each cell its own values.

    Args:
        cells: the cells.
        noise: added to the means, `(n, cells, I)`.
        past: last values `(cells, I)` and last states `(cells, H)`; None: zeros.

    Returns:
        Values, means and raw readouts, `(n, cells, I)`, and the last states.
    """
    values, means, raw = np.zeros_like(noise), np.zeros_like(noise), np.zeros_like(noise)
    x, state = past or (np.zeros(noise.shape[1:]), np.zeros(cells.readout.shape[:2]))
    for t in range(len(noise)):
        for ops in cells.nodes:
            state = _on_grid(sum((_apply(op, x, state) for op in ops), np.zeros_like(state)) / len(ops))
        raw[t] = _times(state, cells.readout)
        means[t] = _on_grid((raw[t] - cells.shift) * cells.scale)
        x = values[t] = means[t] + noise[t]
    return values, means, raw, state


def _apply(op: _Op, x: Array, state: Array) -> Array:
    p, q = _times(x, op.W_x), _times(state, op.W_h)
    z = p + q if op.is_additive else p * q
    y = np.tanh(np.where(op.is_tanh, z, z / 2))
    activated: Array = np.where(op.is_tanh, y, (1 + y) / 2)  # sigmoid(z) = (1 + tanh(z / 2)) / 2
    return activated


def _on_grid(values: Array) -> Array:
    """Round to multiples of `GRID`: the cells are chaotic, so rounding differences between processors would grow."""
    rounded: Array = np.round(values / GRID) * GRID
    return rounded


def _times(vectors: Array, matrices: Array) -> Array:
    """Multiply each cell's vector by the cell's matrix."""
    product: Array = np.matmul(vectors[:, None], matrices)[:, 0]
    return product


def linear_r2(values: Array, lags: int) -> float:
    """Return the share of the variance that a VAR with `lags` lags explains in sample."""
    target = values[lags:]
    design = np.concatenate([np.ones((len(target), 1)), *(values[lags - i : -i] for i in range(1, lags + 1))], 1)
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return float(1 - residual.var() / target.var())


def _random_walk(seed: int) -> Array:
    """Return prices whose log returns are noise."""
    steps = np.random.default_rng([seed, 3]).normal(size=(ROWS, SERIES)) * 0.01
    prices: Array = 100 * np.exp(np.cumsum(steps, axis=0))
    return prices


PANELS: dict[str, Callable[[int], Truth]] = {
    "white_noise": white_noise,
    "nonlinear": nonlinear,
    "planted": planted,
    "stream": partial(stream, nodes=(1, 2, 3)),
    "stream_back": partial(stream, nodes=(1, 3, 1)),
}
NAMES = (*PANELS, "random_walk")


def table(name: str, seed: int, *, nodes: int = NODES, units: int = UNITS) -> Table:
    """Return a synthetic panel by name, as a table; `nodes` and `units` are the size of the `planted` cell."""
    if name == "random_walk":
        return _table(_random_walk(seed), f"random_walk, data_seed {seed}", checksum_of(name, seed), "prices")
    if name != "planted":
        return _table(PANELS[name](seed).values, f"{name}, data_seed {seed}", checksum_of(name, seed))
    shape = () if (nodes, units) == (NODES, UNITS) else (nodes, units)  # at the defaults keep the checksum of old runs
    what = f"planted, {nodes} node{'s' * (nodes > 1)} of {units} unit{'s' * (units > 1)}, data_seed {seed}"
    return _table(planted(seed, nodes, units).values, what, checksum_of(name, seed, *shape))


def _table(values: Array, what: str, origin: str, kind: Kind = "returns") -> Table:
    first = datetime.date(2000, 1, 3)
    dates: list[datetime.date] = [first + datetime.timedelta(days=day) for day in range(len(values))]
    names = [f"x{i + 1}" for i in range(values.shape[1])]
    return Table(dates, names, values, f"synthetic: {what}", kind, origin)
