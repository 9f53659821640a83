"""What a run does, from data to scores: a search, or training a given cell.

config -> task -> linear models by folds -> start -> growth -> derived cell -> retrain, baselines -> scores -> folder
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

from grownas.backbones.chain import Backbone
from grownas.cells.cell import GrownRNN
from grownas.config.sections import Config
from grownas.criteria.threshold import Thresholds
from grownas.evaluation.scoring import Score
from grownas.experiments.common import Contest, choose, is_capped, retrain, score_choice, score_model
from grownas.experiments.series import SeriesContest
from grownas.experiments.text import LanguageContest
from grownas.genotype import Genotype
from grownas.report import verdicts
from grownas.runs.journal import Journal
from grownas.runs.rundir import RunDir
from grownas.space import SearchSpace
from grownas.starts.var import Ops
from grownas.strategies.growing.moves import MODES
from grownas.strategies.growing.state import Growth, Splits, with_core
from grownas.strategies.growing.strategy import Grown, grow, judge, replay
from grownas.training.loop import Fit
from grownas.training.recipe import OptimizerRecipe, Recipe, count_parameters

Summary = dict[str, Any]

STRATEGIES: dict[str, Callable[..., Grown]] = {"growing": grow}  # what `strategy.use` names
CONTESTS: dict[str, Any] = {"series": SeriesContest, "language": LanguageContest}  # by a task's kind


def search_program(config: Config, rundir: RunDir, journal: Journal, task: Any) -> Summary:
    """Do the main job, from data to scores."""
    contest = _contest(config, rundir, journal, task)
    nodes = [contest.space.ops] * config.start.nodes
    contest = contest.tuned(nodes)
    task, growth = contest.task, contest.growth
    start = contest.start(nodes, "start")
    origins = contest.origins(nodes)
    grown = STRATEGIES[config.strategy.use](start, task, journal, growth, seed=config.seed, origins=origins)
    contest = replace(contest, params=count_parameters(grown.model), steps=grown.steps)
    final = _finish(contest, grown, nodes)
    cpu_seconds = journal.cpu_seconds
    model = final.model
    if config.refit:
        start = contest.start(nodes, "start", refitted=True)
    search_seconds = contest.seconds_before + grown.seconds + final.seconds
    first_stage = [line["seconds"] for line in grown.stages if line["stage"] == 1]
    first_seconds = contest.seconds_before + sum(first_stage) + final.first_seconds
    found = {"pull": grown.pull, "nodes": len(model.core.genotype.nodes), "hidden_size": model.core.hidden_size}
    chosen, tried = {**contest.setting, **found}, contest.tried
    scores = [
        score_model(task, "grown", model, search_seconds, tried + len(grown.stages), chosen, grown.speed),
        score_model(task, "first_stage", final.first, first_seconds, tried + len(first_stage), speed=grown.first_speed),
        contest.score_start(start),
    ]
    steps, capped = contest.steps_before + grown.steps, _is_capped(grown, growth)
    scores[0] = replace(scores[0], steps=steps, cpu_seconds=cpu_seconds, capped=capped)
    winner = scores[0] if grown.path() else replace(scores[0], model="start")  # itself, alpha made fixed
    retrain_seconds = None
    if config.retrain.grown:
        before = journal.cpu_seconds
        choice = choose(contest, contest.settings_of(model.core.genotype))
        retrained, retrained_model = score_choice(contest, "grown_retrained", choice)
        retrained = replace(retrained, cpu_seconds=journal.cpu_seconds - before)
        scores.append(retrained)
        retrain_seconds = round(retrained.seconds, 3)
        if grown.path() and judge(grown, _by_loss_of(task, choice.fit), task, growth).accepted:
            winner, model = retrained, retrained_model
    scores.insert(0, _as_chosen(winner, scores))
    scores += [_timed(contest, partial(contest.baselines[name], contest)) for name in config.baselines.use]
    about = {
        "chosen": winner.model,
        "search_seconds": round(search_seconds, 3),
        "retrain_seconds": retrain_seconds,
        "stages": len({line["stage"] for line in grown.stages}),
        "stage_log": grown.stages,
        "stopped": grown.reason,
    }
    return _write(config, rundir, contest, model, scores, about)


def _by_loss_of(task: Any, fit: Fit) -> Fit:
    """Return a fit as a task evaluates it: what it was trained with may have had another loss, which says nothing."""
    return replace(fit, evaluation=task.evaluate(fit.model, "val"))


def _as_chosen(winner: Score, ours: Sequence[Score]) -> Score:
    """Return the score of the model that `predict` uses: the winner's, at the price of all that were trained for it.

    Nothing can be won by training anew where the start was kept: growth found that nothing beyond it holds.
    """
    spent = [one for one in ours if one.model in ("grown", "grown_retrained")]
    return replace(
        winner,
        model="chosen",
        seconds=sum(one.seconds for one in spent),
        settings=sum(one.settings for one in spent),
        steps=sum(one.steps or 0 for one in spent),
        cpu_seconds=sum(one.cpu_seconds or 0.0 for one in spent),
        chosen={"model": winner.model, **winner.chosen},
    )


def _timed(contest: Contest, work: Callable[[], Score]) -> Score:
    """Return the score that comes out of some training, with the processor time of its fits."""
    before = contest.journal.cpu_seconds
    score = work()
    return score if score.steps is None else replace(score, cpu_seconds=contest.journal.cpu_seconds - before)


def train_program(config: Config, rundir: RunDir, journal: Journal, task: Any) -> Summary:
    """Train the folder's genotype, or a baseline, from random weights and score it."""
    contest = _contest(config, rundir, journal, task)
    if rundir.what is not None:
        score, model = contest.baselines[rundir.what](contest), None
    else:
        score, model = retrain(contest, Genotype.load(rundir.path / "genotype.json"))
    return _write(config, rundir, contest, model, [score], {"retrain_seconds": round(score.seconds, 3)})


def _contest(config: Config, rundir: RunDir, journal: Journal, task: Any) -> Contest:
    """Gather what growth and baselines need."""
    rundir.write_json("data.json", {"kind": task.kind, **task.describe()})
    space = space_of(config)
    contest: Contest = CONTESTS[task.kind].enter(
        config,
        journal,
        task,
        growth=growth_of(config, space),
        space=space,
        recipe=retrain_recipe(config),
        seed=config.seed,
        refit=config.refit,
        backend=config.backend,
    )
    return contest


def space_of(config: Config) -> SearchSpace:
    """Return the cells that are allowed."""
    return SearchSpace(
        combine=config.space.combine,
        activation=config.space.activation,
        max_nodes=config.strategy.max_nodes,
        max_ops=len(config.space.combine) * len(config.space.activation),
        highway=config.space.highway,
        share_projection=config.space.share_projection,
    )


def growth_of(config: Config, space: SearchSpace) -> Growth:
    """Return what governs growth, from the config's `strategy`, and the ops that may be drawn.

    Raises:
        ConfigError: the thresholds contradict each other.
    """
    strategy = config.strategy.model_dump(exclude={"use", "max_epochs", "patience", "bilevel", "architecture_share"})
    weights, alpha = strategy.pop("weights"), strategy.pop("alpha")
    thresholds = {field.name: strategy.pop(field.name) for field in fields(Thresholds)}
    if "duplicate_op" not in MODES[config.strategy.mode]:
        thresholds["grow_threshold"] = math.inf  # no share is above it, and none keeps others from being pruned
    recipe = _recipe(
        weights,
        epochs=config.strategy.max_epochs,
        patience=config.strategy.patience,
        bilevel=config.strategy.bilevel,
        bf16=config.bf16,
        alpha=OptimizerRecipe(**alpha),
    )
    return Growth(
        recipe=recipe,
        pulls=tuple(strategy.pop("pull")),
        thresholds=Thresholds(**thresholds),
        splits=Splits(**strategy.pop("splitting")),
        space=space,
        **strategy,
    )


def retrain_recipe(config: Config) -> Recipe:
    """Return the budget of every model that is trained from scratch."""
    options = config.retrain.model_dump(exclude={"grown", "layers"})
    return _recipe(options, epochs=options.pop("epochs"), patience=options.pop("patience"), bf16=config.bf16)


def _recipe(weights: dict[str, Any], **others: Any) -> Recipe:
    """Return a recipe from the options of the weights' optimiser, some of which are of the whole."""
    names = {field.name for field in fields(OptimizerRecipe)}
    own = {key: value for key, value in weights.items() if key in names}
    rest = {key: value for key, value in weights.items() if key not in names}
    return Recipe(weights=OptimizerRecipe(**own), **rest, **others)


class Final(NamedTuple):
    """The models that are scored, and the seconds it took to finish each after the search.

    Attributes:
        model: around the derived cell.
        first: the trained first stage.
        seconds: of the model.
        first_seconds: of the first stage; the same work where the model is the first stage.
    """

    model: Any
    first: Any
    seconds: float
    first_seconds: float


def _finish(contest: Contest, grown: Grown, nodes: Sequence[Ops]) -> Final:
    """Derive the cell from the supernet found; fine-tune it where data were held out, refit it where asked for."""

    def finish(model: Any, path: list[dict[str, Any]], key: str) -> tuple[Any, float]:
        return _refit(contest, nodes, path) if contest.refit else _close(contest, model, path, key)

    model, seconds = finish(grown.model, grown.path(), "closing")
    model = with_core(model, model.core.derive()) if isinstance(model.core, Backbone) else model
    if grown.path() == [grown.first_line]:
        return Final(model, model, seconds, seconds)
    first, first_seconds = finish(grown.first_stage, [grown.first_line], "closing-first-stage")
    return Final(model, first, seconds, first_seconds)


def _is_capped(grown: Grown, growth: Growth) -> bool:
    """Say whether the training that the model came out of ended at the most epochs allowed, see `is_capped`."""
    last = grown.path()[-1:]
    return any(is_capped(line["epochs"], line["best_epoch"], growth.recipe) for line in last)


def _refit(contest: Contest, nodes: Sequence[Ops], path: list[dict[str, Any]]) -> tuple[Any, float]:
    """Repeat a path of growth on training and validation data; return model and seconds."""
    before = contest.journal.elapsed
    start = contest.start(nodes, "start", refitted=True)
    again = replay(start, contest.task.with_refit(), contest.journal, contest.growth, path, seed=contest.seed)
    return again, contest.journal.elapsed - before


def _close(contest: Contest, model: Any, path: list[dict[str, Any]], key: str) -> tuple[Any, float]:
    """Fine-tune the derived cell on all training data where alpha was given some of its own; return it and seconds."""
    if not path or contest.growth.recipe.bilevel == "joint":
        return model, 0.0
    recipe = replace(contest.growth.recipe, pull=path[-1]["pull"])
    derived = with_core(model, model.core.derive())
    fit = contest.journal.fit(key, derived, contest.task, recipe, seed=contest.seed)
    return fit.model, fit.seconds


def _write(
    config: Config, rundir: RunDir, contest: Contest, model: Any | None, scores: list[Score], found: Summary
) -> Summary:
    """Write everything that the run found; `summary.json` last, since it says that the run is complete."""
    task = contest.task
    about = {"nodes": None, "ops": None, "backend": None, **contest.write(rundir, model, scores)}
    entries = [score.entry(task) for score in scores]
    ours = entries[0]
    if model is not None:
        cell = next(one for one in model.modules() if isinstance(one, GrownRNN))  # of the first layer
        cell.genotype.save(rundir.path / "genotype.json")
        about |= {
            "nodes": len(cell.genotype.nodes),
            "ops": cell.genotype.op_count,
            "backend": cell.chosen_backend,
        }
    summary = {
        "task": task.name,
        "strategy": config.strategy.use,
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
        **about,
        **found,
        "scores": entries,
    }
    summary["verdict"] = verdicts.of_run(summary)
    rundir.write_json("summary.json", summary)
    return summary
