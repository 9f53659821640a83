"""The baselines: fitted and trained on the same data, scaling, budget and stopping rule as the grown cell.

`BASELINES` is the table of them; a new one is a function that takes a `Contest` and returns a `Score`, and one line.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from grownas.backbone import Backbone
from grownas.baselines.naive import zero_forecast
from grownas.baselines.recurrent import (
    GRUOnVAR,
    hidden_size_for_parameters,
    recurrent_core,
    start_gru_at_var,
)
from grownas.baselines.var import VAR, Selection, fit_var, select_by_validation
from grownas.criteria.early_stop import JUDGES
from grownas.journal import Journal
from grownas.recipe import Recipe, count_parameters
from grownas.scoring import Score
from grownas.space import SearchSpace
from grownas.start import Ops
from grownas.strategies.growing import stirred
from grownas.strategies.stage import Growth
from grownas.train import Fit


@dataclass(frozen=True)
class Contest:
    """What the baselines are given.

    Attributes:
        task: the data; its loss is the start's.
        journal: does and remembers the fits.
        selection: the VAR chosen by blocked folds, see `baselines.var.select_by_folds`.
        selection_seconds: how long that took.
        build: builds the start for each node's ops at a VAR (None: at random weights), from a generator.
        at_var: whether growth starts at the VAR.
        growth: how the cell is grown.
        space: the ops allowed.
        recipe: the budget of each trained baseline.
        hidden_sizes, losses: what `lstm` and `gru` choose from, beside the size with the grown cell's parameters.
        seed: of weights and data order.
        refit: fit the chosen settings anew on training and validation data.
        backend: what runs grown cells.
        params: of the grown cell's model, which `lstm` and `gru` match; None if there is no grown cell.
        steps: weight steps of the growth, the budget of `random`.
    """

    task: Any
    journal: Journal
    selection: Selection
    selection_seconds: float
    build: Callable[[Sequence[Ops], VAR | None, torch.Generator], Any]
    at_var: bool
    growth: Growth
    space: SearchSpace
    recipe: Recipe
    hidden_sizes: tuple[int, ...]
    losses: tuple[str, ...]
    seed: int
    refit: bool = False
    backend: str = "auto"
    params: int | None = None
    steps: int = 0

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

    def draw(self, purpose: str) -> torch.Generator:
        """Return a generator for one purpose, fixed by the seed."""
        return generator_for(self.seed, purpose)


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Return a random generator that depends on the seed and on what it is for."""
    words = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def zero(contest: Contest) -> Score:
    """Forecast nothing: the mean of the training part."""
    return _fitted(contest, "zero", 0, zero_forecast(contest.task.values), 0.0)


def var1(contest: Contest) -> Score:
    """Fit a VAR(1) by least squares."""
    return _fitted_var(contest, "var1", lambda: Selection(fit_var(contest.task.values[: contest.fit_end], 1), {}, 1))


def var(contest: Contest) -> Score:
    """Fit a VAR by least squares, its order, 1 to 22, chosen on the validation part."""
    values, rows = contest.task.values, contest.task.rows

    def fit() -> Selection:
        selected = select_by_validation(values, rows("train").stop, rows("val").stop)
        return replace(selected, var=fit_var(values[: contest.fit_end], selected.order))

    return _fitted_var(contest, "var", fit)


def var_robust(contest: Contest) -> Score:
    """Fit a VAR by the Huber loss, ridge and order chosen by the blocked folds that also chose the start."""
    rows = contest.task.values[: contest.fit_end]
    score = _fitted_var(contest, "var_robust", lambda: contest.selection.robust(rows))
    return replace(score, seconds=contest.selection_seconds)


def _fitted_var(contest: Contest, name: str, fit: Callable[[], Selection]) -> Score:
    def work() -> dict[str, Any]:
        found = fit()
        forecasts = found.var.forecast(contest.task.values)
        return {
            "forecasts": forecasts,
            "params": found.var.parameters,
            "settings": found.settings,
            "chosen": found.chosen,
        }

    done = contest.journal.remember(name, work)
    return _fitted(contest, name, done["params"], done["forecasts"], done["seconds"], done["settings"], done["chosen"])


def _fitted(
    contest: Contest,
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


def lstm(contest: Contest) -> Score:
    """Train LSTMs; hidden size and loss are chosen on the validation part."""
    return _recurrent(contest, "lstm")


def gru(contest: Contest) -> Score:
    """Train GRUs; hidden size and loss are chosen on the validation part."""
    return _recurrent(contest, "gru")


def _recurrent(contest: Contest, kind: str) -> Score:
    task = contest.task
    inputs = task.input_size
    equal = [hidden_size_for_parameters(kind, inputs, inputs, contest.params)] if contest.params else []

    def build(hidden_size: int) -> Any:
        generator = contest.draw(f"{kind}-{hidden_size}")
        core = recurrent_core(kind, inputs, hidden_size, generator=generator)
        return task.model(core, generator=generator)

    settings = [
        (f"{kind}-{size}", {"hidden_size": size}, lambda size=size: build(size))
        for size in sorted({*contest.hidden_sizes, *equal})
    ]
    score, _ = train_and_choose(contest, kind, settings)
    return score


def train_and_choose(
    contest: Contest, name: str, builders: Iterable[tuple[str, dict[str, Any], Callable[[], Any]]]
) -> tuple[Score, Any]:
    """Train every builder's model with every loss; return score and model of the lowest validation metric."""
    tried: list[tuple[Fit, dict[str, Any], Any, Any]] = []
    for (key, chosen, build), loss in itertools.product(builders, contest.losses):
        task = contest.task.with_loss(loss)
        fit = contest.journal.fit(f"{key}-{loss}", build(), task, contest.recipe, seed=contest.seed)
        tried.append((fit, {**chosen, "loss": loss}, build, task))
    fit, chosen, build, task = min(tried, key=lambda one: one[0].evaluation.metric)
    model, seconds = fit.model, sum(one[0].seconds for one in tried)
    if contest.refit:
        final = replace(contest.recipe, patience=None, epochs=max(1, fit.best_epoch))
        again = contest.journal.fit(f"{name}-refit", build(), task.with_refit(), final, seed=contest.seed)
        model, seconds = again.model, seconds + again.seconds
    return score_model(contest.task, name, model, seconds, len(tried), chosen), model


def score_model(
    task: Any, name: str, model: Any, seconds: float, settings: int = 1, chosen: dict[str, Any] | None = None
) -> Score:
    """Evaluate a trained model on validation and test part."""
    val, test = task.evaluate(model, "val"), task.evaluate(model, "test")
    return Score(name, count_parameters(model), val, test, seconds, settings, chosen or {})


def gru_var(contest: Contest) -> Score:
    """Train a GRU beside the same VAR, with the same pulls and judge: shows what the cell's topology adds."""
    task, var = contest.task, contest.selection.var
    units = max(contest.hidden_sizes)
    if contest.params:
        register = var.order * task.input_size
        units = hidden_size_for_parameters("gru", task.input_size, task.input_size, contest.params, register=register)

    def build(var: VAR) -> Any:
        generator = contest.draw("gru_var")
        core = GRUOnVAR(task.input_size, units, var.order, generator=generator)
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


def train_by_pulls(contest: Contest, key: str, start: Any) -> Pulled:
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


def refit_by_pull(contest: Contest, key: str, start: Any, trained: Pulled) -> tuple[Any, float]:
    """Train a start on training and validation data as it was trained before; return model and seconds."""
    if trained.pull is None:
        return start, 0.0
    recipe = replace(contest.growth.recipe, pull=trained.pull, patience=None, epochs=max(1, trained.epochs))
    begin = _ready(contest, start, trained.pull)
    fit = contest.journal.fit(f"{key}-refit", begin, contest.task.with_refit(), recipe, seed=contest.seed)
    return fit.model, fit.seconds


def _ready(contest: Contest, start: Any, pull: float) -> Any:
    """Return what is trained: a backbone's silent ops need noise, a GRU's weights are drawn already."""
    if not isinstance(start.core, Backbone):
        return start
    return stirred(start, contest.growth.noise, pull, seed=contest.seed)


def random_search(contest: Contest) -> Score:
    """Train random genotypes from the same start, pulls and judge until they took as many steps as the growth.

    Steps stand for seconds, so that the result does not depend on the machine; the seconds are reported.
    """
    rng = random.Random(contest.seed)
    tried: list[tuple[Pulled, list[Ops]]] = []
    while sum(trained.steps for trained, _ in tried) < max(1, contest.steps):
        key = f"random-{len(tried)}"
        genotype = contest.space.sample(rng)
        ops: list[Ops] = [[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes]
        tried.append((train_by_pulls(contest, key, contest.start(ops, key)), ops))
    number = min(range(len(tried)), key=lambda i: tried[i][0].loss)
    (best, ops), seconds = tried[number], sum(trained.seconds for trained, _ in tried)
    model = best.model
    if contest.refit:
        model, more = refit_by_pull(contest, "random", contest.start(ops, f"random-{number}", refitted=True), best)
        seconds += more
    chosen = {"nodes": len(ops), "ops": sum(map(len, ops)), "pull": best.pull}
    return score_model(contest.task, "random", model, seconds, len(tried), chosen)


BASELINES: dict[str, Callable[[Contest], Score]] = {
    "zero": zero,
    "var1": var1,
    "var": var,
    "var_robust": var_robust,
    "lstm": lstm,
    "gru": gru,
    "gru_var": gru_var,
    "random": random_search,
}
