"""Morphisms keep their promises: the function, the input, the gradients, and where each weight came from."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.backbone import Backbone
from grownas.genotype import Op
from grownas.ops import ACTIVATION, DEFAULT_OPS

I, H = 3, 4  # noqa: E741 - the field's names
IDENTITY, TANH, SIGMOID, RELU = DEFAULT_OPS[:4]
SWITCHES = [(highway, share) for highway in (False, True) for share in (False, True)]

op_lists = st.lists(st.sampled_from(DEFAULT_OPS), min_size=1, max_size=6)
seeds = st.integers(0, 99)


def make(ops, highway=False, share=False, seed=0, hidden=H):
    """A backbone with drawn weights and uneven shares, in float64."""
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone.from_ops(I, hidden, ops, highway=highway, share_projection=share, generator=generator).double()
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(torch.randn(alpha.shape, generator=generator, dtype=torch.float64))
    return backbone


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(backbone, x):
    weight = randn(*x.shape[:2], backbone.hidden_size, seed=5)
    out, _ = backbone(x)
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad((weight * out).sum(), parameters), strict=True))


def assert_same(after, before, tolerance=1e-12):
    torch.testing.assert_close(after, before, rtol=0, atol=tolerance * max(1.0, before.abs().max().item()))


def snapshot(backbone):
    return copy.deepcopy(backbone.state_dict()), [backbone.op_names(node) for node in range(len(backbone.nodes))]


def assert_untouched(backbone, before):
    weights, ops = before
    assert [backbone.op_names(node) for node in range(len(backbone.nodes))] == ops
    assert list(backbone.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())


def assert_apart(a, b):
    """No storage in common: training one never moves the other."""
    pointers = [{p.data_ptr() for p in one.parameters() if p.numel()} for one in (a, b)]
    assert not pointers[0] & pointers[1]


def assert_origins(morphed, old, x, *, new_node=None, same_function=True, inexact=()):
    """Every parameter is covered once, by shapes that fit; `scale` is what its gradient was multiplied by."""
    before, after = gradients(old, x), gradients(morphed.backbone, x)
    known = dict(old.named_parameters())
    for name, parameter in morphed.backbone.named_parameters():
        if new_node is not None and name.startswith(f"nodes.{new_node}."):
            assert name not in morphed.origins
            continue
        covered = torch.zeros(parameter.shape)
        for piece in morphed.origins[name]:
            assert parameter[piece.into].shape == known[piece.source][piece.index].shape
            covered[piece.into] += 1
            if same_function and not name.endswith("alpha") and name not in inexact:
                wanted = before[piece.source][piece.index] * piece.scale
                torch.testing.assert_close(after[name][piece.into], wanted, rtol=1e-9, atol=1e-11)
        assert torch.equal(covered, torch.ones(parameter.shape))
    assert set(morphed.origins) <= {name for name, _ in morphed.backbone.named_parameters()}


# add_node


@settings(deadline=None, max_examples=60)
@given(data=st.data(), switches=st.sampled_from(SWITCHES), share=st.floats(0.05, 0.95), seed=seeds)
def test_a_node_added_anywhere_leaves_the_output_alone(data, switches, share, seed):
    backbone = make(data.draw(st.lists(op_lists, min_size=1, max_size=3)), *switches, seed)
    position = data.draw(st.none() | st.integers(0, len(backbone.nodes)))
    ops = data.draw(st.none() | op_lists)
    x, h_0, before = randn(5, 2, I), randn(1, 2, H, seed=2), snapshot(backbone)
    generator = torch.Generator().manual_seed(seed)
    morphed = morphisms.add_node(backbone, position, carrier_share=share, generator=generator, ops=ops)
    place = len(backbone.nodes) if position is None else position
    assert_same(morphed.backbone(x, h_0)[0], backbone(x, h_0)[0])
    assert_untouched(backbone, before)
    assert_apart(backbone, morphed.backbone)
    assert len(morphed.backbone.nodes) == len(backbone.nodes) + 1
    assert_origins(morphed, backbone, x, new_node=place)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_op_of_the_new_node_learns(position, switches):
    backbone = make([DEFAULT_OPS[:6], DEFAULT_OPS], *switches)
    generator = torch.Generator().manual_seed(3)
    grown = morphisms.add_node(backbone, position, generator=generator, ops=DEFAULT_OPS).backbone
    found = gradients(grown, randn(6, 3, I))
    assert (found[f"nodes.{position}.b_x"] != 0).all()
    assert (found[f"nodes.{position}.alpha"] != 0).all()
    for name in ("W_x", "W_h"):  # of Hadamard ops that start at zero, W_h and b_h wait for one step
        columns = found[f"nodes.{position}.{name}"].abs().sum((0, 2))
        additive = {grown.mixed_nodes()[position].projection[op] for op in range(4)}
        assert all(columns[column] > 0 for column in (range(len(columns)) if name == "W_x" else additive))


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_after_one_step_every_weight_of_the_new_node_learns(switches):
    grown = morphisms.add_node(make([DEFAULT_OPS], *switches), generator=torch.Generator().manual_seed(3)).backbone
    x = randn(6, 3, I)
    found = gradients(grown, x)
    with torch.no_grad():
        for parameter, gradient in zip(grown.parameters(), found.values(), strict=True):
            parameter -= 0.01 * gradient
    found = gradients(grown, x)
    node = grown.mixed_nodes()[1]
    for op in range(8):
        column = node.projection[op]
        assert found["nodes.1.W_x"][:, column].abs().sum() > 0
        assert found["nodes.1.W_h"][:, column].abs().sum() > 0
        if op in node.bias:
            assert found["nodes.1.b_h"][node.bias[op]].abs().sum() > 0


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_carrier_gets_its_share_and_the_others_equal_parts(share):
    grown = morphisms.add_node(make([DEFAULT_OPS]), carrier_share=share).backbone
    shares = grown.mixed_nodes()[1].shares.tolist()
    assert shares == pytest.approx([share] + [(1 - share) / 7] * 7)


def test_a_carrier_alone_has_the_whole_share():
    backbone = make([[TANH]])
    grown = morphisms.add_node(backbone, ops=[IDENTITY]).backbone
    assert grown.mixed_nodes()[1].shares.tolist() == [1.0]
    assert_same(grown(randn(5, 2, I))[0], backbone(randn(5, 2, I))[0])


def test_the_new_nodes_ops_are_those_of_the_node_before():
    backbone = make([[TANH, IDENTITY], [RELU, IDENTITY, SIGMOID]])
    names = [[morphisms.add_node(backbone, at).backbone.op_names(at)] for at in (0, 1, 2)]
    assert names == [[[TANH, IDENTITY]], [[TANH, IDENTITY]], [[RELU, IDENTITY, SIGMOID]]]


CARRIERS = [  # ops, share_projection, the ops with a carrier
    ([TANH, IDENTITY], False, [Op(*TANH), Op(*IDENTITY)]),
    ([TANH], False, [Op(*IDENTITY), Op(*TANH)]),
    ([("hadamard", "identity")], False, [Op(*IDENTITY), Op("hadamard", "identity")]),
    ([TANH, IDENTITY, RELU], True, [Op(*TANH), Op(*IDENTITY, own_projection=True), Op(*RELU)]),
    ([TANH], True, [Op(*IDENTITY, own_projection=True), Op(*TANH)]),
    (
        [IDENTITY, Op(*IDENTITY, own_projection=True)],
        True,
        [Op(*IDENTITY), Op(*IDENTITY, own_projection=True)],
    ),
]


@pytest.mark.parametrize(("ops", "share", "wanted"), CARRIERS)
def test_a_carrier_is_found_or_made(ops, share, wanted):
    assert morphisms.with_carrier(ops, share) == wanted
    assert sum(morphisms.is_carrier(op, share) for op in wanted) == 1


def test_the_function_stays_through_many_growths():
    backbone, x = make([[TANH, ("hadamard", "sigmoid")]]), randn(6, 2, I)
    before, grown = backbone(x)[0], backbone
    for position in (0, None, 1, 2, 0):
        grown = morphisms.add_node(grown, position, generator=torch.Generator().manual_seed(0)).backbone
    assert len(grown.nodes) == 6
    assert_same(grown(x)[0], before)


def test_in_float32_the_drift_is_rounding():
    backbone = make([DEFAULT_OPS]).float()
    x = randn(6, 2, I).float()
    grown = morphisms.add_node(backbone).backbone
    assert {parameter.dtype for parameter in grown.parameters()} == {torch.float32}
    torch.testing.assert_close(grown(x)[0], backbone(x)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_noise_has_its_size_everywhere_but_on_the_carrier(share):
    """Also where ops share a projection, which must not get it once for each."""
    backbone = make([DEFAULT_OPS], share=share, hidden=40)
    quiet, noisy = (
        morphisms.add_node(backbone, noise=noise, generator=torch.Generator().manual_seed(0)).backbone.nodes[1]
        for noise in (0.0, 0.01)
    )
    carrier = next(i for i, op in enumerate(noisy.ops) if morphisms.is_carrier(op, share))
    for op in range(8):
        values = noisy.op_parameters(op)
        if op == carrier:
            assert all(torch.equal(value, quiet.op_parameters(op)[name]) for name, value in values.items())
            continue
        for name, value in values.items():
            noise = value - quiet.op_parameters(op)[name]
            assert noise.std().item() == pytest.approx(0.01, rel={1600: 0.1, 120: 0.3, 40: 0.5}[noise.numel()])
    assert torch.equal(noisy.alpha, quiet.alpha)


def test_noise_moves_the_output_little_and_its_generator_fixes_it():
    backbone, x = make([DEFAULT_OPS]), randn(6, 2, I)
    outs = [
        morphisms.add_node(backbone, noise=noise, generator=torch.Generator().manual_seed(seed)).backbone(x)[0]
        for noise, seed in ((0.01, 0), (0.01, 0), (0.01, 1), (0.001, 0))
    ]
    drifts = [(out - backbone(x)[0]).abs().max().item() for out in outs]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert 0 < drifts[3] < drifts[0] < 0.2


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_out_of_range_is_quoted(position):
    with pytest.raises(ValueError, match=f"position must lie between 0 and 2, got {position}"):
        morphisms.add_node(make([[TANH]] * 2), position)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan])
def test_a_share_out_of_range_is_quoted(share):
    with pytest.raises(ValueError, match=f"carrier_share must lie between 0 and 1, got {share}"):
        morphisms.add_node(make([[TANH]]), carrier_share=share)


# prune_op


def value_of(node, op, x, s):
    """An op's value by the table and the definition, with none of the code's own paths."""
    p = node.op_parameters(op)
    from_x, from_s = x @ p["W_x"] + p["b_x"], s @ p["W_h"]
    z = from_x + from_s if node.ops[op].combine == "add" else from_x * (from_s + p["b_h"])
    return ACTIVATION[node.ops[op].activation].f(z)


def constant_part(node, op):
    """An op's value at zero input and zero state, each unit's."""
    return value_of(node, op, torch.zeros(1, I).double(), torch.zeros(1, H).double())


def with_biases(backbone, seed):
    """Draw all biases, which begin at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for node in backbone.mixed_nodes():
            for op in range(len(node.ops)):
                for name in {"b_x", "b_h"} & set(node.op_parameters(op)):
                    value = node.op_parameters(op)[name]
                    value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return backbone


@settings(deadline=None, max_examples=60)
@given(rest=op_lists, place=st.integers(0, 5), victim=st.integers(0, 5), switches=st.sampled_from(SWITCHES), seed=seeds)
def test_pruning_changes_only_what_the_op_varied(rest, place, victim, switches, seed):
    """Over one step, from any state: the op's value gives way to that at zero input and state; there is a carrier."""
    highway, share = switches
    ops = [*rest[:place], Op(*IDENTITY, own_projection=share), *rest[place:]]
    carrier = min(place, len(rest))
    op = victim % len(ops)
    assume(op != carrier)
    backbone = with_biases(make([ops], highway, share, seed), seed)
    node, before = backbone.mixed_nodes()[0], snapshot(backbone)
    x, h_0 = randn(1, 5, I, seed=seed), randn(1, 5, H, seed=seed + 1)
    morphed = morphisms.prune_op(backbone, 0, op)
    varied = node.shares[op] * (value_of(node, op, x[0], h_0[0]) - constant_part(node, op))
    gate = torch.sigmoid(x[0] @ node.gate_x + h_0[0] @ node.gate_h) if highway else 1
    assert_same(morphed.backbone(x, h_0)[0][0], backbone(x, h_0)[0][0] - gate * varied)
    assert_untouched(backbone, before)
    assert_apart(backbone, morphed.backbone)
    names = backbone.op_names(0)
    assert morphed.backbone.op_names(0) == names[:op] + names[op + 1 :]
    assert_origins(morphed, backbone, x, same_function=False)


@settings(deadline=None, max_examples=40)
@given(ops=st.lists(op_lists, min_size=1, max_size=3), switches=st.sampled_from(SWITCHES), seed=seeds, data=st.data())
def test_any_op_can_be_pruned_with_complete_origins(ops, switches, seed, data):
    backbone = make(ops, *switches, seed)
    node = data.draw(st.integers(0, len(ops) - 1))
    assume(len(ops[node]) > 1)
    op = data.draw(st.integers(0, len(ops[node]) - 1))
    morphed = morphisms.prune_op(backbone, node, op)
    assert_origins(morphed, backbone, randn(3, 2, I), same_function=False)
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
def test_a_constant_op_is_pruned_without_a_trace(ops, op, switches):
    """Values over many steps, and each weight's gradient, `scale` times what it was."""
    backbone = make([ops, [TANH, ("hadamard", "sigmoid")]], *switches)
    with torch.no_grad():  # where W_x and W_h are others' too, those become constants as well
        for name in ("W_x", "b_x", "W_h"):
            backbone.op_parameters(0, op)[name].zero_()
    inexact = set()
    if IDENTITY not in backbone.op_names(0):
        inexact.add("nodes.1.W_h")  # node 1 reads a state that lost the constant
    if backbone.mixed_nodes()[0].projection.count(backbone.mixed_nodes()[0].projection[op]) > 1:
        inexact |= {"nodes.0.W_x", "nodes.0.W_h"}  # the pruned op's part of their gradient is gone
    x = randn(6, 2, I)
    morphed = morphisms.prune_op(backbone, 0, op)
    assert_same(morphed.backbone(x)[0], backbone(x)[0])
    assert_origins(morphed, backbone, x, inexact=inexact)


def test_every_other_op_keeps_its_absolute_share_and_the_heir_inherits():
    backbone = make([[TANH, IDENTITY, SIGMOID, RELU]])
    before = backbone.mixed_nodes()[0].shares.tolist()
    after = morphisms.prune_op(backbone, 0, 2).backbone.mixed_nodes()[0].shares.tolist()
    assert after == pytest.approx([before[0], before[1] + before[2], before[3]])


def test_without_an_heir_the_shares_are_renormalised():
    backbone = make([[TANH, SIGMOID, ("hadamard", "tanh")]])
    before = backbone.mixed_nodes()[0].shares.tolist()
    after = morphisms.prune_op(backbone, 0, 1).backbone.mixed_nodes()[0].shares.tolist()
    assert after == pytest.approx([before[0] / (1 - before[1]), before[2] / (1 - before[1])])


@pytest.mark.parametrize("highway", [False, True])
def test_where_no_bias_can_take_the_constant_it_is_lost(highway):
    """In the last node without a carrier: after one step exactly share / 2 times the gate is missing."""
    backbone = make([[RELU, SIGMOID]], highway)
    with torch.no_grad():
        for value in backbone.op_parameters(0, 1).values():
            value.zero_()
    node, x, h_0 = backbone.mixed_nodes()[0], randn(1, 2, I), randn(1, 2, H)
    gate = torch.sigmoid(x[0] @ node.gate_x + h_0[0] @ node.gate_h) if highway else 1
    missing = backbone(x, h_0)[0][0] - morphisms.prune_op(backbone, 0, 1).backbone(x, h_0)[0][0]
    assert_same(missing, (gate * node.shares[1] / 2).expand(2, H))


@pytest.mark.parametrize(("ops", "op", "switches"), [c for c in CONSTANT if c[0] != [RELU, TANH, SIGMOID]], ids=str)
def test_a_constant_op_leaves_no_trace_whatever_its_biases(ops, op, switches):
    """The case left out has no place for a constant: a highway without a carrier."""
    backbone = with_biases(make([ops, [TANH, ("hadamard", "sigmoid")]], *switches), 7)
    with torch.no_grad():
        for name in ("W_x", "W_h"):
            backbone.op_parameters(0, op)[name].zero_()
    x = randn(6, 2, I)
    assert_same(morphisms.prune_op(backbone, 0, op).backbone(x)[0], backbone(x)[0])


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("victim", DEFAULT_OPS, ids="/".join)
def test_a_silent_op_goes_without_a_trace(victim, switches, position):
    """Each op of a new node; beside the carrier there is a second additive identity that is silent."""
    backbone, x = with_biases(make([DEFAULT_OPS], *switches), 3), randn(6, 2, I)
    ops = [Op(*IDENTITY, own_projection=switches[1]), *(op for op in DEFAULT_OPS if op != IDENTITY), Op(*IDENTITY)]
    grown = morphisms.add_node(backbone, position, generator=torch.Generator().manual_seed(0), ops=ops).backbone
    op = len(ops) - 1 if victim == IDENTITY else grown.op_names(position).index(victim)
    pruned = morphisms.prune_op(grown, position, op).backbone
    assert len(pruned.op_names(position)) == len(ops) - 1
    assert_same(pruned(x)[0], backbone(x)[0])


@pytest.mark.parametrize("victim", DEFAULT_OPS[1:], ids="/".join)
def test_a_silent_op_goes_without_a_trace_by_the_next_nodes_biases(victim):
    """The node's only homogeneous op is a Hadamard one, so the biases of the next node take the constant."""
    heir = ("hadamard", "relu" if victim != ("hadamard", "relu") else "identity")
    backbone = make([[TANH, heir, victim], DEFAULT_OPS])
    with torch.no_grad():
        morphisms.silence(backbone.mixed_nodes()[0], 2, H)
    x = randn(6, 2, I)
    assert_same(morphisms.prune_op(backbone, 0, 2).backbone(x)[0], backbone(x)[0])


def test_in_float32_the_folded_constant_stays_float32():
    backbone = with_biases(make([[IDENTITY, SIGMOID, TANH]]), 1).float()
    with torch.no_grad():
        for name in ("W_x", "W_h"):
            backbone.op_parameters(0, 1)[name].zero_()
    pruned, x = morphisms.prune_op(backbone, 0, 1).backbone, randn(6, 2, I).float()
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.float32}
    torch.testing.assert_close(pruned(x)[0], backbone(x)[0], rtol=1e-5, atol=1e-5)


def test_an_added_op_can_be_pruned_again():
    backbone, x = make([[TANH, IDENTITY]]), randn(5, 2, I)
    grown = morphisms.add_node(backbone, ops=[IDENTITY, SIGMOID, TANH]).backbone
    once = morphisms.prune_op(grown, 1, 1).backbone
    twice = morphisms.prune_op(once, 1, 1).backbone
    assert twice.op_names(1) == [IDENTITY]
    assert_same(twice(x)[0], backbone(x)[0])


def test_pruning_out_of_range_is_quoted():
    backbone = make([[TANH, RELU], [TANH]])
    for node, op, message in (
        (1, 0, "node 1 has one op only"),
        (0, 2, r"node 0 has ops 0\.\.1, got 2"),
        (0, -1, r"node 0 has ops 0\.\.1, got -1"),
        (2, 0, r"the backbone has nodes 0\.\.1, got 2"),
        (-2, 0, r"the backbone has nodes 0\.\.1, got -2"),
    ):
        with pytest.raises(ValueError, match=message):
            morphisms.prune_op(backbone, node, op)


@pytest.mark.parametrize("share_projection", [False, True])
def test_stirring_moves_every_op_but_the_carrier_and_leaves_its_input_alone(share_projection):
    ops = morphisms.with_carrier(DEFAULT_OPS, share_projection)
    backbone = Backbone(2, 3, 2, ops, share_projection=share_projection).double()
    before = copy.deepcopy(backbone.state_dict())
    stirred = morphisms.stir(backbone, 0.1, torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    for node in range(2):
        for op in range(len(ops)):
            old, new = (one.op_parameters(node, op).values() for one in (backbone, stirred))
            moved = [bool((first != second).all()) for first, second in zip(old, new, strict=True)]
            assert not any(moved) if op == 0 else all(moved)
    assert torch.equal(torch.cat(list(stirred.alpha)), torch.cat(list(backbone.alpha)))


def test_stirring_adds_noise_of_the_wanted_size_once():
    backbone = Backbone(40, 40, 1, share_projection=True).double()
    change = morphisms.stir(backbone, 0.1, torch.Generator().manual_seed(0)).state_dict()["nodes.0.W_h"]
    change = change - backbone.state_dict()["nodes.0.W_h"]
    assert 0.095 < change.std() < 0.105
