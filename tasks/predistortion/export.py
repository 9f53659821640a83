"""The model of a signal around its cell as ONNX: features of samples in their own units, readout, polynomial."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from grownas.export.ends import Ends
from grownas.tasks.predistortion.model import SignalModel, delayed
from grownas.tasks.predistortion.options import MEMORY
from grownas.tasks.predistortion.polynomial_path import PolynomialPath

if TYPE_CHECKING:
    from grownas.export.graph import Graph, Value

STREAMS = 2  # of the check against PyTorch, whose steps fill the register and some more
Array = np.ndarray[Any, Any]


class Pair(NamedTuple):
    """Complex values of a graph: real and imaginary parts."""

    i: Value
    q: Value

    @property
    def size(self) -> Value:
        """Their magnitudes."""
        return self.i.graph.add("Sqrt", self.i * self.i + self.q * self.q)

    def times(self, other: Pair) -> Pair:
        """Return the complex products."""
        return Pair(self.i * other.i - self.q * other.q, self.i * other.q + self.q * other.i)


FEATURES: dict[str, Callable[[Pair, Value], Value]] = {  # of samples and their magnitudes, see `model.FEATURES`
    "i": lambda one, size: one.i,
    "q": lambda one, size: one.q,
    "abs": lambda one, size: size,
    "abs3": lambda one, size: size * size * size,
    "cos": lambda one, size: _over(one.i, size, 0.0),
    "sin": lambda one, size: _over(one.q, size, 0.0),
}


def ends_of(model: SignalModel, units: tuple[float, float], signal: Array) -> Ends:
    """Return what comes before and after the cell of a model.

    The graph reads `samples`, I and Q of the input, and gives `output`, both in the signals' own units and in float64.

    Args:
        model: a model of scaled signals.
        units: what a scaled 1 is at its input and at its output.
        signal: an input in its own units, complex, shape `(n,)`, for the check against PyTorch. It must be like those
            of the training part, because a fitted polynomial may be arbitrary outside of their band.
    """
    around, unit_out = _Around(model, *units), units[1]
    return Ends(
        given="samples",
        result="output",
        types=(np.float64, np.float64),
        sizes=((2,), (2,)),
        encode=around.encode,
        decode=around.decode,
        sample=_loudest(signal, model.memory + 3),
        read=around.read,
        scaled=lambda found: found * np.float64(unit_out),
        unit=unit_out,
        memory=model.memory,
    )


def _loudest(signal: Array, steps: int) -> Array:
    """Return pieces of a complex signal from its largest magnitude on, `(steps, STREAMS, 2)`."""
    first = min(int(np.abs(signal).argmax()), len(signal) - STREAMS * steps)
    pieces = signal[first:][: STREAMS * steps].reshape(STREAMS, steps).T
    return np.stack([pieces.real, pieces.imag], axis=-1)


class _Around(NamedTuple):
    """The parts of a model around its cell.

    Attributes:
        model: a model of scaled signals.
        unit_in, unit_out: what a scaled 1 is at its input and at its output.
    """

    model: SignalModel
    unit_in: float
    unit_out: float

    def read(self, samples: Array) -> Tensor:
        """Return the input of the PyTorch model for samples after silence, `(T, B, 2)` in their own units."""
        silence = np.zeros((MEMORY, *samples.shape[1:]))
        scaled = torch.from_numpy(np.concatenate([silence, samples / self.unit_in]))
        return delayed(scaled.to(self.model.readout.weight), MEMORY)

    def encode(self, graph: Graph, samples: Value) -> Value:
        """Add the features that the cell reads."""
        x = _scaled(graph, samples, self.unit_in)
        seen = _samples(graph, x, range(self.model.taps + 1))
        if self.model.is_relative:
            phase = _phase(graph, x)
            seen = seen.times(phase._replace(q=-phase.q))
        size = seen.size
        return graph.add("Concat", *(FEATURES[name](seen, size) for name in self.model.features), axis=-1)

    def decode(self, graph: Graph, out: Value, samples: Value) -> Value:
        """Add the readout and the polynomial."""
        model, x = self.model, _scaled(graph, samples, self.unit_in)
        weight, bias = (model.scale * one for one in (model.readout.weight.T, model.readout.bias))
        found = out @ _stored(graph, "readout.weight", weight) + _stored(graph, "readout.bias", bias)
        if model.is_relative:
            found = graph.add("Concat", *Pair(*found.split(2)).times(_phase(graph, x)), axis=-1)
        if model.polynomial is not None:
            found = _polynomial(graph, model.polynomial, x) + found
        return found.cast(np.float64) * graph.tensor("unit_out", np.array(self.unit_out))


def _scaled(graph: Graph, samples: Value, unit: float) -> Value:
    """Return samples in the model's units and dtype; the division is in float64, as in the task."""
    return (samples / graph.tensor("unit_in", np.array(unit))).cast(graph.dtype)


def _samples(graph: Graph, x: Value, delays: Sequence[int]) -> Pair:
    """Return the samples with these delays, each part `(.., K)`; x has pairs, newest first, see `model.delayed`."""
    places = [np.asarray(delays, np.int64) * 2 + part for part in (0, 1)]
    named = (graph.tensor(f"places_{'_'.join(map(str, one))}", one) for one in places)
    return Pair(*(graph.add("Gather", x, one, axis=-1) for one in named))


def _over(part: Value, size: Value, silent: float) -> Value:
    """Return I or Q over the magnitude; `silent` where the magnitude is 0."""
    where = functools.partial(part.graph.add, "Where", part.graph.add("Greater", size, 0.0))
    return where(part / where(size, 1.0), silent)


def _phase(graph: Graph, x: Value) -> Pair:
    """Return the phase of the present sample as a unit number, see `model.phase_of`."""
    present = _samples(graph, x, [0])
    size = present.size
    return Pair(_over(present.i, size, 1.0), _over(present.q, size, 0.0))


def _polynomial(graph: Graph, path: PolynomialPath, x: Value) -> Value:
    """Return the sum of the terms, see `polynomial_path`: real and imaginary part, `(.., 2)`."""
    delays, envelopes, powers = path.terms.numpy().T
    a, b = path.coefficients.unbind(-1)  # (a + b i) (I + Q i) = (a I - b Q) + (b I + a Q) i
    coefficients = torch.stack([torch.cat([a, -b]), torch.cat([b, a])], dim=1)
    exact = x.cast(np.float64)
    factor = _samples(graph, exact, envelopes).size ** graph.tensor("polynomial.powers", powers.astype(np.float64))
    i, q = (part * factor for part in _samples(graph, exact, delays))
    found = graph.add("Concat", i, q, axis=-1) @ _stored(graph, "polynomial.coefficients", coefficients.double())
    return found.cast(graph.dtype)


def _stored(graph: Graph, name: str, tensor: Tensor) -> Value:
    return graph.tensor(name, tensor.detach().numpy())
