"""A DAG grows a node that changes nothing at first, and loses ops of its edges."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.backbones.dag import DEFAULT_ACTIVATIONS, DagBackbone
from grownas.training.migrate import migrate
from grownas.training.recipe import OptimizerRecipe, Recipe, make_optimizers

I, H = 3, 4  # noqa: E741 - the field's names
EXACT = ["native", "torch", "reference"]  # backends that run here
OPS = st.lists(st.sampled_from(DEFAULT_ACTIVATIONS), min_size=1, max_size=5).filter(lambda ops: set(ops) != {"none"})


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(nodes, ops=None, seed=0, norm=False):
    """A backbone with drawn alpha; with `norm`, moments of other values than at first."""
    generator = torch.Generator().manual_seed(seed)
    backbone = DagBackbone(I, H, nodes, ops, norm=norm, generator=generator).double()
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(torch.randn(alpha.shape, generator=generator, dtype=torch.float64))
        if norm:
            backbone.moments[0].normal_(generator=generator)
            backbone.moments[1].uniform_(0.5, 2, generator=generator)
    return backbone


def state_of(backbone):
    return {name: value.clone() for name, value in backbone.state_dict().items()}, backbone.plan


def assert_untouched(backbone, before):
    state, plan = before
    assert backbone.plan == plan
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@settings(deadline=None, max_examples=60)
@given(
    nodes=st.integers(1, 7), ops=st.none() | OPS, new=st.none() | OPS, norm=st.booleans(), training=st.booleans(),
    backend=st.sampled_from(EXACT), dtype=st.sampled_from([torch.float64, torch.float32]), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_appended_node_leaves_the_output_the_same_to_the_last_bit(
    nodes, ops, new, norm, training, backend, dtype, seed
):
    backbone = make(nodes, ops, seed, norm).to(dtype).train(training)
    before = state_of(backbone)
    grown, origins = morphisms.blend_node(backbone, None, torch.Generator().manual_seed(seed), new)
    assert_untouched(backbone, before)
    assert set(origins) == {name for name, _ in backbone.named_parameters()}
    assert grown.blend == [*[1.0] * nodes, 0.0]
    assert [edge.ops for edge in grown.mixed_edges()[-nodes - 1 :]] == [tuple(new or ops or DEFAULT_ACTIVATIONS)] * (
        nodes + 1
    )
    assert all(len(set(shares.tolist())) == 1 for shares in grown.shares[-nodes - 1 :])
    old = copy.deepcopy(backbone)
    old.backend = grown.backend = backend
    x, h_0 = randn(5, 3, I, seed=seed).to(dtype), randn(1, 3, H, seed=2).to(dtype)
    for one in (old, grown):
        one(x, h_0)[0].sum().backward()
    assert torch.equal(old(x, h_0)[0], grown(x, h_0)[0])
    with torch.no_grad():  # the engine keeps nothing for a backward
        assert torch.equal(old.eval()(x, h_0)[0], grown.eval()(x, h_0)[0])
    assert grown.nodes[-1].W_h.grad is not None


def test_a_node_that_is_mixed_in_fully_is_a_plain_one():
    grown = morphisms.blend_node(make(2), None, torch.Generator().manual_seed(1)).backbone
    grown.blend[2] = 1.0
    plain = make(3, seed=5)
    plain.load_state_dict(grown.state_dict())  # no key of the blend is left
    x = randn(4, 2, I)
    assert torch.equal(grown(x)[0], plain(x)[0])
    assert len(grown.derive().genotype.nodes) == 3


def test_two_appended_nodes_leave_the_output_the_same():
    backbone, generator = make(2), torch.Generator().manual_seed(1)
    grown = morphisms.blend_node(morphisms.blend_node(backbone, 2, generator).backbone, 3, generator).backbone
    x = randn(4, 2, I)
    assert torch.equal(grown(x)[0], backbone(x)[0])
    assert grown.blend == [1, 1, 0, 0]


def test_a_node_is_drawn_from_its_generator():
    one, same, other = (
        morphisms.blend_node(make(2), None, torch.Generator().manual_seed(seed)).backbone.nodes[-1].W_h
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0.3 / H**0.5 < one.std() < 0.9 / H**0.5  # U(-1/sqrt(H), 1/sqrt(H)) has 0.58


@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_position_before_the_end_is_refused(position):
    with pytest.raises(ValueError, match=f"position must be 2 or None, got {position}"):
        morphisms.blend_node(make(2), position)


def test_a_new_state_is_normalised_by_moments_of_its_own():
    backbone = make(2, norm=True)
    grown = morphisms.blend_node(backbone).backbone
    assert grown.moments.shape == (2, 4, H)
    assert torch.equal(grown.moments[:, :3], backbone.moments)
    assert torch.equal(grown.moments[:, 3], torch.stack([torch.zeros(H), torch.ones(H)]).double())
    again = make(3, norm=True)
    again.nodes[2].set_blend(0.0)
    again.load_state_dict(grown.state_dict())


# ---- the optimisers' state


def trained(backbone, **recipe):
    """The optimisers of a backbone, with state."""
    optimizers = make_optimizers(backbone, Recipe(bilevel="first", **recipe))
    for _ in range(2):
        backbone(randn(5, 2, I))[0].square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return optimizers


def states(optimizers, backbone):
    """The state of each parameter, by its name, without empty ones."""
    names = {parameter: name for name, parameter in backbone.named_parameters()}
    return {names[p]: state for optimizer in optimizers for p, state in optimizer.state.items() if state}


def migrated(optimizers, morphed, backbone):
    return [migrate(one, morphed.origins, backbone, morphed.backbone) for one in optimizers]


@pytest.mark.parametrize(("name", "key"), [("adam", "exp_avg_sq"), ("sgd", "momentum_buffer")])
def test_old_moments_are_kept_and_the_node_has_none(name, key):
    backbone = make(3)
    optimizers = trained(backbone, weights=OptimizerRecipe(name))
    morphed = morphisms.blend_node(backbone)
    after = migrated(optimizers, morphed, backbone)
    before, found = states(optimizers, backbone), states(after, morphed.backbone)
    assert set(found) == set(before) == {name for name, _ in backbone.named_parameters()}
    for parameter, state in before.items():
        assert all(torch.equal(torch.as_tensor(found[parameter][each]), torch.as_tensor(state[each])) for each in state)
    assert key in found["W_x"]
    groups = [{id(p) for group in one.param_groups for p in group["params"]} for one in after]
    node = morphed.backbone.mixed_nodes()[-1]
    assert id(node.W_h) in groups[0] - groups[1]
    assert all(id(edge.alpha) in groups[1] - groups[0] for edge in node.mixed_edges())


# ---- removal


def test_a_pruned_edge_renormalises_the_other_shares():
    backbone = make(2)
    before, edge = state_of(backbone), 2
    grown = morphisms.prune_op(backbone, edge, 1).backbone
    assert_untouched(backbone, before)
    assert grown.mixed_edges()[edge].ops == ("none", "relu", "sigmoid", "identity")
    kept = backbone.shares[edge][[0, 2, 3, 4]]
    torch.testing.assert_close(grown.shares[edge], kept / kept.sum())
    assert all(torch.equal(grown.alpha[one], backbone.alpha[one]) for one in (0, 1))
    shares = [one.detach().clone() for one in backbone.shares]
    shares[edge] = shares[edge].clone()
    shares[edge][1] = 0
    shares[edge] /= shares[edge].sum()
    backbone.set_shares(shares)
    x = randn(4, 2, I)
    torch.testing.assert_close(grown(x)[0], backbone(x)[0])


def test_the_moments_of_a_pruned_edge_are_those_of_the_ops_that_stay():
    backbone = make(2)
    optimizers = trained(backbone)
    morphed = morphisms.prune_op(backbone, 1, 0)
    found = states(migrated(optimizers, morphed, backbone), morphed.backbone)
    before = states(optimizers, backbone)
    name = "nodes.1.edges.0.alpha"
    assert torch.equal(found[name]["exp_avg"], before[name]["exp_avg"][1:])
    assert torch.equal(found["nodes.1.W_h"]["exp_avg_sq"], before["nodes.1.W_h"]["exp_avg_sq"])


def test_an_edge_keeps_an_op_and_a_node_one_that_is_not_none():
    backbone = DagBackbone.from_edges(I, H, [["tanh", "none"], ["none"], ["relu", "none"]])
    for edge, op in ((1, 0), (0, 0), (2, 0)):
        assert not morphisms.can_prune_edge(backbone, edge, op)
        with pytest.raises(ValueError, match=f"edge {edge}"):
            morphisms.prune_op(backbone, edge, op)
    assert morphisms.prune_op(backbone, 2, 1).backbone.mixed_edges()[2].ops == ("relu",)
    with pytest.raises(ValueError, match="edge must lie between 0 and 2, got 3"):
        morphisms.prune_op(backbone, 3, 0)
    with pytest.raises(ValueError, match=r"edge 0 has ops 0..1, got 2"):
        morphisms.prune_op(backbone, 0, 2)
