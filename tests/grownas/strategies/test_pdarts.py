"""P-DARTS: stages of more nodes and fewer ops, alpha frozen at first, identity ops dropped, weights inherited."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from grownas.errors import ConfigError
from grownas.protocols import Budget
from grownas.runs.journal import Journal
from grownas.space import SearchSpace
from grownas.strategies.pdarts import PDarts, inherit, next_ops
from grownas.strategies.supernet import SupernetSearch
from grownas.strategies.supernet_options import PDartsOptions
from grownas.training.loop import fit
from grownas.training.perturb import without_identities
from grownas.training.recipe import Recipe
from support.growing import model_of, problem_of, set_shares
from support.mortal import goes_on_after_a_kill

SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid", "relu"), max_nodes=3, max_ops=8)
SMALL = {
    "max_epochs": 4, "unit_epochs": 1, "frozen": 0.5, "fine_tune_epochs": 1, "accept": "better", "guard": False,
    "weights": {"rate": 0.02}, "alpha": {"rate": 0.05},
}  # fmt: skip
STAGES = [(1, 8), (2, 5), (3, 3)]  # nodes and ops a node
IDENTITY, TANH, PRODUCT = ("add", "identity"), ("add", "tanh"), ("hadamard", "identity")


def problem_for(task, make_model, budget=None):
    problem = problem_of(make_model(task), task, Journal.in_memory(), space=SPACE)
    return replace(problem, budget=budget or Budget())


@pytest.fixture(scope="module")
def searched(copy_task, make_model):
    """What a search of three stages found, and the supernets that its stages began with; do not change them."""
    problem, begun = problem_for(copy_task(), make_model), []
    pieces = problem.journal.fit_in_pieces

    def watched(key, model, *rest, **more):
        begun.append(copy.deepcopy(model))
        return pieces(key, model, *rest, **more)

    problem.journal.fit_in_pieces = watched
    found = PDarts(PDartsOptions(**SMALL)).search(problem)
    return SimpleNamespace(problem=problem, begun=begun, results=[copy.deepcopy(result) for result in found])


def ops_of(core):
    return [core.op_names(node) for node in range(len(core.nodes))]


def test_each_stage_has_more_nodes_and_fewer_ops(searched):
    assert [(len(ops_of(one.core)), *set(map(len, ops_of(one.core)))) for one in searched.begun] == STAGES
    assert [result.chosen["nodes"] for result in searched.results] == [1] * 4 + [2] * 4 + [3] * 5


def test_the_ops_of_lowest_share_go(searched):
    for stage in (1, 2):
        before, after = searched.results[4 * stage - 1].model.core, searched.begun[stage].core
        for node, (had, kept) in enumerate(zip(ops_of(before), ops_of(after), strict=False)):
            shares = dict(zip(had, before.shares[node].tolist(), strict=True))
            gone = set(had) - set(kept)
            assert len(gone) == len(had) - len(kept) > 0
            assert max(shares[op] for op in gone) < min(shares[op] for op in kept)


def test_a_stage_inherits_the_weights_of_the_nodes_and_ops_that_stay(searched, assert_equal):
    for stage in (1, 2):
        before, after = searched.results[4 * stage - 1].model, searched.begun[stage]
        assert_equal(dict(after.readout.state_dict()), dict(before.readout.state_dict()))
        for node, had in enumerate(ops_of(before.core)):
            for place, op in enumerate(after.core.op_names(node)):
                old = before.core.op_parameters(node, had.index(op))
                for name, value in after.core.op_parameters(node, place).items():
                    assert torch.equal(value, old[name])


def test_alpha_is_frozen_at_the_start_of_each_stage(searched):
    for stage, begun in enumerate(searched.begun):
        first = [alpha.detach() for alpha in begun.core.alpha]
        assert max(float(alpha.abs().max()) for alpha in first) < 0.01  # drawn anew
        for epoch in range(4):
            alphas = [alpha.detach() for alpha in searched.results[4 * stage + epoch].model.core.alpha]
            same = [torch.equal(*pair) for pair in zip(alphas, first, strict=True)]
            assert same == [epoch < 2] * len(first)


def test_alphas_own_step_counts_as_a_gradient_once_it_learns(searched):
    scores = searched.results[-1].scores
    assert [score["gradients"] / score["steps"] for score in scores] == [1, 1, 2, 2] * 3


def test_a_budget_ends_the_search_in_a_stage_with_the_cell_of_that_stage(copy_task, make_model):
    problem = problem_for(copy_task(), make_model, Budget(genotypes=5))
    *_, last = PDarts(PDartsOptions(**SMALL)).search(problem)
    assert last.reason == "budget.genotypes = 5 reached"
    assert len(last.scores) == 5
    assert len(last.genotype.nodes) == last.chosen["nodes"] == 2


def test_a_search_that_is_killed_in_its_second_stage_goes_on_to_the_same_bits(copy_task, make_model, assert_equal):
    task = copy_task(dropout=0.1)
    problem = problem_of(make_model(task), task, None, space=SPACE)
    search = PDarts(PDartsOptions(**SMALL, kept_ops=(8, 5), dropouts=(0.0, 0.5))).search
    whole, again, cut = goes_on_after_a_kill(search, problem, part=0.6)
    assert cut.startswith("pdarts-stage-2-epoch-")
    for one, other in zip(again, whole, strict=True):
        assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))


def test_what_was_found_is_trained_on_by_a_refit(searched):
    last = searched.results[-1]
    again = PDarts(PDartsOptions(**SMALL)).refit(searched.problem, last)
    assert [[op.activation for op in node.ops] for node in again.genotype.nodes] == [
        [op.activation for op in node.ops] for node in last.genotype.nodes
    ]
    assert again.steps > last.steps
    assert not torch.equal(again.model.readout.weight, last.model.readout.weight)


@pytest.mark.parametrize(
    ("options", "stages"),
    [({"max_nodes": 8}, (3, 6, 8)), ({"max_nodes": 1}, (1, 1, 1)), ({"stage_nodes": (2, 2, 3)}, (2, 2, 3))],
)
def test_nodes_rise_in_equal_steps_or_as_told(options, stages):
    assert tuple(PDarts(PDartsOptions(**options)).stage_nodes) == stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept_ops": (8, 4)}, "2 in strategy.kept_ops, 3 in strategy.dropouts, 2 in strategy.stage_nodes"),
        ({"stage_nodes": (2, 1, 3)}, r"stage_nodes: got \[2, 1, 3\], expected numbers that do not fall"),
        ({"stage_nodes": (1, 2, 4)}, "at most strategy.max_nodes = 3"),
        ({"kept_ops": (5, 8, 3)}, r"kept_ops: got \[5, 8, 3\], expected numbers that do not rise"),
    ],
)
def test_stages_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PDarts(PDartsOptions(**options))


# ---- which ops stay


def core_with(*shares, ops, nodes):
    """A stand-in for a supernet of some nodes: a chain's or a dag's by the number of its mixtures."""
    alpha = [torch.tensor(some, dtype=torch.float64).log() for some in shares]
    return SimpleNamespace(alpha=alpha, nodes=[None] * nodes, op_names=lambda mixture: ops)


def test_a_new_node_gets_the_ops_of_largest_mean_share():
    ops = [IDENTITY, TANH, PRODUCT]
    chain = core_with([0.6, 0.3, 0.1], [0.1, 0.2, 0.7], ops=ops, nodes=2)
    assert next_ops(chain, ops, 3, 2) == [[IDENTITY, TANH], [TANH, PRODUCT], [IDENTITY, PRODUCT]]


def test_the_edges_into_a_node_of_a_dag_keep_the_same_ops():
    ops = [("gated", name) for name in ("none", "tanh", "identity")]
    dag = core_with([0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.1, 0.6, 0.3], ops=ops, nodes=2)
    assert next_ops(dag, ops, 2, 2) == [ops[:2], ops[1:]]


def test_none_is_never_the_only_op_that_stays():
    ops = [("gated", name) for name in ("none", "tanh", "identity")]
    assert next_ops(core_with([0.8, 0.05, 0.15], ops=ops, nodes=1), ops, 1, 1) == [[ops[2]]]
    assert next_ops(core_with([0.8, 0.05, 0.15], ops=ops, nodes=1), ops, 1, 2) == [[ops[0], ops[2]]]


@pytest.mark.parametrize("count", range(1, 9))
def test_kept_ops_are_in_proportion_to_those_of_the_space(copy_task, make_model, monkeypatch, count):
    """Each stage keeps the published share of the ops, rounded up; no stage is without."""
    ops, asked = SPACE.ops[:count], []
    problem = problem_for(copy_task(), make_model)
    space = SimpleNamespace(ops=ops)

    def train(self, model, recipe, *, key):
        asked.append(len(model.core.op_names(0)))
        self.fit = SimpleNamespace(model=model)
        yield None

    monkeypatch.setattr(SupernetSearch, "train", train)
    monkeypatch.setattr(SupernetSearch, "finish", lambda self, recipe: iter(()))
    list(PDarts(PDartsOptions(**SMALL)).search(replace(problem, space=space)))
    assert asked == [int(np.ceil(count * kept / 8)) for kept in (8, 5, 3)]


# ---- weights


@pytest.mark.parametrize("switches", [{}, {"highway": True}, {"share_projection": True}], ids=str)
def test_new_nodes_and_alpha_are_left_as_they_were_drawn(copy_task, make_model, switches):
    old = make_model(copy_task(), seed=1, nodes=2, **switches)
    new = make_model(copy_task(), seed=2, nodes=3, **switches)
    kept, drawn = copy.deepcopy(old.state_dict()), copy.deepcopy(new.state_dict())
    with torch.no_grad():
        for alpha in old.core.alpha:
            alpha.add_(1.0)
    inherit(new, old)
    for name, value in new.state_dict().items():
        is_new = name.endswith(".alpha") or name.startswith("core.nodes.2.")
        assert torch.equal(value, (drawn if is_new else kept)[name]), name
    for name, value in old.state_dict().items():
        assert torch.equal(value, kept[name]) != name.endswith(".alpha")


# ---- dropped identities


@pytest.fixture
def supernet(copy_task):
    model = model_of(copy_task(), [IDENTITY, TANH, PRODUCT], [IDENTITY], [TANH, PRODUCT])
    set_shares(model.core, 0, [0.5, 0.2, 0.3])
    return model


def test_a_dropped_identity_leaves_its_share_to_the_others(supernet):
    shares = without_identities(supernet.core, 1.0)
    np.testing.assert_allclose(shares[0], [0, 0.4, 0.6], rtol=1e-12)
    np.testing.assert_array_equal(shares[1], [1.0])  # nothing else is there
    np.testing.assert_allclose(shares[2], [0.5, 0.5], rtol=1e-12)  # a product is no identity
    for own, alpha in zip(without_identities(supernet.core, 0.0), supernet.core.alpha, strict=True):
        assert torch.equal(own, torch.softmax(alpha, 0))


def test_identities_are_dropped_as_often_as_told(supernet):
    torch.manual_seed(0)
    dropped = sum(float(without_identities(supernet.core, 0.3)[0][0]) == 0 for _ in range(400))
    assert dropped == pytest.approx(120, abs=4 * np.sqrt(400 * 0.3 * 0.7))


def test_only_the_weights_step_is_without_identities(copy_task, supernet):
    seen = []

    class Watched(copy_task):
        def loss(self, model, out, window):
            seen.append([share.detach().clone() for share in model.core.shares])
            return super().loss(model, out, window)

        def evaluate(self, model, part):
            assert all(float(share.detach()[0]) > 0 for share in model.core.shares)
            return super().evaluate(model, part)

    recipe = Recipe(epochs=1, patience=None, bilevel="first", perturb="identity", perturb_size=(1.0, 1.0))
    fit(supernet, Watched(), recipe, seed=1)
    of_alpha, of_weights = seen[::2], seen[1::2]
    assert len(of_alpha) == len(of_weights) > 1
    for shares in of_alpha:
        assert 0.4 < float(shares[0][0]) < 0.6
    for shares in of_weights:
        assert float(shares[0][0]) == 0
        assert float(shares[0].sum()) == pytest.approx(1, rel=1e-12)


def test_dropout_falls_to_0_over_each_stage():
    strategy = PDarts(PDartsOptions())
    recipes = [strategy.stage_recipe(stage) for stage in range(3)]
    assert [recipe.perturb for recipe in recipes] == ["none", "identity", "identity"]
    assert [recipe.perturb_size for recipe in recipes] == [(0, 0), (0.4, 0), (0.7, 0)]
    assert {recipe.alpha_after for recipe in recipes} == {24}
