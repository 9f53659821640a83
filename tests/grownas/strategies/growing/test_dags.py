"""Growth on a DAG: nodes at the end, ops that leave edges, a cell that is read out at last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grownas.backbones.dag import DagBackbone
from grownas.cells.cell import GrownRNN
from grownas.errors import ConfigError
from grownas.genotype import DagGenotype
from grownas.runs.journal import Journal
from grownas.space import SearchSpace
from grownas.strategies.cores import derived, mixtures_of, supernet_of
from grownas.strategies.growing.moves import add_nodes
from grownas.strategies.growing.options import ON_A_DAG
from grownas.strategies.growing.pruning import prune_stage
from grownas.strategies.growing.state import Stage, traced
from grownas.strategies.growing.strategy import Growing, Growth
from grownas.training.loop import fit
from support.growing import (
    NODE_KEYS,
    OP_KEYS,
    ScriptedJournal,
    TrainingJournal,
    aged,
    context_of,
    dag_model_of,
    growing,
    problem_of,
    set_shares,
)

SPACE = SearchSpace((), ("none", "tanh", "identity"), max_nodes=8, backbone="dag")
SMALL = {
    "max_epochs": 3, "first_epochs": None, "patience": None, "accept": "better", "guard": False, "blend_steps": 9,
    "nodes_at_once": 1, "max_nodes": 4, "prune": "none", "fine_tune_epochs": 2, "min_age": 1,
    "weights": {"rate": 0.02}, "alpha": {"rate": 0.05},
}  # fmt: skip


def start_of(task, nodes=2, **options):
    return dag_model_of(task, *[SPACE.ops] * nodes, seed=5, **options)


def searched(task, journal=None, *, start=None, seed=1, **changes):
    """The problem, the strategy, and the last result of its search."""
    problem = problem_of(start or start_of(task), task, journal or Journal.in_memory(), seed=seed, space=SPACE)
    strategy = Growing(growing(**{**SMALL, **changes}))
    return problem, strategy, list(strategy.search(problem))[-1]


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("changes", [
    {}, {"bilevel": "first"}, {"bilevel": "second"}, {"birth": "drawn"}, {"prune": "at_end", "prune_threshold": 0.3},
    {"prune": "each_stage", "prune_threshold": 0.3}, {"nodes_at_once": 2},
], ids=str)  # fmt: skip
def test_a_search_ends_with_a_cell_that_was_read_out_and_trained(copy_task, judge_says, changes):
    judge_says(*[True] * 9)
    task, journal = copy_task(), Journal.in_memory()
    _, _, result = searched(task, journal, **changes)
    assert not result.is_start
    assert isinstance(result.model.core, GrownRNN)
    assert len(result.genotype.nodes) == 4
    supernet = result.others["grown_supernet"].model
    assert isinstance(supernet.core, DagBackbone)
    assert result.genotype == supernet.core.genotype() == DagGenotype.from_dict(result.scores[-1]["genotype"])
    assert task.evaluate(result.model, "val").losses == pytest.approx(result.evaluation.losses)
    assert isinstance(result.others["first_stage"].model.core, GrownRNN)
    added = [line for line in journal.growth if line["kind"] == "add_node"]
    assert [(line["node"], len(line["edges"])) for line in added] == [(2, 3), (3, 4)]
    assert all(set(line) == NODE_KEYS | {"edges"} for line in added)
    if changes.get("birth") != "drawn":
        assert [line["drift"] for line in added] == [0.0, 0.0]
    pruned = [line for line in journal.growth if line["kind"] == "prune_op"]
    assert bool(pruned) == ("prune" in changes)
    for line in pruned:
        assert set(line) == OP_KEYS | {"edge"}
        assert line["edge"] == list(DagBackbone(1, 1, 4).edges[line["node"]])
        assert line["judge"]["figure"] < 0.3


def test_states_may_be_normalised(copy_task, judge_says):
    judge_says(*[True] * 9)
    task = copy_task()
    _, _, result = searched(task, start=start_of(task, norm=True))
    core = result.others["grown_supernet"].model.core
    assert core.moments.shape == (2, 5, 3)
    assert (core.moments[0, 1:] != 0).all()  # those of the new states moved too
    assert len(result.genotype.nodes) == 4


@pytest.mark.parametrize("changes", [
    {}, {"bilevel": "first"}, {"birth": "drawn", "seed": 3}, {"prune": "at_end", "prune_threshold": 0.3},
    {"prune": "each_stage", "prune_threshold": 0.3},
], ids=str)  # fmt: skip
def test_a_growth_that_is_repeated_on_the_same_data_ends_with_the_same_bits(
    copy_task, judge_says, assert_equal, changes
):
    judge_says(*[True] * 9)
    problem, strategy, result = searched(copy_task(dropout=0.1), TrainingJournal(), **changes)
    again = strategy.refit(replace(problem, journal=Journal.in_memory()), result)
    assert_equal(bits(again.model), bits(result.model))
    for name in ("grown_supernet", "first_stage"):
        assert_equal(bits(again.others[name].model), bits(result.others[name].model))
    assert again.steps > result.steps


def test_the_start_is_kept_if_the_cell_is_no_better(copy_task, judge_says, assert_equal):
    judge_says(True, False, False)  # first stage, the move, the cell
    problem, strategy, result = searched(copy_task())
    assert result.is_start
    assert result.reason == "the last added node was not accepted"
    assert_equal(bits(result.model), bits(derived(problem.start)))
    assert len(result.others["grown_supernet"].model.core.nodes) == 2
    again = strategy.refit(replace(problem, journal=Journal.in_memory()), result)
    assert_equal(bits(again.model), bits(derived(problem.start)))


def test_the_start_is_kept_if_no_first_stage_is_accepted(copy_task, judge_says, assert_equal):
    judge_says(False)
    problem, _, result = searched(copy_task())
    assert result.is_start
    assert_equal(bits(result.model), bits(derived(problem.start)))
    assert problem.task.evaluate(result.model, "val").losses == pytest.approx(result.evaluation.losses)


def test_a_rejected_node_is_rolled_back(copy_task, judge_says):
    judge_says(True, False, True)
    journal = Journal.in_memory()
    _, _, result = searched(copy_task(), journal)
    assert len(result.genotype.nodes) == 2
    assert [line["accepted"] for line in journal.growth] == [False]


def test_nodes_are_added_at_the_end_only(copy_task):
    context = context_of(start_of(copy_task()), copy_task(), growing(**SMALL), space=SPACE)
    (proposal,) = add_nodes(context).proposals
    assert proposal.places == ((2, None),)
    full = context_of(start_of(copy_task(), 4), copy_task(), growing(**SMALL), space=SPACE)
    assert add_nodes(full).reason == "max_nodes = 4 reached"
    few = context_of(start_of(copy_task()), copy_task(), growing(**SMALL, max_ops=2), space=SPACE)
    assert add_nodes(few).reason == "a new node would have 3 ops, max_ops = 2"


def test_a_nodes_mixtures_are_its_edges():
    core = DagBackbone(1, 1, 4)
    assert [[core.edges[edge][0] - 1 for edge in mixtures_of(core, node)] for node in range(4)] == [
        [node] * (node + 1) for node in range(4)
    ]


def test_a_new_nodes_edges_are_watched_from_their_birth(copy_task, judge_says):
    judge_says(True, True, False)
    task = copy_task()
    growth = Growth(problem_of(start_of(task), task, Journal.in_memory(), space=SPACE), growing(**SMALL))
    list(growth.units())
    ages = [{op.age for op in state} for state in growth.best.candidate.watched]
    assert ages == [{6}] * 3 + [{3}] * 3


def test_ops_are_traced_past_added_nodes_and_removals():
    cell = [["a", "b"], ["a", "b"], ["a", "b"]]
    prune = {"node": 1, "op": 0, "sources": [1]}
    add = {"node": 2, "op": None, "edges": [2, 1, 2]}
    assert traced(cell, [prune, add]) == [
        [(0, 0), (0, 1)], [(1, 1)], [(2, 0), (2, 1)], [None, None], [None], [None, None]
    ]  # fmt: skip


def test_a_node_keeps_an_op_that_is_not_none(copy_task):
    task = copy_task()
    model = start_of(task, 1)
    set_shares(model.core, 0, [0.98, 0.01, 0.01])
    options = growing(**{**SMALL, "prune": "each_stage"})
    watched = [aged([0.98, 0.01, 0.01], options.thresholds)]
    context = context_of(model, task, options, watched=watched, space=SPACE, journal=TrainingJournal())
    done = fit(model, task, context.recipe.first(1), seed=0)
    stage = prune_stage(Stage(context.best, (done,), number=2), context)
    assert [line["op_name"] for line in stage.prunings] == ["gated/tanh"]
    assert supernet_of(stage.model).op_names(0) == [("gated", "none"), ("gated", "identity")]


def test_a_pruning_that_harms_is_undone(copy_task, judge_says):
    judge_says(True, True, True)  # the harm of the pruning, the first stage, the cell
    task, journal = copy_task(), Journal.in_memory()
    _, _, result = searched(task, journal, prune="each_stage", prune_threshold=0.3, max_nodes=2)
    first = [line for line in journal.growth if line["stage"] == 1]
    assert first
    assert not any(line["accepted"] for line in first)
    assert [len(alpha) for alpha in result.others["grown_supernet"].model.core.alpha] == [3] * 3


@pytest.mark.parametrize(("key", "value"), [
    ("mode", "ops_duplicate"), ("mode", "ops_split"), ("mode", "nodes_and_ops"), ("choice", "random"),
    ("birth", "carrier"), ("position", "first"), ("position", "best"), ("candidates", 2), ("restarts", 1),
    ("replace", "uniform"), ("top_k", 1), ("readout", "ablation"),
])  # fmt: skip
def test_what_only_a_chain_offers_is_refused(copy_task, key, value):
    strategy = Growing(growing(**{**SMALL, key: value}))
    line = rf"growing offers strategy.{key}={value} on a chain only; set strategy.{key}="
    with pytest.raises(ConfigError, match=f"^space.backbone=dag: {line}"):
        strategy.check_space(SPACE)
    strategy.check_space(SearchSpace(("add",), ("tanh",)))
    task = copy_task()
    with pytest.raises(ConfigError, match=line):
        next(strategy.search(problem_of(start_of(task), task, ScriptedJournal({}), space=SPACE)))


def test_the_default_options_fit_a_dag():
    assert all(getattr(growing(), key) in known for key, known in ON_A_DAG.items())
