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
from grownas.protocols import Evaluation
from grownas.scoring import Score
from grownas.space import SearchSpace
from grownas.start import Ops
from grownas.strategies.growing import Growth, Grown
from grownas.train import Fit, Recipe, count_parameters


@dataclass(frozen=True)
class Contest:
    """What the baselines are given.

    Attributes:
        task: the data; its loss is the start's.
        journal: does and remembers the fits.
        selection: the VAR chosen by blocked folds, see `baselines.var.select_by_folds`, and the seconds it took.
        build: builds the start for each node's ops, from a generator.
        growth, grown: how the cell was grown, and what came out.
        space: the ops allowed.
        recipe: the budget of each trained baseline.
        hidden_sizes, losses: what `lstm` and `gru` choose from, beside the size with the grown cell's parameters.
        seed: of weights and data order.
        refit: fit the chosen settings anew on training and validation data.
    """

    task: Any
    journal: Journal
    selection: Selection
    selection_seconds: float
    build: Callable[[Sequence[Ops], torch.Generator], Any]
    growth: Growth
    grown: Grown
    space: SearchSpace
    recipe: Recipe
    hidden_sizes: tuple[int, ...]
    losses: tuple[str, ...]
    seed: int
    refit: bool = False

    @property
    def fit_end(self) -> int:
        """Rows that a fitted baseline may learn from."""
        return int(self.task.rows("val" if self.refit else "train").stop)

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
    return _fitted_var(contest, "var1", lambda: fit_var(contest.task.values[: contest.fit_end], 1))


def var(contest: Contest) -> Score:
    """Fit a VAR by least squares, its order, 1 to 22, chosen on the validation part."""
    task = contest.task
    train_end, val_end = task.rows("train").stop, task.rows("val").stop
    order = select_by_validation(task.values, train_end, val_end).order
    return _fitted_var(
        contest, "var", lambda: fit_var(task.values[: contest.fit_end], order), settings=22, chosen={"order": order}
    )


def var_robust(contest: Contest) -> Score:
    """Take the start's kind of VAR: loss, ridge and order by blocked folds inside the training part."""
    selection = contest.selection
    score = _fitted_var(
        contest, "var_robust", lambda: selection.var, settings=selection.settings, chosen=selection.chosen
    )
    return replace(score, seconds=contest.selection_seconds)


def _fitted_var(
    contest: Contest,
    name: str,
    fit: Callable[[], VAR],
    *,
    settings: int = 1,
    chosen: dict[str, Any] | None = None,
) -> Score:
    def work() -> dict[str, Any]:
        fitted = fit()
        return {"forecasts": fitted.forecast(contest.task.values), "params": fitted.parameters}

    done = contest.journal.remember(name, work)
    return _fitted(contest, name, done["params"], done["forecasts"], done["seconds"], settings, chosen)


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
    equal = hidden_size_for_parameters(kind, inputs, inputs, count_parameters(contest.grown.model))

    def build(hidden_size: int) -> Any:
        generator = contest.draw(f"{kind}-{hidden_size}")
        core = recurrent_core(kind, inputs, hidden_size, generator=generator)
        return task.model(core, generator=generator)

    settings = [
        (f"{kind}-{size}", {"hidden_size": size}, lambda size=size: build(size))
        for size in sorted({*contest.hidden_sizes, equal})
    ]
    return train_and_choose(contest, kind, settings)


def train_and_choose(
    contest: Contest, name: str, builders: Iterable[tuple[str, dict[str, Any], Callable[[], Any]]]
) -> Score:
    """Train every builder's model with every loss; the lowest validation metric is chosen."""
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
    return score_model(contest.task, name, model, seconds, len(tried), chosen)


def score_model(
    task: Any, name: str, model: Any, seconds: float, settings: int = 1, chosen: dict[str, Any] | None = None
) -> Score:
    """Evaluate a trained model on validation and test part."""
    val, test = task.evaluate(model, "val"), task.evaluate(model, "test")
    return Score(name, count_parameters(model), val, test, seconds, settings, chosen or {})


def gru_var(contest: Contest) -> Score:
    """Train a GRU beside the same VAR start, with the same pulls and judge: shows what the cell's topology adds."""
    task, var = contest.task, contest.selection.var
    params = count_parameters(contest.grown.model)
    hidden_size = hidden_size_for_parameters("gru", task.input_size, task.input_size, params)
    generator = contest.draw("gru_var")
    core = GRUOnVAR(task.input_size, hidden_size, var.order, generator=generator)
    start = start_gru_at_var(task.model(core, generator=generator), var)
    model, chosen, seconds, _ = train_by_pulls(contest, "gru_var", start)
    return score_model(task, "gru_var", model, seconds, len(contest.growth.pulls), {"hidden_size": hidden_size, **chosen})


def train_by_pulls(contest: Contest, key: str, start: Any) -> tuple[Any, dict[str, Any], float, int]:
    """Train a start with each pull in order; return the model accepted last, its pull, seconds and steps."""
    growth, task = contest.growth, contest.task
    best, losses, pull, seconds, steps = start, task.evaluate(start, "val").losses, None, 0.0, 0
    for candidate in growth.pulls:
        recipe = replace(growth.recipe, pull=candidate)
        fit = contest.journal.fit(f"{key}-pull-{candidate:g}", start, task, recipe, seed=contest.seed)
        seconds, steps = seconds + fit.seconds, steps + fit.steps
        if JUDGES[growth.judge](losses, fit.evaluation.losses, threshold=growth.threshold).accepted:
            best, losses, pull = fit.model, fit.evaluation.losses, candidate
    return best, {"pull": pull}, seconds, steps


def random_search(contest: Contest) -> Score:
    """Train random genotypes from the same start, pulls and judge until they took as many steps as the growth.

    Steps stand for seconds, so that the result does not depend on the machine; the seconds are reported.
    """
    task = contest.task
    rng = random.Random(contest.seed)
    best, best_loss, seconds, steps, number = None, np.inf, 0.0, 0, 0
    while steps < contest.grown.steps:
        genotype = contest.space.sample(rng)
        ops = [[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes]
        start = contest.build(ops, contest.draw(f"random-{number}"))
        model, _, used, taken = train_by_pulls(contest, f"random-{number}", start)
        loss = float(task.evaluate(model, "val").losses.mean())
        if loss < best_loss:
            best, best_loss = model, loss
        seconds, steps, number = seconds + used, steps + taken, number + 1
    return score_model(task, "random", best, seconds, number, {"genotypes": number})


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
