"""Derived cells as ONNX, from genotype and weights; the arithmetic is that of `cells.reference`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from grownas.cells.cell import GrownRNN, Layer
from grownas.cells.chain import ChainLayer
from grownas.cells.dag import DagLayer
from grownas.cells.dag_sequence import INPUT_OP
from grownas.cells.node import FixedNode
from grownas.cells.quantiser import Grid, Product
from grownas.errors import ConfigError
from grownas.export.graph import Array, Graph, Sizes, Value
from grownas.ops import COMBINE


class Core(Protocol):
    """The core of a model in a graph. `sequence` has the axes T and B, `step` has B alone."""

    @property
    def state(self) -> tuple[int, int]:
        """Sizes of the state's axes before and after B."""
        ...

    def sequence(self, graph: Graph, x: Value, state: Value) -> tuple[Value, Value]:
        """Add the core over inputs `(T, B, I)`; return its outputs `(T, B, H)` and the state after them."""
        ...

    def step(self, graph: Graph, x: Value, state: Value) -> tuple[Value, Value]:
        """Add one time step: from `(B, I)` to `(B, H)` and the next state."""
        ...


class Named(NamedTuple):
    """A layer, and the beginning of the names of its weights in weights.safetensors, which the file keeps."""

    name: str
    layer: Layer


class Layers(NamedTuple):
    """All layers of the derived cells in a model as a `Core`. Its state is `(L, B, H)`; its output is the last layer's.

    Attributes:
        layers: the first reads x, each other the layer before it.
        sizes: I and H.
    """

    layers: Sequence[Named]
    sizes: Sizes

    @property
    def state(self) -> tuple[int, int]:
        """L and H."""
        return len(self.layers), self.sizes.hidden

    def sequence(self, graph: Graph, x: Value, state: Value) -> tuple[Value, Value]:
        """Add a Scan over the time steps."""
        out, last = graph.scan(self._step, x, self._apart(state), self.sizes)
        return out, _stacked(graph, last)

    def step(self, graph: Graph, x: Value, state: Value) -> tuple[Value, Value]:
        """Add one time step."""
        after = self._step(graph, x, self._apart(state))
        return after[-1], _stacked(graph, after)

    def _apart(self, state: Value) -> list[Value]:
        axis = state.graph.ints(0)
        return [state.graph.add("Squeeze", one, axis) for one in state.split(len(self.layers), axis=0)]

    def _step(self, graph: Graph, x: Value, states: Sequence[Value]) -> list[Value]:
        """Return the next state of each layer, `(B, H)`; the last is the output of the step."""
        after: list[Value] = []
        for (name, layer), s in zip(self.layers, states, strict=True):
            after.append(STEPS[type(layer)](graph, name, layer, after[-1] if after else x, s))
        return after


def _stacked(graph: Graph, states: Sequence[Value]) -> Value:
    return graph.add("Concat", *(graph.add("Unsqueeze", one, graph.ints(0)) for one in states), axis=0)


def layers_of(model: nn.Module, sizes: Sizes) -> Layers:
    """Return all layers of the derived cells in a model, in order.

    Raises:
        ConfigError: there is no derived cell, or a cell is bidirectional.
    """
    cells = [(name, one) for name, one in model.named_modules() if isinstance(one, GrownRNN)]
    if not cells:
        core = type(getattr(model, "core", model)).__name__
        raise ConfigError(f"{core}: it cannot be written as ONNX; derived cells and networks of blocks can")
    if any(cell.bidirectional for _, cell in cells):
        raise ConfigError("a bidirectional cell also reads sequences backwards; it cannot be written as ONNX")
    return Layers(
        [
            Named(f"{name}.layers.{number}", cell.layer(number))
            for name, cell in cells
            for number in range(cell.num_layers)
        ],
        sizes,
    )


def _quantised(graph: Graph, name: str, product: Product, weights: Tensor, x: Value) -> list[Value]:
    """Return x times each of the matrices `(U, I, H)`, all on their grids, by QuantizeLinear and DequantizeLinear."""
    whole, found = as_array(product.weights.whole()(weights)), []
    for unit, own in enumerate(whole):
        matrix = dequantised(graph, f"{name}.{unit}.weights", own, product.weights, unit)
        found.append(quantise(f"{name}.{unit}.inputs", x, product.inputs, unit) @ matrix)
    return found


def dequantised(graph: Graph, name: str, whole: Array, grid: Grid, unit: int = 0) -> Value:
    """Return constants in units of the step of a unit's grid, times the step."""
    step = graph.tensor(f"{name}.step", as_array(grid.step)[unit, 0])
    return graph.dequantised(name, whole, step, grid.bits[unit][0])


def quantise(name: str, values: Value, grid: Grid, unit: int = 0) -> Value:
    """Return values on the grid of a unit."""
    step = values.graph.tensor(f"{name}.step", as_array(grid.step)[unit, 0])
    limit = values.graph.tensor(f"{name}.largest", as_array(grid.step * grid.limit)[unit, 0])
    return values.graph.quantise(values, step, limit, grid.bits[unit][0])


def _chain(graph: Graph, name: str, layer: ChainLayer, x: Value, s: Value) -> Value:
    for number, node in enumerate(layer.nodes()):
        s = _node(graph, f"{name}.{number}", node, x, s)
    return s


def _node(graph: Graph, name: str, node: FixedNode, x: Value, s: Value) -> Value:
    """Return a node's output; one matrix product each of x and s serves all ops, unless each op has bit widths."""

    def weights(key: str) -> Value:
        return graph.tensor(f"{name}.{key}", as_array(getattr(node, key).flatten(1)))  # (I, P, H) as (I, P * H)

    def bias(key: str, row: int) -> Value:
        return graph.tensor(f"{name}.{key}.{row}", as_array(getattr(node, key)[row]))

    count = node.W_x.shape[1]
    if node.quantised is None:
        from_x, from_s = (x @ weights("W_x")).split(count), (s @ weights("W_h")).split(count)
    else:
        of_x, of_h = map(torch.stack, node.matrices())
        assert node.quantised.x is not None  # a chain's ops read x
        from_x = _quantised(graph, f"{name}.W_x", node.quantised.x, of_x, x)
        from_s = _quantised(graph, f"{name}.W_h", node.quantised.h, of_h, s)
    terms = []
    for number, (op, share) in enumerate(zip(node.ops, as_array(node.shares), strict=True)):
        p, q = from_x[node.projection[number]] + bias("b_x", number), from_s[node.projection[number]]
        z = COMBINE[op.combine].value(p, q + bias("b_h", node.bias[number]) if number in node.bias else q)
        terms.append(graph.activation(op.activation, z) * float(share))
    mixed = functools.reduce(operator.add, terms)
    if not node.highway:
        return mixed
    gate = from_x[-1] + from_s[-1] if node.quantised else x @ weights("gate_x") + s @ weights("gate_h")
    return s + graph.activation("sigmoid", gate) * (mixed - s)


def _dag(graph: Graph, name: str, layer: DagLayer, x: Value, h: Value) -> Value:
    def times(key: str, read: Value, weights: Tensor, product: Product | None) -> Value:
        if product is None:
            return read @ graph.tensor(f"{name}.{key}", as_array(weights))
        return _quantised(graph, f"{name}.{key}", product, weights.unsqueeze(0), read)[0]

    units: Any = layer.quantised or [None] * len(layer.W_h)
    products = [own and own.h for own in units]
    from_x = times("W_x", x, layer.W_x, units[0] and units[0].x)
    states = [_gated(graph, INPUT_OP, h, from_x + times("W_h.0", h, layer.W_h[0], products[0]))]
    for number, node in enumerate(layer.genotype.nodes, start=1):
        s = states[node.reads]
        projected = times(f"W_h.{number}", s, layer.W_h[number], products[number])
        states.append(_gated(graph, node.activation, s, projected))
    concat = layer.genotype.concat
    return functools.reduce(operator.add, [states[number] for number in concat]) / len(concat)


def _gated(graph: Graph, activation: str, s: Value, projected: Value) -> Value:
    gate, z = projected.split(2)
    return s + graph.activation("sigmoid", gate) * (graph.activation(activation, z) - s)


STEPS: dict[type, Callable[[Graph, str, Any, Value, Value], Value]] = {ChainLayer: _chain, DagLayer: _dag}


def as_array(tensor: Tensor) -> Array:
    """Return a tensor's values as a NumPy array."""
    return np.asarray(tensor.detach().cpu())
