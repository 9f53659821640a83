"""ONNX graphs written by arithmetic: `x @ W + b` on values of a graph adds its nodes MatMul and Add.

The only module that imports `onnx`. Operators are those of opset 18, which every runtime since 2023 reads; of a cell
with bit widths those of opset 21, of 2024.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from grownas import __version__
from grownas.errors import GenotypeError
from grownas.ops import ACTIVATION

OPSET = 18
QUANTISED_OPSET = 21  # the first whose QuantizeLinear has int16
OPERATORS = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu"}  # activations that ONNX has; others by formula
FUNCTIONS = {name: name.capitalize() for name in ("abs", "cos", "exp", "log", "max", "sin", "tanh")}  # in formulas

Array = np.ndarray[Any, Any]
Size = int | str  # of an axis; a text names an axis of any size


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of a graph. Arithmetic with values and numbers adds nodes to the graph of the first value.

    Attributes:
        graph: the graph to which the next node is added.
        name: name of the tensor.
    """

    graph: Graph
    name: str

    def __add__(self, other: Operand) -> Value:
        return self.graph.add("Add", self, other)

    def __radd__(self, other: float) -> Value:
        return self.graph.add("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.add("Sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.graph.add("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.add("Mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.graph.add("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.add("Div", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.graph.add("Div", other, self)

    def __pow__(self, other: Operand) -> Value:
        return self.graph.add("Pow", self, other)

    def __neg__(self) -> Value:
        return self.graph.add("Neg", self)

    def __matmul__(self, other: Value) -> Value:
        return self.graph.add("MatMul", self, other)

    def split(self, count: int, axis: int = -1) -> list[Value]:
        """Cut an axis into equal parts."""
        if count == 1:
            return [self]
        return self.graph.add_all("Split", [self], count, axis=axis, num_outputs=count)

    def cast(self, dtype: Any) -> Value:
        """Convert the elements to a NumPy dtype."""
        return self.graph.add("Cast", self, to=_code(dtype))


Operand = Value | float


class Sizes(NamedTuple):
    """Sizes of a core: I and H."""

    inputs: int
    hidden: int


class Graph:
    """A graph under construction, or the body of one of its operators.

    A body sees the stored tensors of its outer graph. All names are unique across a graph and its bodies.

    Attributes:
        dtype: NumPy dtype of numbers in the arithmetic.
        opset: version of the operators.
    """

    def __init__(self, dtype: Any, outer: Graph | None = None, *, opset: int = OPSET) -> None:
        """Create an empty graph; with `outer` an empty body."""
        self.dtype, self.opset = np.dtype(dtype), opset
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._stored: dict[str, onnx.TensorProto] = outer._stored if outer else {}
        self._numbers: itertools.count[int] = outer._numbers if outer else itertools.count(1)

    def input(self, name: str, dtype: Any, shape: Sequence[Size]) -> Value:
        """Add an input."""
        self._inputs.append(helper.make_tensor_value_info(name, _code(dtype), shape))
        return Value(self, name)

    def output(self, name: str, value: Value, dtype: Any, shape: Sequence[Size]) -> None:
        """Add an output: a value under another name."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _code(dtype), shape))

    def tensor(self, name: str, values: Array) -> Value:
        """Return constant values, which the file stores once under this name."""
        self._stored.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(values), name))
        return Value(self, name)

    def ints(self, *values: int) -> Value:
        """Return a constant vector of whole numbers, such as a shape or axes."""
        return self.tensor(f"ints_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def add(self, operator: str, *inputs: Operand, **attributes: Any) -> Value:
        """Add a node with one output; numbers among its inputs become constants of the graph's dtype."""
        return self.add_all(operator, inputs, 1, **attributes)[0]

    def add_all(self, operator: str, inputs: Sequence[Operand], outputs: int, **attributes: Any) -> list[Value]:
        """Add a node with several outputs."""
        names = [f"{operator}_{next(self._numbers)}" for _ in range(outputs)]
        read = [one.name if isinstance(one, Value) else self._constant(one).name for one in inputs]
        self._nodes.append(helper.make_node(operator, read, names, names[0], **attributes))
        return [Value(self, name) for name in names]

    def _constant(self, number: float) -> Value:
        return self.tensor(f"number_{number!r}", np.array(number, self.dtype))

    def dequantised(self, name: str, whole: Array, step: Value, bits: int) -> Value:
        """Return constant whole numbers times a step size, stored as int8, or int16 above 8 bits."""
        return self.add("DequantizeLinear", self.tensor(name, whole.astype(_whole(bits))), step)

    def quantise(self, values: Value, step: Value, limit: Value, bits: int) -> Value:
        """Put values on a grid: whole numbers of at most `limit` / `step`, times the step size."""
        zero = self.tensor(f"zero_{_whole(bits).__name__}", np.zeros((), _whole(bits)))
        clipped = self.add("Clip", values, -limit, limit)
        return self.add("DequantizeLinear", self.add("QuantizeLinear", clipped, step, zero), step, zero)

    def activation(self, name: str, z: Value) -> Value:
        """Apply an activation of the table: ONNX's own operator if there is one, otherwise the activation's formula.

        Raises:
            GenotypeError: the formula cannot be written as ONNX.
        """
        if name in OPERATORS:
            return self.add(OPERATORS[name], z)
        formula = ACTIVATION[name].formula  # of the code that is installed, never of a user's file
        calls = {word: functools.partial(self.add, operator) for word, operator in FUNCTIONS.items()}
        try:
            y = eval(formula, {"__builtins__": {}, **calls}, {"z": z})
            if not isinstance(y, Value):
                raise TypeError("it does not depend on z")
        except Exception as error:  # another package's text may raise anything
            raise GenotypeError(
                f"activation {name!r}: its formula {formula!r} cannot be written as ONNX: {error}; a formula of z may "
                f"use numbers, + - * / ** and {', '.join(FUNCTIONS)}"
            ) from error
        return y

    def scan(
        self, step: Callable[[Graph, Value, list[Value]], list[Value]], x: Value, states: Sequence[Value], sizes: Sizes
    ) -> tuple[Value, list[Value]]:
        """Repeat a step along the first axis of x.

        Args:
            step: adds one time step to a graph: from an input `(B, I)` and states `(B, H)` to the next states.
            x: inputs, `(T, B, I)`.
            states: first states, each `(B, H)`.
            sizes: I and H.

        Returns:
            The last state of each step, `(T, B, H)`, and the states after the last step.
        """
        body, width = Graph(self.dtype, self), ("B", sizes.hidden)
        before = [body.input(f"h_{layer}", self.dtype, width) for layer in range(len(states))]
        after = step(body, body.input("x_t", self.dtype, ("B", sizes.inputs)), before)
        for layer, state in enumerate(after):
            body.output(f"h_{layer}_next", state, self.dtype, width)
        body.output("out_t", after[-1], self.dtype, width)
        *last, out = self.add_all("Scan", [*states, x], len(states) + 1, body=body._proto("step"), num_scan_inputs=1)
        return out, last

    def _proto(self, name: str, stored: Sequence[onnx.TensorProto] = ()) -> onnx.GraphProto:
        return helper.make_graph(self._nodes, name, self._inputs, self._outputs, stored)

    def model(self, name: str, notes: Mapping[str, str]) -> onnx.ModelProto:
        """Return the finished, checked model with notes in its metadata."""
        opset = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            self._proto(name, list(self._stored.values())),
            opset_imports=opset,
            ir_version=helper.find_min_ir_version_for(opset),
            producer_name="grownas",
            producer_version=__version__,
        )
        helper.set_model_props(model, dict(notes))
        onnx.checker.check_model(model, full_check=True)
        return model


def evaluate(model: onnx.ModelProto, *inputs: Array) -> list[Array]:
    """Return a model's outputs, by ONNX's own slow reference evaluator."""
    evaluator = ReferenceEvaluator(model)
    with np.errstate(over="ignore", invalid="ignore"):  # its sigmoid computes exp(-x), also for x far below 0
        return list(evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True))))


def in_words(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    """Return name, dtype and axes of inputs or outputs, such as `values float64 (T, B, 3)`."""
    lines = []
    for one in values:
        tensor = one.type.tensor_type
        axes = ", ".join(axis.dim_param or str(axis.dim_value) for axis in tensor.shape.dim)
        lines.append(f"{one.name} {helper.tensor_dtype_to_np_dtype(tensor.elem_type)} ({axes})")
    return lines


def _whole(bits: int) -> type[np.int8] | type[np.int16]:
    return np.int8 if bits <= 8 else np.int16


def _code(dtype: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
