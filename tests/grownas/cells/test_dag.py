"""Derived cells of the DAG backbone, on every backend, against a few lines of the formula as it was published."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grownas.cells import backends, native_loop
from grownas.cells.cell import GrownRNN
from grownas.cells.dag import DagLayer
from grownas.genotype import DagGenotype, DagNode, Genotype, published

BACKENDS = ["reference", "torch", "native"]
ENGINES = BACKENDS[1:]
TIGHT = {"rtol": 1e-10, "atol": 1e-11}
FUNCTIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z}
FUNCTIONS |= {"silu": lambda z: z * z.sigmoid(), "softsign": lambda z: z / (1 + z.abs())}
I, H = 3, 5  # noqa: E741 - the field's names


def pairs(genotype):
    """A genotype as DARTS writes it: (activation, predecessor) of each node."""
    return [(node.activation, node.reads) for node in genotype.nodes]


def formula(recurrent, concat, W_0, Ws, x, h):
    """Liu, Simonyan & Yang (2019), as their code computes it: gates first among the columns, no biases."""
    H, out = h.shape[1], []
    for x_t in x:
        c_0, h_0 = torch.split(torch.cat([x_t, h], 1) @ W_0, H, 1)
        states = [h + c_0.sigmoid() * (h_0.tanh() - h)]
        for (name, j), W_i in zip(recurrent, Ws, strict=True):
            c_i, h_i = torch.split(states[j] @ W_i, H, 1)
            states.append(states[j] + c_i.sigmoid() * (FUNCTIONS[name](h_i) - states[j]))
        h = sum(states[i] for i in concat) / len(concat)
        out.append(h)
    return torch.stack(out)


@st.composite
def dags(draw):
    nodes = [
        DagNode(draw(st.integers(0, i)), draw(st.sampled_from(list(FUNCTIONS)))) for i in range(draw(st.integers(1, 9)))
    ]
    return DagGenotype(tuple(nodes), tuple(draw(st.sets(st.integers(0, len(nodes))))))


def make(genotype, inputs=I, hidden=H, layers=1, seed=0, **options):
    cell = GrownRNN(genotype, inputs, hidden, layers, **options)
    cell.reset_parameters(torch.Generator().manual_seed(seed))
    return cell.double()


def randn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def compare(genotype, T, B, inputs, hidden, seed=0, dtype=torch.float64, tolerance=TIGHT):
    """Values and all gradients of every backend against the formula, in float64."""
    x, h = randn(T, B, inputs, seed=seed), randn(B, hidden, seed=seed + 1)
    weight, found = randn(T, B, hidden, seed=seed + 2), []
    for backend in BACKENDS:
        cell = make(genotype, inputs, hidden, seed=seed, backend=backend).to(dtype)
        wanted = [x.to(dtype).requires_grad_(), h.to(dtype).requires_grad_(), *cell.parameters()]
        out, h_n = cell(wanted[0], wanted[1].unsqueeze(0))
        assert torch.equal(h_n[0], out[-1])
        loss = (weight.to(dtype) * out).sum() + out.square().mean()
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)  # of a node that leads nowhere
        found.append([out, *_zeros_for_none(gradients, wanted)])
    x.requires_grad_(), h.requires_grad_()
    W_x, W_h = (one.detach().double() for one in cell.layer(0).parameters())
    W_0, Ws = torch.cat([W_x, W_h[0]]), list(W_h[1:].clone())
    for W in (W_0, *Ws):
        W.requires_grad_()
    truth = formula(pairs(genotype), genotype.concat, W_0, Ws, x, h)
    wanted = [x, h, W_0, *Ws]
    gradients = torch.autograd.grad((weight * truth).sum() + truth.square().mean(), wanted, allow_unused=True)
    dx, dh, dW_0, *dWs = _zeros_for_none(gradients, wanted)
    expected = [truth, dx, dh, dW_0[:inputs], torch.stack([dW_0[inputs:], *dWs])]
    for backend, values in zip(BACKENDS, found, strict=True):
        for name, value, true in zip(("out", "x", "h_0", "W_x", "W_h"), values, expected, strict=True):
            torch.testing.assert_close(
                value.double(), true, **tolerance, msg=lambda text, at=f"{backend}, {name}: ": at + text
            )
    return expected


@settings(max_examples=60)
@given(genotype=dags(), sizes=st.tuples(*[st.integers(1, 5)] * 4), seed=st.integers(0, 99))
def test_any_dag_is_the_formula_in_values_and_all_gradients(genotype, sizes, seed):
    compare(genotype, *sizes, seed=seed)


def _zeros_for_none(gradients, wanted):
    return [torch.zeros_like(one) if g is None else g for g, one in zip(gradients, wanted, strict=True)]


SIZES = [(1, 1, 1, 1), (1, 4, 3, 5), (6, 1, 3, 5), (9, 7, 11, 13), (3, 15, 2, 16), (3, 11, 2, 17), (2, 9, 40, 37)]


@pytest.mark.parametrize("name", sorted(published()))
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_published_cell_is_the_formula_at_odd_sizes(name, sizes):
    """Below, at and past the widths of vector registers, for which the C code works in padded scratch."""
    gradients = compare(Genotype.load(name), *sizes)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", sorted(published()))
def test_float32_agrees_to_its_precision(name):
    compare(Genotype.load(name), 7, 3, I, 37, dtype=torch.float32, tolerance={"rtol": 1e-4, "atol": 2e-5})


@pytest.mark.skipif(native_loop.MISSING is not None, reason=str(native_loop.MISSING))
def test_every_instruction_set_computes_it():
    for isa in native_loop._native.instruction_sets():
        before = native_loop._native.use(isa)
        try:
            compare(Genotype.load("darts_v2"), 4, 5, I, 21)
        finally:
            native_loop._native.use(before)


def test_a_step_written_out_by_hand():
    """One unit, one node; sigmoid(0) = 1/2 opens both gates half."""
    cell = make(DagGenotype((DagNode(0, "identity"),)), 1, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    cell.load_op_parameters(0, 0, 0, {"gate_x": 0 * one, "gate_h": 0 * one, "W_x": 2 * one, "W_h": -one})
    cell.load_op_parameters(0, 1, 0, {"gate_h": 0 * one, "W_h": 3 * one})
    out, _ = cell(0.3 * one.unsqueeze(0), 0.5 * one.unsqueeze(0))
    # s_0 = (0.5 + tanh(0.6 - 0.5)) / 2 = (0.5 + 0.0996680) / 2; s_1 = (s_0 + 3 s_0) / 2 = 2 s_0
    assert out.item() == pytest.approx(0.5 + 0.09966799462, abs=1e-10)


@pytest.mark.parametrize("backend", ENGINES)
def test_gradcheck(backend):
    """By finite differences, which know nothing of the reference."""
    genotype = DagGenotype(
        tuple(DagNode(j, name) for j, name in ((0, "tanh"), (1, "identity"), (1, "sigmoid"))), (0, 3)
    )
    cell = make(genotype, 2, 2, 2, backend=backend)
    x, h_0 = randn(3, 2, 2).requires_grad_(), randn(2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, h_0, *_: cell(x, h_0), (x, h_0, *cell.parameters()))


V2 = Genotype.load("darts_v2")


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_shapes_are_grus(batch_first, batched, with_state):
    shape = ((4, 6, I) if batch_first else (6, 4, I)) if batched else (6, I)
    h_0 = randn(*((2, 4, H) if batched else (2, H))) if with_state else None
    cell, gru = make(V2, layers=2, batch_first=batch_first), nn.GRU(I, H, 2, batch_first=batch_first).double()
    for got, wanted in zip(cell(randn(*shape), h_0), gru(randn(*shape), h_0), strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_are_stacked_and_steps_are_the_sequence(backend):
    cell, x = make(V2, layers=2, backend=backend), randn(6, 2, I)
    lower, upper = make(V2, backend=backend), make(V2, inputs=H, backend=backend)
    lower.layers[0].load_state_dict(cell.layers[0].state_dict())
    upper.layers[0].load_state_dict(cell.layers[1].state_dict())
    whole, last = cell(x)
    torch.testing.assert_close(upper(lower(x)[0])[0], whole, rtol=0, atol=1e-14)
    h = None
    for t in range(6):
        out, h = cell.step(x[t], h)
        torch.testing.assert_close(out, whole[t], rtol=0, atol=1e-14)
    torch.testing.assert_close(h, last, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gradients_it_computes_the_same_and_the_future_never_changes_the_past(backend):
    """There the buffers hold one step at a time."""
    cell, x = make(V2, layers=2, backend=backend), randn(6, 2, I)
    out, _ = cell(x)
    with torch.no_grad():
        assert torch.equal(cell(x)[0], out)
        for t in range(5):
            changed = x.clone()
            changed[t + 1 :] = randn(5 - t, 2, I, seed=9)
            again, _ = cell(changed)
            assert torch.equal(again[: t + 1], out[: t + 1])
            assert not torch.equal(again[t + 1], out[t + 1])


def test_dropout_acts_between_layers_in_training_only():
    cell, plain, x = make(V2, layers=2, dropout=0.5), make(V2, layers=2), randn(20, 4, I)
    torch.manual_seed(0)
    dropped = cell(x)
    assert torch.equal(dropped[1][0], plain(x)[1][0])
    assert not torch.equal(dropped[0], plain(x)[0])
    assert torch.equal(cell.eval()(x)[0], plain(x)[0])


def test_state_dict_pickle_and_copies_keep_the_function():
    cell, x = make(V2, layers=2), randn(5, 2, I)
    assert list(cell.state_dict()) == ["layers.0.W_x", "layers.0.W_h", "layers.1.W_x", "layers.1.W_h"]
    out, _ = cell(x)
    other = make(V2, layers=2, seed=5)
    assert not torch.equal(other(x)[0], out)
    other.load_state_dict(cell.state_dict())
    buffer = io.BytesIO()
    torch.save(cell, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    for one in (other, pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell), saved):  # noqa: S301
        assert torch.equal(one(x)[0], out)
        assert one.genotype == V2
    copied = copy.deepcopy(cell)
    copied.reset_parameters()
    assert torch.equal(cell(x)[0], out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_bits(backend):
    found = []
    for seed in (0, 0, 1):
        cell, x = make(V2, layers=2, seed=seed, backend=backend).float(), randn(7, 3, I, dtype=torch.float32)
        out, _ = cell(x)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(cell.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*found[:2], strict=True))
    assert not torch.equal(found[0][0], found[2][0])


def test_weights_are_drawn_within_the_chains_bounds():
    weights = torch.cat([p.flatten() for p in make(V2).parameters()])
    assert 0.9 / H**0.5 < weights.abs().max() <= 1 / H**0.5


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_are_left_out_where_nobody_wants_them(engine):
    cell = make(V2, backend=engine)
    for one in cell.parameters():
        one.requires_grad_(False)
    x, h_0 = randn(4, 2, I), randn(1, 2, H).requires_grad_()
    cell(x, h_0)[0].sum().backward()
    assert h_0.grad is not None
    assert x.grad is None
    assert all(one.grad is None for one in cell.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_backward_can_be_repeated_and_a_second_derivative_is_refused(engine):
    cell, x = make(V2, backend=engine), randn(4, 2, I).requires_grad_()
    out, _ = cell(x)
    wanted = [x, *cell.parameters()]
    first = torch.autograd.grad(out.square().sum(), wanted, retain_graph=True)
    second = torch.autograd.grad(out.square().sum(), wanted, retain_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend=.reference"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("engine", ENGINES)
def test_different_devices_are_named(engine):
    with pytest.raises(RuntimeError, match="same device, got cpu and meta"):
        make(V2, backend=engine)(randn(2, 1, I).to("meta"))


@pytest.mark.parametrize("engine", ENGINES)
def test_different_dtypes_are_named(engine):
    with pytest.raises(RuntimeError, match=r"same dtype, got torch\.float32 and torch\.float64"):
        make(V2, backend=engine)(randn(2, 1, I, dtype=torch.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_is_taken_and_the_answer_has_the_weights_dtype(backend):
    cell = make(V2, layers=2, backend=backend).float()
    x = randn(5, 2, I, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        handed_on = nn.Linear(I, I)(x)
        for one in (x, handed_on):
            out, h_n = cell(one)
            assert out.dtype == h_n.dtype == torch.float32
            out.square().mean().backward()
    assert torch.equal(out, cell(handed_on.float())[0])


def test_on_cuda_autocast_computes_in_its_own_dtype(monkeypatch):
    """On the CPU made to count as such a device; gradients reach the float32 weights."""
    from grownas.cells import chain

    monkeypatch.setattr(chain, "LOW_PRECISION", {"cpu"})
    cell, x = make(V2, backend="torch").float(), randn(3, 2, I, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = cell(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in cell.parameters())
    torch.testing.assert_close(out.float(), cell(x)[0], rtol=0.05, atol=0.02)
    double = make(V2, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert double(x.double())[0].dtype == torch.float64


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_is_a_batch(backend):
    out, h_n = make(V2, backend=backend)(randn(5, 0, I))
    assert (out.shape, h_n.shape) == ((5, 0, H), (1, 0, H))
    out.sum().backward()


def test_op_parameters_are_live_views():
    cell, x = make(V2, layers=2), randn(4, 2, I)
    sizes = {name: tuple(view.shape) for name, view in cell.op_parameters(0, 0, 0).items()}
    assert sizes == {"gate_h": (H, H), "W_h": (H, H), "gate_x": (I, H), "W_x": (I, H)}
    views = cell.op_parameters(1, 8, 0)
    assert {name: tuple(view.shape) for name, view in views.items()} == {"gate_h": (H, H), "W_h": (H, H)}
    before, _ = cell(x)
    with torch.no_grad():
        views["gate_h"] += 1
    assert not torch.equal(cell(x)[0], before)


def test_load_op_parameters_writes_one_node_and_names_what_does_not_fit():
    cell = make(V2)
    before = copy.deepcopy(cell)
    cell.load_op_parameters(0, 3, 0, {"W_h": torch.full((H, H), 7.0)})
    for node in range(9):
        for name, value in cell.op_parameters(0, node, 0).items():
            is_changed = (node, name) == (3, "W_h")
            wanted = torch.full_like(value, 7.0) if is_changed else before.op_parameters(0, node, 0)[name]
            assert torch.equal(value, wanted)
    with pytest.raises(ValueError, match="node 1 has gate_h, W_h, not b_x"):
        cell.load_op_parameters(0, 1, 0, {"b_x": torch.zeros(H)})
    with pytest.raises(ValueError, match=r"W_x has shape \(5, 3\), expected \(3, 5\)"):
        cell.load_op_parameters(0, 0, 0, {"W_x": torch.zeros(H, I)})
    for node, op in ((9, 0), (-1, 0), (1, 1)):
        with pytest.raises(
            IndexError, match=rf"has nodes 0\.\.8, 0 the input node, and op 0; got node {node}, op {op}"
        ):
            cell.op_parameters(0, node, op)


def test_auto_takes_the_fastest_that_can_run_a_dag_and_says_where_that_is_not_the_first():
    assert make(V2).chosen_backend == "native"
    assert make(V2, backend="torch").chosen_backend == "torch"
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run this dag: it has no loop for the DAG backbone"):
        make(V2, backend="triton")(randn(2, 1, I))
    layer = DagLayer(V2, I, H)
    arguments = (torch.device("cuda"), layer.W_x.dtype, (("tanh", "sigmoid"),), "dag")
    backends._choose.cache_clear()
    with pytest.warns(UserWarning, match="'triton' cannot run this dag: it has no loop for .*'torch' runs it"):
        assert backends._choose("auto", *arguments) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        backends._choose("auto", *arguments)
    with pytest.raises(RuntimeError, match="'native' cannot run this dag: it computes in float32 and float64"):
        make(V2, backend="native").half()(randn(2, 1, I).half())


def test_it_learns_to_repeat_what_came_a_step_before():
    """A whole loop of an optimiser, as with any module."""
    torch.manual_seed(0)
    cell, readout = make(V2, hidden=8), nn.Linear(8, I).double()
    optimizer = torch.optim.Adam([*cell.parameters(), *readout.parameters()], lr=0.02)
    x = randn(40, 4, I)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (readout(cell(x)[0])[1:] - x[:-1]).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * x.var().item()
