"""Lowest eigenpairs of many symmetric matrices at once, each known by its products with vectors alone.

Block Lanczos with full reorthogonalisation. A product with a block is all that is asked for at a time, so that whoever
computes it may go through its data once for the blocks of several problems.
"""

from __future__ import annotations

import warnings

import torch
from torch import Generator, Tensor

BLOCK = 4  # vectors a problem and product: fewer need more products, more reach no further with all of theirs
BASIS = 128  # vectors a problem that are kept before a restart, which bounds memory
KEPT = 16  # of them after it
PRODUCTS = 200
FLOOR = 1e-3  # of the largest eigenvalue found: smaller ones are held to this one's tolerance
NOISE = 1e-12  # in directions of length 1: fills a block whose rank is less than its width


class LowestEigenpairs:
    """The state of a search for the lowest eigenpair of each of P symmetric matrices of D rows, in float64.

    Multiply `block` by the open problems' matrices, hand the product to `take`, until `is_done`. Start and noise come
    from a fixed seed: the same products give the same result.

    Attributes:
        open: numbers of the problems that are not done, shape `(O,)`.
        block: what to multiply their matrices by, `(O, D, b)`; columns are orthonormal.
        eigenvalues: of all problems, `(P,)`; upper bounds until a problem is done.
        eigenvectors: of length 1, `(P, D)`.
    """

    def __init__(
        self,
        problems: int,
        size: int,
        *,
        block: int = BLOCK,
        tolerance: float = 1e-7,
        basis: int = BASIS,
        device: torch.device | str = "cpu",
    ) -> None:
        """Draw the first block.

        Args:
            problems: P.
            size: D.
            block: most columns of a block.
            tolerance: of an eigenvalue, relative.
            basis: vectors that are kept before a restart; more than a few blocks.
            device: of all tensors.
        """
        self.size, self.width, self.basis, self.device = size, block, max(basis, KEPT + 4 * block), device
        self.tolerance = tolerance
        self.generator = Generator().manual_seed(0)
        self.open = torch.arange(problems, device=device)
        self.eigenvalues = torch.zeros(problems, dtype=torch.float64, device=device)
        self.eigenvectors = torch.zeros(problems, size, dtype=torch.float64, device=device)
        self._Q = self._SQ = self._noise(problems, 0)  # basis and its products, (O, D, m)
        self._products = 0
        self.block = self._orthonormal(self._noise(problems, min(block, size)))

    @property
    def is_done(self) -> bool:
        """Whether all problems are."""
        return len(self.open) == 0

    def take(self, product: Tensor) -> None:
        """Take the product of the open problems' matrices with `block`, same shape; close those that are done.

        The error of the lowest Ritz value is at most its residual's norm r, and at most r^2 over its distance from the
        next eigenvalue, for which the next Ritz value stands in.

        Warns:
            RuntimeWarning: problems are given up after many products; their eigenvalues stay upper bounds.
        """
        self._products += 1
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
        going = error > self.tolerance * torch.maximum(lowest.abs(), FLOOR * scale)
        if Q.shape[2] == self.size:  # the basis is the whole space
            going = torch.zeros_like(going)
        if self._products == PRODUCTS and going.any():
            warnings.warn(
                f"{int(going.sum())} of {len(self.eigenvalues)} lowest eigenvalues have not converged after {PRODUCTS} "
                "products; they are upper bounds",
                RuntimeWarning,
                stacklevel=2,
            )
            going = torch.zeros_like(going)
        self._go_on(Q[going], SQ[going], Y[going], going)

    def _go_on(self, Q: Tensor, SQ: Tensor, Y: Tensor, going: Tensor) -> None:
        """Make the open problems' next block."""
        self.open = self.open[going]
        self._Q, self._SQ = Q, SQ
        if self.is_done:
            self.block = Q[:, :, :0]
            return
        room = self.size - Q.shape[2]
        self.block = self._orthonormal(SQ[:, :, -min(self.block.shape[2], room) :])
        if Q.shape[2] + self.width > self.basis:  # the new block is orthogonal to what goes, too
            self._Q, self._SQ = Q @ Y[:, :, :KEPT], SQ @ Y[:, :, :KEPT]

    def _orthonormal(self, block: Tensor) -> Tensor:
        """Return an orthonormal basis of a block's part outside the basis; noise where there is none."""
        tiny, noise = torch.finfo(block.dtype).tiny, NOISE * self._noise(*block.shape[::2])
        for more in (noise, 0, 0):  # each round takes away what the one before, in dividing by a length, made large
            block = block - self._Q @ (self._Q.mT @ block)
            block = block / block.norm(dim=1, keepdim=True).clamp_min(tiny)
            block = torch.linalg.qr(block + more)[0]
        return block

    def _noise(self, problems: int, columns: int) -> Tensor:
        shape = problems, self.size, columns
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.device)
