"""ONNX graphs written by arithmetic, run by ONNX's own reference evaluator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.errors import GenotypeError
from grownas.ops import ACTIVATION, BUILT_IN, Activation

pytest.importorskip("onnx", reason="the extra onnx is not installed")
from grownas.export.graph import FUNCTIONS, Graph, Sizes, evaluate, in_words  # only with onnx

Z = np.linspace(0.1, 3, 6).reshape(2, 3)


def run(write, z=Z):
    """Return the value, at z, of a function that is written as a graph of its own."""
    graph = Graph(z.dtype)
    graph.output("y", write(graph, graph.input("z", z.dtype, z.shape)), z.dtype, z.shape)
    (found,) = evaluate(graph.model("test", {}), z)
    return found


@pytest.mark.parametrize(
    "f",
    [
        lambda z: z + 2,
        lambda z: 2 + z,
        lambda z: z - 3,
        lambda z: 3 - z,
        lambda z: z * 0.5,
        lambda z: 0.5 * z,
        lambda z: z / 4,
        lambda z: 4 / z,
        lambda z: -z,
        lambda z: z**2,
        lambda z: (z - 1) * (z + z) / -z,
    ],
)
def test_arithmetic_means_what_it_means_in_numpy(f):
    np.testing.assert_array_equal(run(lambda graph, z: f(z)), f(Z))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_casts_and_parts(dtype):
    weights = np.arange(12.0).reshape(3, 4).astype(dtype)

    def write(graph, z):
        first, second = (z.cast(dtype) @ graph.tensor("weights", weights)).split(2)
        return graph.add("Concat", second.cast(Z.dtype), first.cast(Z.dtype), axis=-1) @ graph.tensor(
            "cut", np.eye(4, 3)
        )

    product = Z.astype(dtype) @ weights
    np.testing.assert_allclose(run(write), product[:, [2, 3, 0]], rtol=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("scale", [-30.0, -1.0, 1.0, 30.0])
def test_an_activation_is_that_of_the_table(name, scale):
    found = run(lambda graph, z: graph.activation(name, z), scale * Z)
    np.testing.assert_allclose(found, ACTIVATION[name].f(torch.from_numpy(scale * Z)), rtol=1e-6, atol=1e-12)


@pytest.fixture
def offered():
    """Put an activation into the table for one test, by its formula alone."""

    def put(formula):
        ACTIVATION["own"] = Activation(torch.sin, lambda y, z: torch.cos(z), lambda y, z: -y, formula)

    yield put
    del ACTIVATION["own"]


@pytest.mark.parametrize("word", FUNCTIONS)
def test_an_activation_of_another_package_is_written_from_its_formula(offered, word):
    calls = "max(z, 1) * 0.5" if word == "max" else f"{word}(z) / (1 + z) - 2"
    offered(calls)
    names = {one: getattr(np, one) for one in FUNCTIONS if one != "max"} | {"max": np.maximum, "z": Z}
    np.testing.assert_allclose(run(lambda graph, z: graph.activation("own", z)), eval(calls, names), rtol=1e-12)


@pytest.mark.parametrize("formula", ["erf(z)", "z +", "z @ 'a'", "__import__('os')", "1"])
def test_a_formula_that_onnx_cannot_express_is_named(offered, formula):
    offered(formula)
    with pytest.raises(GenotypeError, match=r"activation 'own': its formula .* cannot be written as ONNX"):
        run(lambda graph, z: graph.activation("own", z))


def test_a_scan_repeats_a_step_and_returns_every_and_the_last_state():
    def step(graph, x, states):
        return [states[0] * graph.tensor("decay", np.array([0.5, 0.25])) + x, states[1] + states[0]]

    graph = Graph(np.float64)
    x, s = graph.input("x", np.float64, ("T", "B", 2)), graph.input("s", np.float64, ("B", 2))
    out, (first, second) = graph.scan(step, x, [s, s], Sizes(2, 2))
    for name, value in (("first", first), ("second", second)):
        graph.output(name, value, np.float64, ("B", 2))
    graph.output("out", out, np.float64, ("T", "B", 2))
    model = graph.model("test", {"key": "value"})
    assert in_words(model.graph.output) == ["first float64 (B, 2)", "second float64 (B, 2)", "out float64 (T, B, 2)"]
    assert [(one.key, one.value) for one in model.metadata_props] == [("key", "value")]
    xs, s_0 = np.random.default_rng(0).normal(size=(5, 3, 2)), np.ones((3, 2))
    one, two, every = s_0, s_0, []
    for x_t in xs:
        one, two = one * [0.5, 0.25] + x_t, two + one
        every.append(two)
    for found, wanted in zip(evaluate(model, xs, s_0), (one, two, np.stack(every)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
