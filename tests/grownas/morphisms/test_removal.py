"""An op is removed, or another put in its place: only what it varied is missing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.errors import GenotypeError
from grownas.genotype import Op
from grownas.ops import DEFAULT_OPS
from grownas.space import SearchSpace
from support.morphisms import IDENTITY, RELU, SIGMOID, SWITCHES, TANH, H, I, op_lists, seeds


def with_a_carrier(lab, rest, place, victim, switches, seed):
    """A node that has a carrier at a place among other ops, the carrier's number, and that of another op."""
    highway, share = switches
    ops = [*rest[:place], Op(*IDENTITY, own_projection=share), *rest[place:]]
    carrier, op = min(place, len(rest)), victim % len(ops)
    assume(op != carrier)
    return lab.with_biases(lab.make([ops], highway, share, seed), seed), carrier, op


@settings(deadline=None, max_examples=60)
@given(rest=op_lists, place=st.integers(0, 5), victim=st.integers(0, 5), switches=st.sampled_from(SWITCHES), seed=seeds)
def test_pruning_changes_only_what_the_op_varied(lab, rest, place, victim, switches, seed):
    """Over one step, from any state: the op's value gives way to that at zero input and state; there is a carrier."""
    backbone, _, op = with_a_carrier(lab, rest, place, victim, switches, seed)
    node, before = backbone.mixed_nodes()[0], lab.snapshot(backbone)
    x, h_0 = lab.randn(1, 5, I, seed=seed), lab.randn(1, 5, H, seed=seed + 1)
    morphed = morphisms.prune_op(backbone, 0, op)
    varied = node.shares[op] * (lab.value_of(node, op, x[0], h_0[0]) - lab.constant_part(node, op))
    gate = torch.sigmoid(x[0] @ node.gate_x + h_0[0] @ node.gate_h) if backbone.highway else 1
    lab.assert_same(morphed.backbone(x, h_0)[0][0], backbone(x, h_0)[0][0] - gate * varied)
    lab.assert_untouched(backbone, before)
    lab.assert_apart(backbone, morphed.backbone)
    names = backbone.op_names(0)
    assert morphed.backbone.op_names(0) == names[:op] + names[op + 1 :]
    lab.assert_origins(morphed, backbone, x, same_function=False, added=lab.folded(0))


@settings(deadline=None, max_examples=40)
@given(ops=st.lists(op_lists, min_size=1, max_size=3), switches=st.sampled_from(SWITCHES), seed=seeds, data=st.data())
def test_any_op_can_be_pruned_with_complete_origins(lab, ops, switches, seed, data):
    backbone = lab.make(ops, *switches, seed)
    node = data.draw(st.integers(0, len(ops) - 1))
    assume(len(ops[node]) > 1)
    op = data.draw(st.integers(0, len(ops[node]) - 1))
    morphed = morphisms.prune_op(backbone, node, op)
    lab.assert_origins(morphed, backbone, lab.randn(3, 2, I), same_function=False, added=lab.folded(node))
    assert morphed.backbone.mixed_nodes()[node].shares.sum().item() == pytest.approx(1)


CONSTANT = [  # ops of node 0 of two, the one made constant and pruned, switches: nothing may change
    ([IDENTITY, SIGMOID, TANH], 1, (False, False)),  # carrier is heir and takes the constant
    ([TANH, ("hadamard", "identity"), SIGMOID], 2, (False, False)),  # heir is a Hadamard op; node 1 takes the constant
    ([RELU, SIGMOID], 1, (False, False)),
    ([RELU, IDENTITY, TANH], 2, (False, False)),
    ([("hadamard", "relu"), TANH, ("hadamard", "tanh")], 2, (False, False)),
    ([IDENTITY, SIGMOID, ("hadamard", "tanh")], 1, (True, False)),
    ([RELU, TANH, SIGMOID], 1, (True, False)),
    ([Op(*IDENTITY, own_projection=True), TANH, SIGMOID, ("hadamard", "sigmoid")], 3, (False, True)),
    ([Op(*IDENTITY, own_projection=True), TANH, ("hadamard", "sigmoid")], 2, (True, True)),
    ([("hadamard", "relu"), TANH, SIGMOID], 2, (False, True)),
]


@pytest.mark.parametrize(("ops", "op", "switches"), CONSTANT, ids=str)
def test_a_constant_op_is_pruned_without_a_trace(lab, ops, op, switches):
    """Values over many steps, and each weight's gradient, `scale` times what it was."""
    backbone = lab.make([ops, [TANH, ("hadamard", "sigmoid")]], *switches)
    with torch.no_grad():  # where W_x and W_h are others' too, those become constants as well
        for name in ("W_x", "b_x", "W_h"):
            backbone.op_parameters(0, op)[name].zero_()
    inexact = {"nodes.0.alpha"}
    if IDENTITY not in backbone.op_names(0):
        inexact.add("nodes.1.W_h")  # node 1 reads a state that lost the constant
    if backbone.mixed_nodes()[0].projection.count(backbone.mixed_nodes()[0].projection[op]) > 1:
        inexact |= {"nodes.0.W_x", "nodes.0.W_h"}  # the pruned op's part of their gradient is gone
    x = lab.randn(6, 2, I)
    morphed = morphisms.prune_op(backbone, 0, op)
    lab.assert_same(morphed.backbone(x)[0], backbone(x)[0])
    lab.assert_origins(morphed, backbone, x, inexact=inexact, added=lab.folded(0))


def test_every_other_op_keeps_its_absolute_share_and_the_heir_inherits(lab):
    backbone = lab.make([[TANH, IDENTITY, SIGMOID, RELU]])
    before = backbone.mixed_nodes()[0].shares.tolist()
    after = morphisms.prune_op(backbone, 0, 2).backbone.mixed_nodes()[0].shares.tolist()
    assert after == pytest.approx([before[0], before[1] + before[2], before[3]])


def test_without_an_heir_the_shares_are_renormalised(lab):
    backbone = lab.make([[TANH, SIGMOID, ("hadamard", "tanh")]])
    before = backbone.mixed_nodes()[0].shares.tolist()
    after = morphisms.prune_op(backbone, 0, 1).backbone.mixed_nodes()[0].shares.tolist()
    assert after == pytest.approx([before[0] / (1 - before[1]), before[2] / (1 - before[1])])


@pytest.mark.parametrize("highway", [False, True])
def test_where_no_bias_can_take_the_constant_it_is_lost(lab, highway):
    """In the last node without a carrier: after one step exactly share / 2 times the gate is missing."""
    backbone = lab.make([[RELU, SIGMOID]], highway)
    with torch.no_grad():
        for value in backbone.op_parameters(0, 1).values():
            value.zero_()
    node, x, h_0 = backbone.mixed_nodes()[0], lab.randn(1, 2, I), lab.randn(1, 2, H)
    gate = torch.sigmoid(x[0] @ node.gate_x + h_0[0] @ node.gate_h) if highway else 1
    missing = backbone(x, h_0)[0][0] - morphisms.prune_op(backbone, 0, 1).backbone(x, h_0)[0][0]
    lab.assert_same(missing, (gate * node.shares[1] / 2).expand(2, H))


@pytest.mark.parametrize(("ops", "op", "switches"), [c for c in CONSTANT if c[0] != [RELU, TANH, SIGMOID]], ids=str)
def test_a_constant_op_leaves_no_trace_whatever_its_biases(lab, ops, op, switches):
    """The case left out has no place for a constant: a highway without a carrier."""
    backbone = lab.with_biases(lab.make([ops, [TANH, ("hadamard", "sigmoid")]], *switches), 7)
    with torch.no_grad():
        for name in ("W_x", "W_h"):
            backbone.op_parameters(0, op)[name].zero_()
    x = lab.randn(6, 2, I)
    lab.assert_same(morphisms.prune_op(backbone, 0, op).backbone(x)[0], backbone(x)[0])


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("victim", DEFAULT_OPS, ids="/".join)
def test_a_silent_op_goes_without_a_trace(lab, victim, switches, position):
    """Each op of a new node; beside the carrier there is a second additive identity that is silent."""
    backbone, x = lab.with_biases(lab.make([DEFAULT_OPS], *switches), 3), lab.randn(6, 2, I)
    ops = [Op(*IDENTITY, own_projection=switches[1]), *(op for op in DEFAULT_OPS if op != IDENTITY), Op(*IDENTITY)]
    grown = morphisms.add_node(backbone, position, generator=torch.Generator().manual_seed(0), ops=ops).backbone
    op = len(ops) - 1 if victim == IDENTITY else grown.op_names(position).index(victim)
    pruned = morphisms.prune_op(grown, position, op).backbone
    assert len(pruned.op_names(position)) == len(ops) - 1
    lab.assert_same(pruned(x)[0], backbone(x)[0])


@pytest.mark.parametrize("victim", DEFAULT_OPS[1:], ids="/".join)
def test_a_silent_op_goes_without_a_trace_by_the_next_nodes_biases(lab, victim):
    """The node's only homogeneous op is a Hadamard one, so the biases of the next node take the constant."""
    heir = ("hadamard", "relu" if victim != ("hadamard", "relu") else "identity")
    backbone = lab.make([[TANH, heir, victim], DEFAULT_OPS])
    with torch.no_grad():
        morphisms.hold_constant(backbone.mixed_nodes()[0], 2, H)
    x = lab.randn(6, 2, I)
    lab.assert_same(morphisms.prune_op(backbone, 0, 2).backbone(x)[0], backbone(x)[0])


def test_in_float32_the_folded_constant_stays_float32(lab):
    backbone = lab.with_biases(lab.make([[IDENTITY, SIGMOID, TANH]]), 1).float()
    with torch.no_grad():
        for name in ("W_x", "W_h"):
            backbone.op_parameters(0, 1)[name].zero_()
    pruned, x = morphisms.prune_op(backbone, 0, 1).backbone, lab.randn(6, 2, I).float()
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.float32}
    torch.testing.assert_close(pruned(x)[0], backbone(x)[0], rtol=1e-5, atol=1e-5)


def test_an_added_op_can_be_pruned_again(lab):
    backbone, x = lab.make([[TANH, IDENTITY]]), lab.randn(5, 2, I)
    grown = morphisms.add_node(backbone, ops=[IDENTITY, SIGMOID, TANH]).backbone
    once = morphisms.prune_op(grown, 1, 1).backbone
    twice = morphisms.prune_op(once, 1, 1).backbone
    assert twice.op_names(1) == [IDENTITY]
    lab.assert_same(twice(x)[0], backbone(x)[0])


def test_pruning_out_of_range_is_quoted(lab):
    backbone = lab.make([[TANH, RELU], [TANH]])
    for node, op, message in (
        (1, 0, "node 1 has one op only"),
        (0, 2, r"node 0 has ops 0\.\.1, got 2"),
        (0, -1, r"node 0 has ops 0\.\.1, got -1"),
        (2, 0, r"the backbone has nodes 0\.\.1, got 2"),
        (-2, 0, r"the backbone has nodes 0\.\.1, got -2"),
    ):
        with pytest.raises(ValueError, match=message):
            morphisms.prune_op(backbone, node, op)


@pytest.mark.parametrize("kind", ["prune", "replace"])
def test_the_next_node_still_reads_the_constants_of_ops_that_grew(lab, kind):
    """No op can inherit: the shares are renormalised, so the others' constants grow; node 1 is told of that, too."""
    backbone = lab.with_biases(lab.make([[TANH, SIGMOID, ("hadamard", "tanh")], [TANH, ("hadamard", "sigmoid")]]), 4)
    morphed = morphisms.prune_op(backbone, 0, 1) if kind == "prune" else morphisms.replace_op(backbone, 0, 1, SIGMOID)
    zero = torch.zeros(1, 1, I).double()
    lab.assert_same(morphed.backbone(zero)[0], backbone(zero)[0])
    assert not torch.equal(morphed.backbone(lab.randn(1, 1, I))[0], backbone(lab.randn(1, 1, I))[0])


def test_the_largest_additive_identity_takes_the_constant(lab):
    backbone = lab.make([[IDENTITY, SIGMOID, IDENTITY]])
    with torch.no_grad():
        backbone.alpha[0].copy_(torch.tensor([-8.0, 0.0, 2.0]))
    pruned = morphisms.prune_op(backbone, 0, 1).backbone
    before, after = (one.mixed_nodes()[0] for one in (backbone, pruned))
    assert torch.equal(after.b_x[0], before.b_x[0])
    assert not torch.equal(after.b_x[1], before.b_x[2])


# replace_op

CANDIDATES = st.sampled_from(DEFAULT_OPS)


@settings(max_examples=80)
@given(
    rest=op_lists, place=st.integers(0, 5), victim=st.integers(0, 5), candidate=CANDIDATES,
    share=st.none() | st.floats(0.01, 0.99), switches=st.sampled_from(SWITCHES), seed=seeds,
)  # fmt: skip
def test_replacing_changes_only_what_the_op_varied(lab, rest, place, victim, candidate, share, switches, seed):
    """Over one step, from any state, as pruning; there is a carrier, which also is what gives the candidate a share."""
    backbone, carrier, op = with_a_carrier(lab, rest, place, victim, switches, seed)
    node, before = backbone.mixed_nodes()[0], lab.snapshot(backbone)
    shares = node.shares.tolist()
    if share is not None:
        share *= shares[carrier] + shares[op]
    x, h_0 = lab.randn(1, 5, I, seed=seed), lab.randn(1, 5, H, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    morphed = morphisms.replace_op(backbone, 0, op, candidate, generator, share=share)
    varied = node.shares[op] * (lab.value_of(node, op, x[0], h_0[0]) - lab.constant_part(node, op))
    gate = torch.sigmoid(x[0] @ node.gate_x + h_0[0] @ node.gate_h) if backbone.highway else 1
    lab.assert_same(morphed.backbone(x, h_0)[0][0], backbone(x, h_0)[0][0] - gate * varied)
    lab.assert_untouched(backbone, before)
    lab.assert_apart(backbone, morphed.backbone)
    new = morphed.backbone.mixed_nodes()[0]
    assert morphed.backbone.op_names(0) == [*backbone.op_names(0)[:op], candidate, *backbone.op_names(0)[op + 1 :]]
    assert new.ops[op].own_projection == backbone.share_projection
    parts = [("nodes.0.b_x", op), ("nodes.0.alpha", op)]
    parts += [(f"nodes.0.{name}", (slice(None), new.projection[op])) for name in ("W_x", "W_h")]
    parts += [("nodes.0.b_h", new.bias[op])] if op in new.bias else []
    lab.assert_origins(morphed, backbone, x, new_parts=parts, same_function=False, added=lab.folded(0))
    changed = [n for n, after in enumerate(new.shares.tolist()) if after != pytest.approx(shares[n], rel=1e-9)]
    assert len(set(changed) - {op}) <= (share is not None)
    assert new.shares[op].item() == pytest.approx(shares[op] if share is None else share, rel=1e-9)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("candidate", DEFAULT_OPS, ids="/".join)
def test_a_silent_op_is_replaced_without_a_trace(lab, candidate, switches, position):
    backbone, x = lab.make([DEFAULT_OPS, DEFAULT_OPS[2:]], *switches), lab.randn(6, 2, I)
    grown = morphisms.add_node(backbone, position, generator=torch.Generator().manual_seed(0), ops=DEFAULT_OPS).backbone
    for op in (1, 2, 7):
        replaced = morphisms.replace_op(grown, position, op, candidate, torch.Generator().manual_seed(1)).backbone
        lab.assert_same(replaced(x)[0], backbone(x)[0])


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("candidate", DEFAULT_OPS, ids="/".join)
def test_a_candidate_learns_in_all_its_weights_after_one_step(lab, candidate, switches):
    backbone, x = lab.make([DEFAULT_OPS[:3], [TANH, SIGMOID, IDENTITY]], *switches), lab.randn(6, 3, I)
    replaced = morphisms.replace_op(backbone, 0, 1, candidate, torch.Generator().manual_seed(0)).backbone
    found = lab.gradients(replaced, x)
    node = replaced.mixed_nodes()[0]
    assert (found["nodes.0.b_x"][1] != 0).all()
    assert found["nodes.0.alpha"][1] != 0
    assert found["nodes.0.W_x"][:, node.projection[1]].abs().sum() > 0
    with torch.no_grad():
        for parameter, gradient in zip(replaced.parameters(), found.values(), strict=True):
            parameter -= 0.01 * gradient
    found = lab.gradients(replaced, x)
    assert found["nodes.0.W_h"][:, node.projection[1]].abs().sum() > 0
    if 1 in node.bias:
        assert found["nodes.0.b_h"][node.bias[1]].abs().sum() > 0


def test_a_share_comes_from_a_homogeneous_op_whose_part_stays(lab):
    backbone = lab.make([[TANH, IDENTITY, SIGMOID, RELU]])
    before = backbone.mixed_nodes()[0].shares.tolist()
    replaced = morphisms.replace_op(backbone, 0, 2, TANH, share=0.15).backbone
    assert before[2] < 0.15
    after = replaced.mixed_nodes()[0].shares.tolist()
    assert after == pytest.approx([before[0], before[1] + before[2] - 0.15, 0.15, before[3]])
    ratio = before[1] / after[1]
    for name in ("W_x", "W_h"):
        torch.testing.assert_close(replaced.op_parameters(0, 1)[name], ratio * backbone.op_parameters(0, 1)[name])


@pytest.mark.parametrize(
    ("ops", "share", "message"),
    [
        ([TANH, SIGMOID], 0.1, "share must lie between 0 and 0, the limit of node 0, got 0.1"),
        ([TANH, IDENTITY], 1.0, "share must lie between 0 and 1, the limit of node 0, got 1.0"),
        ([TANH, IDENTITY, SIGMOID], 0.0, "share must lie between 0 and 0.666667, the limit of node 0, got 0.0"),
        ([TANH, IDENTITY, SIGMOID], 0.7, "share must lie between 0 and 0.666667, the limit of node 0, got 0.7"),
    ],
)
def test_a_share_that_no_op_can_give_is_refused(lab, ops, share, message):
    backbone = lab.make([ops])
    with torch.no_grad():
        backbone.alpha[0].zero_()
    with pytest.raises(ValueError, match=message):
        morphisms.replace_op(backbone, 0, 0, RELU, share=share)


@pytest.mark.parametrize("candidate", [TANH, ("hadamard", "tanh")], ids="/".join)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_noise_is_on_all_parameters_of_the_candidate_and_on_no_other(lab, candidate, switches):
    """Added to what there is without it."""
    backbone = lab.make([[IDENTITY, SIGMOID, TANH]], *switches)
    silent, noisy = (
        morphisms.replace_op(backbone, 0, 1, candidate, torch.Generator().manual_seed(0), noise=noise).backbone
        for noise in (0.0, 0.1)
    )
    noise = torch.cat([
        (noisy.op_parameters(0, 1)[name] - value).flatten() for name, value in silent.op_parameters(0, 1).items()
    ])  # fmt: skip
    assert 0.05 < noise.detach().std().item() < 0.2
    assert (noise != 0).all()
    for op in (0, 2):
        for name, value in silent.op_parameters(0, op).items():
            assert torch.equal(noisy.op_parameters(0, op)[name], value)
    assert torch.equal(silent.alpha[0], noisy.alpha[0])


def test_the_room_for_a_share_is_exact_whatever_the_weights_are(lab):
    """Shares of float32 are sums of roundings; what an op can be given must not be more than there is."""
    backbone = lab.make([[IDENTITY, *[TANH] * 7]]).float()
    alpha = backbone.alpha[0].detach().double()
    room = (alpha[[0, 3]].exp().sum() / alpha.exp().sum()).item()
    assert morphisms.room_for(backbone, 0, 3) == pytest.approx(room, rel=1e-14)
    assert morphisms.room_for(backbone, 0, 0) == 0.0


def test_the_only_op_of_a_node_can_be_replaced_and_leaves_its_constant(lab):
    backbone = lab.make([[TANH], [TANH, IDENTITY]])
    replaced = morphisms.replace_op(backbone, 0, 0, RELU).backbone
    zero, x = torch.zeros(1, 1, I).double(), lab.randn(1, 1, I)
    lab.assert_same(replaced(zero)[0], backbone(zero)[0])
    first = replaced.mixed_nodes()[0]
    assert torch.equal(lab.value_of(first, 0, x[0], x.new_ones(1, H)), x.new_full((1, H), 0.1))


def test_replacing_out_of_range_is_quoted(lab):
    backbone = lab.make([[TANH, RELU], [TANH]])
    for node, op, message in (
        (0, 2, r"node 0 has ops 0\.\.1, got 2"),
        (-1, 0, r"the backbone has nodes 0\.\.1, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            morphisms.replace_op(backbone, node, op, TANH)
    with pytest.raises(GenotypeError, match="unknown op 'add/tan'"):
        morphisms.replace_op(backbone, 0, 0, ("add", "tan"))


def test_what_is_drawn_comes_from_the_generator_alone(lab):
    """A removal draws nothing that counts, so it leaves PyTorch's own random numbers as they are."""
    backbone = lab.make([[TANH, RELU, ("hadamard", "tanh")]])
    state = torch.get_rng_state()
    morphisms.prune_op(backbone, 0, 1)
    values = [
        morphisms.replace_op(backbone, 0, 1, ("hadamard", "tanh"), torch.Generator().manual_seed(seed)).backbone
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    first, second, third = (one.op_parameters(0, 1)["W_h"] for one in values)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


# candidates

SPACE = SearchSpace(combine=("hadamard", "add"), activation=("relu", "tanh"))


def drawn(rule, ops, lab, count=400):
    """How often each op is drawn for a node."""
    backbone, rng = lab.make([[IDENTITY], ops]), random.Random(0)
    return Counter(morphisms.DRAWS[rule](SPACE, backbone, 1, rng) for _ in range(count))


def test_a_uniform_candidate_is_any_op_of_the_space(lab):
    found = drawn("uniform", [TANH, TANH], lab)
    assert set(found) == set(SPACE.ops)
    assert all(70 < count < 130 for count in found.values())  # 100 each, sd 8.7


MISSING = [  # the node's ops, what is drawn
    ([TANH], {RELU, ("hadamard", "tanh"), ("hadamard", "relu")}),
    ([TANH, ("hadamard", "relu"), ("hadamard", "tanh")], {RELU}),
    ([TANH, RELU, ("hadamard", "relu"), ("hadamard", "tanh")], set(SPACE.ops)),
    (
        [TANH, RELU, ("hadamard", "relu"), ("hadamard", "tanh"), TANH, RELU],
        {("hadamard", "relu"), ("hadamard", "tanh")},
    ),
    ([IDENTITY, IDENTITY], set(SPACE.ops)),  # an op outside the space is nobody's namesake
]


@pytest.mark.parametrize(("ops", "wanted"), MISSING)
def test_a_missing_candidate_is_what_the_node_has_least_often(lab, ops, wanted):
    found = drawn("missing", ops, lab)
    assert set(found) == wanted
    assert min(found.values()) > 0.6 * 400 / len(wanted)
