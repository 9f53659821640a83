"""Any sequence of morphisms: after each, its promise holds and everything else has followed."""

from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.cells.cell import GrownRNN
from grownas.genotype import Genotype
from grownas.ops import ACTIVATION, DEFAULT_OPS
from grownas.runs import checkpoint
from grownas.space import SearchSpace
from grownas.training.migrate import POWERS, migrate
from support.morphisms import IDENTITY, SWITCHES, H, I
from support.slow import mostly_slow

SPACE = SearchSpace(combine=("add", "hadamard"), activation=("identity", "tanh", "sigmoid", "relu"))
OPTIMIZERS = [
    lambda params: torch.optim.Adam(params, lr=0.003),
    lambda params: torch.optim.SGD(params, lr=0.003, momentum=0.9),
    lambda params: torch.optim.ASGD(params, lr=0.003, t0=2),
]
LEAVES = ("alpha", "W_x", "W_h", "b_x", "b_h", "gate_x", "gate_h", "weight", "bias")


class Model(nn.Module):
    """A core and a readout, as tasks make them."""

    def __init__(self, core, readout=None):
        super().__init__()
        self.core, self.readout = core, nn.Linear(H, I).double()
        if readout is not None:
            self.readout.load_state_dict(readout.state_dict())


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The five morphisms, each at a place and with arguments drawn at random: return the node and op, and what came out.


def add_node(core, rng, generator):
    node = rng.randint(0, len(core.nodes))
    ops = rng.choice([None, [rng.choice(DEFAULT_OPS) for _ in range(rng.randint(1, 4))]])
    return node, None, morphisms.add_node(core, node, rng.uniform(0.2, 0.8), generator=generator, ops=ops)


def duplicate_op(core, rng, generator):
    node, op = drawn_op(core, rng)
    return node, op, morphisms.duplicate_op(core, node, op)


def split_op(core, rng, generator):
    node, op = drawn_op(core, rng)
    size = I + 1 + H + (core.op_names(node)[op][0] == "hadamard")
    vectors = torch.randn(H, size, generator=generator, dtype=torch.float64)
    pairs = torch.randn(H, generator=generator), vectors / vectors.norm(dim=1, keepdim=True)
    return node, op, morphisms.split_op(core, node, op, pairs, 0.1)


def prune_op(core, rng, generator):
    node, op = drawn_op(core, rng, least=2)
    return node, op, morphisms.prune_op(core, node, op)


def replace_op(core, rng, generator):
    node, op = drawn_op(core, rng)
    candidate = rng.choice(list(morphisms.DRAWS.values()))(SPACE, core, node, rng)
    return node, op, morphisms.replace_op(core, node, op, candidate, generator)


def drawn_op(core, rng, least=1):
    nodes = [number for number, node in enumerate(core.mixed_nodes()) if len(node.ops) >= least]
    node = rng.choice(nodes)
    return node, rng.randrange(len(core.op_names(node)))


MORPHISMS = {each.__name__: each for each in (add_node, duplicate_op, split_op, prune_op, replace_op)}


def possible(core):
    """Names of the morphisms that can be drawn; the backbone stays small."""
    sizes = [len(node.ops) for node in core.mixed_nodes()]
    kinds = ["add_node"] * (len(sizes) < 5) + ["duplicate_op", "split_op"] * (sum(sizes) < 24)
    return [*kinds, *["prune_op"] * 2 * (max(sizes) > 1), "replace_op"]


@pytest.mark.parametrize("switches", mostly_slow(SWITCHES, keep=SWITCHES[::3]), ids=str)
@settings(max_examples=2)
@given(seed=st.integers(0, 10_000))
def test_thirty_morphisms_in_a_row(lab, tmp_path_factory, switches, seed):
    """Two training steps before each, by three optimisers that divide the parameters among them."""
    rng = random.Random(seed)
    model = Model(lab.make([[rng.choice(DEFAULT_OPS) for _ in range(3)] for _ in range(2)], *switches, seed))
    owner = {leaf: rng.randrange(3) for leaf in LEAVES}
    optimizers = make_optimizers(model, owner)
    path = tmp_path_factory.mktemp("state") / "state"
    train(model, optimizers, seed)
    for turn in range(30):
        core = model.core
        before, state = lab.snapshot(core), torch.get_rng_state()
        kind = rng.choice(possible(core))
        node, op, morphed = MORPHISMS[kind](core, rng, torch.Generator().manual_seed(rng.randrange(1000)))
        assert torch.equal(torch.get_rng_state(), state)
        lab.assert_untouched(core, before)
        lab.assert_apart(core, morphed.backbone)
        check_promise(lab, kind, node, op, core, morphed.backbone)
        grown = Model(morphed.backbone, model.readout)
        migrated = [migrate(each, morphed.origins, model, grown, prefix="core.") for each in optimizers]
        check_origins(lab, kind, node, morphed, model)
        for each in zip(optimizers, migrated, strict=True):
            check_state(*each, morphed.origins, model, grown)
        assert sorted(owners(grown, migrated)) == sorted(owners(grown, make_optimizers(grown, owner)))
        check_genotype(grown.core)
        loaded, resumed = saved_and_loaded(grown, migrated, owner, path)
        for each in ((grown, migrated), (loaded, resumed)):
            train(*each, turn)
        assert all(torch.equal(a, b) for a, b in zip(grown.parameters(), loaded.parameters(), strict=True))
        model, optimizers = grown, migrated


def make_optimizers(model, owner):
    named = list(model.named_parameters())
    return [
        make([parameter for name, parameter in named if owner[name.rpartition(".")[2]] == number])
        for number, make in enumerate(OPTIMIZERS)
        if number in owner.values()
    ]


def owners(model, optimizers):
    """Names of all parameters, each with the class of its optimiser."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        (names[parameter], type(each).__name__)
        for each in optimizers
        for group in each.param_groups
        for parameter in group["params"]
    ]


def train(model, optimizers, seed):
    """Two steps, so that every optimiser has state of everything."""
    for number in range(2):
        x = randn(4, 2, I, seed=100 * seed + number)
        model.zero_grad()
        (model.readout(model.core(x)[0])[1:] - x[:-1]).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in optimizers:
            each.step()


def check_promise(lab, kind, node, op, before, after):
    """What the whole chain computes stays; or else each node's mixture is what the definition says, from any state."""
    x, h_0 = randn(4, 2, I, seed=1), randn(1, 2, H, seed=2)
    if kind in ("add_node", "duplicate_op"):
        lab.assert_same(after(x, h_0)[0], before(x, h_0)[0], 1e-11)
        return
    changed = CHANGED[kind](lab, before.mixed_nodes()[node], after.mixed_nodes()[node], op)
    lost = 0
    if kind != "split_op":  # the constant part stays with the node, or is told to the next one, or is lost
        zeros = torch.zeros(1, I).double(), torch.zeros(1, H).double()
        lost = mixture(lab, before.mixed_nodes()[node], *zeros) - changed(*zeros)
    stays = IDENTITY in after.op_names(node)
    for number, (old, new) in enumerate(zip(before.mixed_nodes(), after.mixed_nodes(), strict=True)):
        s = randn(2, H, seed=number)
        if number == node:
            wanted, read = changed(x[0], s) + lost * stays, s
        else:
            told = number == node + 1 and not stays and not before.highway
            wanted, read = mixture(lab, old, x[0], s), s - lost * told
        lab.assert_same(mixture(lab, new, x[0], read), wanted, 1e-11)


def mixture(lab, node, x, s):
    return sum(share * lab.value_of(node, op, x, s) for op, share in enumerate(node.shares))


def without(lab, node, op, x, s):
    return mixture(lab, node, x, s) - node.shares[op] * lab.value_of(node, op, x, s)


def after_split(lab, old, new, op):
    """The op gives way to the mean of its two copies, which went opposite ways."""
    for name, value in old.op_parameters(op).items():
        lab.assert_same((new.op_parameters(op)[name] + new.op_parameters(len(old.ops))[name]) / 2, value)
    return lambda x, s: (
        without(lab, old, op, x, s)
        + old.shares[op] / 2 * sum(lab.value_of(new, place, x, s) for place in (op, len(old.ops)))
    )


def after_pruning(lab, old, new, op):
    """The others keep their parts if one is homogeneous, by a projection of its own; or else they grow."""
    users = [column for number, column in enumerate(old.projection) if number != op]
    can_inherit = any(
        ACTIVATION[kind.activation].homogeneous and users.count(old.projection[number]) == 1
        for number, kind in enumerate(old.ops)
        if number != op
    )
    factor = 1 if can_inherit else 1 / (1 - old.shares[op])
    return lambda x, s: factor * without(lab, old, op, x, s)


def after_replacing(lab, old, new, op):
    """The others keep their parts, and the candidate is a constant."""
    activation = ACTIVATION[new.ops[op].activation]
    constant = old.shares[op] * activation.f(torch.tensor(activation.start, dtype=torch.float64))
    return lambda x, s: without(lab, old, op, x, s) + constant


CHANGED = {"split_op": after_split, "prune_op": after_pruning, "replace_op": after_replacing}  # but for a constant


def check_origins(lab, kind, node, morphed, model):
    """Every new value is `stretch` times an old one, or new, or something was added there."""
    old = dict(model.core.named_parameters())
    own = {f"nodes.{node}.{name}" for name in LEAVES}
    added = {"add_node": set(), "duplicate_op": {f"nodes.{node}.alpha"}, "split_op": own}
    for name, new in morphed.backbone.named_parameters():
        pieces, covered = morphed.origins.get(name), torch.zeros(new.shape)
        if pieces is None:
            assert kind == "add_node"
            assert name in own
            continue
        for piece in pieces:
            covered[piece.into] += 1
            if name not in added.get(kind, lab.folded(node)):
                wanted = piece.stretch * old[piece.source][piece.index]
                torch.testing.assert_close(new[piece.into], wanted, rtol=1e-14, atol=0)
        assert (covered == 1).all() or (kind == "replace_op" and name in own and covered.max() <= 1)


def check_state(optimizer, migrated, origins, model, grown):
    """An optimiser's state is that of the sources, scaled as gradients are, or moved as values are."""
    old = {name.removeprefix("core."): parameter for name, parameter in model.named_parameters()}
    for name, new in grown.core.named_parameters():
        if name not in origins:
            assert not migrated.state.get(new)
        for piece in origins.get(name, ()):
            source = old[piece.source]
            for key, value in optimizer.state.get(source, {}).items():
                there = migrated.state[new][key]
                if key == "ax":
                    distances = (there - new)[piece.into], piece.stretch * (value - source)[piece.index]
                    torch.testing.assert_close(*distances, rtol=1e-9, atol=1e-12)
                elif key not in POWERS:
                    assert there == value
                elif piece.scale is not None:
                    wanted = value[piece.index] * piece.scale ** POWERS[key]
                    torch.testing.assert_close(there[piece.into], wanted)
                elif POWERS[key] == 1:
                    assert (there[piece.into] == 0).all()


def check_genotype(core):
    """It survives JSON, and the cell made of it computes the same."""
    x, genotype = randn(4, 2, I, seed=7), core.genotype(None)
    again = Genotype.from_dict(json.loads(json.dumps(genotype.to_dict())))
    assert again == genotype
    cell, out = GrownRNN(again, I, H).double(), core(x)[0]
    cell.load_state_dict(core.derive().state_dict())
    torch.testing.assert_close(cell(x)[0], out, rtol=0, atol=1e-11 * max(1.0, out.abs().max().item()))


def saved_and_loaded(model, optimizers, owner, path):
    """Return a model and optimisers made anew, with what a file brought back; the model computes the same."""
    core, x = model.core, randn(4, 2, I, seed=7)
    checkpoint.save(path, {"model": dict(model.state_dict()), "each": [o.state_dict() for o in optimizers]}, "test")
    tree = checkpoint.load(path, "test")
    checkpoint.remove(path)
    switches = {"highway": core.highway, "share_projection": core.share_projection}
    loaded = Model(Backbone.from_ops(I, H, [node.ops for node in core.mixed_nodes()], **switches).double())
    loaded.load_state_dict(tree["model"])
    assert torch.equal(loaded.core(x)[0], core(x)[0])
    resumed = make_optimizers(loaded, owner)
    for each, state in zip(resumed, tree["each"], strict=True):
        each.load_state_dict(state)
    return loaded, resumed
