"""Replays searches on a table of trained genotypes: what a training gave is looked up, nothing is trained.

A strategy gets an ordinary `Problem`, as in a search that trains. The space is that of the table (`TableSpace`); a fit
of a genotype returns what one of its trainings gave, with a seed drawn by the search's seed and the fit's key. A
genotype that is not in the table, such as those that the policy of `nas_rl` samples, is replaced by the nearest one.

A table holds mean losses alone and no weights. So a better mean is enough to be the best model, the start has an
infinite loss, and the teachers of `seqnas` do nothing: every genotype has the loss of a training without them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from grownas.config.loading import strategy_class
from grownas.config.sections import Config
from grownas.errors import ConfigError
from grownas.evaluation.groups import rows_of
from grownas.evaluation.replays import mean_ranks
from grownas.experiments.experiment import space_of
from grownas.experiments.tabulate import recipe_facts
from grownas.genotype import Genotype, Node, Op
from grownas.genotype_table import GenotypeTable, Training
from grownas.protocols import Budget, Evaluation, FitRequest, Folder, Journal, Problem, SearchResult, Strategy, Task
from grownas.strategies.sampling_options import SamplingSection
from grownas.training.loop import Fit

Tree = dict[str, Any]
BLOCK = 50  # searches of a study that are saved together
WITHOUT_WEIGHTS = {"accept": "better", "guard": False, "distil": False}  # options of a replayed strategy
REACHED = "looked up in a table"  # reason of each fit


def check(config: Config) -> GenotypeTable:
    """Check before any work that a config's search can be replayed on its table; return the table.

    Raises:
        ConfigError: it cannot.
        DataError: the table cannot be read.
    """
    assert config.task.table is not None, "only a config with a table is replayed"
    section, table = config.strategy, GenotypeTable.read(config.task.table)
    in_parts = getattr(section, "halving", None) is not None or getattr(section, "trial_epochs", None) is not None
    if in_parts or not isinstance(section, SamplingSection):
        raise ConfigError(
            f"task.replay: strategy.use={section.use} cannot be replayed: a table holds full trainings of single "
            "genotypes only; set strategy.use to random (without halving), evolution, seqnas or nas_rl, without "
            "trial_epochs"
        )
    recipe, wanted = table.about["recipe"], recipe_facts(section)
    if apart := [key for key in wanted if wanted[key] != recipe.get(key)]:
        words = "; ".join(f"strategy.{key} is {wanted[key]}, set it to {recipe.get(key)}" for key in apart)
        raise ConfigError(f"task.replay: the genotypes of the table were trained in another way: {words}")
    for key in ("data", "use"):
        known, own = table.about["task" if key == "use" else key], getattr(config.task, key)
        if known != own:
            raise ConfigError(f"task.replay: the table is of task.{key}={known}, got {own}; set task.{key}={known}")
    if space_of(config) != table.full:
        raise ConfigError(
            f"task.replay: the table is of {table.full}, got {space_of(config)}; set space and strategy.max_nodes alike"
        )
    if config.budget.seconds or config.budget.cpu_seconds:
        raise ConfigError("budget.seconds: a table holds steps, not seconds; set budget.steps or budget.genotypes")
    if config.refit or config.search_rates:
        raise ConfigError("task.replay: nothing is trained again; set refit=false and leave out search_rates")
    return table


@dataclass(frozen=True)
class _Core:
    genotype: Genotype
    hidden_size: int


@dataclass(frozen=True)
class TableModel:
    """Stands for a genotype of a table where a strategy expects a model. It has no weights.

    Attributes:
        place: number of the genotype in the table.
        core: has `genotype` and `hidden_size`.
        size: number of trained parameters.
        training: the training that was looked up; None before.
    """

    place: int
    core: _Core
    size: int
    training: Training | None = None

    def parameters(self) -> Iterator[torch.Tensor]:
        """Yield a parameter of the right size on the device `meta`, which stores no values."""
        yield torch.empty(self.size, device="meta", requires_grad=True)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> TableModel:
        """Return the model itself, which cannot change."""
        return self


class _Unscored:
    """Stands for the task: it gives the start an infinite loss."""

    def evaluate(self, model: TableModel, part: str) -> Evaluation:
        return Evaluation(math.inf, np.array([math.inf]))


class TableJournal:
    """Looks up fits in a table. Of a journal it has what strategies need that train each genotype on its own."""

    def __init__(self, table: GenotypeTable, log: Callable[[Mapping[str, Any]], None]) -> None:
        """Take a table, and where lines about trials go."""
        self.table, self.log = table, log
        self.elapsed = self.cpu_seconds = 0.0
        self.gradients = 0

    def fit(
        self,
        key: str,
        model: Any,
        task: Task,
        recipe: Any,
        *,
        seed: int,
        after: str | None = None,
        extendable: bool = False,
    ) -> Fit:
        """Return what a training of the model's genotype gave, with one of the table's seeds."""
        assert after is None, "a table holds whole trainings"
        found = random.Random(f"{seed} {key}").choice(self.table.entries[model.place].trainings)
        return Fit(
            model=replace(model, training=found),
            optimizers=[],
            evaluation=Evaluation(found.val, np.array([found.loss])),
            epochs=found.epochs,
            best_epoch=found.best_epoch,
            steps=found.steps,
            seconds=0.0,
            reason=REACHED,
            shares=[],
        )

    def fit_all(self, requests: Iterable[FitRequest]) -> Iterator[Fit]:
        """Look up one fit after the other."""
        for one in requests:
            yield self.fit(one.key, one.model, one.task, one.recipe, seed=one.seed, after=one.after)

    def remember(self, key: str, work: Callable[[], Tree]) -> Tree:
        """Do the work."""
        return work()

    def log_trial(self, line: Mapping[str, Any]) -> None:
        """Log a trial."""
        self.log(line)


class Replay:
    """A table as problems for searches."""

    def __init__(self, table: GenotypeTable) -> None:
        """Make a stand-in for the model of each genotype."""
        self.table, units = table, table.about["hidden_size"]
        self.models: list[Any] = [
            TableModel(place, _Core(one.genotype, units), one.params) for place, one in enumerate(table.entries)
        ]
        self._of = cache(self._model_of)

    def problem(
        self, *, seed: int, budget: Budget, log: Callable[[Mapping[str, Any]], None] = lambda line: None
    ) -> Problem:
        """Return the problem of one search.

        Args:
            seed: of the search, and of the draws of trainings.
            budget: its limits.
            log: where lines about trials go.
        """
        task: Any = _Unscored()
        journal: Any = TableJournal(self.table, log)
        return Problem(
            task=task,
            space=self.table.space,
            build=lambda nodes, purpose: self._of(tuple(map(tuple, nodes))),
            start=self.models[0],
            journal=journal,
            budget=budget,
            seed=seed,
        )

    def _model_of(self, nodes: Sequence[Sequence[tuple[str, str]]]) -> Any:
        full = self.table.full
        made = tuple(Node(tuple(Op(*op, share=1 / len(ops)) for op in ops)) for ops in nodes)
        return self.models[self.table.space.place(Genotype(made, full.highway, full.share_projection))]


def replayed(config: Config) -> Strategy:
    """Return a config's strategy with the options that a table without weights allows."""
    section = config.strategy
    known = {key: value for key, value in WITHOUT_WEIGHTS.items() if key in type(section).model_fields}
    return strategy_class(section.use)(section.model_copy(update=known))


def search(config: Config, folder: Folder, journal: Journal, task: Task) -> tuple[Tree, None]:
    """Replay one search and return its summary; there is no model.

    The summary's only score is that of the chosen genotype: validation and test of the training that was looked up. Its
    entry `replay` says what the table is, and the chosen genotype's `rank` among all by mean test figure over seeds.
    """
    table = check(config)
    problem = Replay(table).problem(
        seed=config.seed, budget=Budget(**config.budget.model_dump()), log=journal.log_trial
    )
    *_, result = replayed(config).search(problem)
    model: Any = result.model
    genotype, found = table.entries[model.place].genotype, model.training
    folder.write_json("genotype.json", genotype.to_dict())
    entry = {
        "model": rows_of(config.strategy.row)[0],
        "params": result.params,
        "val": found.val,
        "test": found.test,
        "seconds": 0.0,
        "settings": result.settings,
        "chosen": dict(result.chosen),
        "steps": result.steps,
    }
    summary = {
        "task": task.name,
        "strategy": config.strategy.row,
        "seed": config.seed,
        "metric": table.about["metric"],
        **{key: entry[key] for key in ("val", "test", "params")},
        "nodes": len(genotype.nodes),
        "ops": genotype.op_count,
        "chosen": entry["model"],
        "search_steps": result.steps,
        "genotypes": list(result.scores),
        "stopped": result.reason,
        "replay": {
            "table": config.task.replay,
            "made": table.about["command"],
            "versions": table.about["versions"],
            "genotypes": len(table.entries),
            "seeds": table.seeds,
            "chosen": model.place,
            "rank": float(mean_ranks(table)[model.place]),
        },
        "scores": [entry],
    }
    return summary, None


def check_study(config: Config) -> None:
    """Check before any work that the strategy of a part of a study can be replayed.

    Raises:
        ConfigError: it cannot.
    """
    check(config)
    if config.budget.genotypes is None:
        raise ConfigError("budget.genotypes=null: all strategies of a study have the same number; set it, such as 100")
    if config.budget.steps is not None:
        raise ConfigError(
            f"budget.steps={config.budget.steps}: searches of a study end at the same number of genotypes; set "
            "budget.steps=null"
        )


def repeat(config: Config, journal: Journal, task: Task) -> Tree:
    """Replay the search of one strategy `study.repeats` times, with the seeds from 1 on.

    Returns:
        `task, metric, strategy, at, picks, val, test`: the best trial so far after some numbers of genotypes, `at`, and
        one row per search with the number of its genotype in the table, and its validation and test figure.
    """
    replay, budget, most = Replay(check(config)), Budget(**config.budget.model_dump()), config.budget.genotypes
    assert most is not None, "a study has a number of genotypes, see `check_study`"
    at = [*itertools.takewhile(lambda number: number < most, counts()), most]

    def courses(first: int, last: int) -> Tree:
        found = []
        for seed in range(first, last):
            journal.note(f"{config.strategy.row}: search {seed} of {config.study.repeats}")
            search = replayed(config).search(replay.problem(seed=seed, budget=budget))
            found.append(_course(search, at))
        return {"picks": [one[0] for one in found], "val": [one[1] for one in found], "test": [one[2] for one in found]}

    rows: dict[str, list[Any]] = {"picks": [], "val": [], "test": []}
    for first in range(1, config.study.repeats + 1, BLOCK):
        last = min(first + BLOCK, config.study.repeats + 1)
        block = journal.remember(f"searches-from-{first}", partial(courses, first, last))
        for key, each in rows.items():
            each += block[key]
    facts = {"task": task.name, "metric": replay.table.about["metric"], "strategy": config.strategy.row}
    return {**facts, "at": at, **rows}


def counts() -> Iterator[int]:
    """Yield round numbers of genotypes: 1, 2, 3, 5, 7, 10, 15, 20 and so on."""
    yield from (1, 2, 3, 5, 7)
    size = 10
    while True:
        yield from (size * tenths // 10 for tenths in (10, 15, 20, 30, 50, 70))
        size *= 10


def _course(results: Iterator[SearchResult], at: Sequence[int]) -> tuple[list[int], list[float], list[float]]:
    """Return place, validation and test of the best trial after each number of genotypes."""
    best: list[Any] = [result.model for number, result in enumerate(results, start=1) if number in at]
    return (
        [one.place for one in best],
        [one.training.val for one in best],
        [one.training.test for one in best],
    )
