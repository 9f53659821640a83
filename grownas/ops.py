"""The table of activations. An op applies an activation to its two inputs, joined by a combine (see `combine`).

The reference, the sequence engine, the search space, the equations and the tests read this table. Other packages add
activations by entry points of the group `grownas.activations`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from importlib import metadata
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from grownas.combine import COMBINE as COMBINE
from grownas.errors import GenotypeError

GROUP = "grownas.activations"  # entry points: the name is the activation's name, the object is an `Activation`


class Activation(NamedTuple):
    """A pointwise function with its derivatives. All three keep shape and dtype.

    Attributes:
        f: the value y from the input z.
        df: the first derivative from y and z; a backward pass has both, and most derivatives are cheaper from y.
        d2f: the second derivative from y and z.
        formula: the text in `equations.txt`, with z for the input; it may call abs, cos, exp, log, max, sin and tanh.
        code: number of the activation in kernels. None if no kernel has it; then PyTorch calls run its cells.
        start: the z at which a new op without effect begins. Not 0 if the slope at 0 is 0, since the op must learn.
        homogeneous: whether f(c z) = c f(z) for all c > 0.
    """

    f: Callable[[Tensor], Tensor]
    df: Callable[[Tensor, Tensor], Tensor]
    d2f: Callable[[Tensor, Tensor], Tensor]
    formula: str
    code: int | None = None
    start: float = 0.0
    homogeneous: bool = False


class Activations(MutableMapping[str, Activation]):
    """The table of activations by name: first the built-in activations, then those of other packages, sorted.

    An activation of another package is loaded at its first use.

    Raises:
        GenotypeError: a package's entry point is not an `Activation`, cannot be loaded, or its name is taken.
    """

    def __init__(self, built_in: Mapping[str, Activation]) -> None:
        """See the class."""
        self._known = dict(built_in)
        self._built_in = frozenset(built_in)

    def __getitem__(self, name: str) -> Activation:
        if name not in self._known:
            self._known[name] = _load(self._offered()[name])
        return self._known[name]

    def __setitem__(self, name: str, activation: Activation) -> None:
        self._known[name] = activation

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._offered()

    def __iter__(self) -> Iterator[str]:
        yield from self._known
        yield from sorted(self._offered().keys() - self._known.keys())

    def __len__(self) -> int:
        return len(self._known.keys() | self._offered().keys())

    def _offered(self) -> Mapping[str, metadata.EntryPoint]:
        offered = _entry_points()
        for name in offered.keys() & self._built_in:
            raise GenotypeError(f"{_origin(offered[name])}: the name {name!r} is built in; choose another")
        return offered


@functools.cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    """Return the entry points of other packages, by name; read once per process."""
    found: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=GROUP):
        if not entry.name.isidentifier():
            raise GenotypeError(f"{_origin(entry)}: the name {entry.name!r} is not an identifier such as 'softplus'")
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise GenotypeError(
                f"{_origin(entry)}: the {_origin(other)} has the same name {entry.name!r}; uninstall one of them"
            )
    return found


def _load(entry: metadata.EntryPoint) -> Activation:
    try:
        activation = entry.load()
    except Exception as error:  # another package's code may raise anything
        raise GenotypeError(f"{_origin(entry)} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(activation, Activation):
        raise GenotypeError(f"{_origin(entry)} is a {type(activation).__name__}, expected a grownas.ops.Activation")
    if activation.code is not None:
        raise GenotypeError(f"{_origin(entry)} has code {activation.code}, expected None: only built-ins have kernels")
    return activation


def _origin(entry: metadata.EntryPoint) -> str:
    package = "" if entry.dist is None else f" of the package {entry.dist.name}"
    return f"activation {entry.name!r} ({entry.value}){package}"


def _silu_slope(y: Tensor, z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate + y * (1 - gate)


def _silu_curvature(y: Tensor, z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate * (1 - gate) * (2 + z * (1 - 2 * gate))


BUILT_IN: dict[str, Activation] = {
    "identity": Activation(
        lambda z: z, lambda y, z: torch.ones_like(y), lambda y, z: torch.zeros_like(y), "z", code=0, homogeneous=True
    ),
    "tanh": Activation(torch.tanh, lambda y, z: 1 - y * y, lambda y, z: -2 * y * (1 - y * y), "tanh(z)", code=1),
    "sigmoid": Activation(
        torch.sigmoid,
        lambda y, z: y * (1 - y),
        lambda y, z: y * (1 - y) * (1 - 2 * y),
        "1 / (1 + exp(-z))",
        code=2,
    ),
    "relu": Activation(
        torch.relu,
        lambda y, z: (y > 0).to(y.dtype),
        lambda y, z: torch.zeros_like(y),
        "max(z, 0)",
        code=3,
        start=0.1,
        homogeneous=True,
    ),
    "silu": Activation(functional.silu, _silu_slope, _silu_curvature, "z / (1 + exp(-z))", code=4),
    "softsign": Activation(
        functional.softsign,
        lambda y, z: (1 - y.abs()) ** 2,
        lambda y, z: -2 * y.sign() * (1 - y.abs()) ** 3,
        "z / (1 + abs(z))",
        code=5,
    ),
}
ACTIVATION = Activations(BUILT_IN)

DEFAULT_ACTIVATIONS = ("identity", "tanh", "sigmoid", "relu")  # fixed: a new line of the table changes no default
DEFAULT_OPS: list[tuple[str, str]] = [
    (combine, activation) for combine in COMBINE for activation in DEFAULT_ACTIVATIONS
]


def place(name: str) -> tuple[bool, int, str]:
    """Return the engine's sort key of an activation: first those with kernels by code, then the others by name."""
    code = ACTIVATION[name].code
    return code is None, code or 0, name


def kernel_codes(names: Sequence[str]) -> bytes:
    """Return the kernel codes of some activations; each must have a kernel."""
    return bytes(_code(name) for name in names)


def _code(name: str) -> int:
    code = ACTIVATION[name].code
    assert code is not None, f"{name} has no kernel"  # backends that need kernels check with `without_kernel` first
    return code


def without_kernel(names: set[str], codes: frozenset[int] | bytes) -> list[str]:
    """Return the activations, sorted, whose code a backend's kernels do not support."""
    return sorted(name for name in names if (code := ACTIVATION[name].code) is None or code not in codes)
