"""Which ops are kept: by share, and by what the score says of doing without them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grownas.backbones.blocks import BlocksBackbone
from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.criteria.readout import (
    CHOICES,
    all_ops,
    by_ablation,
    by_share,
    count_surplus,
    surplus,
    with_only,
    without,
)
from grownas.ops import DEFAULT_OPS

OPS = [("add", "identity"), ("add", "tanh"), ("hadamard", "sigmoid"), ("add", "relu")]


def make(*nodes, alpha=None, **switches):
    generator = torch.Generator().manual_seed(0)
    backbone = Backbone.from_ops(3, 4, nodes or [OPS, OPS], generator=generator, **switches).double()
    with torch.no_grad():
        for number, one in enumerate(backbone.alpha):
            one.copy_(torch.randn(one.shape, generator=generator) if alpha is None else torch.tensor(alpha[number]))
    return backbone


def there(backbone):
    """Return the places of the ops that have a share."""
    return frozenset((j, k) for j, alpha in enumerate(backbone.alpha) for k, one in enumerate(alpha) if one > -math.inf)


def never(backbone):
    raise AssertionError("nothing is to be scored")


def test_shares_keep_the_largest_and_of_equal_ones_the_first():
    backbone = make(alpha=[[0.0, 3.0, 1.0, 2.0], [1.0, 0.0, 1.0, 1.0]])
    assert by_share(backbone, 1, never).kept == [[1], [0]]
    assert by_share(backbone, 2, never).kept == [[1, 3], [0, 2]]
    assert by_share(backbone, 9, never) == ([[0, 1, 2, 3]] * 2, [])
    gone = by_share(backbone, 2, never).gone
    assert [(one.node, one.op) for one in gone] == [(0, 0), (0, 2), (1, 1), (1, 3)]
    shares = [torch.softmax(alpha.detach(), 0) for alpha in backbone.alpha]
    assert [one.figure for one in gone] == [shares[one.node][one.op].item() for one in gone]


@given(st.integers(0, 2**32), st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=2))
def test_ablation_takes_away_what_is_missed_least_each_time(seed, top_k, sizes):
    backbone = make(*(OPS[:size] for size in sizes))
    asked = []

    def score(rest):
        asked.append(there(rest))
        return hash((seed, tuple(sorted(asked[-1])))) % 1009

    kept, gone = by_ablation(backbone, top_k, score)
    asked_once, current, lost = iter(asked), there(backbone), []
    while any(sum(place[0] == node for place in current) > top_k for node in range(len(sizes))):
        able = [one for one in sorted(current) if sum(place[0] == one[0] for place in current) > top_k]
        rounds = [next(asked_once) for _ in able]
        assert rounds == [current - {one} for one in able]
        shares = {one: torch.softmax(backbone.alpha[one[0]], 0)[one[1]].item() for one in able}
        out = min(able, key=lambda one: (hash((seed, tuple(sorted(current - {one})))) % 1009, shares[one]))
        current = current - {out}
        lost.append((*out, hash((seed, tuple(sorted(current)))) % 1009))
    assert next(asked_once, None) is None
    assert gone == lost
    assert kept == [[op for node, op in sorted(current) if node == number] for number in range(len(sizes))]


def test_what_is_not_a_number_is_the_worst_and_the_smaller_share_of_equals_goes():
    backbone = make(OPS[:3], alpha=[[1.0, 0.0, 2.0]])
    assert by_ablation(backbone, 2, lambda rest: 0.0).kept == [[0, 2]]
    assert by_ablation(backbone, 1, lambda rest: 0.0).kept == [[2]]
    without_first = by_ablation(backbone, 1, lambda rest: math.nan if (0, 1) not in there(rest) else 1.0).kept
    assert without_first == [[1]]
    assert [one.figure for one in by_ablation(backbone, 1, lambda rest: math.nan).gone] == [math.inf] * 2


def test_shares_misjudge_an_unbounded_op_that_ablation_keeps():
    backbone = make(OPS[:3], alpha=[[0.0, 0.5, 0.3]])
    backbone.load_op_parameters(0, 0, {"W_x": 50 * torch.eye(3, 4)})  # the smallest share, of much
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = backbone(x)[0].detach()

    @torch.no_grad()
    def score(rest):
        return float((rest(x)[0] - target).square().mean())

    kept = {name: choose(backbone, 2, score).kept for name, choose in CHOICES.items()}
    assert kept == {"share": [[1, 2]], "ablation": [[0, 1]]}


@pytest.mark.parametrize("switches", [{}, {"highway": True}, {"share_projection": True}], ids=str)
@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_kept_is_what_is_read_out(choice, switches):
    backbone = make(DEFAULT_OPS, OPS[:1], OPS, **switches)
    before = {name: one.clone() for name, one in backbone.state_dict().items()}
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept, _ = CHOICES[choice](backbone, 2, lambda rest: rest(x)[0].square().sum().item())
    assert [len(ops) for ops in kept] == [2, 1, 2]
    rest = with_only(backbone, kept)
    for node, (alpha, ops) in enumerate(zip(backbone.alpha, kept, strict=True)):
        shares = torch.softmax(alpha[ops].detach(), 0)
        torch.testing.assert_close(rest.mixed_nodes()[node].shares[ops].detach(), shares, rtol=1e-12, atol=0)
    genotype = rest.genotype(top_k=2)
    names = [[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes]
    assert names == [[backbone.op_names(node)[op] for op in ops] for node, ops in enumerate(kept)]
    torch.testing.assert_close(rest.derive(top_k=2)(x)[0], rest(x)[0], rtol=1e-12, atol=1e-12)
    assert all(torch.equal(one, before[name]) for name, one in backbone.state_dict().items())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_node_cannot_be_emptied(choice):
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        CHOICES[choice](make(), 0, never)


@pytest.mark.parametrize("ops", [["none", "tanh", "relu"], ["tanh", "relu"]], ids=str)
def test_of_a_dags_node_the_one_op_that_is_kept_is_read_out_whatever_its_share(ops):
    """Also where nothing is left of another edge, which then gives nothing."""
    generator = torch.Generator().manual_seed(0)
    core = DagBackbone(3, 4, 2, ops, generator=generator).double()
    with torch.no_grad():
        for alpha in core.alpha:
            alpha.normal_(std=3, generator=generator)
    every, x = all_ops(core), torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    assert every == [[number for number, op in enumerate(ops) if op != "none"]] * 3
    first = [(0, op) for op in every[0]]
    second = [(edge, op) for edge in (1, 2) for op in every[edge]]
    for places in itertools.product(first, second):
        kept = [[op for edge, op in places if edge == mixture] for mixture in range(3)]
        rest = with_only(core, kept)
        found = [(node.reads, node.activation) for node in rest.genotype().nodes]
        assert found == [(core.edges[edge][1], ops[op]) for edge, op in places]
        assert torch.isfinite(rest(x)[0]).all()
        assert surplus(core, kept, 1) == []
        if "none" not in ops:  # each node is one op of one edge, as in the derived cell
            torch.testing.assert_close(rest(x)[0], rest.derive()(x)[0], rtol=0, atol=1e-12)
    assert surplus(core, every, 1) == first + second
    assert surplus(core, [every[0][:1], [], every[2]], 1) == [(2, op) for op in every[2]]


def test_ablation_of_blocks_leaves_two_edges_with_one_op_each():
    core = BlocksBackbone([("none", "delay(1)", "fir(2)"), ("delay(1)", "fir(2)", "polynomial(3)")])
    kept, removals = all_ops(core), 0
    assert count_surplus(core, kept, 1) == (2 * 2 - 2) + (3 * 3 - 2)
    while places := surplus(core, kept, 1):
        kept = without(kept, *places[0])  # the first op that may go: an edge may lose its last one
        removals += 1
    assert removals == 9
    assert kept == [[2], [2], [], [2], [2]]
    derived = with_only(core, kept).derive()
    assert [[(edge.reads, edge.op) for edge in node.edges] for node in derived.genotype.nodes] == [
        [(0, "fir(2)"), (1, "fir(2)")],
        [(1, "polynomial(3)"), (2, "polynomial(3)")],
    ]
