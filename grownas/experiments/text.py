"""Language modelling: growth starts at a small random cell; LSTM, GRU and random cells of the same size compete.

Every kind of model gets the same grid of settings, the same budget and an output gain; validation chooses.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, nn

from grownas.backbones.chain import Backbone
from grownas.baselines.recurrent import recurrent_core
from grownas.cells.cell import GrownRNN
from grownas.config.sections import Config
from grownas.equations import language_equations
from grownas.errors import ConfigError
from grownas.evaluation.comparison import pair_tests, step_losses
from grownas.evaluation.scoring import Score
from grownas.experiments.common import Contest, Setting, choose, is_capped, score_model, train_and_choose, train_random
from grownas.genotype import AnyGenotype, Genotype, published
from grownas.runs.journal import Journal
from grownas.runs.rundir import RunDir
from grownas.starts.var import Ops
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe, count_parameters

Core = Callable[[int, Generator], nn.Module]  # builds a core with so many units, which reads as many


@dataclass(frozen=True, kw_only=True)
class LanguageContest(Contest):
    """What the grown cell and the baselines are given.

    Attributes:
        hidden_size: of the grown cell; the others are given the size that makes as many parameters.
        grid: the settings that every kind of model is tried with: rate of the weights, and options of the task.
        layers: of the grown cell trained anew, and of every baseline but random cells, which are growth's control.
        tuning_seconds, tuning_steps: what it took to choose the growth's.
    """

    hidden_size: int
    grid: tuple[dict[str, float], ...]
    layers: int = 1
    tuning_seconds: float = 0.0
    tuning_steps: int = 0

    @property
    def baselines(self) -> Mapping[str, Callable[[Any], Score]]:
        """The table of baselines."""
        return BASELINES

    @classmethod
    def enter(cls, config: Config, journal: Journal, task: Any, **given: Any) -> LanguageContest:
        """Lay the grid out.

        Args:
            config: of the run.
            journal: does and remembers the fits.
            task: the text.
            given: the other attributes of every contest.
        """
        sections: Any = config  # of a language task, see `config.SECTIONS`
        tried = {name: values for name, values in sections.baselines.grid.model_dump().items() if values}
        grid = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
        return cls(
            journal=journal,
            task=task,
            hidden_size=sections.space.hidden_size,
            grid=tuple(grid),
            layers=sections.retrain.layers,
            **given,
        )

    @staticmethod
    def check(config: Config, task: Any) -> None:
        """Refuse before work begins what a search would meet in the middle of it, and what is of finished models.

        A language task's options name the latter in `FINISHED`, and have `dropout_hidden`.
        """
        if config.space.hidden_size == "auto":
            raise ConfigError(f"space.hidden_size=auto: {task.name} needs a number of units; set one, such as 128")
        for key in task.section.FINISHED:
            if value := getattr(config.task, key):
                raise ConfigError(
                    f"task.{key}={value} is of finished models: leave it out here, then `grownas evaluate RUN "
                    f"task.{key}={value}`"
                )
        sections: Any = config
        if (rate := config.task.dropout_hidden) and sections.retrain.layers == 1:
            raise ConfigError(
                f"task.dropout_hidden={rate:g} acts between layers, but retrain.layers=1; set one to 0, or the other "
                "higher"
            )
        if config.refit:
            raise ConfigError(f"refit=true: {task.name} is scored as its field does, without the validation text")

    @property
    def seconds_before(self) -> float:
        """What was spent before growth."""
        return self.tuning_seconds

    @property
    def steps_before(self) -> int:
        """Weight steps trained before growth."""
        return self.tuning_steps

    def start(self, nodes: Sequence[Ops], purpose: str, *, refitted: bool = False) -> Any:
        """Build a random cell of each node's ops; at first it knows nothing of any text, so `refitted` is the same.

        Its size is that of the growth's start, or where the grown cell is known, the one with as many parameters.
        """
        space = self.space

        def core(units: int, generator: Generator) -> nn.Module:
            return Backbone.from_ops(
                units,
                units,
                [list(ops) for ops in nodes],
                highway=space.highway,
                share_projection=space.share_projection,
                generator=generator,
                backend=self.backend,
            )

        return self.build(core, purpose)

    def build(self, core: Core, purpose: str, layers: int = 1) -> Any:
        """Build a model of layers of the right size, all drawn for one purpose."""
        return self._model(core, self.units(core, layers), layers, self.draw(purpose))

    def _model(self, core: Core, units: int, layers: int, generator: Generator) -> Any:
        return self.task.model(*(core(units, generator) for _ in range(layers)), generator=generator)

    def units(self, core: Core, layers: int = 1) -> int:
        """Return the size of each layer: with as many parameters as the grown cell's model, once that is known."""
        return self.hidden_size if self.params is None else self.size_of(core, self.params, layers)

    def size_of(self, core: Core, params: int, layers: int = 1) -> int:
        """Return the number of units with which the model of such layers comes nearest to a number of parameters.

        The count is a polynomial of degree 2 in the units, which three small models fix.
        """
        one, two, three = (count_parameters(self._model(core, units, layers, torch.Generator())) for units in (1, 2, 3))
        bend = one - 2 * two + three

        def count(units: int) -> int:
            return one + (units - 1) * (two - one) + (units - 1) * (units - 2) // 2 * bend

        above = next(units for units in itertools.count(1) if count(units) >= params)
        return min((max(1, above - 1), above), key=lambda units: abs(count(units) - params))

    def tuned(self, nodes: Sequence[Ops]) -> LanguageContest:
        """Choose the growth's setting by training its start with each: the same grid as every baseline's."""
        if len(self.grid) == 1:
            return self.with_setting(self.grid[0])
        settings = [
            Setting(
                f"tune-{named(setting)}",
                setting,
                partial(one.start, nodes, "start"),
                one.task,
                one.growth.stage_recipe(1, 0.0),
            )
            for setting, one in self._tried()
        ]
        best = choose(self, [[one] for one in settings])
        chosen = self.with_setting(best.setting.chosen)
        return replace(chosen, tuning_seconds=best.seconds, tuning_steps=best.steps, tried=best.tried)

    def with_setting(self, setting: Mapping[str, float]) -> LanguageContest:
        """Return the contest where growth and all other training have a setting: the rate, and options of the task."""
        growth = replace(self.growth, recipe=with_rate(self.growth.recipe, setting))
        task = self.task.with_options({key: value for key, value in setting.items() if key != "rate"})
        return replace(self, task=task, growth=growth, recipe=with_rate(self.recipe, setting), setting=setting)

    def _tried(self) -> list[tuple[dict[str, float], LanguageContest]]:
        """Return each setting of the grid with the contest that has it."""
        return [(setting, self.with_setting(setting)) for setting in self.grid]

    def settings_of(self, genotype: AnyGenotype, key: str = "retrained") -> list[list[Setting]]:
        """Return the ways to train a genotype from random weights."""

        def core(units: int, generator: Generator) -> nn.Module:
            made = GrownRNN(genotype, units, units, backend=self.backend)
            made.reset_parameters(generator)
            return made

        return self.settings(key, core)

    def settings(self, key: str, core: Core) -> list[list[Setting]]:
        """Return the ways to train a kind of core: one for each point of the grid, each a candidate of its own."""
        size = {"hidden_size": self.units(core, self.layers), **({"layers": self.layers} if self.layers > 1 else {})}
        return [
            [
                Setting(
                    f"{key}-{named(setting)}" if setting else key,
                    {**setting, **size},
                    partial(one.build, core, key, self.layers),
                    one.task,
                    one.recipe,
                )
            ]
            for setting, one in self._tried()
        ]

    def write(self, rundir: RunDir, model: Any | None, scores: Sequence[Score]) -> dict[str, Any]:
        """Write each model's losses of the test tokens, the equations, and the weights with the vocabulary."""
        losses = {score.model: torch.from_numpy(score.test.losses).float() for score in scores}
        rundir.write_tensors("losses.safetensors", losses)
        if model is not None:
            rundir.write_text("equations.txt", language_equations(model))
            rundir.write_tensors("weights.safetensors", model.state_dict(), {"names": json.dumps(self.task.words)})
        return {"tests": pair_tests({score.model: step_losses(score.test.losses) for score in scores})}


def with_rate(recipe: Recipe, setting: Mapping[str, float]) -> Recipe:
    """Return a recipe with a setting's rate of the weights, if it has one."""
    return replace(recipe, weights=replace(recipe.weights, rate=setting.get("rate", recipe.weights.rate)))


def named(setting: Mapping[str, float]) -> str:
    """Return a setting as part of a fit's key."""
    return "-".join(f"{key}-{value:g}" for key, value in setting.items())


def _recurrent(kind: str, contest: LanguageContest) -> Score:
    def core(units: int, generator: Generator) -> nn.Module:
        return recurrent_core(kind, units, units, generator=generator)

    return train_and_choose(contest, kind, contest.settings(kind, core))[0]


def lstm(contest: LanguageContest) -> Score:
    """Train an LSTM."""
    return _recurrent("lstm", contest)


def gru(contest: LanguageContest) -> Score:
    """Train a GRU."""
    return _recurrent("gru", contest)


def random_cells(contest: LanguageContest) -> Score:
    """Train random genotypes at the growth's setting, under the baselines' budget, for as many steps as it took."""

    def train(key: str, start: Any) -> Fit:
        return contest.journal.fit(key, start, contest.task, contest.recipe, seed=contest.seed)

    drawn = train_random(contest, train)
    best, nodes, _ = min(drawn.trained, key=lambda one: one[0].evaluation.metric)
    found = {"nodes": len(nodes), "ops": sum(map(len, nodes)), "hidden_size": best.model.core.hidden_size}
    chosen = {**contest.setting, **found}
    score = score_model(contest.task, "random", best.model, drawn.seconds, drawn.tried, chosen, best.speed)
    return replace(score, steps=drawn.steps, capped=is_capped(best.epochs, best.best_epoch, contest.recipe))


def published_cell(name: str, contest: LanguageContest) -> Score:
    """Train a published cell."""
    return train_and_choose(contest, name, contest.settings_of(Genotype.load(published()[name]), name))[0]


BASELINES: dict[str, Callable[[LanguageContest], Score]] = {
    "lstm": lstm,
    "gru": gru,
    "random": random_cells,
    **{name: partial(published_cell, name) for name in published()},
}
