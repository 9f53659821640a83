"""Whole models as ONNX: the numbers of PyTorch, for any number of steps and streams, and refusals in words."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from grownas.cells.cell import GrownRNN
from grownas.errors import ConfigError
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op, published
from grownas.ops import ACTIVATION, BUILT_IN, COMBINE, Activation
from grownas.readout import LinearReadout
from grownas.tasks.index_returns.task import Forecaster
from grownas.tasks.penn_treebank.model import LanguageModel, Stack

pytest.importorskip("onnx", reason="the extra onnx is not installed")
import onnx
from onnx import numpy_helper

from grownas.export.graph import evaluate  # only with onnx
from grownas.export.model import onnx_model

I, H, V = 3, 5, 11  # noqa: E741 - the field's names
MEAN, SD = np.array([0.001, -0.02, 3.0]), np.array([0.01, 1 / 3, 2.0])
SWITCHES = [{}, {"highway": True}, {"share_projection": True}, {"highway": True, "share_projection": True}]
EVERY_OP = tuple(Op(combine, activation, 1 / 12) for combine in COMBINE for activation in BUILT_IN)
CHAIN = Genotype((Node(EVERY_OP), Node((Op("hadamard", "tanh", 0.7), Op("add", "identity", 0.3)))))
SMALL = Genotype((Node((Op("add", "tanh", 0.5), Op("hadamard", "sigmoid", 0.5))),))
SWITCHED = Genotype(CHAIN.nodes, highway=True, share_projection=True)
DAG = DagGenotype(tuple(DagNode(i // 2, name) for i, name in enumerate(BUILT_IN)), (1, 4, 5, 6))


def series(genotype, backend="auto"):
    core = GrownRNN(genotype, I, H, backend=backend)
    core.reset_parameters(torch.Generator().manual_seed(0))
    return Forecaster(core, MEAN, SD, generator=torch.Generator().manual_seed(1)).eval()


def words(*genotypes, backend="auto", **options):
    generator = torch.Generator().manual_seed(0)
    cores = [GrownRNN(genotype, H, H, backend=backend) for genotype in genotypes]
    for core in cores:
        core.reset_parameters(generator)
    core = cores[0] if len(cores) == 1 else Stack(cores)
    model = LanguageModel(core, V, generator=generator, **options).eval()
    with torch.no_grad():
        model.bias.uniform_(-1, 1, generator=generator)
    return model


def readout(genotype, layers):
    generator = torch.Generator().manual_seed(0)
    core = GrownRNN(genotype, I, H, layers)
    core.reset_parameters(generator)
    return LinearReadout(core, 2, generator=generator).eval()


MODELS = {
    "series, chain": functools.partial(series, CHAIN),
    "series, highway and shared projections": functools.partial(series, SWITCHED),
    "series, dag": functools.partial(series, DAG),
    "tied words": functools.partial(words, CHAIN, gain=2.0),
    "untied words": functools.partial(words, DAG, tied=False, learn_gain=True),
    "words in layers": functools.partial(words, SWITCHED, CHAIN, DAG),
    "another task": functools.partial(readout, DAG, 1),
    "another task, two layers": functools.partial(readout, CHAIN, 2),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def draw(model, T, B):
    """Return some x of a model, and the same in the units of its graph."""
    generator = torch.Generator().manual_seed(7)
    if isinstance(model, LanguageModel):
        x = torch.randint(V, (T, B), generator=generator)
        return x, x.numpy()
    x = torch.randn(T, B, I, generator=generator).to(model.readout.weight)
    return x, MEAN + SD * x.numpy() if isinstance(model, Forecaster) else x.numpy()


def truth(model, x):
    """Return PyTorch's predictions in the units of the graph, and its last states `(L, B, H)`."""
    with torch.no_grad():
        out, state = model(x)
    found = out.numpy()
    states = torch.cat(state) if isinstance(state, tuple) else state
    return (MEAN + SD * found if isinstance(model, Forecaster) else found), states.numpy()


def assert_close(found, wanted, tolerance):
    """Compare each output on its own scale: of series, the spread of each."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    scale = SD if wanted.shape[-1] == I else np.abs(wanted).max()
    assert (np.abs(found - wanted) / scale).max() < tolerance


# ---- by ONNX's own evaluator, in float64


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda one: "+".join(one) or "plain")
@pytest.mark.parametrize("activation", BUILT_IN)
@pytest.mark.parametrize("combine", COMBINE)
def test_each_op_of_a_chain(combine, activation, switches):
    op = Op(combine, activation, 0.25)
    genotype = Genotype((Node((op, Op("add", "tanh", 0.5), op)), Node((Op(combine, activation),))), **switches)
    assert_is_the_model(series(genotype, "reference").double())


@pytest.mark.parametrize("activation", BUILT_IN)
def test_each_activation_of_a_dag(activation):
    genotype = DagGenotype((DagNode(0, activation), DagNode(1, "tanh"), DagNode(0, activation)), (0, 2, 3))
    assert_is_the_model(series(genotype, "reference").double())


@pytest.mark.parametrize("name", sorted(published()))
def test_each_published_cell(name):
    assert_is_the_model(words(Genotype.load(name)).double())


def assert_is_the_model(model):
    x, given = draw(model, 6, 2)
    for found, wanted in zip(evaluate(onnx_model(model, "sequence", {}), given), truth(model, x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


# ---- by ONNX Runtime, in the weights' own float32


@pytest.mark.parametrize("B", [1, 64])
@pytest.mark.parametrize("T", [1, 35, 200])
def test_a_sequence_of_any_length_in_any_batch(session, model, T, B):
    x, given = draw(model, T, B)
    run = session(onnx_model(model, "sequence", {}))
    for found, wanted in zip(run.run(None, {run.get_inputs()[0].name: given}), truth(model, x), strict=True):
        assert_close(found, wanted, 1e-5)


@pytest.mark.parametrize("B", [1, 64])
def test_steps_one_by_one_are_the_sequence_and_go_on_after_it(session, model, B):
    _, given = draw(model, 40, B)
    sequence, step = (session(onnx_model(model, form, {})) for form in ("sequence", "step"))
    name = sequence.get_inputs()[0].name
    wanted, last = sequence.run(None, {name: given})

    def steps(given, state):
        results = []
        for one in given:
            result, state = step.run(None, {name: one, "state": state})
            results.append(result)
        return np.stack(results), state

    layers = len(last)
    found, state = steps(given, np.zeros((layers, B, H), np.float32))
    assert_close(found, wanted, 1e-5)
    assert_close(state, last, 1e-5)
    _, middle = sequence.run(None, {name: given[:25]})
    found, state = steps(given[25:], middle)
    assert_close(found, wanted[25:], 1e-5)
    assert_close(state, last, 1e-5)


# ---- with bit widths: a state may lie on another side of a rounding boundary, so only short sequences are equal

BITS = [(4, 4), (2, 8), (8, 6), (16, 12), (3, 16), (12, 8), (6, 2)]
QUANTISED = {
    "series, chain": functools.partial(series, CHAIN.with_bits((BITS * 2)[:14]), "reference"),
    "series, highway": functools.partial(series, Genotype(SMALL.nodes, True).with_bits(BITS[:3]), "reference"),
    "series, dag": functools.partial(series, DAG.with_bits(BITS), "reference"),
    "words, chain": functools.partial(words, SMALL.with_bits(BITS[:2]), backend="reference"),
}


@pytest.mark.parametrize("case", QUANTISED)
@pytest.mark.parametrize("form", ["sequence", "step"])
def test_a_cell_with_bit_widths_is_written_with_quantised_products(session, case, form):
    model = QUANTISED[case]()
    proto = onnx_model(model, form, {})
    onnx.checker.check_model(proto, full_check=True)
    assert [one.version for one in proto.opset_import] == [21]
    body = (
        proto.graph if form == "step" else next(one for one in proto.graph.node if one.op_type == "Scan").attribute[0].g
    )
    products = [one for one in body.node if one.op_type == "MatMul"]
    quantised = [one for one in body.node if one.op_type == "QuantizeLinear"]
    readout = form == "step"  # in a sequence it lies outside the step
    assert len(products) == len(quantised) + readout
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    kinds = {name: one.dtype for name, one in stored.items() if one.dtype.kind == "i" and one.ndim == 2}
    assert len(kinds) == len(quantised)
    if form == "sequence":
        x, given = draw(model, 6, 3)
        run = session(proto)
        for found, wanted in zip(run.run(None, {run.get_inputs()[0].name: given}), truth(model, x), strict=True):
            assert_close(found, wanted, 1e-5)


def test_wide_weights_are_stored_as_int16_and_narrow_ones_as_int8():
    proto = onnx_model(series(SMALL.with_bits([(8, 16), (9, 2)]), "reference"), "sequence", {})
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    found = {name.rpartition("layers.0.")[2]: one for name, one in stored.items() if name.endswith(".weights")}
    assert {name: str(one.dtype) for name, one in found.items()} == {
        "0.W_x.0.weights": "int8", "0.W_h.0.weights": "int8", "0.W_x.1.weights": "int16", "0.W_h.1.weights": "int16",
    }  # fmt: skip
    assert all(np.abs(one).max() <= (127 if one.dtype == np.int8 else 255) for one in found.values())


def test_bit_widths_in_float64_are_refused():
    refused(series(SMALL.with_bits(BITS[:2]), "reference").double(), r"in float64 .* convert it with \.float\(\)")


# ---- the file


def test_every_weight_is_stored_once_under_its_own_name(model):
    proto = onnx_model(model, "sequence", {})
    named = {name: one.numel() for name, one in model.state_dict().items()}
    stored = {}
    for one in proto.graph.initializer:
        key = next((key for key in named if one.name == key or one.name.startswith(f"{key}.")), None)
        if key is not None:
            stored[key] = stored.get(key, 0) + int(np.prod(one.dims))
    assert stored == named


def test_notes_and_opset_are_in_the_file(model):
    for form in ("sequence", "step"):
        proto = onnx_model(model, form, {"task": "a", "names": '["b"]'})
        onnx.checker.check_model(proto, full_check=True)
        assert {one.key: one.value for one in proto.metadata_props} == {"task": "a", "names": '["b"]', "form": form}
        assert [(one.domain, one.version) for one in proto.opset_import] == [("", 18)]
        assert proto.producer_name == "grownas"


# ---- what cannot be written


def refused(model, words):
    with pytest.raises(ConfigError, match=words):
        onnx_model(model, "sequence", {})


def test_a_model_that_is_no_readout_of_cells_is_refused():
    refused(Forecaster(nn.LSTM(I, H), MEAN, SD), "LSTM: it cannot be written as ONNX")
    refused(LinearReadout(GrownRNN(CHAIN, I, H, bidirectional=True), 2), "bidirectional cell also reads sequences back")

    class Other(nn.Module):
        core = GrownRNN(DAG, I, H)

    refused(Other(), "a Other cannot be written as ONNX; expected a LinearReadout or a model of words")


def test_a_model_that_computes_something_else_is_refused():
    class Doubled(LinearReadout):
        def predictions(self, out, x):
            return 2 * super().predictions(out, x)

    refused(Doubled(GrownRNN(DAG, I, H), 2), r"Doubled .* its predictions differ by [\d.]+ from those of the graph")


def test_an_activation_of_another_package_is_written_if_its_formula_is_right(monkeypatch):
    for name, formula in (("sine", "sin(z)"), ("not_sine", "sin(z + 1)")):
        monkeypatch.setitem(ACTIVATION, name, Activation(torch.sin, lambda y, z: z.cos(), lambda y, z: -y, formula))
    right, wrong = (Genotype((Node((Op("add", name),)),)) for name in ("sine", "not_sine"))
    assert_is_the_model(series(right, "reference").double())
    refused(series(wrong, "reference"), "the formula of an activation is wrong")
