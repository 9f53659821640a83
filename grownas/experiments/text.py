"""Experiments on texts: the search starts at a small random cell; baselines match the found model's parameters.

Every kind of model gets the same grid of settings, the same budget and an output gain; validation chooses the setting.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Generator

from grownas.cells.cell import GrownRNN
from grownas.config.sections import Config
from grownas.errors import ConfigError
from grownas.evaluation.comparison import pair_tests, step_losses
from grownas.evaluation.scoring import Score
from grownas.experiments.choosing import Setting
from grownas.experiments.experiment import Experiment
from grownas.genotype import AnyGenotype
from grownas.language_equations import WordModel, language_equations
from grownas.protocols import Folder, Journal, Model, Recurrent, Task, TextTask
from grownas.starts.random import Ops, random_core
from grownas.training.recipe import Recipe

Core = Callable[[int, Generator], Recurrent]  # builds a core whose input and hidden size are the given units


@dataclass(frozen=True, kw_only=True)
class TextExperiment(Experiment):
    """Everything that the search and the baselines need, for a task on a text.

    Attributes:
        grid: settings to try for every kind of model: the learning rate, and options of the task.
        layers: number of layers of the retrained cell and of every baseline.
    """

    task: TextTask
    grid: tuple[dict[str, float], ...]
    layers: int = 1

    @classmethod
    def of(cls, config: Config, journal: Journal, task: Task) -> Self:
        """Create the experiment of a config, with all combinations of the grid."""
        sections: Any = config  # has the sections of a language task, see `config.sections.SECTIONS`
        tried = {name: values for name, values in sections.baselines.grid.model_dump().items() if values}
        grid = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
        return cls(
            hidden_size=sections.space.hidden_size,
            grid=tuple(grid),
            layers=sections.retrain.layers,
            **cls.common(config, journal, task),
        )

    @classmethod
    def check(cls, config: Config, task: Task) -> None:
        """Check the config before any training, so that a search does not fail halfway.

        The section of a language task has the option `dropout_hidden`, and names in `FINISHED` the options that apply
        only to finished models.

        Raises:
            ConfigError: the config does not fit a text, or it sets an option for finished models.
        """
        if config.space.hidden_size == "auto":
            raise ConfigError(f"space.hidden_size=auto: {task.name} needs a number of units; set one, such as 128")
        section: Any = task.section  # the section of a language task, which has `FINISHED`
        for key in section.FINISHED:
            if value := getattr(config.task, key):
                raise ConfigError(
                    f"task.{key}={value} applies only to finished models; leave it out and run `grownas evaluate "
                    f"RUN task.{key}={value}`"
                )
        sections: Any = config
        if (rate := config.task.dropout_hidden) and sections.retrain.layers == 1:
            raise ConfigError(
                f"task.dropout_hidden={rate:g} acts between layers, but retrain.layers=1; set task.dropout_hidden=0 or "
                "retrain.layers=2 or more"
            )
        if config.refit:
            raise ConfigError(
                f"refit=true: {task.name} never trains on the validation text, by convention of its field; set "
                "refit=false"
            )

    def start(self, nodes: Sequence[Ops], purpose: str, *, refitted: bool = False) -> Model:
        """Build a cell with random weights from each node's ops; `refitted` has no effect, since nothing is fitted."""

        def core(units: int, generator: Generator) -> Recurrent:
            return random_core(nodes, input_size=units, hidden_size=units, generator=generator, **self.switches)

        return self.build(core, purpose)

    def cell(self, genotype: AnyGenotype, purpose: str) -> Model:
        """Build the task's model around the derived cell of a genotype, with drawn weights."""
        return self.build(self._derived_core(genotype), purpose)

    def _derived_core(self, genotype: AnyGenotype) -> Core:
        def core(units: int, generator: Generator) -> Recurrent:
            made = GrownRNN(genotype, units, units, backend=self.backend)
            made.reset_parameters(generator)
            return made

        return core

    def build(self, core: Core, purpose: str, layers: int = 1) -> Model:
        """Build a model with layers of the matching size; one random generator draws all weights."""
        return self._model(core, self.units(core, layers), layers, self.draw(purpose))

    def _model(self, core: Core, units: int, layers: int, generator: Generator) -> Model:
        return self.task.model(*(core(units, generator) for _ in range(layers)), generator=generator)

    def units(self, core: Core, layers: int = 1) -> int:
        """Return the units per layer that match the found model's parameters; before the search, `hidden_size`."""
        if self.params is None:
            return self.hidden_size
        return self.matched_size(lambda units: self._model(core, units, layers, torch.Generator()), self.params)

    def tuned(self, nodes: Sequence[Ops]) -> Self:
        """Choose the search's setting by training its start with each setting of the grid, as for every baseline."""
        if len(self.grid) == 1:
            return self.with_setting(self.grid[0])
        settings = [
            Setting(
                f"tune-{named(setting)}",
                setting,
                partial(one.start, nodes, "start"),
                one.task,
                replace(one.strategy.tuning_recipe(), bf16=self.recipe.bf16),
            )
            for setting, one in self._tried()
        ]
        best = self.choose([[one] for one in settings])
        chosen = self.with_setting(best.setting.chosen)
        return replace(chosen, seconds_before=best.seconds, steps_before=best.steps, tried=best.tried)

    def with_setting(self, setting: Mapping[str, float]) -> Self:
        """Return the experiment with a setting (rate and options of the task) applied to all training."""
        task = self.task.with_options({key: value for key, value in setting.items() if key != "rate"})
        strategy = self.strategy.with_rate(setting["rate"]) if "rate" in setting else self.strategy
        return replace(self, task=task, strategy=strategy, recipe=with_rate(self.recipe, setting), setting=setting)

    def _tried(self) -> list[tuple[dict[str, float], Self]]:
        """Return each setting of the grid with its experiment."""
        return [(setting, self.with_setting(setting)) for setting in self.grid]

    def settings_of(self, genotype: AnyGenotype, key: str = "retrained") -> list[list[Setting]]:
        """Return the settings for training a genotype from random weights."""
        return self.settings_of_core(key, self._derived_core(genotype))

    def settings_of_core(self, key: str, core: Core) -> list[list[Setting]]:
        """Return the settings for training a kind of core: one candidate per setting of the grid."""
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

    @classmethod
    def write(cls, task: Any, folder: Folder, model: Model | None, scores: Sequence[Score]) -> dict[str, Any]:
        """Write each model's losses on the test tokens, the equations, and the weights with the vocabulary."""
        losses = {score.model: torch.from_numpy(score.test.losses).float() for score in scores}
        folder.write_tensors("losses.safetensors", losses)
        if model is not None:
            assert isinstance(model, WordModel)
            folder.write_text("equations.txt", language_equations(model))
            cls.write_weights(folder, model, task.words)
        return {"tests": pair_tests({score.model: step_losses(score.test.losses) for score in scores})}


def with_rate(recipe: Recipe, setting: Mapping[str, float]) -> Recipe:
    """Return a recipe with the setting's learning rate, if the setting has one."""
    return replace(recipe, weights=replace(recipe.weights, rate=setting.get("rate", recipe.weights.rate)))


def named(setting: Mapping[str, float]) -> str:
    """Return the part of a fit's key that names a setting."""
    return "-".join(f"{key}-{value:g}" for key, value in setting.items())
