"""`equations.txt`: the whole model as equations a person can read, and all its numbers in a format another program can.

The file explains itself; `tests/following.py` follows it with NumPy alone.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from grownas.cells.cell import GrownRNN
from grownas.genotype import Op
from grownas.ops import ACTIVATION, COMBINE

NUMBERS = "Numbers"  # title of the part for programs; what stands above it is for people

NOTATION = """\
Notation
  value_t   the {inputs} series on day t in their own units, a row vector
  x_t       the same, standardised: x_t = (value_t - mean) / sd
  h_t       the state after day t, {hidden} numbers; h_0 = 0 before the first day read
  s_j       the output of node j, {hidden} numbers; s_0 is the state before, h_(t-1)
  x W       a row vector times a matrix: (x W)[i] = sum over k of x[k] W[k, i]
  * /       act element by element, and so do functions
  [j,k]     of node j, op k, both counted from 1
  shares    are rounded here, and exact below

Days are read in the order of time, one step a day, all series of the day at
once. The forecast of day t+1 uses days up to t and nothing later. Scores of a
part of the data first read the days before it, as many as `task.context` in
config.yaml says, from h_0 = 0."""

FORECAST = """\
Forecast of day t+1
  y     = h_t W_out + b_out     standardised
  value = mean + sd * y         in the series' own units"""

FORMAT = """\
Below, each line that stands alone is `keyword value`. A block is a line `name rowsxcolumns` followed by that many
lines, each a row of the matrix with one blank between numbers; vectors have one row. Decimals are the shortest that
give the number back exactly in the stated dtype; mean and sd are float64. Layer, node and op are counted from 1.
`activation` lines define each function of z; `combine` lines define z from the node's two inputs x and s, with the
op's own blocks W_x, b_x, W_h and b_h. `op` lines give combine, activation and share. Series are a JSON list.
Everything runs from the line `begin` to the line `end`."""


def equations(cell: GrownRNN, readout: Any, names: Sequence[str], mean: Any, sd: Any) -> str:
    """Write a model down as equations and numbers.

    Args:
        cell: the derived cell.
        readout: linear layer from the cell's H units to the O series.
        names: of the series, in order.
        mean: of each series over the training part, shape `(O,)`, in the data's own units.
        sd: standard deviations, likewise.

    Returns:
        The text, ending with a newline.
    """
    nodes, units = len(cell.genotype.nodes), cell.hidden_size
    title = (
        f"A grown recurrent cell: {cell.input_size} series, {units} units, {nodes} node(s), {cell.num_layers} layer(s)"
    )
    blocks = [
        _underlined(title, "="),
        NOTATION.format(inputs=cell.input_size, hidden=cell.hidden_size),
        textwrap.fill("Series: " + ", ".join(json.dumps(name, ensure_ascii=False) for name in names), 78),
        _activations(cell),
        *(_layer(cell, layer) for layer in range(cell.num_layers)),
        FORECAST,
        _underlined(NUMBERS, "="),
        FORMAT,
        "\n".join(["begin", *_numbers(cell, readout, names, mean, sd), "end"]),
    ]
    return "\n\n".join(blocks) + "\n"


def for_people(text: str) -> str:
    """Return the part of `equations.txt` above the numbers."""
    return text.split(f"\n{_underlined(NUMBERS, '=')}\n", 1)[0].rstrip() + "\n"


def _underlined(title: str, mark: str) -> str:
    return f"{title}\n{mark * len(title)}"


def _used(cell: GrownRNN) -> list[str]:
    """Return the activations that the cell uses, in the table's order; a gate needs the sigmoid."""
    used = {op.activation for node in cell.genotype.nodes for op in node.ops}
    return [name for name in ACTIVATION if name in used or (cell.genotype.highway and name == "sigmoid")]


def _activations(cell: GrownRNN) -> str:
    return "\n".join(["Functions", *(f"  {name}(z) = {ACTIVATION[name].formula}" for name in _used(cell))])


def _layer(cell: GrownRNN, layer: int) -> str:
    """Write a layer's nodes."""
    several = cell.num_layers > 1
    x = "x_t" if layer == 0 else "u_t"
    lines = [f"Cell of layer {layer + 1}" if several else "Cell"]
    if layer:
        lines.append(f"  u_t = h_t of layer {layer}")
    for number, node in enumerate(cell.genotype.nodes, start=1):
        before, target = f"s_{number - 1}", f"{'m' if cell.genotype.highway else 's'}_{number}"
        for place, op in enumerate(node.ops, start=1):
            lead = f"  {target} = " if place == 1 else " " * (len(target) + 3) + "+ "
            lines.append(f"{lead}{op.share:.4f} {_term(op, x, before, f'[{number},{place}]')}")
        if cell.genotype.highway:
            lines.append(f"  c_{number} = sigmoid({x} gate_x[{number}] + {before} gate_h[{number}])")
            lines.append(f"  s_{number} = {before} + c_{number} * (m_{number} - {before})")
    return "\n".join([*lines, f"  h_t = s_{len(cell.genotype.nodes)}"])


def _term(op: Op, x: str, s: str, label: str) -> str:
    """Write one op with its inputs and the labels of its parameters."""
    formula = re.sub(r"\b([Wb]_[xh])\b", rf"\1{label}", COMBINE[op.combine])
    formula = re.sub(r"\bs\b", s, re.sub(r"\bx\b", x, formula))
    return f"{op.activation}({formula})"


def _numbers(cell: GrownRNN, readout: Any, names: Sequence[str], mean: Any, sd: Any) -> Iterator[str]:
    """Yield the lines for programs."""
    weight = readout.weight.detach().cpu().numpy()
    yield f"dtype {weight.dtype.name}"
    yield f"layers {cell.num_layers}"
    yield f"nodes {len(cell.genotype.nodes)}"
    yield f"inputs {cell.input_size}"
    yield f"hidden {cell.hidden_size}"
    yield f"outputs {len(weight)}"
    yield f"highway {'yes' if cell.genotype.highway else 'no'}"
    yield f"series {json.dumps(list(names))}"
    yield from (f"activation {name} = {ACTIVATION[name].formula}" for name in _used(cell))
    yield from (f"combine {name} = {formula}" for name, formula in COMBINE.items())
    yield from _block("mean", np.asarray(mean, dtype=np.float64))
    yield from _block("sd", np.asarray(sd, dtype=np.float64))
    for layer in range(cell.num_layers):
        for node in range(len(cell.genotype.nodes)):
            yield from _node_numbers(cell, layer, node)
    yield from _block("W_out", weight.T)
    yield from _block("b_out", readout.bias.detach().cpu().numpy())


def _node_numbers(cell: GrownRNN, layer: int, node: int) -> Iterator[str]:
    place = f"layer={layer + 1},node={node + 1}"
    for number, op in enumerate(cell.genotype.nodes[node].ops):
        parameters = {
            name: value.detach().cpu().numpy() for name, value in cell.op_parameters(layer, node, number).items()
        }
        share = parameters["W_x"].dtype.type(op.share)  # as the model rounds it
        yield f"op[{place},op={number + 1}] {op.combine} {op.activation} {share!s}"
        for name, value in parameters.items():
            yield from _block(f"{name}[{place},op={number + 1}]", value)
    if cell.genotype.highway:
        module: Any = cell.layers[layer][node]  # type: ignore[index]
        for name in ("gate_x", "gate_h"):
            yield from _block(f"{name}[{place}]", getattr(module, name).detach().cpu().numpy())


def _block(name: str, values: np.ndarray) -> Iterator[str]:
    """Yield a matrix, or a vector as one row; `str` of a NumPy float gives the number back exactly."""
    rows = np.atleast_2d(values)
    yield f"{name} {rows.shape[0]}x{rows.shape[1]}"
    for row in rows:
        yield " ".join(map(str, row))
