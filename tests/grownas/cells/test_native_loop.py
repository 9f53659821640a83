"""The C extension: activations to the last digits, products, and every instruction set that this processor has."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
from grownas.cells import backends, native_loop
from grownas.ops import ACTIVATION, BUILT_IN, DEFAULT_OPS, Activation
from support.sequences import FLOAT32, REAL, TIGHT, compare, data, exact, make, ulps

native = native_loop._native
pytestmark = pytest.mark.skipif(native_loop.MISSING is not None, reason=str(native_loop.MISSING))
ISAS = [] if native_loop.MISSING else native.instruction_sets()
KERNELS = [name for name, one in BUILT_IN.items() if one.code is not None]


@pytest.fixture(params=ISAS)
def isa(request):
    before = native.use(request.param)
    yield request.param
    native.use(before)


def activate(name, z):
    y, padded = torch.empty(-(-len(z) // 16) * 16, dtype=z.dtype), torch.nn.functional.pad(z, (0, -len(z) % 16))
    native.activate(z.dtype == torch.float64, ACTIVATION[name].code, len(padded), padded.data_ptr(), y.data_ptr())
    return y[: len(z)]


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_within_4_ulp_of_correctly_rounded(name, dtype, isa):
    generator = torch.Generator().manual_seed(0)
    info = torch.finfo(dtype)
    sizes = torch.exp2(torch.empty(200_000, dtype=torch.float64).uniform_(-40, 11, generator=generator))
    signs = torch.randint(0, 2, sizes.shape, generator=generator) * 2 - 1
    plain = torch.linspace(-20, 20, 200_001, dtype=torch.float64)
    extremes = torch.tensor(
        [0.0, info.tiny, info.tiny / 16, info.eps, 88.7, 103.9, 104.1, 708.3, 744.9, 746.0, info.max]
    )
    z = torch.cat([sizes * signs, plain, extremes, -extremes]).to(dtype)
    truth = exact(name, z).astype(REAL[dtype][0])
    assert ulps(activate(name, z), truth).max() <= 4


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_nan_and_infinity_as_in_torch(name, dtype, isa):
    z = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0], dtype=dtype)
    assert torch.equal(torch.nan_to_num(activate(name, z), nan=7.0), torch.nan_to_num(ACTIVATION[name].f(z), nan=7.0))
    assert activate(name, z)[0].isnan()


def test_an_odd_function_stays_odd(isa):
    z = torch.linspace(0, 12, 4001)
    assert torch.equal(activate("tanh", -z), -activate("tanh", z))


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("switches", [{}, {"highway": True}, {"share": True, "highway": True}], ids=str)
def test_every_instruction_set_agrees_with_the_reference(isa, dtype, switches):
    for hidden, B in ((1, 1), (3, 3), (8, 5), (16, 7), (33, 13), (70, 9)):
        backbone = make([DEFAULT_OPS, DEFAULT_OPS[::-2]], inputs=6, hidden=hidden, dtype=dtype, **switches)
        compare(backbone, *data(3, B, 6, hidden, dtype=dtype), TIGHT if dtype == torch.float64 else FLOAT32)


@given(
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 110), st.integers(0, 450)),
    turned=st.tuples(st.booleans(), st.booleans()),
    cut=st.booleans(),
    dtype=st.sampled_from(list(REAL)),
)
def test_products_of_any_size_and_layout(sizes, turned, cut, dtype):
    M, N, K = sizes
    generator = torch.Generator().manual_seed(M + N + K)
    a, b = torch.randn(M, K, generator=generator, dtype=dtype), torch.randn(K, N, generator=generator, dtype=dtype)
    a, b = (one.t().contiguous().t() if turn else one for one, turn in zip((a, b), turned, strict=True))
    for isa in ISAS:
        before = native.use(isa)
        wide = torch.full((M, N + 3), 7.0, dtype=dtype)
        out = wide[:, 2 : N + 2] if cut else torch.full((M, N), 7.0, dtype=dtype)
        native_loop.multiply(a, b, out)
        native.use(before)
        torch.testing.assert_close(out, a @ b, rtol=0, atol=(K + 1) * 8 * torch.finfo(dtype).eps)
        assert (wide[:, :2] == 7).all()
        assert (wide[:, N + 2 :] == 7).all()


def test_a_stream_does_not_depend_on_its_neighbours():
    """Bit for bit: the loop sums in the same order whatever the batch."""
    backbone = make([DEFAULT_OPS] * 2, hidden=20, dtype=torch.float32)
    x, _ = data(6, 13, 3, 20, dtype=torch.float32)
    together, _ = backbone(x)
    for b in range(13):
        assert torch.equal(backbone(x[:, b : b + 1])[0], together[:, b : b + 1])


def test_two_runs_give_the_same_bits():
    def gradients():
        backbone = make([DEFAULT_OPS] * 2, hidden=20, highway=True, dtype=torch.float32)
        x, h_0 = data(6, 5, 3, 20, dtype=torch.float32)
        return torch.autograd.grad(backbone(x, h_0[None])[0].square().sum(), [x, h_0, *backbone.parameters()])

    assert all(torch.equal(one, other) for one, other in zip(gradients(), gradients(), strict=True))


def test_other_threads_go_on_meanwhile():
    """The lock is free during the loop: two chains in two threads give what they give alone."""
    from concurrent.futures import ThreadPoolExecutor

    backbone = make([DEFAULT_OPS] * 3, hidden=64, inputs=8, dtype=torch.float32)
    xs = [data(50, 16, 8, 64, seed, torch.float32)[0].detach() for seed in range(6)]
    alone = [backbone(x)[0] for x in xs]
    with ThreadPoolExecutor(3) as pool:
        assert all(map(torch.equal, pool.map(lambda x: backbone(x)[0], xs), alone))


def test_why_not_names_the_reason(monkeypatch):
    cpu, known = torch.device("cpu"), {"tanh"}
    assert native_loop.unsupported(cpu, torch.float32, known) is None
    assert native_loop.unsupported(torch.device("meta"), torch.float32, known) == "it runs on the CPU, not on meta"
    assert "not in bfloat16" in native_loop.unsupported(cpu, torch.bfloat16, known)
    monkeypatch.setitem(
        ACTIVATION, "cosine", Activation(torch.cos, lambda y, z: -z.sin(), lambda y, z: -y, "cos(z)", 9)
    )
    assert native_loop.unsupported(cpu, torch.float32, {"tanh", "cosine"}) == "it has no kernel for cosine"
    with pytest.raises(
        RuntimeError, match=r"backend 'native' cannot run this chain: it has no kernel for cosine; .*auto"
    ):
        Backbone(2, 3, 1, [("add", "cosine")], backend="native")(torch.randn(2, 1, 2))


def test_auto_says_once_what_it_took_instead(monkeypatch):
    monkeypatch.setitem(
        ACTIVATION, "cosine", Activation(torch.cos, lambda y, z: -z.sin(), lambda y, z: -y, "cos(z)", 9)
    )
    backends._choose.cache_clear()
    backbone = Backbone(2, 3, 1, [("add", "cosine")])
    with pytest.warns(UserWarning, match=r"'native' cannot run .*: it has no kernel for cosine; 'torch' runs it"):
        backbone(torch.randn(2, 1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone(torch.randn(2, 1, 2))
    assert backbone.chosen_backend == "torch"


WITHOUT = """
import sys, warnings
sys.modules["grownas.cells._native"] = None  # as if it had not been built
import torch
from grownas.backbones.chain import Backbone
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    backbone = Backbone(2, 3)
    backbone(torch.randn(4, 2, 2))[0].sum().backward()
    backbone(torch.randn(4, 2, 2))
print(backbone.chosen_backend, len(said), said[0].message)
"""


def test_without_the_extension_everything_runs_and_one_warning_says_how():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("torch 1 backend 'native' cannot run this chain: the C extension was not built")
    assert "'torch' runs it, more slowly" in done.stdout
