"""The options of random search: one section of a config. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from grownas.config.schema import Count, Distinct, OneOrMore, Positive, Section, Several, about
from grownas.strategies.sampling_options import SamplingSection


class Halving(Section):
    """Successive halving of batches of genotypes."""

    candidates: Annotated[Count, about("genotypes of a batch")] = 9
    first_epochs: Annotated[Count, about("epochs after which the batch is first compared")] = 3
    reduction_factor: Annotated[
        Several, about("each round keeps one genotype in so many and multiplies the epochs by this factor")
    ] = 3


class Options(SamplingSection):
    """The options of random search."""

    use: Literal["random"] = "random"
    rates: Annotated[
        tuple[Positive, ...],
        OneOrMore,
        Distinct,
        about("learning rates of the weights, one per genotype (or batch) in turn; empty list: `weights.rate`"),
    ] = (0.001, 0.003, 0.01)
    halving: Annotated[
        Halving | None, about("train batches of genotypes briefly, the best further; null: train each to its end")
    ] = None

    @model_validator(mode="after")
    def _check_epochs(self) -> Self:
        if self.halving is not None and self.trial_epochs is not None:
            raise ValueError("halving has its own epochs; leave out strategy.trial_epochs or strategy.halving")
        return self
