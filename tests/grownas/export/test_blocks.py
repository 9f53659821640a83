"""Networks of blocks as ONNX: the numbers of PyTorch, for sequences and steps that follow on one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.cells.blocks import BlocksNetwork
from grownas.readout import LinearReadout
from support.blocks import SMALL

pytest.importorskip("onnx", reason="the extra onnx is not installed")
from grownas.export.graph import evaluate  # only with onnx
from grownas.export.model import onnx_model


def network_of(*edges, cells=1):
    """A network with one node per pair of ops, which read states 0 and 1."""
    nodes = [BlockNode((BlockEdge(0, first), BlockEdge(1, second))) for first, second in edges]
    return BlocksGenotype(tuple(nodes), cells)


GENOTYPES = {
    "two cells": SMALL,
    "one line": network_of(("fir(5)", "polynomial(1)")),
    "no memory": network_of(("polynomial(7)", "delay(0)"), ("fir(1)", "polynomial_all(1)")),
    "long parts": network_of(("fir(16)-polynomial(9)-fir(16)", "delay(3)-fir(2)"), cells=2),
}


@pytest.fixture(params=GENOTYPES)
def model(request):
    """A network with coefficients that all matter, and a readout."""
    generator = torch.Generator().manual_seed(0)
    made = LinearReadout(BlocksNetwork(GENOTYPES[request.param]), 2, generator=generator).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return made


def draw(T, B, dtype=np.float32):
    return np.random.default_rng(7).uniform(-0.7, 0.7, (T, B, 2)).astype(dtype)


def truth(model, x):
    with torch.no_grad():
        out, state = model(torch.from_numpy(x))
    return out.numpy(), state.numpy()


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(wanted[0]).max())


def test_in_float64_it_is_the_model_exactly(model):
    x = draw(6, 2, np.float64)
    for found, wanted in zip(evaluate(onnx_model(model.double(), "sequence", {}), x), truth(model, x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("B", [1, 64])
@pytest.mark.parametrize("T", [1, 35, 200])
def test_a_sequence_of_any_length_in_any_batch(session, model, T, B):
    x = draw(T, B)
    assert_close(session(onnx_model(model, "sequence", {})).run(None, {"x": x}), truth(model, x))


@pytest.mark.parametrize("B", [1, 3])
def test_steps_follow_on_one_another_and_on_the_state_of_pytorch(session, model, B):
    x, cut, step = draw(75, B), 40, session(onnx_model(model, "step", {}))
    assert [one.name for one in step.get_inputs()] == ["x", "state"]
    assert [one.name for one in step.get_outputs()] == ["predictions", "next_state"]
    wanted, last = truth(model, x)
    for first, state in ((0, np.zeros((model.core.kept, B, 2), np.float32)), (cut, truth(model, x[:cut])[1])):
        found = []
        for one in x[first:]:
            out, state = step.run(None, {"x": one, "state": state})
            found.append(out)
        assert_close([np.stack(found), state], [wanted[first:], last])


def test_taps_are_stored_under_the_name_of_their_parameter(model):
    stored = {one.name for one in onnx_model(model, "step", {}).graph.initializer}
    for name, _ in model.core.named_parameters(prefix="core"):
        assert any(one == name or one.startswith(f"{name}.") for one in stored), name
