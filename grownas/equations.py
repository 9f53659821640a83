"""Writes `equations.txt`: the whole model as equations for people, and all its numbers for programs.

The file documents its own format; `tests/support/following.py` evaluates it with NumPy only.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from grownas.cells.cell import GrownRNN
from grownas.cells.dag_sequence import INPUT_OP
from grownas.genotype import AnyGenotype, DagGenotype, Genotype, Op
from grownas.genotype_bits import Bits
from grownas.ops import ACTIVATION, COMBINE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from grownas.cells.chain import ChainLayer
    from grownas.cells.dag import DagLayer

NUMBERS = "Numbers"  # title of the part for programs; the part above it is for people

CELL_NOTATION = """\
  h_t       the state after {step} t, {hidden} numbers; h_0 = 0 before the first {step} read
{states}
  x W       a row vector times a matrix: (x W)[i] = sum over k of x[k] W[k, i]
  * /       act element by element, and so do functions
{labels}"""

NOTATION = """\
Notation
  value_t   the {inputs} series on day t in their own units, a row vector
  x_t       the same, standardised: x_t = (value_t - mean) / sd
{cell}

Days are read in the order of time, one step a day, all series of the day at
once. The forecast of day t+1 uses days up to t and nothing later. Scores of a
part of the data first read the days before it, as many as `task.context` in
config.yaml says, from h_0 = 0."""

FORECAST = """\
Forecast of day t+1
  y     = h_t W_out + b_out     standardised
  value = mean + sd * y         in the series' own units"""

FORMAT = """\
Below, a line outside a block is `keyword value`. A block is a line `name rowsxcolumns` followed by that many
lines, each a row of the matrix with one blank between numbers; vectors have one row. Decimals are the shortest that
read back exactly in the stated dtype. {lines}
The numbers begin after the line `begin` and stop at the line `end`."""

CHAIN_LINES = """\
Layer, node and op are counted from 1.
`activation` lines define each function of z; `combine` lines define z from the node's two inputs x and s, with the
op's own blocks W_x, b_x, W_h and b_h. `op` lines give combine, activation and share."""

DAG_LINES = """\
Layers are counted from 1, nodes from 0; `nodes` does not count node 0.
`activation` lines define each function of z. `node` lines give a node's source and its activation f. The source of
node 0 is `input`: x is the layer's input of the step, and s is the layer's output of the step before; with the node's
blocks c = sigmoid(x gate_x + s gate_h) and y = f(x W_x + s W_h). Any other node reads the output s of its source node:
c = sigmoid(s gate_h), y = f(s W_h). A node's output is s + c * (y - s), and the layer's output is the mean of the
outputs of the nodes that `mean_of` lists."""

SERIES_LINES = "\nSeries are a JSON list; mean and sd are float64."


QUANTISED = """\
  Qb(v)     v on its grid of b bits: d q, where q = v / d, rounded (halves to even)
            and cut to -L .. L, L = 2^(b-1) - 1; d is the step size of v. Sums of
            products q q' are exact."""

QUANTISED_LINES = """
`bits` lines give the widths of the weights and of the inputs of an op, a gate or a node. The block `step` of the same
place gives the step sizes of W_x, x, W_h and s, where x is read, else of W_h and s. A chain's gates have grids of their
own: gate_x and gate_h stand for W_x and W_h; in a DAG gate_x has the grid of W_x, and gate_h that of W_h."""


class Form(NamedTuple):
    """How cells of one backbone are written.

    Attributes:
        states, labels: lines of the notation.
        lines: explanation of the lines for programs.
        activations: returns the activations that a genotype uses.
        layer: yields the equations of a layer, from a genotype and the name of the layer's x.
        head: yields the lines for programs about a genotype.
        tables: yields further definitions for programs.
        numbers: yields the lines for programs about a layer, counted from 0.
        parts: yields labels and live views of all parameters of a one-layer cell.
    """

    states: str
    labels: str
    lines: str
    activations: Callable[[Any], set[str]]
    layer: Callable[[Any, str], Iterator[str]]
    head: Callable[[Any], Iterator[str]]
    tables: Callable[[], Iterator[str]]
    numbers: Callable[[GrownRNN, int], Iterator[str]]
    parts: Callable[[GrownRNN], Iterator[tuple[str, Mapping[str, Tensor]]]]


class CoreText(NamedTuple):
    """How the core of a model is written: it maps x_t to h_t.

    Attributes:
        title: what it is, with its sizes.
        notation: lines of the notation.
        equations: paragraphs of equations.
        lines: explanation of the lines for programs.
        numbers: the lines for programs.
    """

    title: str
    notation: str
    equations: Sequence[str]
    lines: str
    numbers: Iterable[str]


def cell_text(cell: GrownRNN, step: str, inputs: str = "inputs", *, layers: int | None = None) -> CoreText:
    """Return how a cell is written.

    Args:
        cell: the derived cell.
        step: what a time step is, such as `day`.
        inputs: what the cell reads, in the plural.
        layers: number of stacked cells of this genotype; None: the layers of the cell.

    Raises:
        ValueError: the cell is bidirectional: its states depend on the future.
    """
    if cell.bidirectional:
        raise ValueError("a bidirectional cell reads the future; only a forward cell has these equations")
    genotype, layers = cell.genotype, layers or cell.num_layers
    sizes = f"{cell.hidden_size} units, {len(genotype.nodes)} node(s), {layers} layer(s)"
    return CoreText(
        f"a grown recurrent cell: {cell.input_size} {inputs}, {sizes}",
        _cell_notation(cell, step),
        [_activations(cell), *_layers(genotype, layers)],
        FORMS[type(genotype)].lines + (QUANTISED_LINES if genotype.bits else ""),
        _cell_numbers(cell),
    )


def equations(cell: GrownRNN, readout: nn.Linear, names: Sequence[str], mean: Any, sd: Any) -> str:
    """Return a series model as equations and numbers.

    Args:
        cell: the derived cell.
        readout: linear layer from the cell's H units to the O series.
        names: names of the I series that the cell reads, in order; the first O are forecast.
        mean: mean of each of them over the training part, shape `(I,)`, in the data's own units.
        sd: standard deviations, same shape and units.

    Returns:
        The text, ending with a newline.

    Raises:
        ValueError: the cell is bidirectional: its states depend on the future, so it cannot forecast.
    """
    core = cell_text(cell, "day", "series")
    blocks = [
        underlined(capitalised(core.title), "="),
        NOTATION.format(inputs=cell.input_size, cell=core.notation),
        *_named(names, readout.out_features),
        *core.equations,
        FORECAST,
        *for_programs(core.lines + SERIES_LINES, [*_numbers(readout, names, mean, sd), *core.numbers]),
    ]
    return "\n\n".join(blocks) + "\n"


def for_programs(lines: str, numbers: Iterable[str]) -> list[str]:
    """Return the paragraphs of the part for programs.

    Args:
        lines: explanation of its lines.
        numbers: its lines.
    """
    return [underlined(NUMBERS, "="), FORMAT.format(lines=lines), "\n".join(["begin", *numbers, "end"])]


def capitalised(title: str) -> str:
    """Return a title with a capital letter first."""
    return title[0].upper() + title[1:]


def _named(names: Sequence[str], outputs: int) -> Iterator[str]:
    """Yield the names of the series, and which of them are inputs only."""
    quoted = [json.dumps(name, ensure_ascii=False) for name in names]
    yield textwrap.fill(f"Series: {', '.join(quoted)}", 78)
    if inputs := quoted[outputs:]:
        words = f"Inputs only, so that y, value, mean and sd of the forecast have the first {outputs}"
        yield textwrap.fill(f"{words}: {', '.join(inputs)}", 78)


def _cell_notation(cell: GrownRNN, step: str) -> str:
    form, units = FORMS[type(cell.genotype)], cell.hidden_size
    labels = "\n".join([form.labels, QUANTISED] if cell.genotype.bits else [form.labels])
    return CELL_NOTATION.format(step=step, hidden=units, states=form.states.format(hidden=units), labels=labels)


def for_people(text: str) -> str:
    """Return the part of `equations.txt` above the numbers."""
    return text.split(f"\n{underlined(NUMBERS, '=')}\n", 1)[0].rstrip() + "\n"


def underlined(title: str, mark: str) -> str:
    """Return a title with a line of marks below it."""
    return f"{title}\n{mark * len(title)}"


def _used(genotype: AnyGenotype) -> list[str]:
    """Return the activations that a cell uses, in the table's order."""
    used = FORMS[type(genotype)].activations(genotype)
    return [name for name in ACTIVATION if name in used]


def _activations(cell: GrownRNN) -> str:
    return "\n".join(["Functions", *(f"  {name}(z) = {ACTIVATION[name].formula}" for name in _used(cell.genotype))])


def _layers(genotype: AnyGenotype, count: int) -> Iterator[str]:
    """Yield the nodes of each layer as text."""
    for layer in range(count):
        lines = [f"Cell of layer {layer + 1}" if count > 1 else "Cell"]
        if layer:
            lines.append(f"  u_t = h_t of layer {layer}")
        nodes = FORMS[type(genotype)].layer(genotype, "u_t" if layer else "x_t")
        yield "\n".join([*lines, *(f"  {line}" for line in nodes)])


def _chain_activations(genotype: Genotype) -> set[str]:
    gate = {"sigmoid"} if genotype.highway else set()
    return gate | {op.activation for node in genotype.nodes for op in node.ops}


def _chain_layer(genotype: Genotype, x: str) -> Iterator[str]:
    for number, node in enumerate(genotype.nodes, start=1):
        before, target = f"s_{number - 1}", f"{'m' if genotype.highway else 's'}_{number}"
        for place, op in enumerate(node.ops, start=1):
            lead = f"{target} = " if place == 1 else " " * (len(target) + 1) + "+ "
            yield f"{lead}{op.share:.4f} {_term(op, x, before, f'[{number},{place}]')}"
        if genotype.highway:
            gate = _quantised(f"{x} gate_x[{number}] + {before} gate_h[{number}]", node.gate_bits)
            yield f"c_{number} = sigmoid({gate})"
            yield f"s_{number} = {before} + c_{number} * (m_{number} - {before})"
    yield f"h_t = s_{len(genotype.nodes)}"


def _term(op: Op, x: str, s: str, label: str) -> str:
    """Return the formula of an op with its inputs and the labels of its parameters."""
    formula = _quantised(re.sub(r"\b([Wb]_[xh])\b", rf"\1{label}", COMBINE[op.combine].formula), op.bits)
    formula = re.sub(r"\bs\b", s, re.sub(r"\bx\b", x, formula))
    return f"{op.activation}({formula})"


def _quantised(formula: str, bits: Bits | None) -> str:
    """Return a formula with the factors of each product of a vector and a matrix on the grids of the widths."""
    if bits is None:
        return formula
    return re.sub(r"(\w+(?:\(t-1\))?) ((?:W|gate)_[xh]\[[\d,]+\])", rf"Q{bits[1]}(\1) Q{bits[0]}(\2)", formula)


def _numbers(readout: nn.Linear, names: Sequence[str], mean: Any, sd: Any) -> Iterator[str]:
    """Yield the lines for programs about what surrounds the cell of a series model."""
    yield from readout_numbers(readout)
    yield f"series {json.dumps(list(names))}"
    yield from matrix("mean", np.asarray(mean, dtype=np.float64))
    yield from matrix("sd", np.asarray(sd, dtype=np.float64))


def readout_numbers(readout: nn.Linear) -> Iterator[str]:
    """Yield the lines for programs about a linear readout: its dtype, the number of outputs, W_out and b_out."""
    arrays = as_arrays({"W_out": readout.weight.t(), "b_out": readout.bias})
    yield f"dtype {arrays['W_out'].dtype.name}"
    yield f"outputs {readout.out_features}"
    for name, values in arrays.items():
        yield from matrix(name, values)


def _cell_numbers(cell: GrownRNN) -> Iterator[str]:
    """Yield the lines for programs about a cell."""
    form = FORMS[type(cell.genotype)]
    yield f"layers {cell.num_layers}"
    yield f"nodes {len(cell.genotype.nodes)}"
    yield f"inputs {cell.input_size}"
    yield f"hidden {cell.hidden_size}"
    yield from form.head(cell.genotype)
    yield from (f"activation {name} = {ACTIVATION[name].formula}" for name in _used(cell.genotype))
    yield from form.tables()
    for layer in range(cell.num_layers):
        yield from form.numbers(cell, layer)


def _chain_head(genotype: Genotype) -> Iterator[str]:
    yield f"highway {'yes' if genotype.highway else 'no'}"


def _chain_tables() -> Iterator[str]:
    yield from (f"combine {name} = {combine.formula}" for name, combine in COMBINE.items())


def _chain_numbers(cell: GrownRNN, layer: int) -> Iterator[str]:
    nodes = cast("ChainLayer", cell.layer(layer)).nodes()
    for number, node in enumerate(nodes, start=1):
        place = f"layer={layer + 1},node={number}"
        for i, op in enumerate(node.ops):
            parameters = as_arrays(cell.op_parameters(layer, number - 1, i))
            share = parameters["W_x"].dtype.type(op.share)  # as the model rounds it
            yield f"op[{place},op={i + 1}] {op.combine} {op.activation} {share!s}"
            for name, value in parameters.items():
                yield from matrix(f"{name}[{place},op={i + 1}]", value)
            if op.bits is not None:
                yield from _grids(f"[{place},op={i + 1}]", op.bits, _log_steps(node.quantised, node.projection[i]))
        if node.highway:
            for name, value in as_arrays({"gate_x": node.gate_x, "gate_h": node.gate_h}).items():
                yield from matrix(f"{name}[{place}]", value)
            gate_bits = cast("Genotype", cell.genotype).nodes[number - 1].gate_bits
            if gate_bits is not None:
                yield from _grids(f"[{place}]", gate_bits, _log_steps(node.quantised, -1))


def _log_steps(units: Any, unit: int) -> dict[str, Tensor]:
    """Return live views of the logarithms of the step sizes of a unit by name; none if it has no bit widths."""
    if units is None:
        return {}
    return {
        f"log2_step_of_{name}": grid.log_step[unit, 0]
        for key, product in units.products().items()
        for name, grid in ((f"W_{key}", product.weights), ("x" if key == "x" else "s", product.inputs))
    }


def _grids(place: str, bits: Bits, log_steps: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the lines about the grids of an op or node."""
    yield f"bits{place} {bits[0]} {bits[1]}"
    steps = [one.detach().exp2().cpu().numpy() for one in log_steps.values()]  # as the model rounds them
    yield from matrix(f"step{place}", np.stack(steps))


def _chain_parts(cell: GrownRNN) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    for number, node in enumerate(cast("ChainLayer", cell.layer(0)).nodes()):
        for op in range(len(node.ops)):
            yield (
                f"{number + 1},{op + 1}",
                cell.op_parameters(0, number, op) | _log_steps(node.quantised, node.projection[op]),
            )
        if node.highway:
            steps = _log_steps(node.quantised, -1)
            yield f"{number + 1}", {"gate_x": node.gate_x, "gate_h": node.gate_h} | steps


def _dag_parts(cell: GrownRNN) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    units: Any = cast("DagLayer", cell.layer(0)).quantised or [None] * (len(cell.genotype.nodes) + 1)
    for number, own in enumerate(units):
        yield str(number), cell.op_parameters(0, number, 0) | _log_steps(own, 0)


def _dag_activations(genotype: DagGenotype) -> set[str]:
    return {INPUT_OP, "sigmoid", *(node.activation for node in genotype.nodes)}


def _dag_layer(genotype: DagGenotype, x: str) -> Iterator[str]:
    before = "h_(t-1)"
    gate, z = (_quantised(f"{x} {w}_x[0] + {before} {w}_h[0]", genotype.input_bits) for w in ("gate", "W"))
    yield f"c_0 = sigmoid({gate})"
    yield f"s_0 = {before} + c_0 * ({INPUT_OP}({z}) - {before})"
    for i, node in enumerate(genotype.nodes, start=1):
        s = f"s_{node.reads}"
        gate, z = (_quantised(f"{s} {w}_h[{i}]", node.bits) for w in ("gate", "W"))
        yield f"c_{i} = sigmoid({gate})"
        yield f"s_{i} = {s} + c_{i} * ({node.activation}({z}) - {s})"
    yield f"h_t = ({' + '.join(f's_{i}' for i in genotype.concat)}) / {len(genotype.concat)}"


def _dag_head(genotype: DagGenotype) -> Iterator[str]:
    yield "backbone dag"
    yield f"mean_of {' '.join(map(str, genotype.concat))}"


def _dag_numbers(cell: GrownRNN, layer: int) -> Iterator[str]:
    genotype = cast("DagGenotype", cell.genotype)
    rows = [("input", INPUT_OP), *((str(node.reads), node.activation) for node in genotype.nodes)]
    for i, (reads, activation) in enumerate(rows):
        place = f"[layer={layer + 1},node={i}]"
        yield f"node{place} {reads} {activation}"
        for name, value in as_arrays(cell.op_parameters(layer, i, 0)).items():
            yield from matrix(f"{name}{place}", value)
        if genotype.bits:
            units: Any = cast("DagLayer", cell.layer(layer)).quantised
            yield from _grids(place, genotype.bits[i], _log_steps(units[i], 0))


FORMS: dict[type[AnyGenotype], Form] = {
    Genotype: Form(
        "  s_j       the output of node j, {hidden} numbers; s_0 is the state before, h_(t-1)",
        "  [j,k]     of node j, op k, both counted from 1\n  shares    are rounded here, and exact below",
        CHAIN_LINES,
        _chain_activations,
        _chain_layer,
        _chain_head,
        _chain_tables,
        _chain_numbers,
        _chain_parts,
    ),
    DagGenotype: Form(
        "  s_j       the output of node j, {hidden} numbers; node 0 reads the input and the state before",
        "  [j]       of node j, counted from 0",
        DAG_LINES,
        _dag_activations,
        _dag_layer,
        _dag_head,
        lambda: iter(()),
        _dag_numbers,
        _dag_parts,
    ),
}


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return tensors as NumPy arrays."""
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}


def matrix(name: str, values: np.ndarray) -> Iterator[str]:
    """Yield a matrix, or a vector as one row. `str` of a NumPy float is exact: it reads back as the same number."""
    rows = np.atleast_2d(values)
    yield f"{name} {rows.shape[0]}x{rows.shape[1]}"
    for row in rows:
        yield " ".join(map(str, row))
