"""What supernet and derived cell have in common: running a chain of nodes on a backend, and checking its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from grownas.cells import reference, sequence
from grownas.cells.node import Node

BACKENDS: dict[str, Callable[[Sequence[Node], Sequence[Tensor], Tensor, Tensor], Tensor]] = {
    "reference": reference.run,
    "torch": sequence.run,
}


def choose_backend(name: str) -> str:
    """Return the backend that a name stands for.

    Raises:
        ValueError: it is not known.
    """
    if name == "auto":
        return "torch"
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose auto, {' or '.join(BACKENDS)}")
    return name


def check_input(x: Tensor, h_0: Tensor | None, *, input_size: int, layers: int, hidden_size: int) -> Tensor:
    """Check a batched sequence `(T, B, I)`; return the first states, zeros if they were left out.

    Raises:
        ValueError: a shape does not fit.
    """
    if x.dim() != 3 or x.shape[0] == 0 or x.shape[2] != input_size:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (T, B, {input_size}) with T >= 1")
    wanted = (layers, x.shape[1], hidden_size)
    if h_0 is None:
        return x.new_zeros(wanted)
    if h_0.shape != wanted:
        raise ValueError(f"h_0 has shape {tuple(h_0.shape)}, expected {wanted}")
    return h_0
