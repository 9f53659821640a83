"""The op tables: being in them is being tested, here and all the way to the morphisms."""

from __future__ import annotations

import math
import random

import pytest
import torch

from grownas import morphisms
from grownas.backbone import Backbone
from grownas.cells import reference, sequence
from grownas.genotype import COMBINES, Genotype, Node, Op
from grownas.ops import ACTIVATION, COMBINE, DEFAULT_OPS, Activation
from grownas.space import SearchSpace

NINTH = {  # not odd, and not zero at zero: the hardest kind
    "softplus": Activation(
        lambda z: torch.log1p(torch.exp(z)),
        lambda y: 1 - torch.exp(-y),
        lambda y: torch.exp(-y) * (1 - torch.exp(-y)),
        math.log(2),
        4,
        "log(1 + exp(z))",
    )
}


@pytest.fixture(params=[*ACTIVATION, *NINTH])
def name(request, monkeypatch):
    """Every activation of the table, then one more, which one line puts there."""
    if request.param in NINTH:
        monkeypatch.setitem(ACTIVATION, request.param, NINTH[request.param])
    return request.param


@pytest.fixture
def z():
    return torch.cat([torch.linspace(-6, 6, 41, dtype=torch.float64)[:20], torch.linspace(0.01, 6, 20).double()])


def test_derivatives_from_the_output_equal_autograds(name, z):
    activation = ACTIVATION[name]
    z.requires_grad_()
    y = activation.f(z)
    (first,) = torch.autograd.grad(y.sum(), z, create_graph=True)
    second = torch.zeros_like(z)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(activation.df(y.detach()), first.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(activation.d2f(y.detach()), second, rtol=1e-9, atol=1e-12)


def test_zero_is_the_value_at_zero(name):
    assert ACTIVATION[name].f(torch.zeros((), dtype=torch.float64)).item() == pytest.approx(
        ACTIVATION[name].zero, abs=1e-15
    )


def test_the_formula_for_people_gives_the_value(name, z):
    names = {"tanh": torch.tanh, "exp": torch.exp, "log": torch.log, "max": lambda a, b: a.clamp_min(b), "z": z}
    torch.testing.assert_close(eval(ACTIVATION[name].formula, names), ACTIVATION[name].f(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_keep_shape_and_dtype(name, dtype):
    y = ACTIVATION[name].f(torch.randn(2, 3, 4, dtype=dtype))
    for derivative in (ACTIVATION[name].df(y), ACTIVATION[name].d2f(y)):
        assert derivative.shape == (2, 3, 4)
        assert derivative.dtype == dtype


def test_codes_are_unique(name):
    codes = [activation.code for activation in ACTIVATION.values()]
    assert len(set(codes)) == len(codes)


def test_the_tables_agree_and_every_pair_is_a_default_op():
    assert tuple(COMBINE) == COMBINES  # genotype.py names them anew, so as to need no torch
    assert [(combine, activation) for combine in COMBINE for activation in ACTIVATION] == DEFAULT_OPS
    assert len(DEFAULT_OPS) == 8


@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_engine_equals_reference_for_each_activation(name, highway, share, z):
    """Values and gradients, alone and among the others."""
    ops = [("hadamard", name), ("add", "tanh"), ("add", name), ("hadamard", "tanh"), ("hadamard", name)]
    backbone = Backbone.from_ops(3, 4, [ops, ops[:1]], highway=highway, share_projection=share).double()
    x, h_0 = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    found = []
    for run in (reference.run, sequence.run):
        nodes = backbone.mixed_nodes()
        out = run(nodes, [node.shares for node in nodes], x, h_0)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(backbone.parameters()))])
    for truth, value in zip(*found, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-11)


def test_genotype_and_space_know_each_activation(name, tmp_path):
    genotype = Genotype((Node((Op("add", name, 0.25), Op("hadamard", name, 0.75))),))
    genotype.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path / "genotype.json") == genotype
    space = SearchSpace(("add", "hadamard"), (name, "identity") if name != "identity" else (name,))
    assert ("hadamard", name) in space.ops
    assert space.contains(genotype)
    assert space.contains(space.mutate(genotype, random.Random(0)))


def test_morphisms_keep_their_promise_for_each_activation(name):
    generator = torch.Generator().manual_seed(0)
    ops = [("add", name), ("add", "identity"), ("hadamard", name)]
    backbone = Backbone(3, 4, 2, ops, generator=generator).double()
    x = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    before, _ = backbone(x)
    grown = morphisms.add_node(backbone, 1, generator=generator).backbone
    assert grown.op_names(1) == ops
    torch.testing.assert_close(grown(x)[0], before, rtol=0, atol=1e-12)
    with torch.no_grad():
        for value in grown.op_parameters(1, 0).values():
            value.zero_()  # the op is constant: without it nothing may change
    flat, _ = grown(x)
    torch.testing.assert_close(morphisms.prune_op(grown, 1, 0).backbone(x)[0], flat, rtol=0, atol=1e-12)
