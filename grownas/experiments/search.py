"""The work of a run, from data to scores: a search, or the training of a given cell or baseline.

config -> task -> linear models by folds -> start -> search -> derived cell -> retraining, baselines -> scores
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from grownas.cells.derived import Derived
from grownas.config.sections import Config
from grownas.criteria.acceptance import Acceptance, Untrained
from grownas.errors import TooFewRowsError, TrainingError
from grownas.evaluation.groups import rows_of
from grownas.evaluation.models import QUANTISED, SEARCH
from grownas.evaluation.scoring import Score
from grownas.experiments.experiment import Experiment
from grownas.experiments.quantising import quantise
from grownas.experiments.series import SeriesExperiment
from grownas.experiments.starts import Searched, add_costs, search_from_starts, search_once
from grownas.experiments.text import TextExperiment
from grownas.genotype import AnyGenotype
from grownas.protocols import Cautious, Folder, Illustrated, Journal, Model, SearchResult, Task
from grownas.starts.random import Ops
from grownas.training.moments import moments_of

Summary = dict[str, Any]
T = TypeVar("T")

EXPERIMENTS: dict[str, type[Experiment]] = {  # kind of task -> experiment
    "plain": Experiment,
    "series": SeriesExperiment,
    "language": TextExperiment,
}


def search(config: Config, folder: Folder, journal: Journal, task: Task) -> tuple[Summary, Model]:
    """Search, retrain the found cell, train the baselines and score all models.

    Returns:
        The summary, and the chosen model.
    """
    folder.write_json("data.json", {"kind": task.kind, **task.describe()})
    first = tuned(config, journal, task)
    searched = search_as_set(first, config)
    experiment, found = replace(searched.experiment, params=searched.result.params), searched.result
    task, strategy, result = experiment.task, experiment.strategy, found
    if config.refit:
        problem = experiment.problem(searched.nodes, refitted=True)
        with journal.of_model("refit"):
            result = strategy.refit(problem, result)
    scores = _score_found(experiment, result, config)
    start = first.problem([first.space.ops] * config.start.nodes, refitted=config.refit).start
    scores.append(first.score_start(start))
    winner = replace(scores[0], model="start") if result.is_start else scores[0]  # the start itself, with alpha fixed
    model, spent, front = result.model, scores[:1], []
    moments, recipe = found.moments, strategy.recipe()
    choice, name = None, rows_of(config.strategy.row)[1]
    if config.retrain.grown:
        before = _costs(journal)
        with journal.of_model(name):
            choice = _if_possible(name, lambda: experiment.choose(experiment.settings_of(derived_genotype(model))))
    if choice is not None:
        with journal.of_model(name):
            retrained, retrained_model = experiment.score_choice(name, choice)
        retrained = replace(retrained, **_costs(journal, **before))
        scores.append(retrained)
        spent.append(retrained)
        by_search_loss = Untrained(choice.fit.model, task.evaluate(choice.fit.model, "val"))
        if not result.is_start and Acceptance.of(config.strategy)(found, by_search_loss, task).accepted:
            winner, model = retrained, retrained_model
            moments, recipe = moments_of(choice.fit.model, choice.fit.optimizers), choice.setting.recipe
    if config.quantise.widths:
        with journal.of_model(QUANTISED):
            done = quantise(experiment, config.quantise, winner, model)
        if done is not None:
            scores += done.scores
            winner, model, front = done.winner, done.model, done.front
            moments, recipe = moments_of(done.fit.model, done.fit.optimizers), done.recipe
    scores.insert(0, _as_chosen(winner, spent))
    for name in config.baselines.use:
        row = _if_possible(name, partial(_timed, journal, partial(run_baseline, experiment, name)))
        scores += [] if row is None else [row]
    stages = [line for line in result.log if "stage" in line]  # of growth; others log only what `refit` needs
    about = {
        "chosen": winner.model,
        "search_seconds": round(scores[1].seconds, 3),
        # steps of a single search without the refit, so that another strategy can use it as its budget
        "search_steps": found.steps // max(1, len(config.search_rates)),
        "retrain_seconds": None if choice is None else round(retrained.seconds, 3),
        "stages": len({line["stage"] for line in stages}),
        "stage_log": stages,
        "genotypes": list(result.scores),
        **({"starts": list(searched.starts)} if searched.starts else {}),
        "stopped": result.reason,
        **({"front": front} if front else {}),
    }
    experiment.write_optimizer(folder, moments, recipe)
    return summarise(config, folder, task, model, scores, about), model


def tuned(config: Config, journal: Journal, task: Task) -> Experiment:
    """Return the experiment of a config, with the settings that are chosen before the search."""
    experiment = EXPERIMENTS[task.kind].of(config, journal, task)
    with journal.of_model("tuning"):  # tunes the settings of the search on its start
        return experiment.tuned([experiment.space.ops] * config.start.nodes)


def train(
    config: Config, folder: Folder, journal: Journal, task: Task, *, what: str | AnyGenotype
) -> tuple[Summary, Model | None]:
    """Train `what`, a genotype or the name of a baseline, from random weights and score it; return as `search` does."""
    folder.write_json("data.json", {"kind": task.kind, **task.describe()})
    experiment = EXPERIMENTS[task.kind].of(config, journal, task)
    if isinstance(what, str):
        score, model = run_baseline(experiment, what), None
    else:
        with journal.of_model("grown_retrained"):
            choice = experiment.choose(experiment.settings_of(what))
            score, model = experiment.score_choice("grown_retrained", choice)
        moments = moments_of(choice.fit.model, choice.fit.optimizers)
        experiment.write_optimizer(folder, moments, choice.setting.recipe)
    about = {"retrain_seconds": round(score.seconds, 3)}
    return summarise(config, folder, experiment.task, model, [score], about), model


def run_baseline(experiment: Experiment, name: str) -> Score:
    """Train a baseline and score it."""
    with experiment.journal.of_model(name):
        score: Score = experiment.baselines[name].function(experiment.task.kind)(experiment)
    return score


def derived_genotype(model: Model) -> AnyGenotype:
    """Return the genotype of a model's derived cell."""
    assert isinstance(model.core, Derived)
    return model.core.genotype


def search_as_set(experiment: Experiment, config: Config) -> Searched:
    """Search as a config says: with each learning rate, from both starts; return the search whose cell is kept."""
    nodes = [experiment.space.ops] * config.start.nodes
    with experiment.journal.of_model(SEARCH):
        return search_from_starts(
            experiment, lambda: tuned_search(experiment, nodes, config.search_rates), Acceptance.of(config.strategy)
        )


def tuned_search(experiment: Experiment, nodes: Sequence[Ops], rates: Sequence[float]) -> Searched:
    """Repeat the search with each learning rate of the weights; return the one with the lowest validation loss.

    The logs hold only the lines of that search. The result counts the steps, seconds and settings of all searches.
    """
    if not rates:
        return search_once(experiment, nodes)

    def search_with(rate: float, *, logs: bool) -> Searched:
        branch = experiment.journal.branch(f"rate-{rate:g}", logs=logs)
        return search_once(replace(experiment, strategy=experiment.strategy.with_rate(rate), journal=branch), nodes)

    journal, tried = experiment.journal, dict[float, SearchResult]()
    failed: TrainingError | None = None
    for rate in rates:
        try:
            one = search_with(rate, logs=False)
        except TrainingError as error:
            warnings.warn(f"skipped the learning rate {rate:g}: {error}", stacklevel=2)
            failed = error
            continue
        tried[rate] = one.result
        add_costs(journal, one.experiment.journal)
    if not tried:
        assert failed is not None  # there is a rate
        raise failed
    best = min(tried, key=lambda rate: float(tried[rate].evaluation.losses.mean()))
    found = search_with(best, logs=True)  # restores the finished work, and writes the logs
    result = replace(
        found.result,
        seconds=sum(each.seconds for each in tried.values()),
        steps=sum(each.steps for each in tried.values()),
        settings=sum(each.settings for each in tried.values()),
        chosen={"rate": best, **found.result.chosen},
    )
    return found._replace(experiment=replace(found.experiment, journal=journal), result=result)


def _score_found(experiment: Experiment, result: SearchResult, config: Config) -> list[Score]:
    """Score the found model and the other models that the search returns, under the name of the strategy."""
    before, tried = experiment.seconds_before, experiment.tried
    rows = rows_of(config.strategy.row)
    renamed = dict(zip(rows_of(config.strategy.use), rows, strict=True))
    score = experiment.score(
        rows[0],
        result.model,
        before + result.seconds,
        tried + result.settings,
        {**experiment.setting, **result.chosen},
        result.speed,
    )
    steps = experiment.steps_before + result.steps
    return [
        replace(score, steps=steps, capped=result.capped, **_costs(experiment.journal)),
        *(
            experiment.score(
                renamed.get(name, name), one.model, before + one.seconds, tried + one.settings, speed=one.speed
            )
            for name, one in result.others.items()
        ),
    ]


def _as_chosen(winner: Score, spent: Sequence[Score]) -> Score:
    """Return the score of the model that `predict` uses: the winner's score, with the cost of all its competitors."""
    return replace(
        winner,
        model="chosen",
        seconds=sum(one.seconds for one in spent),
        settings=sum(one.settings for one in spent),
        steps=sum(one.steps or 0 for one in spent),
        cpu_seconds=sum(one.cpu_seconds or 0.0 for one in spent),
        gradients=sum(one.gradients or 0 for one in spent),
        chosen={"model": winner.model, **winner.chosen},
    )


def _if_possible(name: str, work: Callable[[], T]) -> T | None:
    """Do some training; if it always diverges or the rows are too few, warn that a row is missing and return None."""
    try:
        return work()
    except (TrainingError, TooFewRowsError) as error:
        warnings.warn(f"no row {name}: {error}", stacklevel=2)
        return None


def _timed(journal: Journal, work: Callable[[], Score]) -> Score:
    """Return the score of some training, with what its fits took."""
    before = _costs(journal)
    score = work()
    return score if score.steps is None else replace(score, **_costs(journal, **before))


def _costs(journal: Journal, *, cpu_seconds: float = 0.0, gradients: int = 0) -> dict[str, Any]:
    """Return the processor seconds and the gradients of a journal's work, without what was spent before."""
    return {"cpu_seconds": journal.cpu_seconds - cpu_seconds, "gradients": journal.gradients - gradients}


def summarise(
    config: Config, folder: Folder, task: Task, model: Model | None, scores: list[Score], found: Summary
) -> Summary:
    """Write all results except the summary and the optimiser; return the summary with the entries `found`."""
    written = EXPERIMENTS[task.kind].write(task, folder, model, scores)
    about = {"nodes": None, "ops": None, "backend": None, **written}
    entries = [score.entry(task) for score in scores]
    ours = entries[0]
    if model is not None:
        cell = next(one for one in model.modules() if isinstance(one, Derived))  # the first layer
        folder.write_json("genotype.json", cell.genotype.to_dict())
        about |= {
            "nodes": len(cell.genotype.nodes),
            "ops": cell.genotype.op_count,
            "backend": cell.chosen_backend,
            **cell.genotype.figures,
        }
        if isinstance(task, Illustrated):
            figures = [figure.to_dict() for figure in task.figures(model, entries)]
            folder.write_json("figures.json", {"figures": figures})
    return {
        "task": task.name,
        "strategy": config.strategy.row,
        "seed": config.seed,
        "metric": task.metric,
        "val": ours["val"],
        "test": ours["test"],
        "params": ours["params"],
        "search_seconds": None,
        "retrain_seconds": None,
        "stages": 0,
        "refit": config.refit,
        "loss": task.loss_name,
        **({"caution": task.caution} if isinstance(task, Cautious) else {}),
        **about,
        **found,
        "scores": entries,
    }
