"""A core that computes one genotype at a time: what the masked supernet computes, and nothing of what is not drawn."""

from __future__ import annotations

import copy
import itertools
import random
from dataclasses import replace

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.backbones.shared import SharedChain, SharedDag
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.ops import COMBINE
from grownas.space import SearchSpace
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, Recipe

CHAIN = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid", "relu"), max_nodes=3)
SWITCHES = [{"highway": a, "share_projection": b} for a, b in itertools.product([False, True], repeat=2)]
ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
I, H = 3, 5  # noqa: E741  # odd sizes


def seeded(number):
    return torch.Generator().manual_seed(number)


def x_and_state(T=7, B=3):
    draws = seeded(9)
    x = torch.randn(T, B, I, generator=draws, dtype=torch.float64)
    return x, torch.randn(1, B, H, generator=draws, dtype=torch.float64)


def shared_chain(genotype=None, *, inputs=I, **switches):
    core = SharedChain(inputs, H, [CHAIN.ops] * 3, lambda: genotype, **switches, generator=seeded(1)).double()
    core.chosen = genotype
    return core


def shared_dag(genotype=None, *, inputs=I):
    core = SharedDag(inputs, H, 4, ACTIVATIONS, lambda: genotype, generator=seeded(1)).double()
    core.chosen = genotype
    return core


MADE = {"chain": shared_chain, "dag": shared_dag}


def chain_genotypes(switches):
    rng, space = random.Random(2), replace(CHAIN, **switches)
    yield Genotype((Node((Op("hadamard", "relu", 0.25), Op("add", "tanh", 0.75))),), **switches)
    yield from (space.sample(rng) for _ in range(5))


def dag_genotypes():
    rng, space = random.Random(2), SearchSpace((), ACTIVATIONS, max_nodes=4, backbone="dag")
    yield from (space.sample(rng) for _ in range(6))


def masked_chain(core, genotype, **switches):
    """The supernet of all ops with the core's weights, whose shares are 0 but for the genotype's ops."""
    full = Backbone(I, H, len(genotype.nodes), CHAIN.ops, **switches).double()
    shares = []
    for number, (own, node) in enumerate(zip(core.nodes, genotype.nodes, strict=False)):
        for place, op in enumerate(CHAIN.ops):
            key = op[0] if switches["share_projection"] else "/".join(op)
            names = ("W_x", "W_h"), [name for name in COMBINE[op[0]].parameters if name.startswith("b")]
            parts = own.projections[key], own.biases["/".join(op)]
            values = {name: part[name] for part, some in zip(parts, names, strict=True) for name in some}
            full.load_op_parameters(number, place, values)
        if switches["highway"]:
            with torch.no_grad():
                full.nodes[number].gate_x.copy_(own.gate["gate_x"])
                full.nodes[number].gate_h.copy_(own.gate["gate_h"])
        kept = {(op.combine, op.activation): op.share for op in node.ops}
        shares.append(torch.tensor([kept.get(op, 0.0) for op in CHAIN.ops], dtype=torch.float64))
    full.set_shares(shares)
    return full


def masked_dag(core, genotype):
    """The supernet of DARTS with the weights of the drawn ops, whose shares are 0 but for these."""
    full = DagBackbone(I, H, len(genotype.nodes), ACTIVATIONS).double()
    shares = []
    with torch.no_grad():
        full.W_x.copy_(core.input["W_x"])
        full.W_h.copy_(core.input["W_h"])
        for number, node in enumerate(genotype.nodes):
            full.nodes[number].W_h.copy_(core.nodes[number][f"{node.reads}/{node.activation}"]["W_h"])
            for source in range(number + 1):
                kept = [float((source, name) == (node.reads, node.activation)) for name in ACTIVATIONS]
                shares.append(torch.tensor(kept, dtype=torch.float64))
    full.set_shares(shares)
    return full


def assert_one_function(core, masked):
    """The core, the masked supernet and the derived cell agree, and so do their gradients by x and by the state."""
    found = []
    for net in (core, masked, core.derive()):
        x, h_0 = (one.requires_grad_() for one in x_and_state())
        out, h_n = net.eval()(x, h_0)
        assert torch.equal(out[-1:], h_n)
        found.append((out, *torch.autograd.grad(out.square().sum(), (x, h_0))))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_chain_is_the_masked_supernet_and_the_derived_cell(switches):
    for genotype in chain_genotypes(switches):
        core = shared_chain(genotype, **switches)
        assert_one_function(core, masked_chain(core, genotype, **switches))
        assert core.derive().genotype == core.genotype() == genotype


def test_a_dag_is_the_masked_supernet_and_the_derived_cell():
    for genotype in dag_genotypes():
        core = shared_dag(genotype)
        assert_one_function(core, masked_dag(core, genotype))
        assert core.derive().genotype == core.genotype() == genotype


def test_a_derived_cell_has_weights_of_its_own():
    genotype = next(iter(dag_genotypes()))
    core = shared_dag(genotype)
    before = core.derive().state_dict()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.zero_()
    assert all(value.abs().sum() > 0 for value in before.values())


@pytest.mark.parametrize("kind", MADE)
def test_weights_are_drawn_from_the_generator_as_those_of_other_cells(kind):
    one, same = (MADE[kind]() for _ in range(2))
    values = torch.cat([parameter.detach().flatten() for parameter in one.parameters()])
    assert values.abs().max() <= H**-0.5
    assert values.std() == pytest.approx(H**-0.5 / 3**0.5, rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert len(set(values.tolist())) == len(values)  # no two weights are one draw


# ---- training


def genotypes_of(kind):
    if kind == "dag":
        return [DagGenotype((DagNode(0, "tanh"), DagNode(1, "relu"))), DagGenotype((DagNode(0, "sigmoid"),))]
    two = Node((Op("add", "tanh", 0.5), Op("hadamard", "sigmoid", 0.5)))
    return [Genotype((Node((Op("add", "relu"),)), two)), Genotype((two,))]


def used_by(core, genotype):
    """The names of the parameters that have a gradient."""
    core = copy.deepcopy(core).train()
    core.draw = lambda: genotype
    core(x_and_state()[0])[0].sum().backward()
    return {name for name, parameter in core.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_step_moves_the_drawn_ops_alone_and_leaves_the_others_their_moments(copy_task, kind, optimizer):
    first, second = genotypes_of(kind)
    task = copy_task()
    core = MADE[kind](first, inputs=task.input_size)
    model = task.model(core, generator=seeded(2))
    recipe = Recipe(epochs=1, patience=None, weights=OptimizerRecipe(optimizer, 0.05, weight_decay=0.5))
    one = fit(model, task, recipe, seed=1)
    one.model.core.draw = lambda: second
    two = fit(one.model, task, recipe, seed=2, optimizers=one.optimizers)
    names = [{f"core.{name}" for name in used_by(MADE[kind](), genotype)} for genotype in (first, second)]
    assert names[0] - names[1]
    assert names[1] - names[0]
    for before, after, used in ((model, one, names[0]), (one.model, two, names[1])):
        pairs = zip(before.named_parameters(), after.model.parameters(), strict=True)
        moved = {name for (name, old), new in pairs if not torch.equal(old, new)}
        assert {name for name in moved if name.startswith("core.")} == used
    named = {parameter: name for name, parameter in two.model.named_parameters()}
    (trained,) = two.optimizers
    own = {named[parameter] for parameter, state in trained.state.items() if state}
    assert {name for name in own if name.startswith("core.")} == names[0] | names[1]
    if optimizer == "adam":
        steps = {named[parameter]: float(state["step"]) for parameter, state in trained.state.items()}
        assert {steps[name] for name in names[0] - names[1]} == {float(one.steps)}


def test_each_batch_draws_anew_and_evaluation_does_not_draw():
    drawn = []
    core = shared_dag(DagGenotype((DagNode(0, "relu"),)))
    core.draw = lambda: drawn.append(0) or core.chosen
    core.eval()(x_and_state()[0])
    assert drawn == []
    core.train()(x_and_state()[0])
    core(x_and_state()[0])
    assert drawn == [0, 0]


def test_a_wrong_input_is_refused():
    core = shared_dag(DagGenotype((DagNode(0, "relu"),)))
    with pytest.raises(ValueError, match=r"x has shape \(7, 3, 4\), expected"):
        core(torch.zeros(7, 3, 4))
    with pytest.raises(TypeError, match="h_0 is a int"):
        core(x_and_state()[0], 3)
