"""What supernet and derived cell have in common: running a chain of nodes on a backend, and checking its inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from grownas.cells.backends import BACKENDS, choose
from grownas.cells.node import Node

LOW_PRECISION = {"cuda"}  # devices on which autocast means speed to a recurrence


def run(backend: str, nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor) -> Tensor:
    """Return a chain's states over a sequence, computed by a backend or by what `auto` finds; see `reference.run`.

    Under `torch.autocast` inputs of another dtype, as layers under autocast hand them on, are taken too. On CUDA a
    chain then computes and answers in autocast's dtype, to which its weights, biases and shares are cast, as `nn.LSTM`
    casts its own there. Elsewhere it keeps its weights' dtype, for a recurrence carries its rounding on from step to
    step; and float64 it keeps everywhere, as autocast does.
    """
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return BACKENDS[choose(backend, nodes)].run(nodes, shares, x, h_0)
    dtype = nodes[0].W_x.dtype
    if device in LOW_PRECISION and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        nodes = [_in_dtype(node, dtype) for node in nodes]
    with torch.autocast(device, enabled=False):
        chosen = BACKENDS[choose(backend, nodes)]
        return chosen.run(nodes, [one.to(dtype) for one in shares], x.to(dtype), h_0.to(dtype))


def _in_dtype(node: Node, dtype: torch.dtype) -> Node:
    """Return a node that computes with this one's parameters in another dtype, and passes their gradients on to it."""
    twin = copy.copy(node)
    twin._parameters = {name: one if one is None else one.to(dtype) for name, one in node._parameters.items()}  # type: ignore[misc]
    return twin


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
