"""Models of signals as ONNX: the output of PyTorch, for sequences of any length and sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas import Genotype, GrownRNN
from grownas.genotype import DagGenotype, DagNode, Node, Op
from grownas.tasks.predistortion.export import ends_of
from grownas.tasks.predistortion.model import SignalModel, delayed, start_at
from grownas.tasks.predistortion.options import FEATURES
from grownas.tasks.predistortion.polynomial import Shape
from grownas.tasks.predistortion.polynomial_path import path_of
from grownas.tasks.predistortion.simulated import simulated
from support.polynomials import fit

pytest.importorskip("onnx", reason="the extra onnx is not installed")
from grownas.export.model import onnx_model  # only with onnx

CHAIN = Genotype((Node((Op("add", "tanh", 0.6), Op("hadamard", "sigmoid", 0.4))), Node((Op("add", "relu"),))))
DAG = DagGenotype((DagNode(0, "tanh"), DagNode(1, "sigmoid")), (1, 2))
UNITS = (0.25, 40.0)
RECORDING = simulated(1)
SIGNAL = UNITS[0] * RECORDING.x["train"][:1000] / np.abs(RECORDING.x["train"][:1000]).max()
CASES = {
    "no register": (CHAIN, 0, False, None),
    "register": (CHAIN, 4, False, Shape(3, 3)),
    "relative phases": (CHAIN, 2, True, Shape(5, 8, 3, 3, 2)),
    "relative phases, dag": (DAG, 12, True, None),
}


@pytest.fixture(params=CASES)
def model(request) -> SignalModel:
    """A model with drawn weights, and in some cases with a fitted polynomial whose coefficients were trained."""
    genotype, taps, is_relative, shape = CASES[request.param]
    generator = torch.Generator().manual_seed(0)
    core = GrownRNN(genotype, len(FEATURES) * (taps + 1), 5)
    core.reset_parameters(generator)
    drawn = SignalModel(core, FEATURES, taps, is_relative=is_relative, generator=generator).eval()
    if shape is not None:
        signals = RECORDING.x["train"][:1000], RECORDING.y["train"][:1000]
        start_at(drawn, *path_of(fit(*signals, shape), *signals))
        with torch.no_grad():
            drawn.readout.weight.normal_(generator=generator)
            drawn.polynomial.change.normal_(generator=generator)
    return drawn


@pytest.fixture(scope="module")
def session():
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return lambda proto: runtime.InferenceSession(proto.SerializeToString())


def drawn_samples(T: int, B: int) -> np.ndarray:
    """Return samples in their own units, `(T, B, 2)`, some of which are silent."""
    samples = UNITS[0] * np.random.default_rng(1).uniform(-0.7, 0.7, (T, B, 2))
    samples[T // 2 : T // 2 + 3] = 0
    return samples


def truth(model: SignalModel, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return PyTorch's output in its own units, and the last state."""
    x = torch.cat([torch.zeros(model.memory, *samples.shape[1:]), torch.from_numpy(samples / UNITS[0]).float()])
    with torch.no_grad():
        out, state = model(delayed(x, model.memory))
    return UNITS[1] * out.double().numpy(), state.numpy()


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("T", [1, 35, 200])
def test_a_sequence_of_any_length_gives_the_output_of_pytorch(session, model, T, B):
    samples = drawn_samples(T, B)
    run = session(onnx_model(model, "sequence", {}, ends_of(model, UNITS, SIGNAL)))
    assert [one.name for one in run.get_inputs()] == ["samples"]
    (found, state), (wanted, last) = run.run(None, {"samples": samples}), truth(model, samples)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert np.abs(state - last).max() < 1e-5


def test_one_sample_after_the_other_gives_the_output_of_the_sequence(session, model):
    samples = drawn_samples(35, 2)
    run = session(onnx_model(model, "step", {}, ends_of(model, UNITS, SIGNAL)))
    state, register = np.zeros((1, 2, 5), np.float32), np.zeros((2, 2 * model.memory))
    kept = {"state": state, **({"register": register} if model.memory else {})}
    assert {one.name for one in run.get_inputs()} == {"samples", *kept}
    found = []
    for sample in samples:
        output, *after = run.run(None, {"samples": sample, **kept})
        found.append(output)
        kept = dict(zip(kept, after, strict=True))
    wanted, last = truth(model, samples)
    assert np.abs(np.stack(found) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert np.abs(kept["state"] - last).max() < 1e-5
