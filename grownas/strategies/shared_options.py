"""The options of the strategies that share weights among genotypes. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from grownas.config.schema import Count, SearchWeights, StrategySection, Whole, about


class SharedSection(StrategySection):
    """The common options of these strategies."""

    top_k: ClassVar[None] = None  # a genotype says itself how many ops a node has
    readout: ClassVar[str] = "share"  # of these options of supernets there is one value here
    follow_hessian_windows: ClassVar[int] = 0
    follow_cell_epochs: ClassVar[int] = 0
    max_epochs: Annotated[Count, about("epochs of the shared weights' training, one genotype per batch")] = 100
    unit_epochs: Annotated[Count, about("epochs per unit of work; the budget is checked after each unit")] = 5
    weights: SearchWeights = SearchWeights()
    rounds: Annotated[Count, about("rounds of samples that are ranked after training; the best of all is kept")] = 1
    samples: Annotated[Count, about("genotypes per round, scored on the validation part with the shared weights")] = 200
    rank_windows: Annotated[
        Count | None,
        about("rank the samples on so many windows first, then score the best `rescored`; null: score all samples"),
    ] = None
    rescored: Annotated[Count, about("best samples of a round that are scored, with `rank_windows`")] = 10
    fine_tune_epochs: Annotated[Whole, about("epochs of the best cell, starting from the shared weights")] = 50


class RandomSharedOptions(SharedSection):
    """The options of random search with shared weights."""

    use: Literal["random_shared"] = "random_shared"
