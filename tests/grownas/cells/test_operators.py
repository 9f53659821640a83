"""The engines under all that follows PyTorch's operators: the same bits as without, or an error that says why not."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from grownas.backbones.chain import Backbone
from grownas.cells import dag_sequence, sequence
from grownas.cells.backends import BACKENDS
from grownas.cells.cell import GrownRNN
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit

I, H = 3, 5  # noqa: E741 - the field's names
NODES = (Node((Op("hadamard", "tanh", 0.5), Op("add", "relu", 0.5))), Node((Op("hadamard", "identity"),)))
ENGINES = [
    name
    for name, backend in BACKENDS.items()
    if name != "reference" and backend.unsupported(torch.device("cpu"), torch.float64, {"tanh"}) is None
]
MODELS = {
    "chain": functools.partial(GrownRNN, Genotype(NODES, highway=True), bidirectional=True),
    "dag": functools.partial(GrownRNN, DagGenotype((DagNode(0, "relu"), DagNode(1, "tanh"))), num_layers=2),
    "supernet": functools.partial(Backbone, nodes=2),
}


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture(params=MODELS)
def model(request, engine):
    return make(request.param, engine)


def make(kind, engine):
    if kind == "dag" and BACKENDS[engine].run_dag is None:
        pytest.skip(f"{engine} has no loop for the DAG backbone")
    torch.manual_seed(0)
    return MODELS[kind](input_size=I, hidden_size=H, backend=engine).double()


@pytest.fixture
def x():
    return torch.randn(4, 2, I, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(model, results):
    return torch.autograd.grad(sum(one.square().sum() for one in results), list(model.parameters()))


def assert_equal(found, wanted):
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def assert_same(model, other, x, *, derived=True):
    """Compare values, those of another input, which nothing may have baked in, and gradients."""
    for one in (x, x.sin()):
        assert_equal(other(one), model(one))
    if derived:
        assert_equal(gradients(model, other(x)), gradients(model, model(x)))


@pytest.mark.parametrize("with_gradients", [False, True])
def test_jit_trace(model, x, with_gradients):
    """It used to return what happened to lie in memory, without a word."""
    with torch.set_grad_enabled(with_gradients), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # constants, and checks of shapes
        traced = torch.jit.trace(model, x)
    assert_same(model, traced, x)
    with torch.no_grad():
        assert_same(model, traced, x, derived=False)


@pytest.mark.parametrize("strict", [False, True])
def test_export(model, x, strict):
    program = torch.export.export(model, (x,), strict=strict)
    assert_same(model, program.module(), x, derived=False)
    assert any("grownas." in str(node.target) for node in program.graph.nodes)


def test_export_of_any_length_and_batch(model, x):
    sizes = ({0: torch.export.Dim("T"), 1: torch.export.Dim("B")},)
    module = torch.export.export(model, (x,), dynamic_shapes=sizes).module()
    longer = torch.randn(9, 7, I, dtype=torch.float64)
    assert_equal(module(longer), model(longer))


@pytest.mark.parametrize("genotype", [Genotype(NODES[1:]), DagGenotype((DagNode(0, "relu"),))], ids=["chain", "dag"])
def test_export_of_the_reference_has_a_fixed_length_and_any_batch(genotype, x):
    model = GrownRNN(genotype, I, H, backend="reference").double()
    T, B = (torch.export.Dim(name) for name in "TB")
    module = torch.export.export(model, (x[:2],), dynamic_shapes=({1: B},)).module()
    wider = torch.randn(2, 7, I, dtype=torch.float64)
    assert_equal(module(wider), model(wider))
    with pytest.raises(torch._dynamo.exc.UserError, match="specialized it to be a constant"):
        torch.export.export(model, (x[:2],), dynamic_shapes=({0: T, 1: B},))


def compiles(backend):
    if backend != "inductor":
        return True
    try:
        torch.compile(lambda z: z + 1, backend=backend)(torch.ones(2))
    except Exception:  # whatever stands in the way: no compiler, no headers
        return False
    return True


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", MODELS)
def test_compile_without_a_graph_break(kind, engine, x, backend):
    if not compiles(backend):
        pytest.skip("torch.compile finds no C++ compiler that works here")
    torch._dynamo.reset()
    model = make(kind, engine)
    assert_same(model, torch.compile(model, fullgraph=True, backend=backend), x)


@pytest.mark.parametrize("selective", [False, True])
def test_checkpointing_gives_the_same_gradients(model, x, selective):
    """A selective checkpoint records operators, a plain one runs the engine directly."""
    choose = functools.partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default])
    kept = {"context_fn": choose} if selective else {}
    results = checkpoint(model, x, use_reentrant=False, **kept)
    assert_equal(gradients(model, results), gradients(model, model(x)))


def test_func_grad(model, x):
    def loss(parameters, x):
        return sum(one.square().sum() for one in torch.func.functional_call(model, parameters, (x,)))

    parameters = dict(model.named_parameters())
    wanted = gradients(model, model(x))
    assert_equal(torch.func.grad(loss)(parameters, x).values(), wanted)
    several = torch.stack([x, x.sin(), x.cos()])
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, several)
    assert_equal([one[0] for one in each.values()], wanted)
    assert_equal([one[2] for one in each.values()], gradients(model, model(x.cos())))


def test_vmap_over_inputs_and_over_models(model, x):
    several = torch.stack([x, x.sin()], 2)
    out = torch.func.vmap(lambda one: model(one)[0], 2)(several)
    assert_equal(out, [model(x)[0], model(x.sin())[0]])
    other = {name: one.detach() + 0.1 for name, one in model.named_parameters()}
    stacked = {name: torch.stack([one.detach(), other[name]]) for name, one in model.named_parameters()}
    found = torch.func.vmap(lambda weights: torch.func.functional_call(model, weights, (x,))[0])(stacked)
    assert_equal(found, [model(x)[0], torch.func.functional_call(model, other, (x,))[0]])


def test_jacrev_is_autograds(model, x):
    jacobian = torch.func.jacrev(lambda one: model(one)[0][-1].sum(0))(x)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(lambda one: model(one)[0][-1].sum(0), x))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(model, x, mode):
    graph = make_fx(lambda one: model(one), tracing_mode=mode, _allow_non_fake_inputs=True)(x)
    assert_same(model, graph, x, derived=False)


def test_make_fx_of_a_whole_step(model, x):
    graph = make_fx(lambda one: gradients(model, model(one)))(x)
    assert_equal(graph(x.sin()), gradients(model, model(x.sin())))


@pytest.mark.parametrize("kind", MODELS)
def test_fake_tensors(kind, engine, x):
    real = make(kind, engine)
    wanted = [one.shape for one in real(x)]
    with FakeTensorMode() as mode:
        model = MODELS[kind](input_size=I, hidden_size=H, backend=engine)
        found = model(torch.empty(4, 2, I))
        assert [one.shape for one in found] == wanted
        for one, parameter in zip(gradients(model, found), model.parameters(), strict=True):
            assert (one.shape, one.dtype) == (parameter.shape, parameter.dtype)
    with mode, pytest.raises(Exception, match="Please convert all Tensors to FakeTensors first"):
        real(x)  # without weights that are fake too
    assert [one.shape for one in real(x)] == wanted  # nothing fake was kept


def test_what_there_is_no_derivative_for_is_refused(model, x):
    def total(one):
        return model(one)[0].sum()

    forward_mode = r"no forward-mode derivative; build the model with backend='reference'"
    with pytest.raises(RuntimeError, match=forward_mode):
        torch.func.jvp(total, (x,), (x,))
    model.requires_grad_(False)
    with pytest.raises(RuntimeError, match=forward_mode), forward_ad.dual_level(), torch.no_grad():
        model(forward_ad.make_dual(x, x))
    with pytest.raises(RuntimeError, match="no second derivative; build the model with backend='reference'"):
        torch.func.grad(lambda one: torch.func.grad(total)(one).sum())(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(traced(leaf)[0].square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


def test_the_reference_has_them(x):
    model = GrownRNN(Genotype(NODES), I, H, backend="reference").double()
    _, tangent = torch.func.jvp(lambda one: model(one)[0], (x,), (torch.ones_like(x),))
    step = 1e-6
    torch.testing.assert_close(tangent, (model(x + step)[0] - model(x - step)[0]) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("keep", [False, True])
def test_pytorchs_own_check_of_operators(model, x, keep, monkeypatch):
    """Schema, fake shapes, and the derivative under the compiler, on what a model hands its operator."""
    handed, module = [], dag_sequence if isinstance(getattr(model, "genotype", None), DagGenotype) else sequence
    operate = module._operator

    def note(inputs, text):
        handed.append(([one.detach().clone().requires_grad_(keep) for one in inputs], text))
        return operate(inputs, text)

    monkeypatch.setattr(module, "_operator", note)
    make_fx(lambda one: model(one))(x)
    name = torch.ops.grownas.dag if module is dag_sequence else torch.ops.grownas.chain
    for inputs, text in handed:
        found = torch.library.opcheck(name.default, (inputs, text, keep))
        assert set(found.values()) == {"SUCCESS"}
