"""Trains random genotypes with several seeds and makes a table of them, on which searches are replayed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from grownas.config.sections import Config
from grownas.encoding import Encoding
from grownas.errors import ConfigError
from grownas.experiments.experiment import space_of
from grownas.experiments.search import EXPERIMENTS
from grownas.genotype import Genotype
from grownas.genotype_table import Entry, GenotypeTable, Training
from grownas.protocols import Journal, Problem, Task
from grownas.space import SearchSpace
from grownas.strategies.sampling import recipe_of, untrained
from grownas.strategies.sampling_options import SamplingSection
from grownas.training.loop import fit
from grownas.training.recipe import count_parameters

RECIPE = {"max_epochs", "patience", "weights", "alpha", "rates", "noise"}  # options that affect a genotype's training
MOST_DRAWS = 100  # for each genotype, before a space counts as too small


def check(config: Config) -> None:
    """Check before any work that a config says how a table is made.

    Raises:
        ConfigError: it does not.
    """
    options = ("halving", "trial_epochs")
    in_parts = any(getattr(config.strategy, key, None) is not None for key in options)
    if in_parts or not isinstance(config.strategy, SamplingSection):
        raise ConfigError(
            f"strategy.use={config.strategy.use}: a table needs a strategy that trains each genotype on its own and to "
            "its end; set strategy.use=random and leave out strategy.halving and trial_epochs"
        )
    if config.strategy.rates:
        raise ConfigError(
            f"strategy.rates={list(config.strategy.rates)}: all genotypes of a table have the same learning rate; set "
            "strategy.rates=[] and strategy.weights.rate"
        )
    if config.space.backbone != "chain" or config.start.use != "random":
        raise ConfigError(
            f"space.backbone={config.space.backbone}, start.use={config.start.use}: the genotypes of a table are "
            "chains with random weights; set space.backbone=chain and start.use=random"
        )


def tabulate(
    config: Config, task: Task, journal: Journal, *, about: Mapping[str, Any], say: Callable[[str], None]
) -> GenotypeTable:
    """Train `strategy.genotypes` different genotypes, drawn with `seed`, with each of the `seeds`.

    Args:
        config: a config that `check` accepts.
        task: its task.
        journal: saves the choice of linear models, which an experiment on series makes first.
        about: entries of `GenotypeTable.about`: the command and the versions.
        say: shows the progress.

    Raises:
        TrainingError: the training of a genotype diverged; a table holds finished trainings only.
    """
    experiment = EXPERIMENTS[task.kind].of(config, journal, task)
    nodes = [experiment.space.ops]
    problems = [replace(experiment, seed=seed).problem(nodes) for seed in config.seeds]
    entries = []
    for number, genotype in enumerate(draw(space_of(config), config.strategy.genotypes, seed=config.seed), start=1):
        entries.append(_entry(genotype, f"table-{number}", problems, config.strategy))
        say(f"genotype {number} of {config.strategy.genotypes}")
    facts = {
        **about,
        "task": task.name,
        "data": config.task.data,
        "metric": task.metric,
        "recipe": recipe_facts(config.strategy),
        "hidden_size": experiment.hidden_size,
    }
    return GenotypeTable(facts, experiment.space, tuple(entries))


def recipe_facts(section: SamplingSection) -> dict[str, Any]:
    """Return the options of a strategy that affect how a genotype is trained, as plain values."""
    return section.model_dump(mode="json", include=RECIPE)


def draw(space: SearchSpace, count: int, *, seed: int) -> list[Genotype]:
    """Draw genotypes that differ in more than the order of a node's ops.

    Raises:
        ConfigError: the space has too few genotypes.
    """
    rng, encoding, found = random.Random(seed), Encoding(space), dict[bytes, Any]()
    for _ in range(MOST_DRAWS * count):
        genotype = space.sample(rng)
        found.setdefault(encoding.encode(genotype).tobytes(), genotype)
        if len(found) == count:
            return list(found.values())
    raise ConfigError(f"strategy.genotypes={count}: the space has about {len(found)} genotypes; lower it")


def _entry(genotype: Genotype, key: str, problems: list[Problem], options: SamplingSection) -> Entry:
    models = [untrained(genotype, key, problem, options) for problem in problems]
    trainings = [_train(model, problem, options) for model, problem in zip(models, problems, strict=True)]
    return Entry(genotype, count_parameters(models[0]), tuple(trainings))


def _train(model: Any, problem: Problem, options: SamplingSection) -> Training:
    task, recipe = problem.task, replace(recipe_of(options), bf16=problem.bf16)
    done = fit(model, task, recipe, seed=problem.seed)
    test = task.evaluate(done.model, "test").metric
    return Training(problem.seed, done.loss, done.evaluation.metric, test, done.steps, done.epochs, done.best_epoch)
