"""The options of aging evolution: one section of a config. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated, Literal

from grownas.config.schema import Count, about
from grownas.strategies.sampling_options import SamplingSection


class Options(SamplingSection):
    """The options of aging evolution."""

    use: Literal["evolution"] = "evolution"
    genotypes: Annotated[Count, about("number of genotypes, if the budget has no limit")] = 200
    population: Annotated[Count, about("genotypes that live; the first so many are drawn at random")] = 50
    tournament: Annotated[Count, about("genotypes drawn from the population, the best of which is the parent")] = 10
    batch: Annotated[Count, about("children drawn from one population, which may be trained at once")] = 1
