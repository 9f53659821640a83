"""Chains of nodes: running a chain on a backend, a derived cell's layer, and input checks for all backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from grownas.cells.backends import BACKENDS, choose, runner
from grownas.cells.native_pass import Pass
from grownas.cells.node import FixedNode, Node
from grownas.cells.sequence import Packed, Pullback, is_plain
from grownas.genotype import Genotype
from grownas.modules import with_parameters

LOW_PRECISION = {"cuda"}  # devices on which autocast speeds up a recurrent cell


def run(backend: str, nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor) -> Tensor:
    """Return a chain's states over a sequence, computed by a backend; see `reference.run`.

    Under `torch.autocast`, `x` and `h_0` may have another dtype than the weights. On CUDA the weights, biases and
    shares are cast to autocast's dtype, as in `nn.LSTM`, and the states have that dtype. On other devices all is
    computed in the weights' dtype, since rounding errors add up over the steps. Float64 weights are never cast.
    """
    weights = nodes[0].W_x.dtype
    dtype = autocast_dtype(x.device.type, weights)
    if dtype is None:
        return runner(backend, nodes)(nodes, shares, x, h_0)
    if dtype != weights:
        nodes = [_in_dtype(node, dtype) for node in nodes]
    with torch.autocast(x.device.type, enabled=False):
        return runner(backend, nodes)(nodes, [one.to(dtype) for one in shares], x.to(dtype), h_0.to(dtype))


def vjp(
    backend: str, nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor
) -> tuple[Tensor, Pullback] | None:
    """Return a chain's states and the function of their gradient without autograd; None if only autograd can.

    See `sequence.vjp`.
    """
    make = BACKENDS[choose(backend, nodes)].vjp
    if make is None or autocast_dtype(x.device.type, nodes[0].W_x.dtype) is not None:
        return None
    return make(nodes, shares, x, h_0)


def prepare(backend: str, nodes: Sequence[Node], T: int, B: int) -> Pass | None:
    """Return a backend's pass over windows of T steps and B streams; None if it has none, or the chain is not plain.

    See `native_pass.Pass` and `sequence.is_plain`.
    """
    weight = nodes[0].W_x
    make = BACKENDS[choose(backend, nodes)].prepare
    if make is None or autocast_dtype(weight.device.type, weight.dtype) is not None:
        return None
    return make(nodes, T, B) if is_plain(nodes, weight, weight) else None


def set_gradients(node: Node, gradients: Packed) -> None:
    """Set the gradients of a node's parameters, except those of its shares."""
    node.W_x.grad, node.W_h.grad = gradients.W_x.contiguous(), gradients.W_h.contiguous()
    node.b_x.grad, node.b_h.grad = gradients.b_x, gradients.b_h


def autocast_dtype(device: str, weights: torch.dtype) -> torch.dtype | None:
    """Return the dtype of the computation under autocast for weights of a dtype, see `run`; None if autocast is off."""
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return None
    return torch.get_autocast_dtype(device) if device in LOW_PRECISION and weights != torch.float64 else weights


class ChainLayer(nn.ModuleList):
    """One layer of a derived cell: the list of its nodes."""

    @classmethod
    def of(cls, genotype: Genotype, input_size: int, hidden_size: int, **where: Any) -> ChainLayer:
        """Build a genotype's nodes and draw their parameters; `where` is device and dtype."""
        return cls(
            FixedNode(
                input_size,
                hidden_size,
                node.ops,
                highway=genotype.highway,
                share_projection=genotype.share_projection,
                gate_bits=node.gate_bits,
                **where,
            )
            for node in genotype.nodes
        )

    def nodes(self) -> list[FixedNode]:
        """Return the nodes in order."""
        return cast("list[FixedNode]", list(self))

    def run(self, backend: str, x: Tensor, h_0: Tensor) -> Tensor:
        """Return the states over a sequence; see `run`."""
        nodes = self.nodes()
        return run(backend, nodes, [node.shares for node in nodes], x, h_0)

    def choose(self, backend: str) -> str:
        """Return the name of the backend; see `backends.choose`."""
        return choose(backend, self.nodes())

    def draw_parameters(self, generator: Generator | None = None) -> None:
        """Draw all parameters again; see `Node.draw_parameters`."""
        for node in self.nodes():
            node.draw_parameters(generator)

    def op_parameters(self, node: int, op: int) -> dict[str, Tensor]:
        """Return live views of an op's parameters; see `Node.op_parameters`."""
        return self.nodes()[node].op_parameters(op)

    def load_op_parameters(self, node: int, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of an op's parameters; see `Node.load_op_parameters`."""
        self.nodes()[node].load_op_parameters(op, values)


def _in_dtype(node: Node, dtype: torch.dtype) -> Node:
    """Return a copy of a node with its parameters cast to a dtype; gradients flow to the original parameters."""
    own = node._parameters.items()
    return with_parameters(node, {name: one if one is None else one.to(dtype) for name, one in own})


def check_sizes(**sizes: object) -> None:
    """Raise ValueError if a size, given by its name, is not a whole number above 0."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number above 0, got {value!r}")


def check_types(x: object, h_0: object) -> None:
    """Check that `x` is a tensor, and `h_0` a tensor or None.

    Raises:
        TypeError: either has another type.
    """
    if isinstance(x, nn.utils.rnn.PackedSequence):
        raise TypeError(
            "x is a PackedSequence, expected a tensor (T, B, I). Use a derived cell, GrownRNN, which accepts it; or "
            "pad it with torch.nn.utils.rnn.pad_packed_sequence and read each sequence's outputs and last state at its "
            "own last step, which padding does not change"
        )
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}, expected a tensor (T, B, I)")
    if not (h_0 is None or isinstance(h_0, Tensor)):
        raise TypeError(f"h_0 is a {type(h_0).__name__}, expected a tensor (L, B, H): the state is h, not (h, c)")


def check_input(
    x: Tensor,
    h_0: Tensor | None,
    *,
    input_size: int,
    layers: int,
    hidden_size: int,
    batch_first: bool = False,
    unbatched: bool = False,
) -> Tensor:
    """Check the shapes of a sequence and its first states; return the first states `(L, B, H)`, zeros if None.

    Args:
        x: `(T, B, I)`; `(B, T, I)` with `batch_first`; or `(T, I)` with `unbatched`.
        h_0: `(L, B, H)`, or `(L, H)` without a batch.
        input_size: I.
        layers: L, or 2 L if bidirectional.
        hidden_size: H.
        batch_first: see x.
        unbatched: see x.

    Raises:
        ValueError: a shape does not fit.
    """
    shape = x.shape
    has_batch = not (unbatched and len(shape) == 2)
    time = 1 if batch_first and has_batch else 0
    if len(shape) != 2 + has_batch or shape[time] == 0 or shape[-1] != input_size:
        expected = f"({'B, T' if batch_first else 'T, B'}, {input_size}) with T >= 1"
        expected += f", or (T, {input_size}) without a batch" if unbatched else ""
        raise ValueError(f"x has shape {tuple(shape)}, expected {expected}")
    wanted = (layers, shape[1 - time], hidden_size) if has_batch else (layers, hidden_size)
    if h_0 is None:
        h_0 = x.new_zeros(wanted)
    elif h_0.shape != wanted:
        raise ValueError(f"h_0 has shape {tuple(h_0.shape)}, expected {wanted}")
    return h_0 if has_batch else h_0.unsqueeze(1)
