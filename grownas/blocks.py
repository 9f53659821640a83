"""The ops of the backbone of blocks by name, such as `fir(8)`: what each costs and how much of the past it reads.

All of them act on complex baseband samples x_t = I_t + jQ_t. A name may join several parts that act one after the
other, such as `fir(4)-polynomial(5)-fir(4)`. What the parts compute stands in `cells.blocks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from grownas.errors import GenotypeError

BLOCK = "block"  # the combine of all ops of this backbone, see `space.SearchSpace.ops`
NONE = "none"  # the op that outputs zero, in a search only
INPUTS = 2  # states that a cell begins with: the outputs of the two cells before it
Reads = Sequence[tuple[int, "Block"]]  # what a node sums: numbers of earlier states, each with an op


class Kind(NamedTuple):
    """The facts about one kind of part; the functions take its size.

    Attributes:
        size: name of the number in brackets; None if there is none.
        least, step: its smallest value, and the distance to the next.
        memory: number of earlier samples that the output depends on.
        coefficients: number of complex parameters.
        multiplications: real multiplications a sample. A complex product takes 4; a square root is not counted.
        additions: real additions and subtractions a sample.
    """

    size: str | None
    least: int = 0
    step: int = 1
    memory: Callable[[int], int] = lambda size: 0
    coefficients: Callable[[int], int] = lambda size: 0
    multiplications: Callable[[int], int] = lambda size: 0
    additions: Callable[[int], int] = lambda size: 0


def _products(terms: int) -> int:
    """Return the multiplications of x (c_0 + r (c_1 + r (..))) with so many c; r = |x| or |x|^2 takes 2 of them."""
    return 4 + (2 + 2 * (terms - 1) if terms > 1 else 0)


def _sums(terms: int) -> int:
    """Return the additions of the same: one for |x|^2, two for each complex sum and for the product with x."""
    return 2 + (1 + 2 * (terms - 1) if terms > 1 else 0)


KINDS: dict[str, Kind] = {
    "none": Kind(None),
    "delay": Kind("samples", memory=lambda samples: samples),
    "fir": Kind(
        "taps",
        1,
        memory=lambda taps: taps - 1,
        coefficients=lambda taps: taps,
        multiplications=lambda taps: 4 * taps,
        additions=lambda taps: 4 * taps - 2,
    ),
    "polynomial": Kind(
        "order",
        1,
        2,
        coefficients=lambda order: (order + 1) // 2,
        multiplications=lambda order: _products((order + 1) // 2),
        additions=lambda order: _sums((order + 1) // 2),
    ),
    "polynomial_all": Kind("order", 1, coefficients=lambda order: order, multiplications=_products, additions=_sums),
}
POLYNOMIALS = ("polynomial", "polynomial_all")
FORMS = ", ".join(f"{name}({kind.size})" if kind.size else name for name, kind in KINDS.items())
DEFAULT_BLOCKS = (NONE, "delay(1)", "fir(4)", "polynomial(5)", "fir(4)-polynomial(5)-fir(4)")


class Part(NamedTuple):
    """One part of an op: a key of `KINDS` and its size, 0 if it has none."""

    kind: str
    size: int

    @property
    def name(self) -> str:
        """The part as written in configs and genotypes."""
        return f"{self.kind}({self.size})" if KINDS[self.kind].size else self.kind

    @property
    def coefficients(self) -> int:
        """Number of complex parameters."""
        return KINDS[self.kind].coefficients(self.size)


class Block(NamedTuple):
    """An op: parts that act one after the other."""

    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The op as written in configs and genotypes."""
        return "-".join(part.name for part in self.parts)

    @property
    def memory(self) -> int:
        """Number of earlier samples that the output depends on."""
        return sum(KINDS[part.kind].memory(part.size) for part in self.parts)

    @property
    def multiplications(self) -> int:
        """Real multiplications a sample."""
        return sum(KINDS[part.kind].multiplications(part.size) for part in self.parts)

    @property
    def additions(self) -> int:
        """Real additions and subtractions a sample."""
        return sum(KINDS[part.kind].additions(part.size) for part in self.parts)

    @property
    def firs(self) -> int:
        """Number of FIRs."""
        return sum(part.kind == "fir" for part in self.parts)

    @property
    def polynomials(self) -> int:
        """Number of polynomials."""
        return sum(part.kind in POLYNOMIALS for part in self.parts)


@cache
def block(name: str) -> Block:
    """Return the op of a name.

    Raises:
        GenotypeError: there is no such op, or a size is wrong.
    """
    parts = tuple(_part(word) for word in name.split("-"))
    if len(parts) > 1 and Part(NONE, 0) in parts:
        raise GenotypeError(f"{name!r}: none is an op of its own; leave it out of the parts")
    return Block(parts)


def _part(word: str) -> Part:
    found = re.fullmatch(r"(\w+?)(?:\((0|[1-9]\d{0,3})\))?", word)
    kind = KINDS.get(found[1]) if found else None
    if found is None or kind is None or (kind.size is None) != (found[2] is None):
        raise GenotypeError(f"unknown op {word!r}, expected one of {FORMS}, or some of them joined by -")
    size = int(found[2] or 0)
    if size < kind.least or (size - kind.least) % kind.step:
        wanted = ", ".join(str(kind.least + i * kind.step) for i in range(3))
        raise GenotypeError(f"{word!r}: {kind.size} is {size}, expected one of {wanted}, ..")
    return Part(found[1], size)


def memory_of(nodes: Iterable[Reads], cells: int) -> int:
    """Return how many earlier samples the output of a network depends on.

    Args:
        nodes: what each node of a cell reads.
        cells: number of cells in a row.
    """
    before, nodes = [0, 0], list(nodes)
    for _ in range(cells):
        states = list(before)
        for reads in nodes:
            states.append(max(states[source] + op.memory for source, op in reads))
        before = [before[1], max(states[INPUTS:])]
    return before[1]


def check_names(names: Sequence[str]) -> None:
    """Refuse names of ops that cannot form a cell.

    Raises:
        GenotypeError: a name is wrong, or there is no op but `none`.
    """
    for name in names:
        block(name)
    if all(name == NONE for name in names):
        raise GenotypeError(f"{', '.join(names) or 'empty'}: a cell needs an op other than none")
