"""Networks of blocks as ONNX: the numbers of PyTorch, for sequences and steps that follow on one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.cells.blocks import BlocksNetwork
from grownas.errors import ConfigError
from grownas.readout import LinearReadout
from support.blocks import SMALL

pytest.importorskip("onnx", reason="the extra onnx is not installed")
from onnx import numpy_helper

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


QUANTISED = {name: network_of(*edges, cells=cells) for name, edges, cells in (
    ("firs", [("fir(5)", "fir(1)-delay(2)-fir(3)")], 1),
    ("polynomials", [("polynomial(7)", "polynomial(1)"), ("polynomial_all(4)", "delay(1)")], 2),
    ("parts in a row", [("fir(4)-polynomial(5)-fir(4)", "delay(3)-fir(2)")], 1),
)}  # fmt: skip


@pytest.mark.parametrize("bits", [[(4, 8)], [(16, 12)], [(2, 6), (8, 3), (12, 16)]], ids=str)
@pytest.mark.parametrize("form", ["sequence", "step"])
@pytest.mark.parametrize("name", QUANTISED)
def test_a_network_with_bit_widths_is_written_with_quantised_products(session, name, form, bits):
    plain = QUANTISED[name]
    genotype = plain.with_bits((bits * 9)[: len(plain.units)])
    model = LinearReadout(BlocksNetwork(genotype, generator=torch.Generator().manual_seed(1)), 2).eval()
    proto, x = onnx_model(model, form, {}), draw(40, 2)
    assert [one.version for one in proto.opset_import] == [21]
    products = [one for one in proto.graph.node if one.op_type == "Conv"]
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    whole = [one for one in stored.values() if one.dtype.kind == "i" and one.dtype != np.int64 and one.ndim == 3]
    assert len(whole) == len(products) > 0
    run, wanted = session(proto), truth(model, x)
    if form == "sequence":
        found, state = run.run(None, {"x": x})
    else:
        state, outputs = np.zeros((model.core.kept, 2, 2), np.float32), []
        for one in x:
            out, state = run.run(None, {"x": one, "state": state})
            outputs.append(out)
        found = np.stack(outputs)
    for one, other in zip((found, state), wanted, strict=True):
        assert np.isclose(one, other, rtol=0, atol=1e-5).mean() > 0.98  # float32 rounds a few to the other side


def test_bit_widths_in_float64_are_refused():
    genotype = SMALL.with_bits([(4, 4)] * len(SMALL.units))
    with pytest.raises(ConfigError, match=r"in float64 .* convert it with \.float\(\)"):
        onnx_model(LinearReadout(BlocksNetwork(genotype), 2).double(), "step", {})


def test_taps_are_stored_under_the_name_of_their_parameter(model):
    stored = {one.name for one in onnx_model(model, "step", {}).graph.initializer}
    for name, _ in model.core.named_parameters(prefix="core"):
        assert any(one == name or one.startswith(f"{name}.") for one in stored), name
