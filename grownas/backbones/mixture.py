"""What supernets of both kinds share about their mixtures: how far nodes are mixed in, and shares that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Blendable(Protocol):
    """A node that can be mixed in in part."""

    @property
    def blend(self) -> Tensor | None:
        """See `Node.blend`."""
        ...

    def set_blend(self, blend: float) -> None:
        """See `Node.set_blend`."""
        ...


class Blend(list[float]):
    """The blend of some nodes; what is written into it is written into them."""

    def __init__(self, nodes: Sequence[Blendable]) -> None:
        super().__init__(1.0 if node.blend is None else float(node.blend) for node in nodes)
        self.nodes = nodes

    def __setitem__(self, number: Any, value: Any) -> None:
        self.nodes[number].set_blend(value)
        super().__setitem__(number, value)

    def assign(self, values: Sequence[float]) -> None:
        """Write a value into each node.

        Raises:
            ValueError: their number differs from that of the nodes, or one does not lie in [0, 1].
        """
        if len(values) != len(self.nodes):
            raise ValueError(f"blend needs a number for each of {len(self.nodes)} nodes, got {len(values)}")
        for node, value in zip(self.nodes, values, strict=True):
            node.set_blend(value)


def given_shares(alpha: Sequence[Tensor], shares: Sequence[Tensor] | None) -> list[tuple[Tensor, ...]]:
    """Return for each alpha the shares that are given for it, in a tuple of one; empty tuples if there are none.

    Raises:
        ValueError: their number or a shape does not fit.
    """
    if shares is None:
        return [()] * len(alpha)
    found, wanted = [[tuple(one.shape) for one in some] for some in (shares, alpha)]
    if found != wanted:
        raise ValueError(f"shares have shapes {found}, expected those of alpha: {wanted}")
    return [(one,) for one in shares]


def check_no_skip(beta: float) -> None:
    """Check that a backbone has no skip before a cell is derived.

    Raises:
        ValueError: it has one.
    """
    if beta:
        raise ValueError(f"the backbone has a skip of weight {beta:g}, a derived cell has none; call set_skip(0) first")
