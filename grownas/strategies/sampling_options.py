"""The options of every strategy that trains each genotype on its own. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated

from grownas.config.schema import (
    Count,
    Distinct,
    NonNegative,
    OneOrMore,
    Optimizer,
    Positive,
    SearchWeights,
    StrategySection,
    about,
)


class SamplingSection(StrategySection):
    """The options of a strategy that trains each genotype on its own; a strategy's section is a subclass."""

    genotypes: Annotated[Count, about("number of genotypes, if the budget has no limit")] = 10
    max_epochs: Annotated[Count, about("most epochs per genotype; patience usually stops earlier")] = 1000
    patience: Annotated[Count, about("epochs without a lower validation loss before training stops")] = 8
    trial_epochs: Annotated[
        Count | None, about("most epochs per genotype before the best is known and trained further; null: no limit")
    ] = None
    weights: SearchWeights = SearchWeights()
    alpha: Optimizer = Optimizer()
    rates: Annotated[
        tuple[Positive, ...],
        OneOrMore,
        Distinct,
        about("learning rates of the weights, one per genotype in turn; empty list: `weights.rate`"),
    ] = ()
    noise: Annotated[
        NonNegative, about("sd of noise on the start's weights without effect; unit: 1 / sqrt(hidden size)")
    ] = 0.4
