"""What supernet and derived cell have in common: running a chain of nodes on a backend, and checking its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from grownas.cells.backends import BACKENDS, choose
from grownas.cells.node import Node


def run(backend: str, nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor) -> Tensor:
    """Return a chain's states over a sequence, computed by a backend or by what `auto` finds; see `reference.run`.

    Under `torch.autocast` a chain computes and answers in its weights' dtype: a recurrence carries its rounding on from
    step to step. Inputs of another dtype, as layers under autocast hand them on, are then taken too.
    """
    device, backend = x.device.type, choose(backend, nodes)
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return BACKENDS[backend].run(nodes, shares, x, h_0)
    with torch.autocast(device, enabled=False):
        dtype = nodes[0].W_x.dtype
        return BACKENDS[backend].run(nodes, [one.to(dtype) for one in shares], x.to(dtype), h_0.to(dtype))


def check_types(x: object, h_0: object) -> None:
    """Check that a sequence is a tensor and its first state, if given, too.

    Raises:
        TypeError: one is not.
    """
    if isinstance(x, nn.utils.rnn.PackedSequence):
        raise TypeError(
            "x is a PackedSequence, expected a tensor (T, B, I): pad it with torch.nn.utils.rnn.pad_packed_sequence "
            "and read each sequence's outputs and last state at its own last step, which padding does not change"
        )
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}, expected a tensor (T, B, I)")
    if not (h_0 is None or isinstance(h_0, Tensor)):
        raise TypeError(f"h_0 is a {type(h_0).__name__}, expected a tensor (L, B, H): there is one state, not (h, c)")


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
