"""`equations.txt` of a language model, followed with NumPy: it says where each number stands and gives the logits."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from grownas.cells.cell import GrownRNN
from grownas.equations import for_people, language_equations
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.tasks.penn_treebank.model import LanguageModel

WORDS, UNITS = 11, 5
OPS = (
    Op("add", "identity", 0.4, own_projection=True),
    Op("add", "tanh", 0.1),
    Op("hadamard", "sigmoid", 0.2),
    Op("hadamard", "relu", 0.3),
)
CHAIN = Genotype((Node(OPS), Node((Op("hadamard", "tanh", 0.75), Op("add", "sigmoid", 0.25)))), True, True)
DAG = DagGenotype((DagNode(0, "relu"), DagNode(1, "sigmoid"), DagNode(1, "identity")), (2, 3))
FUNCTIONS = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


def numbers_of(text, tensors):
    """Fetch each symbol's numbers as the text says, from the tensors by name."""
    found = {}
    for symbol, name, part in re.findall(r"^(\S+) = ([\w.]+)(?:\[(.*)\])?$", text, re.MULTILINE):
        value = tensors[name].numpy()
        places = []
        for one in part.split(", ") if part else []:
            first, colon, last = one.partition(":")
            places.append(slice(int(first) if first else None, int(last) if last else None) if colon else int(first))
        found[symbol] = value[tuple(places)] if places else value
    return found


def follow_chain(at, genotype, x, s):
    for j, node in enumerate(genotype.nodes, 1):
        mixed = 0.0
        for k, op in enumerate(node.ops, 1):
            here = f"[{j},{k}]"
            left, right = x @ at[f"W_x{here}"] + at[f"b_x{here}"], s @ at[f"W_h{here}"]
            z = left + right if op.combine == "add" else left * (right + at[f"b_h{here}"])
            mixed = mixed + op.share * FUNCTIONS[op.activation](z)
        gate = FUNCTIONS["sigmoid"](x @ at[f"gate_x[{j}]"] + s @ at[f"gate_h[{j}]"])
        s = s + gate * (mixed - s)
    return s


def follow_dag(at, genotype, x, h):
    gate = FUNCTIONS["sigmoid"](x @ at["gate_x[0]"] + h @ at["gate_h[0]"])
    states = [h + gate * (np.tanh(x @ at["W_x[0]"] + h @ at["W_h[0]"]) - h)]
    for i, node in enumerate(genotype.nodes, 1):
        s = states[node.reads]
        gate = FUNCTIONS["sigmoid"](s @ at[f"gate_h[{i}]"])
        states.append(s + gate * (FUNCTIONS[node.activation](s @ at[f"W_h[{i}]"]) - s))
    return np.mean([states[i] for i in genotype.concat], axis=0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("genotype", "follow"), [(CHAIN, follow_chain), (DAG, follow_dag)])
def test_the_text_followed_with_numpy_gives_the_logits(genotype, follow, tied):
    generator = torch.Generator().manual_seed(1)
    cell = GrownRNN(genotype, UNITS, UNITS, backend="reference")
    cell.reset_parameters(generator)
    model = LanguageModel(cell, WORDS, tied=tied, gain=3.0, learn_gain=not tied, generator=generator).double().eval()
    with torch.no_grad():
        model.bias.uniform_(-1, 1, generator=generator)
    text = language_equations(model)
    at = numbers_of(text, model.state_dict())
    ids = torch.randint(WORDS, (7, 1), generator=generator)
    h, logits = np.zeros(UNITS), []
    for word in ids[:, 0].tolist():
        h = follow(at, genotype, at["E"][word], h)
        logits.append(at["gain"] * (h @ at["D"].T) + at["b"])
    np.testing.assert_allclose(np.array(logits), model(ids)[0][:, 0].detach().numpy(), rtol=1e-10, atol=1e-12)


def test_every_parameter_of_the_model_is_named():
    cell = GrownRNN(CHAIN, UNITS, UNITS)
    model = LanguageModel(cell, WORDS)
    text = language_equations(model)
    named = {name.partition("[")[0] for name in re.findall(r" = (\S+)", text.split("Numbers\n")[1])}
    assert named == set(model.state_dict())
    assert "exp(z[v])" in for_people(text)
    assert "safetensors" not in for_people(text)
