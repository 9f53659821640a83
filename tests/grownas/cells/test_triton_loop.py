"""The Triton backend: its kernels interpreted on the CPU, and compiled for GPUs that are not there.

With `-m gpu` the same suite runs on a CUDA device, where there is one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
from grownas.cells import backends, chain, triton_loop
from grownas.cells.sequence import Buffers, Packed
from grownas.genotype import Op
from grownas.ops import ACTIVATION, BUILT_IN, DEFAULT_OPS, Activation
from support import sequences as suite
from support.sequences import exact, ulps

IS_THERE = importlib.util.find_spec("triton") is not None
if IS_THERE and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the backend first imports triton
needs_triton = pytest.mark.skipif(not IS_THERE, reason="triton is not installed")
TIGHT = suite.TIGHT
FLOAT32 = {"rtol": 1e-4, "atol": 2e-5}  # as the suite's, and twice as much for a GPU's own exp
HALF = {torch.float16: 1e-2, torch.bfloat16: 8e-2}  # of the largest number: ten roundings, of 2^-11 or 2^-8 each
SWITCHES = [{}, {"highway": True}, {"share": True}, {"share": True, "highway": True}]
each_switch = pytest.mark.parametrize("switches", SWITCHES, ids=str)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where the kernels run. The suite's `compare` then compares this backend."""
    if not IS_THERE:
        pytest.skip("triton is not installed")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if (request.param == "cpu") != triton_loop._kernels().INTERPRETED:
        pytest.skip("kernels are interpreted on the CPU with TRITON_INTERPRET=1, and run on CUDA without it")
    found = torch.device(request.param)
    assert triton_loop.unsupported(found, torch.float32, {"tanh"}) is None
    monkeypatch.setattr(suite, "ENGINES", ["triton"])
    return found


def make(device, ops, **options):
    backbone = suite.make(ops, **options).to(device)
    backbone.backend = "triton"
    return backbone


def data(device, *sizes, **options):
    return [one.detach().to(device).requires_grad_() for one in suite.data(*sizes, **options)]


def run(backbone, x, h_0):
    """Return values and all gradients."""
    out, _ = backbone(x, h_0[None])
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, h_0, *backbone.parameters()])]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -------------------------------------------------------------------------------------------------------- parity ----


@pytest.mark.parametrize("op", DEFAULT_OPS, ids="/".join)
@pytest.mark.parametrize("highway", [False, True])
def test_each_op_alone(device, op, highway):
    suite.compare(make(device, [[op]], highway=highway), *data(device, 3, 2, 3, 5))


@each_switch
@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_all_ops_both_switches(device, nodes, switches):
    gradients = suite.compare(make(device, [DEFAULT_OPS] * nodes, **switches), *data(device, 3, 3, 3, 5))
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


@pytest.mark.parametrize(("T", "B", "inputs", "hidden"), [(1, 1, 1, 1), (1, 4, 3, 5), (5, 1, 3, 32), (2, 5, 2, 67)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("switches", [SWITCHES[0], SWITCHES[-1]], ids=str)
def test_odd_sizes(device, T, B, inputs, hidden, dtype, switches):
    """Below, at and past the tiles' sizes, in both directions."""
    backbone = make(device, [DEFAULT_OPS, DEFAULT_OPS[3:6]], inputs=inputs, hidden=hidden, dtype=dtype, **switches)
    sizes = data(device, T, B, inputs, hidden, dtype=dtype)
    suite.compare(backbone, *sizes, TIGHT if dtype == torch.float64 else FLOAT32)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ops=suite.ops_lists, highway=st.booleans(), share=st.booleans(), seed=st.integers(0, 99))
def test_any_chain(device, ops, highway, share, seed):
    backbone = make(device, ops, highway=highway, share=share, seed=seed)
    suite.compare(backbone, *data(device, 2, 2, 3, 5, seed=seed))


@pytest.mark.parametrize("highway", [False, True])
def test_an_own_projection_among_shared_ones(device, highway):
    ops = [Op("add", "tanh"), Op("add", "identity", own_projection=True), Op("hadamard", "relu"), Op("add", "relu")]
    backbone = make(device, [ops, ops[::-1]], share=True, highway=highway)
    suite.compare(backbone, *data(device, 4, 2, 3, 5))


def test_no_streams_at_all(device):
    suite.compare(make(device, [DEFAULT_OPS], highway=True), *data(device, 3, 0, 3, 5))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("switches", [SWITCHES[0], SWITCHES[-1]], ids=str)
def test_half_precision_comes_near(device, dtype, switches):
    """To the reference in float64, given the rounded weights."""
    backbone = make(device, [DEFAULT_OPS] * 2, dtype=dtype, **switches)
    inputs = data(device, 4, 3, 3, 5, dtype=dtype)
    found = run(backbone, *inputs)
    exactly = backbone.double()
    exactly.backend = "reference"
    truth = run(exactly, *(one.detach().double().requires_grad_() for one in inputs))
    for value, wanted in zip(found, truth, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), wanted, rtol=0, atol=HALF[dtype] * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_activations_to_the_last_digits(device, name, dtype):
    """Where the interpreter's exp is NumPy's, and near it with a GPU's, whose error grows with its argument."""
    backbone = make(device, [[("add", name)]], inputs=1, hidden=1, dtype=dtype)
    z = [torch.linspace(-20, 20, 801), torch.logspace(-30, 1, 200), torch.linspace(0.6, 0.65, 200)]
    z = torch.cat(z).to(dtype)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
        backbone.mixed_nodes()[0].W_x.fill_(1)
        y = backbone(z.to(device).view(1, -1, 1))[0].flatten().cpu()
    truth = exact(name, z).astype({torch.float32: np.float32, torch.float64: np.float64}[dtype])
    assert ulps(y, truth).max() <= {"cpu": 4, "cuda": 32}[device.type]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, on the branch not taken
@pytest.mark.parametrize("name", BUILT_IN)
def test_nan_and_infinity_as_in_torch(device, name):
    backbone = make(device, [[("add", name)]], inputs=1, hidden=1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(0)
        backbone.mixed_nodes()[0].W_x.fill_(1)
        z = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 800.0, -800.0], dtype=torch.float64, device=device)
        y = backbone(z.view(1, -1, 1))[0].flatten()
    torch.testing.assert_close(y, ACTIVATION[name].f(z), rtol=1e-15, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------ behaviour as a whole ----


def test_two_runs_give_the_same_bits(device):
    def once():
        backbone = make(device, [DEFAULT_OPS] * 2, hidden=40, highway=True, dtype=torch.float32)
        return run(backbone, *data(device, 2, 9, 3, 40, dtype=torch.float32))

    assert same(once(), once())


def test_each_tile_of_the_batch_adds_to_a_place_of_its_own(device, monkeypatch):
    """Else programs that run at the same time would lose each other's sums, which interpreted ones never do."""
    kernel, seen = triton_loop._kernels().node_backward, {}

    class Watched:
        def __getitem__(self, grid):
            def launch(*arguments, **constants):
                kernel[grid](*arguments, **constants)
                seen["sums"] = arguments[kernel.arg_names.index("sums")]

            return launch

    monkeypatch.setattr(triton_loop._kernels(), "node_backward", Watched())
    monkeypatch.setattr(triton_loop, "_run", lambda loop, plans, arguments: loop(plans, arguments))
    run(make(device, [[("hadamard", "tanh")]]), *data(device, 1, 9, 3, 5))
    assert seen["sums"].shape == (3, 3, 5)  # 9 streams in tiles of 4; b_x, b_h and the share
    assert (seen["sums"] != 0).all()


def test_memory_may_be_laid_out_in_any_way(device):
    backbone, (x, h_0) = make(device, [DEFAULT_OPS, DEFAULT_OPS[::-1]], highway=True), data(device, 4, 2, 3, 5)
    for node in backbone.mixed_nodes():
        for name in ("W_h", "b_x", "b_h"):
            values = getattr(node, name).data
            getattr(node, name).data = values.transpose(0, -1).contiguous().transpose(0, -1)
    turned = x.detach().transpose(0, 2).contiguous().transpose(0, 2), h_0.detach().t().contiguous().t()
    suite.compare(backbone, *(one.requires_grad_() for one in turned))
    out, _ = backbone(x, h_0[None])
    spread = torch.ones(1, 1, 5, dtype=x.dtype, device=device).expand(4, 2, 5)
    one, other = (torch.autograd.grad(out, x, grad, retain_graph=True)[0] for grad in (spread, spread.contiguous()))
    assert torch.equal(one, other)


def test_what_a_backward_reads_stays_as_it_is_while_the_graph_is_kept(device):
    backbone, (x, h_0) = make(device, [DEFAULT_OPS], highway=True), data(device, 4, 2, 3, 5)
    out, _ = backbone(x, h_0[None])
    first = torch.autograd.grad(out.sum(), [x, h_0], retain_graph=True)
    assert same(first, torch.autograd.grad(out.sum(), [x, h_0]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_values_are_the_same(device, mode):
    backbone, (x, h_0) = make(device, [DEFAULT_OPS] * 2, highway=True), data(device, 4, 2, 3, 5)
    with mode():
        plain, _ = backbone(x, h_0[None])
    assert torch.equal(plain, backbone(x, h_0[None])[0])


def check_autocast(device, backend, monkeypatch):
    """As on CUDA: the chain computes and answers in autocast's dtype, and its own parameters get the gradients."""
    monkeypatch.setattr(chain, "LOW_PRECISION", {device.type})
    backbone, inputs = make(device, [DEFAULT_OPS] * 2, highway=True, dtype=torch.float32), data(device, 4, 3, 3, 5)
    x, h_0 = (one.detach().float().requires_grad_() for one in inputs)
    backbone.backend = "reference"
    truth = run(backbone, x, h_0)
    backbone.backend = backend
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out, h_n = backbone(x, h_0[None])
    assert out.dtype == h_n.dtype == torch.bfloat16
    found = [out.float(), *torch.autograd.grad(out.float().square().sum(), [x, h_0, *backbone.parameters()])]
    for value, wanted in zip(found, truth, strict=True):
        assert value.dtype == torch.float32
        atol = HALF[torch.bfloat16] * float(wanted.abs().max())
        torch.testing.assert_close(value, wanted, rtol=0, atol=atol)
    assert all(one.dtype == torch.float32 for one in backbone.parameters())
    double = backbone.double()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert double(x)[0].dtype == torch.float64


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_autocast_where_it_means_speed_on_other_backends(backend, monkeypatch):
    check_autocast(torch.device("cpu"), backend, monkeypatch)


def test_autocast_where_it_means_speed(device, monkeypatch):
    check_autocast(device, "triton", monkeypatch)


# ------------------------------------------------------------------------------------------------ recorded loops ----


def pretended(body):
    """What `_capture` promises, without a graph."""
    results = body()

    def again():
        for result, value in zip(results, body(), strict=True):
            result.copy_(value)

    return again, results


def given_to_a_loop(T=2, value=1.0):
    one = torch.full((T, 2, 3), value)
    packed = [Packed(torch.ones(1), torch.full((3, 1, 3), value), one[0, 0], one[0, 0], one[0, 0])]
    return triton_loop.Arguments(packed, Buffers(one.clone(), one.clone(), [one.clone()], [None]), one[0])


class Counting:
    """A loop and a capture that count their calls."""

    def __init__(self, failure=None):
        self.loops, self.captures, self.failure = 0, 0, failure

    def loop(self, plans, arguments):
        self.loops += 1
        arguments.buffers.A.add_(arguments.packed[0].W_h.sum())
        arguments.buffers.states[0].fill_(7)
        return [arguments.buffers.A.sum()]

    def capture(self, body):
        self.captures += 1
        if self.failure:
            raise self.failure
        return pretended(body)


def test_a_loop_is_recorded_the_second_time_it_comes():
    counting = Counting()
    recorder = triton_loop.Recorder(counting.capture)
    for number, captures in enumerate([0, 1, 1, 1], start=1):
        arguments = given_to_a_loop(value=number)
        (result,) = recorder.run(counting.loop, (), arguments)
        assert counting.captures == captures
        assert torch.equal(arguments.buffers.A, torch.full((2, 2, 3), 10.0 * number))
        assert (arguments.buffers.states[0] == 7).all()
        assert (arguments.packed[0].W_h == number).all()
        assert result == arguments.buffers.A.sum()
    kept = recorder.run(counting.loop, (), given_to_a_loop(value=1))[0]
    recorder.run(counting.loop, (), given_to_a_loop(value=2))
    assert kept == 120  # a result is the caller's own


def test_another_size_is_another_loop_and_the_least_recent_makes_way(monkeypatch):
    monkeypatch.setattr(triton_loop, "GRAPHS_KEPT", 2)
    counting = Counting()
    recorder = triton_loop.Recorder(counting.capture)

    def captures(T):
        before = counting.captures
        recorder.run(counting.loop, (), given_to_a_loop(T))
        return counting.captures - before

    assert [captures(T) for T in (1, 2, 1, 2, 1, 2)] == [0, 0, 1, 1, 0, 0]
    assert [captures(T) for T in (1, 3, 3)] == [0, 0, 1]  # 2 has made way
    assert [captures(T) for T in (1, 3, 2, 2)] == [0, 0, 0, 1]


def test_sizes_that_come_once_are_forgotten(monkeypatch):
    monkeypatch.setattr(triton_loop, "KEYS_KEPT", 3)
    counting = Counting()
    recorder = triton_loop.Recorder(counting.capture)
    for T in (1, 2, 3, 4, 1, 5, 6, 7):
        recorder.run(counting.loop, (), given_to_a_loop(T))
    assert counting.captures == 0
    assert len(recorder._seen) == 3


def test_a_loop_that_cannot_be_recorded_goes_on_and_one_warning_says_so():
    counting = Counting(RuntimeError("CUDA out of memory"))
    recorder = triton_loop.Recorder(counting.capture)
    recorder.run(counting.loop, (), given_to_a_loop())
    with pytest.warns(
        UserWarning, match="could not record its loop as a CUDA graph: CUDA out of memory; it runs call by"
    ):
        recorder.run(counting.loop, (), given_to_a_loop())
    arguments = given_to_a_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = recorder.run(counting.loop, (), arguments)
        assert counting.captures == 1  # it is not tried again
        for _ in range(2):
            recorder.run(counting.loop, (), given_to_a_loop(T=3))
    assert counting.captures == 2  # but another one is
    assert result == arguments.buffers.A.sum() == 12 * 10


def test_a_mistake_of_our_own_is_not_taken_for_a_failed_recording():
    counting = Counting(TypeError("ours"))
    recorder = triton_loop.Recorder(counting.capture)
    recorder.run(counting.loop, (), given_to_a_loop())
    with pytest.raises(TypeError, match="ours"):
        recorder.run(counting.loop, (), given_to_a_loop())


def test_what_a_recording_depends_on():
    def key(loop="loop", plans=("plan",), **changed):
        arguments = given_to_a_loop()._replace(**changed)
        return triton_loop._key(loop, plans, arguments)

    base = given_to_a_loop()
    without_Q = base.buffers._replace(Q=None)
    double = base.buffers._replace(A=base.buffers.A.double())
    wider = base.buffers._replace(A=torch.ones(2, 2, 6))
    keys = [key(), key("other"), key(plans=("other",)), *(key(buffers=one) for one in (without_Q, double, wider))]
    keys.append(key(h_0=torch.ones(2, 4)))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    keys.append(key())
    torch.backends.cuda.matmul.fp32_precision = before
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]  # whatever the addresses


@pytest.mark.parametrize(
    ("switches", "mode"), [(SWITCHES[0], torch.no_grad), (SWITCHES[-1], torch.inference_mode)], ids=str
)
def test_recorded_loops_give_what_direct_ones_give(device, switches, mode, monkeypatch):
    """Two layers whose loops share recordings, without and with gradients, and new weights each time."""
    recorder = triton_loop.Recorder(triton_loop._capture if device.type == "cuda" else pretended)
    layers = [make(device, [DEFAULT_OPS[2:6], DEFAULT_OPS[:2]], inputs=5, **switches) for _ in range(2)]
    x, h_0 = data(device, 2, 2, 5, 5)

    def both(run_loop):
        monkeypatch.setattr(triton_loop, "_run", run_loop)
        with mode():
            plain = layers[1](layers[0](x)[0])[0]
        out, _ = layers[1](layers[0](x, h_0[None])[0])
        weights = [*layers[0].parameters(), *layers[1].parameters()]
        return [plain, out.detach(), *torch.autograd.grad(out.square().sum(), [x, h_0, *weights])]

    tolerance = {"rtol": 0, "atol": 0} if device.type == "cpu" else TIGHT
    for _ in range(2):
        for layer in layers:
            layer.mixed_nodes()[0].draw_parameters()
        found, truth = both(recorder.run), both(lambda loop, plans, arguments: loop(plans, arguments))
        for one, other in zip(found, truth, strict=True):
            torch.testing.assert_close(one, other, **tolerance)
    assert len(recorder._recordings) == 3  # forward without and with a backward to follow, and that backward


def test_a_recording_made_in_inference_mode_serves_outside_of_it(device, monkeypatch):
    recorder = triton_loop.Recorder(triton_loop._capture if device.type == "cuda" else pretended)
    monkeypatch.setattr(triton_loop, "_run", recorder.run)
    backbone, (x, _) = make(device, [DEFAULT_OPS[2:6]]), data(device, 2, 2, 3, 5)
    with torch.inference_mode():
        first, second = backbone(x)[0], backbone(x)[0]
    with torch.no_grad():
        third = backbone(x)[0]
    assert len(recorder._recordings) == 1
    for one in (second, third):
        torch.testing.assert_close(one, first, rtol=1e-14, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_a_loop_may_be_a_part_of_a_larger_graph(device):
    backbone, (x, _) = make(device, [DEFAULT_OPS] * 2), data(device, 4, 2, 3, 5)
    with torch.no_grad():
        backbone(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out, _ = backbone(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(out, backbone(x)[0], **TIGHT)


# -------------------------------------------------------------------------------------------------------- choice ----


@needs_triton
def test_why_not_names_the_reason(monkeypatch):
    place, other = ("cpu", "cuda") if triton_loop._kernels().INTERPRETED else ("cuda", "cpu")
    reason = triton_loop.unsupported(torch.device(other), torch.float32, {"tanh"})
    assert reason.startswith(f"it runs on {place}")
    assert reason.endswith(f"not on {other}")
    place = torch.device(place)
    assert triton_loop.unsupported(place, torch.int8, {"tanh"}) == "it has no kernel for int8"
    monkeypatch.setitem(
        ACTIVATION, "cosine", Activation(torch.cos, lambda y, z: -z.sin(), lambda y, z: -y, "cos(z)", 9)
    )
    assert triton_loop.unsupported(place, torch.float32, {"tanh", "cosine"}) == "it has no kernel for cosine"


@needs_triton
def test_there_is_a_kernel_for_each_activation_of_the_table():
    codes = {activation.code for activation in BUILT_IN.values() if activation.code is not None}
    assert codes == triton_loop._kernels().CODES


def without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "grownas.cells.triton_pointwise", raising=False)
    monkeypatch.delattr("grownas.cells.triton_pointwise", raising=False)
    backends._choose.cache_clear()


def test_without_triton_a_name_is_an_error_and_auto_says_what_it_took(monkeypatch):
    without_triton(monkeypatch)
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run this chain: triton cannot be imported"):
        Backbone(2, 3, backend="triton")(torch.randn(2, 1, 2))
    with pytest.warns(UserWarning, match="'triton' cannot run this chain: triton cannot be imported .*'torch' runs it"):
        assert backends._choose("auto", torch.device("cuda"), torch.float32, (("tanh",),)) == "torch"
    backends._choose.cache_clear()


def test_on_the_cpu_auto_never_takes_it():
    assert "triton" not in backends.AUTO["cpu"]
    assert Backbone(2, 3).chosen_backend != "triton"


def test_trying_out_runs_a_kernel_and_says_what_stood_in_the_way(device, monkeypatch):
    assert triton_loop._try_out.__wrapped__(device, torch.float32) is None

    class Broken:
        def __getitem__(self, grid):
            raise RuntimeError("no C compiler")

    monkeypatch.setattr(triton_loop._kernels(), "node_forward", Broken())
    reason = triton_loop._try_out.__wrapped__(device, torch.float32)
    assert reason == f"its kernels cannot be compiled for {device} (no C compiler)"


COMPILE = """
import types, torch, triton
from triton.backends.compiler import GPUTarget
from grownas.backbones.chain import Backbone
from grownas.cells import triton_loop
from grownas.cells.backends import BACKENDS
from grownas.genotype import Op
from grownas.ops import DEFAULT_OPS

target, compiled = None, []
triton.runtime.driver.set_active(
    types.SimpleNamespace(
        get_current_device=lambda: target.arch,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: target,
    )
)
kernels = triton_loop._kernels()
assert not kernels.INTERPRETED


def compile_only(kernel):
    run = kernel.run

    def instead(*arguments, grid, warmup, **options):
        made = run(*arguments, grid=grid, warmup=True, **options)
        assert len(made.asm["cubin"]) > 0
        compiled.append(made.hash)

    kernel.run = instead


for kernel in (kernels.node_forward, kernels.node_backward):
    compile_only(kernel)
shared = [Op("add", "tanh"), Op("add", "relu"), Op("hadamard", "sigmoid"), Op("hadamard", "identity")]
CASES = [
    (80, torch.float32, (3, 5, 2, 20), [DEFAULT_OPS, DEFAULT_OPS[5:6]], {"highway": True}),
    (90, torch.float64, (3, 1, 1, 1), [shared], {"share_projection": True}),
    (90, torch.bfloat16, (3, 64, 2, 32), [shared], {"share_projection": True, "highway": True}),
    (80, torch.float16, (3, 3, 2, 16), [DEFAULT_OPS[:1]], {}),
]
for capability, dtype, (T, B, inputs, hidden), ops, switches in CASES:
    target = GPUTarget("cuda", capability, 32)
    nodes = Backbone.from_ops(inputs, hidden, ops, **switches).to(dtype).mixed_nodes()
    x, h_0 = torch.zeros(T, B, inputs, dtype=dtype), torch.zeros(B, hidden, dtype=dtype)
    run = BACKENDS["triton"].run
    run(nodes, [node.shares for node in nodes], x, h_0).sum().backward()
    with torch.no_grad():
        run(nodes, [node.shares for node in nodes], x, h_0)
print(len(compiled), len(set(compiled)))
"""


@needs_triton
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """All that comes before a launch: Triton specialises the kernels to the loops' arguments and compiles them."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "error", "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr
    calls, kernels = map(int, done.stdout.split())
    assert calls == 3 * 3 * (2 + 1 + 1 + 1)  # T steps of each node: forward, back, forward without gradients
    assert kernels == 3 * (2 + 1 + 1 + 1)  # no step and no state's address needs one of its own
