"""`equations.txt` is followed by a small NumPy evaluator that knows nothing but the text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grownas.cells.cell import GrownRNN
from grownas.equations import NUMBERS, equations, for_people
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op, published
from grownas.ops import ACTIVATION, COMBINE

NAMES = ["A", "B & <C>", "ü"]
EVERY_OP = tuple((combine, activation) for combine in COMBINE for activation in ACTIVATION)


def make(dtype: torch.dtype, *, ops=EVERY_OP, nodes=2, layers=1, highway=False, share=False, seed=0):
    """A random model of the wanted form, and the text of it."""
    generator = torch.Generator().manual_seed(seed)
    shares = [torch.rand(len(ops), generator=generator, dtype=torch.float64) + 0.1 for _ in range(nodes)]
    genotype = Genotype(
        tuple(
            Node(tuple(Op(*op, share=float(w)) for op, w in zip(ops, weights / weights.sum(), strict=True)))
            for weights in shares
        ),
        highway=highway,
        share_projection=share,
    )
    return written(genotype, dtype, generator, layers)


def written(genotype, dtype: torch.dtype, generator: torch.Generator, layers=1):
    cell = GrownRNN(genotype, 3, 5, layers).to(dtype)
    cell.reset_parameters(generator)
    readout = nn.Linear(5, 3, dtype=dtype)
    mean, sd = np.array([0.001, -0.02, 3.0]), np.array([0.01, 1 / 3, 2.0])
    return cell, readout, mean, sd, equations(cell, readout, NAMES, mean, sd)


def truth(cell, readout, mean, sd, values):
    x = torch.from_numpy((values - mean) / sd).to(readout.weight.dtype)
    with torch.no_grad():
        return mean + sd * readout(cell(x.unsqueeze(1))[0]).squeeze(1).double().numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_following_the_text_gives_the_models_forecasts(followed, dtype, tolerance, highway, share, layers):
    cell, readout, mean, sd, text = make(dtype, highway=highway, share=share, layers=layers)
    values = np.random.default_rng(1).normal(size=(40, 3)) * sd + mean
    np.testing.assert_allclose(
        followed(text).forecast(values), truth(cell, readout, mean, sd, values), rtol=0, atol=tolerance
    )


@given(
    ops=st.lists(st.sampled_from(EVERY_OP), min_size=1, max_size=5), nodes=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_any_chain_can_be_followed(followed, ops, nodes, seed):
    cell, readout, mean, sd, text = make(torch.float64, ops=tuple(ops), nodes=nodes, seed=seed)
    values = np.random.default_rng(seed).normal(size=(6, 3)) * sd + mean
    np.testing.assert_allclose(
        followed(text).forecast(values), truth(cell, readout, mean, sd, values), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_comes_back_to_the_last_bit(followed, dtype):
    cell, readout, mean, sd, text = make(dtype)
    model = followed(text)
    assert np.array_equal(model.blocks["mean"][0], mean)
    assert np.array_equal(model.blocks["sd"][0], sd)
    assert np.array_equal(model.blocks["W_out"], readout.weight.detach().numpy().T)
    for node in range(2):
        for op in range(len(EVERY_OP)):
            for name, value in cell.op_parameters(0, node, op).items():
                block = model.blocks[f"{name}[layer=1,node={node + 1},op={op + 1}]"]
                assert np.array_equal(block, np.atleast_2d(value.detach().numpy()))
            share = model.ops[f"[layer=1,node={node + 1},op={op + 1}]"][2]
            assert dtype_of(dtype)(share) == cell.layers[0][node].shares[op].item()


def dtype_of(dtype: torch.dtype):
    return {torch.float32: np.float32, torch.float64: np.float64}[dtype]


def test_names_survive_and_the_part_for_people_has_the_shares_and_no_weights(followed):
    cell, _, _, _, text = make(torch.float32)
    people = for_people(text)
    assert json.loads(followed(text).words["series"]) == NAMES
    assert f"\n{NUMBERS}\n" not in people
    assert "begin" not in people
    op = EVERY_OP.index(("hadamard", "identity"))
    share, at = cell.genotype.nodes[1].ops[op].share, f"[2,{op + 1}]"
    assert f"{share:.4f} identity((x_t W_x{at} + b_x{at}) * (s_1 W_h{at}" in people
    assert "h_t = s_2" in people


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", sorted(published()))
@pytest.mark.parametrize("layers", [1, 2])
def test_a_published_cell_can_be_followed(followed, dtype, tolerance, name, layers):
    generator = torch.Generator().manual_seed(0)
    cell, readout, mean, sd, text = written(Genotype.load(name), dtype, generator, layers)
    values = np.random.default_rng(1).normal(size=(40, 3)) * sd + mean
    np.testing.assert_allclose(
        followed(text).forecast(values), truth(cell, readout, mean, sd, values), rtol=0, atol=tolerance
    )


@given(
    nodes=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(list(ACTIVATION))), min_size=1, max_size=6),
    concat=st.sets(st.integers(0, 6)),
    seed=st.integers(0, 99),
)
def test_any_dag_can_be_followed(followed, nodes, concat, seed):
    genotype = DagGenotype(
        tuple(DagNode(reads % (i + 1), activation) for i, (reads, activation) in enumerate(nodes)),
        tuple(i for i in concat if i <= len(nodes)),
    )
    cell, readout, mean, sd, text = written(genotype, torch.float64, torch.Generator().manual_seed(seed))
    values = np.random.default_rng(seed).normal(size=(6, 3)) * sd + mean
    np.testing.assert_allclose(
        followed(text).forecast(values), truth(cell, readout, mean, sd, values), rtol=0, atol=1e-10
    )


BITS = [(4, 8), (2, 3), (16, 12), (8, 6)]
WITH_BITS = {
    "chain": Genotype(
        (Node(tuple(Op(*op, 0.5) for op in EVERY_OP[:2])), Node(tuple(Op(*op, 0.5) for op in EVERY_OP[-2:])))
    ).with_bits(BITS),
    "gated": Genotype((Node((Op("add", "tanh"),)), Node((Op("hadamard", "relu"),))), highway=True).with_bits(BITS),
    "shared": Genotype((Node(tuple(Op(*op, 0.25) for op in (*EVERY_OP[:3], EVERY_OP[-1]))),), True, True).with_bits(
        BITS[:3]
    ),
    "dag": DagGenotype((DagNode(0, "relu"), DagNode(1, "tanh"), DagNode(0, "identity"))).with_bits(BITS),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("backbone", WITH_BITS)
def test_a_cell_with_bit_widths_can_be_followed(followed, backbone, dtype, tolerance):
    generator = torch.Generator().manual_seed(3)
    cell = GrownRNN(WITH_BITS[backbone], 3, 5, 2, backend="reference").to(dtype)
    cell.reset_parameters(generator)
    readout, mean, sd = nn.Linear(5, 3, dtype=dtype), np.zeros(3), np.array([0.01, 1 / 3, 2.0])
    values = np.random.default_rng(1).normal(size=(6, 3)) * sd
    text = equations(cell, readout, NAMES, mean, sd)
    expected = truth(cell, readout, mean, sd, values)
    np.testing.assert_allclose(followed(text).forecast(values), expected, rtol=0, atol=tolerance)
    people = for_people(text)
    assert "Q8(x_t) Q4(" in people
    assert "d is the step size of v" in people
    assert "Q" not in for_people(equations(GrownRNN(WITH_BITS[backbone].with_bits([]), 3, 5), readout, NAMES, mean, sd))


def test_a_dags_equations_for_people():
    genotype = DagGenotype((DagNode(0, "relu"), DagNode(0, "identity"), DagNode(2, "relu")), (1, 3))
    people = for_people(written(genotype, torch.float32, torch.Generator(), 2)[-1])
    lines = [line.strip() for line in people[people.index("Cell of layer 2") :].splitlines()]
    assert lines[:11] == [
        "Cell of layer 2",
        "u_t = h_t of layer 1",
        "c_0 = sigmoid(u_t gate_x[0] + h_(t-1) gate_h[0])",
        "s_0 = h_(t-1) + c_0 * (tanh(u_t W_x[0] + h_(t-1) W_h[0]) - h_(t-1))",
        "c_1 = sigmoid(s_0 gate_h[1])",
        "s_1 = s_0 + c_1 * (relu(s_0 W_h[1]) - s_0)",
        "c_2 = sigmoid(s_0 gate_h[2])",
        "s_2 = s_0 + c_2 * (identity(s_0 W_h[2]) - s_0)",
        "c_3 = sigmoid(s_2 gate_h[3])",
        "s_3 = s_2 + c_3 * (relu(s_2 W_h[3]) - s_2)",
        "h_t = (s_1 + s_3) / 2",
    ]
    assert [word for word in ACTIVATION if f"\n  {word}(z) = " in people] == ["identity", "tanh", "sigmoid", "relu"]
    assert "tanh(s" not in people
