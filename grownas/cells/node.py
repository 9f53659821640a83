"""A node's parameters and their memory layout for the sequence engine.

Layout: `W_x (I, P, H)` and `W_h (H, P, H)` contain one projection per op, or one for several ops under
`share_projection`; `b_x (K, H)` and `b_h (Kh, H)` contain each op's own biases (b_h for the Hadamard ops only). The
parameters of one op are plain slices, so `op_parameters` returns live views. `.view(I, P * H)` needs no copy for the
matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from grownas.cells.operators import is_symbolic
from grownas.cells.plan import make_plan
from grownas.cells.quantiser import Times, Units, times
from grownas.errors import GenotypeError
from grownas.genotype import Op, projection_bits, projections
from grownas.genotype_bits import Bits
from grownas.ops import ACTIVATION, COMBINE


class Trace(NamedTuple):
    """The state that each node of a chain reads at each step, and the loss's gradient at the node. All `(T, B, H)`.

    Attributes:
        inputs: s of each node.
        gradients: total gradient of the loss, through all later nodes and steps, by each node's mixture of ops (before
            the gate, if any). The gradient by an op's output is the op's share times this gradient.
    """

    inputs: list[Tensor]
    gradients: list[Tensor]


Pull = Callable[[Tensor], Tensor]  # maps a chain's states to the loss's gradient by the states, both (T, B, H)
Tracer = Callable[[Tensor, Tensor, Pull], Trace]  # x (T, B, I), h_0 (B, H)


class Node(nn.Module):
    """K ops that read the same two inputs. Subclasses define their mixture weights, `shares`.

    Attributes:
        blend: scalar m in [0, 1): the node's output is s + m (mixture - s). None for a plain node, where
            m = 1. It is a buffer, so that it is saved and moved together with the weights.
        skip: factor beta: beta s is added to the mixture (DARTS-); the gate and the blend apply to the sum. None: no
            skip. It is moved with the weights but not saved.
        quantised: the quantised products of the projections and the gate; None: products of real numbers.
    """

    blend: Tensor | None
    skip: Tensor | None
    quantised: Units | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        ops: Sequence[Op],
        *,
        highway: bool = False,
        share_projection: bool = False,
        gate_bits: Bits | None = None,
        generator: Generator | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the parameters and draw them.

        Args:
            input_size: I.
            hidden_size: H.
            ops: the ops in order; their shares are ignored here.
            highway: give the node a gate.
            share_projection: ops with the same combine share W_x and W_h, except ops with `own_projection`.
            gate_bits: widths of the gate, if the ops have widths.
            generator: draws the parameters.
            device: device of the parameters.
            dtype: dtype of the parameters.
        """
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.ops, self.highway, self.share_projection = check_ops(ops), highway, share_projection
        self.projection = projections(self.ops, share_projection)  # index of each op's projection
        self.bias = hadamard_rows(self.ops)  # row of b_h of each Hadamard op
        self.plan = make_plan(self.ops, self.projection, highway=highway)  # layout in the engine
        projected = max(self.projection) + 1

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.W_x, self.b_x = empty(input_size, projected, hidden_size), empty(len(self.ops), hidden_size)
        self.W_h, self.b_h = empty(hidden_size, projected, hidden_size), empty(len(self.bias), hidden_size)
        if highway:
            self.gate_x, self.gate_h = empty(input_size, hidden_size), empty(hidden_size, hidden_size)
        self.register_buffer("blend", None)
        self.register_buffer("skip", None, persistent=False)
        bits = [own for own in (*projection_bits(self.ops, share_projection), gate_bits) if own is not None]
        self.register_module("quantised", Units.of(bits).to(self.W_x) if bits else None)
        self.draw_parameters(generator)

    # These three read nn.Module's tables: its lookup of an attribute takes 0.4 us, and a small cell's step 40.

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return W_x, W_h, b_x, b_h."""
        own: Mapping[str, Any] = self._parameters
        try:
            return own["W_x"], own["W_h"], own["b_x"], own["b_h"]
        except KeyError:  # one is parametrised
            return self.W_x, self.W_h, self.b_x, self.b_h

    @property
    def is_blended(self) -> bool:
        """Whether the node has a blend or a skip."""
        return self._buffers["blend"] is not None or self._buffers["skip"] is not None

    @property
    def is_quantised(self) -> bool:
        """Whether the node's weights and inputs are quantised."""
        return self._modules["quantised"] is not None

    @torch.no_grad()
    def draw_parameters(self, generator: Generator | None = None) -> None:
        """Draw all weights and biases from U(-1/sqrt(H), 1/sqrt(H)), as `nn.GRU` does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters(recurse=False):
            if name != "alpha":
                parameter.uniform_(-bound, bound, generator=generator)
        if self.quantised is not None:
            self.quantised.reset_parameters(bound)

    def set_blend(self, blend: float) -> None:
        """Set the blend; 1 makes the node a plain node.

        Raises:
            ValueError: `blend` does not lie in [0, 1].
        """
        if not 0 <= blend <= 1:
            raise ValueError(f"blend must lie between 0 and 1, got {blend}")
        self.blend = None if blend == 1 else self.W_x.new_tensor(blend)

    def set_skip(self, beta: float) -> None:
        """Add `beta` times the state to the mixture; 0 removes the skip.

        Raises:
            ValueError: `beta` is not finite.
        """
        check_skip(beta)
        self.skip = None if beta == 0 else self.W_x.new_tensor(beta)

    def products(self) -> tuple[Times, Times]:
        """Return the functions that multiply x by W_x, and the state by W_h, of every projection and of the gate."""
        of_x, of_h = self.matrices()
        if self.quantised is None:
            return times(of_x), times(of_h)
        assert self.quantised.x is not None  # a chain's ops read x
        return self.quantised.x.times(torch.stack(of_x)), self.quantised.h.times(torch.stack(of_h))

    def matrices(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return W_x of each projection and of the gate, if there is one, and W_h likewise."""
        of_x, of_h = list(self.W_x.unbind(1)), list(self.W_h.unbind(1))
        return ([*of_x, self.gate_x], [*of_h, self.gate_h]) if self.highway else (of_x, of_h)

    def op_parameters(self, op: int) -> dict[str, Tensor]:
        """Return live views of one op's parameters: W_x (I, H), b_x (H,), W_h (H, H); b_h (H,) if Hadamard."""
        column = self.projection[op]
        views = {"W_x": self.W_x[:, column], "b_x": self.b_x[op], "W_h": self.W_h[:, column]}
        if op in self.bias:
            views["b_h"] = self.b_h[self.bias[op]]
        return views

    def load_op_parameters(self, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of one op's parameters.

        Raises:
            ValueError: a name or a shape does not fit.
        """
        write_parameters(f"op {op} ({self.ops[op].name})", self.op_parameters(op), values)

    def extra_repr(self) -> str:
        """Return the sizes and ops for `repr`."""
        return f"{self.input_size}, {self.hidden_size}, ops=[{', '.join(op.name for op in self.ops)}]"


class FixedNode(Node):
    """A node of a derived cell, with the fixed shares of the genotype."""

    _shares: Tensor | None = None

    @property
    def shares(self) -> Tensor:
        """Mixture weights, shape `(K,)`, rounded once from the genotype's float64 values."""
        found, W_x = self._shares, self.W_x
        if found is None or found.dtype != W_x.dtype or found.device != W_x.device:
            with torch.inference_mode(False):  # cached, and autograd rejects inference tensors
                found = torch.tensor([op.share for op in self.ops], dtype=W_x.dtype, device=W_x.device)
            if not is_symbolic([found]):
                self._shares = found
        return found


def check_skip(beta: float) -> None:
    """Check the factor of a skip.

    Raises:
        ValueError: the factor is not finite.
    """
    if not math.isfinite(beta):
        raise ValueError(f"the factor of a skip must be a finite number, got {beta}")


@torch.no_grad()
def write_parameters(owner: str, views: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into live views of parameters.

    Raises:
        ValueError: a name or a shape does not fit.
    """
    for name, value in values.items():
        if name not in views:
            raise ValueError(f"{owner} has {', '.join(views)}, not {name}")
        value = torch.as_tensor(value)
        if value.shape != views[name].shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(views[name].shape)}")
        views[name].copy_(value)


def check_ops(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Return the ops as a tuple.

    Raises:
        GenotypeError: the list is empty, or an op is unknown.
    """
    if not ops:
        raise GenotypeError("a node needs at least one op, got none")
    for op in ops:
        if op.combine not in COMBINE or op.activation not in ACTIVATION:
            raise GenotypeError(f"unknown op {op.name!r}; expected {'|'.join(COMBINE)}/{'|'.join(ACTIVATION)}")
    return tuple(ops)


def hadamard_rows(ops: Sequence[Op]) -> dict[int, int]:
    """Return the row of `b_h` of each Hadamard op."""
    numbers = [number for number, op in enumerate(ops) if "b_h" in COMBINE[op.combine].parameters]
    return {number: row for row, number in enumerate(numbers)}
