"""`equations.txt` of a language model, followed with NumPy: it says where each number stands and gives the logits."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grownas.cells.cell import GrownRNN
from grownas.equations import for_people
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.language_equations import language_equations
from grownas.tasks.penn_treebank.model import LanguageModel

WORDS, UNITS = 11, 5
OPS = (
    Op("add", "identity", 0.4, own_projection=True),
    Op("add", "tanh", 0.1),
    Op("hadamard", "sigmoid", 0.2),
    Op("hadamard", "relu", 0.3),
)
CHAIN = Genotype((Node(OPS), Node((Op("hadamard", "tanh", 0.75), Op("add", "sigmoid", 0.25)))), True, True)
HIGHWAY = Genotype((Node((Op("add", "tanh"),)), Node((Op("hadamard", "relu"),))), highway=True)
PLAIN = Genotype(
    (
        Node((Op("add", "tanh", 0.5), Op("hadamard", "relu", 0.5))),
        Node((Op("add", "sigmoid", 0.5), Op("hadamard", "tanh", 0.5))),
    )
)
DAG = DagGenotype((DagNode(0, "relu"), DagNode(1, "sigmoid"), DagNode(1, "identity")), (2, 3))


def followed_model(followed_words, model):
    """Follow a model's text with its numbers."""
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    nodes = model.core.genotype.nodes
    shares = [op.share for node in nodes if isinstance(node, Node) for op in node.ops]
    return followed_words(language_equations(model), tensors, shares)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("genotype", [CHAIN, replace(CHAIN, highway=False), DAG])
def test_the_text_followed_with_numpy_gives_the_logits(followed_words, genotype, tied):
    generator = torch.Generator().manual_seed(1)
    cell = GrownRNN(genotype, UNITS, UNITS, backend="reference")
    cell.reset_parameters(generator)
    model = LanguageModel(cell, WORDS, tied=tied, gain=3.0, learn_gain=not tied, generator=generator).double().eval()
    with torch.no_grad():
        model.bias.uniform_(-1, 1, generator=generator)
    ids = torch.randint(WORDS, (7, 1), generator=generator)
    logits = followed_model(followed_words, model).logits(ids[:, 0].tolist())
    np.testing.assert_allclose(logits, model(ids)[0][:, 0].detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("genotype", [PLAIN, HIGHWAY, DAG], ids=["chain", "highway", "dag"])
def test_a_text_with_bit_widths_gives_the_logits(followed_words, genotype):
    generator = torch.Generator().manual_seed(1)
    cell = GrownRNN(genotype.with_bits([(4, 8), (3, 6), (8, 8), (2, 12)]), UNITS, UNITS, backend="reference")
    cell.reset_parameters(generator)
    model = LanguageModel(cell, WORDS, gain=3.0, generator=generator).double().eval()
    ids = torch.randint(WORDS, (7, 1), generator=generator)
    logits = followed_model(followed_words, model).logits(ids[:, 0].tolist())
    np.testing.assert_allclose(logits, model(ids)[0][:, 0].detach().numpy(), rtol=1e-10, atol=1e-12)


@given(
    picked=st.lists(st.lists(st.sampled_from(OPS), min_size=1, unique=True), min_size=1, max_size=2),
    units=st.integers(1, 3),
    share_projection=st.booleans(),
)
def test_each_symbol_is_the_part_of_the_tensor_that_it_names(followed_words, picked, units, share_projection):
    """Also where an axis has one place: of a single op, of ops that all share a projection, of a single unit."""
    nodes = [
        Node(tuple(Op(op.combine, op.activation, 1 / len(ops), op.own_projection and share_projection) for op in ops))
        for ops in picked
    ]
    cell = GrownRNN(Genotype(tuple(nodes), share_projection=share_projection), units, units)
    model = LanguageModel(cell, WORDS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    at = followed_model(followed_words, model).at
    for j, node in enumerate(nodes):
        for k in range(len(node.ops)):
            for name, value in cell.op_parameters(0, j, k).items():
                assert np.array_equal(at[f"{name}[{j + 1},{k + 1}]"], value.detach().numpy())


def test_every_parameter_of_the_model_is_named():
    cell = GrownRNN(CHAIN, UNITS, UNITS)
    model = LanguageModel(cell, WORDS)
    text = language_equations(model)
    named = set(re.findall(r" = ([\w.]+)", text.split("Numbers\n")[1]))
    assert named == set(model.state_dict())
    assert "exp(z[v])" in for_people(text)
    assert "safetensors" not in for_people(text)
