"""The options of random search: one section of a config. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated, Literal

from grownas.config.schema import Distinct, OneOrMore, Positive, about
from grownas.strategies.sampling_options import SamplingSection


class Options(SamplingSection):
    """The options of random search."""

    use: Literal["random"] = "random"
    rates: Annotated[
        tuple[Positive, ...],
        OneOrMore,
        Distinct,
        about("learning rates of the weights, one per genotype in turn; empty list: `weights.rate`"),
    ] = (0.001, 0.003, 0.01)
