"""The options of random search: one section of a config. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from grownas.config.schema import (
    Count,
    Distinct,
    NonNegative,
    OneOrMore,
    Optimizer,
    Positive,
    StrategySection,
    WeightOptimizer,
    about,
)


class Weights(WeightOptimizer):
    """The weights' optimiser of random search; by default that of growth."""

    rate: Positive = 5e-3
    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 0.5


class Options(StrategySection):
    """What governs random search."""

    use: Literal["random"] = "random"
    genotypes: Annotated[Count, about("that are drawn where the budget sets no limit")] = 10
    max_epochs: Annotated[Count, about("of each genotype's training; far above what patience allows")] = 1000
    patience: Annotated[Count, about("epochs without a lower validation loss before a training ends")] = 8
    weights: Weights = Weights()
    alpha: Optimizer = Optimizer()
    rates: Annotated[
        tuple[Positive, ...],
        OneOrMore,
        Distinct,
        about("of the weights, one a genotype in turn; an empty list: `weights.rate`"),
    ] = (0.001, 0.003, 0.01)
    noise: Annotated[
        NonNegative, about("sd on weights of the start that have no effect yet; in units of 1 / sqrt(hidden size)")
    ] = 0.4
