"""The options of growth: one section of a config, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from grownas.config.schema import (
    Count,
    Distinct,
    NonNegative,
    Number,
    OneOrMore,
    Optimizer,
    Positive,
    Section,
    Share,
    StrategySection,
    WeightOptimizer,
    Whole,
    about,
)
from grownas.criteria.threshold import Thresholds

if TYPE_CHECKING:
    from grownas.training.recipe import Recipe

MODES: dict[str, tuple[str, ...]] = {  # the kinds of moves that a stage may begin with, see `moves.MOVES`
    "nodes": ("add_node",),
    "ops_duplicate": ("duplicate_op",),
    "ops_split": ("split_op",),
    "nodes_and_ops": ("add_node", "duplicate_op", "split_op"),
}


class Weights(WeightOptimizer):
    """The weights' optimiser in growth."""

    rate: Positive = 5e-3
    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 0.5


class Splitting(Section):
    """How ops are chosen to be split."""

    rule: Annotated[
        Literal["neg_sum", "neg_count"], about("largest predicted fall of the loss, or most units that gain")
    ] = "neg_sum"
    count: Annotated[Count, about("ops that are split at once")] = 1
    part: Annotated[Literal["train", "val"], about("data of which the loss is to fall")] = "train"
    curvature: Annotated[Literal["exact", "softplus"], about("of relu: none, or softplus's")] = "exact"


class Options(StrategySection):
    """What governs growth."""

    use: Literal["growing"] = "growing"
    max_epochs: Annotated[Count, about("of a stage")] = 200
    first_epochs: Annotated[
        Count | None, about("of the first stage, before a node is added; null: until its patience ends")
    ] = 10
    later_epochs: Annotated[
        Count | None, about("of every stage but the first, which share a decay with it; null: as many")
    ] = None
    patience: Annotated[
        Count | None,
        about(
            "epochs without a lower validation loss before a stage ends; null: it has all epochs, and the last is kept"
        ),
    ] = 8
    mode: Annotated[
        Literal["nodes", "ops_duplicate", "ops_split", "nodes_and_ops"], about("what a stage may begin with")
    ] = "nodes"
    choice: Annotated[
        Literal["criteria", "random"], about("how the move is chosen; random: the control for the criteria")
    ] = "criteria"
    trial_epochs: Annotated[Count, about("each kind of move is tried for, where there are several")] = 5
    bilevel: Annotated[Literal["joint", "first", "second"], about("how alpha learns")] = "joint"
    weights: Weights = Weights()
    alpha: Optimizer = Optimizer()
    l2_sp: Annotated[
        tuple[NonNegative, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about("strength of the decoupled L2-SP penalty towards the stage's first weights; tried in order"),
    ] = (0.0,)
    origins: Annotated[
        Literal[1, 3, 5],
        about("validation blocks that judge the first stage; above 1 it is repeated at earlier points in time"),
    ] = 3
    outer_patience: Annotated[
        Count, about("moves of a kind that are not accepted before it is given up; growth ends when all kinds are")
    ] = 1
    max_ops: Annotated[Count | None, about("of a node")] = 16
    max_params: Count | None = None
    nodes_at_once: Annotated[Count, about("that a stage adds, one behind the other")] = 2
    birth: Annotated[
        Literal["blend", "drawn", "carrier"],
        about("of a node: mixed in from 0 to 1, put in at once, or with an identity that stays"),
    ] = "blend"
    blend_steps: Annotated[Whole, about("weight steps in which a node is mixed in")] = 90
    candidates: Annotated[
        Count, Field(le=8), about("nodes drawn at each position, the steepest of which is blended in")
    ] = 1
    carrier_share: Annotated[Share, about("of a carrier")] = 0.5
    noise: Annotated[
        NonNegative,
        about("sd on new weights: a node's, a copy's, the start's silent ops'; in units of 1 / sqrt(hidden size)"),
    ] = 0.4
    new_rate: Annotated[Positive, about("factor on `weights.rate` for a new node's weights")] = 1.0
    old_rate: Annotated[Positive, about("and for all others in a stage with a new node; alpha keeps its own")] = 1.0
    position: Annotated[
        Literal["first", "middle", "last", "best"], about("where a node is inserted; best: by first-order gain")
    ] = "last"
    splitting: Splitting = Splitting()
    grow_threshold: Annotated[
        Number, Field(gt=0, le=1), about("ops with a larger share are duplicated, in the modes that do so")
    ] = 0.2
    prune: Annotated[Literal["none", "each_stage", "at_end"], about("when small ops are removed")] = "at_end"
    prune_threshold: Annotated[Number, Field(ge=0, lt=1), about("ops with a smaller share go")] = 0.05
    smoothing: Annotated[
        Number, Field(gt=0, le=1), about("weight of an epoch's shares in the smoothed ones; 1: none is smoothed")
    ] = 0.3
    hysteresis: Annotated[
        Number, Field(ge=0, lt=1), about("part of a threshold by which a share must come back to count as within")
    ] = 0.2
    min_age: Annotated[Whole, about("epochs that an op is trained before it is duplicated or pruned")] = 5
    top_k: Annotated[Count | None, about("ops a node keeps at most, where there is pruning")] = None
    readout: Annotated[
        Literal["share", "ablation"], about("which ops `top_k` keeps: the largest, or those most missed on validation")
    ] = "share"
    replace: Annotated[
        Literal["none", "uniform", "missing"],
        about("what takes a pruned op's place: nothing, or one drawn from all ops or from those the node lacks"),
    ] = "none"
    restarts: Annotated[
        Whole,
        about(
            "stages at the end, each with every node's smallest op drawn anew (from all ops, unless `replace`: missing)"
        ),
    ] = 0
    fine_tune_epochs: Annotated[Count, about("after a pruning, at most")] = 50

    @cached_property
    def thresholds(self) -> Thresholds:
        """The shares by which ops are duplicated and pruned.

        Raises:
            ConfigError: they contradict each other.
        """
        duplicates = "duplicate_op" in MODES[self.mode]
        return Thresholds(
            self.grow_threshold if duplicates else math.inf,  # no share is above it, and none keeps others
            self.prune_threshold,
            self.hysteresis,
            self.smoothing,
            self.min_age,
        )

    @cached_property
    def recipe(self) -> Recipe:
        """How a stage is trained, but for what differs from stage to stage."""
        from grownas.training.recipe import recipe_from

        return recipe_from(
            self.weights.model_dump(),
            alpha=self.alpha.model_dump(),
            epochs=self.max_epochs,
            patience=self.patience,
            bilevel=self.bilevel,
        )

    def stage_recipe(self, number: int, l2_sp: float) -> Recipe:
        """Return how a stage is trained, the first being number 1."""
        recipe = replace(self.recipe, l2_sp=l2_sp, blend_steps=self.blend_steps)
        first = recipe.epochs if self.first_epochs is None else min(self.first_epochs, recipe.epochs)
        if self.later_epochs is None:
            return recipe.first(first) if number == 1 else recipe
        cut = first / (first + self.later_epochs)
        if number == 1:
            return replace(recipe, decay_span=(0.0, cut), epochs=first)
        return replace(recipe, decay_span=(cut, 1.0), epochs=self.later_epochs)

    def rest_recipe(self, l2_sp: float, done: int) -> Recipe:
        """Return how a first stage that was cut short after so many epochs is trained on, to the end of all epochs."""
        first = self.stage_recipe(1, l2_sp)
        cut, left = first.decay_span[1], self.recipe.epochs - done
        at = 1 - (1 - cut) * left / max(1, self.recipe.epochs - first.epochs)
        return replace(first, epochs=left, decay_span=(at, 1.0))

    def first_refit(self, l2_sp: float, epochs: int) -> Recipe:
        """Return how to repeat the first stage for so many epochs, those after it was cut short included."""
        first = self.stage_recipe(1, l2_sp)
        if epochs > first.epochs:
            first = replace(first, epochs=self.recipe.epochs, decay_span=(0.0, 1.0))
        return first.refit(epochs)
