"""A cell with bit widths, evaluated in integers with NumPy: the states of PyTorch on the CPU, to the last bit.

    q_x = round(clamp(x / d_x, -L_x, L_x))      whole numbers, as the quantiser makes them
    sum of q_x q_W                              64-bit integers: no rounding
    d_x d_W * sum                               one rounding, to float64; then to the cell's dtype

All else in a step (biases, combines, activations, shares, gates, the mean of states) acts on single numbers of the
cell's dtype: the same IEEE operations in the same order. Activations and the mean of a DAG's states call the functions
of PyTorch on arrays of the same layout, since other libraries round tanh in other ways. So two evaluations can only
differ in the sums. PyTorch does them in float64, whose whole numbers are exact up to 2^53, see `cells.quantiser`.

Networks of blocks compute all FIRs and polynomials in integers (`cells.quantised_blocks` has the formulas). PyTorch
delays samples, adds the outputs that a node reads, and forms the mean of nodes.
"""

from __future__ import annotations

import copy
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from grownas.cells.blocks import BlockOp, BlocksNetwork
from grownas.cells.cell import GrownRNN
from grownas.cells.chain import ChainLayer
from grownas.cells.dag import DagLayer
from grownas.cells.dag_sequence import INPUT_OP
from grownas.cells.derived import Derived
from grownas.cells.quantised_blocks import QuantisedFir, QuantisedPolynomial, as_matrix
from grownas.cells.quantiser import Grid, Product
from grownas.ops import ACTIVATION, COMBINE

Array = np.ndarray[Any, Any]
Step = Callable[[Array, Array], Array]  # x (B, I) and h (B, H) to the next h


class IntegerGrid(NamedTuple):
    """A grid: its step size and its largest whole number, in the dtype of the values."""

    step: Array
    limit: Array

    @classmethod
    @torch.no_grad()
    def of(cls, grid: Grid) -> list[IntegerGrid]:
        """Return the grids of one width each."""
        return [cls(*own) for own in zip(grid.step.cpu().numpy(), grid.limit.cpu().numpy(), strict=True)]

    def whole(self, values: Array) -> Array:
        """Return values in units of the step, int64."""
        return np.rint(np.clip(values / self.step, -self.limit, self.limit)).astype(np.int64)

    @property
    def unit(self) -> Array:
        """The step size, float64."""
        return self.step.astype(np.float64)


class IntegerProduct(NamedTuple):
    """A product of inputs and a matrix in whole numbers.

    Attributes:
        weight: the matrix, int64, `(I, H)`.
        inputs: the grid of the inputs.
        scale: the product of both step sizes, float64.
    """

    weight: Array
    inputs: IntegerGrid
    scale: Array

    @classmethod
    @torch.no_grad()
    def of(cls, product: Product, weights: torch.Tensor) -> list[IntegerProduct]:
        """Take the whole numbers of matrices `(U, I, H)` and the step sizes; return a product for each matrix."""
        whole = product.weights.whole()(weights).to(torch.int64).cpu().numpy()
        scales = product.scale.cpu().numpy()
        return [cls(*own) for own in zip(whole, IntegerGrid.of(product.inputs), scales, strict=True)]

    def __call__(self, x: Array) -> Array:
        """Multiply inputs `(B, I)` by the matrix; return their dtype."""
        return self.of_whole(self.inputs.whole(x), x.dtype)

    def of_whole(self, whole: Array, dtype: Any) -> Array:
        """Multiply inputs in units of their step, int64, by the matrix."""
        product: Array = (self.scale * (whole @ self.weight)).astype(dtype)
        return product


def run(cell: Derived, x: Array, h_0: Array | None = None) -> tuple[Array, Array]:
    """Run a cell over a sequence in integers.

    Args:
        cell: all its ops have bit widths; it has one direction.
        x: `(T, B, I)`, of the cell's dtype, without NaN; also if the cell has `batch_first`.
        h_0: `(L, B, H)`, of blocks `(D, B, 2)`; zeros if None.

    Returns:
        The outputs `(T, B, H)` and the last states in the shape of `h_0`, equal to `cell(x, h_0)` with T first.

    Raises:
        ValueError: the cell has no bit widths, or two directions; or x has NaN, which no integer stands for.
    """
    if not cell.genotype.bits or (isinstance(cell, GrownRNN) and cell.bidirectional):
        raise ValueError("only a cell with bit widths and one direction runs in integers; see `grownas.bits`")
    if np.isnan(x).any():
        raise ValueError("x has NaN, which no integer stands for")
    return _run_blocks(cell, x, h_0) if isinstance(cell, BlocksNetwork) else _run_layers(cell, x, h_0)


def _run_layers(cell: GrownRNN, x: Array, h_0: Array | None) -> tuple[Array, Array]:
    out, last = x, []
    for number in range(cell.num_layers):
        step = STEPS[type(cell.layer(number))](cell.layer(number))
        h = np.zeros((x.shape[1], cell.hidden_size), x.dtype) if h_0 is None else h_0[number]
        states = []
        for x_t in out:
            h = step(x_t, h)
            states.append(h)
        out = np.stack(states)
        last.append(h)
    return out, np.stack(last)


def _chain(layer: ChainLayer) -> Step:
    nodes = [_node(node) for node in layer.nodes()]

    def step(x: Array, h: Array) -> Array:
        for node in nodes:
            h = node(x, h)
        return h

    return step


def _node(node: Any) -> Step:
    """Return a node's function: `reference.step` in integers."""
    ops = []
    products = [
        IntegerProduct.of(product, torch.stack(weights))
        for product, weights in zip((node.quantised.x, node.quantised.h), node.matrices(), strict=True)
    ]
    for number, (op, place) in enumerate(zip(node.ops, node.projection, strict=True)):
        own = {name: one.detach().cpu().numpy() for name, one in node.op_parameters(number).items()}
        share = node.shares[number].cpu().numpy()
        ops.append((op, *(each[place] for each in products), own["b_x"], own.get("b_h"), share))

    def step(x: Array, s: Array) -> Array:
        mixed = np.zeros_like(s)
        for op, from_x, from_s, b_x, b_h, share in ops:
            p, q = from_x(x) + b_x, from_s(s)
            mixed = mixed + share * _apply(op.activation, COMBINE[op.combine].value(p, q if b_h is None else q + b_h))
        if node.highway:
            gate_x, gate_s = (each[-1] for each in products)
            mixed = s + _apply("sigmoid", gate_x(x) + gate_s(s)) * (mixed - s)
        return mixed

    return step


def _dag(layer: DagLayer) -> Step:
    units: Any = layer.quantised
    (from_x,) = IntegerProduct.of(units[0].x, layer.W_x.unsqueeze(0))
    products = [IntegerProduct.of(own.h, one.unsqueeze(0))[0] for own, one in zip(units, layer.W_h, strict=True)]
    nodes, concat = layer.genotype.nodes, layer.genotype.concat

    def step(x: Array, h: Array) -> Array:
        states = [_gated(INPUT_OP, h, from_x(x) + products[0](h))]
        for node, product in zip(nodes, products[1:], strict=True):
            s = states[node.reads]
            states.append(_gated(node.activation, s, product(s)))
        return _mean([states[number] for number in concat])

    return step


def _gated(activation: str, s: Array, projected: Array) -> Array:
    gate, z = np.split(projected, 2, axis=-1)
    gated: Array = s + _apply("sigmoid", gate) * (_apply(activation, z) - s)
    return gated


def _apply(activation: str, z: Array) -> Array:
    return np.asarray(ACTIVATION[activation].f(torch.from_numpy(z)))


def _mean(states: Sequence[Array]) -> Array:
    return np.asarray(torch.stack([torch.from_numpy(one) for one in states]).mean(0))


@torch.no_grad()
def _run_blocks(network: BlocksNetwork, x: Array, h_0: Array | None) -> tuple[Array, Array]:
    """Run a copy of a network whose FIRs and polynomials are functions in integers."""
    copied = copy.deepcopy(network)
    for op in copied.modules():
        if isinstance(op, BlockOp):
            for number, unit in op.quantised.items():
                op.quantised[number] = _InIntegers(PARTS[type(unit)](unit, op.complex(int(number))))
    out, last = copied(torch.from_numpy(x), None if h_0 is None else torch.from_numpy(h_0))
    return out.numpy(), last.numpy()


class _InIntegers(torch.nn.Module):
    """Stands in for a FIR or polynomial: a function of I and Q, `(T, B, 2)` each."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.view_as_complex(torch.from_numpy(self.function(torch.view_as_real(x).numpy())))


def _fir(unit: QuantisedFir, taps: torch.Tensor) -> Callable[[Array], Array]:
    (product,) = IntegerProduct.of(unit.product, as_matrix(taps))

    def fir(x: Array) -> Array:
        lags = sliding_window_view(product.inputs.whole(x), len(taps), 0)  # (T, B, 2, K)
        return product.of_whole(lags.reshape(*lags.shape[:2], -1), x.dtype)

    return fir


def _polynomial(unit: QuantisedPolynomial, coefficients: torch.Tensor) -> Callable[[Array], Array]:
    own: Any = unit.products
    products = [
        IntegerProduct.of(each, as_matrix(one))[0] for each, one in zip(own, torch.split(coefficients, 1), strict=True)
    ]
    first, *_ = grids = [product.inputs for product in products]

    def polynomial(x: Array) -> Array:
        powers = [first.whole(x)]
        if unit.radius is not None:
            (radius,) = IntegerGrid.of(unit.radius)
            squares = (powers[0] ** 2).sum(-1, keepdims=True)
            r = first.unit * np.sqrt(squares) if unit.root else first.unit * first.unit * squares
            whole_r = radius.whole(r.astype(x.dtype))
            for before, grid in itertools.pairwise(grids):
                t = before.unit * radius.unit * (powers[-1] * whole_r)
                powers.append(grid.whole(t.astype(x.dtype)))
        terms = [product.of_whole(t, x.dtype) for product, t in zip(products, powers, strict=True)]
        return functools.reduce(operator.add, terms)

    return polynomial


PARTS: dict[type, Callable[[Any, torch.Tensor], Callable[[Array], Array]]] = {
    QuantisedFir: _fir,
    QuantisedPolynomial: _polynomial,
}
STEPS: dict[type, Callable[[Any], Step]] = {ChainLayer: _chain, DagLayer: _dag}
