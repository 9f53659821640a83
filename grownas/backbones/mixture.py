"""Functions for the mixtures of both kinds of supernets: blends, given shares, and the check for a skip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Blendable(Protocol):
    """A node that has a blend."""

    @property
    def blend(self) -> Tensor | None:
        """See `Node.blend`."""
        ...

    def set_blend(self, blend: float) -> None:
        """See `Node.set_blend`."""
        ...


class Blend(list[float]):
    """A list of the nodes' blends; assigning an item sets the blend of the node."""

    def __init__(self, nodes: Sequence[Blendable]) -> None:
        super().__init__(1.0 if node.blend is None else float(node.blend) for node in nodes)
        self.nodes = nodes

    def __setitem__(self, number: Any, value: Any) -> None:
        self.nodes[number].set_blend(value)
        super().__setitem__(number, value)

    def assign(self, values: Sequence[float]) -> None:
        """Set the blend of every node.

        Raises:
            ValueError: the number of values differs from the number of nodes, or a value is not in [0, 1].
        """
        if len(values) != len(self.nodes):
            raise ValueError(f"blend needs a number for each of {len(self.nodes)} nodes, got {len(values)}")
        for node, value in zip(self.nodes, values, strict=True):
            node.set_blend(value)


def given_shares(alpha: Sequence[Tensor], shares: Sequence[Tensor] | None) -> list[tuple[Tensor, ...]]:
    """Return a tuple per alpha: with the given shares as its only entry, or empty if `shares` is None.

    Raises:
        ValueError: the number of shares or their shapes differ from those of alpha.
    """
    if shares is None:
        return [()] * len(alpha)
    found, wanted = [[tuple(one.shape) for one in some] for some in (shares, alpha)]
    if found != wanted:
        raise ValueError(f"shares have shapes {found}, expected those of alpha: {wanted}")
    return [(one,) for one in shares]


def check_no_skip(beta: float) -> None:
    """Check before deriving a cell that the backbone has no skip.

    Raises:
        ValueError: the backbone has a skip.
    """
    if beta:
        raise ValueError(
            f"the backbone has a skip with factor {beta:g}, but a derived cell has none; call set_skip(0) first"
        )
