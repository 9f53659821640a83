"""A network of blocks as ONNX. Within the graph, complex samples have the axes `(B, 2, T)`: I and Q are two channels.

A FIR is a convolution, and a step is a sequence of one sample. ONNX Runtime convolves float32, not float64.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from grownas.cells.blocks import BlockOp, BlocksNetwork, run_cells
from grownas.cells.quantised_blocks import as_matrix
from grownas.export.cells import as_array, dequantised, quantise
from grownas.export.graph import Array, Graph, Value

CHANNELS, TIME = 1, 2  # axes
END = int(np.iinfo(np.int64).max)  # of a slice: the end of the axis


class Lines:
    """The delay lines in a graph, see `cells.blocks.DelayLines`.

    Attributes:
        before: the samples in all lines before the sequence, `(B, 2, D)`.
        after: for each line so far its samples after the sequence.
    """

    def __init__(self, before: Value) -> None:
        """Begin with the first line."""
        self.before, self.after = before, list[Value]()
        self._read = 0

    def extended(self, x: Value, count: int) -> Value:
        """Return the inputs of a part after the `count` samples of its line, and go on to the next line."""
        if not count:
            return x
        line = _cut(self.before, self._read, self._read + count)
        self._read += count
        seen = x.graph.add("Concat", line, x, axis=TIME)
        self.after.append(_cut(seen, -count, END))
        return seen


def _cut(samples: Value, begin: int, end: int) -> Value:
    ints = samples.graph.ints
    return samples.graph.add("Slice", samples, ints(begin), ints(end), ints(TIME))


class Blocks(NamedTuple):
    """A network of blocks as a core, see `cells.Core`; its state is `(D, B, 2)`, as in PyTorch.

    Attributes:
        name: beginning of the names of its weights.
        network: the network.
    """

    name: str
    network: BlocksNetwork

    @property
    def state(self) -> tuple[int, int]:
        """D and 2."""
        return self.network.kept, 2

    def sequence(self, graph: Graph, x: Value, state: Value) -> tuple[Value, Value]:
        """Add the network over a sequence."""
        y, last = self._run(graph, graph.add("Transpose", x, perm=[1, 2, 0]), state)
        return graph.add("Transpose", y, perm=[2, 0, 1]), last

    def step(self, graph: Graph, x: Value, state: Value) -> tuple[Value, Value]:
        """Add the network over one sample."""
        y, last = self._run(graph, graph.add("Unsqueeze", x, graph.ints(TIME)), state)
        return graph.add("Squeeze", y, graph.ints(TIME)), last

    def _run(self, graph: Graph, x: Value, state: Value) -> tuple[Value, Value]:
        names = {one: name for name, one in self.network.named_modules(prefix=self.name)}
        cells = [
            [[(source, partial(_op, names[op], op)) for source, op in reads] for reads in cell]
            for cell in self.network.wiring()
        ]
        lines = Lines(graph.add("Transpose", state, perm=[1, 2, 0]))
        y = run_cells(cells, x, lines)
        if lines.after:
            state = graph.add("Transpose", graph.add("Concat", *lines.after, axis=TIME), perm=[2, 0, 1])
        return y, state


def _op(name: str, op: BlockOp, x: Value, lines: Lines) -> Value:
    coefficients = {number: as_array(own) for number, own in op.coefficients.items()}
    for number, part in enumerate(op.block.parts):
        if part.coefficients and op.quantised:
            seen = lines.extended(x, part.size - 1) if part.kind == "fir" else x
            x = _quantised(f"{name}.quantised.{number}", op.quantised[str(number)], op.complex(number), seen)
        else:
            own = coefficients.get(str(number), np.zeros(0))
            x = WRITE[part.kind](x, f"{name}.coefficients.{number}", own, part.size, lines)
    return x


def _quantised(name: str, unit: Any, coefficients: Tensor, x: Value) -> Value:
    """Return the output of a FIR or polynomial on grids; each product with coefficients is a convolution."""
    graph, products = x.graph, unit.products
    matrices = [as_matrix(own) for own in torch.split(coefficients, len(coefficients) // len(products))]
    powers = [quantise(f"{name}.0.inputs", x, products[0].inputs)]
    if unit.radius is not None:
        radius = graph.add("ReduceL2" if unit.root else "ReduceSumSquare", powers[0], graph.ints(CHANNELS))
        r = quantise(f"{name}.radius", radius, unit.radius)
        for k, product in enumerate(products[1:], start=1):
            powers.append(quantise(f"{name}.{k}.inputs", powers[-1] * r, product.inputs))
    terms = []
    for k, (product, matrix, t) in enumerate(zip(products, matrices, powers, strict=True)):
        whole = as_array(product.weights.whole()(matrix)).reshape(2, -1, 2).transpose(2, 0, 1)  # (2, 2, taps)
        terms.append(graph.add("Conv", t, dequantised(graph, f"{name}.{k}.weights", whole, product.weights)))
    return functools.reduce(operator.add, terms)


def _delay(x: Value, size: int, lines: Lines) -> Value:
    return _cut(lines.extended(x, size), 0, -size) if size else x


def _fir(x: Value, name: str, taps: Array, lines: Lines) -> Value:
    """Convolve real channels: (a + b i) (I + Q i) = (a I - b Q) + (b I + a Q) i; the taps of a Conv run forwards."""
    a, b = taps[::-1].T
    weights = x.graph.tensor(name, np.array([[a, -b], [b, a]]))  # (2, 2, K)
    return x.graph.add("Conv", lines.extended(x, len(taps) - 1), weights)


def _polynomial(x: Value, name: str, coefficients: Array, radius: str) -> Value:
    """Return x times a polynomial in its radius; `radius` is the operator that computes it from I and Q."""
    graph = x.graph
    r = graph.add(radius, x, graph.ints(CHANNELS))
    *others, value = (graph.tensor(f"{name}.{k}", own[:, None]) for k, own in enumerate(coefficients))  # (2, 1)
    for coefficient in reversed(others):
        value = coefficient + r * value
    (i, q), (a, b) = x.split(2, axis=CHANNELS), value.split(2, axis=-2)
    return graph.add("Concat", i * a - q * b, i * b + q * a, axis=CHANNELS)


WRITE: dict[str, Callable[[Value, str, Array, int, Lines], Value]] = {  # all kinds of parts, in real numbers
    "delay": lambda x, _, own, size, lines: _delay(x, size, lines),
    "fir": lambda x, name, taps, size, lines: _fir(x, name, taps, lines),
    "polynomial": lambda x, name, own, size, lines: _polynomial(x, name, own, "ReduceSumSquare"),
    "polynomial_all": lambda x, name, own, size, lines: _polynomial(x, name, own, "ReduceL2"),
}
