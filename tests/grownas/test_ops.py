"""The op tables: being in them is being tested, here and all the way to the morphisms."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest
import torch

from grownas import morphisms, ops
from grownas.backbones.chain import Backbone
from grownas.cells.backends import BACKENDS
from grownas.config.sections import Combine, Space
from grownas.genotype import Genotype, Node, Op
from grownas.ops import ACTIVATION, COMBINE, DEFAULT_ACTIVATIONS, DEFAULT_OPS, Activation
from grownas.space import SearchSpace


def normal_density(z):
    return torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5


def normal_cdf(z):
    return (1 + torch.erf(z / 2**0.5)) / 2


NINTH = {  # not odd and not zero at zero; flat at zero, so that a silent op must be held elsewhere
    "softplus": Activation(
        lambda z: torch.log1p(torch.exp(z)),
        lambda y, z: 1 - torch.exp(-y),
        lambda y, z: torch.exp(-y) * (1 - torch.exp(-y)),
        "log(1 + exp(z))",
    ),
    "squared relu": Activation(
        lambda z: torch.relu(z).square(),
        lambda y, z: 2 * y.sqrt(),
        lambda y, z: 2 * (y > 0).to(y.dtype),
        "max(z, 0) ** 2",
        start=0.25,
    ),
    "leaky relu": Activation(
        lambda z: torch.where(z > 0, z, 0.1 * z),
        lambda y, z: 0.1 + 0.9 * (y > 0).to(y.dtype),
        lambda y, z: torch.zeros_like(y),
        "max(z, 0.1 * z)",
        homogeneous=True,
    ),
    "sin": Activation(torch.sin, lambda y, z: torch.cos(z), lambda y, z: -y, "sin(z)"),
    "gelu": Activation(  # neither derivative is a function of y alone
        torch.nn.functional.gelu,
        lambda y, z: normal_cdf(z) + z * normal_density(z),
        lambda y, z: (2 - z * z) * normal_density(z),
        "z * (1 + erf(z / 2 ** 0.5)) / 2",
    ),
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


def test_derivatives_equal_autograds(name, z):
    activation = ACTIVATION[name]
    z.requires_grad_()
    y = activation.f(z)
    (first,) = torch.autograd.grad(y.sum(), z, create_graph=True)
    second = torch.zeros_like(z)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), z)
    y, z = y.detach(), z.detach()
    torch.testing.assert_close(activation.df(y, z), first.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(activation.d2f(y, z), second, rtol=1e-9, atol=1e-12)


def test_a_silent_op_is_held_where_the_slope_is_not_zero(name):
    activation = ACTIVATION[name]
    held = torch.tensor(activation.start, dtype=torch.float64)
    assert abs(activation.df(activation.f(held), held).item()) >= 0.1
    flat = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation.f(flat), flat)
    assert (activation.start != 0) == (slope == 0)


def test_the_homogeneous_ones_are_marked(name, z):
    activation = ACTIVATION[name]
    scales = all(torch.allclose(activation.f(c * z), c * activation.f(z), rtol=1e-12, atol=0) for c in (0.3, 2.0))
    assert activation.homogeneous == scales


def test_the_formula_for_people_gives_the_value(name, z):
    names = {name: getattr(torch, name) for name in ("abs", "cos", "erf", "exp", "log", "sin", "tanh")} | {"z": z}
    names["max"] = lambda a, b: torch.maximum(a, torch.as_tensor(b, dtype=a.dtype))
    torch.testing.assert_close(eval(ACTIVATION[name].formula, names), ACTIVATION[name].f(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_keep_shape_and_dtype(name, dtype):
    z = torch.randn(2, 3, 4, dtype=dtype)
    y = ACTIVATION[name].f(z)
    for derivative in (ACTIVATION[name].df(y, z), ACTIVATION[name].d2f(y, z)):
        assert derivative.shape == (2, 3, 4)
        assert derivative.dtype == dtype


def test_codes_are_unique(name):
    codes = [activation.code for activation in ACTIVATION.values() if activation.code is not None]
    assert len(set(codes)) == len(codes)


def test_the_tables_agree_and_the_default_ops_are_the_eight():
    assert tuple(COMBINE) == get_args(Combine)  # config.py names them anew
    four = ("identity", "tanh", "sigmoid", "relu")
    assert [(combine, activation) for combine in ("add", "hadamard") for activation in four] == DEFAULT_OPS
    assert tuple(Space().activation) == DEFAULT_ACTIVATIONS == four  # config.py names them anew too


def test_a_new_line_of_the_table_changes_no_default():
    source = Path(ops.__file__).read_text()
    head = "BUILT_IN: dict[str, Activation] = {\n"
    assert source.count(head) == 1
    line = '    "cosine": Activation(torch.cos, lambda y, z: -torch.sin(z), lambda y, z: -y, "cos(z)"),\n'
    longer = source.replace(head, head + line)
    names = {"__name__": "longer"}
    exec(compile(longer, "longer", "exec"), names)
    assert len(names["ACTIVATION"]) == len(ACTIVATION) + 1
    assert names["DEFAULT_OPS"] == DEFAULT_OPS


@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_engine_equals_reference_for_each_activation(name, highway, share, z):
    """Values and gradients, alone and among the others."""
    ops = [("hadamard", name), ("add", "tanh"), ("add", name), ("hadamard", "tanh"), ("hadamard", name)]
    backbone = Backbone.from_ops(3, 4, [ops, ops[:1]], highway=highway, share_projection=share).double()
    x, h_0 = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    found = []
    used = {activation for _, activation in ops}
    can_run = [key for key, one in BACKENDS.items() if one.unsupported(x.device, x.dtype, used) is None]
    assert can_run[:2] == ["reference", "torch"]
    assert ("native" in can_run) == (name not in NINTH)
    for key in can_run:
        nodes = backbone.mixed_nodes()
        out = BACKENDS[key].run(nodes, [node.shares for node in nodes], x, h_0)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(backbone.parameters()))])
    for truth, *values in zip(*found, strict=True):
        for value in values:
            torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-11)


def test_genotype_and_space_know_each_activation(name, tmp_path):
    genotype = Genotype((Node((Op("add", name, 0.25), Op("hadamard", name, 0.75))),))
    genotype.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path / "genotype.json") == genotype
    space = SearchSpace(("add", "hadamard"), (name, "identity") if name != "identity" else (name,))
    assert ("hadamard", name) in space.ops
    assert space.contains(genotype)
    assert space.contains(space.mutate(genotype, random.Random(0)))


@pytest.mark.filterwarnings("ignore:backend 'native' cannot run")  # ops of these tests have no kernel
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
    for same in (
        morphisms.prune_op(grown, 1, 0),
        morphisms.replace_op(grown, 1, 0, ("hadamard", name), generator),
        morphisms.replace_op(grown, 1, 2, ("add", name)),
        morphisms.duplicate_op(grown, 0, 0),
        morphisms.duplicate_op(grown, 0, 2),
    ):
        torch.testing.assert_close(same.backbone(x)[0], flat, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [False, True])
def test_each_activation_learns_in_a_new_node(name, share):
    """Where the promise is exact: W_x, b_x and W_h have gradients; if Hadamard, W_x and b_x have, and W_h may wait."""
    generator = torch.Generator().manual_seed(0)
    ops = [("add", name), ("add", "identity"), ("hadamard", name)]
    backbone = Backbone(3, 4, 1, ops, share_projection=share, generator=generator).double()
    node = morphisms.add_node(backbone, generator=generator).backbone
    x = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 2, 4, generator=generator, dtype=torch.float64)
    out, _ = node(x)
    new = node.mixed_nodes()[1]
    w_x, b_x, w_h = torch.autograd.grad((weight * out).sum(), [new.W_x, new.b_x, new.W_h])
    for op in (0, 2):
        assert (b_x[op] != 0).all()
        assert (w_x[:, new.projection[op]] != 0).all()
    assert (w_h[:, new.projection[0]] != 0).all()


def test_a_homogeneous_activation_inherits_a_pruned_share(name):
    generator = torch.Generator().manual_seed(0)
    backbone = Backbone(3, 4, 1, [("add", "tanh"), ("add", name), ("add", "sigmoid")], generator=generator).double()
    after = morphisms.prune_op(backbone, 0, 2).backbone.mixed_nodes()[0].shares.tolist()
    assert after == pytest.approx([1 / 3, 2 / 3] if ACTIVATION[name].homogeneous else [1 / 2, 1 / 2])
