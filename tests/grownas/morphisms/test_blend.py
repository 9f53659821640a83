"""A drawn node is mixed in by a scalar: nothing at 0, a plain node at 1, the definition of truth between."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.ops import DEFAULT_OPS
from grownas.training.migrate import migrate
from support.morphisms import SWITCHES, H, I, op_lists, seeds

EXACT = ["native", "torch", "reference"]  # backends that run here without an interpreter


def blended(lab, nodes, switches, seed, position=None, **given):
    """A cell, and the same with a blended node."""
    backbone = lab.make(nodes, *switches, seed)
    return backbone, morphisms.blend_node(backbone, position, torch.Generator().manual_seed(seed), **given)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), switches=st.sampled_from(SWITCHES), backend=st.sampled_from(EXACT), seed=seeds)
def test_a_blended_node_leaves_the_output_the_same_to_the_last_bit(lab, data, switches, backend, seed):
    ops = data.draw(st.lists(op_lists, min_size=1, max_size=3))
    position, own = data.draw(st.none() | st.integers(0, len(ops))), data.draw(st.none() | op_lists)
    backbone, morphed = blended(lab, ops, switches, seed, position, ops=own)
    before = lab.snapshot(backbone)
    place = len(ops) if position is None else position
    x, h_0 = lab.randn(5, 2, I), lab.randn(1, 2, H, seed=2)
    for dtype in (torch.float64, torch.float32):
        old, new = (copy.deepcopy(one).to(dtype) for one in (backbone, morphed.backbone))
        old.backend = new.backend = backend
        assert torch.equal(old(x.to(dtype), h_0.to(dtype))[0], new(x.to(dtype), h_0.to(dtype))[0])
    assert morphed.backbone.blend == [float(node != place) for node in range(len(ops) + 1)]
    lab.assert_untouched(backbone, before)
    lab.assert_apart(backbone, morphed.backbone)
    lab.assert_origins(morphed, backbone, x, new_node=place)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("m", [0.0, 0.25, 0.9])
def test_values_and_gradients_equal_the_reference(lab, m, switches, backend):
    _, morphed = blended(lab, [DEFAULT_OPS, DEFAULT_OPS[2:7]], switches, 3, 1)
    found, truth = morphed.backbone, copy.deepcopy(morphed.backbone)
    found.backend, truth.backend = backend, "reference"
    x = lab.randn(6, 3, I)
    for one in (found, truth):
        one.blend[1] = m
    lab.assert_same(found(x)[0], truth(x)[0])
    wanted = lab.gradients(truth, x)
    for name, value in lab.gradients(found, x).items():
        lab.assert_same(value, wanted[name])


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_node_mixed_in_fully_is_a_plain_one_to_the_last_bit(lab, switches, backend):
    _, morphed = blended(lab, [DEFAULT_OPS], switches, 4)
    grown = morphed.backbone
    plain = Backbone.from_ops(I, H, [DEFAULT_OPS] * 2, highway=switches[0], share_projection=switches[1]).double()
    grown.blend = [1, 1]
    plain.load_state_dict(grown.state_dict())  # no key of the blend is left
    x = lab.randn(5, 2, I)
    grown.backend = plain.backend = backend
    assert torch.equal(grown(x)[0], plain(x)[0])
    assert torch.equal(grown.derive()(x)[0], plain.derive()(x)[0])


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("m", [0.0, 0.4])
def test_the_slope_in_the_blend_equals_differences_of_the_output(lab, m, highway, backend):
    _, morphed = blended(lab, [DEFAULT_OPS], (highway, False), 5, 0)
    grown, x = morphed.backbone, lab.randn(6, 2, I)
    grown.backend = backend
    weight = lab.randn(6, 2, H, seed=9)

    def total(value):
        grown.blend[0] = value
        with torch.no_grad():
            return (weight * grown(x)[0]).sum()

    eps = 1e-6
    low = 0.0 if m == 0 else m - eps  # one-sided at the end, where its error is of first order
    difference = (total(m + eps) - total(low)) / (m + eps - low)
    grown.blend[0] = m
    scalar = grown.mixed_nodes()[0].blend.requires_grad_(True)
    (slope,) = torch.autograd.grad((weight * grown(x)[0]).sum(), scalar)
    torch.testing.assert_close(slope, difference, rtol=1e-4 if m == 0 else 1e-6, atol=1e-7)


def test_old_moments_are_kept_and_the_node_has_none(lab):
    backbone, morphed = blended(lab, [DEFAULT_OPS], (False, False), 6, 0)
    optimizer = torch.optim.Adam(backbone.parameters())
    backbone(lab.randn(5, 2, I))[0].square().sum().backward()
    optimizer.step()
    migrated = migrate(optimizer, morphed.origins, backbone, morphed.backbone)
    old = dict(backbone.named_parameters())
    for name, parameter in morphed.backbone.named_parameters():
        if name.startswith("nodes.0."):
            assert parameter not in migrated.state
        else:
            source = old[name.replace("nodes.1.", "nodes.0.")]
            for key in ("exp_avg", "exp_avg_sq", "step"):
                assert torch.equal(migrated.state[parameter][key], optimizer.state[source][key])


def test_further_morphisms_keep_the_blend(lab):
    _, morphed = blended(lab, [DEFAULT_OPS], (False, False), 7)
    grown = morphed.backbone
    grown.blend[1] = 0.5
    for further in (morphisms.duplicate_op(grown, 1, 2), morphisms.duplicate_op(grown, 0, 2)):
        assert further.backbone.blend == [1, 0.5]
        lab.assert_same(further.backbone(lab.randn(5, 2, I))[0], grown(lab.randn(5, 2, I))[0])
    assert morphisms.blend_node(grown, 0).backbone.blend == [0, 1, 0.5]


def test_the_state_dict_holds_the_blend_while_there_is_one(lab):
    _, morphed = blended(lab, [DEFAULT_OPS], (False, False), 8)
    grown = morphed.backbone
    grown.blend[1] = 0.25
    assert grown.state_dict()["nodes.1.blend"] == 0.25
    again = morphisms.blend_node(lab.make([DEFAULT_OPS], seed=1)).backbone
    again.load_state_dict(grown.state_dict())
    assert again.blend == [1, 0.25]


def test_a_cell_is_not_derived_from_a_part_of_a_node(lab):
    _, morphed = blended(lab, [DEFAULT_OPS], (False, False), 9)
    with pytest.raises(ValueError, match=r"nodes have a blend below 1 \(\{1: 0\.0\}\)"):
        morphed.backbone.derive()
    assert len(morphed.backbone.genotype().nodes) == 2  # a genotype knows plain nodes only


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_blend_outside_its_range_is_refused(lab, value):
    backbone = lab.make([DEFAULT_OPS])
    with pytest.raises(ValueError, match=f"between 0 and 1, got {value}"):
        backbone.blend[0] = value
    with pytest.raises(ValueError, match="for each of 1 nodes, got 2"):
        backbone.blend = [1, 1]


def test_a_position_outside_the_chain_is_refused(lab):
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        morphisms.blend_node(lab.make([DEFAULT_OPS]), 2)
