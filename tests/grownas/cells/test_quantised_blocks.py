"""Networks of blocks with bit widths: NumPy's numbers, integers to the last bit, any cut, the gradients of LSQ."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.bits import bit_operations, multiplications, units
from grownas.blocks_equations import blocks_text
from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.cells import integer
from grownas.cells.blocks import APPLY, BlockOp, BlocksNetwork
from grownas.cells.quantised_blocks import QUANTISED, unfitted
from grownas.cells.quantiser import Grid, largest
from grownas.cells.widths import MixedCell, observe, quantised
from grownas.protocols import Window
from grownas.readout import LinearReadout
from support.blocks import SMALL
from support.following import Followed
from support.following_blocks import from_text

T, B = 30, 3
OPS = [
    "delay(0)", "delay(2)", "fir(1)", "fir(5)", "polynomial(1)", "polynomial(7)", "polynomial_all(1)",
    "polynomial_all(4)", "fir(3)-polynomial(5)-fir(2)", "polynomial_all(3)-delay(1)-fir(2)",
]  # fmt: skip
WIDTHS = [(4, 8), (6, 6), (16, 3), (2, 16), (8, 5)]  # of SMALL


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) / 2


def network_of(genotype, dtype=torch.float64, seed=0):
    """A network whose coefficients and step sizes are all drawn, so that some numbers lie outside their range."""
    generator = torch.Generator().manual_seed(seed)
    network = BlocksNetwork(genotype).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.7, generator=generator)
        for grid in (part for part in network.modules() if isinstance(part, Grid)):
            grid.log_step.copy_(torch.randn(grid.log_step.shape, generator=generator) - grid.limit.log2())
    return network


@st.composite
def genotypes(draw):
    nodes = []
    for number in range(draw(st.integers(1, 3))):
        sources = sorted(draw(st.sets(st.integers(0, number + 1), min_size=2, max_size=2)))
        nodes.append(BlockNode(tuple(BlockEdge(source, draw(st.sampled_from(OPS))) for source in sources)))
    plain = BlocksGenotype(tuple(nodes), draw(st.integers(1, 3)))
    width = st.integers(2, 16)
    return plain.with_bits([(draw(width), draw(width)) for _ in units(plain)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@given(genotype=genotypes(), seed=st.integers(0, 2**16), cuts=st.sets(st.integers(1, T - 1), max_size=4))
@settings(max_examples=60, deadline=None)
def test_integers_and_windows_cut_anywhere_give_pytorchs_outputs_to_the_last_bit(dtype, genotype, seed, cuts):
    network, x = network_of(genotype, dtype, seed), draw(T, B, 2, seed=seed, dtype=dtype)
    h_0 = draw(network.kept, B, 2, seed=seed + 1, dtype=dtype)
    wanted = [one.detach().numpy().tobytes() for one in network(x, h_0)]  # with gradients: training computes the same
    if genotype.bits:
        assert [one.tobytes() for one in integer.run(network, x.numpy(), h_0.numpy())] == wanted
    parts, state = [], h_0
    edges = [0, *sorted(cuts), T]
    for begin, end in itertools.pairwise(edges):
        with torch.no_grad():
            if end - begin == 1:
                out, state = network.step(x[begin], state)
                parts.append(out[None])
            else:
                out, state = network(x[begin:end], state)
                parts.append(out)
    assert [torch.cat(parts).numpy().tobytes(), state.numpy().tobytes()] == wanted


def on_grid(v, step, bits):
    most = 2 ** (bits - 1) - 1
    return step * np.rint(np.clip(v / step, -most, most))


def complex_on_grid(v, step, bits):
    return on_grid(v.real, step, bits) + 1j * on_grid(v.imag, step, bits)


@pytest.mark.parametrize("bits", [(2, 3), (8, 6), (5, 12)], ids=str)
@pytest.mark.parametrize("kind", QUANTISED)
def test_a_part_equals_the_formula_in_numpy(kind, bits):
    size, weights, inputs = (4, *bits) if kind == "fir" else (3, *bits)
    c, x = draw(size, 2, seed=1), draw(T, 1, 2)
    unit = QUANTISED[kind](torch.view_as_complex(c), torch.view_as_complex(x), unfitted(bits)).double()
    for grid in (part for part in unit.modules() if isinstance(part, Grid)):
        grid.log_step.data = -grid.limit.log2()  # a largest value of 1, in float64
    found = unit(torch.view_as_complex(x), torch.view_as_complex(c)).detach().numpy()[:, 0]
    c, x = c[:, 0].numpy() + 1j * c[:, 1].numpy(), x[:, 0, 0].numpy() + 1j * x[:, 0, 1].numpy()
    d_weights, d = 1 / largest(weights), 1 / largest(inputs)
    c = complex_on_grid(c, d_weights, weights)
    if kind == "fir":
        wanted = np.convolve(complex_on_grid(x, d, inputs), c)[size - 1 : T]
    else:
        t = complex_on_grid(x, d, inputs)
        r = on_grid(np.abs(t) ** (2 if kind == "polynomial" else 1), d, inputs)
        wanted = c[0] * t
        for own in c[1:]:
            t = complex_on_grid(t * r, d, inputs)
            wanted = wanted + own * t
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", QUANTISED)
def test_gradients_pass_the_rounding_unchanged(kind):
    """With fine grids that cut nothing, gradients are those of the part in real numbers."""
    c, x = (draw(3, 2, seed=1) / 4).requires_grad_(), (draw(T, 2, 2) / 4).requires_grad_()
    x.data[4] = 0  # where |x| has no derivative

    def gradients(function):
        y = function(torch.view_as_complex(x), torch.view_as_complex(c))
        return torch.autograd.grad((torch.view_as_real(y) * draw(*y.shape, 2, seed=2)).sum(), (c, x))

    unit = QUANTISED[kind](torch.view_as_complex(c), torch.view_as_complex(x), unfitted((16, 16))).double()
    for found, wanted in zip(gradients(unit), gradients(APPLY[kind]), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-3 * float(wanted.abs().max()), rtol=0)


def test_the_gradient_of_a_step_size_is_that_of_lsq():
    c, x = torch.ones(1, dtype=torch.cdouble), torch.tensor([[0.3 - 1.4j]], dtype=torch.cdouble)
    unit = QUANTISED["polynomial"](c, x, unfitted((16, 3))).double()
    torch.view_as_real(unit(x, c)).sum().backward()
    d, grid = 1 / 3, unit.products[0].inputs
    by_step = (1 - 0.3 / d) + -3  # q - v / d within the range, -L below it
    assert float(grid.log_step.grad) == pytest.approx(by_step * d * math.log(2), rel=1e-4)


def test_bits_of_zero_samples_have_finite_gradients():
    network = network_of(SMALL.with_bits(WIDTHS))
    network(torch.zeros(T, B, 2, dtype=torch.float64))[0].sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in network.parameters())


def test_the_multiplications_are_those_of_the_formulas():
    network, counted = network_of(SMALL), multiplications(SMALL, 2, 2)
    first = network.cells[0]
    coefficients = [
        own.shape[0] for op in first.modules() if isinstance(op, BlockOp) for own in op.coefficients.values()
    ]
    assert [own.weighted for own in counted.values()] == [2 * 4 * count for count in coefficients]  # two cells
    assert [own.powers for own in counted.values()] == [0, 0, 2 * (2 + 2 * 2), 0, 2 * (2 + 2 * 3)]
    assert list(counted)[1:] == [
        ("node 1", "edge 2 part 1 fir(2)"),
        ("node 1", "edge 2 part 2 polynomial(5)"),
        ("node 1", "edge 2 part 3 fir(4)"),
        ("node 2", "edge 2 part 1 polynomial_all(4)"),
    ]
    assert bit_operations(SMALL.with_bits(WIDTHS), 2, 2) == sum(
        own.weighted * a * b + own.powers * b * b for own, (a, b) in zip(counted.values(), WIDTHS, strict=True)
    )
    assert bit_operations(SMALL, 2, 2) == 1024 * sum(map(sum, counted.values()))


# ---- trained networks


@pytest.fixture
def model():
    core = BlocksNetwork(SMALL, generator=torch.Generator().manual_seed(1)).double()
    return LinearReadout(core, 2, generator=torch.Generator().manual_seed(2)).double()


def sample_of(model):
    return observe(model, [Window(draw(T, B, 2), draw(T, B, 2)), Window(draw(9, B, 2, seed=3), draw(9, B, 2))])


def test_observers_see_the_samples_that_each_part_reads(model):
    sample = sample_of(model)
    assert len(sample) == 2 * len(units(SMALL))  # of two cells
    x = torch.view_as_complex(draw(T, B, 2))
    seen = sample[0].seen[0]  # fir(3) of the input reads two samples before it
    assert torch.equal(seen, torch.cat([torch.zeros(2 * B, dtype=x.dtype), x.flatten()]))
    assert torch.equal(sample[0].seen[1][: 2 * B], x[-2:].flatten())  # the second window follows on the first
    after = APPLY["fir"](torch.cat([x.new_zeros(1, B), x]), model.core.cells[0][0][1].complex(0))
    torch.testing.assert_close(sample[2].seen[0], after.flatten().detach())  # the polynomial reads the FIR's output


def test_many_bits_change_little_and_few_change_much(model):
    sample, x, errors = sample_of(model), draw(T, B, 2, seed=5), []
    real = model.core(x)[0]
    for bits in (3, 6, 9, 12, 16):
        given = [(bits, bits)] * len(units(SMALL))
        network = quantised(model.core, given, sample)
        assert network.genotype == SMALL.with_bits(given)
        errors.append(float((network(x)[0] - real).square().mean().sqrt().detach()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 < 1e-2 < errors[0]
    assert model.core.genotype == SMALL


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "free"])
@pytest.mark.parametrize("per", ["op", "node"])
def test_the_expected_cost_is_the_mean_over_all_networks_it_may_become(model, per, tie):
    choices = (2, 8)
    mixed = MixedCell(model.core, choices, sample_of(model), per=per, tie=tie)
    assert len(mixed.mixtures) == (2 if per == "node" else 5) * (1 if tie else 2)
    with torch.no_grad():
        for number, mixture in enumerate(mixed.mixtures):
            mixture.alpha.copy_(0.3 * draw(2, seed=number))
    mean = 0.0
    for picked in itertools.product(range(2), repeat=len(mixed.mixtures)):
        chance = math.prod(m.shares.tolist()[i] for m, i in zip(mixed.mixtures, picked, strict=True))
        width = {id(m): choices[i] for m, i in zip(mixed.mixtures, picked, strict=True)}
        bits = [(width[id(weights)], width[id(inputs)]) for weights, inputs in mixed.pairs]
        mean += chance * bit_operations(SMALL, 2, 2, bits)
    most = bit_operations(SMALL, 2, 2, [(8, 8)] * 5)
    assert float(mixed.expected_cost().detach()) == pytest.approx(mean / most, rel=1e-12)


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "free"])
def test_reading_out_keeps_what_the_largest_shares_compute(model, tie):
    mixed = MixedCell(model.core, (2, 5), sample_of(model), tie=tie)
    with torch.no_grad():
        for number, mixture in enumerate(mixed.mixtures):
            mixture.alpha[number % 2] = 60.0  # the share is 1
    network, x = mixed.read_out(), draw(T, B, 2, seed=4)
    assert list(network.genotype.bits) == mixed.bits
    assert {own for bits in mixed.bits for own in bits} == {2, 5}
    torch.testing.assert_close(network(x)[0], mixed(x)[0], rtol=1e-12, atol=1e-12)


def test_cells_share_widths_but_not_step_sizes(model):
    network = quantised(model.core, WIDTHS, sample_of(model))
    first, second = ([own.bits for own in cell.modules() if isinstance(own, Grid)] for cell in network.cells)
    assert first == second
    steps = [[own.step.tolist() for own in cell.modules() if isinstance(own, Grid)] for cell in network.cells]
    assert steps[0] != steps[1]


def test_a_mixture_trains_all_of_its_parameters(model):
    mixed = MixedCell(model.core, (2, 4, 8), sample_of(model), tie=False)
    (mixed(draw(T, B, 2))[0].square().mean() + mixed.expected_cost() + mixed.entropy()).backward()
    assert all(one.grad is not None and torch.isfinite(one.grad).all() for one in mixed.parameters())
    twin = copy.deepcopy(mixed)
    with torch.no_grad():
        twin.mixtures[0].alpha[1] = 3.0
    assert (twin.bits[0], mixed.bits[0]) == ((4, 2), (2, 2))


def test_another_program_follows_its_equations():
    network = network_of(SMALL.with_bits(WIDTHS))
    text, x = blocks_text(network, "sample"), draw(T, B, 2, seed=1)
    read = Followed("\n".join(["begin", "dtype float64", *text.numbers, "end"]))
    found, wanted = from_text(read, torch.view_as_complex(x).numpy()), torch.view_as_complex(network(x)[0].detach())
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-12)
