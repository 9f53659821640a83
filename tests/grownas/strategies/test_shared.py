"""Strategies whose genotypes share weights: what each batch trains, how samples are ranked, and what is resumed."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from grownas.backbones.shared import SharedCore
from grownas.config.loading import strategy_class
from grownas.errors import DataError
from grownas.genotype import Genotype
from grownas.protocols import Budget
from grownas.runs.journal import Journal
from grownas.space import SearchSpace
from grownas.strategies.shared import SharedSearch, generator_for
from grownas.training.bilevel import window_loss
from support.growing import dag_model_of, model_of, problem_of
from support.mortal import goes_on_after_a_kill

SPACES = {
    "chain": SearchSpace(("add", "hadamard"), ("identity", "tanh"), max_nodes=2),
    "dag": SearchSpace((), ("none", "tanh", "identity"), max_nodes=3, backbone="dag"),
}
SMALL = {
    "max_nodes": 2, "max_epochs": 2, "unit_epochs": 1, "rounds": 2, "samples": 5, "rescored": 2, "fine_tune_epochs": 1,
    "accept": "better", "guard": False, "weights": {"rate": 0.02},
}  # fmt: skip
NAMES = {"random_shared": {}, "enas": {"policy_updates": 2, "policy_samples": 3}}


def strategy_of(name, **changes):
    strategy = strategy_class(name)
    return strategy(strategy.section(**{**SMALL, **NAMES[name], **changes}))


def searched(task, kind="chain", journal=None):
    space = SPACES[kind]
    start = (dag_model_of if kind == "dag" else model_of)(task, [space.ops[-1]], seed=5)
    return problem_of(start, task, Journal.in_memory() if journal is None else journal, space=space)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", NAMES)
def test_each_batch_trains_one_genotype_of_the_space(copy_task, monkeypatch, name, kind):
    computed, inner = [], SharedCore.forward

    def noting(self, x, h_0=None):
        before = self.draw
        self.draw = lambda: computed.append(before()) or computed[-1]
        try:
            return inner(self, x, h_0)
        finally:
            self.draw = before

    monkeypatch.setattr(SharedCore, "forward", noting)
    problem = searched(copy_task(), kind)
    last = list(strategy_of(name).search(problem))[-1]
    trained = sum(score["steps"] for score in last.scores)
    assert len(computed) == trained + 2  # each of two epochs begins with a window that carries the state only
    assert all(problem.space.contains(genotype) for genotype in computed)
    assert len(set(computed)) > 3


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", NAMES)
def test_a_search_that_is_killed_within_a_training_draws_the_same_genotypes(copy_task, assert_equal, name, kind):
    problem = searched(copy_task(dropout=0.1), kind)
    whole, again, cut = goes_on_after_a_kill(strategy_of(name).search, problem, part=0.1)
    assert cut == f"{name}-epoch-1"
    for one, other in zip(whole, again, strict=True):
        assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))
        assert_equal(one.evaluation.losses, other.evaluation.losses)
        assert [score["genotype"] for score in one.scores] == [score["genotype"] for score in other.scores]


def trained_search(task, name="random_shared", **changes):
    """A search whose weights are trained; each genotype is drawn twice."""
    problem, drawn = searched(task), []

    def sample(generator):
        drawn.append(problem.space.sample(random.Random(len(drawn) // 2)))
        return drawn[-1]

    strategy = strategy_of(name, **changes)
    search = SharedSearch(name, problem, strategy.options, sample)
    list(search.train(strategy.recipe()))
    drawn.clear()
    return search, drawn


def test_samples_are_ranked_on_windows_and_the_best_by_the_whole_part(copy_task):
    """The choice is made again, with the losses of derived cells."""
    task = copy_task()
    search, drawn = trained_search(task, samples=12, rescored=3, rank_windows=2)
    found = search.rank(2)
    assert len(drawn) == 12
    model = search.search.fit.model
    windows = [one for one in task.windows("val", seed=search.problem.seed + 2) if not one.burn_in][:2]

    def cell(genotype):
        model.core.chosen = genotype
        made = task.model(model.core.derive(), generator=torch.Generator())
        made.readout.load_state_dict(model.readout.state_dict())
        return made.eval()

    @torch.no_grad()
    def on_windows(genotype):
        return sum(float(window_loss(cell(genotype), task, one, None)[0]) for one in windows)

    def on_all(genotype):
        return float(task.evaluate(cell(genotype), "val").losses.mean())

    finalists = sorted(dict.fromkeys(drawn), key=on_windows)[:3]
    best = min(finalists, key=on_all)
    assert found == {"genotype": best.to_dict(), "loss": pytest.approx(on_all(best), rel=1e-12)}


def test_without_windows_all_samples_are_scored(copy_task):
    task = copy_task()
    search, drawn = trained_search(task, samples=12, rescored=1)
    found = search.rank(1)
    model, losses = search.search.fit.model, []
    for genotype in drawn:
        model.core.chosen = genotype
        losses.append(float(task.evaluate(model, "val").losses.mean()))
    best = drawn[losses.index(min(losses))]
    assert found == {"genotype": best.to_dict(), "loss": min(losses)}


@pytest.mark.parametrize(("name", "changes", "part"), [
    ("random_shared", {"rank_windows": 1}, "val"), ("enas", {}, "architecture"),
])  # fmt: skip
def test_a_part_that_is_too_short_is_told_before_anything_is_trained(copy_task, name, changes, part):
    class Short(copy_task):
        def windows(self, which, *, seed):
            if which == part:
                raise DataError("too short")
            return super().windows(which, seed=seed)

    journal = Journal.in_memory()
    with pytest.raises(DataError, match="too short"):
        next(strategy_of(name, **changes).search(searched(Short(), journal=journal)))
    assert journal.elapsed == 0


def test_a_genotype_whose_loss_is_not_a_number_is_never_the_best(copy_task):
    class Broken(copy_task):
        broken: ClassVar = []

        def evaluate(self, model, part):
            found = super().evaluate(model, part)
            if getattr(model.core, "chosen", None) in self.broken:
                return found._replace(losses=np.full_like(found.losses, np.nan))
            return found

    task = Broken()
    search, _ = trained_search(task, samples=12, rescored=6)
    first = search.rank(1)
    task.broken.append(Genotype.from_dict(first["genotype"]))
    search, _ = trained_search(task, samples=12, rescored=6)
    assert search.rank(1)["genotype"] != first["genotype"]


def test_the_best_of_all_rounds_is_fine_tuned_from_the_shared_weights(copy_task, monkeypatch):
    losses = iter([0.3, 0.2, 0.25])
    genotypes = [SPACES["chain"].sample(random.Random(number)) for number in range(3)]
    rounds = [{"genotype": one.to_dict(), "loss": next(losses)} for one in genotypes]
    monkeypatch.setattr(SharedSearch, "rank", lambda self, number: rounds[number - 1])
    problem = searched(copy_task())
    strategy = strategy_of("random_shared", rounds=3, fine_tune_epochs=0, max_epochs=20, unit_epochs=20)
    results = list(strategy.search(problem))
    assert [one.genotype for one in results[1:]] == [genotypes[0], genotypes[1], genotypes[1], genotypes[1]]
    before = results[-1].others["random_shared_supernet"].model
    assert before.core.genotype() == genotypes[1]
    x = problem.task.values[:9].unsqueeze(1)
    torch.testing.assert_close(results[-1].model.eval()(x)[0], before.eval()(x)[0], rtol=0, atol=1e-12)


def test_a_spent_budget_leaves_one_round(copy_task):
    problem = replace(searched(copy_task()), budget=Budget(steps=1))
    results = list(strategy_of("random_shared", rounds=5).search(problem))
    assert [one.reason for one in results] == ["", "", "budget.steps = 1 reached"]


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_accepted_the_starts_cell_is_found(copy_task, assert_equal, name):
    problem = searched(copy_task())
    strategy = strategy_of(name, accept="significant", threshold=1e6)
    last = list(strategy.search(problem))[-1]
    assert last.is_start
    for found in (last, strategy.refit(problem, last)):
        assert_equal(dict(found.model.core.state_dict()), dict(problem.start.core.derive().state_dict()))


def test_generators_differ_by_seed_and_purpose():
    firsts = [int(torch.randint(2**62, (), generator=generator_for(*one))) for one in ((1, "a"), (1, "b"), (2, "a"))]
    assert len(set(firsts)) == 3
    assert firsts[0] == int(torch.randint(2**62, (), generator=generator_for(1, "a")))
