"""What the products of a derived cell read: modules that stand in for quantised products, watch, and fit grids.

A reader is what multiplies the same inputs: a node of a chain or of a DAG, a FIR or a polynomial of blocks. `OWNERS`
says for each module with readers how it makes their observers, and where their quantised products are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from grownas.blocks import Part
from grownas.cells.blocks import APPLY, BlockOp
from grownas.cells.chain import ChainLayer
from grownas.cells.dag import DagLayer
from grownas.cells.quantised_blocks import QUANTISED, Fit
from grownas.cells.quantiser import Product, Times, Units, times

MOST_SEEN = 50_000  # values of a tensor to which a grid is fitted


class Seen(NamedTuple):
    """The matrices of some units, `(U, I, H)`, and a sample of the inputs that they were multiplied with, flat."""

    weights: Tensor
    inputs: Tensor


class _Watched(nn.Module):
    """Stands in for a product: multiplies real numbers and keeps the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def times(self, weights: Tensor) -> Times:
        multiply = times(list(weights))

        def observed(x: Tensor) -> Sequence[Tensor]:
            self.seen.append(x.flatten())
            return multiply(x)

        return observed


class NodeObserver(nn.Module):
    """Stands in for the units of a node; with the backend `reference` it sees what each product reads."""

    def __init__(self, matrices: Mapping[str, Tensor]) -> None:
        """Take the node's matrices `(U, I, H)` by name, `x` or `h`."""
        super().__init__()
        self.matrices = {name: one.detach() for name, one in matrices.items()}
        self.x, self.h = _Watched(), _Watched()

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.matrices["h"])

    @property
    def sample(self) -> dict[str, Seen]:
        """What was seen, by the name of the product."""
        return {name: Seen(matrix, _thinned(getattr(self, name).seen)) for name, matrix in self.matrices.items()}

    def fitted(self, fit: Fit) -> nn.Module:
        """Return the node's units on grids that fit."""
        made = {
            name: Product(fit(0, list(one.weights)), fit(1, [one.inputs] * self.count))
            for name, one in self.sample.items()
        }
        return Units(made.get("x"), made["h"])


class PartObserver(nn.Module):
    """Stands in for a FIR or polynomial on grids; keeps the complex samples that it reads."""

    count = 1

    def __init__(self, part: Part, coefficients: Tensor) -> None:
        """Take the part and its complex coefficients, `(K,)`."""
        super().__init__()
        self.part, self.coefficients, self.seen = part, coefficients.detach(), list[Tensor]()

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Compute with real numbers."""
        self.seen.append(x.flatten())
        return APPLY[self.part.kind](x, coefficients)

    def fitted(self, fit: Fit) -> nn.Module:
        """Return the part on grids that fit."""
        return QUANTISED[self.part.kind](self.coefficients, _thinned(self.seen), fit)


def _thinned(seen: Sequence[Tensor]) -> Tensor:
    """Return at most about `MOST_SEEN` of the values, evenly spaced."""
    values = torch.cat(list(seen))
    if len(values) <= MOST_SEEN:
        return values
    places = torch.linspace(0, len(values) - 1, MOST_SEEN, dtype=torch.float64, device=values.device).long()
    return values[places]  # a whole stride could share a factor with the width, and skip some units always


Observer = NodeObserver | PartObserver


class Owner(NamedTuple):
    """A module with readers.

    Attributes:
        observers: makes an observer for each reader of the module.
        units: returns each reader's products on grids.
        install: gives each reader other products, or what stands in for them; takes as many as there are readers.
    """

    observers: Callable[[Any], Sequence[Observer]]
    units: Callable[[Any], Sequence[nn.Module]]
    install: Callable[[Any, Iterator[nn.Module]], None]


def _observers_of_chain(layer: ChainLayer) -> list[Observer]:
    matrices = (map(torch.stack, node.matrices()) for node in layer.nodes())
    return [NodeObserver(dict(zip(("x", "h"), own, strict=True))) for own in matrices]


def _install_in_chain(layer: ChainLayer, made: Iterator[Any]) -> None:
    for node in layer.nodes():
        node.quantised = next(made)


def _observers_of_dag(layer: DagLayer) -> list[Observer]:
    first, *rest = layer.W_h.unsqueeze(1)
    return [NodeObserver({"x": layer.W_x.unsqueeze(0), "h": first}), *(NodeObserver({"h": own}) for own in rest)]


def _install_in_dag(layer: DagLayer, made: Iterator[nn.Module]) -> None:
    layer.quantised = nn.ModuleList(next(made) for _ in layer.W_h)


def _install_in_op(op: BlockOp, made: Iterator[nn.Module]) -> None:
    op.quantised = nn.ModuleDict({number: next(made) for number in op.coefficients})


OWNERS: dict[type[nn.Module], Owner] = {
    ChainLayer: Owner(_observers_of_chain, lambda layer: [node.quantised for node in layer.nodes()], _install_in_chain),
    DagLayer: Owner(_observers_of_dag, lambda layer: list(layer.quantised), _install_in_dag),
    BlockOp: Owner(
        lambda op: [PartObserver(part, op.complex(number)) for number, part in op.parts()],
        lambda op: list(op.quantised.values()),
        _install_in_op,
    ),
}


def owners_in(cell: nn.Module) -> list[tuple[nn.Module, Owner]]:
    """Return the modules with readers in a derived cell, layer after layer."""
    return [(own, OWNERS[type(own)]) for own in cell.modules() if type(own) in OWNERS]
