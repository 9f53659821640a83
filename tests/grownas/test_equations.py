"""`equations.txt` is followed by a small NumPy evaluator that knows nothing but the text."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grownas.cells.cell import GrownRNN
from grownas.equations import NUMBERS, equations, for_people
from grownas.genotype import Genotype, Node, Op
from grownas.ops import ACTIVATION, COMBINE

FUNCTIONS = {"tanh": np.tanh, "exp": np.exp, "max": np.maximum}  # what the formulas of the file call
NAMES = ["A", "B & <C>", "ü"]
EVERY_OP = tuple((combine, activation) for combine in COMBINE for activation in ACTIVATION)


class Followed:
    """Reads the part from `begin` to `end` as the file says, and forecasts."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.words, self.blocks, self.ops = {}, {}, {}
        self.activation, self.combine = {}, {}
        rest = iter(lines[lines.index("begin") + 1 : lines.index("end")])
        for line in rest:
            name, _, value = line.partition(" ")
            shape = re.fullmatch(r"(\d+)x(\d+)", value)
            if shape:
                rows = [next(rest).split(" ") for _ in range(int(shape[1]))]
                assert {len(row) for row in rows} == {int(shape[2])}
                self.blocks[name] = np.array(rows, dtype=float)
            elif name.startswith("op["):
                self.ops[name[2:]] = value.split()
            elif name in ("activation", "combine"):
                word, formula = value.split(" = ")
                getattr(self, name)[word] = formula
            else:
                self.words[name] = value
        self.dtype = np.dtype(self.words["dtype"])
        self.blocks = {k: v if k in ("mean", "sd") else v.astype(self.dtype) for k, v in self.blocks.items()}

    def call(self, name: str, z: np.ndarray) -> np.ndarray:
        return eval(self.activation[name], {**FUNCTIONS, "z": z})

    def node(self, place: str, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        total, number = 0, 1
        while f"[{place},op={number}]" in self.ops:
            label = f"[{place},op={number}]"
            combine, activation, share = self.ops[label]
            formula = re.sub(r"([xs]) (W_[xh])", r"(\1 @ \2)", self.combine[combine])
            mine = {name[:3]: block for name, block in self.blocks.items() if name[3:] == label}
            z = eval(formula, {**mine, "x": x, "s": s})
            total, number = total + self.dtype.type(share) * self.call(activation, z), number + 1
        if self.words["highway"] == "no":
            return total
        gate = self.call("sigmoid", x @ self.blocks[f"gate_x[{place}]"] + s @ self.blocks[f"gate_h[{place}]"])
        return s + gate * (total - s)

    def forecast(self, values: np.ndarray) -> np.ndarray:
        """From values `(T, I)` in their own units to forecasts of the next days, likewise."""
        layers, nodes, hidden = (int(self.words[key]) for key in ("layers", "nodes", "hidden"))
        mean, sd = self.blocks["mean"], self.blocks["sd"]
        states = [np.zeros((1, hidden), self.dtype) for _ in range(layers)]
        forecasts = []
        for value in values:
            x = ((value - mean) / sd).astype(self.dtype)
            for layer in range(layers):
                for node in range(nodes):
                    states[layer] = self.node(f"layer={layer + 1},node={node + 1}", x, states[layer])
                x = states[layer]
            forecasts.append(mean + sd * (x @ self.blocks["W_out"] + self.blocks["b_out"]))
        return np.concatenate(forecasts)


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
def test_following_the_text_gives_the_models_forecasts(dtype, tolerance, highway, share, layers):
    cell, readout, mean, sd, text = make(dtype, highway=highway, share=share, layers=layers)
    values = np.random.default_rng(1).normal(size=(40, 3)) * sd + mean
    np.testing.assert_allclose(
        Followed(text).forecast(values), truth(cell, readout, mean, sd, values), rtol=0, atol=tolerance
    )


@given(
    ops=st.lists(st.sampled_from(EVERY_OP), min_size=1, max_size=5), nodes=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_any_chain_can_be_followed(ops, nodes, seed):
    cell, readout, mean, sd, text = make(torch.float64, ops=tuple(ops), nodes=nodes, seed=seed)
    values = np.random.default_rng(seed).normal(size=(6, 3)) * sd + mean
    np.testing.assert_allclose(
        Followed(text).forecast(values), truth(cell, readout, mean, sd, values), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_comes_back_to_the_last_bit(dtype):
    cell, readout, mean, sd, text = make(dtype)
    followed = Followed(text)
    assert np.array_equal(followed.blocks["mean"][0], mean)
    assert np.array_equal(followed.blocks["sd"][0], sd)
    assert np.array_equal(followed.blocks["W_out"], readout.weight.detach().numpy().T)
    for node in range(2):
        for op in range(len(EVERY_OP)):
            for name, value in cell.op_parameters(0, node, op).items():
                block = followed.blocks[f"{name}[layer=1,node={node + 1},op={op + 1}]"]
                assert np.array_equal(block, np.atleast_2d(value.detach().numpy()))
            share = followed.ops[f"[layer=1,node={node + 1},op={op + 1}]"][2]
            assert dtype_of(dtype)(share) == cell.layers[0][node].shares[op].item()


def dtype_of(dtype: torch.dtype):
    return {torch.float32: np.float32, torch.float64: np.float64}[dtype]


def test_names_survive_and_the_part_for_people_has_the_shares_and_no_weights():
    cell, _, _, _, text = make(torch.float32)
    people = for_people(text)
    assert json.loads(Followed(text).words["series"]) == NAMES
    assert f"\n{NUMBERS}\n" not in people
    assert "begin" not in people
    assert f"{cell.genotype.nodes[1].ops[4].share:.4f} identity((x_t W_x[2,5] + b_x[2,5]) * (s_1 W_h[2,5]" in people
    assert "h_t = s_2" in people
