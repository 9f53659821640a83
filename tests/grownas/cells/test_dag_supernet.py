"""The DAG supernet on every backend, against the reference, finite differences and the published arithmetic."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from grownas.cells import backends, dag_supernet, native_loop, reference
from grownas.cells.backends import BACKENDS
from grownas.cells.dag_plan import DagPlan, DagTensors
from grownas.errors import BackendError
from grownas.genotype import Genotype
from grownas.ops import ACTIVATION
from support.sequences import ENGINES, FLOAT32, TIGHT

DARTS = ("none", "tanh", "relu", "sigmoid", "identity")
NAMES = ("inputs", "out", "moments", "W_x", "W_h", "shares", "x", "h_0")
NORMS = ("none", "batch", "running", "limited")
TOLERANCE = {torch.float64: TIGHT, torch.float32: FLOAT32}


class Case:
    """A supernet with drawn weights, and a sequence. Shares are small enough that no state grows from step to step.

    The norm "limited" is "running" with a limit that some states exceed.
    """

    def __init__(self, ops, T, B, I, H, norm="none", skip=0.0, seed=0, dtype=torch.float64):  # noqa: E741
        limit = torch.tensor(0.7, dtype=dtype) if norm == "limited" else None
        norm = "running" if norm == "limited" else norm
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.plan = DagPlan(tuple(map(tuple, ops)), norm)
        N = self.plan.nodes
        shares = randn(sum(map(len, ops))).abs() / (2 * N)
        self.leaves = [randn(I, 2 * H), randn(N + 1, H, 2 * H) / H**0.5, shares, randn(T, B, I), randn(B, H)]
        mean = torch.full((N + 1,), 1 / N, dtype=dtype)
        mean[0] = 0
        moments = torch.stack([randn(N + 1, H) / 3, 0.5 + randn(N + 1, H).square()]) if norm == "running" else None
        self.constants = [mean, torch.tensor(skip, dtype=dtype), moments, limit]

    def tensors(self):
        return DagTensors(*self.leaves[:3], *self.constants)

    def run(self, backend, plan=None):
        return dag_supernet.run_on(backend, plan or self.plan, self.tensors(), *self.leaves[3:])

    def gradients(self, backend):
        """Values and gradients of a loss in which every entry of the states has a weight of its own."""
        self.leaves = [one.detach().requires_grad_() for one in self.leaves]
        out, moments = self.run(backend)
        assert moments is None or not moments.requires_grad
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).sin().view_as(out)
        loss = (weight * out).sum() + out.square().mean()
        found = torch.autograd.grad(loss, self.leaves, allow_unused=True)
        zeros = [torch.zeros_like(one) if g is None else g for g, one in zip(found, self.leaves, strict=True)]
        return [out.detach(), moments, *zeros]


def compare(case, engines=ENGINES, tolerance=TIGHT):
    truth = case.gradients("reference")
    for engine in engines:
        for name, value, true in zip(NAMES[1:], case.gradients(engine), truth, strict=True):
            assert (value is None) == (true is None)
            if true is not None:
                torch.testing.assert_close(
                    value, true, **tolerance, msg=lambda text, at=f"{engine}, {name}: ": at + text
                )
    return truth


@st.composite
def cases(draw):
    N = draw(st.integers(1, 8))
    op = st.sampled_from(["none", *ACTIVATION])
    ops = draw(st.lists(st.lists(op, max_size=4), min_size=N * (N + 1) // 2, max_size=N * (N + 1) // 2))
    norm = draw(st.sampled_from(NORMS))
    T, B, inputs, hidden = [draw(st.integers(low, high)) for low, high in ((1, 4), (1, 6), (1, 4), (1, 6))]
    B = max(B, 4) if norm == "batch" else B  # of two rows the normalised ones are 1 and -1, all gradients differences
    case = Case(ops, T, B, inputs, hidden, norm, draw(st.sampled_from([0.0, 0.3])), draw(st.integers(0, 99)))
    for i in draw(st.sets(st.integers(0, N), max_size=N)):
        case.constants[0][i] = 0
    return case


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_any_supernet_is_the_reference_in_values_and_all_gradients(case):
    """1 to 8 nodes, edges of different ops or none at all, states of no weight."""
    compare(case)


SIZES = [(1, 1, 1, 1), (1, 4, 3, 5), (6, 1, 3, 5), (4, 7, 11, 13), (3, 15, 2, 16), (3, 11, 2, 17), (2, 70, 40, 37)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes_below_at_and_past_those_of_vectors_and_blocks(sizes, norm):
    if norm == "batch" and sizes[1] == 1:
        pytest.skip("there is no variance over a batch of 1")
    gradients = compare(Case([DARTS] * 10, *sizes, norm, skip=0.4))
    assert all(one.abs().sum() > 0 for one in gradients if one is not None)


@pytest.mark.parametrize("name", ACTIVATION)
def test_every_activation(name):
    engines = [one for one in ENGINES if BACKENDS[one].unsupported(torch.device("cpu"), torch.float64, {name}) is None]
    assert "torch" in engines
    compare(Case([(name,)] * 6, 3, 4, 3, 5), engines)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_each_dtype_agrees_to_its_precision(dtype, norm):
    case = Case([DARTS] * 10, 5, 12, 3, 37, norm, dtype=dtype)
    compare(case, tolerance=TOLERANCE[dtype])
    double = Case([DARTS] * 10, 5, 12, 3, 37, norm)
    for engine in ("reference", *ENGINES):
        for value, true in zip(case.gradients(engine), double.gradients("reference"), strict=True):
            if true is not None:
                torch.testing.assert_close(value.double(), true, **TOLERANCE[dtype])


@pytest.mark.skipif(native_loop.MISSING is not None, reason=str(native_loop.MISSING))
def test_every_instruction_set_computes_it():
    for isa in native_loop._native.instruction_sets():
        before = native_loop._native.use(isa)
        try:
            compare(Case([DARTS, ("relu",), ("softsign", "none", "silu")], 3, 35, 2, 21, "batch", 0.2), ["native"])
        finally:
            native_loop._native.use(before)


def published(W_x, W_h, shares, x, h, normalise):
    """One step of quark0/darts, rnn/model_search.py and rnn/model.py, in numpy: nodes mixed together, gates first."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    functions = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "sigmoid": sigmoid, "identity": lambda z: z}
    c_0, h_0 = np.split(np.concatenate([x, h], -1) @ np.concatenate([W_x, W_h[0]]), 2, -1)
    states = normalise(h + sigmoid(c_0) * (np.tanh(h_0) - h))[None]
    offset = 0
    for i in range(len(W_h) - 1):
        c, ch = np.split(states @ W_h[i + 1], 2, -1)
        s = np.zeros_like(h)
        for k, name in enumerate(DARTS):
            if name == "none":
                continue
            unweighted = states + sigmoid(c) * (functions[name](ch) - states)
            s += (shares[offset : offset + i + 1, k, None, None] * unweighted).sum(0)
        states = np.concatenate([states, normalise(s)[None]])
        offset += i + 1
    return states[-8:].mean(0)


NORMALISE = {  # nn.BatchNorm1d(H, affine=False) of all states: off, in training, in evaluation
    "none": lambda s: s,
    "batch": lambda s: (s - s.mean(0)) / np.sqrt(s.var(0) + 1e-5),
    "running": lambda s: (s - 0.3) / np.sqrt(0.7 + 1e-5),
}


@pytest.mark.parametrize("norm", NORMALISE)
@pytest.mark.parametrize("backend", ["reference", *ENGINES])
def test_a_step_is_that_of_the_published_search_cell(backend, norm):
    case = Case([DARTS] * 36, 3, 6, 4, 7, norm)
    alpha = torch.randn(36, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    shares = alpha.softmax(-1)
    case.leaves[2] = shares.flatten()
    if norm == "running":  # the published module is one for all states
        case.constants[2][0], case.constants[2][1] = 0.3, 0.7
    out, _ = case.run(backend)
    W_x, W_h, _, x, h = (one.numpy() for one in case.leaves)
    for x_t, found in zip(x, out.numpy(), strict=True):
        h = published(W_x, W_h, shares.numpy(), x_t, h, NORMALISE[norm])
        np.testing.assert_allclose(found, h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_are_finite_differences(engine, norm):
    case = Case([DARTS, ("silu",), ("tanh", "none")], 3, 3, 2, 2, norm, 0.3)
    leaves = [one.detach().requires_grad_() for one in case.leaves]

    def states(*leaves):
        case.leaves = leaves
        return case.run(engine)[0]

    assert torch.autograd.gradcheck(states, leaves)


def test_a_derived_cell_is_a_supernet_of_single_ops():
    genotype = Genotype.load("darts_v2")
    ops = [("none",)] * 36
    for i, node in enumerate(genotype.nodes, 1):
        ops[i * (i - 1) // 2 + node.reads] = (node.activation,)
    case = Case(ops, 4, 3, 2, 9)
    case.leaves[2] = torch.ones(36, dtype=torch.float64)
    W_x, W_h, _, x, h_0 = case.leaves
    wanted = reference.run_dag(genotype, W_x, W_h, x, h_0)
    for backend in ("reference", *ENGINES):
        torch.testing.assert_close(case.run(backend)[0], wanted, **TIGHT)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("backend", ["reference", *ENGINES])
def test_a_further_node_of_no_weight_changes_no_bit(backend, norm):
    """What growing a DAG by a blend relies on."""
    small, grown = Case([DARTS] * 6, 4, 5, 3, 21, norm), Case([DARTS] * 10, 4, 5, 3, 21, norm, seed=1)
    grown.constants[0] = torch.cat([small.constants[0], small.constants[0].new_zeros(1)])
    W_x, W_h, shares, x, h_0 = small.leaves
    W_h = torch.cat([W_h, grown.leaves[1][-1:]])
    grown.leaves = [W_x, W_h, torch.cat([shares, grown.leaves[2][-20:]]), x, h_0]
    assert torch.equal(grown.run(backend)[0], small.run(backend)[0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_without_gradients_it_computes_the_same_and_the_future_never_changes_the_past(engine, norm):
    """There the buffers hold one step at a time."""
    case = Case([DARTS] * 10, 5, 4, 3, 19, norm, 0.2)
    out, moments, *_ = case.gradients(engine)
    with torch.no_grad():
        again, seen = case.run(engine)
        assert torch.equal(again, out)
        assert seen is None or torch.equal(seen, moments)
        case.leaves[3] = torch.cat([case.leaves[3][:3], case.leaves[3][3:] + 1])
        changed, _ = case.run(engine)
    assert torch.equal(changed[:3], out[:3])
    assert not torch.equal(changed[3], out[3])


@pytest.mark.parametrize("norm", ["none", "running", "limited"])
def test_a_row_of_the_batch_is_independent_of_its_neighbours(norm):
    case = Case([DARTS] * 10, 4, 13, 3, 37, norm, dtype=torch.float32)
    whole, _ = case.run("native")
    *weights, x, h_0 = case.leaves
    for rows in (slice(0, 1), slice(4, 9), slice(6, 13)):
        case.leaves = [*weights, x[:, rows], h_0[rows]]
        assert torch.equal(case.run("native")[0], whole[:, rows])


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
def test_moments_are_those_of_the_states_before_they_are_normalised(backend):
    case = Case([DARTS], 1, 6, 3, 5, "batch")
    case.constants[0] = torch.tensor([1.0, 0.0], dtype=torch.float64)  # h_t is s_0
    out, moments = case.run(backend)
    W_x, W_h, _, x, h_0 = case.leaves
    gate, z = (x[0] @ W_x + h_0 @ W_h[0]).chunk(2, -1)
    s_0 = h_0 + gate.sigmoid() * (z.tanh() - h_0)
    assert moments.shape == (1, 2, 2, 5)
    torch.testing.assert_close(moments[0, :, 0], torch.stack([s_0.mean(0), s_0.var(0, correction=0)]))
    torch.testing.assert_close(out[0], nn.BatchNorm1d(5, affine=False, dtype=torch.float64)(s_0))
    assert case.run(backend, case.plan._replace(norm="none"))[1] is None


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
def test_a_limit_cuts_normalised_states(backend):
    case = Case([DARTS], 1, 6, 3, 5, "limited")
    case.constants[0] = torch.tensor([1.0, 0.0], dtype=torch.float64)  # h_t is s_0
    free = Case([DARTS], 1, 6, 3, 5, "running")
    free.constants[0] = case.constants[0]
    unlimited, _ = free.run(backend)
    is_cut = unlimited.abs() > 0.7
    assert 5 < is_cut.sum() < 25
    torch.testing.assert_close(case.run(backend)[0], unlimited.clamp(-0.7, 0.7))


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
def test_none_contributes_nothing_and_gets_no_gradient(backend):
    with_none, without = Case([DARTS] * 3, 3, 4, 3, 5), Case([DARTS[1:]] * 3, 3, 4, 3, 5)
    without.leaves = list(with_none.leaves)
    without.leaves[2] = with_none.leaves[2].view(3, 5)[:, 1:].flatten()
    found, wanted = with_none.gradients(backend), without.gradients(backend)
    assert torch.equal(found[0], wanted[0])
    dshares = found[4].view(3, 5)
    assert torch.equal(dshares[:, 0], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(dshares[:, 1:].flatten(), wanted[4])


@pytest.mark.parametrize("engine", ENGINES)
def test_backward_can_be_repeated_and_a_second_derivative_is_refused(engine):
    case = Case([DARTS] * 3, 3, 4, 3, 5)
    case.leaves = [one.requires_grad_() for one in case.leaves]
    out, _ = case.run(engine)
    first = torch.autograd.grad(out.square().sum(), case.leaves, retain_graph=True)
    second = torch.autograd.grad(out.square().sum(), case.leaves, retain_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    (gradient,) = torch.autograd.grad(out.square().sum(), case.leaves[2], create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend=.reference"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("engine", ENGINES)
def test_checkpointing_gives_the_same_gradients(engine):
    case = Case([DARTS] * 3, 3, 4, 3, 5)
    wanted = case.gradients(engine)
    run = case.run
    case.run = lambda engine: checkpoint(run, engine, use_reentrant=False)
    for one, true in zip(case.gradients(engine)[2:], wanted[2:], strict=True):
        assert torch.equal(one, true)


def test_the_reference_has_second_derivatives():
    case = Case([("none", "tanh")], 2, 3, 1, 2, "batch")
    leaves = [one.detach().requires_grad_() for one in case.leaves]

    def states(*leaves):
        case.leaves = leaves
        return case.run("reference")[0]

    assert torch.autograd.gradgradcheck(states, leaves)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_are_left_out_where_nobody_wants_them(engine):
    case = Case([DARTS] * 3, 3, 4, 3, 5)
    case.leaves[2].requires_grad_()
    case.run(engine)[0].sum().backward()
    assert [one.grad is not None for one in case.leaves] == [False, False, True, False, False]


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
def test_what_does_not_fit_together_is_named(backend):
    case = Case([DARTS] * 3, 2, 1, 3, 5)
    with pytest.raises(ValueError, match=r"norm='batch' needs a batch of at least 2 to take a variance of, got 1"):
        case.run(backend, case.plan._replace(norm="batch"))
    with pytest.raises(ValueError, match=r"norm='running' needs moments of shape \(2, N \+ 1, H\), got None"):
        case.run(backend, case.plan._replace(norm="running"))
    with pytest.raises(ValueError, match="limit bounds the states that moments normalise, got a limit without moments"):
        dag_supernet.run_on(backend, case.plan, case.tensors()._replace(limit=torch.ones(())), *case.leaves[3:])
    with pytest.raises(ValueError, match="unknown norm 'layer'; choose one of none, batch, running"):
        case.run(backend, case.plan._replace(norm="layer"))
    with pytest.raises(ValueError, match=r"W_h has weights of 2 node\(s\), which have 3 edges; the plan has 2"):
        case.run(backend, DagPlan((DARTS, DARTS)))
    with pytest.raises(ValueError, match=r"shares has shape \(15,\), expected \(14,\)"):
        case.run(backend, DagPlan((DARTS, DARTS, DARTS[1:])))
    case.constants[0] = case.constants[0][1:]
    with pytest.raises(ValueError, match=r"mean has shape \(2,\), expected \(3,\)"):
        case.run(backend)


@pytest.mark.parametrize("engine", ENGINES)
def test_different_devices_are_named(engine):
    case = Case([DARTS], 2, 2, 3, 5)
    case.leaves[3] = case.leaves[3].to("meta")
    with pytest.raises(RuntimeError, match="same device, got cpu and meta"):
        case.run(engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_different_dtypes_are_named(engine):
    case = Case([DARTS], 2, 2, 3, 5)
    case.leaves[3] = case.leaves[3].float()
    with pytest.raises(RuntimeError, match=r"same dtype, got torch\.float32 and torch\.float64"):
        case.run(engine)


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
def test_an_empty_batch_is_a_batch(backend):
    out, *gradients = Case([DARTS] * 3, 4, 0, 3, 5).gradients(backend)
    assert out.shape == (4, 0, 5)
    assert all(one is None or not one.any() for one in gradients)


@pytest.mark.parametrize("backend", ["reference", *ENGINES])
@pytest.mark.parametrize("norm", NORMS)
def test_autocast_is_taken_and_the_answer_has_the_weights_dtype(backend, norm):
    case = Case([DARTS] * 3, 4, 3, 3, 5, norm, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        case.leaves[3] = nn.Linear(3, 3)(case.leaves[3]).detach()
        assert case.leaves[3].dtype == torch.bfloat16
        out, _ = case.run(backend)
        assert out.dtype == torch.float32
    case.leaves[3] = case.leaves[3].float()
    assert torch.equal(out, case.run(backend)[0])


def test_auto_takes_the_fastest_that_can_run_it_and_says_where_that_is_not_the_first():
    case = Case([DARTS], 2, 2, 3, 5)
    assert backends.choose_dag_supernet("auto", case.plan, case.leaves[0]) == "native"
    with pytest.raises(BackendError, match="backend 'triton' cannot run this dag: it has no loop for the DAG backbone"):
        case.run("triton")
    arguments = (torch.device("cuda"), torch.float32, (("tanh", "sigmoid", "relu"),), "dag")
    backends._choose.cache_clear()
    with pytest.warns(UserWarning, match="'triton' cannot run this dag: it has no loop for .*'torch' runs it"):
        assert backends._choose("auto", *arguments) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        backends._choose("auto", *arguments)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_compilers_and_function_transforms_see_an_operator(engine, norm):
    case = Case([DARTS] * 3, 3, 4, 3, 5, norm)
    wanted = case.gradients(engine)

    def loss(*leaves):
        *tensors, x, h_0 = leaves
        out, _ = dag_supernet.run_on(engine, case.plan, DagTensors(*tensors, *case.constants), x, h_0)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).sin().view_as(out)
        return (weight * out).sum() + out.square().mean()

    leaves = [one.detach() for one in case.leaves]
    found = torch.func.grad(loss, tuple(range(5)))(*leaves)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    leaves = [one.requires_grad_() for one in leaves]
    again = torch.autograd.grad(compiled(*leaves), leaves)
    for one, other, true in zip(found, again, wanted[2:], strict=True):
        torch.testing.assert_close(one, true, **TIGHT)
        torch.testing.assert_close(other, true, **TIGHT)
