"""Forecasting series: growth starts at a VAR, and VARs, LSTMs and GRUs are the baselines.

All are fitted and trained on the same data, scaling, budget and stopping rule as the grown cell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from grownas.backbone import Backbone
from grownas.baselines.combination import Combination, combine_by_folds
from grownas.baselines.har import fit_har, select_har
from grownas.baselines.har import parameters as har_parameters
from grownas.baselines.naive import zero_forecast
from grownas.baselines.recurrent import (
    GRUOnVAR,
    hidden_size_for_parameters,
    recurrent_core,
    start_gru_at_var,
)
from grownas.baselines.var import VAR, Selection, fit_var, select_by_folds, select_by_validation, usable_orders
from grownas.cells.cell import GrownRNN
from grownas.config import Config
from grownas.contests.common import Contest, Setting, score_model, train_and_choose, train_random
from grownas.criteria.early_stop import JUDGES
from grownas.equations import equations
from grownas.errors import ConfigError
from grownas.genotype import AnyGenotype
from grownas.journal import Journal
from grownas.rundir import RunDir
from grownas.scoring import Score, free_running
from grownas.start import Ops, build_start, hidden_size_for
from grownas.strategies.growing import stirred


@dataclass(frozen=True, kw_only=True)
class SeriesContest(Contest):
    """What the grown cell and the baselines are given.

    Attributes:
        selection: the VAR chosen by blocked folds, see `baselines.combination` and `baselines.var.select_by_folds`.
        selection_seconds: how long that took.
        orders: of the single VAR that folds choose among.
        build: builds the start for each node's ops at a VAR (None: at random weights), from a generator.
        hidden_size: of a cell that is trained from random weights.
        at_var: whether growth starts at the VAR.
        hidden_sizes, losses: what `lstm` and `gru` choose from, beside the size with the grown cell's parameters.
    """

    selection: Selection | Combination
    selection_seconds: float
    orders: tuple[int, ...]
    build: Callable[[Sequence[Ops], VAR | None, torch.Generator], Any]
    hidden_size: int
    at_var: bool
    hidden_sizes: tuple[int, ...]
    losses: tuple[str, ...]

    @property
    def baselines(self) -> Mapping[str, Callable[[Any], Score]]:
        """The table of baselines."""
        return BASELINES

    @classmethod
    def enter(cls, config: Config, journal: Journal, task: Any, **given: Any) -> SeriesContest:
        """Choose the VAR, and by it the hidden size and, where that is asked for, the loss.

        Args:
            config: of the run.
            journal: remembers the choice.
            task: the data.
            given: the other attributes of every contest.
        """
        rows, at_var = task.values[task.rows("train")], config.start.use == "var"
        room = _room(config, task)
        orders = tuple(range(1, min(config.start.max_order, room or config.start.max_order) + 1))
        selection: Selection | Combination
        if config.start.rule == "combined":
            done = journal.remember("selection", lambda: combine_by_folds(rows, blocks=room).to_tree())
            selection = Combination.from_tree(done)
        else:
            done = journal.remember("selection", lambda: select_by_folds(rows, orders=orders).to_tree())
            selection = Selection.from_tree(done)
        if task.loss_name == "auto":
            task = task.with_loss(selection.var.loss if at_var else "squared")
        hidden_size = config.space.hidden_size
        if hidden_size == "auto":
            hidden_size = hidden_size_for(selection.var.blocks if at_var else 1, task.input_size)
        space = given["space"]

        def build(nodes: Sequence[Ops], var: VAR | None, generator: torch.Generator) -> Any:
            return build_start(
                task,
                nodes,
                hidden_size=hidden_size,
                var=var,
                highway=space.highway,
                share_projection=space.share_projection,
                carrier_share=given["growth"].carrier_share,
                backend=config.backend,
                generator=generator,
            )

        return cls(
            task=task,
            journal=journal,
            selection=selection,
            selection_seconds=done["seconds"],
            orders=orders,
            build=build,
            hidden_size=hidden_size,
            at_var=at_var,
            hidden_sizes=config.baselines.hidden_sizes,
            losses=config.baselines.losses,
            **given,
        )

    @staticmethod
    def check(config: Config, task: Any) -> None:
        """Refuse before work begins what a search would meet in the middle of it."""
        series, rows, units = task.input_size, task.values[task.rows("train")], config.space.hidden_size
        usable_orders(len(rows), series, range(1, config.start.max_order + 1))  # raises if there is none
        if config.start.use == "var" and units != "auto" and units < series:
            raise ConfigError(
                f"space.hidden_size={units}: a start at a VAR of {series} series needs {series} units or more; raise "
                "it or set start.use=random"
            )

    @property
    def seconds_before(self) -> float:
        """What was spent before growth."""
        return self.selection_seconds

    @property
    def fit_end(self) -> int:
        """Rows that a fitted baseline may learn from."""
        return int(self.task.rows("val" if self.refit else "train").stop)

    def start(self, nodes: Sequence[Ops], purpose: str, *, refitted: bool = False) -> Any:
        """Build the start of growth for each node's ops; `refitted` at a VAR fitted on training and validation data."""
        var: VAR | None = None
        if self.at_var:
            var = self.selection.refit(self.task.values[: self.fit_end]) if refitted else self.selection.var
        return self.build(nodes, var, self.draw(purpose))

    def score_start(self, start: Any) -> Score:
        """Score where growth began."""
        chosen = self.selection
        return score_model(self.task, "start", start, self.selection_seconds, chosen.settings, chosen.chosen)

    def settings_of(self, genotype: AnyGenotype) -> list[Setting]:
        """Return the ways to train a genotype from random weights: each loss."""

        def build() -> Any:
            generator = self.draw("grown_retrained")
            core = GrownRNN(genotype, self.task.input_size, self.hidden_size, backend=self.backend)
            core.reset_parameters(generator)
            return self.task.model(core, generator=generator)

        return self.with_losses("retrained", {"hidden_size": self.hidden_size}, build)

    def with_losses(self, key: str, chosen: dict[str, Any], build: Callable[[], Any]) -> list[Setting]:
        """Return a setting for each loss."""
        return [
            Setting(f"{key}-{loss}", {**chosen, "loss": loss}, build, self.task.with_loss(loss), self.recipe)
            for loss in self.losses
        ]

    def write(self, rundir: RunDir, model: Any | None, scores: Sequence[Score]) -> dict[str, Any]:
        """Write all models' forecasts, and the equations and the weights with their scaling."""
        task = self.task
        actual = np.concatenate([task.values[task.rows(part)] for part in ("val", "test")])
        forecasts = {score.model: torch.from_numpy(score.forecasts()) for score in scores}
        rundir.write_tensors("forecasts.safetensors", {"actual": torch.from_numpy(actual), **forecasts})
        if model is None:
            return {"free_running": None}
        rundir.write_tensors("weights.safetensors", model.state_dict(), {"names": json.dumps(task.names)})
        rundir.write_text("equations.txt", equations(model.core, model.readout, task.names, task.mean, task.sd))
        return {"free_running": free_running(model, task.tensor("test"))}


def _room(config: Config, task: Any) -> int | None:
    """Return how many lags and averages a start may read, where a hidden size is given into which they must fit."""
    if config.start.use == "random" or config.space.hidden_size == "auto":
        return None
    return int(config.space.hidden_size // task.input_size)


def zero(contest: SeriesContest) -> Score:
    """Forecast nothing: the mean of the training part."""
    return _fitted(contest, "zero", 0, zero_forecast(contest.task.values), 0.0)


def var1(contest: SeriesContest) -> Score:
    """Fit a VAR(1) by least squares."""
    return _fitted_var(contest, "var1", lambda: Selection(fit_var(contest.task.values[: contest.fit_end], 1), {}, 1))


def var(contest: SeriesContest) -> Score:
    """Fit a VAR by least squares, its order, 1 to 22, chosen on the validation part."""
    values, rows = contest.task.values, contest.task.rows

    def fit() -> Selection:
        selected = select_by_validation(values, rows("train").stop, rows("val").stop)
        return replace(selected, var=fit_var(values[: contest.fit_end], selected.order))

    return _fitted_var(contest, "var", fit)


def var_robust(contest: SeriesContest) -> Score:
    """Fit a VAR by the Huber loss, ridge and order chosen by blocked folds; those of the start where they chose it."""
    values, rows = contest.task.values, contest.task.values[: contest.fit_end]
    if isinstance(contest.selection, Selection):
        chosen = contest.selection
        score = _fitted_var(contest, "var_robust", lambda: chosen.robust(rows))
        return replace(score, seconds=contest.selection_seconds)
    known = values[contest.task.rows("train")]
    return _fitted_var(contest, "var_robust", lambda: select_by_folds(known, orders=contest.orders).robust(rows))


def har(contest: SeriesContest) -> Score:
    """Fit a heterogeneous autoregression by least squares, its ridge chosen by blocked folds."""
    values = contest.task.values

    def fit() -> Selection:
        selected = select_har(values[contest.task.rows("train")])
        return replace(selected, var=fit_har(values[: contest.fit_end], ridge=selected.chosen["ridge"]))

    return _fitted_var(contest, "har", fit, har_parameters(contest.task.input_size))


def _fitted_var(
    contest: SeriesContest, name: str, fit: Callable[[], Selection], parameters: int | None = None
) -> Score:
    """Fit once and score; `parameters` where not all numbers of the VAR were fitted."""

    def work() -> dict[str, Any]:
        found = fit()
        forecasts = found.var.forecast(contest.task.values)
        return {
            "forecasts": forecasts,
            "params": parameters or found.var.parameters,
            "settings": found.settings,
            "chosen": found.chosen,
        }

    done = contest.journal.remember(name, work)
    return _fitted(contest, name, done["params"], done["forecasts"], done["seconds"], done["settings"], done["chosen"])


def _fitted(
    contest: SeriesContest,
    name: str,
    params: int,
    forecasts: np.ndarray,
    seconds: float,
    settings: int = 1,
    chosen: dict[str, Any] | None = None,
) -> Score:
    """Score forecasts of which row t was made from rows up to t."""
    ahead = np.concatenate([np.zeros_like(forecasts[:1]), forecasts[:-1]])
    val, test = (contest.task.evaluate_forecasts(ahead[contest.task.rows(part)], part) for part in ("val", "test"))
    return Score(name, params, val, test, seconds, settings, chosen or {})


def lstm(contest: SeriesContest) -> Score:
    """Train LSTMs; hidden size and loss are chosen on the validation part."""
    return _recurrent(contest, "lstm")


def gru(contest: SeriesContest) -> Score:
    """Train GRUs; hidden size and loss are chosen on the validation part."""
    return _recurrent(contest, "gru")


def _recurrent(contest: SeriesContest, kind: str) -> Score:
    task = contest.task
    inputs = task.input_size
    equal = [hidden_size_for_parameters(kind, inputs, inputs, contest.params)] if contest.params else []

    def build(hidden_size: int) -> Any:
        generator = contest.draw(f"{kind}-{hidden_size}")
        core = recurrent_core(kind, inputs, hidden_size, generator=generator)
        return task.model(core, generator=generator)

    sizes = sorted({*contest.hidden_sizes, *equal})
    by_size = [contest.with_losses(f"{kind}-{size}", {"hidden_size": size}, partial(build, size)) for size in sizes]
    score, _ = train_and_choose(contest, kind, [one for settings in by_size for one in settings])
    return score


def gru_var(contest: SeriesContest) -> Score:
    """Train a GRU beside the same VAR, with the same pulls and judge: shows what the cell's topology adds."""
    task, var = contest.task, contest.selection.var
    units = max(contest.hidden_sizes)
    if contest.params:
        register = var.blocks * task.input_size
        units = hidden_size_for_parameters("gru", task.input_size, task.input_size, contest.params, register=register)

    def build(var: VAR) -> Any:
        generator = contest.draw("gru_var")
        core = GRUOnVAR(task.input_size, units, var.order, var.centres, generator=generator)
        return start_gru_at_var(task.model(core, generator=generator), var)

    trained = train_by_pulls(contest, "gru_var", build(var))
    model, seconds = trained.model, trained.seconds
    if contest.refit:
        again = build(contest.selection.refit(task.values[: contest.fit_end]))
        model, more = refit_by_pull(contest, "gru_var", again, trained)
        seconds += more
    chosen = {"units": units, "pull": trained.pull}
    return score_model(task, "gru_var", model, seconds, len(contest.growth.pulls), chosen)


@dataclass(frozen=True)
class Pulled:
    """A start trained with each pull: the model accepted last (the start if none was), its pull and epochs."""

    model: Any
    pull: float | None
    epochs: int
    loss: float
    seconds: float
    steps: int


def train_by_pulls(contest: SeriesContest, key: str, start: Any) -> Pulled:
    """Train a start with each pull in order, as the first stage of growth is."""
    growth = contest.growth
    evaluation, model, pull, epochs, seconds, steps = contest.task.evaluate(start, "val"), start, None, 0, 0.0, 0
    for candidate in growth.pulls:
        recipe = replace(growth.recipe, pull=candidate)
        begin = _ready(contest, start, candidate)
        fit = contest.journal.fit(f"{key}-pull-{candidate:g}", begin, contest.task, recipe, seed=contest.seed)
        seconds, steps = seconds + fit.seconds, steps + fit.steps
        if JUDGES[growth.judge](evaluation.losses, fit.evaluation.losses, threshold=growth.threshold).accepted:
            evaluation, model, pull, epochs = fit.evaluation, fit.model, candidate, fit.best_epoch
    return Pulled(model, pull, epochs, float(evaluation.losses.mean()), seconds, steps)


def refit_by_pull(contest: SeriesContest, key: str, start: Any, trained: Pulled) -> tuple[Any, float]:
    """Train a start on training and validation data as it was trained before; return model and seconds."""
    if trained.pull is None:
        return start, 0.0
    recipe = replace(contest.growth.recipe, pull=trained.pull).refit(trained.epochs)
    begin = _ready(contest, start, trained.pull)
    fit = contest.journal.fit(f"{key}-refit", begin, contest.task.with_refit(), recipe, seed=contest.seed)
    return fit.model, fit.seconds


def _ready(contest: SeriesContest, start: Any, pull: float) -> Any:
    """Return what is trained: a backbone's silent ops need noise, a GRU's weights are drawn already."""
    if not isinstance(start.core, Backbone):
        return start
    return stirred(start, contest.growth.noise, pull, seed=contest.seed)


def random_search(contest: SeriesContest) -> Score:
    """Train random genotypes from the same start, with the same pulls and judge, for as many steps as the growth."""
    tried = train_random(contest, partial(train_by_pulls, contest))
    best, ops, key = min(tried, key=lambda one: one[0].loss)
    seconds = sum(trained.seconds for trained, *_ in tried)
    model = best.model
    if contest.refit:
        model, more = refit_by_pull(contest, "random", contest.start(ops, key, refitted=True), best)
        seconds += more
    chosen = {"nodes": len(ops), "ops": sum(map(len, ops)), "pull": best.pull}
    return score_model(contest.task, "random", model, seconds, len(tried), chosen)


BASELINES: dict[str, Callable[[SeriesContest], Score]] = {
    "zero": zero,
    "var1": var1,
    "var": var,
    "var_robust": var_robust,
    "har": har,
    "lstm": lstm,
    "gru": gru,
    "gru_var": gru_var,
    "random": random_search,
}
