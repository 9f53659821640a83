"""Blocks on complex samples in PyTorch: the ops, cells of them, and the derived network of a genotype.

Samples are complex tensors `(T, B)` within a network and pairs I, Q `(T, B, 2)` outside. An op is causal and maps zeros
to zeros, so a network whose memory is M samples needs the last M inputs and nothing else to go on: its state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from grownas.blocks import INPUTS, KINDS, Block, Part, block
from grownas.blocks_genotype import EDGES, BlocksGenotype
from grownas.cells import chain

NOISE = 0.01  # standard deviation of the noise on drawn coefficients
Node = Sequence[tuple[int, Callable[[Tensor], Tensor]]]  # what a node sums: numbers of earlier states, each with an op


def delayed(x: Tensor, count: int) -> Tensor:
    """Return a sequence `(T, B)` delayed by so many samples; it begins with zeros."""
    return torch.cat([x.new_zeros(count, x.shape[1]), x])[: len(x)]


def fir(x: Tensor, taps: Tensor) -> Tensor:
    """Return y_t = sum_k taps_k x_(t-k), `(T, B)`; `taps` is complex, `(K,)`."""
    past = torch.cat([x.new_zeros(len(taps) - 1, x.shape[1]), x])
    lags = torch.stack([past[len(past) - len(x) - k : len(past) - k] for k in range(len(taps))])
    y: Tensor = torch.tensordot(taps, lags, 1)
    return y


def polynomial(x: Tensor, coefficients: Tensor) -> Tensor:
    """Return x sum_k c_k |x|^(2k): the odd orders 1, 3, 5, .. of a memoryless amplifier."""
    return x * _horner(x.real.square() + x.imag.square(), coefficients)


def polynomial_all(x: Tensor, coefficients: Tensor) -> Tensor:
    """Return x sum_k c_k |x|^k: all orders 1, 2, 3, .."""
    return x * _horner(x.abs(), coefficients)


def _horner(r: Tensor, coefficients: Tensor) -> Tensor:
    value = coefficients[-1]
    for coefficient in coefficients[:-1].flip(0):
        value = coefficient + r * value
    return value


RUN: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {  # kind of part -> output of x, coefficients and size
    "none": lambda x, _, size: torch.zeros_like(x),
    "delay": lambda x, _, size: delayed(x, size),
    "fir": lambda x, taps, _: fir(x, taps),
    "polynomial": lambda x, coefficients, _: polynomial(x, coefficients),
    "polynomial_all": lambda x, coefficients, _: polynomial_all(x, coefficients),
}
assert RUN.keys() == KINDS.keys()


class BlockOp(nn.Module):
    """An op with its coefficients.

    Attributes:
        block: the op and its sizes.
        coefficients: for each part that has some, its complex coefficients as rows of real and imaginary part,
            shape `(K, 2)`, by the number of the part.
    """

    def __init__(self, op: Block) -> None:
        """Create the coefficients; `draw` sets them."""
        super().__init__()
        self.block = op
        self.coefficients = nn.ParameterDict(
            {str(i): nn.Parameter(torch.zeros(part.coefficients, 2)) for i, part in enumerate(op.parts) if _has(part)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map complex samples `(T, B)` to as many."""
        for i, part in enumerate(self.block.parts):
            own = torch.view_as_complex(self.coefficients[str(i)]) if _has(part) else x
            x = RUN[part.kind](x, own, part.size)
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


def _has(part: Part) -> bool:
    return part.coefficients > 0


def run_cells(cells: Sequence[Sequence[Node]], x: Tensor) -> Tensor:
    """Return the output of cells in a row, complex `(T, B)`, from zeros before the first sample.

    A cell's first states are the outputs of the two cells before, or the network's input. Each node sums what it reads.
    The cell's output is the mean of its nodes: it has the scale of the input whatever their number, and as wide as it
    (DARTS' convolutional cells concatenate their nodes, which would make each cell wider than the one before).

    Args:
        cells: the nodes of each cell, in order.
        x: complex samples `(T, B)`.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS: Differentiable Architecture Search, section 2.1.
    """
    before = [x, x]
    for nodes in cells:
        states = list(before)
        for reads in nodes:
            states.append(_sum([op(states[source]) for source, op in reads]))
        before = [before[1], _sum(states[INPUTS:]) / (len(states) - INPUTS)]
    return before[1]


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def run_with_state(
    cells: Sequence[Sequence[Node]], memory: int, x: Tensor, h_0: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run cells over pairs of I and Q that follow on a state.

    Windows in a row, each with the state of the one before, give what the whole sequence gives, up to rounding.

    Args:
        cells: see `run_cells`.
        memory: M, see `blocks.memory_of`.
        x: inputs, shape `(T, B, 2)`.
        h_0: the last M inputs, shape `(M, B, 2)`; zeros if None.

    Returns:
        Outputs `(T, B, 2)` and the last M inputs.

    Raises:
        TypeError: `x` or `h_0` is not a tensor.
        ValueError: a shape does not fit.
    """
    chain.check_types(x, h_0)
    if x.dim() != 3 or x.shape[2] != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (T, B, 2): I and Q of complex samples")
    wanted = (memory, x.shape[1], 2)
    if h_0 is not None and h_0.shape != wanted:
        raise ValueError(f"h_0 has shape {tuple(h_0.shape)}, expected {wanted}: the last {memory} inputs")
    seen = torch.cat([x.new_zeros(wanted) if h_0 is None else h_0, x])
    out = torch.view_as_real(run_cells(cells, torch.view_as_complex(seen)))
    return out[memory:], seen[len(seen) - memory :].clone()  # a copy: a kept state does not keep the sequence


class BlocksNetwork(nn.Module):
    """The derived network of a genotype of blocks (see `grownas.protocols.Recurrent`).

    Attributes:
        genotype: its cells.
        input_size, hidden_size: 2, I and Q.
        memory: M, the number of earlier samples that the output depends on.
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
        self.genotype, self.memory = genotype, genotype.memory
        self.cells = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(BlockOp(block(edge.op)) for edge in node.edges) for node in genotype.nodes)
            for _ in range(genotype.cells)
        )
        self.reset_parameters(generator)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw all coefficients again, each op near half the identity, so that a node begins near what it reads."""
        for op in self.modules():
            if isinstance(op, BlockOp):
                op.draw(1 / EDGES, generator)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map I and Q `(T, B, 2)` and the last M inputs `(M, B, 2)`, zeros if None, to outputs and the last M inputs.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit.
        """
        return run_with_state(self.wiring(), self.memory, x, h_0)

    def step(self, x_t: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do one sample, for streaming: `(B, 2), (M, B, 2) -> (B, 2), (M, B, 2)`."""
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
        return f"cells={self.genotype.cells}, nodes={len(self.genotype.nodes)}, memory={self.memory}"
