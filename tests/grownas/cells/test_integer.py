"""A cell with bit widths in integers: PyTorch's states, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.bits import units
from grownas.cells import integer
from grownas.cells.cell import GrownRNN
from grownas.cells.quantiser import Grid
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.ops import BUILT_IN, COMBINE

widths = st.tuples(st.integers(2, 16), st.integers(2, 16))
names = st.sampled_from(sorted(BUILT_IN))
sizes = st.integers(1, 19)


@st.composite
def chains(draw):
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    highway, share_projection = draw(st.booleans()), draw(st.booleans())
    plain = Genotype(
        tuple(
            Node(tuple(Op(draw(st.sampled_from(sorted(COMBINE))), draw(names), 1 / count) for _ in range(count)))
            for count in counts
        ),
        highway,
        share_projection,
    )
    return plain.with_bits([draw(widths) for _ in units(plain)])


@st.composite
def dags(draw):
    count = draw(st.integers(1, 4))
    nodes = tuple(DagNode(draw(st.integers(0, i)), draw(names), draw(widths)) for i in range(count))
    concat = draw(st.sets(st.integers(0, count), min_size=1))
    return DagGenotype(nodes, tuple(sorted(concat)), draw(widths))


def cell_of(genotype, inputs, hidden, layers, dtype, seed):
    """A cell whose weights and step sizes are all drawn, so that some numbers lie outside their range."""
    generator = torch.Generator().manual_seed(seed)
    cell = GrownRNN(genotype, inputs, hidden, layers, backend="reference", dtype=dtype)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(0, 0.7, generator=generator)
        for grid in (part for part in cell.modules() if isinstance(part, Grid)):
            drawn = torch.randn(grid.log_step.shape, generator=generator, dtype=dtype)
            grid.log_step.copy_(drawn - grid.limit.log2())
    return cell, torch.randn(5, 3, inputs, generator=generator, dtype=dtype), generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@given(
    genotype=chains() | dags(),
    backend=st.sampled_from(["reference", "torch"]),
    inputs=sizes,
    hidden=sizes,
    layers=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_integers_give_the_states_of_pytorch_to_the_last_bit(dtype, backend, genotype, inputs, hidden, layers, seed):
    cell, x, generator = cell_of(genotype, inputs, hidden, layers, dtype, seed)
    cell.backend = backend if isinstance(genotype, Genotype) else "reference"
    h_0 = torch.randn(layers, 3, hidden, generator=generator, dtype=dtype)
    wanted = cell(x, h_0)  # with gradients: training computes the same
    with torch.no_grad():
        again = cell(x, h_0)
    found = integer.run(cell, x.numpy(), h_0.numpy())
    for one, other, mine in zip(wanted, again, found, strict=True):
        assert mine.dtype == one.detach().numpy().dtype
        assert mine.tobytes() == one.detach().numpy().tobytes() == other.numpy().tobytes()


def test_a_sum_that_float32_rounds_is_exact():
    """1,001 products of 16-bit numbers: their sum of 2^39.97 has more digits than float32 keeps."""
    genotype = Genotype((Node((Op("add", "identity", bits=(16, 16)),)),))
    cell = GrownRNN(genotype, 1001, 1, dtype=torch.float64)
    units, top = cell.layer(0)[0].quantised, 2**15 - 1
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()  # of log_step too: all steps are 1
        cell.layer(0)[0].W_x.fill_(top)
    x = torch.full((1, 1, 1001), float(top - 2), dtype=torch.float64)
    assert units.x.scale.item() == 1.0
    exact = 1001 * top * (top - 2)
    assert float(cell(x)[0].detach()) == integer.run(cell, x.numpy())[0].item() == exact
    assert int(np.float32(exact)) != exact


def test_a_cell_of_real_numbers_is_refused():
    with pytest.raises(ValueError, match="only a cell with bit widths"):
        integer.run(GrownRNN(Genotype((Node((Op("add", "tanh"),)),)), 2, 3), np.zeros((1, 1, 2), np.float32))


def test_an_input_without_a_whole_number_is_refused():
    cell = GrownRNN(Genotype((Node((Op("add", "tanh"),)),)).with_bits([(4, 4)]), 2, 3)
    with pytest.raises(ValueError, match="x has NaN"):
        integer.run(cell, np.full((1, 1, 2), np.nan, np.float32))
