"""The sequence engine against plain autograd, in float64: values and all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.backbone import Backbone
from grownas.cells import reference, sequence
from grownas.ops import DEFAULT_OPS

TIGHT = {"rtol": 1e-10, "atol": 1e-11}
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}  # sums of 7 steps' rounding in another order


def make(ops, *, highway=False, share=False, seed=0, inputs=3, hidden=5, dtype=torch.float64):
    """A backbone with drawn weights and uneven shares."""
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone.from_ops(inputs, hidden, ops, highway=highway, share_projection=share, generator=generator).to(
        dtype
    )
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(torch.randn(alpha.shape, generator=generator))
    return backbone


def data(T, B, inputs, hidden, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, B, inputs, generator=generator, dtype=dtype)
    return x.requires_grad_(), torch.randn(B, hidden, generator=generator, dtype=dtype).requires_grad_()


def compare(backbone, x, h_0, tolerance=TIGHT):
    """Compare engine and reference; every gradient must be there, and reach something."""
    nodes = backbone.mixed_nodes()
    names = [name for name, _ in backbone.named_parameters()]
    wanted = [x, h_0, *backbone.parameters()]
    weight = torch.randn(*x.shape[:2], backbone.hidden_size, dtype=x.dtype, generator=torch.Generator().manual_seed(7))
    found = []
    for run in (reference.run, sequence.run):
        out = run(nodes, [node.shares for node in nodes], x, h_0)
        loss = (weight * out).sum() + out.square().mean()
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        found.append([out.detach(), *gradients])
    for name, truth, value in zip(["out", "x", "h_0", *names], *found, strict=True):
        truth = torch.zeros_like(value) if truth is None else truth
        torch.testing.assert_close(value, truth, **tolerance, msg=lambda message, name=name: f"{name}: {message}")
    return dict(zip(["out", "x", "h_0", *names], found[1], strict=True))


@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_all_ops_both_switches(nodes, highway, share):
    backbone = make([DEFAULT_OPS] * nodes, highway=highway, share=share)
    gradients = compare(backbone, *data(7, 3, 3, 5))
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("op", DEFAULT_OPS, ids="/".join)
@pytest.mark.parametrize("highway", [False, True])
def test_each_op_alone(op, highway):
    backbone = make([[op]], highway=highway)
    compare(backbone, *data(4, 2, 3, 5))


ops_lists = st.lists(
    st.lists(st.sampled_from(DEFAULT_OPS), min_size=1, max_size=6), min_size=1, max_size=5
)  # an ordered multiset for each node


@settings(deadline=None, max_examples=40)
@given(
    ops=ops_lists,
    highway=st.booleans(),
    share=st.booleans(),
    sizes=st.tuples(*[st.integers(1, 5)] * 4),
    seed=st.integers(0, 99),
)
def test_any_chain_and_size(ops, highway, share, sizes, seed):
    T, B, inputs, hidden = sizes
    backbone = make(ops, highway=highway, share=share, seed=seed, inputs=inputs, hidden=hidden)
    compare(backbone, *data(T, B, inputs, hidden, seed))


@pytest.mark.parametrize(("T", "B", "inputs", "hidden"), [(1, 1, 1, 1), (1, 4, 3, 5), (6, 1, 3, 5), (9, 7, 11, 13)])
def test_odd_sizes(T, B, inputs, hidden):
    backbone = make([DEFAULT_OPS, DEFAULT_OPS[3:6]], inputs=inputs, hidden=hidden)
    compare(backbone, *data(T, B, inputs, hidden))


def test_an_own_projection_among_shared_ones():
    """As a carrier has it: the index that maps ops to projections is neither the identity nor monotone."""
    from grownas.genotype import Op

    ops = [Op("add", "tanh"), Op("add", "identity", own_projection=True), Op("hadamard", "relu"), Op("add", "relu")]
    for highway in (False, True):
        backbone = make([ops, ops[::-1]], share=True, highway=highway)
        assert backbone.mixed_nodes()[0].W_x.shape == (3, 3, 5)
        compare(backbone, *data(5, 2, 3, 5))


def test_float32_agrees_to_its_precision():
    backbone = make([DEFAULT_OPS] * 3, dtype=torch.float32)
    compare(backbone, *data(7, 3, 3, 5, dtype=torch.float32), FLOAT32)


@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_gradcheck(highway, share):
    """By finite differences, which know nothing of the reference."""
    smooth = [("hadamard", "tanh"), ("add", "sigmoid"), ("hadamard", "identity"), ("add", "tanh"), ("add", "identity")]
    backbone = make([smooth, smooth[:2]], highway=highway, share=share, inputs=2, hidden=2)
    nodes = backbone.mixed_nodes()
    x, h_0 = data(3, 2, 2, 2)
    parameters = list(backbone.parameters())

    def run(x, h_0, *_):
        return sequence.run(nodes, [node.shares for node in nodes], x, h_0)

    assert torch.autograd.gradcheck(run, (x, h_0, *parameters))


@given(ops=ops_lists, highway=st.booleans(), share=st.booleans(), cut=st.integers(0, 5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_the_future_never_changes_the_past(ops, highway, share, cut, seed):
    backbone = make(ops, highway=highway, share=share, seed=seed)
    x, h_0 = data(7, 2, 3, 5, seed)
    changed = x.detach().clone()
    changed[cut + 1 :] = torch.randn(6 - cut, 2, 3, dtype=x.dtype) * 10
    for run in (reference.run, sequence.run):
        nodes = backbone.mixed_nodes()
        first, second = (run(nodes, [node.shares for node in nodes], one, h_0) for one in (x, changed))
        assert torch.equal(first[: cut + 1], second[: cut + 1])
        assert not torch.equal(first[cut + 1 :], second[cut + 1 :])


def test_gradients_are_left_out_where_nobody_wants_them():
    backbone = make([DEFAULT_OPS])
    x, h_0 = data(4, 2, 3, 5)
    for one in (x, h_0, *backbone.parameters()):
        one.requires_grad_(False)
    h_0.requires_grad_()
    out, _ = backbone(x, h_0.unsqueeze(0))
    out.sum().backward()
    assert h_0.grad is not None
    assert x.grad is None
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_a_second_derivative_is_refused_and_the_way_out_named():
    backbone = make([DEFAULT_OPS])
    x, _ = data(4, 2, 3, 5)
    out, _ = backbone(x)
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)  # asking for the first is no mistake
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend=.reference"):
        torch.autograd.grad(first.square().sum(), x)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend=.reference"):
        torch.autograd.grad(backbone(x)[0].sum(), backbone.alpha[0], create_graph=True)[0].sum().backward()
    plain = Backbone.from_ops(3, 5, [DEFAULT_OPS], backend="reference").double()
    (first,) = torch.autograd.grad(plain(x)[0].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.abs().sum() > 0


def test_backward_does_not_touch_what_it_was_given_and_can_be_repeated():
    backbone = make([DEFAULT_OPS], highway=True)
    x, h_0 = data(4, 2, 3, 5)
    out, _ = backbone(x, h_0.unsqueeze(0))
    grad = torch.ones_like(out)
    first = torch.autograd.grad(out, [x, h_0, *backbone.parameters()], grad, retain_graph=True)
    second = torch.autograd.grad(out, [x, h_0, *backbone.parameters()], grad)
    assert torch.equal(grad, torch.ones_like(out))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autocast_changes_nothing_but_the_dtype_of_what_comes_in(backend, inside, dtype):
    """Values and gradients are those without autocast, given the input's rounded values."""
    backbone = make([DEFAULT_OPS] * 2, highway=True, dtype=dtype)
    backbone.backend = backend
    wanted = list(backbone.parameters())
    rounded, h_0 = torch.randn(5, 2, 3).bfloat16(), torch.randn(1, 2, 5).bfloat16()
    plain, _ = backbone(rounded.to(dtype), h_0.to(dtype))
    truth = torch.autograd.grad(plain.square().sum(), wanted)
    x = rounded.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, h_n = backbone(x, h_0)
        found = torch.autograd.grad(out.square().sum(), [x, *wanted]) if inside else None
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16  # it is on again behind the chain
    dx, *found = found or torch.autograd.grad(out.square().sum(), [x, *wanted])
    assert out.dtype == h_n.dtype == dtype
    assert torch.equal(out, plain)
    assert dx.dtype == torch.bfloat16
    assert dx.abs().sum() > 0
    if inside and backend == "reference":  # autograd's own products are then rounded, as those of any module
        return
    assert all(torch.equal(one, other) for one, other in zip(found, truth, strict=True))


def test_autocast_takes_an_input_of_the_weights_dtype_and_no_state():
    backbone = make([DEFAULT_OPS], dtype=torch.float32)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = backbone(x)
    assert torch.equal(out, backbone(x)[0])


def test_without_autocast_another_dtype_is_an_error_as_ever():
    with pytest.raises(RuntimeError, match="same dtype"):
        make([DEFAULT_OPS], dtype=torch.float32)(torch.randn(5, 2, 3).bfloat16())


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_last_state_is_a_tensor_of_its_own(backend):
    """A view would keep all steps in memory, and follow what is done to them in place."""
    backbone = make([DEFAULT_OPS])
    backbone.backend = backend
    out, h_n = backbone(torch.randn(5, 2, 3, dtype=torch.float64))
    assert torch.equal(h_n[0], out[-1])
    assert h_n.untyped_storage().nbytes() == 2 * 5 * 8
    (gradient,) = torch.autograd.grad(h_n.sum(), backbone.alpha[0], retain_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(out[-1].sum(), backbone.alpha[0])[0])
    before = h_n.detach().clone()
    out.detach().zero_()
    assert torch.equal(h_n, before)


def test_the_plan_sorts_ops_by_kind_then_activation():
    backbone = make(
        [[("hadamard", "tanh"), ("add", "relu"), ("hadamard", "identity"), ("add", "tanh"), ("add", "relu")]]
    )
    plan = sequence.make_plan(backbone.mixed_nodes()[0])
    assert plan.order == [3, 1, 4, 2, 0]
    assert plan.additive == 3
    assert plan.runs == [("tanh", 0, 1), ("relu", 1, 3), ("identity", 3, 4), ("tanh", 4, 5)]
