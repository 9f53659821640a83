"""A part of a study of optimisers: one strategy on one backbone with one seed, with every pair and every momentum.

Each combination trains the supernet with each rate of the weights; the rate with the lowest validation figure counts.
After each unit of training the supernet, its dominant eigenvalue in alpha and the cell in it are measured. Each cell is
also trained from random weights, once per genotype and by `retrain`: this table plays the part of a benchmark's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from grownas.config.loading import strategy_class
from grownas.config.sections import Config, Study
from grownas.errors import ConfigError, TrainingError
from grownas.experiments.experiment import Experiment
from grownas.experiments.search import EXPERIMENTS
from grownas.experiments.starts import last_of
from grownas.genotype import Genotype
from grownas.protocols import Journal, Task

Tree = dict[str, Any]


class Combination(NamedTuple):
    """The optimisers of the weights and of alpha, and the momentum of both."""

    weights: str
    alpha: str
    momentum: float


def combinations(study: Study) -> Iterator[Combination]:
    """Yield all combinations of a study."""
    yield from itertools.starmap(Combination, itertools.product(study.weights, study.alpha, study.momentum))


def check(config: Config) -> None:
    """Check before any work that the strategy of a part of a study can be studied.

    Raises:
        ConfigError: it cannot.
    """
    section = config.strategy
    known = type(section).model_fields
    learner = getattr(section, "alpha", None)
    if learner is None or "follow_cell_epochs" not in known:
        raise ConfigError(
            f"study.momentum: strategy {section.use} has no supernet whose optimisers can be studied; list strategies "
            "such as darts, darts_minus and sdarts_rs"
        )
    if not (section.follow_cell_epochs and section.follow_hessian_windows):
        raise ConfigError(
            f"study.momentum: {section.use} does not measure the cell or the eigenvalue; set follow_cell_epochs, such "
            "as 5, and follow_hessian_windows, such as 4, in its section"
        )
    if section.patience is not None or config.budget != type(config.budget)():
        raise ConfigError(
            f"study.momentum: all trainings of a study have the same epochs, but {section.use} may stop early; set "
            "patience: null in its section and no budget"
        )
    if strategy_class(section.use)(section).recipe().alpha.optimizer != learner.optimizer:
        raise ConfigError(f"study.momentum: {section.use} has an optimiser of alpha of its own; leave it out")


def run(config: Config, journal: Journal, task: Task) -> Tree:
    """Train and measure every combination.

    Returns:
        `task, metric, strategy, backbone, seed, curves`. A curve has `weights, alpha, momentum, rate, diverged` (rates
        with which training diverged) and `units`: one entry per unit of training with `epoch`, `supernet`,
        `eigenvalue`, `cell` (trained from the supernet's weights) and `anew` (trained from random weights); a cell that
        diverges has None. Without units, every rate diverged.
    """
    experiment = EXPERIMENTS[task.kind].of(config, journal, task)
    anew: dict[str, float | None] = {}
    curves = []
    for one in combinations(config.study):
        curve = _curve(experiment, config, one)
        for unit in curve["units"]:
            genotype = unit.pop("genotype")
            name = _name_of(genotype)
            if name not in anew:
                anew[name] = _anew(experiment, name, genotype)
            unit["anew"] = anew[name]
        curves.append(curve)
    return {
        "task": task.name,
        "metric": task.metric,
        "strategy": config.strategy.row,
        "backbone": config.space.backbone,
        "seed": config.seed,
        "curves": curves,
    }


def _curve(experiment: Experiment, config: Config, one: Combination) -> Tree:
    """Search with each rate; return the curve of the rate with the lowest validation figure."""
    journal, tried, diverged = experiment.journal, dict[float, list[Tree]](), list[float]()
    for rate in config.study.rates_of(one.weights):
        key = "-".join(f"{part}" for part in (*one, rate))
        branch = journal.branch(key, logs=False)
        done = journal.remember(f"units-{key}", partial(_units, replace(experiment, journal=branch), config, one, rate))
        branch.forget()  # hundreds of searches would leave gigabytes
        if done["error"]:
            warnings.warn(f"skipped the learning rate {rate:g} of {one}: {done['error']}", stacklevel=2)
            diverged.append(rate)
        else:
            tried[rate] = done["units"]
    best = min(tried, key=lambda rate: min(float(unit["supernet"]) for unit in tried[rate]), default=None)
    units = [] if best is None else tried[best]
    return {**one._asdict(), "rate": best, "diverged": diverged, "units": units}


def _units(experiment: Experiment, config: Config, one: Combination, rate: float) -> Tree:
    """Search once; return `units`, what was measured after each unit of training, and `error` if training diverges."""
    section = _section(config, one, rate)
    strategy = strategy_class(section.use)(section)
    problem = experiment.problem([experiment.space.ops] * config.start.nodes)
    try:
        scores = last_of(strategy.search(problem)).scores
    except TrainingError as error:
        return {"units": [], "error": str(error)}
    units = [
        {
            "epoch": unit["epoch"],
            "supernet": unit["supernet_val"],
            "eigenvalue": unit["eigenvalue"],
            "cell": unit["cell_val"],
            "genotype": unit["cell"],
        }
        for unit in scores
    ]
    return {"units": units, "error": ""}


def _section(config: Config, one: Combination, rate: float) -> Any:
    """Return the strategy's options with a combination's optimisers."""
    section, study = config.strategy, config.study

    def of(optimizer: str, full: float) -> Tree:
        factor = 1 - one.momentum if optimizer == "sgd" else 1.0  # a sum of past gradients is longer than their mean
        return {"optimizer": optimizer, "rate": full * factor, "momentum": one.momentum}

    weights = section.weights.model_copy(update=of(one.weights, rate))
    alpha = section.alpha.model_copy(update=of(one.alpha, study.alpha_rate_of(one.alpha)))
    return section.model_copy(update={"weights": weights, "alpha": alpha})


def _name_of(genotype: Tree) -> str:
    """Return a name that tells a genotype from others."""
    return hashlib.sha256(json.dumps(genotype, sort_keys=True).encode()).hexdigest()[:16]


def _anew(experiment: Experiment, name: str, genotype: Tree) -> float | None:
    """Train a cell from random weights; return its lowest validation figure, None if training diverges."""
    model = experiment.cell(Genotype.from_dict(genotype), "study")
    try:
        done = experiment.journal.fit(f"cell-{name}", model, experiment.task, experiment.recipe, seed=experiment.seed)
    except TrainingError:
        return None
    return done.evaluation.metric
