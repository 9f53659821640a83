"""The options of growth: one section of a config, checked on construction."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from grownas.config.schema import (
    Count,
    Distinct,
    NonNegative,
    Number,
    OneOrMore,
    Optimizer,
    Positive,
    SearchWeights,
    Section,
    Share,
    StrategySection,
    Whole,
    about,
)
from grownas.criteria.threshold import Thresholds
from grownas.errors import ConfigError

if TYPE_CHECKING:
    from grownas.training.recipe import Recipe

MODES: dict[str, tuple[str, ...]] = {  # kinds of moves with which a stage may begin, see `moves.MOVES`
    "nodes": ("add_node",),
    "ops_duplicate": ("duplicate_op",),
    "ops_split": ("split_op",),
    "nodes_and_ops": ("add_node", "duplicate_op", "split_op"),
}


ON_A_DAG: dict[
    str, tuple[Any, ...]
] = {  # what some options may be if the backbone is a DAG; the others may be anything
    "mode": ("nodes",),
    "choice": ("criteria",),
    "birth": ("blend", "drawn"),
    "position": ("last",),
    "candidates": (1,),
    "restarts": (0,),
    "replace": ("none",),
    "top_k": (None,),
    "readout": ("share",),
}


class Splitting(Section):
    """The choice of ops to split."""

    rule: Annotated[
        Literal["neg_sum", "neg_count"],
        about("rank ops by predicted fall of the loss, or by number of units that gain"),
    ] = "neg_sum"
    count: Annotated[Count, about("number of ops split at once")] = 1
    part: Annotated[Literal["train", "val"], about("data part of the loss that splits reduce")] = "train"
    curvature: Annotated[Literal["exact", "softplus"], about("of relu: zero, or that of softplus")] = "exact"


class Options(StrategySection):
    """The options of growth."""

    use: Literal["growing"] = "growing"
    max_epochs: Annotated[Count, about("most epochs of a stage")] = 200
    first_epochs: Annotated[
        Count | None, about("most epochs of the first stage, before a node is added; null: `max_epochs`")
    ] = 10
    later_epochs: Annotated[
        Count | None, about("epochs of later stages, in one decay with the first; null: `max_epochs`, separate decay")
    ] = None
    patience: Annotated[
        Count | None,
        about("epochs without a lower validation loss before a stage stops; null: train all epochs and keep the last"),
    ] = 8
    mode: Annotated[
        Literal["nodes", "ops_duplicate", "ops_split", "nodes_and_ops"],
        about("the changes with which a stage may begin"),
    ] = "nodes"
    choice: Annotated[
        Literal["criteria", "random"], about("how the change is chosen; random: the control for the criteria")
    ] = "criteria"
    trial_epochs: Annotated[Count, about("epochs for which each kind of change is tried, if there are several")] = 5
    bilevel: Annotated[Literal["joint", "first", "second"], about("how alpha is trained")] = "joint"
    weights: SearchWeights = SearchWeights()
    alpha: Optimizer = Optimizer()
    l2_sp: Annotated[
        tuple[NonNegative, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about(
            "strengths of the decoupled L2-SP penalty on the distance from the stage's first weights; tried in order"
        ),
    ] = (0.0,)
    origins: Annotated[
        Literal[1, 3, 5],
        about("validation blocks that test the first stage; above 1 it is repeated at earlier points in time"),
    ] = 3
    gated: Annotated[
        bool,
        about(
            "series with start.use=var, no budget: also grow from one gated node (op add/tanh, random weights); "
            "keep its cell if it is better at all `origins` (above 1) together"
        ),
    ] = True
    outer_patience: Annotated[
        Count, about("rejected changes of a kind before the kind is dropped; growth stops when all kinds are dropped")
    ] = 1
    max_ops: Annotated[Count | None, about("most ops of a node")] = 16
    max_params: Count | None = None
    nodes_at_once: Annotated[Count, about("nodes that a stage adds, one after the other")] = 2
    birth: Annotated[
        Literal["blend", "drawn", "carrier"],
        about("how a node is added: blended in from 0 to 1, added at once, or with an identity op that remains"),
    ] = "blend"
    blend_steps: Annotated[Whole, about("weight steps over which a node is blended in")] = 90
    candidates: Annotated[
        Count, Field(le=8), about("nodes drawn at each position; the one with the largest first-order gain is added")
    ] = 1
    carrier_share: Annotated[Share, about("share of a carrier")] = 0.5
    noise: Annotated[
        NonNegative,
        about("sd of noise on new nodes, copies and ops without effect; unit: 1 / sqrt(hidden size)"),
    ] = 0.4
    new_rate: Annotated[Positive, about("factor on `weights.rate` for a new node's weights")] = 1.0
    old_rate: Annotated[
        Positive,
        about("factor on `weights.rate` for all other weights in a stage with a new node; not on alpha's rate"),
    ] = 1.0
    position: Annotated[
        Literal["first", "middle", "last", "best"], about("where a node is inserted; best: by first-order gain")
    ] = "last"
    splitting: Splitting = Splitting()
    grow_threshold: Annotated[
        Number, Field(gt=0, le=1), about("ops with a larger share are duplicated, if `mode` duplicates ops")
    ] = 0.2
    prune: Annotated[Literal["none", "each_stage", "at_end"], about("when small ops are removed")] = "at_end"
    prune_threshold: Annotated[Number, Field(ge=0, lt=1), about("ops with a smaller share are removed")] = 0.05
    smoothing: Annotated[
        Number, Field(gt=0, le=1), about("weight of the latest epoch in the smoothed shares; 1: no smoothing")
    ] = 0.3
    hysteresis: Annotated[
        Number, Field(ge=0, lt=1), about("fraction of a threshold by which a share must come back past it")
    ] = 0.2
    min_age: Annotated[Whole, about("epochs of training before an op is duplicated or pruned")] = 5
    top_k: Annotated[Count | None, about("most ops that a node keeps, if there is pruning")] = None
    readout: Annotated[
        Literal["share", "ablation"],
        about("which ops `top_k` keeps: by largest share, or by ablation on validation data"),
    ] = "share"
    replace: Annotated[
        Literal["none", "uniform", "missing"],
        about("op that replaces a pruned op: none, drawn from all ops, or drawn from the ops that the node lacks"),
    ] = "none"
    restarts: Annotated[
        Whole,
        about(
            "stages at the end; each redraws the smallest op of every node (from all ops, unless `replace`: missing)"
        ),
    ] = 0
    fine_tune_epochs: Annotated[Count, about("most epochs after a pruning, and of the cell read out of a dag")] = 50

    @cached_property
    def thresholds(self) -> Thresholds:
        """The thresholds of shares for duplication and pruning.

        Raises:
            ConfigError: they contradict each other.
        """
        duplicates = "duplicate_op" in MODES[self.mode]
        return Thresholds(
            self.grow_threshold if duplicates else math.inf,  # inf: no share is above it
            self.prune_threshold,
            self.hysteresis,
            self.smoothing,
            self.min_age,
        )

    def check_dag(self) -> None:
        """Check that growth can do on a DAG what the options ask for.

        Raises:
            ConfigError: it cannot.
        """
        wrong = {key: known for key, known in ON_A_DAG.items() if getattr(self, key) not in known}
        if wrong:
            asked = ", ".join(f"strategy.{key}={_written(getattr(self, key))}" for key in wrong)
            allowed = ", ".join(f"strategy.{key}={' or '.join(map(_written, known))}" for key, known in wrong.items())
            raise ConfigError(f"space.backbone=dag: growing offers {asked} on a chain only; set {allowed}")

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that all stages share."""
        from grownas.training.recipe import recipe_from

        return recipe_from(
            self.weights.model_dump(),
            alpha=self.alpha.model_dump(),
            epochs=self.max_epochs,
            patience=self.patience,
            bilevel=self.bilevel,
        )

    def stage_recipe(self, number: int, l2_sp: float) -> Recipe:
        """Return the recipe of a stage, counted from 1."""
        recipe = replace(self.recipe, l2_sp=l2_sp, blend_steps=self.blend_steps)
        first = recipe.epochs if self.first_epochs is None else min(self.first_epochs, recipe.epochs)
        if self.later_epochs is None:
            return recipe.first(first) if number == 1 else recipe
        cut = first / (first + self.later_epochs)
        if number == 1:
            return replace(recipe, decay_span=(0.0, cut), epochs=first)
        return replace(recipe, decay_span=(cut, 1.0), epochs=self.later_epochs)

    def rest_recipe(self, l2_sp: float, done: int) -> Recipe:
        """Return the recipe that continues a first stage, cut short after `done` epochs, up to `max_epochs`."""
        first = self.stage_recipe(1, l2_sp)
        cut, left = first.decay_span[1], self.recipe.epochs - done
        at = 1 - (1 - cut) * left / max(1, self.recipe.epochs - first.epochs)
        return replace(first, epochs=left, decay_span=(at, 1.0))

    def first_refit(self, l2_sp: float, epochs: int) -> Recipe:
        """Return the recipe that repeats the first stage for `epochs` epochs, including its continuation."""
        first = self.stage_recipe(1, l2_sp)
        if epochs > first.epochs:
            first = replace(first, epochs=self.recipe.epochs, decay_span=(0.0, 1.0))
        return first.refit(epochs)


def _written(value: Any) -> str:
    """Return a value as it is written in a config."""
    return "null" if value is None else str(value)
