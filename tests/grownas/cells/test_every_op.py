"""Every activation with every combine on every backend, from the tables: a new line in one is tested by being there.

`reference` is the truth, in float64, and automatic differentiation that of second derivatives.
"""

from __future__ import annotations

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.cells import reference, torch_loop
from grownas.cells.backends import BACKENDS
from grownas.criteria.curvature import UnitSearch
from grownas.genotype import DagGenotype, DagNode
from grownas.ops import ACTIVATION, COMBINE

TIGHT = {"rtol": 1e-10, "atol": 1e-11}
ENGINES = [name for name in BACKENDS if name != "reference"]
SIZES = [(1, 1, 1, 1), (1, 4, 3, 5), (3, 3, 2, 17)]  # T, B, I, H; one step, and sizes that no register divides
SWITCHES = [{}, {"highway": True}, {"share_projection": True}, {"highway": True, "share_projection": True}]

each_engine = pytest.mark.parametrize("engine", ENGINES)


def for_each_op(test):
    return pytest.mark.parametrize("combine", COMBINE)(pytest.mark.parametrize("activation", ACTIVATION)(test))


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain(ops, inputs, hidden, **switches):
    """Nodes of a chain with uneven shares."""
    generator = torch.Generator().manual_seed(1)
    backbone = Backbone.from_ops(inputs, hidden, ops, generator=generator, **switches).double()
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(torch.randn(alpha.shape, generator=generator))
    return backbone


def skip_unless_it_runs(engine, *activations):
    reason = BACKENDS[engine].unsupported(torch.device("cpu"), torch.float64, set(activations))
    if reason is not None:
        pytest.skip(f"{engine}: {reason}")


def assert_same(run, truth, wanted, out_shape):
    """Compare values, values without gradients, and the gradients in all that is wanted."""
    weight, found = draw(*out_shape, seed=9), []
    for one in (run, truth):
        out = one()
        gradients = torch.autograd.grad((weight * out).sum() + out.square().mean(), wanted, allow_unused=True)
        with torch.no_grad():
            again = one()
        found.append([out.detach(), again, *(torch.zeros(()) if g is None or not g.any() else g for g in gradients)])
    torch.testing.assert_close(*found, **TIGHT)


@each_engine
@for_each_op
@pytest.mark.parametrize("switches", SWITCHES, ids=lambda one: "+".join(one) or "plain")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_chain_is_the_references(engine, combine, activation, switches, sizes):
    """The op among others: twice, so that two share a projection under that switch, and alone in a second node."""
    skip_unless_it_runs(engine, activation, "tanh")
    (T, B, inputs, hidden), op = sizes, (combine, activation)
    backbone = chain([[op, ("add", "tanh"), op, ("hadamard", "tanh")], [op]], inputs, hidden, **switches)
    nodes, x, h_0 = backbone.mixed_nodes(), draw(T, B, inputs).requires_grad_(), draw(B, hidden).requires_grad_()

    def by(run):
        return lambda: run(nodes, [node.shares for node in nodes], x, h_0)

    wanted = [x, h_0, *backbone.parameters()]
    assert_same(by(BACKENDS[engine].run), by(reference.run), wanted, (T, B, hidden))


@each_engine
@pytest.mark.parametrize("activation", ACTIVATION)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_dag_is_the_references(engine, activation, sizes):
    if BACKENDS[engine].run_dag is None:
        pytest.skip(f"{engine} has no loop for the DAG backbone")
    skip_unless_it_runs(engine, activation, "tanh", "sigmoid")
    T, B, inputs, hidden = sizes
    genotype = DagGenotype((DagNode(0, activation), DagNode(1, "tanh"), DagNode(0, activation)), (1, 2, 3))
    wanted = [draw(inputs, 2 * hidden), 0.5 * draw(4, hidden, 2 * hidden), draw(T, B, inputs), draw(B, hidden)]
    wanted = [one.requires_grad_() for one in wanted]

    def by(run):
        return lambda: run(genotype, *wanted)

    assert_same(by(BACKENDS[engine].run_dag), by(reference.run_dag), wanted, (T, B, hidden))


@each_engine
@for_each_op
def test_a_trace_is_the_references(engine, combine, activation):
    skip_unless_it_runs(engine, activation, "identity")
    nodes = chain([[(combine, activation), ("add", "identity")], [(combine, activation)]], 3, 5).mixed_nodes()
    shares, weight = [node.shares.detach() for node in nodes], draw(4, 2, 5, seed=9)
    found = [
        BACKENDS[name].tracer(nodes, shares)(draw(4, 2, 3), draw(2, 5), lambda out: weight * out.cos())
        for name in (engine, "reference")
    ]
    torch.testing.assert_close(*found, **TIGHT)


@for_each_op
def test_products_with_splitting_matrices_are_autograds(combine, activation):
    backbone = chain([[(combine, activation)]], 3, 5)
    (node,) = backbone.mixed_nodes()
    x, s, gradient = draw(9, 3), draw(9, 5, seed=2), draw(9, 5, seed=3)
    parameters = [getattr(node, name) for name in COMBINE[combine].parameters]
    out = reference.step(node, node.shares, x, s)
    first = torch.autograd.grad((gradient * out).sum(), parameters, create_graph=True)
    vector = draw(sum(one.numel() // 5 for one in parameters), 5, seed=4)  # (D, units)
    pieces = vector.split([one.numel() // 5 for one in parameters])
    slope = sum((one.flatten() * piece.flatten()).sum() for one, piece in zip(first, pieces, strict=True))
    truth = [torch.zeros_like(one) for one in parameters]
    if slope.requires_grad:
        truth = torch.autograd.grad(slope, parameters, materialize_grads=True)

    search = UnitSearch(node, 0, [0], curvature="exact", multiply=torch_loop.multiply, block=1, tolerance=1e-7, most=9)
    ones = x.new_ones(9, 1)
    with torch.no_grad():
        found = search.product(search, torch.cat([x, ones, s, ones], 1), search.theta, gradient)(vector.unsqueeze(1))
    torch.testing.assert_close(found.squeeze(1), torch.cat([one.reshape(-1, 5) for one in truth]), **TIGHT)


@pytest.mark.parametrize("combine", COMBINE)
def test_a_combines_facts_hold(combine):
    """Slopes and the mixed derivative are autograd's; at `neutral` z is p; the engine's two codes are all there are."""
    table = COMBINE[combine]
    p, q = draw(7).requires_grad_(), draw(7, seed=1).requires_grad_()
    slopes = torch.autograd.grad(table.value(p, q).sum(), [p, q], create_graph=True)
    torch.testing.assert_close([torch.as_tensor(one).expand(7).double() for one in table.slopes(p, q)], list(slopes))
    mixed = torch.autograd.grad(slopes[0].sum(), q)[0] if slopes[0].requires_grad else torch.zeros(7).double()
    assert (mixed == table.mixed).all()
    assert torch.equal(table.value(p, torch.tensor(table.neutral)), p)
    assert sorted(one.code for one in COMBINE.values()) == [0, 1]
    assert ("b_h" in table.parameters) == (table.mixed != 0)
