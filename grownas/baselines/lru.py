"""The linear recurrent unit (LRU) in its block: a diagonal complex recurrence between pointwise layers."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import gelu, glu, linear

from grownas.baselines.scan import scan
from grownas.readout import drawn_linear

R_MIN, R_MAX = 0.0, 0.99  # ring of the first eigenvalues; 1 itself would have an infinite gain
MAX_PHASE = 2 * math.pi


class LRU(nn.Module):
    """A linear encoder and one block: norm, linear recurrent unit, GELU, gated linear unit, and a skip around them.

    The unit computes s_t = lambda * s_{t-1} + gamma * (B v_t) and y_t = Re(C s_t) + D * v_t, with as many complex
    states as units. lambda = exp(-exp(nu) + i exp(theta)) has a modulus below 1 whatever training does.

    Attributes:
        input_size: I.
        hidden_size: H.

    Reference:
        Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu & De (2023), Resurrecting recurrent neural networks for long
        sequences, section 3 and appendix A. We use one block, as the LSTM has one layer, and layer norm instead of
        batch norm, which would read later rows in training. Validation tunes no dropout, so there is none.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, r_min: float = R_MIN, r_max: float = R_MAX, generator: Generator
    ) -> None:
        """Draw the weights; the eigenvalues are uniform on the ring of moduli `r_min` to `r_max`.

        Args:
            input_size: I.
            hidden_size: H.
            r_min: inner radius of the ring, at least 0.
            r_max: outer radius, above `r_min`, below 1.
            generator: draws all weights.
        """
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.encoder = drawn_linear(input_size, hidden_size, generator=generator)
        self.norm = nn.LayerNorm(hidden_size)
        area, turn = (1 - torch.rand(hidden_size, generator=generator) for _ in range(2))  # in (0, 1]: no log of 0
        modulus = torch.sqrt(r_min**2 + area * (r_max**2 - r_min**2))
        self.nu = nn.Parameter(torch.log(-torch.log(modulus)))
        self.theta = nn.Parameter(torch.log(MAX_PHASE * turn))
        self.gamma = nn.Parameter(0.5 * torch.log(1 - modulus**2))  # the states then have the drive's variance
        self.drive = nn.Parameter(_normal(2 * hidden_size, hidden_size, generator) / math.sqrt(2))  # B: real, imaginary
        self.read = nn.Parameter(_normal(hidden_size, 2 * hidden_size, generator) * math.sqrt(2))  # Re C and -Im C
        self.skip = nn.Parameter(torch.randn(hidden_size, generator=generator))  # D
        self.gated = drawn_linear(hidden_size, 2 * hidden_size, generator=generator)

    @property
    def eigenvalues(self) -> Tensor:
        """lambda, complex, shape `(H,)`."""
        return torch.polar(torch.exp(-torch.exp(self.nu)), torch.exp(self.theta))

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over a sequence.

        Args:
            x: shape `(T, B, I)`.
            h_0: real and imaginary part of s, shape `(1, B, H, 2)`; zeros if None.

        Returns:
            Outputs `(T, B, H)` and the last state `(1, B, H, 2)`.
        """
        encoded = self.encoder(x)
        inner = self.norm(encoded)
        drive = torch.exp(self.gamma) * torch.complex(*linear(inner, self.drive).to(self.nu).chunk(2, dim=-1))
        first = torch.zeros_like(drive[0]) if h_0 is None else torch.view_as_complex(h_0[0])
        states = scan(self.eigenvalues.expand_as(drive), drive, first)  # (T, B, H)
        out = linear(torch.cat([states.real, states.imag], dim=-1), self.read) + self.skip * inner
        return encoded + glu(self.gated(gelu(out)), dim=-1), torch.view_as_real(states[-1:])


def _normal(rows: int, columns: int, generator: Generator) -> Tensor:
    """Return a normal matrix of variance 1 / columns."""
    return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
