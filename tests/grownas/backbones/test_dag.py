"""The DAG supernet: DARTS' search cell, what is read out of it, and the contract's names."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import grownas
from grownas.backbones.dag import DEFAULT_ACTIVATIONS, DagBackbone
from grownas.cells.backends import BACKENDS
from grownas.errors import GenotypeError
from grownas.genotype import DagGenotype, DagNode
from support.mixtures import assert_given_shares_and_skip_leave_no_trace

I, H = 3, 4  # noqa: E741 - the field's names
RUNS = [name for name in BACKENDS if name != "triton"]  # backends that run here
FUNCTIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z}
OPS = [["tanh", "none"], ["relu", "none", "identity"], ["sigmoid"]]  # of each node's edges

ops_lists = st.lists(
    st.lists(st.sampled_from(DEFAULT_ACTIVATIONS), min_size=1, max_size=6).filter(lambda ops: set(ops) != {"none"}),
    min_size=1,
    max_size=4,
)


def make(ops=OPS, seed=0, spread=1.0, inputs=I, hidden=H, **options):
    generator = torch.Generator().manual_seed(seed)
    backbone = DagBackbone.from_ops(inputs, hidden, ops, generator=generator, **options).double()
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(spread * torch.randn(alpha.shape, generator=generator, dtype=torch.float64))
    return backbone


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def search_cell(backbone, shares, x, h, *, skip=0.0, mean=None):
    """Liu et al. (2019), `model_search.py` for recurrent cells, a module of batch norm for each state, with a limit.

    The published line of an edge is `unweighted = states[:i] + c (fn(h) - states[:i]); s = sum(p * unweighted)`.
    """
    H, N = backbone.hidden_size, len(backbone.nodes)
    norms = [torch.nn.BatchNorm1d(H, affine=False).double() for _ in range(N + 1)] if backbone.norm else None
    for norm in norms or []:
        norm.train(backbone.training)
    if norms and not backbone.training:
        for number, norm in enumerate(norms):
            norm.running_mean, norm.running_var = backbone.moments[:, number]
    limit = backbone.limit if norms and not backbone.training else torch.tensor(math.inf)

    def normalised(number, s):
        return norms[number](s).clamp(-limit, limit) if norms else s

    W_0, Ws, out = torch.cat([backbone.W_x, backbone.W_h]), [node.W_h for node in backbone.nodes], []
    for x_t in x:
        c_0, h_0 = torch.split(torch.cat([x_t, h], 1) @ W_0, H, 1)
        s = h + c_0.sigmoid() * (h_0.tanh() - h)
        states = [normalised(0, s)]
        at = 0
        for i, W in enumerate(Ws, start=1):
            total = 0
            for source in range(i):
                c, z = torch.split(states[source] @ W, H, 1)
                total = total + skip * states[source]
                for (_, op), share in zip(backbone.op_names(at), shares[at], strict=True):
                    if op != "none":
                        gated = states[source] + c.sigmoid() * (FUNCTIONS[op](z) - states[source])
                        total = total + share * gated
                at += 1
            total = total / i if backbone.edge_reduction == "mean" else total
            states.append(normalised(i, total))
        weights = [0, *[1 / N] * N] if mean is None else mean
        h = sum(weight * s for weight, s in zip(weights, states, strict=True))
        out.append(h)
    return torch.stack(out), norms


def compare(backbone, shares, x, h, **given):
    """Values and all gradients of a backbone, and of shares that want them, against the formula."""
    wanted = [x, h, *backbone.parameters(), *(one for one in shares if one.requires_grad and one.is_leaf)]
    weight, found = randn(*x.shape[:2], backbone.hidden_size, seed=8), []
    ours, norms = backbone(x, h.unsqueeze(0))[0], None
    for out in (ours, None):
        if out is None:
            out, norms = search_cell(backbone, shares, x, h, **given)
        loss = (weight * out).sum() + out.square().mean()
        gradients = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        found.append([out, *(torch.zeros_like(w) if g is None else g for g, w in zip(gradients, wanted, strict=True))])
    for one, truth in zip(*found, strict=True):
        torch.testing.assert_close(one, truth, rtol=1e-10, atol=1e-11)
    return norms


def inputs(T, B, seed=1):
    return randn(T, B, I, seed=seed).requires_grad_(), randn(B, H, seed=seed + 1).requires_grad_()


@pytest.mark.parametrize("backend", RUNS)
@settings(deadline=None, max_examples=25)
@given(ops=ops_lists, T=st.integers(1, 5), B=st.integers(1, 4), seed=st.integers(0, 99))
def test_it_is_the_published_search_cell(backend, ops, T, B, seed):
    backbone = make(ops, seed, backend=backend)
    compare(backbone, [torch.softmax(alpha, 0) for alpha in backbone.alpha], *inputs(T, B, seed))


@pytest.mark.parametrize("backend", RUNS)
def test_a_node_may_take_the_mean_over_its_edges(backend):
    backbone = make(edge_reduction="mean", backend=backend)
    compare(backbone, [torch.softmax(alpha, 0) for alpha in backbone.alpha], *inputs(5, 3))


def test_the_mean_over_edges_or_a_norm_stays_bounded_where_the_sum_overflows():
    for reduction, norm, is_bounded in (("mean", False, True), ("sum", False, False), ("sum", True, True)):
        backbone = make([DEFAULT_ACTIVATIONS] * 8, edge_reduction=reduction, norm=norm, spread=0.1).eval()
        largest = backbone(randn(60, 2, I))[0].abs().max()
        assert bool(largest < 10) == is_bounded


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="edge_reduction must be 'sum' or 'mean', got 'max'"):
        make(edge_reduction="max")


@pytest.mark.parametrize("backend", RUNS)
@pytest.mark.parametrize("training", [True, False])
def test_states_are_normalised_as_by_batch_norm(backend, training):
    backbone = make(norm=True, backend=backend).train(training)
    with torch.no_grad():
        backbone.moments[0].normal_(generator=torch.Generator().manual_seed(3))
        backbone.moments[1].uniform_(0.5, 2, generator=torch.Generator().manual_seed(4))
        backbone.limit.fill_(1.5)
    compare(backbone, [torch.softmax(alpha, 0) for alpha in backbone.alpha], *inputs(4, 5))


@pytest.mark.parametrize("backend", RUNS)
def test_running_moments_follow_the_steps_as_batch_norms_do(backend):
    backbone = make(norm=True, backend=backend)
    norms = compare(backbone, [torch.softmax(alpha, 0) for alpha in backbone.alpha], *inputs(7, 3))
    for number, norm in enumerate(norms):
        torch.testing.assert_close(backbone.moments[0, number], norm.running_mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(backbone.moments[1, number], norm.running_var, rtol=1e-10, atol=1e-12)


def test_moments_move_in_training_only_and_are_saved():
    backbone, x = make(norm=True), randn(5, 3, I)
    before = backbone.moments.clone()
    backbone.eval()(x)
    assert torch.equal(backbone.moments, before)
    backbone.train()(x)
    assert not torch.equal(backbone.moments, before)
    other = make(norm=True, seed=5)
    other.load_state_dict(backbone.state_dict())
    assert torch.equal(other.eval()(x)[0], backbone.eval()(x)[0])
    assert "moments" not in make().state_dict()


def test_a_training_pass_between_leaves_an_evaluations_backward_alone():
    """The running moments move in place."""
    backbone, x = make(norm=True), randn(5, 3, I)
    out, _ = backbone.eval()(x)
    expected = torch.autograd.grad(backbone(x)[0].sum(), backbone.W_x)[0]
    backbone.train()(x)
    assert torch.equal(torch.autograd.grad(out.sum(), backbone.W_x)[0], expected)


@torch.no_grad()
def test_an_evaluated_state_stays_within_what_a_batch_allows():
    """A value of a batch of B that is normalised by its own moments lies within +-sqrt(B - 1)."""
    backbone, x = make([["identity"]], norm=True), randn(300, 1, I)
    assert backbone.limit == 1  # as after a batch of 2
    for batch, limit in ((5, 2.0), (17, 4.0), (2, 4.0)):  # the largest so far counts
        assert backbone.train()(randn(9, batch, I))[0].abs().max() <= math.sqrt(batch - 1)
        backbone.moments[1] = 0.01  # of a calm time: later states are too large for it, and grow from step to step
        assert backbone.eval()(x)[0].abs().max() == limit
    backbone.limit.fill_(math.inf)
    assert backbone(x)[0].abs().max() > 100


def test_a_batch_of_one_has_no_variance():
    backbone = make(norm=True)
    with pytest.raises(ValueError, match=r"norm=True .* needs 2 streams or more, got 1; train on more streams"):
        backbone(randn(5, 1, I))
    assert backbone.eval()(randn(5, 1, I))[0].shape == (5, 1, H)


@pytest.mark.parametrize("backend", RUNS)
@pytest.mark.parametrize("norm", [False, True])
def test_given_shares_and_a_skip_equal_the_formula_and_shares_get_gradients(norm, backend):
    backbone = make(norm=norm, backend=backend)
    shares = [torch.rand(len(alpha), dtype=torch.float64).requires_grad_() for alpha in backbone.alpha]
    backbone.set_shares(shares)
    backbone.set_skip(0.3)
    assert all(one is other for one, other in zip(backbone.shares, shares, strict=True))
    compare(backbone, shares, *inputs(4, 3), skip=0.3)


@pytest.mark.parametrize("backend", RUNS)
def test_without_given_shares_and_skip_it_is_as_before_to_the_last_bit(backend):
    backbone, x = make(backend=backend), randn(5, 2, I)
    assert_given_shares_and_skip_leave_no_trace(backbone, x)


def test_given_shares_that_do_not_fit_are_refused():
    backbone = make([["tanh", "relu"]])
    with pytest.raises(ValueError, match=r"shares have shapes \[\(3,\)\], expected those of alpha: \[\(2,\)\]"):
        backbone.set_shares([torch.ones(3)])
    with pytest.raises(ValueError, match="the factor of a skip must be a finite number, got inf"):
        backbone.set_skip(math.inf)


# --- growth by a blend ---


def grown(ops, seed, backend, blend):
    """A backbone, and the same with one more node, mixed in as far as `blend`."""
    backbone = make(ops[:-1], seed, backend=backend)
    more = make(ops, seed + 1, backend=backend)
    more.load_state_dict(backbone.state_dict(), strict=False)
    more.blend[-1] = blend
    return backbone, more


@pytest.mark.parametrize("backend", RUNS)
@settings(deadline=None, max_examples=25)
@given(ops=ops_lists.filter(lambda ops: len(ops) > 1), seed=st.integers(0, 99), T=st.integers(1, 9))
def test_a_new_node_at_blend_0_changes_nothing_to_the_last_bit(backend, ops, seed, T):
    backbone, more = grown(ops, seed, backend, 0.0)
    assert more.blend == [*[1.0] * (len(ops) - 1), 0.0]
    for dtype in (torch.float64, torch.float32):
        x = randn(T, 2, I, seed=seed).to(dtype)
        assert torch.equal(more.to(dtype)(x)[0], backbone.to(dtype)(x)[0])


@pytest.mark.parametrize("backend", RUNS)
@pytest.mark.parametrize("hidden", [37, 64])
def test_blend_0_is_exact_at_larger_sizes_in_training_too(backend, hidden):
    before = make([DEFAULT_ACTIVATIONS] * 4, 2, hidden=hidden, norm=True, backend=backend).float()
    more = make([DEFAULT_ACTIVATIONS] * 5, 3, hidden=hidden, norm=True, backend=backend).float()
    saved = {name: value for name, value in before.state_dict().items() if name != "moments"}
    more.load_state_dict(saved, strict=False)
    more.blend[-1] = 0
    x = randn(20, 16, I).float()
    assert torch.equal(more(x)[0], before(x)[0])


@pytest.mark.parametrize("backend", RUNS)
def test_a_blended_mean_equals_the_formula(backend):
    _, more = grown(OPS, 0, backend, 0.25)
    a, b = 0.75 / 2 + 0.25 / 3, 0.25 / 3  # of the two nodes before, of the new one
    compare(more, [torch.softmax(alpha, 0) for alpha in more.alpha], *inputs(4, 3), mean=[0, a, a, b])


@pytest.mark.parametrize("backend", RUNS)
def test_a_node_mixed_in_fully_is_a_plain_one_to_the_last_bit(backend):
    _, more = grown(OPS, 0, backend, 0.25)
    assert more.state_dict()["nodes.2.blend"] == 0.25
    more.blend = [1, 1, 1]
    plain, x = make(OPS, 7, backend=backend), randn(5, 2, I)
    plain.load_state_dict(more.state_dict())  # no key of the blend is left
    assert torch.equal(plain(x)[0], more(x)[0])


def test_blends_that_make_no_sense_are_refused():
    backbone = make()
    with pytest.raises(ValueError, match=r"the first node of a dag has no earlier nodes .*got blend 0\.5"):
        backbone.blend[0] = 0.5
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        backbone.blend[1] = 2
    with pytest.raises(ValueError, match="for each of 3 nodes, got 1"):
        backbone.blend = [1]
    backbone.blend[2] = 0.5
    with pytest.raises(ValueError, match=r"nodes have a blend below 1 \(\{3: 0\.5\}\)"):
        backbone.derive()


# --- reading out ---


def test_a_node_reads_by_the_highest_share_but_nones():
    backbone = DagBackbone(I, H, 2, ["none", "tanh", "relu"]).double()
    rows = [[5.0, 0.1, 0.2], [0.0, 1.0, 0.5], [9.0, 8.5, 8.4]]
    with torch.no_grad():
        for alpha, row in zip(backbone.alpha, rows, strict=True):
            alpha.copy_(torch.tensor(row))
    # softmax without none: edge (2, 0): tanh .51; edge (2, 1): tanh .28
    assert backbone.genotype() == DagGenotype((DagNode(0, "relu"), DagNode(0, "tanh")))
    with torch.no_grad():
        backbone.alpha[2][0] = -3.0  # none loses its share to the others: tanh .52
    assert backbone.genotype(top_k=None).nodes[1] == DagNode(1, "tanh")


def test_of_equal_shares_the_first_edge_and_op_are_read():
    assert DagBackbone(I, H, 3).genotype() == DagGenotype((DagNode(0, "tanh"),) * 3)


@pytest.mark.parametrize("distance", [50.0, 800.0, 1e30])
def test_shares_that_vanish_beside_none_are_still_compared(distance):
    backbone = DagBackbone(I, H, 1, ["none", "tanh", "relu"]).double()
    with torch.no_grad():
        backbone.alpha[0].copy_(torch.tensor([distance, 0.0, 1.0]))
    expected = "relu" if distance < 1e16 else "tanh"  # equal in float64
    assert backbone.genotype().nodes[0].activation == expected


@pytest.mark.parametrize("backend", RUNS)
@settings(deadline=None, max_examples=20)
@given(ops=ops_lists, norm=st.booleans(), seed=st.integers(0, 99))
def test_the_derived_cell_has_the_supernets_weights(backend, ops, norm, seed):
    """A supernet whose shares are all on the genotype's ops computes what the derived cell computes."""
    backbone = make(ops, seed, norm=norm, backend=backend)
    genotype, cell = backbone.genotype(), backbone.derive()
    assert cell.genotype == genotype
    assert (cell.backend, cell.layer(0).W_h.dtype) == (backend, torch.float64)
    backbone.norm = False
    x, h_0, shares = randn(5, 2, I, seed=seed), randn(1, 2, H, seed=seed), []
    for number, (node, source) in enumerate(backbone.edges):
        names = [name for _, name in backbone.op_names(number)]
        chosen = genotype.nodes[node - 1]
        share = torch.zeros(len(names), dtype=torch.float64)
        if chosen.reads == source:
            share[names.index(chosen.activation)] = 1
        shares.append(share)
    backbone.set_shares(shares)
    torch.testing.assert_close(cell(x, h_0)[0], backbone(x, h_0)[0], rtol=0, atol=1e-12)


def test_deriving_copies_and_refuses_a_skip():
    backbone, x = make(), randn(5, 2, I)
    before, cell = backbone(x)[0], backbone.derive()
    cell.reset_parameters()
    assert torch.equal(backbone(x)[0], before)
    backbone.set_skip(0.5)
    with pytest.raises(
        ValueError,
        match=r"the backbone has a skip with factor 0\.5, but a derived cell has none; call set_skip\(0\) first",
    ):
        backbone.derive()


# --- the contract's names ---


def test_the_contracts_names():
    backbone = grownas.DagBackbone(I, H)
    assert len(backbone.nodes) == 8
    assert backbone.edges[:6] == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert len(backbone.edges) == len(backbone.alpha) == 36
    assert backbone.op_names(35) == [("gated", name) for name in ("none", "tanh", "relu", "sigmoid", "identity")]
    assert all(isinstance(alpha, torch.nn.Parameter) and alpha.tolist() == [0] * 5 for alpha in backbone.alpha)
    assert {name.rpartition(".")[2] for name, _ in backbone.named_parameters()} == {"W_x", "W_h", "alpha"}
    out, h_n = backbone(torch.randn(5, 2, I), torch.randn(1, 2, H))
    assert (out.shape, h_n.shape) == ((5, 2, H), (1, 2, H))
    assert torch.equal(out[-1], h_n[0])
    assert backbone.double()(randn(5, 2, I))[0].dtype == torch.float64
    assert backbone.chosen_backend in BACKENDS


def test_edges_of_a_node_may_hold_different_ops():
    ops = [["tanh"], ["relu", "none"], [("gated", "identity")]]
    backbone = DagBackbone.from_edges(I, H, ops)
    assert [backbone.op_names(edge) for edge in range(3)] == [
        [("gated", "tanh")],
        [("gated", "relu"), ("gated", "none")],
        [("gated", "identity")],
    ]
    backbone = DagBackbone.from_edges(I, H, [["tanh"], ["none"], ["relu"]])
    assert backbone.genotype().nodes[1] == DagNode(1, "relu")


def test_op_parameters_are_live_views_of_derived_cells_names_and_shapes():
    backbone = make()
    for node in range(4):
        views, other = backbone.op_parameters(node, 0), backbone.derive().op_parameters(0, node, 0)
        assert {name: view.shape for name, view in views.items()} == {name: view.shape for name, view in other.items()}
    backbone.load_op_parameters(2, 1, {"W_h": torch.zeros(H, H)})
    assert backbone.op_parameters(2, 0)["W_h"].abs().sum() == 0  # a node's ops share it
    assert backbone.op_parameters(2, 0)["gate_h"].abs().sum() > 0
    with pytest.raises(ValueError, match="node 1 has gate_h, W_h, not b_x"):
        backbone.load_op_parameters(1, 0, {"b_x": torch.zeros(H)})
    with pytest.raises(IndexError, match=r"has nodes 0\.\.3, 0 the input's; got node 4"):
        backbone.op_parameters(4, 0)
    with pytest.raises(IndexError, match=r"node 3 has ops 0\.\.0, got 1"):
        backbone.op_parameters(3, 1)


def test_a_generator_fixes_all_weights_which_are_drawn_as_a_derived_cells():
    first, second, third = (DagBackbone(I, 64, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == name.endswith("alpha")
    for weights in (first.W_x, first.W_h, *(node.W_h for node in first.nodes)):
        assert 0.95 / 8 < weights.abs().max() <= 1 / 8
        assert abs(weights.mean()) < 0.02


@pytest.mark.parametrize("norm", [False, True])
def test_pickle_copy_and_state_dict_keep_the_function(norm):
    backbone, x = make(norm=norm).eval(), randn(5, 2, I)
    out, _ = backbone(x)
    other = make(seed=4, norm=norm).eval()
    other.load_state_dict(backbone.state_dict())
    for one in (other, copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):  # noqa: S301
        assert torch.equal(one(x)[0], out)


@pytest.mark.parametrize("backend", RUNS)
def test_the_future_never_changes_the_past(backend):
    backbone, x = make(backend=backend), randn(6, 2, I)
    out, _ = backbone(x)
    with torch.no_grad():
        assert torch.equal(backbone(x)[0], out)
    for t in range(5):
        changed = x.clone()
        changed[t + 1 :] = 0
        assert torch.equal(backbone(changed)[0][: t + 1], out[: t + 1])


def test_autocast_on_the_cpu_keeps_the_weights_dtype():
    backbone, x = make().float(), torch.randn(5, 2, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(backbone(x)[0], backbone(x.clone())[0])
        assert backbone(x.bfloat16())[0].dtype == torch.float32


def test_errors_quote_what_came():
    for options, message in (
        ({"nodes": 0}, "nodes must be a whole number above 0, got 0"),
        ({"hidden_size": True}, "hidden_size must be a whole number above 0, got True"),
        ({"backend": "gpu"}, "unknown backend 'gpu'; choose auto, reference, torch"),
    ):
        with pytest.raises(ValueError, match=message):
            DagBackbone(**{"input_size": I, "hidden_size": H, **options})
    with pytest.raises(GenotypeError, match=r"unknown op gated/'thanh' of a dag; expected gated and none\|identity"):
        DagBackbone(I, H, 1, ["thanh"])
    with pytest.raises(GenotypeError, match="unknown op add/'tanh' of a dag"):
        DagBackbone(I, H, 1, [("add", "tanh")])
    with pytest.raises(GenotypeError, match="an edge needs at least one op, got none"):
        DagBackbone(I, H, 1, [])
    with pytest.raises(GenotypeError, match="a node needs an op other than 'none' on at least one edge"):
        DagBackbone(I, H, 1, ["none"])
    with pytest.raises(ValueError, match=r"N \(N \+ 1\) / 2 edges: 1, 3, 6, 10, \.\.; got the ops of 4"):
        DagBackbone.from_edges(I, H, [["tanh"]] * 4)
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\), expected \(T, B, 3\)"):
        make()(randn(5, I))
