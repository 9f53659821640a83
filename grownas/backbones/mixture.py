"""What the mixtures of all supernets have in common: an edge's shares, blends, given shares, the check for a skip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grownas.cells.node import check_skip
from grownas.errors import GenotypeError
from grownas.genotype import NONE


class Mixture(nn.Module):
    """The ops between a state and a node that reads it, by name, and the shares in which they are mixed.

    Attributes:
        ops: names of ops, or "none".
        alpha: shape `(K,)`; zeros at first: equal shares.
        given: see `chain.MixedNode.given`.
    """

    given: tuple[Tensor, ...] = ()

    def __init__(self, ops: Sequence[str]) -> None:
        """Store the ops.

        Raises:
            GenotypeError: the list is empty.
        """
        super().__init__()
        self.ops = tuple(ops)
        if not self.ops:
            raise GenotypeError("an edge needs at least one op, got none")
        self.alpha = nn.Parameter(torch.zeros(len(self.ops)))

    @property
    def shares(self) -> Tensor:
        """Mixture weights, shape `(K,)`."""
        return self.given[0] if self.given else torch.softmax(self.alpha, 0)

    def best(self) -> tuple[float, str] | None:
        """Return the logarithm of the largest share of an op but "none", and the op; of equal shares the first.

        Ops whose alpha is minus infinity are ignored.
        """
        shares = torch.log_softmax(self.alpha.detach().double(), 0).tolist()
        found = [(share, op) for share, op in zip(shares, self.ops, strict=True) if op != NONE and share > -math.inf]
        return max(found, key=lambda one: one[0]) if found else None

    def extra_repr(self) -> str:
        """Return the ops for printing."""
        return ", ".join(self.ops)


class OfOps(Protocol):
    """A mixture of ops: a `Mixture`, or a node of a chain."""

    alpha: nn.Parameter
    given: tuple[Tensor, ...]

    @property
    def shares(self) -> Tensor:
        """Mixture weights, shape `(K,)`."""
        ...


class OfMixtures(nn.Module):
    """What all supernets do with their mixtures: one a node in a chain, one an edge elsewhere."""

    def mixtures(self) -> Sequence[OfOps]:
        """Return the mixtures, in the order of alpha."""
        raise NotImplementedError

    @property
    def alpha(self) -> list[nn.Parameter]:
        """One parameter `(K,)` a mixture."""
        return [mixture.alpha for mixture in self.mixtures()]

    @property
    def shares(self) -> list[Tensor]:
        """The weights in use, `(K,)` a mixture: softmax(alpha), or those of `set_shares`."""
        return [mixture.shares for mixture in self.mixtures()]

    def set_shares(self, shares: Sequence[Tensor] | None) -> None:
        """Use these weights, `(K,)` a mixture, instead of softmax(alpha); None restores softmax(alpha).

        Gradients flow to the given tensors. They are not saved, and a derived cell is read out from alpha.

        Raises:
            ValueError: the number of shares or their shapes differ from those of alpha.
        """
        for mixture, given in zip(self.mixtures(), given_shares(self.alpha, shares), strict=True):
            mixture.given = given


class OfEdges(OfMixtures):
    """A supernet whose mixtures are those of edges, with a skip beside each."""

    skip: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._skip = 0.0
        self.register_buffer("skip", torch.zeros(()), persistent=False)

    def mixed_edges(self) -> Sequence[Mixture]:
        """Return the mixtures of all edges."""
        raise NotImplementedError

    def mixtures(self) -> Sequence[Mixture]:
        """Return the mixtures: those of the edges."""
        return self.mixed_edges()

    def set_skip(self, beta: float) -> None:
        """Add beta times the state that is read to each edge's mixture (DARTS-); 0 removes the skip.

        The skip is not saved: a resumed search sets it again.

        Raises:
            ValueError: `beta` is not finite.
        """
        check_skip(beta)
        self._skip = float(beta)
        self.skip.fill_(beta)


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


def check_no_blend(blend: Sequence[float], *, first: int = 0) -> None:
    """Check before deriving a cell that the blend of every node is 1; `first` is the number of the first node.

    Raises:
        ValueError: a blend is below 1.
    """
    partial = {number: value for number, value in enumerate(blend, first) if value < 1}
    if partial:
        raise ValueError(f"nodes have a blend below 1 ({partial}); a derived cell needs 1: train longer or set it")
