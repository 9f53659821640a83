"""LSTM and GRU in C against `nn.LSTM` and `nn.GRU`: values and gradients, from any state, on every instruction set."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from grownas.cells import gated, native_loop

KINDS = {"lstm": (gated.LSTM, nn.LSTM), "gru": (gated.GRU, nn.GRU)}
SHAPES = [(1, 1, 1, 1), (5, 3, 4, 16), (7, 2, 3, 17), (20, 16, 4, 32), (4, 5, 2, 40)]  # T, B, I, H
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-5}  # some units in the last place of sums over T * B terms

needs_c = pytest.mark.skipif(native_loop.MISSING is not None, reason=str(native_loop.MISSING))


def pair(kind, inputs, units, dtype=torch.float64):
    """Our core and PyTorch's with the same weights."""
    torch.manual_seed(0)
    ours, judge = (cls(inputs, units) for cls in KINDS[kind])
    ours.load_state_dict(judge.state_dict())
    return ours.to(dtype), judge.to(dtype)


def state_of(core, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(1, batch, core.hidden_size, generator=generator, dtype=core.weight_hh_l0.dtype, requires_grad=True)
        for _ in range(1 + isinstance(core, nn.LSTM))
    ]
    return parts, tuple(parts) if len(parts) > 1 else parts[0]


def everything(core, x, *, seed=0, reads_state=True, order=lambda state: state):
    """Outputs, last states and the gradients of all inputs and parameters from a loss that reads all results."""
    x = x.clone().requires_grad_()
    parts, state = state_of(core, x.shape[1], seed)
    state = tuple(map(order, state)) if isinstance(state, tuple) else order(state)
    out, last = core(x, state if reads_state else None)
    results = [out, *(last if isinstance(last, tuple) else (last,))]
    generator = torch.Generator().manual_seed(seed)
    loss = sum((one * torch.randn(one.shape, generator=generator, dtype=one.dtype)).sum() for one in results)
    gradients = torch.autograd.grad(loss, [x, *core.parameters(), *(parts if reads_state else [])])
    return [one.detach() for one in results] + list(gradients)


def assert_equal(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@needs_c
@pytest.mark.parametrize("isa", [] if native_loop.MISSING else native_loop._native.instruction_sets())
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_pytorch(kind, shape, dtype, isa):
    T, B, inputs, units = shape
    ours, judge = pair(kind, inputs, units, dtype)
    x = torch.randn(T, B, inputs, dtype=dtype)
    before = native_loop._native.use(isa)
    try:
        found = everything(ours, x)
    finally:
        native_loop._native.use(before)
    assert_equal(found, everything(judge, x), TOLERANCE[dtype])


@needs_c
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_state_in_memory_does_not_matter(kind):
    ours, _ = pair(kind, 3, 6)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    by_unit = everything(ours, x, order=lambda state: state.mT.contiguous().mT)
    assert_equal(by_unit, everything(ours, x), 0)


@needs_c
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_state_the_first_state_is_zero(kind):
    ours, judge = pair(kind, 3, 6)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert_equal(everything(ours, x, reads_state=False), everything(judge, x, reads_state=False), 1e-13)


@needs_c
@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_is_not_pytorchs(kind, monkeypatch):
    ours, judge = pair(kind, 3, 6)
    monkeypatch.setattr(KINDS[kind][1], "forward", None)
    ours(torch.randn(4, 2, 3, dtype=torch.float64))
    with pytest.raises(TypeError):
        judge(torch.randn(4, 2, 3, dtype=torch.float64))


@needs_c
@pytest.mark.parametrize("kind", KINDS)
def test_a_backward_pass_can_be_repeated(kind):
    ours, _ = pair(kind, 3, 6)
    out, _ = ours(torch.randn(4, 2, 3, dtype=torch.float64))
    loss = out.square().sum()
    first = torch.autograd.grad(loss, list(ours.parameters()), retain_graph=True)
    assert_equal(first, torch.autograd.grad(loss, list(ours.parameters())), 0)


@needs_c
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_does_not_depend_on_the_rest_of_the_batch(kind):
    ours, _ = pair(kind, 3, 17, torch.float32)
    x = torch.randn(9, 5, 3)
    with torch.no_grad():
        assert torch.equal(ours(x)[0][:, 2:3], ours(x[:, 2:3])[0])


@needs_c
@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_state_does_not_change_with_later_steps(kind):
    ours, _ = pair(kind, 3, 5)
    x = torch.randn(8, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        whole, _ = ours(x)
        _, state = ours(x[:3])
        rest, _ = ours(x[3:], state)
    torch.testing.assert_close(rest, whole[3:], rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_what_c_cannot_run_pytorch_runs(kind):
    ours, judge = pair(kind, 3, 5, torch.bfloat16)
    x = torch.randn(4, 2, 3, dtype=torch.bfloat16)
    assert torch.equal(ours(x)[0], judge(x)[0])
    ours, judge = pair(kind, 3, 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x.float())[0], judge(x.float())[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 3, 5), torch.float64), ((1, 2, 4), torch.float64), ((1, 2, 5), torch.float32)]
)
def test_a_state_that_does_not_fit_is_refused_as_by_pytorch(kind, shape, dtype):
    x, part = torch.randn(4, 2, 3, dtype=torch.float64), torch.zeros(shape, dtype=dtype)
    state = (part, part) if kind == "lstm" else part
    ours, judge = pair(kind, 3, 5)
    with pytest.raises((RuntimeError, ValueError)) as wanted:
        judge(x, state)
    with pytest.raises(wanted.type) as found:
        ours(x, state)
    assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_weights_of_its_own(kind):
    ours, _ = pair(kind, 3, 5)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    twin, before = copy.deepcopy(ours), ours(x)[0]
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(ours(x)[0], before)
    assert not twin(x)[0].any()


@needs_c
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_derivative_raises(kind):
    ours, judge = pair(kind, 2, 3)
    for core in (ours, judge):
        x = torch.randn(4, 1, 2, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(core(x)[0].sum(), x, create_graph=True)  # the loss is linear in the outputs
        if core is judge:
            first.square().sum().backward()
        else:
            with pytest.raises(RuntimeError, match=r"no second derivative; use those of torch\.nn"):
                first.square().sum().backward()
