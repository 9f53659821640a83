"""`equations.txt` of models of signals, followed with NumPy on samples in their own units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from grownas import Genotype
from grownas.cells.derived import derived_cell
from grownas.equations import for_people
from grownas.genotype import AnyGenotype, DagGenotype, DagNode, Node, Op
from grownas.model_equations import model_equations
from grownas.tasks.predistortion import equations, model
from grownas.tasks.predistortion.equations import formulas_of
from grownas.tasks.predistortion.model import SignalModel, delayed, start_at
from grownas.tasks.predistortion.options import FEATURES, MEMORY
from grownas.tasks.predistortion.polynomial import Shape
from grownas.tasks.predistortion.polynomial_path import path_of
from grownas.tasks.predistortion.simulated import simulated
from support.blocks import SMALL
from support.following_signals import FollowedSignal
from support.polynomials import fit

UNITS = (0.25, 40.0)
RECORDING = simulated(1)
NODES = (Node((Op("add", "tanh", 0.6), Op("hadamard", "sigmoid", 0.4))), Node((Op("add", "relu"),)))
DAG = DagGenotype((DagNode(0, "tanh"), DagNode(1, "sigmoid")), (1, 2))
POLYNOMIAL = Shape(5, 8, 3, 3, 2)
IQ = ("i", "q")
DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


class Case(NamedTuple):
    genotype: AnyGenotype
    features: tuple[str, ...] = FEATURES
    taps: int = 0
    is_relative: bool = False
    polynomial: Shape | None = None


CASES = {
    "chain": Case(Genotype(NODES)),
    "one feature": Case(Genotype(NODES), ("sin",), taps=1),
    "highway, shared projection": Case(Genotype(NODES, True, True), taps=2, polynomial=Shape(3, 3)),
    "chain, relative": Case(Genotype(NODES), ("abs3", "cos", "i"), taps=4, is_relative=True, polynomial=POLYNOMIAL),
    "dag": Case(DAG, taps=MEMORY, polynomial=POLYNOMIAL),
    "dag, relative": Case(DAG, taps=12, is_relative=True),
    "bit widths": Case(Genotype(NODES).with_bits([(4, 8), (8, 6), (16, 12)]), taps=1, polynomial=Shape(3, 3)),
    "blocks": Case(SMALL, IQ),
    "blocks, polynomial": Case(SMALL, IQ, polynomial=POLYNOMIAL),
}


def made(case: Case, dtype: torch.dtype) -> SignalModel:
    """Return a model with drawn weights; the coefficients of its polynomial are fitted, then changed."""
    generator = torch.Generator().manual_seed(0)
    core = derived_cell(case.genotype, len(case.features) * (case.taps + 1), 5, backend="auto")
    core.reset_parameters(generator)
    drawn = SignalModel(core, case.features, case.taps, is_relative=case.is_relative, generator=generator)
    if case.polynomial is not None:
        signals = RECORDING.x["train"][:1000], RECORDING.y["train"][:1000]
        start_at(drawn, *path_of(fit(*signals, case.polynomial), *signals))
        with torch.no_grad():
            drawn.readout.weight.normal_(generator=generator)
            drawn.readout.bias.normal_(generator=generator)
            drawn.polynomial.change.normal_(generator=generator)
            drawn.scale.fill_(0.3)  # so that cell and polynomial both matter
    return drawn.to(dtype).eval()


def samples() -> np.ndarray:
    """Return complex samples in their own units; the first ones and some others are silent."""
    signal = RECORDING.x["test"][:120] / np.abs(RECORDING.x["test"][:120]).max() * UNITS[0]
    signal[:2] = signal[50:60] = 0
    return signal


def truth(drawn: SignalModel, signal: np.ndarray) -> np.ndarray:
    """Return PyTorch's output in its own units, complex."""
    pairs = torch.from_numpy(np.stack([signal.real, signal.imag], axis=-1) / UNITS[0]).to(drawn.readout.weight)
    with torch.no_grad():
        out, _ = drawn(delayed(torch.cat([pairs.new_zeros(MEMORY, 2), pairs])[:, None], MEMORY))
    return UNITS[1] * torch.view_as_complex(out[:, 0].double()).numpy()


def text_of(drawn: SignalModel, job="model") -> str:
    return model_equations(drawn, formulas_of(drawn, UNITS, job))


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_following_the_text_gives_the_output_in_its_own_units(name, dtype, tolerance):
    drawn = made(CASES[name], dtype)
    found, wanted = FollowedSignal(text_of(drawn)).output(samples()), truth(drawn, samples())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("part", ["unit_in", "unit_out", "scale", "polynomial_coefficients", "W_out", "b_out"])
def test_every_number_around_the_cell_matters(part):
    drawn = made(CASES["chain, relative"], torch.float64)
    followed, wanted = FollowedSignal(text_of(drawn)), truth(drawn, samples())
    followed.blocks[part] = followed.blocks[part] * 1.01
    assert np.abs(followed.output(samples()) - wanted).max() > 1e-4 * np.abs(wanted).max()


def test_each_feature_has_a_formula():
    assert list(equations.FEATURES) == list(model.FEATURES) == list(FEATURES)


def test_the_formulas_for_people_are_those_of_the_model():
    shown = for_people(text_of(made(CASES["chain, relative"], torch.float32)))
    for line in (
        "  v_t       the same, scaled: v_t = input_t / unit_in; 0 before the first sample",
        "  p_t = v_t / |v_t|, or 1 where v_t = 0",
        "  r_k = v_(t-k) * conj(p_t), k = 0 .. 4",
        "  abs3(r) = abs(r)**3",
        "  x_t = [abs3(r_k), cos(r_k), i(r_k)], each for all k before the next",
        "  y_t = (I + jQ) * p_t",
        "  output_t = unit_out * y_t, the amplifier's output, in its own units",
    ):
        assert f"\n{line}\n" in shown
    plain = for_people(text_of(made(CASES["blocks"], torch.float32)))
    assert plain.startswith("Model of a power amplifier with a network of blocks on complex samples: 2 cell(s); ")
    assert "  y_t = I + jQ\n" in plain
    assert not {"p_t", "power\n"} & set(plain.split(" "))


@pytest.mark.parametrize(("job", "words"), [("model", "the amplifier's input"), ("predistort", "drives the amplifier")])
def test_a_predistorter_says_that_it_drives_the_amplifier(job, words):
    shown = for_people(text_of(made(CASES["chain"], torch.float32), job))
    assert words in shown
    assert shown.startswith("Predistorter") == ("drives" in shown) == (job == "predistort")
