"""What every strategy does that is installed: each is run on a small task, through nothing but the protocol."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from grownas.config.loading import plugin_names, strategy_class
from grownas.genotype import Genotype
from grownas.protocols import Budget
from grownas.runs.journal import Journal, MemoryLog, MemoryStore
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir
from grownas.space import SearchSpace
from support.growing import problem_of, timeless

SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid"), max_nodes=3, max_ops=8)
RATES = {"weights": {"rate": 0.02}, "alpha": {"rate": 0.05}}
ACCEPTING = {"max_epochs": 3, "patience": 2, "accept": "better", "guard": False, **RATES}
SUPERNET = {**ACCEPTING, "max_epochs": 4, "patience": None, "max_nodes": 2, "fine_tune_epochs": 1, "unit_epochs": 1}
SMALL = {  # options with which a search is short and finds something; those of a strategy from elsewhere are its own
    "growing": {
        **ACCEPTING, "first_epochs": None, "mode": "nodes_and_ops", "trial_epochs": 1, "max_ops": 5, "restarts": 1,
        "replace": "missing", "grow_threshold": 0.3, "prune_threshold": 0.09, "min_age": 1, "fine_tune_epochs": 2,
    },
    "random": {**ACCEPTING, "genotypes": 3, "rates": [0.02, 0.05]},
    **dict.fromkeys(("darts", "gaea", "sdarts_rs", "sdarts_adv", "darts_minus", "rdarts"), SUPERNET),
    "pdarts": {**SUPERNET, "max_epochs": 2, "kept_ops": [8, 5], "dropouts": [0.0, 0.5]},
    "cdarts": {**SUPERNET, "max_epochs": 3, "evaluation_epochs": 1},
}  # fmt: skip
BUDGETS = {"steps": 1, "seconds": 1e-9, "genotypes": 1}

pytestmark = pytest.mark.parametrize("name", plugin_names("strategy"))


@pytest.fixture
def searching(copy_task, make_model):
    """Return the iterator of a search."""

    def begin(name, journal, *, seed=1, budget=None, task=None, **changes):
        strategy = strategy_class(name)
        task = copy_task(dropout=0.1) if task is None else task
        problem = problem_of(make_model(task), task, journal, seed=seed, space=SPACE)
        return strategy(strategy.section(**SMALL.get(name, {}), **changes)).search(
            replace(problem, budget=budget or Budget())
        )

    return begin


def journal_on(store):
    """A journal in memory that goes on from a store."""
    logs = {name: MemoryLog() for name in ("metrics", "growth", "shares")}
    return Journal(store, **logs, progress=Progress(quiet=True))


def told(result, *, seconds=True):
    """All that a result says, as a tree; its times too if asked for."""
    times = {
        "seconds": result.seconds, "speed": result.speed, "others": [one.seconds for one in result.others.values()],
    }  # fmt: skip
    return {
        "model": dict(result.model.state_dict()),
        "genotype": result.genotype.to_dict(),
        "losses": result.evaluation.losses,
        "numbers": [result.is_start, result.params, result.steps, result.settings, result.reason, result.capped],
        "scores": [dict(score) for score in result.scores],
        "chosen": dict(result.chosen),
        "log": [timeless(line) for line in result.log],
        "others": {key: dict(one.model.state_dict()) for key, one in result.others.items()},
        **({"times": times} if seconds else {}),
    }


def test_a_search_finds_something_of_the_space_and_says_why_it_stopped(searching, copy_task, make_model, name):
    results, task = list(searching(name, Journal.in_memory())), copy_task(dropout=0.1)
    assert results
    assert all(result.reason == "" for result in results[:-1])
    last = results[-1]
    assert last.reason
    assert not last.is_start
    assert {(op.combine, op.activation) for node in last.genotype.nodes for op in node.ops} <= set(SPACE.ops)
    assert SPACE.contains(last.genotype)
    assert task.evaluate(last.model, "val").losses.mean() == pytest.approx(last.evaluation.losses.mean(), rel=1e-12)
    assert last.evaluation.losses.mean() < task.evaluate(make_model(task), "val").losses.mean()
    assert last.params > 0
    for before, after in pairwise(results):
        assert (after.steps, after.settings) >= (before.steps, before.settings)
        assert after.seconds >= before.seconds
        assert list(after.scores[: len(before.scores)]) == list(before.scores)  # what was found stays found


def test_another_rate_is_that_of_every_recipe(name):
    strategy = strategy_class(name)(strategy_class(name).section(**SMALL.get(name, {})))
    before = strategy.recipe(), strategy.tuning_recipe()
    other = strategy.with_rate(0.123)
    assert (strategy.recipe(), strategy.tuning_recipe()) == before
    if other is not strategy:  # the default of the protocol
        after = other.recipe(), other.tuning_recipe()
        assert after == tuple(replace(one, weights=replace(one.weights, rate=0.123)) for one in before)


def test_scores_hold_each_genotype_its_validation_and_its_steps(searching, name):
    last = list(searching(name, Journal.in_memory()))[-1]
    assert len(last.scores) > 1
    assert len(last.scores) <= last.settings or "unit_epochs" in SMALL.get(name, {})  # a score a unit
    for score in last.scores:
        assert set(score) >= {"genotype", "val", "steps"}
        assert SPACE.contains(Genotype.from_dict(score["genotype"]))
        assert score["val"] > 0
        assert score["steps"] > 0
    assert sum(score["steps"] for score in last.scores) <= last.steps
    assert min(score["val"] for score in last.scores) <= last.evaluation.metric * (1 + 1e-9) or last.others


def test_a_search_is_the_same_twice_whatever_others_draw(searching, assert_equal, name):
    found = []
    for number in range(2):
        torch.manual_seed(number)
        found.append([told(result, seconds=False) for result in searching(name, Journal.in_memory())])
    assert_equal(*found)


def test_another_seed_searches_otherwise(searching, name):
    one, other = (list(searching(name, Journal.in_memory(), seed=seed))[-1] for seed in (1, 2))
    assert [score["val"] for score in one.scores] != [score["val"] for score in other.scores]


def test_steps_are_those_of_all_trainings(searching, name):
    for changes in ({}, {"bilevel": "first"}) if name == "growing" else ({},):
        store = MemoryStore()
        last = list(searching(name, journal_on(store), **changes))[-1]
        fits = {key: tree["steps"] for key, tree in store.trees.items() if "steps" in tree}
        ends = {key.partition("-epoch-")[0]: key for key in fits}  # the last piece of a training has the steps of all
        fits = {key: fits[key] for key in ends.values()}
        assert last.steps == sum(steps for key, steps in fits.items() if "first-stage" not in key)  # a model of its own
        assert ("closing.done" in fits) == bool(changes)


@pytest.mark.parametrize("limit", BUDGETS)
def test_a_budget_ends_a_search_after_its_unit(searching, name, limit):
    whole = list(searching(name, Journal.in_memory()))[-1]
    last = list(searching(name, Journal.in_memory(), budget=Budget(**{limit: BUDGETS[limit]})))[-1]
    assert f"budget.{limit} = {BUDGETS[limit]:g} reached" in last.reason
    assert len(last.scores) == 1 < len(whole.scores)
    assert 0 < last.steps < whole.steps
    assert dict(last.scores[0])["genotype"] == dict(whole.scores[0])["genotype"]


def test_a_search_that_is_run_again_trains_nothing_and_finds_the_same_bits(searching, copy_task, assert_equal, name):
    class Untrainable(copy_task):
        def loss(self, model, out, window):
            raise AssertionError("nothing is to be trained")

    store = MemoryStore()
    journal = journal_on(store)
    first = [told(result) for result in searching(name, journal)]
    again_on = journal_on(store)
    again = [told(result) for result in searching(name, again_on, task=Untrainable(dropout=0.1))]
    assert_equal(again, first)
    for log in ("metrics", "shares", "growth"):
        assert getattr(again_on, log) == getattr(journal, log)
    assert again_on.elapsed == journal.elapsed


def test_a_search_that_was_broken_off_between_units_goes_on(searching, assert_equal, name):
    whole = [told(result, seconds=False) for result in searching(name, Journal.in_memory())]
    for units in range(1, len(whole)):
        store = MemoryStore()
        begun = searching(name, journal_on(store))
        found = [told(next(begun), seconds=False) for _ in range(units)]
        begun.close()
        assert_equal(found, whole[:units])
        assert_equal([told(result, seconds=False) for result in searching(name, journal_on(store))], whole)


def test_units_are_done_one_at_a_time_when_asked_for(searching, assert_equal, name):
    """No unit is begun before it is asked for, and what is done between units by others does not matter."""
    whole = [told(result, seconds=False) for result in searching(name, Journal.in_memory())]
    store = MemoryStore()
    units, found, works = searching(name, journal_on(store)), [], [0]
    assert store.trees == {}
    for number, result in enumerate(units):
        found.append(told(result, seconds=False))
        works.append(len(store.trees))
        torch.manual_seed(number)
        result.model.train()
    assert_equal(found, whole)
    assert works == sorted(works)
    assert works[1] < works[-1]


def test_a_journal_in_memory_does_what_one_in_a_folder_does(searching, assert_equal, tmp_path, name):
    folder = RunDir.create(tmp_path, "run", "search")
    journals = Journal.in_memory(), Journal.in_folder(folder, "config", progress=Progress(quiet=True), every_s=-1.0)
    found = [[told(result, seconds=False) for result in searching(name, journal)] for journal in journals]
    assert_equal(*found)
    for log in ("metrics", "growth", "shares"):
        kept = [timeless(line) for line in getattr(journals[0], log)]
        written = (folder.path / f"{log}.jsonl").read_text("utf-8").splitlines()
        assert [timeless(json.loads(line)) for line in written] == json.loads(json.dumps(kept))
    again = Journal.in_folder(folder, "config", progress=Progress(quiet=True))
    assert_equal([told(result, seconds=False) for result in searching(name, again)], found[0])
