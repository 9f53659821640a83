"""The options of `nn.GRU` that `GrownRNN` takes: directions, packed sequences, device and dtype, by its conventions.

Values are those of cells of one direction run by hand, sequence by sequence.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from grownas.cells.cell import GrownRNN
from grownas.equations import equations
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op

I, H = 3, 4  # noqa: E741 - the field's names
CHAIN = Genotype(
    (Node((Op("hadamard", "tanh", 0.7), Op("add", "identity", 0.3))), Node((Op("add", "sigmoid"),))), highway=True
)
DAG = DagGenotype((DagNode(0, "relu"), DagNode(1, "tanh")))
EXACT = {"rtol": 0, "atol": 1e-13}
kinds = pytest.mark.parametrize("genotype", [CHAIN, DAG], ids=["chain", "dag"])
backends = pytest.mark.parametrize("backend", ["auto", "torch", "reference"])


def make(genotype=CHAIN, layers=1, seed=0, inputs=I, **options):
    cell = GrownRNN(genotype, inputs, H, layers, dtype=torch.float64, **options)
    cell.reset_parameters(torch.Generator().manual_seed(seed))
    return cell


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_way(cell, layer, *, reverse):
    """A cell of one layer and direction with a larger one's weights."""
    alone = make(cell.genotype, inputs=I if layer == 0 else H * (1 + cell.bidirectional), backend=cell.backend)
    alone.layers[0].load_state_dict(cell.layer(layer, reverse=reverse).state_dict())
    return alone


def by_hand(cell, x, h_0):
    """One sequence `(T, I)`, states `(D L, H)`: each layer and direction by a cell of its own."""
    last = []
    for layer in range(cell.num_layers):
        out = []
        for reverse in range(1 + cell.bidirectional):
            alone = one_way(cell, layer, reverse=bool(reverse))
            states, h = alone(x.flip(0) if reverse else x, h_0[len(last)][None])
            out.append(states.flip(0) if reverse else states)
            last.append(h[0])
        x = torch.cat(out, 1)
    return x, torch.stack(last)


@kinds
@backends
@pytest.mark.parametrize("layers", [1, 3])
def test_both_directions_are_two_cells(genotype, backend, layers):
    cell, x, h_0 = make(genotype, layers, bidirectional=True, backend=backend), randn(5, 2, I), randn(2 * layers, 2, H)
    out, h_n = cell(x, h_0)
    for b in range(2):
        alone, last = by_hand(cell, x[:, b], h_0[:, b])
        torch.testing.assert_close(out[:, b], alone, **EXACT)
        torch.testing.assert_close(h_n[:, b], last, **EXACT)


@settings(max_examples=30)
@given(
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    batched=st.booleans(),
    with_state=st.booleans(),
)
def test_shapes_and_order_are_grus(layers, bidirectional, batch_first, batched, with_state):
    options = {"batch_first": batch_first, "bidirectional": bidirectional}
    gru = nn.GRU(I, H, layers, dtype=torch.float64, **options)
    x = randn(*((2, 5, I) if batch_first else (5, 2, I)) if batched else (5, I))
    D = 1 + bidirectional
    h_0 = randn(*((D * layers, 2, H) if batched else (D * layers, H))) if with_state else None
    found = []
    for model in (make(layers=layers, **options), gru):
        out, h_n = model(x, h_0)
        found.append((out.shape, h_n.shape, out.dtype))
        time = 1 if batch_first and batched else 0
        assert torch.equal(h_n[-D], out.select(time, -1)[..., :H])
        if bidirectional:  # the reverse one ends at the first step
            assert torch.equal(h_n[-1], out.select(time, 0)[..., H:])
    assert found[0] == found[1]


def sequences(lengths, seed=1):
    return [randn(length, I, seed=seed + i) for i, length in enumerate(lengths)]


@kinds
@backends
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[3, 5, 1, 5], [4], [2, 2, 2], [1, 1], [6, 4, 3, 1]], ids=str)
def test_packed_sequences_are_each_sequence_alone(genotype, backend, bidirectional, lengths):
    cell = make(genotype, 2, bidirectional=bidirectional, backend=backend)
    h_0 = randn(2 * (1 + bidirectional), len(lengths), H)
    packed = pack_sequence(sequences(lengths), enforce_sorted=False)
    out, h_n = cell(packed, h_0)
    padded, found = pad_packed_sequence(out)
    assert isinstance(out, PackedSequence)
    assert found.tolist() == lengths
    for b, x in enumerate(sequences(lengths)):
        alone, last = by_hand(cell, x, h_0[:, b])
        torch.testing.assert_close(padded[: len(x), b], alone, **EXACT)
        torch.testing.assert_close(h_n[:, b], last, **EXACT)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_gradients_are_those_of_each_sequence_alone(bidirectional):
    cell, xs = make(layers=2, bidirectional=bidirectional), sequences([3, 5, 1])
    h_0 = randn(2 * (1 + bidirectional), 3, H).requires_grad_()
    for x in xs:
        x.requires_grad_()
    wanted = [*xs, h_0, *cell.parameters()]
    out, h_n = cell(pack_sequence(xs, enforce_sorted=False), h_0)
    found = torch.autograd.grad(out.data.sin().sum() + h_n.square().sum(), wanted)
    loss = sum(
        alone.sin().sum() + last.square().sum() for b, x in enumerate(xs) for alone, last in [cell(x, h_0[:, b])]
    )
    torch.testing.assert_close(found, torch.autograd.grad(loss, wanted), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_shapes_and_order_are_grus(batch_first, enforce_sorted):
    """A `GRU` and a cell agree on what is where: lengths, sorting, and which row of h_n is which sequence's."""
    lengths = [5, 3, 2] if enforce_sorted else [2, 5, 3]
    x = randn(*((3, 5, I) if batch_first else (5, 3, I)))
    options = {"batch_first": batch_first, "bidirectional": True}
    for model in (nn.GRU(I, H, 2, dtype=torch.float64, **options), make(layers=2, **options)):
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted)
        out, h_n = model(packed)
        assert out.data.shape == (10, 2 * H)
        assert torch.equal(out.batch_sizes, packed.batch_sizes)
        assert (out.sorted_indices is None) == enforce_sorted
        padded, _ = pad_packed_sequence(out)
        for b, length in enumerate(lengths):
            assert torch.equal(h_n[-2, b], padded[length - 1, b, :H])
            assert torch.equal(h_n[-1, b], padded[0, b, H:])


def test_packed_sequences_that_do_not_fit_are_quoted():
    cell = make()
    with pytest.raises(ValueError, match=r"x\.data has shape \(3, 4\), expected \(rows, 3\) of packed steps"):
        cell(pack_sequence([randn(2, 4), randn(1, 4)]))
    with pytest.raises(ValueError, match=r"h_0 has shape \(1, 3, 4\), expected \(1, 2, 4\)"):
        cell(pack_sequence([randn(2, I), randn(1, I)]), randn(1, 3, H))
    with pytest.raises(TypeError, match="h_0 is a tuple"):
        cell(pack_sequence([randn(2, I)]), (randn(1, 1, H), randn(1, 1, H)))


def test_dropout_acts_between_layers_of_packed_sequences_and_both_directions():
    cell = make(layers=2, dropout=1.0, bidirectional=True)
    found = [cell(pack_sequence(sequences([4, 2], seed)))[0].data for seed in (1, 7)]
    assert torch.equal(*found)  # the upper layer is left without input


def test_a_bidirectional_cell_has_no_steps_and_no_equations():
    cell = make(bidirectional=True)
    with pytest.raises(ValueError, match="a bidirectional cell also reads sequences backwards; it has no single"):
        cell.step(randn(2, I))
    with pytest.raises(ValueError, match="bidirectional"):
        equations(cell, nn.Linear(2 * H, I), ["a", "b", "c"], [0.0] * I, [1.0] * I)


def test_parameters_of_either_direction_are_live_views():
    cell, x = make(layers=2, bidirectional=True), randn(4, 2, I)
    forward, reverse = (cell.op_parameters(1, 0, 0, reverse=one) for one in (False, True))
    assert forward["W_x"].shape == reverse["W_x"].shape == (2 * H, H)
    before, _ = cell(x)
    cell.load_op_parameters(1, 0, 0, {"b_x": torch.full((H,), 2.0)}, reverse=True)
    assert (reverse["b_x"] == 2).all()
    after, _ = cell(x)
    assert torch.equal(after[..., :H], before[..., :H])
    assert not torch.equal(after[..., H:], before[..., H:])


def test_one_direction_keeps_the_names_of_its_weights():
    names = set(make(layers=2).state_dict())
    assert names == {name for name in make(layers=2, bidirectional=True).state_dict() if name.startswith("layers.")}
    assert "bidirectional=True" in repr(make(bidirectional=True))


@kinds
def test_device_and_dtype_are_where_and_what_the_weights_are(genotype):
    cell = GrownRNN(genotype, I, H, 2, bidirectional=True, device="meta", dtype=torch.float16)
    assert {(one.device.type, one.dtype) for one in cell.parameters()} == {("meta", torch.float16)}
    with torch.device("meta"):
        assert {one.device.type for one in GrownRNN(genotype, I, H).parameters()} == {"meta"}
    assert make(genotype)(randn(3, 2, I))[0].dtype == torch.float64


def test_a_dag_has_no_biases_and_takes_bias_false():
    assert not any("b" in name for name, _ in GrownRNN(DAG, I, H, bias=False).layers.named_parameters())
