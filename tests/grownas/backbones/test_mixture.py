"""Shares that are given and a skip beside each mixture, on the chain: against a few lines of the formula."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.cells.backends import BACKENDS
from grownas.ops import DEFAULT_OPS
from support import morphisms as lab
from support.mixtures import assert_given_shares_and_skip_leave_no_trace
from support.morphisms import SWITCHES, H, I, op_lists, seeds

RUNS = [name for name in BACKENDS if name != "triton"]  # backends that run here
ENGINES = [name for name in RUNS if name != "reference"]
F = {"identity": lambda z: z, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


def formula(backbone, shares, x, s, beta):
    """A node's output is its gate on (mixture + beta s); without a gate the sum itself."""
    out = []
    for x_t in x:
        for number, node in enumerate(backbone.nodes):
            mixed = beta * s
            for op, (combine, name) in enumerate(backbone.op_names(number)):
                W = backbone.op_parameters(number, op)
                p, q = x_t @ W["W_x"] + W["b_x"], s @ W["W_h"]
                z = p + q if combine == "add" else p * (q + W["b_h"])
                mixed = mixed + shares[number][op] * F[name](z)
            gate = torch.sigmoid(x_t @ node.gate_x + s @ node.gate_h) if backbone.highway else 1
            s = s + gate * (mixed - s)
        out.append(s)
    return torch.stack(out)


def gradients(out, wanted):
    weight = lab.randn(*out.shape, seed=9)
    return torch.autograd.grad((weight * out).sum() + out.square().mean(), wanted, allow_unused=True)


@pytest.mark.parametrize("backend", RUNS)
@settings(deadline=None, max_examples=30)
@given(
    ops=st.lists(op_lists, min_size=1, max_size=3),
    switches=st.sampled_from(SWITCHES),
    beta=st.sampled_from([0.0, 0.3, -1.0, 1.0]),
    seed=seeds,
)
def test_it_is_the_formula_in_values_and_all_gradients(backend, ops, switches, beta, seed):
    backbone = lab.make(ops, *switches, seed)
    backbone.backend = backend
    shares = [torch.rand(len(alpha), dtype=torch.float64).requires_grad_() for alpha in backbone.alpha]
    backbone.set_shares(shares)
    backbone.set_skip(beta)
    x, h_0 = lab.randn(4, 2, I).requires_grad_(), lab.randn(2, H, seed=2).requires_grad_()
    weights = [one for name, one in backbone.named_parameters() if not name.endswith("alpha")]
    wanted = [x, h_0, *shares, *weights]
    ours, truth = backbone(x, h_0.unsqueeze(0))[0], formula(backbone, shares, x, h_0, beta)
    lab.assert_same(ours, truth)
    for one, other in zip(gradients(ours, wanted), gradients(truth, wanted), strict=True):
        zero = torch.zeros(())
        lab.assert_same(*(zero if g is None or not g.numel() else g for g in (one, other)))


@pytest.mark.parametrize("backend", RUNS)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_without_them_it_is_as_before_to_the_last_bit(switches, backend):
    backbone, x = lab.make([DEFAULT_OPS] * 2, *switches, 3), lab.randn(5, 2, I)
    backbone.backend = backend
    assert_given_shares_and_skip_leave_no_trace(backbone, x)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("m", [0.25, 0.9])
def test_a_blended_node_with_a_skip_equals_the_reference(m, switches, backend):
    grown = morphisms.blend_node(lab.make([DEFAULT_OPS, DEFAULT_OPS[2:7]], *switches, 3), 1).backbone
    grown.set_skip(0.4)
    grown.blend[1] = m
    found, truth = grown, copy.deepcopy(grown)
    found.backend, truth.backend = backend, "reference"
    x = lab.randn(6, 3, I)
    lab.assert_same(found(x)[0], truth(x)[0])
    wanted = lab.gradients(truth, x)
    for name, value in lab.gradients(found, x).items():
        lab.assert_same(value, wanted[name])


@pytest.mark.parametrize("backend", RUNS)
def test_a_node_added_at_blend_0_under_a_skip_changes_nothing_to_the_last_bit(backend):
    backbone, x = lab.make([DEFAULT_OPS], seed=4), lab.randn(5, 2, I)
    backbone.backend = backend
    backbone.set_skip(0.7)
    grown = morphisms.blend_node(backbone).backbone
    assert torch.equal(grown(x)[0], backbone(x)[0])
    assert [float(node.skip) for node in grown.nodes] == pytest.approx([0.7, 0.7])


def test_a_parameter_that_is_given_does_not_become_the_backbones():
    backbone = Backbone(I, H, 1, DEFAULT_OPS)
    names = [name for name, _ in backbone.named_parameters()]
    given = torch.nn.Parameter(torch.ones(8))
    backbone.set_shares([given])
    assert [name for name, _ in backbone.named_parameters()] == names
    assert backbone.shares[0] is given
    assert copy.deepcopy(backbone).shares[0].tolist() == [1] * 8
    assert backbone.genotype(None).nodes[0].ops[0].share == pytest.approx(1 / 8)  # alpha is read out


def test_a_skip_moves_with_the_weights_and_keeps_a_cell_from_being_derived():
    backbone = Backbone(I, H, 2)
    backbone.set_skip(0.25)
    assert {node.skip.dtype for node in backbone.double().nodes} == {torch.float64}
    with pytest.raises(ValueError, match=r"the backbone has a skip with factor 0\.25, but a derived cell has none"):
        backbone.derive()


def test_what_does_not_fit_is_refused():
    backbone = Backbone(I, H, 1, DEFAULT_OPS[:2])
    with pytest.raises(ValueError, match=r"shares have shapes \[\(2,\), \(2,\)\], expected those of alpha: \[\(2,\)\]"):
        backbone.set_shares([torch.ones(2)] * 2)
    with pytest.raises(ValueError, match="the factor of a skip must be a finite number, got nan"):
        backbone.set_skip(math.nan)
