"""Chains with bit widths without autograd in the time loop, against plain autograd: states and all gradients."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.bits import units
from grownas.cells import quantised_product, quantised_sequence, reference
from grownas.cells.backends import BACKENDS
from grownas.cells.cell import GrownRNN
from grownas.cells.observers import NodeObserver
from grownas.cells.quantiser import Grid, Mixture, Product
from grownas.cells.widths import MixedCell
from grownas.genotype import Genotype, Node, Op
from grownas.ops import ACTIVATION, BUILT_IN, COMBINE, Activation

TIGHT = {"rtol": 1e-10, "atol": 1e-11}
FLOAT32 = {"rtol": 1e-3, "atol": 1e-4}  # sums in another order, over 7 steps
ALL = list(itertools.product(COMBINE, BUILT_IN))
SIZES = [(1, 1, 1, 1), (1, 4, 3, 5), (6, 1, 3, 5), (9, 7, 11, 13), (3, 11, 2, 17)]
ops_lists = st.lists(st.lists(st.sampled_from(ALL), min_size=1, max_size=5), min_size=1, max_size=3)
kinds = pytest.mark.parametrize("widths", [(), (2, 4, 8)], ids=["one width", "mixed"])


def chain(*nodes, highway=False, share=False):
    """A genotype from each node's ops."""
    return Genotype(tuple(Node(tuple(Op(*op, 1 / len(ops)) for op in ops)) for ops in nodes), highway, share)


def cell_of(genotype, widths, inputs=3, hidden=5, seed=0, dtype=torch.float64):
    """A cell at drawn widths, or with a mixture of widths; some numbers lie outside the range of their grids."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(2, 17, (len(units(genotype)), 2), generator=generator).tolist()
    cell = GrownRNN(genotype.with_bits([tuple(own) for own in drawn]), inputs, hidden)
    if widths:
        for node in cell.layer(0).nodes():
            for product in (node.quantised.x, node.quantised.h):
                for name in ("weights", "inputs"):
                    count = len(product.weights.bits)
                    setattr(product, name, Grid([widths] * count, [Mixture(widths) for _ in range(count)]))
    cell.to(dtype)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
        for grid in (part for part in cell.modules() if isinstance(part, Grid)):
            grid.log_step.copy_(torch.randn(grid.log_step.shape, generator=generator) - grid.limit.log2())
            for mixture in grid.mixtures:
                mixture.to(dtype).alpha.copy_(torch.randn(len(widths), generator=generator))
    return cell


def data(T, B, inputs, hidden, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x, h_0 = (torch.randn(shape, generator=generator).to(dtype) for shape in ((T, B, inputs), (B, hidden)))
    return x.requires_grad_(), h_0.requires_grad_()


def parameters(cell):
    """The parameters by name, with those of the shares of widths and, as leaves, the shares of ops."""
    found = dict(cell.named_parameters())
    for name, grid in cell.named_modules():
        for number, mixture in enumerate(getattr(grid, "mixtures", ())):
            found[f"{name}.alpha.{number}"] = mixture.alpha
    return found


def compare(cell, x, h_0, tolerance=TIGHT):
    """Compare states and gradients with the reference; return the gradients by name."""
    nodes = cell.layer(0).nodes()
    shares = [torch.linspace(0.2, 0.7, len(node.ops), dtype=x.dtype).requires_grad_() for node in nodes]
    wanted = {"x": x, "h_0": h_0, **parameters(cell), **{f"shares.{i}": one for i, one in enumerate(shares)}}
    found = []
    for run in (reference.run, quantised_sequence.run):
        out = run(nodes, shares, x, h_0)
        weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
        gradients = torch.autograd.grad(
            (weight * out).sum() + out.square().mean(), list(wanted.values()), materialize_grads=True
        )
        found.append([out.detach(), *gradients])
    for name, truth, value in zip(["out", *wanted], *found, strict=True):
        torch.testing.assert_close(value, truth, **tolerance, msg=lambda message, name=name: f"{name}: {message}")
    return dict(zip(wanted, found[1][1:], strict=True))


@kinds
@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_all_ops_and_both_switches(widths, highway, share):
    genotype = chain(ALL, ALL[8:2:-1], highway=highway, share=share)
    gradients = compare(cell_of(genotype, widths), *data(7, 3, 3, 5))
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    assert any(".alpha." in name for name in gradients) == bool(widths)


@kinds
@given(
    ops=ops_lists,
    highway=st.booleans(),
    share=st.booleans(),
    sizes=st.tuples(*[st.integers(1, 5)] * 4),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=15)
def test_any_chain_and_size(widths, ops, highway, share, sizes, seed):
    T, B, inputs, hidden = sizes
    genotype = chain(*ops, highway=highway, share=share)
    compare(cell_of(genotype, widths, inputs, hidden, seed), *data(T, B, inputs, hidden, seed))


@kinds
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_odd_sizes(widths, sizes, dtype):
    genotype = chain(ALL, ALL[2:5], highway=True)
    cell = cell_of(genotype, widths, *sizes[2:], dtype=dtype)
    compare(cell, *data(*sizes, dtype=dtype), TIGHT if dtype == torch.float64 else FLOAT32)


@kinds
@pytest.mark.parametrize("block", [1, 500])
def test_the_size_of_blocks_does_not_matter(monkeypatch, widths, block):
    """Blocks of one step, and blocks that do not divide the number of steps."""
    monkeypatch.setattr(quantised_product, "BLOCK", block)
    compare(cell_of(chain(ALL[:2], highway=True), widths), *data(8, 3, 3, 5))


@given(
    ops=ops_lists,
    highway=st.booleans(),
    share=st.booleans(),
    sizes=st.tuples(*[st.integers(1, 19)] * 3),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(deadline=None, max_examples=15)
def test_at_one_width_the_states_have_the_bits_of_the_reference(dtype, ops, highway, share, sizes, seed):
    B, inputs, hidden = sizes
    cell = cell_of(chain(*ops, highway=highway, share=share), (), inputs, hidden, seed, dtype)
    nodes, (x, h_0) = cell.layer(0).nodes(), data(5, B, inputs, hidden, seed, dtype)
    shares = [node.shares for node in nodes]
    assert torch.equal(quantised_sequence.run(nodes, shares, x, h_0), reference.run(nodes, shares, x, h_0))


@pytest.mark.parametrize(("bits", "count", "dtype"), [(8, 1040, "float32"), (8, 1041, "float64"), (16, 1, "float64")])
def test_sums_are_exact_in_the_dtype_of_the_product(bits, count, dtype):
    """1040 * 127^2 is the last sum below 2^24."""
    product, top = Product(Grid([[bits]]), Grid([[bits]])), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for grid in (product.weights, product.inputs):
            grid.log_step.zero_()
    operands = product.operands(torch.full((1, count, 1), float(top)))
    assert operands.whole.dtype == getattr(torch, dtype)
    assert quantised_product.product(operands, torch.full((1, count), float(top))).item() == float(
        torch.tensor(count * top * top, dtype=torch.float32)
    )


def test_no_sequence_at_all():
    compare(cell_of(chain(ALL[:3], highway=True), ()), *data(3, 0, 3, 5))


def test_an_activation_of_another_package(monkeypatch):
    sine = Activation(torch.sin, lambda y, z: torch.cos(z), lambda y, z: -y, "sin(z)")
    monkeypatch.setitem(ACTIVATION, "sine", sine)
    compare(cell_of(chain([("hadamard", "sine"), ("add", "sine")]), (2, 8)), *data(4, 2, 3, 5))


def test_gradients_are_left_out_where_nobody_wants_them():
    cell = cell_of(chain(ALL[:3]), ()).requires_grad_(False)
    x, h_0 = data(4, 2, 3, 5)
    out, _ = cell(x.detach(), h_0.unsqueeze(0))
    (found,) = torch.autograd.grad(out.sum(), h_0)
    cell.backend = "reference"
    out, _ = cell(x.detach(), h_0.unsqueeze(0))
    torch.testing.assert_close(found, torch.autograd.grad(out.sum(), h_0)[0], **TIGHT)
    cell.backend = "torch"
    assert not cell(x.detach())[0].requires_grad


@kinds
def test_a_backward_pass_may_be_repeated(widths):
    cell, (x, h_0) = cell_of(chain(ALL, highway=True), widths), data(4, 2, 3, 5)
    loss = cell(x, h_0.unsqueeze(0))[0].square().sum()
    first, second = (torch.autograd.grad(loss, [x, *cell.parameters()], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("by", ["x", "h_0", "weights"])
def test_a_second_derivative_names_the_backend_that_has_it(by):
    cell, (x, h_0) = cell_of(chain(ALL, highway=True), ()), data(4, 2, 3, 5)
    wanted = {"x": x, "h_0": h_0, "weights": cell.layer(0).nodes()[0].W_h}[by]
    loss = cell(x, h_0.unsqueeze(0))[0].square().sum()
    (first,) = torch.autograd.grad(loss, wanted, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend=.reference"):
        first.square().sum().backward()


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # jvp loads a part of torch that uses it
def test_the_reference_runs_what_has_no_loop():
    """A forward-mode derivative, `torch.func`, and a node with a blend."""
    cell, (x, h_0) = cell_of(chain(ALL, highway=True), ()), data(4, 2, 3, 5)
    nodes = cell.layer(0).nodes()
    shares, tangent = [node.shares for node in nodes], torch.ones_like(h_0)

    def run(h, backend=quantised_sequence):
        return backend.run(nodes, shares, x, h)

    _, forward = torch.func.jvp(run, (h_0,), (tangent,))
    _, pull = torch.func.vjp(run, h_0)
    (gradient,) = torch.autograd.grad(run(h_0).sum(), h_0)
    torch.testing.assert_close(forward.sum(), (gradient * tangent).sum(), **TIGHT)
    torch.testing.assert_close(pull(torch.ones_like(run(h_0)))[0], gradient, **TIGHT)
    nodes[0].set_blend(0.25)
    assert torch.equal(run(h_0), run(h_0, reference))


def test_a_trace_knows_the_widths():
    """What a chain's nodes read, and the gradients there: the engine's tracer multiplies real numbers."""
    cell, (x, h_0) = cell_of(chain(ALL[:3]), ()), data(4, 2, 3, 5)
    nodes = cell.layer(0).nodes()
    shares = [node.shares.detach() for node in nodes]
    found, wanted = (
        BACKENDS[name].tracer(nodes, shares)(x.detach(), h_0.detach(), torch.ones_like)
        for name in ("torch", "reference")
    )
    assert all(map(torch.equal, (*found.inputs, *found.gradients), (*wanted.inputs, *wanted.gradients)))


def test_training_a_mixture_learns_what_the_reference_learns():
    real = GrownRNN(chain([("add", "tanh"), ("hadamard", "relu")]), 3, 5, dtype=torch.float64)
    real.reset_parameters(torch.Generator().manual_seed(0))
    x, _ = data(6, 4, 3, 5)
    weights = {"x": real.layer(0).nodes()[0].W_x, "h": real.layer(0).nodes()[0].W_h}
    seen = NodeObserver({name: own.transpose(0, 1) for name, own in weights.items()})
    for product in (seen.x, seen.h):
        product.seen.append(x.detach().flatten())
    mixed = MixedCell(real, (2, 4, 8), [seen])
    losses = []
    for backend in ("reference", "torch"):
        cell = copy.deepcopy(mixed)
        cell.cell.backend = backend
        optimizer = torch.optim.SGD(cell.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            loss = (cell(x.detach())[0] - 0.3).square().mean() + 0.1 * cell.expected_cost()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_products_stay_exact_where_pytorch_may_shorten_factors():
    """The setting is of one backend: PyTorch then refuses to name the precision of all."""
    product, weights = Product(Grid([[4]]), Grid([[4]])), torch.zeros(1, 3, 5)
    assert product.operands(weights).whole.dtype == torch.float32
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        assert product.operands(weights).whole.dtype == torch.float64
    finally:
        setting.fp32_precision = before
