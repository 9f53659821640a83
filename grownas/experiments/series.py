"""Experiments on series: the search starts at a fitted linear model, and linear models are among the baselines.

All models use the same data and scaling as the found cell; all trained models also the same budget and stopping rule.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from grownas.baselines.combination import Combination, combine_by_folds
from grownas.baselines.var import VAR, Selection, prefixed, select_by_folds, usable_orders
from grownas.cells.cell import GrownRNN
from grownas.config.sections import Config
from grownas.criteria.acceptance import Acceptance
from grownas.equations import equations
from grownas.errors import ConfigError, DataError
from grownas.evaluation.comparison import pair_tests
from grownas.evaluation.scoring import Score, free_running
from grownas.experiments.choosing import Setting
from grownas.experiments.experiment import Experiment
from grownas.protocols import Budget, Folder, Journal, Model, Origin, SeriesTask, Task, is_series
from grownas.readout import readout_of
from grownas.starts.random import Ops
from grownas.starts.var import hidden_size_for, var_start
from grownas.strategies.growing.strategy import Growing
from grownas.training.recipe import count_parameters


@dataclass(frozen=True, kw_only=True)
class SeriesExperiment(Experiment):
    """Everything that the search and the baselines need, for a task on series.

    Attributes:
        selection: the linear model chosen by blocked folds, see `baselines.combination` and `baselines.var`.
        orders: VAR orders that the folds try for a single VAR.
        at_var: whether the search starts at the linear model.
        carrier_share: share of the identity op that computes the VAR, in each node of the start.
        losses: training losses that every model trained from random weights tries.
        accept: the search's acceptance criterion.
    """

    task: SeriesTask
    selection: Selection | Combination
    orders: tuple[int, ...]
    at_var: bool
    carrier_share: float
    losses: tuple[str, ...]
    accept: Acceptance

    @classmethod
    def of(cls, config: Config, journal: Journal, task: Task) -> Self:
        """Choose the linear model; it sets the hidden size (`auto`) and the loss (`auto`)."""
        assert is_series(task)
        rows, at_var = task.values[task.rows("train")], config.start.use == "var"
        room = _room(config, task)
        orders = tuple(range(1, min(config.start.max_order, room or config.start.max_order) + 1))
        selection: Selection | Combination
        folds: dict[str, Any] = {
            "outputs": len(task.target_names),
            "notify": prefixed(journal.note, "choosing the linear start: "),
        }
        if config.start.rule == "combined":
            done = journal.remember("selection", lambda: combine_by_folds(rows, blocks=room, **folds).to_tree())
            selection = Combination.from_tree(done)
        else:
            done = journal.remember("selection", lambda: select_by_folds(rows, orders=orders, **folds).to_tree())
            selection = Selection.from_tree(done)
        if task.loss_name == "auto":
            task = task.with_loss(selection.var.loss if at_var else "squared")
        hidden_size = config.space.hidden_size
        if hidden_size == "auto":
            hidden_size = hidden_size_for(selection.var.blocks if at_var else 1, task.input_size)
        return cls(
            selection=selection,
            seconds_before=done["seconds"],
            orders=orders,
            at_var=at_var,
            carrier_share=config.start.carrier_share,
            hidden_size=hidden_size,
            losses=config.baselines.losses,
            accept=Acceptance.of(config.strategy),
            **cls.choices(config),
            **cls.common(config, journal, task),
        )

    @classmethod
    def check(cls, config: Config, task: Task) -> None:
        """Check config and data before any training, so that a search does not fail halfway.

        Raises:
            ConfigError: the start does not fit the cell's units or the backbone.
            DataError: there are too few rows for any VAR.
        """
        super().check(config, task)
        if config.space.backbone == "dag" and config.start.use == "var":
            raise ConfigError("start.use=var: a fitted VAR is the start of a chain, not of a dag; set start.use=random")
        assert is_series(task)
        series, rows, units = task.input_size, task.values[task.rows("train")], config.space.hidden_size
        usable_orders(len(rows), series, range(1, config.start.max_order + 1))  # raises if there are too few rows
        if config.start.use == "var" and units != "auto" and units < series:
            raise ConfigError(
                f"space.hidden_size={units}: a start at a VAR of {series} series needs {series} units or more; raise "
                "space.hidden_size or set start.use=random"
            )

    @property
    def outputs(self) -> int:
        """Number of series O that are forecast, the first columns of `task.values`."""
        return len(self.task.target_names)

    @property
    def fit_end(self) -> int:
        """Number of rows, from the first, on which a fitted baseline may be fitted."""
        return int(self.task.rows("val" if self.refit else "train").stop)

    def start(self, nodes: Sequence[Ops], purpose: str, *, refitted: bool = False) -> Model:
        """Build the start of a search; `refitted`: with a VAR fitted on training and validation data."""
        if not self.at_var:
            return super().start(nodes, purpose)
        values = self.task.values[: self.fit_end]
        return self._at(self.selection.refit(values) if refitted else self.selection.var, self.task, nodes, purpose)

    def _at(self, var: VAR, task: SeriesTask, nodes: Sequence[Ops], purpose: str) -> Model:
        return var_start(
            task,
            nodes,
            hidden_size=self.hidden_size,
            var=var,
            highway=self.space.highway,
            share_projection=self.space.share_projection,
            carrier_share=self.carrier_share,
            backend=self.backend,
            generator=self.draw(purpose),
        )

    def origins(self, nodes: Sequence[Ops], count: int) -> list[Origin]:
        """Return up to `count` earlier points in time, the latest first, each with its start.

        Each start is fitted to the rows before its origin, but with settings chosen on the whole training part. So the
        settings have seen the rows on which models are compared, a slight advantage for the start.
        """
        made = list[Origin]()
        for number in range(1, count + 1):
            try:
                task = self.task.at_origin(number)
            except DataError as error:
                warnings.warn(f"a cell is tested at {number} of {count + 1} origins: {error}", stacklevel=2)
                break
            if self.at_var:
                start = self._at(self.selection.refit(task.values[task.rows("train")]), task, nodes, "start")
            else:
                start = super().start(nodes, "start")
            made.append(Origin(start, task))
        return made

    def second_start(self) -> Self | None:
        """Return the experiment whose search begins at one gated node with random weights, see `Options.gated`.

        The node has as many parameters as the linear start, and the rate of models that are trained from random
        weights.
        """
        strategy: Any = self.strategy
        grows = self.at_var and isinstance(strategy, Growing) and self.budget == Budget()
        if not grows or not strategy.options.gated or strategy.options.origins == 1:
            return None
        space = replace(self.space, combine=("add",), activation=("tanh",), highway=True)
        made = replace(self, space=space, at_var=False, strategy=strategy.from_random(self.recipe.weights.rate))
        params = count_parameters(self.start([self.space.ops], "start"))
        units = self.matched_size(lambda units: replace(made, hidden_size=units).start([space.ops], "start"), params)
        return replace(made, hidden_size=units)

    def score_start(self, start: Model) -> Score:
        """Score the start of the search."""
        chosen = self.selection
        return self.score("start", start, self.seconds_before, chosen.settings, chosen.chosen)

    def settings(self, key: str, chosen: dict[str, Any], build: Callable[[], Model]) -> list[list[Setting]]:
        """Return a candidate for each loss and weight decay, with a setting for each rate."""
        tasks = [(loss, self.task.with_loss(loss)) for loss in self.losses]
        return [
            [one._replace(chosen={**chosen, "loss": loss, **one.chosen}, task=task) for one in candidate]
            for loss, task in tasks
            for candidate in self.by_rate(f"{key}-{loss}", build, self.recipe, self.rates, self.weight_decays)
        ]

    def supernets(self, key: str, nodes: int, rates: Sequence[float] | None = None) -> list[list[Setting]]:
        """Return the settings for training a supernet of `nodes` nodes with all ops from random weights, one per rate.

        The supernet is trained as in the search, but with the epochs and patience of the baselines.
        """
        recipe = replace(
            self.strategy.recipe(), epochs=self.recipe.epochs, patience=self.recipe.patience, bf16=self.recipe.bf16
        )

        def build() -> Model:
            return super(SeriesExperiment, self).start([self.space.ops] * nodes, f"supernet-{nodes}")

        made = self.by_rate(key, build, recipe, rates)
        return [[one._replace(chosen={"nodes": nodes, **one.chosen}) for one in candidate] for candidate in made]

    @classmethod
    def write(cls, task: Any, folder: Folder, model: Model | None, scores: Sequence[Score]) -> dict[str, Any]:
        """Write the forecasts of all models, and the equations, weights and scaling of the chosen model."""
        actual = np.concatenate([task.targets[task.rows(part)] for part in ("val", "test")])
        forecasts = {score.model: torch.from_numpy(score.forecasts()) for score in scores}
        folder.write_tensors("forecasts.safetensors", {"actual": torch.from_numpy(actual), **forecasts})
        targets = task.targets[task.rows("test")]
        losses = {}
        for score in scores:
            assert score.test.forecasts is not None, "a task on series returns its forecasts"
            losses[score.model] = ((targets - score.test.forecasts) ** 2).mean(axis=1)
        tests = pair_tests(losses)
        if model is None:
            return {"free_running": None, "tests": tests}
        cls.write_weights(folder, model, task.names)
        assert isinstance(model.core, GrownRNN)
        text = equations(model.core, readout_of(model), task.names, task.mean, task.sd)
        folder.write_text("equations.txt", text)
        runs_free = len(task.target_names) == len(task.names)  # otherwise its outputs are not all of its inputs
        free = free_running(model, task.tensor("test")) if runs_free else None
        return {"free_running": free, "tests": tests, **_next_step(task, model)}


def _next_step(task: Any, model: Model) -> dict[str, Any]:
    """Return the forecast of the step after the last row, in the task's units, if the task can date that step."""
    if not hasattr(task, "day_ahead"):  # dates and units are not part of `SeriesTask`, hence Any
        return {}
    ahead = task.written(task.day_ahead(model)[None], None)[0].tolist()
    return {"next_step": {"date": task.next_day, "forecasts": ahead, "units": task.units}}


def _room(config: Config, task: SeriesTask) -> int | None:
    """Return how many blocks of lags or averages fit into a given hidden size; None if the size is not given."""
    if config.start.use == "random" or config.space.hidden_size == "auto":
        return None
    return int(config.space.hidden_size // task.input_size)
