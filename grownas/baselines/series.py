"""Baselines of series: linear models, LSTM and GRU, and controls of growth.

Each baseline is a function from a run's experiment to a score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from grownas.baselines.dlinear import LOOKBACKS, DLinear
from grownas.baselines.esn import ESN, Reservoir, choose
from grownas.baselines.har import fit_har, select_har
from grownas.baselines.har import parameters as har_parameters
from grownas.baselines.lru import LRU
from grownas.baselines.min_gru import MinGRU
from grownas.baselines.naive import zero_forecast
from grownas.baselines.recurrent import GRUOnVAR, recurrent_core, start_gru_at_var
from grownas.baselines.tsmixer import UNITS, TSMixer
from grownas.baselines.var import VAR, Selection, fit_var, prefixed, select_by_folds, select_by_validation
from grownas.baselines.window import fix_readout
from grownas.criteria.acceptance import Untrained
from grownas.evaluation.scoring import Score
from grownas.protocols import Model, Recurrent

if TYPE_CHECKING:
    from grownas.experiments.choosing import Setting
    from grownas.experiments.series import SeriesExperiment


def zero(experiment: SeriesExperiment) -> Score:
    """Forecast the mean of the training part."""
    return _fitted(experiment, "zero", 0, zero_forecast(experiment.task.targets), 0.0)


def var1(experiment: SeriesExperiment) -> Score:
    """Fit a VAR(1) by least squares."""
    values, outputs = experiment.task.values[: experiment.fit_end], experiment.outputs
    return _fitted_var(experiment, "var1", lambda: Selection(fit_var(values, 1, outputs=outputs), {}, 1))


def var(experiment: SeriesExperiment) -> Score:
    """Fit a VAR by least squares; the validation part chooses its order, 1 to 22."""
    values, rows, outputs = experiment.task.values, experiment.task.rows, experiment.outputs

    def fit() -> Selection:
        told = prefixed(experiment.journal.note, "var: ")
        selected = select_by_validation(values, rows("train").stop, rows("val").stop, outputs=outputs, notify=told)
        return replace(selected, var=fit_var(values[: experiment.fit_end], selected.order, outputs=outputs))

    return _fitted_var(experiment, "var", fit)


def var_robust(experiment: SeriesExperiment) -> Score:
    """Fit a VAR by the Huber loss; blocked folds choose ridge and order. Reuses the start's folds if it has any."""
    values, rows = experiment.task.values, experiment.task.values[: experiment.fit_end]
    if isinstance(experiment.selection, Selection):
        chosen = experiment.selection
        score = _fitted_var(experiment, "var_robust", lambda: chosen.robust(rows))
        return replace(score, seconds=experiment.seconds_before)
    known = values[experiment.task.rows("train")]
    told = prefixed(experiment.journal.note, "var_robust: ")

    def fit() -> Selection:
        selected = select_by_folds(known, orders=experiment.orders, outputs=experiment.outputs, notify=told)
        return selected.robust(rows)

    return _fitted_var(experiment, "var_robust", fit)


def har(experiment: SeriesExperiment) -> Score:
    """Fit a heterogeneous autoregression by least squares; blocked folds choose its ridge."""
    values, outputs = experiment.task.values, experiment.outputs

    def fit() -> Selection:
        told = prefixed(experiment.journal.note, "har: ")
        selected = select_har(values[experiment.task.rows("train")], outputs=outputs, notify=told)
        var = fit_har(values[: experiment.fit_end], ridge=selected.chosen["ridge"], outputs=outputs)
        return replace(selected, var=var)

    return _fitted_var(experiment, "har", fit, har_parameters(experiment.task.input_size, outputs))


def esn(experiment: SeriesExperiment) -> Score:
    """Fit the readout of an echo state network; blocked folds choose leak, spectral radius, input scale and ridge."""
    values, outputs = experiment.task.values, experiment.outputs
    reservoir = Reservoir.draw(experiment.task.input_size, seed=experiment.seed)

    def work() -> dict[str, Any]:
        told = prefixed(experiment.journal.note, "esn: ")
        found = choose(reservoir, values[experiment.task.rows("train")], outputs=outputs, notify=told)
        known = values[: experiment.fit_end]
        fitted = ESN.fit(reservoir, found.setting, known, ridge=found.ridge, outputs=outputs)
        return {
            "forecasts": fitted.forecast(values),
            "params": fitted.readout.size,
            "settings": len(found.scores),
            "chosen": {**found.setting._asdict(), "ridge": found.ridge},
        }

    return _remembered(experiment, "esn", work)


def _fitted_var(
    experiment: SeriesExperiment, name: str, fit: Callable[[], Selection], parameters: int | None = None
) -> Score:
    """Fit and score a VAR; `parameters` is the number of fitted coefficients if it differs from the VAR's."""

    def work() -> dict[str, Any]:
        found = fit()
        forecasts = found.var.forecast(experiment.task.values)
        return {
            "forecasts": forecasts,
            "params": parameters or found.var.parameters,
            "settings": found.settings,
            "chosen": found.chosen,
        }

    return _remembered(experiment, name, work)


def _remembered(experiment: SeriesExperiment, name: str, work: Callable[[], dict[str, Any]]) -> Score:
    """Score what `work` returns: `forecasts`, `params`, `settings` and `chosen`; a resumed run repeats no work."""
    done = experiment.journal.remember(name, work)
    return _fitted(
        experiment, name, done["params"], done["forecasts"], done["seconds"], done["settings"], done["chosen"]
    )


def _fitted(
    experiment: SeriesExperiment,
    name: str,
    params: int,
    forecasts: np.ndarray,
    seconds: float,
    settings: int = 1,
    chosen: dict[str, Any] | None = None,
) -> Score:
    """Score forecasts; row t of `forecasts` is the forecast of row t + 1 from rows up to t."""
    ahead = np.concatenate([np.zeros_like(forecasts[:1]), forecasts[:-1]])
    val, test = (
        experiment.task.evaluate_forecasts(ahead[experiment.task.rows(part)], part) for part in ("val", "test")
    )
    return Score(name, params, val, test, seconds, settings, chosen or {})


def lstm(experiment: SeriesExperiment) -> Score:
    """Train LSTMs; the validation part chooses hidden size, loss, rate and weight decay."""
    return _by_size(experiment, "lstm", partial(recurrent_core, "lstm"))


def gru(experiment: SeriesExperiment) -> Score:
    """Train GRUs; the validation part chooses hidden size, loss, rate and weight decay."""
    return _by_size(experiment, "gru", partial(recurrent_core, "gru"))


def min_gru(experiment: SeriesExperiment) -> Score:
    """Train minGRUs; validation chooses as for `gru`."""
    return _by_size(experiment, "min_gru", MinGRU)


def lru(experiment: SeriesExperiment) -> Score:
    """Train linear recurrent units in their block; validation chooses as for `gru`."""
    return _by_size(experiment, "lru", LRU)


def tsmixer(experiment: SeriesExperiment) -> Score:
    """Train TSMixers of one layer; validation chooses as for `gru`, but among fixed numbers of units.

    To match a found cell's parameters a TSMixer would need up to thousands of units, each computed for all rows of
    each window.
    """
    return _by_size(experiment, "tsmixer", TSMixer, finish=fix_readout, word="units", sizes=UNITS)


def dlinear(experiment: SeriesExperiment) -> Score:
    """Train DLinear; validation chooses as for `gru`, but the number of rows to read instead of the hidden size."""
    return _by_size(experiment, "dlinear", DLinear, finish=fix_readout, word="lookback", sizes=LOOKBACKS)


def _by_size(experiment: SeriesExperiment, name: str, make: Callable[..., Recurrent], **given: Any) -> Score:
    """Train a kind of core with each size; validation chooses; arguments as of `_sized`."""
    return experiment.train_and_score(name, _sized(experiment, name, make, **given))[0]


def recurrent_settings(experiment: SeriesExperiment, kind: str) -> list[list[Setting]]:
    """Return the settings for training an `lstm` or a `gru`, as candidates for `Experiment.choose`."""
    return _sized(experiment, kind, partial(recurrent_core, kind))


def _sized(
    experiment: SeriesExperiment,
    name: str,
    make: Callable[..., Recurrent],
    *,
    finish: Callable[[Model], Model] = lambda model: model,
    word: str = "hidden_size",
    sizes: Sequence[int] = (),
) -> list[list[Setting]]:
    """Return the settings for training a kind of core: each size, loss, rate and weight decay.

    Args:
        experiment: the run's experiment.
        name: the baseline's name.
        make: builds a core from the number of series, its size and a `generator`.
        finish: changes a new model.
        word: what the size is called in the settings.
        sizes: sizes to try; if empty, `baselines.hidden_sizes` and the size that matches the found model's parameters.
    """
    task = experiment.task

    def build(size: int) -> Model:
        generator = experiment.draw(f"{name}-{size}")
        return finish(task.model(make(task.input_size, size, generator=generator), generator=generator))

    if not sizes:
        equal = [experiment.matched_size(build, experiment.params)] if experiment.params else []
        sizes = sorted({*experiment.hidden_sizes, *equal})
    by_size = [experiment.settings(f"{name}-{size}", {word: size}, partial(build, size)) for size in sizes]
    return [one for candidates in by_size for one in candidates]


def gru_var(experiment: SeriesExperiment) -> Score:
    """Train a GRU beside the same VAR, with the same criterion: a control for the topology of the cell."""
    task, var = experiment.task, experiment.selection.var

    def build(var: VAR, units: int) -> Model:
        generator = experiment.draw("gru_var")
        core = GRUOnVAR(task.input_size, units, var.order, var.centres, generator=generator)
        return start_gru_at_var(task.model(core, generator=generator), var)

    units = max(experiment.hidden_sizes)
    if experiment.params:
        units = experiment.matched_size(partial(build, var), experiment.params)
    start = build(var, units)
    choice = experiment.choose(
        experiment.by_rate(
            "gru_var",
            lambda: start,
            replace(experiment.strategy.recipe(), epochs=experiment.recipe.epochs, bf16=experiment.recipe.bf16),
            experiment.rates,
            experiment.weight_decays,
        )
    )
    untrained = Untrained(start, task.evaluate(start, "val"))
    accepted = experiment.accept(untrained, choice.fit, task).accepted
    model, seconds, steps = choice.fit.model if accepted else start, choice.seconds, choice.steps
    if experiment.refit:
        model = build(experiment.selection.refit(task.values[: experiment.fit_end]), units)
        if accepted:
            recipe = choice.setting.recipe.refit(choice.fit.best_epoch)
            again = experiment.journal.fit("gru_var-refit", model, task.with_refit(), recipe, seed=experiment.seed)
            model, seconds, steps = again.model, seconds + again.seconds, steps + again.steps
    chosen = {"units": units, **(choice.setting.chosen if accepted else {})}
    score = experiment.score("gru_var", model, seconds, choice.tried, chosen)
    return replace(score, steps=steps, capped=accepted and choice.capped)


def fixed_size_random(experiment: SeriesExperiment) -> Score:
    """Train a supernet of `max_nodes` nodes with all ops from random weights; validation chooses the rate.

    It has the largest size that growth can reach, without growth.
    """
    name = "fixed_size_random"
    return experiment.train_and_score(name, experiment.supernets(name, experiment.space.max_nodes, experiment.rates))[0]


def sizes(experiment: SeriesExperiment) -> Score:
    """Train supernets of 1, 2, .. nodes from random weights; the search's criterion chooses the number of nodes.

    Growth replaces this sweep over sizes, since the right size is unknown beforehand. Each size is trained until
    patience runs out, with the search's own rate, as in the search. A larger size is chosen only if the criterion
    accepts it against the best smaller size. Seconds and steps are totals over all sizes.
    """
    most = experiment.space.max_nodes
    choices = [experiment.choose(experiment.supernets(f"sizes-{nodes}", nodes)) for nodes in range(1, most + 1)]
    best = choices[0]
    for choice in choices[1:]:
        if experiment.accept(best.fit, choice.fit, experiment.task).accepted:
            best = choice
    seconds, steps = sum(one.seconds for one in choices), sum(one.steps for one in choices)
    return experiment.score_choice("sizes", best._replace(tried=len(choices), seconds=seconds, steps=steps))[0]
