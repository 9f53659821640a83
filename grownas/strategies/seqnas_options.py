"""The options of SeqNAS: one section of a config. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated, Literal

from grownas.config.schema import Count, NonNegative, Positive, Several, about
from grownas.strategies.sampling_options import SamplingSection


class Options(SamplingSection):
    """The options of SeqNAS."""

    use: Literal["seqnas"] = "seqnas"
    genotypes: Annotated[Count, about("number of genotypes, if the budget has no limit")] = 60
    initial: Annotated[Several, about("genotypes drawn at random, from which the predictors first learn")] = 20
    candidates: Annotated[Count, about("genotypes drawn in each round, of which the predictors choose")] = 100
    per_round: Annotated[Count, about("genotypes trained in each round")] = 5
    predictors: Annotated[Several, about("number of predictors; their disagreement is the uncertainty")] = 5
    distil: Annotated[bool, about("train the chosen genotypes also on the predictions of the best earlier models")] = (
        True
    )
    teachers: Annotated[Count, about("number of best earlier models whose mean prediction teaches")] = 3
    distillation: Annotated[NonNegative, about("weight of the distance from the mean prediction")] = 1.0
    temperature: Annotated[Positive, about("by which logits are divided in that distance; of texts")] = 2.0
