"""Forecasting series: growth starts at a VAR, and VARs, LSTMs and GRUs are the baselines.

All are fitted and trained on the same data, scaling, budget and stopping rule as the grown cell.
"""

from __future__ import annotations

import itertools
import json
import warnings
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
from grownas.baselines.var import (
    VAR,
    Selection,
    fit_var,
    prefixed,
    select_by_folds,
    select_by_validation,
    usable_orders,
)
from grownas.cells.cell import GrownRNN
from grownas.config import Config
from grownas.contests.common import (
    Contest,
    Halving,
    Setting,
    choose,
    score_choice,
    score_model,
    train_and_choose,
    train_random,
)
from grownas.equations import equations
from grownas.errors import ConfigError, DataError, TrainingError
from grownas.genotype import AnyGenotype
from grownas.journal import Journal
from grownas.recipe import Recipe
from grownas.rundir import RunDir
from grownas.scoring import Score, free_running
from grownas.start import Ops, build_start, hidden_size_for
from grownas.strategies.growing import Evaluated, Judged, judge, stirred
from grownas.strategies.stage import Origin


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
        hidden_sizes: what `lstm` and `gru` choose from, beside the size with the grown cell's parameters.
        losses, rates, weight_decays: what every model trained from random weights chooses from.
    """

    selection: Selection | Combination
    selection_seconds: float
    orders: tuple[int, ...]
    build: Callable[[Sequence[Ops], VAR | None, torch.Generator], Any]
    hidden_size: int
    at_var: bool
    hidden_sizes: tuple[int, ...]
    losses: tuple[str, ...]
    rates: tuple[float, ...]
    weight_decays: tuple[float, ...]

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
        told = prefixed(journal.note, "choosing the linear start: ")
        if config.start.rule == "combined":
            done = journal.remember("selection", lambda: combine_by_folds(rows, blocks=room, notify=told).to_tree())
            selection = Combination.from_tree(done)
        else:
            done = journal.remember("selection", lambda: select_by_folds(rows, orders=orders, notify=told).to_tree())
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
            rates=config.baselines.rates or (config.retrain.rate,),
            weight_decays=config.baselines.weight_decays or (config.retrain.weight_decay,),
            halving=Halving(**config.baselines.halving.model_dump()),
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

    def origins(self, nodes: Sequence[Ops]) -> list[Origin]:
        """Return the earlier points in time at which growth is judged, the latest first, each with its start.

        A start is fitted to what was known then, by settings that were chosen on the whole training part: what little
        it knows of the rows that judge favours the start.
        """
        made = list[Origin]()
        for number in range(1, self.growth.origins):
            try:
                task = self.task.at_origin(number)
            except DataError as error:
                warnings.warn(
                    f"the first stage is judged at {number} of {self.growth.origins} origins: {error}", stacklevel=2
                )
                break
            var = self.selection.refit(task.values[task.rows("train")]) if self.at_var else None
            made.append(Origin(self.build(nodes, var, self.draw("start")), task))
        return made

    def score_start(self, start: Any) -> Score:
        """Score where growth began."""
        chosen = self.selection
        return score_model(self.task, "start", start, self.selection_seconds, chosen.settings, chosen.chosen)

    def settings_of(self, genotype: AnyGenotype) -> list[list[Setting]]:
        """Return the ways to train a genotype from random weights: each loss, weight decay and rate."""

        def build() -> Any:
            generator = self.draw("grown_retrained")
            core = GrownRNN(genotype, self.task.input_size, self.hidden_size, backend=self.backend)
            core.reset_parameters(generator)
            return self.task.model(core, generator=generator)

        return self.settings("retrained", {"hidden_size": self.hidden_size}, build)

    def settings(self, key: str, chosen: dict[str, Any], build: Callable[[], Any]) -> list[list[Setting]]:
        """Return a candidate for each loss and weight decay, with a setting for each rate."""
        tasks = [(loss, self.task.with_loss(loss)) for loss in self.losses]
        return [
            [one._replace(chosen={**chosen, "loss": loss, **one.chosen}, task=task) for one in candidate]
            for loss, task in tasks
            for candidate in self.by_rate(f"{key}-{loss}", build, self.recipe, self.rates, self.weight_decays)
        ]

    def supernets(self, key: str, nodes: int, rates: Sequence[float] | None = None) -> list[list[Setting]]:
        """Return the ways to train a supernet of so many nodes with all ops from random weights, one for each rate.

        It is trained as growth trains, but in one stage, without a pull, with the epochs and patience of the baselines.
        """
        recipe = replace(self.growth.recipe, epochs=self.recipe.epochs, patience=self.recipe.patience, pull=0.0)

        def build() -> Any:
            return self.build([self.space.ops] * nodes, None, self.draw(f"supernet-{nodes}"))

        made = self.by_rate(key, build, recipe, rates)
        return [[one._replace(chosen={"nodes": nodes, **one.chosen}) for one in candidate] for candidate in made]

    def by_rate(
        self,
        key: str,
        build: Callable[[], Any],
        recipe: Recipe,
        rates: Sequence[float] | None = None,
        decays: Sequence[float] | None = None,
    ) -> list[list[Setting]]:
        """Return a candidate for each weight decay, with a setting for each rate of the weights, the highest first.

        Args:
            key: what the settings' keys begin with.
            build: makes the model anew.
            recipe: how it is trained but for what follows.
            rates: None for the recipe's.
            decays: weight decays of the weights; None for the recipe's.
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
        told = prefixed(contest.journal.note, "var: ")
        selected = select_by_validation(values, rows("train").stop, rows("val").stop, notify=told)
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
    told = prefixed(contest.journal.note, "var_robust: ")
    return _fitted_var(
        contest, "var_robust", lambda: select_by_folds(known, orders=contest.orders, notify=told).robust(rows)
    )


def har(contest: SeriesContest) -> Score:
    """Fit a heterogeneous autoregression by least squares, its ridge chosen by blocked folds."""
    values = contest.task.values

    def fit() -> Selection:
        selected = select_har(values[contest.task.rows("train")], notify=prefixed(contest.journal.note, "har: "))
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
    """Train LSTMs; hidden size, loss, rate and weight decay are chosen on the validation part."""
    return _recurrent(contest, "lstm")


def gru(contest: SeriesContest) -> Score:
    """Train GRUs; hidden size, loss, rate and weight decay are chosen on the validation part."""
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
    by_size = [contest.settings(f"{kind}-{size}", {"hidden_size": size}, partial(build, size)) for size in sizes]
    return train_and_choose(contest, kind, [one for candidates in by_size for one in candidates])[0]


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

    trained = train_by_pulls(contest, "gru_var", build(var), rates=contest.rates, decays=contest.weight_decays)
    if contest.refit:
        again = build(contest.selection.refit(task.values[: contest.fit_end]))
        trained = refit_by_pull(contest, "gru_var", again, trained)
    return _score_pulled(contest, "gru_var", trained, {"units": units})


@dataclass(frozen=True)
class Pulled:
    """A start trained with each pull.

    Attributes:
        model: accepted last; the start if none was.
        pull: with which it was trained; None if none was accepted.
        setting: of the accepted fit; None likewise.
        epochs: of the accepted fit, up to its best.
        loss: mean validation loss of the model.
        tried: settings, of all pulls.
        seconds, steps: of all fits.
        capped: see `common.is_capped`; of the accepted fit.
    """

    model: Any
    pull: float | None
    setting: Setting | None
    epochs: int
    loss: float
    tried: int
    seconds: float
    steps: int
    capped: bool


def train_by_pulls(
    contest: SeriesContest,
    key: str,
    start: Any,
    *,
    rates: Sequence[float] | None = None,
    decays: Sequence[float] | None = None,
) -> Pulled:
    """Train a start with each pull in order, as the first stage of growth is.

    Args:
        contest: gives pulls, judge and recipe, those of growth, and the most epochs, those of the baselines.
        key: what the fits' keys begin with.
        start: the model that each training begins with.
        rates: of the weights, of which validation chooses for each pull; None for growth's.
        decays: of the weights, likewise.

    Raises:
        TrainingError: training diverges with every setting of a pull; with the seconds and steps of all fits.
    """
    growth = contest.growth
    best: Judged = Evaluated(start, contest.task.evaluate(start, "val"))
    found = Pulled(start, None, None, 0, float(best.evaluation.losses.mean()), 0, 0.0, 0, False)
    for pull in growth.pulls:
        recipe = replace(growth.recipe, pull=pull, epochs=contest.recipe.epochs)
        begin = partial(_ready, contest, start, pull)
        settings = contest.by_rate(f"{key}-pull-{pull:g}", begin, recipe, rates, decays)
        try:
            choice = choose(contest, settings)
        except TrainingError as error:
            raise TrainingError(str(error), found.seconds + error.seconds, found.steps + error.steps) from error
        fit = choice.fit
        found = replace(
            found,
            tried=found.tried + choice.tried,
            seconds=found.seconds + choice.seconds,
            steps=found.steps + choice.steps,
        )
        if judge(best, fit, contest.task, growth).accepted:
            best = fit
            found = replace(
                found,
                model=fit.model,
                pull=pull,
                setting=choice.setting,
                epochs=fit.best_epoch,
                loss=float(best.evaluation.losses.mean()),
                capped=choice.capped,
            )
    return found


def refit_by_pull(contest: SeriesContest, key: str, start: Any, trained: Pulled) -> Pulled:
    """Train a start on training and validation data as it was trained before; return what was trained with it."""
    if trained.setting is None or trained.pull is None:
        return replace(trained, model=start)
    recipe = trained.setting.recipe.refit(trained.epochs)
    begin = _ready(contest, start, trained.pull)
    fit = contest.journal.fit(f"{key}-refit", begin, contest.task.with_refit(), recipe, seed=contest.seed)
    return replace(trained, model=fit.model, seconds=trained.seconds + fit.seconds, steps=trained.steps + fit.steps)


def _ready(contest: SeriesContest, start: Any, pull: float) -> Any:
    """Return what is trained: a backbone's silent ops need noise, a GRU's weights are drawn already."""
    if not isinstance(start.core, Backbone):
        return start
    return stirred(start, contest.growth.noise, pull, seed=contest.seed)


def _score_pulled(contest: SeriesContest, name: str, trained: Pulled, chosen: dict[str, Any]) -> Score:
    setting = {} if trained.setting is None else trained.setting.chosen
    about = {**chosen, "pull": trained.pull, **setting}
    score = score_model(contest.task, name, trained.model, trained.seconds, trained.tried, about)
    return replace(score, steps=trained.steps, capped=trained.capped)


def random_search(contest: SeriesContest) -> Score:
    """Train random genotypes from the same start, with the same pulls and judge, for as many steps as the growth.

    The rates take turns, one a genotype: random search over cells and rates together.
    """
    rates = itertools.cycle(contest.rates)
    drawn = train_random(contest, lambda key, start: train_by_pulls(contest, key, start, rates=[next(rates)]))
    best, ops, key = min(drawn.trained, key=lambda one: one[0].loss)
    best = replace(best, tried=drawn.tried, seconds=drawn.seconds, steps=drawn.steps)
    if contest.refit:
        best = refit_by_pull(contest, "random", contest.start(ops, key, refitted=True), best)
    return _score_pulled(contest, "random", best, {"nodes": len(ops), "ops": sum(map(len, ops))})


def fixed_size_random(contest: SeriesContest) -> Score:
    """Train a supernet of `max_nodes` nodes with all ops from random weights; validation chooses the rate.

    It is the largest model that growth can reach, without the growing.
    """
    name = "fixed_size_random"
    return train_and_choose(contest, name, contest.supernets(name, contest.growth.max_nodes, contest.rates))[0]


def sizes(contest: SeriesContest) -> Score:
    """Train supernets of 1, 2, .. nodes from random weights; growth's judge chooses the number of nodes.

    This sweep is what growing replaces, because nobody knows the right size beforehand. Each size is trained until
    patience runs out, at growth's own rate: growth tunes none either. A larger size is chosen only if the judge accepts
    it against the best of the smaller ones. Seconds and steps are of all sizes.
    """
    growth = contest.growth
    choices = [choose(contest, contest.supernets(f"sizes-{nodes}", nodes)) for nodes in range(1, growth.max_nodes + 1)]
    best = choices[0]
    for choice in choices[1:]:
        if judge(best.fit, choice.fit, contest.task, growth).accepted:
            best = choice
    seconds, steps = sum(one.seconds for one in choices), sum(one.steps for one in choices)
    return score_choice(contest, "sizes", best._replace(tried=len(choices), seconds=seconds, steps=steps))[0]


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
    "fixed_size_random": fixed_size_random,
    "sizes": sizes,
}
