"""The supernet: the contract's names, mixtures, and what is derived from it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import grownas
from grownas.backbones.chain import Backbone
from grownas.errors import GenotypeError
from grownas.genotype import Genotype, Op
from grownas.ops import DEFAULT_OPS

I, H = 3, 4  # noqa: E741 - the field's names
OPS = [[("add", "tanh"), ("hadamard", "relu"), ("add", "tanh")], [("hadamard", "identity")], DEFAULT_OPS]

ops_lists = st.lists(st.lists(st.sampled_from(DEFAULT_OPS), min_size=1, max_size=6), min_size=1, max_size=4)


def make(ops=OPS, seed=0, spread=1.0, **options):
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone.from_ops(I, H, ops, generator=generator, **options).double()
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(spread * torch.randn(alpha.shape, generator=generator, dtype=torch.float64))
    return backbone


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_contracts_names():
    backbone = grownas.Backbone(I, H)
    assert backbone.op_names(0) == DEFAULT_OPS
    assert [tuple(alpha.shape) for alpha in backbone.alpha] == [(8,)]
    assert all(isinstance(alpha, torch.nn.Parameter) for alpha in backbone.alpha)
    out, h_n = backbone(torch.randn(5, 2, I), torch.randn(1, 2, H))
    assert (out.shape, h_n.shape) == ((5, 2, H), (1, 2, H))
    assert torch.equal(out[-1], h_n[0])
    assert isinstance(backbone.genotype(top_k=1), grownas.Genotype)
    assert backbone.double()(randn(5, 2, I))[0].dtype == torch.float64
    assert len(grownas.Backbone(I, H, nodes=3, ops=[("add", "relu")]).alpha) == 3


def test_shares_start_equal_and_are_the_softmax_of_alpha():
    backbone = Backbone(I, H, 1, OPS[0])
    assert backbone.mixed_nodes()[0].shares.tolist() == pytest.approx([1 / 3] * 3)
    with torch.no_grad():
        backbone.alpha[0].copy_(torch.tensor([1.0, 2.0, 4.0]).log())
    assert backbone.mixed_nodes()[0].shares.tolist() == pytest.approx([1 / 7, 2 / 7, 4 / 7])


def test_nodes_may_hold_different_numbers_of_ops():
    backbone = make()
    assert [backbone.op_names(node) for node in range(3)] == OPS
    assert [len(alpha) for alpha in backbone.alpha] == [3, 1, 8]


@pytest.mark.parametrize("share", [False, True])
def test_op_parameters_are_live_views_of_the_contracts_shapes(share):
    backbone = make(share_projection=share)
    shapes = {"W_x": (I, H), "b_x": (H,), "W_h": (H, H), "b_h": (H,)}
    for node, ops in enumerate(OPS):
        for op, (combine, _) in enumerate(ops):
            views = backbone.op_parameters(node, op)
            assert {name: tuple(view.shape) for name, view in views.items()} == {
                name: shape for name, shape in shapes.items() if combine == "hadamard" or name != "b_h"
            }
    backbone.load_op_parameters(2, 7, {"b_h": torch.arange(4.0)})
    assert backbone.op_parameters(2, 7)["b_h"].tolist() == [0, 1, 2, 3]
    assert backbone.op_parameters(2, 6)["b_h"].tolist() != [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"op 0 \(add/tanh\) has W_x, b_x, W_h, not W_y"):
        backbone.load_op_parameters(0, 0, {"W_y": torch.zeros(1)})


def test_share_projection_keeps_one_projection_a_combine():
    shared, own = make([DEFAULT_OPS], share_projection=True), make([DEFAULT_OPS])
    assert shared.mixed_nodes()[0].W_x.shape == (I, 2, H)
    assert own.mixed_nodes()[0].W_x.shape == (I, 8, H)
    first, second, other = (shared.op_parameters(0, op)["W_h"] for op in (0, 3, 4))
    assert first.data_ptr() == second.data_ptr() != other.data_ptr()


@settings(deadline=None, max_examples=40)
@given(ops=ops_lists, highway=st.booleans(), share=st.booleans(), seed=st.integers(0, 99))
def test_the_derived_cell_computes_what_the_supernet_computes(ops, highway, share, seed):
    backbone = make(ops, seed, highway=highway, share_projection=share)
    x, h_0 = randn(5, 2, I, seed=seed), randn(1, 2, H, seed=seed + 1)
    cell = backbone.derive()
    torch.testing.assert_close(cell(x, h_0)[0], backbone(x, h_0)[0], rtol=0, atol=1e-12)
    assert cell.genotype == backbone.genotype(top_k=None)


def test_deriving_copies():
    backbone = make()
    cell, x = backbone.derive(), randn(5, 2, I)
    before, _ = backbone(x)
    cell.reset_parameters()
    assert torch.equal(backbone(x)[0], before)


def test_deriving_keeps_dtype_backend_and_a_carriers_projection():
    ops = [[Op("add", "identity", own_projection=True), ("add", "tanh")]]
    backbone = Backbone.from_ops(I, H, ops, share_projection=True, backend="reference")
    cell = backbone.derive()
    assert cell.backend == "reference"
    assert {parameter.dtype for parameter in cell.parameters()} == {torch.float32}
    assert [op.own_projection for op in cell.genotype.nodes[0].ops] == [True, False]
    torch.testing.assert_close(cell(torch.ones(3, 2, I))[0], backbone(torch.ones(3, 2, I))[0], rtol=1e-6, atol=1e-6)


def test_the_top_ops_are_kept_in_order_with_renormalised_shares():
    backbone = Backbone(I, H, 1, DEFAULT_OPS[:4]).double()
    with torch.no_grad():
        backbone.alpha[0].copy_(torch.tensor([0.2, 0.4, 0.1, 0.3]).log())
    kept = [[(op.name, round(op.share, 6)) for op in backbone.genotype(k).nodes[0].ops] for k in (1, 2, 3, None, 9)]
    assert kept[0] == [("add/tanh", 1.0)]
    assert kept[1] == [("add/tanh", round(4 / 7, 6)), ("add/relu", round(3 / 7, 6))]
    assert kept[2] == [("add/identity", round(2 / 9, 6)), ("add/tanh", round(4 / 9, 6)), ("add/relu", round(3 / 9, 6))]
    assert kept[3] == kept[4] == [(f"add/{name}", share) for name, share in zip(
        ("identity", "tanh", "sigmoid", "relu"), (0.2, 0.4, 0.1, 0.3), strict=True
    )]  # fmt: skip
    assert backbone.genotype() == backbone.genotype(1)


def test_a_derived_cell_of_the_top_ops_has_their_weights():
    backbone = make(highway=True)
    cell = backbone.derive(top_k=1)
    for node in range(3):
        largest = int(backbone.alpha[node].argmax())
        for name, value in backbone.op_parameters(node, largest).items():
            assert torch.equal(cell.op_parameters(0, node, 0)[name], value)
        assert torch.equal(cell.layers[0][node].gate_h, backbone.mixed_nodes()[node].gate_h)


def test_among_equal_shares_the_first_op_is_kept():
    assert Backbone(I, H, 1, DEFAULT_OPS).genotype(1).nodes[0].ops[0].name == "add/identity"


@pytest.mark.parametrize("distance", [50.0, 800.0, 1e30])
def test_an_op_whose_share_vanished_is_read_out_too(distance):
    """exp(-800) is 0 in float64, and a genotype's share is above 0."""
    backbone = Backbone(I, H, 1, DEFAULT_OPS[:2]).double()
    with torch.no_grad():
        backbone.alpha[0][1] -= distance
    genotype = backbone.genotype(None)
    assert Genotype.from_dict(genotype.to_dict()) == genotype
    assert genotype.nodes[0].ops[1].share < 1e-20
    x = randn(4, 2, I)
    torch.testing.assert_close(backbone.derive()(x)[0], backbone(x)[0], rtol=0, atol=1e-12)


def test_switches_reach_every_node_and_the_genotype():
    backbone = Backbone(I, H, 2, DEFAULT_OPS, highway=True, share_projection=True)
    assert all(hasattr(node, "gate_x") for node in backbone.nodes)
    genotype = backbone.genotype()
    assert (genotype.highway, genotype.share_projection) == (True, True)


def test_a_generator_fixes_all_weights_and_alpha_is_not_drawn():
    first, second, third = (Backbone(I, H, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == name.endswith("alpha")


def test_pickle_copy_and_state_dict_keep_the_function():
    backbone, x = make(highway=True), randn(5, 2, I)
    out, _ = backbone(x)
    other = make(seed=4, highway=True)
    other.load_state_dict(backbone.state_dict())
    for one in (other, copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):  # noqa: S301
        assert torch.equal(one(x)[0], out)
        assert [one.op_names(node) for node in range(3)] == OPS


def test_errors_quote_what_came():
    for options, message in (
        ({"nodes": 0}, "nodes must be a whole number above 0, got 0"),
        ({"hidden_size": True}, "hidden_size must be a whole number above 0, got True"),
        ({"input_size": 1.0}, r"input_size must be a whole number above 0, got 1\.0"),
        ({"backend": "gpu"}, "unknown backend 'gpu'; choose auto, reference, torch"),
    ):
        with pytest.raises(ValueError, match=message):
            Backbone(**{"input_size": I, "hidden_size": H, **options})
    with pytest.raises(GenotypeError, match="unknown op 'add/thanh'"):
        Backbone(I, H, 1, [("add", "thanh")])
    with pytest.raises(GenotypeError, match="at least one op"):
        Backbone(I, H, 1, [])
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        make().genotype(0)
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\), expected \(T, B, 3\)"):
        make()(randn(5, I))
    with pytest.raises(ValueError, match=r"h_0 has shape \(2, 4\), expected \(1, 2, 4\)"):
        make()(randn(5, 2, I), randn(2, H))


@pytest.mark.parametrize("options", [{}, {"highway": True}, {"share_projection": True}], ids=str)
def test_the_supernet_of_a_derived_cell_computes_the_same(options):
    cell = make(**options).derive()
    supernet = Backbone.of_cell(cell)
    x, h_0 = randn(7, 2, I), randn(1, 2, H, seed=2)
    torch.testing.assert_close(supernet(x, h_0)[0], cell(x, h_0)[0], rtol=1e-12, atol=1e-12)
    again = supernet.derive()
    for name, value in cell.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=1e-12)
    assert supernet.op_names(0) == OPS[0]
    with torch.no_grad():
        supernet.op_parameters(0, 0)["W_x"].add_(1)
    assert not torch.equal(supernet.op_parameters(0, 0)["W_x"], cell.op_parameters(0, 0, 0)["W_x"])


def test_only_a_chain_of_one_layer_has_a_supernet():
    genotype = make().genotype()
    for cell in (
        grownas.GrownRNN("darts_v2", I, H),
        grownas.GrownRNN(genotype, I, H, num_layers=2),
        grownas.GrownRNN(genotype, I, H, bidirectional=True),
    ):
        with pytest.raises(ValueError, match="only a chain with one layer and one direction"):
            Backbone.of_cell(cell)
