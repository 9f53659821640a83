"""Lowest eigenpairs of many symmetric matrices at once, each known by its products with vectors alone.

Block Lanczos with full reorthogonalisation. A product with a block is all that is asked for at a time, so that whoever
computes it may go through its data once for the blocks of several problems.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

BASIS = 128  # vectors a problem that are kept before a restart, which bounds memory
KEPT = 16  # of them after it
SPREAD = 4  # with fewer than 1 / 4 of the problems open blocks are widened: a product costs more than its vectors
FLOOR = 1e-3  # of the largest eigenvalue found: smaller ones are held to this one's tolerance
NOISE = 1e-12  # in directions of length 1: fills a block whose rank is less than its width


class LowestEigenpairs:
    """The state of a search for the lowest eigenpair of each of P symmetric matrices of D rows, in float64.

    Multiply `block` by the open problems' matrices, hand the product to `take`, until `is_done`. Start and noise come
    from a fixed seed: the same products give the same result.

    Attributes:
        open: numbers of the problems that are not done, shape `(O,)`.
        block: what to multiply their matrices by, `(O, D, b)`; columns are orthonormal.
        eigenvalues: of all problems, `(P,)`; upper bounds, each v^T S v of its eigenvector v.
        eigenvectors: of length 1, `(P, D)`.
        given_up: how many problems were closed before their eigenvalue was known to the tolerance.
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
            tolerance: of an eigenvalue, relative.
            summed: above 1: hold to it each so many problems' sum of the eigenvalues' sizes, so that small eigenvalues
                are not asked for more digits than large ones.
            most: products after which all problems are closed, whatever their errors; see `given_up`.
            basis: vectors a problem that are kept before a restart; made larger where it is less than four blocks.
            device: of all tensors.
        """
        self.size, self.width, self.basis, self.device = size, block, max(basis, 2 * KEPT, 4 * block), device
        self.tolerance, self.summed, self.left, self.given_up = tolerance, summed, most, 0
        self.generator = Generator().manual_seed(0)
        self.open = torch.arange(problems, device=device)
        self.eigenvalues = torch.zeros(problems, dtype=torch.float64, device=device)
        self.eigenvectors = torch.zeros(problems, size, dtype=torch.float64, device=device)
        self._Q = self._SQ = torch.zeros(problems, size, 0, dtype=torch.float64, device=device)  # basis, its products
        self.block = torch.linalg.qr(self._draw(min(block, size)))[0].expand(problems, -1, -1)

    @property
    def is_done(self) -> bool:
        """Whether all problems are."""
        return len(self.open) == 0

    def take(self, product: Tensor) -> None:
        """Take the product of the open problems' matrices with `block`, same shape; close those that are done.

        The error of the lowest Ritz value is at most its residual's norm r, and at most r^2 over its distance from the
        next eigenvalue, for which the next Ritz value stands in.
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
        rounding = self.size * torch.finfo(torch.float64).eps * scale  # below it a sign means nothing
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
        """Make the open problems' next block."""
        self.open = self.open[going]
        self._Q, self._SQ = Q, SQ
        if self.is_done:
            self.block = Q[:, :, :0]
            return
        room, last = self.size - Q.shape[2], self.block.shape[2]
        width = max(last, min(self.width * len(self.eigenvalues) // (SPREAD * len(self.open)), self.basis // 2))
        self.block = self._orthonormal(SQ[:, :, -min(last, room) :], min(width, room))
        if Q.shape[2] + self.block.shape[2] > self.basis:  # the new block is orthogonal to what goes, too
            self._Q, self._SQ = Q @ Y[:, :, :KEPT], SQ @ Y[:, :, :KEPT]

    def _orthonormal(self, block: Tensor, width: int) -> Tensor:
        """Return an orthonormal basis of a block's part outside the basis, filled up with random columns."""
        more = self._draw(width)
        more[:, : block.shape[2]] *= NOISE
        block = torch.nn.functional.pad(block, (0, width - block.shape[2]))
        for one in (more, 0):  # the second round takes away what the first, in dividing by a length, made large
            block = block - self._Q @ (self._Q.mT @ block)
            block = block / block.norm(dim=1, keepdim=True).clamp_min(torch.finfo(block.dtype).tiny)
            block = torch.linalg.qr(block + one)[0]
        return block

    def _draw(self, columns: int) -> Tensor:
        """Draw columns, the same for all problems."""
        drawn = torch.randn(self.size, columns, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.device)
