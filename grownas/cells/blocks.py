"""Blocks on complex samples in PyTorch: the ops, cells of them, and the derived network of a genotype.

Samples are complex tensors `(T, B)` within a network and pairs I, Q `(T, B, 2)` outside. Each delay and each FIR keeps
its last inputs in a delay line. All delay lines together are the state of a network, so that a sequence may be cut
anywhere, down to single samples, and no sample is computed twice.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from grownas.blocks import INPUTS, KINDS, Block, Part, block
from grownas.blocks_genotype import EDGES, BlocksGenotype
from grownas.cells import chain
from grownas.cells.quantised_blocks import QUANTISED, unfitted
from grownas.cells.quantiser import Grid
from grownas.genotype_bits import Bits

NOISE = 0.01  # standard deviation of the noise on drawn coefficients
RANGE = 2.0  # largest value on a new grid: of coefficients near 1, of samples with a magnitude of about 1, and powers


class DelayLines:
    """Delay lines of a network: each part that reads earlier inputs has its own, in the order in which the parts run.

    Attributes:
        before: the samples in all lines before a sequence, oldest first in each line, complex, shape `(D, B)`.
        after: for each line so far its samples after the sequence, as many.
    """

    def __init__(self, before: Tensor) -> None:
        """Begin with the first line."""
        self.before, self.after = before, list[Tensor]()
        self._read = 0

    def extended(self, x: Tensor, count: int) -> Tensor:
        """Return the inputs of a part after the `count` samples of its line, and go on to the next line.

        Args:
            x: the inputs, complex, shape `(T, B)`.
            count: length of the line.

        Returns:
            Shape `(count + T, B)`.
        """
        seen = torch.cat([self.before[self._read : self._read + count], x])
        self._read += count
        self.after.append(seen[x.shape[0] :])
        return seen


def fir(x: Tensor, taps: Tensor) -> Tensor:
    """Return y_t = sum_k taps_k x_(t-k) for all t that have so many samples before them.

    Args:
        x: shape `(K - 1 + T, B)`.
        taps: complex, shape `(K,)`.

    Returns:
        Shape `(T, B)`.
    """
    lags = x.unfold(0, x.shape[0] - taps.shape[0] + 1, 1).mT  # (K, T, B), the oldest first
    return (taps.flip(0) @ lags.flatten(1)).view(lags.shape[1:])


def polynomial(x: Tensor, coefficients: Tensor) -> Tensor:
    """Return x sum_k c_k |x|^(2k): the odd orders 1, 3, 5, .. of a memoryless amplifier."""
    return x * _horner(x * x.conj(), coefficients)


def polynomial_all(x: Tensor, coefficients: Tensor) -> Tensor:
    """Return x sum_k c_k |x|^k: all orders 1, 2, 3, .."""
    return x * _horner(x.abs().to(x.dtype), coefficients)


def _horner(r: Tensor, coefficients: Tensor) -> Tensor:
    *others, value = coefficients.unbind()
    for coefficient in reversed(others):
        value = torch.addcmul(coefficient, r, value)
    return value


Apply = Callable[[Tensor, Tensor], Tensor]  # the output for inputs and coefficients
APPLY: dict[str, Apply] = {"fir": fir, "polynomial": polynomial, "polynomial_all": polynomial_all}
RUN: dict[str, Callable[[Tensor, int, DelayLines], Tensor]] = {  # kind of other part -> output of x, size, delay lines
    "none": lambda x, size, lines: torch.zeros_like(x),
    "delay": lambda x, size, lines: lines.extended(x, size)[: x.shape[0]],
}
assert APPLY.keys() == QUANTISED.keys()
assert RUN.keys() | APPLY.keys() == KINDS.keys()


class BlockOp(nn.Module):
    """An op with its coefficients.

    Attributes:
        block: the op and its sizes.
        coefficients: for each part that has some, its complex coefficients as rows of real and imaginary part,
            shape `(K, 2)`, by the number of the part.
        bits: widths of weights and inputs of each of these parts; empty: they compute with real numbers.
        quantised: these parts on grids, by the same numbers, if they have widths.
    """

    def __init__(self, op: Block, bits: Sequence[Bits] = ()) -> None:
        """Create the coefficients and, if there are widths for each of these parts, the grids; `draw` sets them."""
        super().__init__()
        self.block, self.bits = op, tuple(bits)
        self.coefficients = nn.ParameterDict(
            {str(i): nn.Parameter(torch.zeros(part.coefficients, 2)) for i, part in self.parts()}
        )
        self.quantised = nn.ModuleDict()
        for (i, part), own in zip(self.parts(), bits, strict=bool(bits)):
            coefficients = self.complex(i).detach()
            self.quantised[str(i)] = QUANTISED[part.kind](coefficients, coefficients, unfitted(own))

    def parts(self) -> list[tuple[int, Part]]:
        """Return number and part of each that has coefficients."""
        return [(i, part) for i, part in enumerate(self.block.parts) if part.coefficients]

    def complex(self, number: int) -> Tensor:
        """Return a part's coefficients, complex, `(K,)`."""
        return torch.view_as_complex(self.coefficients[str(number)])

    def forward(self, x: Tensor, lines: DelayLines) -> Tensor:
        """Map complex samples `(T, B)` to as many."""
        for i, part in enumerate(self.block.parts):
            if part.coefficients:
                seen = lines.extended(x, part.size - 1) if part.kind == "fir" else x
                apply: Any = self.quantised[str(i)] if self.quantised else APPLY[part.kind]
                x = apply(seen, self.complex(i))
            else:
                x = RUN[part.kind](x, part.size, lines)
        return x

    @torch.no_grad()
    def draw(self, gain: float, generator: Generator | None) -> None:
        """Begin near the identity times a gain: the first coefficient of each part is 1, of the last part the gain.

        All coefficients get noise, so that ops that begin alike can differ.
        """
        for own in self.coefficients.values():
            own.normal_(0, NOISE, generator=generator)
            own[0, 0] += 1
        for last in list(self.coefficients.values())[-1:]:
            last.mul_(gain)
        for grid in self.modules():
            if isinstance(grid, Grid):
                grid.set_largest(RANGE)


Node = Sequence[tuple[int, Callable[[Any, Any], Any]]]  # what it sums: states, each with an op of x and lines


def run_cells(cells: Sequence[Sequence[Node]], x: Any, lines: Any) -> Any:
    """Return the output of cells in a row.

    Samples are complex tensors `(T, B)`, or values of an ONNX graph: they are added, and divided by numbers.

    A cell's first states are the outputs of the two cells before, or the network's input. Each node sums what it reads.
    The cell's output is the mean of its nodes: it has the scale of the input whatever their number, and as wide as it
    (DARTS' convolutional cells concatenate their nodes, which would make each cell wider than the one before).

    Args:
        cells: the nodes of each cell, in order.
        x: inputs.
        lines: the delay lines, from which the ops read earlier samples.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS: Differentiable Architecture Search, section 2.1.
    """
    before = [x, x]
    for nodes in cells:
        states = list(before)
        for reads in nodes:
            states.append(functools.reduce(operator.add, [op(states[source], lines) for source, op in reads]))
        before = [before[1], functools.reduce(operator.add, states[INPUTS:]) / (len(states) - INPUTS)]
    return before[1]


def kept_by(network: nn.Module) -> int:
    """Return D, the number of samples in all delay lines of the ops of a network."""
    return sum(op.block.memory for op in network.modules() if isinstance(op, BlockOp))


def run_with_state(cells: Sequence[Sequence[Node]], kept: int, x: Tensor, h_0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run cells over pairs of I and Q that follow on a state.

    Windows in a row, each with the state of the one before, give what the whole sequence gives, up to rounding.

    Args:
        cells: see `run_cells`.
        kept: D, see `kept_by`.
        x: inputs, shape `(T, B, 2)`.
        h_0: I and Q of the samples in the delay lines, shape `(D, B, 2)`; zeros if None.

    Returns:
        Outputs `(T, B, 2)`, and the samples in the delay lines after them, `(D, B, 2)`.

    Raises:
        TypeError: `x` or `h_0` is not a tensor.
        ValueError: a shape does not fit.
    """
    chain.check_types(x, h_0)
    if x.dim() != 3 or x.shape[2] != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (T, B, 2): I and Q of complex samples")
    wanted = (kept, x.shape[1], 2)
    if h_0 is None:
        h_0 = x.new_zeros(wanted)
    elif h_0.shape != wanted:
        raise ValueError(f"h_0 has shape {tuple(h_0.shape)}, expected {wanted}: the {kept} samples in the delay lines")
    lines = DelayLines(torch.complex(*h_0.unbind(-1)))
    out = run_cells(cells, torch.complex(*x.unbind(-1)), lines)
    return torch.view_as_real(out), torch.view_as_real(torch.cat([*lines.after, lines.before[:0]]))


class BlocksNetwork(nn.Module):
    """The derived network of a genotype of blocks (see `grownas.protocols.Recurrent`).

    Attributes:
        genotype: its cells.
        input_size, hidden_size: 2, I and Q.
        kept: D, the number of samples in all delay lines.
        backend: `torch`; blocks have no kernels of their own.
        predicts: the output is a prediction itself, see `readout.begin_at_core`.
    """

    input_size = hidden_size = 2
    predicts = True
    backend = "torch"

    def __init__(self, genotype: BlocksGenotype, *, generator: Generator | None = None) -> None:
        """Create the ops and draw their coefficients.

        Args:
            genotype: the cells.
            generator: draws the noise on the coefficients.
        """
        super().__init__()
        self.genotype = genotype
        self.cells = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(BlockOp(block(edge.op), edge.bits) for edge in node.edges) for node in genotype.nodes
            )
            for _ in range(genotype.cells)
        )
        self.kept = kept_by(self)
        self.reset_parameters(generator)

    def with_genotype(self, genotype: BlocksGenotype) -> BlocksNetwork:
        """Return a new network of another genotype."""
        return BlocksNetwork(genotype)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw all coefficients again, each op near half the identity, so that a node begins near what it reads."""
        for op in self.modules():
            if isinstance(op, BlockOp):
                op.draw(1 / EDGES, generator)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map I and Q `(T, B, 2)` to as many.

        Args:
            x: inputs.
            h_0: I and Q of the samples in the delay lines, `(D, B, 2)`; zeros if None.

        Returns:
            Outputs, and the samples in the delay lines after them.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit.
        """
        return run_with_state(self.wiring(), self.kept, x, h_0)

    def step(self, x_t: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do one sample, for streaming: `(B, 2), (D, B, 2) -> (B, 2), (D, B, 2)`."""
        out, h = self(x_t[None], h)
        return out[0], h

    def wiring(self) -> list[list[list[tuple[int, BlockOp]]]]:
        """Return for each cell and node what the node reads: numbers of states, each with its op."""
        reads = [[edge.reads for edge in node.edges] for node in self.genotype.nodes]
        cells: Any = self.cells
        return [
            [list(zip(sources, ops, strict=True)) for sources, ops in zip(reads, cell, strict=True)] for cell in cells
        ]

    @property
    def chosen_backend(self) -> str:
        """Name of the backend, see `protocols.Supernet`."""
        return self.backend

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        return f"cells={self.genotype.cells}, nodes={len(self.genotype.nodes)}, memory={self.genotype.memory}"
