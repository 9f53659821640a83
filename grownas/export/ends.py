"""What comes before and after the cell in an ONNX file; a task may provide its own, see `Exporting`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from grownas.export.graph import Graph, Value

Array = np.ndarray[Any, Any]


class Ends(NamedTuple):
    """What comes before and after the cell.

    Some models read earlier inputs too. Such a graph keeps them in a register: `encode` and `decode` then get each
    input followed by the `memory` inputs before it, newest first, as `(.., (memory + 1) * I)`.

    Attributes:
        given, result: names of the model's input and output.
        types: their NumPy dtypes.
        sizes: their axes after T and B.
        encode: adds the cell's input to a graph, from the model's input.
        decode: adds the model's output to a graph, from the cell's output and the model's input.
        sample: inputs of the graph for the check against PyTorch, `(T, B)` or `(T, B, I)`.
        read: converts such inputs to those of the PyTorch model.
        scaled: converts the PyTorch model's predictions to the units of the graph's output.
        unit: a prediction of 1 in these units, for each output.
        memory: number of earlier inputs that the model reads.
    """

    given: str
    result: str
    types: tuple[Any, Any]
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    encode: Callable[[Graph, Value], Value]
    decode: Callable[[Graph, Value, Value], Value]
    sample: Array
    read: Callable[[Array], Tensor]
    scaled: Callable[[Array], Array] = lambda values: values
    unit: Array | float = 1.0
    memory: int = 0


@runtime_checkable
class Exporting(Protocol):
    """A task whose models compute more than a linear readout of their core, and that can write the rest."""

    def ends(self, model: Any) -> Ends:
        """Return what comes before and after the cell of a model."""
        ...
