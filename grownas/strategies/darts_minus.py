"""DARTS-: DARTS with an auxiliary skip beside each mixture, which fades during the search (Chu et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from grownas.config.schema import NonNegative, Positive, about
from grownas.strategies.supernet import Alpha, SupernetSection, SupernetStrategy


class MinusAlpha(Alpha):
    """The optimiser of alpha, as published but for Adam's betas, which are PyTorch's."""

    rate: Positive = 3e-4


class Options(SupernetSection):
    """What governs DARTS-."""

    use: Literal["darts_minus"] = "darts_minus"
    skip: Annotated[NonNegative, about("first factor on the input that is added beside each mixture")] = 1.0
    alpha: MinusAlpha = MinusAlpha()


class DartsMinus(SupernetStrategy):
    """The strategy `darts_minus` (see `grownas.protocols.Strategy`).

    Beside each mixture, of a chain's node or a DAG's edge, beta times its input is added; beta falls linearly from
    `skip` to 0 over `max_epochs`. So the identity op need not carry the gradient, and its share tells what it is worth
    as an op. Evaluations are without the skip, since no cell that is read out has it. With `skip: 0` it is DARTS.

    Reference:
        Chu, Wang, Zhang, Lu, Wei & Yan (2021), DARTS-: Robustly Stepping out of Performance Collapse Without
        Indicators.
    """

    name: ClassVar[str] = "darts_minus"
    section = Options

    def method(self) -> Mapping[str, Any]:
        """Return beta at the start."""
        return {"skip": self.options.skip}
