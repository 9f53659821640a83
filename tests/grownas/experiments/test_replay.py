"""Searches on a table: what a strategy sees, what is refused, and the tables that the package ships."""

from __future__ import annotations

import math
import random
from itertools import islice, takewhile

import numpy as np
import pytest

from grownas.config import loading
from grownas.errors import ConfigError, DataError
from grownas.evaluation.replays import figures
from grownas.experiments import replay
from grownas.protocols import Budget
from grownas.strategies.cores import genotype_of
from grownas.tasks.index_returns.options import TABLES
from grownas.training.recipe import count_parameters
from support.tables import SEEDS, table_of, write

STRATEGIES = {
    "random": "{use: random, rates: []}",
    "evolution": "{use: evolution, population: 4, tournament: 2}",
    "seqnas": "{use: seqnas, initial: 6, per_round: 3, predictors: 2}",
    "nas_rl": "{use: nas_rl}",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "table.jsonl"
    write(table_of(), path)
    return path


def config_of(path, *overrides, strategy="evolution"):
    section = STRATEGIES[strategy]
    options = (f"strategy={section}", "task.data=planted", f"task.replay={path}", "budget.genotypes=12", *overrides)
    return loading.load("index_returns/evolution", options)


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_trial_is_a_training_of_the_table(path, name):
    config, table, lines = config_of(path, strategy=name), table_of(), []
    problem = replay.Replay(table).problem(seed=3, budget=Budget(genotypes=12), log=lines.append)
    *_, result = replay.replayed(config).search(problem)
    assert len(lines) == 12
    known = {place: {one.val for one in entry.trainings} for place, entry in enumerate(table.entries)}
    places = [table.space.place(loading_genotype(line)) for line in lines]
    assert all(line["val"] in known[place] for line, place in zip(lines, places, strict=True))
    assert len({line["val"] % 1 for line in lines}) > 1  # more than one of the seeds
    assert result.evaluation.metric == min(line["val"] for line in lines)
    assert result.model.training.test == 2 * result.evaluation.metric
    assert result.params == table.entries[result.model.place].params
    assert result.steps == 12 * 90
    assert not result.is_start


def loading_genotype(line):
    from grownas.genotype import Genotype

    return Genotype.from_dict(line["genotype"])


def test_the_seed_of_a_search_decides_all(path):
    def courses(seed):
        search = replay.replayed(config_of(path)).search(replay.Replay(table_of()).problem(seed=seed, budget=Budget()))
        return [(result.model.place, result.evaluation.metric) for result in islice(search, 20)]

    assert courses(1) == courses(1)
    assert courses(1) != courses(2)


def test_a_stand_in_has_the_size_of_its_genotype_and_no_weights():
    model = replay.Replay(table_of()).models[7]
    (weights,) = model.parameters()
    assert count_parameters(model) == 707
    assert weights.is_meta
    assert genotype_of(model) == table_of().entries[7].genotype


def test_all_seeds_of_a_genotype_are_drawn():
    problem = replay.Replay(table_of()).problem(seed=1, budget=Budget())
    fits = [problem.journal.fit(f"evolution-{i}", problem.start, problem.task, None, seed=1) for i in range(50)]
    assert {one.model.training.seed for one in fits} == set(SEEDS)
    assert math.isinf(problem.task.evaluate(problem.start, "val").metric)


REFUSED = {
    "growing": ("strategy={use: growing}", "strategy.use=growing cannot be replayed"),
    "halving": ("strategy={use: random, rates: [], halving: {}}", "without halving"),
    "parts": ("strategy.trial_epochs=3", "without trial_epochs"),
    "rate": ("strategy.rates=[0.01]", r"strategy.rates is \[0.01\], set it to \[\]"),
    "patience": ("strategy.patience=9", "strategy.patience is 9, set it to 8"),
    "data": ("task.data=nonlinear", "the table is of task.data=planted, got nonlinear"),
    "space": ("strategy.max_nodes=2", "set space and strategy.max_nodes alike"),
    "seconds": ("budget.seconds=3", "a table holds steps, not seconds"),
    "refit": ("refit=true", "nothing is trained again"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused(path, name):
    override, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words):
        replay.check(config_of(path, override))


def test_a_study_needs_a_number_of_genotypes(path):
    with pytest.raises(ConfigError, match="all strategies of a study have the same number"):
        replay.check_study(config_of(path, "budget.genotypes=null"))
    with pytest.raises(ConfigError, match=r"budget.steps=90: .*the same number of genotypes; set budget.steps=null"):
        replay.check_study(config_of(path, "budget.steps=90"))
    with pytest.raises(DataError, match="cannot be read"):
        replay.check(config_of(path.with_name("none.jsonl")))


class Kept:
    """A journal that keeps the names of finished work."""

    def __init__(self):
        self.names = []

    def note(self, words):
        """Show nothing."""

    def remember(self, key, work):
        self.names.append(key)
        return work()


class Named:
    name = "index_returns"


def test_repeated_searches_are_saved_in_blocks(path):
    journal = Kept()
    found = replay.repeat(config_of(path, "study.repeats=60"), journal, Named())
    assert journal.names == ["searches-from-1", "searches-from-51"]
    assert found["at"] == [1, 2, 3, 5, 7, 10, 12]
    for key in ("picks", "val", "test"):
        assert np.array(found[key]).shape == (60, 7)
    assert (np.diff(found["val"]) <= 0).all()
    again = replay.repeat(config_of(path, "study.repeats=2"), Kept(), Named())
    assert again["picks"] == found["picks"][:2]


def test_the_numbers_of_genotypes_are_round():
    assert list(takewhile(lambda n: n < 300, replay.counts())) == [
        1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200,
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_shipped_table_is_complete_and_can_be_replayed(name):
    config = loading.load("index_returns/studies/replay", [f"task.replay={name}"])
    assert config.task.data == name
    table = replay.check(config)
    assert len(table.entries) == 200
    assert TABLES[name].stat().st_size < 300_000
    assert f"grownas tabulate index_returns/studies/table task.data={name}" in table.about["command"]
    for part in ("val", "test"):
        values = figures(table, part)
        assert np.isfinite(values).all()
        assert values.shape[1] >= 2
    assert table.space.contains(table.space.sample(random.Random(1)))
