"""The base of all experiments: the search problem, the settings for training from random weights, the scores.

`Experiment` works for a task of any kind; `series` and `text` extend it for their kinds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from grownas.backbones.dag import EdgeReduction
from grownas.baselines.table import Baseline, baselines_for
from grownas.cells.derived import derived_cell
from grownas.config.loading import strategy_class
from grownas.config.sections import Config
from grownas.errors import ConfigError
from grownas.evaluation.comparison import pair_tests
from grownas.evaluation.scoring import Score
from grownas.experiments.choosing import Choice, Halving, Setting, choose
from grownas.genotype import AnyGenotype
from grownas.model_equations import model_equations
from grownas.protocols import (
    Budget,
    Folder,
    Journal,
    Model,
    OnSamples,
    Origin,
    Problem,
    Starting,
    Strategy,
    Task,
    Written,
)
from grownas.readout import begin_at_core
from grownas.space import SearchSpace
from grownas.starts.random import Ops, random_start
from grownas.starts.var import hidden_size_for
from grownas.training.recipe import Recipe, count_parameters, recipe_from

OPTIMIZER = "optimizer.safetensors"  # in a run folder


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that the search and the baselines need, for a task of any kind.

    Attributes:
        task: the data, with the loss of the search.
        journal: runs and saves the fits.
        strategy: the search strategy.
        space: the allowed ops.
        recipe: how models are trained from random weights.
        budget: limits of the search.
        seed: seed of weights and data order.
        refit: refit the chosen settings on training and validation data.
        backend: implementation that runs grown cells.
        hidden_size: hidden units of a cell.
        start_use: `random`, or the name of the task's start at which the search begins, see `protocols.Starting`.
        norm: of the supernets of a DAG, see `DagBackbone`.
        edge_reduction: of the supernets of a DAG, see `DagBackbone`.
        halving: how validation chooses among several settings.
        hidden_sizes: sizes that `lstm` and `gru` try, besides the size that matches the found cell's parameters.
        rates, weight_decays: values that every model trained from random weights tries.
        params: number of parameters of the found model, which baselines match; None if there is no found model.
        setting: the search's own setting, chosen before the search.
        tried: number of settings from which `setting` was chosen; 0 if there was no choice.
        seconds_before, steps_before: time and weight steps spent before the search.
    """

    task: Task
    journal: Journal
    strategy: Strategy
    space: SearchSpace
    recipe: Recipe
    seed: int
    budget: Budget = field(default_factory=Budget)
    refit: bool = False
    backend: str = "auto"
    hidden_size: int
    start_use: str = "random"
    norm: bool = False
    edge_reduction: EdgeReduction = "mean"
    halving: Halving = field(default_factory=Halving)
    hidden_sizes: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    weight_decays: tuple[float, ...] = ()
    params: int | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)
    tried: int = 0
    seconds_before: float = 0.0
    steps_before: int = 0

    @classmethod
    def of(cls, config: Config, journal: Journal, task: Task) -> Self:
        """Create the experiment of a config."""
        units = config.space.hidden_size
        return cls(
            hidden_size=hidden_size_for(1, _inputs_of(task)) if units == "auto" else units,
            start_use=config.start.use,
            **cls.choices(config),
            **cls.common(config, journal, task),
        )

    @classmethod
    def choices(cls, config: Config) -> dict[str, Any]:
        """Return the settings to try for models trained from random weights, and the halving that chooses."""
        return {
            "halving": Halving(**config.baselines.halving.model_dump()),
            "hidden_sizes": config.baselines.hidden_sizes,
            "rates": config.baselines.rates or (config.retrain.rate,),
            "weight_decays": config.baselines.weight_decays or (config.retrain.weight_decay,),
        }

    @classmethod
    def common(cls, config: Config, journal: Journal, task: Task) -> dict[str, Any]:
        """Return the arguments that experiments of all kinds take from a config."""
        return {
            "task": task,
            "journal": journal,
            "strategy": strategy_class(config.strategy.use)(config.strategy),
            "space": space_of(config),
            "recipe": retrain_recipe(config),
            "seed": config.seed,
            "budget": Budget(**config.budget.model_dump()),
            "refit": config.refit,
            "backend": config.backend,
            "norm": config.space.norm,
            "edge_reduction": config.space.edge_reduction,
        }

    @classmethod
    def check(cls, config: Config, task: Task) -> None:
        """Check the config before any training, so that a search does not fail halfway.

        Raises:
            ConfigError: the config does not fit the task.
        """
        if config.refit:
            try:
                task.with_refit()
            except NotImplementedError as error:
                raise ConfigError(str(error)) from error

    @property
    def input_size(self) -> int:
        """Number of inputs of a core."""
        return _inputs_of(self.task)

    # --- the search ---

    def start(self, nodes: Sequence[Ops], purpose: str, *, refitted: bool = False) -> Model:
        """Build the start of a search from each node's ops; `refitted`: fit it on training and validation data."""
        model = random_start(
            self.task,
            nodes,
            input_size=self.input_size,
            hidden_size=self.hidden_size,
            generator=self.draw(purpose),
            **self.switches,
        )
        if self.start_use == "random":
            return model
        task: Any = self.task.with_refit() if refitted else self.task
        assert isinstance(task, Starting), f"{task.name} names {self.start_use} in STARTS, but has no method `started`"
        return task.started(model, self.start_use)

    @property
    def switches(self) -> dict[str, Any]:
        """What is the same for all supernets, see `random_core`."""
        space = self.space
        return {
            "backbone": space.backbone,
            "highway": space.highway,
            "share_projection": space.share_projection,
            "norm": self.norm,
            "edge_reduction": self.edge_reduction,
            "cells": space.cells,
            "backend": self.backend,
        }

    def cell(self, genotype: AnyGenotype, purpose: str) -> Model:
        """Build the task's model around the derived cell of a genotype, with drawn weights."""
        generator = self.draw(purpose)
        core = derived_cell(genotype, self.input_size, self.hidden_size, backend=self.backend)
        core.reset_parameters(generator)
        return begin_at_core(self.task.model(core, generator=generator))

    def origins(self, nodes: Sequence[Ops], count: int) -> list[Origin]:
        """Return up to `count` earlier points in time, the latest first, with their starts; none for a general task."""
        return []

    def second_start(self) -> Self | None:
        """Return the experiment whose search begins at the second start; None if there is one start only."""
        return None

    def tuned(self, nodes: Sequence[Ops]) -> Self:
        """Return the experiment with the setting of the search chosen, for a start with these nodes."""
        return self

    def problem(self, nodes: Sequence[Ops], *, refitted: bool = False) -> Problem:
        """Return the problem of the search; `refitted`: the problem on training and validation data, for the refit."""

        def build(nodes: Sequence[Ops], purpose: str) -> Model:
            return self.start(nodes, purpose, refitted=refitted).eval()  # training sets its own mode

        return Problem(
            task=self.task.with_refit() if refitted else self.task,
            space=self.space,
            build=build,
            start=build(nodes, "start"),
            journal=self.journal,
            budget=self.budget,
            seed=self.seed,
            bf16=self.recipe.bf16,
            origins=lambda count: self.origins(nodes, count),
            build_cell=self.cell,
        )

    def score_start(self, start: Model) -> Score:
        """Score the start of the search."""
        return self.score("start", start, self.seconds_before)

    # --- models trained from random weights ---

    @property
    def baselines(self) -> dict[str, Baseline]:
        """The baselines of the task's kind, and the task's own."""
        section: Any = self.task.section
        return baselines_for(self.task.kind, section.BASELINES)

    def settings_of(self, genotype: AnyGenotype) -> list[list[Setting]]:
        """Return the settings for training a genotype from random weights, as candidates for `choose`."""
        build = partial(self.cell, genotype, "grown_retrained")
        return self.settings("retrained", {"hidden_size": self.hidden_size}, build)

    def settings(self, key: str, chosen: dict[str, Any], build: Callable[[], Model]) -> list[list[Setting]]:
        """Return a candidate for each weight decay, with a setting for each rate."""
        made = self.by_rate(key, build, self.recipe, self.rates, self.weight_decays)
        return [[one._replace(chosen={**chosen, **one.chosen}) for one in candidate] for candidate in made]

    def settings_by_size(self, key: str, build: Callable[[int], Model]) -> list[list[Setting]]:
        """Return the settings for training a kind of model with each size of `hidden_sizes`, and at equal parameters.

        Args:
            key: prefix of the settings' keys.
            build: builds a new model with a given number of units.
        """
        equal = [self.matched_size(build, self.params)] if self.params else []
        return [
            candidate
            for units in sorted({*self.hidden_sizes, *equal})
            for candidate in self.settings(f"{key}-{units}", {"hidden_size": units}, partial(build, units))
        ]

    def by_rate(
        self,
        key: str,
        build: Callable[[], Model],
        recipe: Recipe,
        rates: Sequence[float] | None = None,
        decays: Sequence[float] | None = None,
    ) -> list[list[Setting]]:
        """Return a candidate for each weight decay, with a setting for each learning rate, the highest first.

        Args:
            key: prefix of the settings' keys.
            build: builds a new model.
            recipe: how the model is trained, apart from rate and weight decay.
            rates: learning rates; None: the recipe's rate.
            decays: weight decays; None: the recipe's weight decay.
        """
        return [
            [
                Setting(
                    f"{key}-rate-{rate:g}-decay-{decay:g}",
                    {"rate": rate, "weight_decay": decay},
                    build,
                    self.task,
                    replace(recipe, weights=replace(recipe.weights, rate=rate, weight_decay=decay)),
                )
                for rate in sorted(rates or (recipe.weights.rate,), reverse=True)
            ]
            for decay in decays or (recipe.weights.weight_decay,)
        ]

    def choose(self, candidates: Sequence[Sequence[Setting]]) -> Choice:
        """Try all settings and let validation choose, see `choosing.choose`."""
        return choose(candidates, journal=self.journal, seed=self.seed, halving=self.halving)

    def train_and_score(self, name: str, candidates: Sequence[Sequence[Setting]]) -> tuple[Score, Model]:
        """Choose a setting on validation; return the score and the model trained with it."""
        return self.score_choice(name, self.choose(candidates))

    def score_choice(self, name: str, choice: Choice) -> tuple[Score, Model]:
        """Return score and model of a choice; if `refit`, retrain it on training and validation data first."""
        fit, setting = choice.fit, choice.setting
        model, seconds, steps = fit.model, choice.seconds, choice.steps
        if self.refit:
            task, recipe = setting.task.with_refit(), setting.recipe.refit(fit.best_epoch)
            again = self.journal.fit(f"{name}-refit", setting.build(), task, recipe, seed=self.seed)
            model, seconds, steps = again.model, seconds + again.seconds, steps + again.steps
        score = self.score(name, model, seconds, choice.tried, setting.chosen, fit.speed)
        return replace(score, steps=steps, capped=choice.capped), model

    def score(
        self,
        name: str,
        model: Model,
        seconds: float,
        settings: int = 1,
        chosen: Mapping[str, Any] | None = None,
        speed: float | None = None,
    ) -> Score:
        """Evaluate a model on validation and test part."""
        val, test = self.task.evaluate(model, "val"), self.task.evaluate(model, "test")
        shown = speed if self.task.unit else None
        return Score(name, count_parameters(model), val, test, seconds, settings, dict(chosen or {}), shown)

    def matched_size(self, build: Callable[[int], Model], params: int) -> int:
        """Return the number of units with which a model's parameter count is nearest to `params`.

        The count is a polynomial of degree 2 in the units, so three small models determine it.

        Args:
            build: builds the model with a given number of units.
            params: the target number of parameters.
        """
        one, two, three = (count_parameters(build(units)) for units in (1, 2, 3))
        bend = one - 2 * two + three

        def count(units: int) -> int:
            return one + (units - 1) * (two - one) + (units - 1) * (units - 2) // 2 * bend

        above = next(units for units in itertools.count(1) if count(units) >= params)
        return min((max(1, above - 1), above), key=lambda units: abs(count(units) - params))

    # --- results ---

    @classmethod
    def write(cls, task: Any, folder: Folder, model: Model | None, scores: Sequence[Score]) -> dict[str, Any]:
        """Write the files that depend on the kind of task; return their entries for the summary."""
        losses = {score.model: torch.from_numpy(score.test.losses).double() for score in scores}
        folder.write_tensors("losses.safetensors", losses)
        if model is not None:
            sizes = {name: str(getattr(model.core, name)) for name in ("input_size", "hidden_size")}
            cls.write_weights(folder, model, [], **sizes)
            if isinstance(task, Written):
                folder.write_text("equations.txt", model_equations(model, task.formulas(model)))
        return {"tests": pair_tests({score.model: score.test.losses for score in scores})}

    @staticmethod
    def write_weights(folder: Folder, model: Model, names: Sequence[str], **notes: str) -> None:
        """Write a model's weights, with the names of series or words and further notes."""
        folder.write_tensors("weights.safetensors", model.state_dict(), {"names": json.dumps(list(names)), **notes})

    @staticmethod
    def write_optimizer(folder: Folder, moments: Mapping[str, torch.Tensor], recipe: Recipe) -> None:
        """Write the state of a model's optimiser and how its weights were trained, for `grownas update`."""
        how = {"weights": asdict(recipe.weights), "clip": recipe.clip}
        folder.write_tensors(OPTIMIZER, moments, {"recipe": json.dumps(how)})

    def draw(self, purpose: str) -> torch.Generator:
        """Return a random generator for one purpose, determined by the seed."""
        return generator_for(self.seed, purpose)


def _inputs_of(task: Task) -> int:
    assert task.input_size is not None, "a task of this kind has a fixed number of inputs"
    return task.input_size


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Return a random generator that depends on the seed and the purpose."""
    words = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def space_of(config: Config) -> SearchSpace:
    """Return the search space of a config."""
    return SearchSpace(
        combine=config.space.combine,
        activation=config.space.activation,
        max_nodes=config.strategy.max_nodes,
        max_ops=len(config.space.combine) * len(config.space.activation) or 1,  # only a chain's node has several
        highway=config.space.highway,
        share_projection=config.space.share_projection,
        backbone=config.space.backbone,
        blocks=config.space.blocks,
        cells=config.space.cells,
    )


def check_backbone(config: Config) -> None:
    """Refuse a strategy that does not search the space's backbone, or not with these options.

    Raises:
        ConfigError: it does not.
    """
    strategy, backbone = config.strategy.use, config.space.backbone
    found = strategy_class(strategy)
    known = getattr(found, "backbones", Strategy.backbones)
    if backbone == "blocks" and config.backend not in ("auto", "torch"):
        raise ConfigError(f"backend={config.backend}: PyTorch alone runs blocks; set backend=auto")
    if backbone not in known:
        raise ConfigError(
            f"space.backbone={backbone}: strategy.use={strategy} searches {' and '.join(known)} only; set "
            f"space.backbone={known[0]} or another strategy, such as strategy.use=random"
        )
    check = getattr(found(config.strategy), "check_space", None)  # most have none
    if check is not None:
        check(space_of(config))


def check_inputs(backbone: str, task: Task) -> None:
    """Refuse a task whose inputs a backbone cannot read.

    Raises:
        ConfigError: blocks are given other inputs than I and Q of complex samples.
    """
    if backbone == "blocks" and not (isinstance(task, OnSamples) and task.reads_samples):
        raise ConfigError(
            f"space.backbone=blocks reads complex samples, I and Q, which task.use={task.name} does not give it as set "
            "here; choose a task and features with the two inputs I and Q, or set space.backbone=chain"
        )


def retrain_recipe(config: Config) -> Recipe:
    """Return the recipe of every model that is trained from random weights."""
    own = config.retrain
    weights = own.model_dump(exclude={"grown", "layers", "epochs", "patience"})
    return recipe_from(weights, epochs=own.epochs, patience=own.patience, bf16=config.bf16)
