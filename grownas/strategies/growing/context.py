"""The input of a stage: the candidate to change, and what belongs to the stage."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from grownas.backbones.chain import Backbone
from grownas.criteria.readout import AnyBackbone
from grownas.protocols import Journal, Problem, Task
from grownas.strategies.cores import noise_for, supernet_of
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.state import Candidate
from grownas.training.loop import Fit, Tree
from grownas.training.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """The input of a stage.

    Attributes:
        best: the candidate to change.
        problem: the problem of the search: task, journal, space, seed.
        options: options of growth.
        l2_sp: strength of the L2-SP penalty in the stage.
        number: number of the stage.
        source: number of the stage that trained `best`.
    """

    best: Candidate
    problem: Problem
    options: Options
    l2_sp: float
    number: int
    source: int

    @property
    def task(self) -> Task:
        """Data, loss and score."""
        return self.problem.task

    @property
    def journal(self) -> Journal:
        """The search's journal; it also stores results of criteria."""
        return self.problem.journal

    @property
    def seed(self) -> int:
        """Seed of noise, random choices and data order."""
        return self.problem.seed

    @property
    def core(self) -> AnyBackbone:
        """The best candidate's supernet."""
        return supernet_of(self.best.model)

    @property
    def chain(self) -> Backbone:
        """The best candidate's supernet, for moves that only a chain has."""
        assert isinstance(self.core, Backbone), "options that need a chain are refused on a dag"
        return self.core

    @property
    def recipe(self) -> Recipe:
        """The recipe of the stage."""
        return self.options.stage_recipe(self.number, self.l2_sp)

    @property
    def tuning(self) -> Recipe:
        """The recipe of the fine-tuning after a pruning."""
        return replace(self.recipe, epochs=self.options.fine_tune_epochs)

    def fit(self, key: str, begin: Candidate, recipe: Recipe) -> Fit:
        """Train a candidate."""
        recipe = replace(recipe, bf16=self.problem.bf16)
        return self.journal.fit(
            key, begin.model, self.task, recipe, seed=self.seed, optimizers=begin.optimizers, stage=self.number
        )

    def remember(self, what: str, work: Callable[[], Tree]) -> Tree:
        """Return a criterion's result for the best candidate, computed once for all stages that begin with it.

        Args:
            what: name of the criterion.
            work: computes the result. It must not depend on the stage, only on the candidate.
        """
        return self.journal.remember(f"after-stage-{self.source}-{what}", work)

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on new weights."""
        return noise_for(self.options.noise, self.l2_sp, self.core.hidden_size)

    def seed_of(self, stage: int) -> int:
        """Return the seed of a stage's noise and random choices."""
        return self.seed + (1000 * stage if stage > 1 else 0)

    def generator(self, stage: int | None = None, draw: int = 0) -> torch.Generator:
        """Return a new generator for a stage (this stage if None) and a draw; equal arguments give equal numbers."""
        return torch.Generator().manual_seed(self.seed_of(self.number if stage is None else stage) + 100 * draw)

    def drawing(self, what: str) -> random.Random:
        """Return a new generator for this stage and a purpose; different purposes have independent numbers."""
        return random.Random(f"{self.seed_of(self.number)} {what}")

    def shuffled(self, what: str, things: Sequence[Any]) -> list[Any]:
        """Return the items in random order."""
        return self.drawing(what).sample(things, len(things))
