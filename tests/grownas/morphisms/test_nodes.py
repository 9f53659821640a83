"""A node is added and nothing changes; a stirred start moves where it should."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.genotype import Op
from grownas.ops import DEFAULT_OPS
from support.morphisms import IDENTITY, RELU, SIGMOID, SWITCHES, TANH, H, I, op_lists, seeds


@settings(deadline=None, max_examples=60)
@given(data=st.data(), switches=st.sampled_from(SWITCHES), share=st.floats(0.05, 0.95), seed=seeds)
def test_a_node_added_anywhere_leaves_the_output_alone(lab, data, switches, share, seed):
    backbone = lab.make(data.draw(st.lists(op_lists, min_size=1, max_size=3)), *switches, seed)
    position = data.draw(st.none() | st.integers(0, len(backbone.nodes)))
    ops = data.draw(st.none() | op_lists)
    x, h_0, before = lab.randn(5, 2, I), lab.randn(1, 2, H, seed=2), lab.snapshot(backbone)
    generator = torch.Generator().manual_seed(seed)
    morphed = morphisms.add_node(backbone, position, carrier_share=share, generator=generator, ops=ops)
    place = len(backbone.nodes) if position is None else position
    lab.assert_same(morphed.backbone(x, h_0)[0], backbone(x, h_0)[0])
    lab.assert_untouched(backbone, before)
    lab.assert_apart(backbone, morphed.backbone)
    assert len(morphed.backbone.nodes) == len(backbone.nodes) + 1
    lab.assert_origins(morphed, backbone, x, new_node=place)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_op_of_the_new_node_learns(lab, position, switches):
    backbone = lab.make([DEFAULT_OPS[:6], DEFAULT_OPS], *switches)
    generator = torch.Generator().manual_seed(3)
    grown = morphisms.add_node(backbone, position, generator=generator, ops=DEFAULT_OPS).backbone
    found = lab.gradients(grown, lab.randn(6, 3, I))
    assert (found[f"nodes.{position}.b_x"] != 0).all()
    assert (found[f"nodes.{position}.alpha"] != 0).all()
    for name in ("W_x", "W_h"):  # of Hadamard ops that start at zero, W_h and b_h wait for one step
        columns = found[f"nodes.{position}.{name}"].abs().sum((0, 2))
        additive = {grown.mixed_nodes()[position].projection[op] for op in range(4)}
        assert all(columns[column] > 0 for column in (range(len(columns)) if name == "W_x" else additive))


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_after_one_step_every_weight_of_the_new_node_learns(lab, switches):
    grown = morphisms.add_node(lab.make([DEFAULT_OPS], *switches), generator=torch.Generator().manual_seed(3)).backbone
    x = lab.randn(6, 3, I)
    found = lab.gradients(grown, x)
    with torch.no_grad():
        for parameter, gradient in zip(grown.parameters(), found.values(), strict=True):
            parameter -= 0.01 * gradient
    found = lab.gradients(grown, x)
    node = grown.mixed_nodes()[1]
    for op in range(8):
        column = node.projection[op]
        assert found["nodes.1.W_x"][:, column].abs().sum() > 0
        assert found["nodes.1.W_h"][:, column].abs().sum() > 0
        if op in node.bias:
            assert found["nodes.1.b_h"][node.bias[op]].abs().sum() > 0


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_carrier_gets_its_share_and_the_others_equal_parts(lab, share):
    grown = morphisms.add_node(lab.make([DEFAULT_OPS]), carrier_share=share).backbone
    shares = grown.mixed_nodes()[1].shares.tolist()
    assert shares == pytest.approx([share] + [(1 - share) / 7] * 7)


def test_a_carrier_alone_has_the_whole_share(lab):
    backbone = lab.make([[TANH]])
    grown = morphisms.add_node(backbone, ops=[IDENTITY]).backbone
    assert grown.mixed_nodes()[1].shares.tolist() == [1.0]
    lab.assert_same(grown(lab.randn(5, 2, I))[0], backbone(lab.randn(5, 2, I))[0])


def test_the_new_nodes_ops_are_those_of_the_node_before(lab):
    backbone = lab.make([[TANH, IDENTITY], [RELU, IDENTITY, SIGMOID]])
    names = [[morphisms.add_node(backbone, at).backbone.op_names(at)] for at in (0, 1, 2)]
    assert names == [[[TANH, IDENTITY]], [[TANH, IDENTITY]], [[RELU, IDENTITY, SIGMOID]]]


CARRIERS = [  # ops, share_projection, the ops with a carrier
    ([TANH, IDENTITY], False, [Op(*TANH), Op(*IDENTITY)]),
    ([TANH], False, [Op(*IDENTITY), Op(*TANH)]),
    ([("hadamard", "identity")], False, [Op(*IDENTITY), Op("hadamard", "identity")]),
    ([TANH, IDENTITY, RELU], True, [Op(*TANH), Op(*IDENTITY, own_projection=True), Op(*RELU)]),
    ([TANH], True, [Op(*IDENTITY, own_projection=True), Op(*TANH)]),
    (
        [IDENTITY, Op(*IDENTITY, own_projection=True)],
        True,
        [Op(*IDENTITY), Op(*IDENTITY, own_projection=True)],
    ),
]


@pytest.mark.parametrize(("ops", "share", "wanted"), CARRIERS)
def test_a_carrier_is_found_or_made(ops, share, wanted):
    assert morphisms.with_carrier(ops, share) == wanted
    assert sum(morphisms.is_carrier(op, share) for op in wanted) == 1


def test_the_function_stays_through_many_growths(lab):
    backbone, x = lab.make([[TANH, ("hadamard", "sigmoid")]]), lab.randn(6, 2, I)
    before, grown = backbone(x)[0], backbone
    for position in (0, None, 1, 2, 0):
        grown = morphisms.add_node(grown, position, generator=torch.Generator().manual_seed(0)).backbone
    assert len(grown.nodes) == 6
    lab.assert_same(grown(x)[0], before)


def test_in_float32_the_drift_is_rounding(lab):
    backbone = lab.make([DEFAULT_OPS]).float()
    x = lab.randn(6, 2, I).float()
    grown = morphisms.add_node(backbone).backbone
    assert {parameter.dtype for parameter in grown.parameters()} == {torch.float32}
    torch.testing.assert_close(grown(x)[0], backbone(x)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_noise_has_its_size_everywhere_but_on_the_carrier(lab, share):
    """Also where ops share a projection, which must not get it once for each."""
    backbone = lab.make([DEFAULT_OPS], share=share, hidden=40)
    quiet, noisy = (
        morphisms.add_node(backbone, noise=noise, generator=torch.Generator().manual_seed(0)).backbone.nodes[1]
        for noise in (0.0, 0.01)
    )
    carrier = next(i for i, op in enumerate(noisy.ops) if morphisms.is_carrier(op, share))
    for op in range(8):
        values = noisy.op_parameters(op)
        if op == carrier:
            assert all(torch.equal(value, quiet.op_parameters(op)[name]) for name, value in values.items())
            continue
        for name, value in values.items():
            noise = value - quiet.op_parameters(op)[name]
            assert noise.std().item() == pytest.approx(0.01, rel={1600: 0.1, 120: 0.3, 40: 0.5}[noise.numel()])
    assert torch.equal(noisy.alpha, quiet.alpha)


def test_noise_moves_the_output_little_and_its_generator_fixes_it(lab):
    backbone, x = lab.make([DEFAULT_OPS]), lab.randn(6, 2, I)
    outs = [
        morphisms.add_node(backbone, noise=noise, generator=torch.Generator().manual_seed(seed)).backbone(x)[0]
        for noise, seed in ((0.01, 0), (0.01, 0), (0.01, 1), (0.001, 0))
    ]
    drifts = [(out - backbone(x)[0]).abs().max().item() for out in outs]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert 0 < drifts[3] < drifts[0] < 0.2


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_out_of_range_is_quoted(lab, position):
    with pytest.raises(ValueError, match=f"position must lie between 0 and 2, got {position}"):
        morphisms.add_node(lab.make([[TANH]] * 2), position)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan])
def test_a_share_out_of_range_is_quoted(lab, share):
    with pytest.raises(ValueError, match=f"carrier_share must lie between 0 and 1, got {share}"):
        morphisms.add_node(lab.make([[TANH]]), carrier_share=share)


@pytest.mark.parametrize("share_projection", [False, True])
def test_stirring_moves_every_op_but_the_carrier_and_leaves_its_input_alone(share_projection):
    ops = morphisms.with_carrier(DEFAULT_OPS, share_projection)
    backbone = Backbone(2, 3, 2, ops, share_projection=share_projection).double()
    before = copy.deepcopy(backbone.state_dict())
    stirred = morphisms.add_noise(backbone, 0.1, torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    for node in range(2):
        for op in range(len(ops)):
            old, new = (one.op_parameters(node, op).values() for one in (backbone, stirred))
            moved = [bool((first != second).all()) for first, second in zip(old, new, strict=True)]
            assert not any(moved) if op == 0 else all(moved)
    assert torch.equal(torch.cat(list(stirred.alpha)), torch.cat(list(backbone.alpha)))


def test_stirring_adds_noise_of_the_wanted_size_once():
    backbone = Backbone(40, 40, 1, share_projection=True).double()
    change = morphisms.add_noise(backbone, 0.1, torch.Generator().manual_seed(0)).state_dict()["nodes.0.W_h"]
    change = change - backbone.state_dict()["nodes.0.W_h"]
    assert 0.095 < change.std() < 0.105
