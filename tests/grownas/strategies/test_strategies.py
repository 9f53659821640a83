"""What every strategy does that is installed: each is run on a small task, through nothing but the protocol."""

from __future__ import annotations

import copy
import itertools
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch

from grownas.config.loading import plugin_names, strategy_class
from grownas.genotype import Genotype
from grownas.protocols import Budget, SearchResult
from grownas.runs.journal import LOGS, Journal, MemoryLog, MemoryStore
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir
from grownas.space import SearchSpace
from support.growing import dag_model_of, problem_of, timeless

SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid"), max_nodes=3, max_ops=8)
DAG = SearchSpace((), ("none", "tanh", "relu", "identity"), max_nodes=4, backbone="dag")
RATES = {"weights": {"rate": 0.02}, "alpha": {"rate": 0.05}}
ACCEPTING = {"max_epochs": 3, "patience": 2, "accept": "better", "guard": False, **RATES}
SUPERNET = {**ACCEPTING, "max_epochs": 2, "patience": None, "max_nodes": 2, "fine_tune_epochs": 1, "unit_epochs": 1}
SHARED = {
    "max_epochs": 2, "unit_epochs": 1, "rounds": 2, "samples": 4, "rescored": 2, "fine_tune_epochs": 2,
    "accept": "better", "guard": False, "max_nodes": 2, "weights": {"rate": 0.02},
}  # fmt: skip
ENAS = {**SHARED, "policy_updates": 2, "policy_samples": 3}
DRAWN = {**ACCEPTING, "max_epochs": 2, "genotypes": 3, "rates": [0.02, 0.05]}
EVOLVED = {**ACCEPTING, "max_epochs": 2, "genotypes": 4, "population": 2, "tournament": 2}
PREDICTED = {
    **ACCEPTING,
    "max_epochs": 2,
    "genotypes": 4,
    "initial": 2,
    "candidates": 5,
    "per_round": 2,
    "predictors": 2,
}
SMALL = {  # options with which a search is short and finds something; those of a strategy from elsewhere are its own
    "growing": {
        **ACCEPTING, "first_epochs": None, "mode": "nodes_and_ops", "trial_epochs": 1, "max_ops": 5, "restarts": 1,
        "replace": "missing", "grow_threshold": 0.3, "prune_threshold": 0.09, "min_age": 1, "fine_tune_epochs": 2,
    },
    "growing on a dag": {
        **ACCEPTING, "first_epochs": None, "nodes_at_once": 1, "max_nodes": 4, "prune": "each_stage",
        "prune_threshold": 0.2, "min_age": 1, "blend_steps": 12, "fine_tune_epochs": 2,
    },
    "random": DRAWN,
    "random on a dag": DRAWN,
    "random with halving": {**DRAWN, "halving": {"candidates": 2, "first_epochs": 1, "reduction_factor": 2}},
    "evolution": EVOLVED,
    "seqnas": PREDICTED,
    "seqnas on a dag": PREDICTED,
    "evolution on a dag": EVOLVED,
    **dict.fromkeys(("darts", "gaea", "sdarts_rs", "sdarts_adv", "darts_minus", "rdarts"), SUPERNET),
    "pdarts": {**SUPERNET, "max_epochs": 2, "kept_ops": [8, 5], "dropouts": [0.0, 0.5]},
    "cdarts": {**SUPERNET, "max_epochs": 3, "evaluation_epochs": 1},
    **dict.fromkeys(("random_shared", "random_shared on a dag"), SHARED),
    **dict.fromkeys(("enas", "enas on a dag"), ENAS),
    **dict.fromkeys(("nas_rl", "nas_rl on a dag"), DRAWN),
}  # fmt: skip
BUDGETS = {"steps": 1, "seconds": 1e-9, "cpu_seconds": 1e-9, "genotypes": 1}

ON_A_DAG = " on a dag"  # ends the name of a strategy that is to search DAGs, where it does so in its own way

pytestmark = pytest.mark.parametrize("name", list(dict.fromkeys([*plugin_names("strategy"), *SMALL])))


def class_of(name):
    return strategy_class(name.partition(" ")[0])


def space_of(name):
    return DAG if name.endswith(ON_A_DAG) else SPACE


@dataclass
class Whole:
    """A search that nothing disturbed: do not change it."""

    results: list[SearchResult]
    found: list[dict[str, Any]]
    store: MemoryStore
    journal: Journal

    @property
    def timeless(self):
        return [without_times(one) for one in self.found]


@pytest.fixture(scope="module")
def start_of(make_model):
    """Return the start of a search."""

    def make(name, task):
        return dag_model_of(task, *[DAG.ops] * 2, seed=5) if name.endswith(ON_A_DAG) else make_model(task)

    return make


@pytest.fixture(scope="module")
def searching(copy_task, start_of):
    """Return the iterator of a search."""

    def begin(name, journal, *, seed=1, budget=None, task=None, **changes):
        strategy = class_of(name)
        task = copy_task(dropout=0.1) if task is None else task
        problem = problem_of(start_of(name, task), task, journal, seed=seed, space=space_of(name))
        return strategy(strategy.section(**SMALL.get(name, {}), **changes)).search(
            replace(problem, budget=budget or Budget())
        )

    return begin


@pytest.fixture(scope="module")
def whole(searching):
    """Return a strategy's whole search, done once."""

    @cache
    def search(name):
        store = MemoryStore()
        journal, results, found = journal_on(store), [], []
        for result in searching(name, journal):
            results.append(result)
            found.append(told(result))
        return Whole(results, found, store, journal)

    return search


def journal_on(store):
    """A journal in memory that goes on from a store."""
    logs = {name: MemoryLog() for name in LOGS}
    return Journal(store, **logs, progress=Progress(quiet=True))


def told(result):
    """A copy of all that a result says, as a tree."""
    times = {
        "seconds": result.seconds, "speed": result.speed, "others": [one.seconds for one in result.others.values()],
    }  # fmt: skip
    tree = {
        "model": dict(result.model.state_dict()),
        "genotype": result.genotype.to_dict(),
        "losses": result.evaluation.losses,
        "numbers": [result.is_start, result.params, result.steps, result.settings, result.reason, result.capped],
        "scores": [timeless(score) for score in result.scores],
        "chosen": dict(result.chosen),
        "log": [timeless(line) for line in result.log],
        "others": {key: dict(one.model.state_dict()) for key, one in result.others.items()},
        "times": times,
    }
    return copy.deepcopy(tree)


def without_times(tree):
    return {key: value for key, value in tree.items() if key != "times"}


def test_a_search_finds_something_of_the_space_and_says_why_it_stopped(whole, copy_task, start_of, name):
    results, task = whole(name).results, copy_task(dropout=0.1)
    assert results
    assert all(result.reason == "" for result in results[:-1])
    last = results[-1]
    assert last.reason
    assert not last.is_start
    assert space_of(name).contains(last.genotype)
    assert task.evaluate(last.model, "val").losses.mean() == pytest.approx(last.evaluation.losses.mean(), rel=1e-12)
    assert last.evaluation.losses.mean() < task.evaluate(start_of(name, task), "val").losses.mean()
    assert last.params > 0
    for before, after in pairwise(results):
        assert (after.steps, after.settings) >= (before.steps, before.settings)
        assert after.seconds >= before.seconds
        assert list(after.scores[: len(before.scores)]) == list(before.scores)  # what was found stays found


def test_another_rate_is_that_of_every_recipe(name):
    strategy = class_of(name)(class_of(name).section(**SMALL.get(name, {})))
    before = strategy.recipe(), strategy.tuning_recipe()
    other = strategy.with_rate(0.123)
    assert (strategy.recipe(), strategy.tuning_recipe()) == before
    if other is not strategy:  # the default of the protocol
        after = other.recipe(), other.tuning_recipe()
        assert after == tuple(replace(one, weights=replace(one.weights, rate=0.123)) for one in before)


def test_scores_hold_each_genotype_its_validation_and_its_steps(whole, name):
    last = whole(name).results[-1]
    assert len(last.scores) > 1
    assert len(last.scores) <= last.settings or "unit_epochs" in SMALL.get(name, {})  # a score a unit
    for score in last.scores:
        assert set(score) >= {"genotype", "val", "steps"}
        assert space_of(name).contains(Genotype.from_dict(score["genotype"]))
        assert score["val"] > 0
        assert score["steps"] > 0
    assert sum(score["steps"] for score in last.scores) <= last.steps
    assert min(score["val"] for score in last.scores) <= last.evaluation.metric * (1 + 1e-9) or last.others


def test_a_search_is_the_same_twice_whatever_others_draw(searching, whole, assert_equal, name):
    torch.manual_seed(99)
    again = [without_times(told(result)) for result in searching(name, Journal.in_memory())]
    assert_equal(again, whole(name).timeless)


def test_another_seed_searches_otherwise(searching, whole, name):
    other = list(searching(name, Journal.in_memory(), seed=2))[-1]
    assert [score["val"] for score in whole(name).results[-1].scores] != [score["val"] for score in other.scores]


def check_steps(last, store, *, closing):
    fits = {key: tree["steps"] for key, tree in store.trees.items() if "steps" in tree}
    ends = {re.split("-epoch-|-to-", key.removesuffix(".done"))[0]: key for key in fits}  # the last piece has all steps
    fits = {key: fits[key] for key in ends.values()}
    assert last.steps == sum(steps for key, steps in fits.items() if "first-stage" not in key)  # a model of its own
    assert ("closing.done" in fits) == closing


def test_steps_are_those_of_all_trainings(searching, whole, name):
    check_steps(whole(name).results[-1], whole(name).store, closing=name == "growing on a dag")
    if name == "growing":
        store = MemoryStore()
        check_steps(list(searching(name, journal_on(store), bilevel="first"))[-1], store, closing=True)


@pytest.mark.parametrize("limit", BUDGETS)
@pytest.mark.filterwarnings("ignore:(evolution|seqnas) trained 1 genotypes")
def test_a_budget_ends_a_search_after_its_unit(searching, whole, name, limit):
    all_of_it = whole(name).results[-1]
    last = list(searching(name, Journal.in_memory(), budget=Budget(**{limit: BUDGETS[limit]})))[-1]
    assert f"budget.{limit} = {BUDGETS[limit]:g} reached" in last.reason
    assert len(last.scores) == 1 < len(all_of_it.scores)
    assert 0 < last.steps < all_of_it.steps
    if name != "random with halving":  # where a budget changes which genotype of a batch ends first
        assert dict(last.scores[0])["genotype"] == dict(all_of_it.scores[0])["genotype"]


@pytest.mark.filterwarnings("ignore:.* all drawn at random")  # a quarter of a search by so few genotypes
@pytest.mark.parametrize("limit", ["seconds", "cpu_seconds"])
def test_a_budget_of_time_ends_a_repeated_search_at_the_same_place(searching, whole, assert_equal, name, limit):
    first = whole(name)
    spent = {"seconds": first.journal.elapsed, "cpu_seconds": first.journal.cpu_seconds}[limit]
    store, budget = copy.deepcopy(first.store), Budget(**{limit: spent / 4})
    for key in [key for key in store.trees if "fine-tune" in key or "closing" in key]:  # of the whole search's cell
        store.remove(key)
    once, twice = ([told(one) for one in searching(name, journal_on(store), budget=budget)] for _ in range(2))
    assert f"budget.{limit} = {spent / 4} reached" in once[-1]["numbers"][4]
    assert_equal(once, twice)


def test_a_search_that_is_run_again_trains_nothing_and_finds_the_same_bits(
    searching, whole, copy_task, assert_equal, name
):
    class Untrainable(copy_task):
        def loss(self, model, out, window):
            raise AssertionError("nothing is to be trained")

    first = whole(name)
    journal = journal_on(copy.deepcopy(first.store))
    again = [told(result) for result in searching(name, journal, task=Untrainable(dropout=0.1))]
    assert_equal(again, first.found)
    for log in LOGS:
        assert getattr(journal, log) == getattr(first.journal, log)
    spent = [(one.elapsed, one.cpu_seconds, one.gradients) for one in (journal, first.journal)]
    assert spent[0] == spent[1]


def test_a_search_that_is_broken_off_after_each_unit_goes_on(searching, whole, assert_equal, name):
    store, expected = MemoryStore(), whole(name).timeless
    for units in range(1, len(expected) + 1):
        begun = searching(name, journal_on(store))
        found = [without_times(told(result)) for result in itertools.islice(begun, units)]
        begun.close()
        assert_equal(found, expected[:units])


def test_units_are_done_one_at_a_time_when_asked_for(searching, whole, assert_equal, name):
    """No unit is begun before it is asked for, and what is done between units by others does not matter."""
    store = MemoryStore()
    units, found, works = searching(name, journal_on(store)), [], [0]
    assert store.trees == {}
    for number, result in enumerate(units):
        found.append(without_times(told(result)))
        works.append(len(store.trees))
        torch.manual_seed(number)
        result.model.train()
    assert_equal(found, whole(name).timeless)
    assert works == sorted(works)
    assert works[1] < works[-1]


def test_a_caller_may_change_the_models_that_are_found_on_the_way(searching, whole, assert_equal, name):
    found = []
    for result in searching(name, Journal.in_memory()):
        found.append(without_times(told(result)))
        found[-1]["model"] = {key: value.clone() for key, value in found[-1]["model"].items()}
        if not result.reason:
            for tensor in result.model.state_dict().values():
                tensor.fill_(0.5)
    assert_equal(found, whole(name).timeless)


def test_a_journal_in_memory_does_what_one_in_a_folder_does(searching, whole, assert_equal, tmp_path, name):
    folder, expected = RunDir.create(tmp_path, "run", "search"), whole(name)
    journal = Journal.in_folder(folder, "config", progress=Progress(quiet=True), every_s=-1.0)
    assert_equal([without_times(told(result)) for result in searching(name, journal)], expected.timeless)
    for log in LOGS:
        kept = [timeless(line) for line in getattr(expected.journal, log)]
        written = (folder.path / f"{log}.jsonl").read_text("utf-8").splitlines()
        assert [timeless(json.loads(line)) for line in written] == json.loads(json.dumps(kept))
    again = Journal.in_folder(folder, "config", progress=Progress(quiet=True))
    assert_equal([without_times(told(result)) for result in searching(name, again)], expected.timeless)
