"""The sequence engine on every backend that runs on the CPU, against plain autograd: values and all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
from grownas.cells import reference
from grownas.cells.backends import BACKENDS
from grownas.cells.plan import make_plan
from grownas.ops import DEFAULT_OPS
from support.sequences import ENGINES, FLOAT32, TIGHT, compare, data, make, ops_lists


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


SIZES = [(1, 1, 1, 1), (1, 4, 3, 5), (6, 1, 3, 5), (9, 7, 11, 13), (3, 15, 2, 16), (3, 11, 2, 17), (2, 9, 40, 37)]


@pytest.mark.parametrize(("T", "B", "inputs", "hidden"), SIZES)
@pytest.mark.parametrize("switches", [{}, {"highway": True}, {"share": True, "highway": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_odd_sizes(T, B, inputs, hidden, switches, dtype):
    """Below, at and past the widths of vector registers, for which the C code works in padded scratch."""
    backbone = make([DEFAULT_OPS, DEFAULT_OPS[3:6]], inputs=inputs, hidden=hidden, dtype=dtype, **switches)
    compare(backbone, *data(T, B, inputs, hidden, dtype=dtype), TIGHT if dtype == torch.float64 else FLOAT32)


def test_more_ops_than_a_byte_counts():
    backbone = make([[("hadamard", "tanh")] * 300], inputs=2, hidden=3)
    compare(backbone, *data(2, 2, 2, 3))


def test_no_sequence_at_all():
    """A batch of no streams."""
    backbone = make([DEFAULT_OPS], highway=True)
    compare(backbone, *data(3, 0, 3, 5))


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_gradcheck(highway, share, engine):
    """By finite differences, which know nothing of the reference."""
    smooth = [("hadamard", "tanh"), ("add", "sigmoid"), ("hadamard", "identity"), ("add", "tanh"), ("add", "identity")]
    backbone = make([smooth, smooth[:2]], highway=highway, share=share, inputs=2, hidden=2)
    nodes = backbone.mixed_nodes()
    x, h_0 = data(3, 2, 2, 2)
    parameters = list(backbone.parameters())

    def run(x, h_0, *_):
        return BACKENDS[engine].run(nodes, [node.shares for node in nodes], x, h_0)

    assert torch.autograd.gradcheck(run, (x, h_0, *parameters))


@given(ops=ops_lists, highway=st.booleans(), share=st.booleans(), cut=st.integers(0, 5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_the_future_never_changes_the_past(ops, highway, share, cut, seed):
    backbone = make(ops, highway=highway, share=share, seed=seed)
    x, h_0 = data(7, 2, 3, 5, seed)
    changed = x.detach().clone()
    changed[cut + 1 :] = torch.randn(6 - cut, 2, 3, dtype=x.dtype) * 10
    for run in (reference.run, *(BACKENDS[engine].run for engine in ENGINES)):
        nodes = backbone.mixed_nodes()
        first, second = (run(nodes, [node.shares for node in nodes], one, h_0) for one in (x, changed))
        assert torch.equal(first[: cut + 1], second[: cut + 1])
        assert not torch.equal(first[cut + 1 :], second[cut + 1 :])


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def test_gradients_are_left_out_where_nobody_wants_them(engine):
    backbone = make([DEFAULT_OPS])
    backbone.backend = engine
    x, h_0 = data(4, 2, 3, 5)
    for one in (x, h_0, *backbone.parameters()):
        one.requires_grad_(False)
    h_0.requires_grad_()
    out, _ = backbone(x, h_0.unsqueeze(0))
    out.sum().backward()
    assert h_0.grad is not None
    assert x.grad is None
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_a_second_derivative_is_refused_and_the_way_out_named(engine):
    backbone = make([DEFAULT_OPS])
    backbone.backend = engine
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


def test_backward_does_not_touch_what_it_was_given_and_can_be_repeated(engine):
    backbone = make([DEFAULT_OPS], highway=True)
    backbone.backend = engine
    x, h_0 = data(4, 2, 3, 5)
    out, _ = backbone(x, h_0.unsqueeze(0))
    grad = torch.ones_like(out)
    first = torch.autograd.grad(out, [x, h_0, *backbone.parameters()], grad, retain_graph=True)
    second = torch.autograd.grad(out, [x, h_0, *backbone.parameters()], grad)
    assert torch.equal(grad, torch.ones_like(out))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):  # now what was kept has been used up
        torch.autograd.grad(out, [x], grad)


def test_two_backwards_through_one_forward_by_way_of_two_outputs(engine):
    """Each call to `grad` is told apart: the first keeps the graph, the second may use it up."""
    backbone = make([DEFAULT_OPS, DEFAULT_OPS[2:7]])
    backbone.backend = engine
    x, h_0 = data(4, 2, 3, 5)
    out, h_n = backbone(x, h_0.unsqueeze(0))
    first = torch.autograd.grad(h_n.sum(), x, retain_graph=True)[0]
    second = torch.autograd.grad(out.sum(), x)[0]
    again, last = backbone(x, h_0.unsqueeze(0))
    assert torch.equal(first, torch.autograd.grad(last.sum(), x, retain_graph=True)[0])
    assert torch.equal(second, torch.autograd.grad(again.sum(), x)[0])


def test_without_gradients_the_values_are_the_same(engine):
    backbone = make([DEFAULT_OPS] * 2, highway=True)
    backbone.backend = engine
    x, h_0 = data(4, 2, 3, 5)
    with torch.no_grad():
        plain, _ = backbone(x, h_0.unsqueeze(0))
    assert not plain.requires_grad
    assert torch.equal(plain, backbone(x, h_0.unsqueeze(0))[0])


def test_inference_first_and_training_later(engine):
    """What the first call makes and keeps must serve the second."""
    backbone = make([[("hadamard", "sigmoid"), ("add", "relu"), ("hadamard", "tanh"), ("add", "sigmoid")]], seed=3)
    backbone.backend = engine
    x, h_0 = data(4, 2, 3, 5)
    with torch.inference_mode():
        backbone(x.detach())
    torch.autograd.grad(backbone(x)[0].sum(), [x, *backbone.parameters()])
    compare(backbone, x, h_0)


def test_inputs_and_parameters_may_lie_in_memory_in_any_way(engine):
    backbone = make([DEFAULT_OPS, DEFAULT_OPS[::-1]])
    backbone.backend = engine
    x, h_0 = data(4, 2, 3, 5)
    plain, _ = backbone(x, h_0.unsqueeze(0))
    turned = x.detach().transpose(0, 1).contiguous().transpose(0, 1), h_0.detach().t().contiguous().t().unsqueeze(0)
    for node in backbone.mixed_nodes():
        for name in ("W_h", "b_x"):
            values = getattr(node, name).data
            getattr(node, name).data = values.transpose(0, -1).contiguous().transpose(0, -1)
    out, _ = backbone(*turned)
    torch.testing.assert_close(out, plain, rtol=1e-13, atol=1e-13)
    grad = torch.ones(5, 2, 4, dtype=x.dtype).permute(2, 1, 0)
    compare(backbone, turned[0].requires_grad_(), h_0)
    first, second = (torch.autograd.grad(backbone(x)[0], x, one)[0] for one in (grad, grad.contiguous()))
    assert torch.equal(first, second)


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
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


def test_another_device_is_an_error(engine):
    backbone = make([DEFAULT_OPS], dtype=torch.float32)
    backbone.backend = engine
    with pytest.raises(RuntimeError, match="same device, got cpu and meta"):
        backbone(torch.randn(5, 2, 3), torch.zeros(1, 2, 5, device="meta"))


def test_without_autocast_another_dtype_is_an_error_as_ever(engine):
    backbone = make([DEFAULT_OPS], dtype=torch.float32)
    backbone.backend = engine
    with pytest.raises(RuntimeError, match=r"same dtype, got torch\.bfloat16 and torch\.float32"):
        backbone(torch.randn(5, 2, 3).bfloat16())
    with pytest.raises(RuntimeError, match="same dtype"):
        backbone(torch.randn(5, 2, 3), torch.zeros(1, 2, 5).double())


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
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
    plan = backbone.mixed_nodes()[0].plan
    assert plan.order == (3, 1, 4, 2, 0)
    assert (plan.additive, plan.additive_projections, plan.hadamard_projections, plan.blocks) == (3, 3, 2, 5)
    assert plan.projection == (0, 1, 2, 0, 1)
    assert plan.runs == [("tanh", 0, 1), ("relu", 1, 3), ("identity", 3, 4), ("tanh", 4, 5)]


def test_the_plan_keeps_ops_together_that_share_a_projection():
    from grownas.genotype import Op

    ops = [Op("add", "tanh"), Op("hadamard", "relu"), Op("add", "identity"), Op("add", "relu"), Op("hadamard", "tanh")]
    plan = make_plan(ops, [0, 1, 2, 0, 1], highway=True)  # the third has one of its own
    assert plan.order == (0, 3, 2, 4, 1)
    assert plan.columns == (0, 2, 1)
    assert plan.projection == (0, 0, 1, 0, 0)
    assert (plan.additive_projections, plan.hadamard_projections, plan.summed, plan.blocks) == (2, 1, 3, 4)


def pull(out):
    """The gradient of some loss."""
    leaf = out.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(leaf.sin().square().sum(), leaf)[0]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("ops", [DEFAULT_OPS, [("hadamard", "tanh")], [("add", "relu"), ("add", "identity")]])
def test_traces_are_those_of_plain_autograd(ops, highway, share):
    backbone = make([ops, DEFAULT_OPS[::-1], ops], highway=highway, share=share)
    x, h_0 = (one.detach() for one in data(7, 3, 3, 5))
    nodes, before = backbone.mixed_nodes(), {name: one.clone() for name, one in backbone.state_dict().items()}
    shares = [node.shares.detach() for node in nodes]
    truth, *found = (BACKENDS[name].tracer(nodes, shares)(x, h_0, pull) for name in ("reference", *ENGINES))
    for one in found:
        torch.testing.assert_close(one, truth, **TIGHT)
    assert all(gradient.abs().min() > 0 for gradient in truth.gradients)
    torch.testing.assert_close(dict(backbone.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("highway", [False, True])
def test_a_trace_says_what_comes_of_moving_an_ops_output(highway):
    backbone = make([DEFAULT_OPS, [("add", "identity"), ("hadamard", "sigmoid")]], highway=highway)
    x, h_0 = (one.detach() for one in data(7, 3, 3, 5))
    nodes = backbone.mixed_nodes()
    found = BACKENDS["reference"].tracer(nodes, [node.shares for node in nodes])(x, h_0, pull)
    out = BACKENDS["reference"].run(nodes, [node.shares for node in nodes], x, h_0)
    biases = torch.autograd.grad(out.sin().square().sum(), [node.b_x for node in nodes])
    for node, gradient, db in zip(nodes, found.gradients, biases, strict=True):  # op 0 moves with its bias
        torch.testing.assert_close(node.shares[0].detach() * gradient.sum((0, 1)), db[0], **TIGHT)
    torch.testing.assert_close(found.inputs[0], torch.cat([h_0.unsqueeze(0), out[:-1].detach()]), **TIGHT)
