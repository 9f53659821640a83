"""Lowest eigenpairs of many symmetric matrices at once, from matrix-vector products only.

Block Lanczos with full reorthogonalisation. The caller computes the products with a block of vectors, so that it can
compute those of all problems in one pass over its data.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

BASIS = 128  # basis vectors per problem before a restart, which limits memory
KEPT = 16  # basis vectors per problem after a restart
SPREAD = 4  # if less than 1 / 4 of the problems are open, blocks get wider: a pass costs more than further vectors
FLOOR = 1e-3  # times the largest eigenvalue: the tolerance of smaller eigenvalues is relative to this value
NOISE = 1e-12  # random part of a block of unit vectors: completes a block whose rank is less than its width


class LowestEigenpairs:
    """Searches the lowest eigenpair of each of P symmetric matrices of D rows, in float64.

    Usage: multiply the matrices of the open problems by `block` and pass the product to `take`, until `is_done`. All
    random numbers come from a fixed seed: the same products give the same result.

    Attributes:
        open: numbers of the unfinished problems, shape `(O,)`.
        block: vectors to multiply the open problems' matrices by, `(O, D, b)`, with orthonormal columns.
        eigenvalues: eigenvalues of all problems, `(P,)`. Each is v^T S v of its eigenvector v, hence an upper bound.
        eigenvectors: eigenvectors of length 1, `(P, D)`.
        given_up: number of problems closed before their eigenvalue reached the tolerance.
    """

    def __init__(
        self,
        problems: int,
        size: int,
        *,
        block: int = 4,
        tolerance: float = 1e-7,
        summed: int = 1,
        most: int = 200,
        basis: int = BASIS,
        device: torch.device | str = "cpu",
    ) -> None:
        """Draw the first block.

        Args:
            problems: P.
            size: D.
            block: most columns of a block.
            tolerance: relative tolerance of an eigenvalue.
            summed: above 1: for an eigenvalue below the mean absolute eigenvalue of its group of `summed` problems, the
                tolerance is relative to that mean, so that small eigenvalues need no more digits than large ones.
            most: number of products after which all problems are closed, whatever their errors; see `given_up`.
            basis: basis vectors per problem before a restart; at least four blocks.
            device: device of all tensors.
        """
        self.size, self.width, self.basis, self.device = size, block, max(basis, 2 * KEPT, 4 * block), device
        self.tolerance, self.summed, self.left, self.given_up = tolerance, summed, most, 0
        self.generator = Generator().manual_seed(0)
        self.open = torch.arange(problems, device=device)
        self.eigenvalues = torch.zeros(problems, dtype=torch.float64, device=device)
        self.eigenvectors = torch.zeros(problems, size, dtype=torch.float64, device=device)
        # the basis and its products
        self._Q = self._SQ = torch.zeros(problems, size, 0, dtype=torch.float64, device=device)
        self.block = torch.linalg.qr(self._draw(min(block, size)))[0].expand(problems, -1, -1)

    @property
    def is_done(self) -> bool:
        """Whether all problems are closed."""
        return len(self.open) == 0

    def take(self, product: Tensor) -> None:
        """Use the product of the open problems' matrices and `block`, same shape; close the finished problems.

        The error of the lowest Ritz value is at most the norm r of its residual, and at most r^2 / gap, where gap is
        the distance to the next eigenvalue, estimated by the next Ritz value.
        """
        self.left -= 1
        Q, SQ = torch.cat([self._Q, self.block], 2), torch.cat([self._SQ, product], 2)
        inner = Q.mT @ SQ
        ritz, Y = torch.linalg.eigh((inner + inner.mT) / 2)
        lowest, scale = ritz[:, 0], ritz.abs().amax(1)
        vectors = (Q @ Y[:, :, :1]).squeeze(2)
        residual = ((SQ @ Y[:, :, :1]).squeeze(2) - lowest.unsqueeze(1) * vectors).norm(dim=1)
        gap = ritz[:, 1] - lowest if ritz.shape[1] > 1 else torch.zeros_like(lowest)
        error = residual * residual / torch.maximum(gap, residual).clamp_min(torch.finfo(residual.dtype).tiny)
        rounding = self.size * torch.finfo(torch.float64).eps * scale  # below it the sign is rounding error
        self.eigenvalues[self.open] = torch.where(lowest.abs() <= rounding, 0.0, lowest)
        self.eigenvectors[self.open] = vectors / vectors.norm(dim=1, keepdim=True)
        least = FLOOR * scale
        if self.summed > 1:
            least = self.eigenvalues.view(-1, self.summed).abs().mean(1)[self.open // self.summed]
        going = error > self.tolerance * torch.maximum(lowest.abs(), least)
        if Q.shape[2] == self.size:  # the basis is the whole space
            going = torch.zeros_like(going)
        if not self.left:
            self.given_up, going = int(going.sum()), torch.zeros_like(going)
        self._go_on(Q[going], SQ[going], Y[going], going)

    def _go_on(self, Q: Tensor, SQ: Tensor, Y: Tensor, going: Tensor) -> None:
        """Compute the next block of the open problems."""
        self.open = self.open[going]
        self._Q, self._SQ = Q, SQ
        if self.is_done:
            self.block = Q[:, :, :0]
            return
        room, last = self.size - Q.shape[2], self.block.shape[2]
        width = max(last, min(self.width * len(self.eigenvalues) // (SPREAD * len(self.open)), self.basis // 2))
        self.block = self._orthonormal(SQ[:, :, -min(last, room) :], min(width, room))
        if (
            Q.shape[2] + self.block.shape[2] > self.basis
        ):  # the new block is also orthogonal to the vectors that are dropped
            self._Q, self._SQ = Q @ Y[:, :, :KEPT], SQ @ Y[:, :, :KEPT]

    def _orthonormal(self, block: Tensor, width: int) -> Tensor:
        """Return an orthonormal basis of the block's part orthogonal to the basis, completed by random columns."""
        more = self._draw(width)
        more[:, : block.shape[2]] *= NOISE
        block = torch.nn.functional.pad(block, (0, width - block.shape[2]))
        for one in (more, 0):  # the second round removes errors that the first round's normalisation made large
            block = block - self._Q @ (self._Q.mT @ block)
            block = block / block.norm(dim=1, keepdim=True).clamp_min(torch.finfo(block.dtype).tiny)
            block = torch.linalg.qr(block + one)[0]
        return block

    def _draw(self, columns: int) -> Tensor:
        """Draw random columns, the same for all problems."""
        drawn = torch.randn(self.size, columns, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.device)
