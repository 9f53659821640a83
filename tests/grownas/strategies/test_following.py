"""What is measured beside a search: right at the last epoch of each unit, and without any effect on the search."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from grownas.config.loading import strategy_class
from grownas.criteria.alpha_hessian import dominant_eigenvalue
from grownas.errors import TrainingError
from grownas.genotype import Genotype
from grownas.protocols import Budget, Problem
from grownas.runs.journal import Journal
from grownas.space import SearchSpace
from grownas.strategies import following
from grownas.strategies.supernet import SupernetSearch, closing
from grownas.training.loop import fit
from support.growing import dag_model_of, model_of, timeless
from support.mortal import goes_on_after_a_kill

CHAIN = SearchSpace(("add", "hadamard"), ("identity", "tanh"), max_nodes=2)
DAG = SearchSpace((), ("none", "tanh", "identity"), max_nodes=2, backbone="dag")
SMALL = {
    "max_nodes": 2, "max_epochs": 3, "patience": 2, "unit_epochs": 1, "fine_tune_epochs": 1, "accept": "better",
    "guard": False, "weights": {"rate": 0.02}, "alpha": {"rate": 0.05}, "alpha_sd": 0.1,
}  # fmt: skip
BOTH = {"follow_hessian_windows": 2, "follow_cell_epochs": 2}
ADDED = {"epoch", "supernet_val", "cell", "eigenvalue", "cell_val"}


def problem_of(task, journal, space=CHAIN):
    make = dag_model_of if space.backbone == "dag" else model_of
    start = make(task, [space.ops[-1]], seed=5)
    return Problem(
        task=task, space=space, build=lambda nodes, purpose: make(task, *nodes, seed=3), start=start, journal=journal
    )


def strategy_of(name, **changes):
    found = strategy_class(name)
    return found(found.section(**{**SMALL, **changes}))


def told(results, journal):
    last = results[-1]
    return {
        "model": dict(last.model.state_dict()),
        "losses": last.evaluation.losses,
        "numbers": [last.is_start, last.params, last.steps, last.settings, last.reason],
        "others": {key: dict(one.model.state_dict()) for key, one in last.others.items()},
        "scores": [{k: v for k, v in timeless(one).items() if k not in ADDED} for one in last.scores],
        "shares": [dict(line) for line in journal.shares],
        "metrics": [
            {k: v for k, v in line.items() if k != "wall_s"}
            for line in journal.metrics
            if not line["metric"].endswith("_per_s")
        ],
    }


@pytest.mark.parametrize("space", [CHAIN, DAG], ids=["chain", "dag"])
@pytest.mark.parametrize("name", ["darts", "darts_minus", "sdarts_rs", "rdarts", "pdarts", "cdarts"])
def test_a_search_has_the_same_bits_with_and_without_it(copy_task, assert_equal, name, space):
    task, found = copy_task(dropout=0.2), []
    stages = {"kept_ops": [4, 3], "dropouts": [0.0, 0.5]} if name == "pdarts" else {}
    for changes in ({}, BOTH):
        journal = Journal.in_memory()
        results = list(strategy_of(name, **stages, **changes).search(problem_of(task, journal, space)))
        assert all((set(score) >= ADDED) == bool(changes) for score in results[-1].scores)
        found.append(told(results, journal))
    assert_equal(*found)


@pytest.mark.parametrize("space", [CHAIN, DAG], ids=["chain", "dag"])
def test_each_unit_is_measured_at_its_last_epoch(copy_task, space):
    """The rate is too high: the best epoch, which a search keeps, is an earlier one."""
    task = copy_task(dropout=0.2)
    strategy = strategy_of("darts", patience=3, weights={"rate": 0.5}, **BOTH)
    scores = list(strategy.search(problem_of(task, Journal.in_memory(), space)))[-1].scores
    supernet = SupernetSearch("darts", problem_of(task, Journal.in_memory(), space), strategy.options).supernet()
    for number, score in enumerate(scores, 1):
        last = fit(supernet, task, replace(strategy.recipe(), epochs=number, patience=None), seed=1).model
        cell = copy.deepcopy(last)
        cell.core = last.core.derive(1)
        assert score["epoch"] == number
        assert score["supernet_val"] == task.evaluate(last, "val").metric
        assert score["eigenvalue"] == dominant_eigenvalue(last, task, windows=2, seed=1)
        assert Genotype.from_dict(score["cell"]) == cell.core.genotype
        assert score["cell_val"] == fit(cell, task, closing(strategy.recipe(), 2), seed=1).evaluation.metric
    assert any(score["supernet_val"] > score["val"] for score in scores)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"follow_hessian_windows": 3}, ADDED - {"cell_val"}),
        ({"follow_cell_epochs": 1}, ADDED - {"eigenvalue"}),
        ({}, set()),
    ],
    ids=["eigenvalue", "cell", "nothing"],
)
def test_only_what_is_asked_for_is_measured(copy_task, changes, keys):
    scores = list(strategy_of("darts", **changes).search(problem_of(copy_task(), Journal.in_memory())))[-1].scores
    assert all(set(score) & ADDED == keys for score in scores)


def test_a_cell_that_diverges_has_no_figure(copy_task, monkeypatch):
    def diverging(*_, **__):
        raise TrainingError("no")

    monkeypatch.setattr(following, "fit", diverging)
    scores = list(strategy_of("darts", **BOTH).search(problem_of(copy_task(), Journal.in_memory())))[-1].scores
    assert [score["cell_val"] for score in scores] == [None] * 3


def test_the_budget_does_not_count_it(copy_task, monkeypatch):
    """Each measurement would take an hour: the seconds of the search leave them out."""
    now = [0.0]
    monkeypatch.setattr("grownas.runs.journal.time.perf_counter", lambda: now[0])
    inner = following.dominant_eigenvalue

    def slow(*args, **options):
        now[0] += 3600.0
        return inner(*args, **options)

    monkeypatch.setattr(following, "dominant_eigenvalue", slow)
    problem = replace(problem_of(copy_task(), Journal.in_memory()), budget=Budget(seconds=3600.0))
    last = list(strategy_of("darts", **BOTH).search(problem))[-1]
    assert last.reason == "3 epochs reached"
    assert last.seconds < 3600
    assert now[0] == 3 * 3600


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_a_search_that_was_killed_goes_on_to_the_same_figures(copy_task, part):
    search = strategy_of("darts", fine_tune_epochs=3, **BOTH).search
    whole, again, _ = goes_on_after_a_kill(search, problem_of(copy_task(dropout=0.2), None), part=part)
    assert [timeless(one) for one in again[-1].scores] == [timeless(one) for one in whole[-1].scores]
