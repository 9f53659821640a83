"""One op becomes two: copies change nothing, a split lowers the loss by what its eigenvalues say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.ops import ACTIVATION, DEFAULT_OPS
from support.morphisms import IDENTITY, RELU, SIGMOID, SWITCHES, TANH, H, I, op_lists, seeds

CURVED = [op for op in DEFAULT_OPS if op not in (IDENTITY, RELU)]

chains = st.lists(op_lists, min_size=1, max_size=3)


def group_left(backbone, node, op):
    """Names of parameters whose gradient was a sum over ops that share a projection, of which one is halved or gone."""
    found = backbone.mixed_nodes()[node]
    shared = found.projection.count(found.projection[op]) > 1
    return {f"nodes.{node}.W_x", f"nodes.{node}.W_h"} if shared else set()


# duplicate_op


@settings(max_examples=100)
@given(chain=chains, switches=st.sampled_from(SWITCHES), spread=st.sampled_from([0.0, 1.0, 8.0, 50.0]), data=st.data())
def test_a_copy_leaves_output_and_gradients_alone(lab, chain, switches, spread, data):
    """Any op of any mixture, lopsided ones too: values to rounding, each copy's gradient is half of what it was."""
    backbone = lab.make(chain, *switches, data.draw(seeds))
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha *= spread
    node = data.draw(st.integers(0, len(chain) - 1))
    op = data.draw(st.integers(0, len(chain[node]) - 1))
    x, h_0, before = lab.randn(5, 2, I), lab.randn(1, 2, H, seed=2), lab.snapshot(backbone)
    morphed = morphisms.duplicate_op(backbone, node, op)
    lab.assert_same(morphed.backbone(x, h_0)[0], backbone(x, h_0)[0])
    lab.assert_untouched(backbone, before)
    lab.assert_apart(backbone, morphed.backbone)
    assert morphed.backbone.op_names(node) == [*backbone.op_names(node), backbone.op_names(node)[op]]
    assert morphed.backbone.mixed_nodes()[node].ops[-1].own_projection == switches[1]
    lab.assert_origins(morphed, backbone, x, inexact=group_left(backbone, node, op), added={f"nodes.{node}.alpha"})


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_function_stays_through_many_copies(lab, switches):
    """Copies of copies too: forty of them, of every op."""
    backbone, x = lab.make([DEFAULT_OPS, [TANH, ("hadamard", "sigmoid")]], *switches), lab.randn(6, 2, I)
    before, grown = backbone(x)[0], backbone
    for turn in range(40):
        node = turn % 2
        grown = morphisms.duplicate_op(grown, node, (5 * turn) % len(grown.op_names(node))).backbone
    assert [len(node.ops) for node in grown.mixed_nodes()] == [28, 22]
    lab.assert_same(grown(x)[0], before)


def test_each_copy_has_half_of_the_share_and_the_others_keep_theirs(lab):
    backbone = lab.make([[TANH, SIGMOID, RELU]])
    first, second, third = backbone.mixed_nodes()[0].shares.tolist()
    grown = morphisms.duplicate_op(backbone, 0, 1).backbone
    assert grown.mixed_nodes()[0].shares.tolist() == pytest.approx([first, second / 2, third, second / 2], rel=1e-14)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_noise_is_on_all_of_the_copy_and_on_nothing_else(lab, switches):
    """Under `share_projection` too, where noise on the shared projection would move the op's siblings."""
    backbone = lab.make([[TANH, ("hadamard", "tanh"), ("hadamard", "sigmoid")]], *switches, hidden=40)
    copies = [
        morphisms.duplicate_op(backbone, 0, 1, noise, torch.Generator().manual_seed(seed)).backbone
        for noise, seed in ((0.01, 0), (0.01, 0), (0.01, 1))
    ]
    for op in range(3):
        old, new = (one.op_parameters(0, op) for one in (backbone, copies[0]))
        assert all(torch.equal(new[name], value) for name, value in old.items())
    values = [one.op_parameters(0, 3) for one in copies]
    for name, value in backbone.op_parameters(0, 1).items():
        noise = values[0][name] - value
        assert noise.std().item() == pytest.approx(0.01, rel={1600: 0.1, 120: 0.3, 40: 0.5}[noise.numel()])
        assert torch.equal(values[0][name], values[1][name])
        assert not torch.equal(values[0][name], values[2][name])


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("op", [TANH, ("hadamard", "sigmoid")], ids="/".join)
def test_with_noise_the_two_learn_different_things(lab, op, switches):
    """Without, they would stay equal for ever, but where one follows the siblings of a shared projection."""
    backbone, x = lab.make([[op, RELU]], *switches), lab.randn(6, 3, I)

    def difference(noise, steps):
        grown = morphisms.duplicate_op(backbone, 0, 0, noise, torch.Generator().manual_seed(0)).backbone
        optimizer = torch.optim.Adam(grown.parameters(), lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            (grown(x)[0][1:] - x[:-1].sum(2, keepdim=True)).square().mean().backward()
            optimizer.step()
        one, other = (grown.op_parameters(0, number) for number in (0, 2))
        return {name: one[name].detach() - other[name].detach() for name in one}

    begin, end = difference(0.05, 0), difference(0.05, 100)
    assert all((end[name] - begin[name]).abs().max() > 0.01 for name in begin)
    equal = max(value.abs().max().item() for value in difference(0.0, 100).values())
    assert equal > 0.05 if switches[1] and op == TANH else equal < 1e-9


def test_copies_draw_from_their_generator_alone(lab):
    backbone = lab.make([[TANH, ("hadamard", "tanh")]])
    state = torch.get_rng_state()
    morphisms.duplicate_op(backbone, 0, 1)
    morphisms.duplicate_op(backbone, 0, 1, 0.1, torch.Generator().manual_seed(0))
    morphisms.split_op(backbone, 0, 0, (torch.ones(H), torch.ones(H, I + 1 + H)), 0.1)
    assert torch.equal(torch.get_rng_state(), state)


# split_op


def losses(backbone, x, h_0, weight):
    """A loss with curvature of its own, so that gradients change from step to step and reach back in time."""
    return (backbone(x, h_0)[0] - weight).square().mean()


def splitting_matrices(lab, backbone, node, op, x, h_0, weight):
    """By the definition: each unit's sum over steps and streams of gradient times Hessian, (H, D, D), by autograd."""
    nodes, inputs, outputs, s = backbone.mixed_nodes(), [], [], h_0[0]
    states = []
    for x_t in x:
        for number, each in enumerate(nodes):
            mixed = 0
            for k in range(len(each.ops)):
                value = lab.value_of(each, k, x_t, s)
                if (number, k) == (node, op):
                    inputs.append((x_t, s.detach()))
                    outputs.append(value)
                mixed = mixed + each.shares[k] * value
            gate = torch.sigmoid(x_t @ each.gate_x + s @ each.gate_h) if each.highway else 1
            s = s + gate * (mixed - s) if each.highway else mixed
        states.append(s)
    loss = (torch.stack(states) - weight).square().mean()
    torch.testing.assert_close(loss, losses(backbone, x, h_0, weight), rtol=1e-12, atol=0)
    g = torch.stack(torch.autograd.grad(loss, outputs))
    x_all, s_all = (torch.cat(each) for each in zip(*inputs, strict=True))
    values = {name: value.detach() for name, value in backbone.op_parameters(node, op).items()}
    found = []
    for unit in range(backbone.hidden_size):

        def objective(theta, unit=unit):
            parts = theta.split([value[..., 0].numel() for value in values.values()])
            p = dict(zip(values, parts, strict=True))
            from_x, from_s = x_all @ p["W_x"] + p["b_x"], s_all @ p["W_h"]
            kind = nodes[node].ops[op]
            z = from_x + from_s if kind.combine == "add" else from_x * (from_s + p["b_h"])
            return (g.flatten(0, 1)[:, unit] * ACTIVATION[kind.activation].f(z)).sum()

        theta = torch.cat([value[..., unit].reshape(-1) for value in values.values()])
        found.append(torch.autograd.functional.hessian(objective, theta))
    return torch.stack(found)


def decomposed(matrices):
    """The lowest eigenpair of each unit's matrix."""
    values, vectors = torch.linalg.eigh(matrices)
    return values[:, 0], vectors[:, :, 0]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("op", CURVED, ids="/".join)
def test_a_split_lowers_the_loss_by_what_its_eigenvalues_say(lab, op, switches):
    """In a chain of two nodes, through time: measured over predicted is 1, whichever copy goes which way."""
    chain = [[RELU, op, TANH], [IDENTITY, ("hadamard", "tanh")]]
    backbone = lab.make(chain, *switches, seed=3)
    x, h_0, weight = lab.randn(7, 3, I), lab.randn(1, 3, H, seed=2), lab.randn(7, 3, H, seed=4)
    pairs = decomposed(splitting_matrices(lab, backbone, 0, 1, x, h_0, weight))
    assert (pairs[0] < 0).any()
    before = losses(backbone, x, h_0, weight).item()
    for step in (1e-3, -1e-3):
        morphed = morphisms.split_op(backbone, 0, 1, pairs, step)
        predicted = step**2 / 2 * pairs[0][pairs[0] < 0].sum().item()
        measured = losses(morphed.backbone, x, h_0, weight).item() - before
        assert measured / predicted == pytest.approx(1, abs=2e-3)


@settings(max_examples=60)
@given(chain=chains, switches=st.sampled_from(SWITCHES), data=st.data())
def test_units_with_a_negative_eigenvalue_part_and_the_others_are_equal_copies(lab, chain, switches, data):
    """The order of theta is the contract's: W_x, b_x, W_h and, if Hadamard, b_h."""
    seed = data.draw(seeds)
    backbone = lab.make(chain, *switches, seed)
    node = data.draw(st.integers(0, len(chain) - 1))
    op = data.draw(st.integers(0, len(chain[node]) - 1))
    hadamard = chain[node][op][0] == "hadamard"
    values, vectors = lab.randn(H, seed=seed), lab.randn(H, I + 1 + H + hadamard, seed=seed + 1)
    values[0] = data.draw(st.sampled_from([0.0, 1.0, -1.0]))
    before, step = lab.snapshot(backbone), 0.25
    morphed = morphisms.split_op(backbone, node, op, (values, vectors), step)
    lab.assert_untouched(backbone, before)
    lab.assert_apart(backbone, morphed.backbone)
    old = backbone.op_parameters(node, op)
    first, second = (morphed.backbone.op_parameters(node, place) for place in (op, len(chain[node])))
    for unit in range(H):
        moved = step * vectors[unit] if values[unit] < 0 else torch.zeros_like(vectors[unit])
        wanted = {"W_x": moved[:I], "b_x": moved[I], "W_h": moved[I + 1 : I + 1 + H], "b_h": moved[-1]}
        for name, value in old.items():
            torch.testing.assert_close(first[name][..., unit], value[..., unit] + wanted[name])
            torch.testing.assert_close(second[name][..., unit], value[..., unit] - wanted[name])
    shares, halved = (one.mixed_nodes()[node].shares.tolist() for one in (backbone, morphed.backbone))
    assert halved[op] + halved[-1] == pytest.approx(shares[op])
    assert halved[op] == halved[-1]
    touched = {f"nodes.{node}.{name}" for name in ("alpha", *old)}
    lab.assert_origins(morphed, backbone, lab.randn(3, 2, I), same_function=False, added=touched)
    for other in range(len(chain[node])):
        if other != op:  # an op that shared its projection takes its siblings nowhere
            now, then = (one.op_parameters(node, other) for one in (morphed.backbone, backbone))
            assert all(torch.equal(now[name], then[name]) for name in then)


@settings(max_examples=40)
@given(chain=chains, switches=st.sampled_from(SWITCHES), data=st.data())
def test_without_a_negative_eigenvalue_a_split_is_a_copy(lab, chain, switches, data):
    backbone = lab.make(chain, *switches, data.draw(seeds))
    node = data.draw(st.integers(0, len(chain) - 1))
    op = data.draw(st.integers(0, len(chain[node]) - 1))
    size = I + 1 + H + (chain[node][op][0] == "hadamard")
    pairs = lab.randn(H).abs(), torch.full((H, size), torch.nan, dtype=torch.float64)  # unread where nothing moves
    x = lab.randn(5, 2, I)
    morphed = morphisms.split_op(backbone, node, op, pairs, 0.5)
    lab.assert_same(morphed.backbone(x)[0], backbone(x)[0])
    added = {f"nodes.{node}.alpha"}
    lab.assert_origins(morphed, backbone, x, inexact=group_left(backbone, node, op), added=added)


def test_under_shared_projections_only_what_must_be_own_becomes_own(lab):
    """A copy alone needs one; of a split both do."""
    backbone = lab.make([[TANH, SIGMOID, ("hadamard", "tanh")]], share=True)
    owns = lambda morphed: [op.own_projection for op in morphed.backbone.mixed_nodes()[0].ops]  # noqa: E731
    assert owns(morphisms.duplicate_op(backbone, 0, 1)) == [False, False, False, True]
    pairs = -torch.ones(H), torch.ones(H, I + 1 + H)
    assert owns(morphisms.split_op(backbone, 0, 1, pairs, 0.1)) == [False, True, False, True]


def test_float32_takes_eigenpairs_in_float64_and_stays_float32(lab):
    backbone = lab.make([[TANH, SIGMOID]]).float()
    pairs = -lab.randn(H).abs(), lab.randn(H, I + 1 + H)
    grown = morphisms.split_op(backbone, 0, 0, pairs, 0.1).backbone
    assert {parameter.dtype for parameter in grown.parameters()} == {torch.float32}
    moved = grown.op_parameters(0, 0)["W_x"] - backbone.op_parameters(0, 0)["W_x"]
    torch.testing.assert_close(moved, 0.1 * pairs[1][:, :I].t().float(), rtol=0, atol=1e-7)


FINE = torch.full((H,), -1.0), torch.ones(H, I + 1 + H)
BAD = [  # eigenpairs, step, message
    ((FINE[0][:2], FINE[1]), 0.1, r"have shapes \(2,\) and \(4, 8\), expected \(4,\) and \(4, 8\)"),
    ((FINE[0], torch.ones(H, I + 2 + H)), 0.1, r"have shapes \(4,\) and \(4, 9\), expected \(4,\) and \(4, 8\)"),
    ((FINE[0] * torch.nan, FINE[1]), 0.1, "not finite"),
    ((FINE[0], FINE[1] * torch.inf), 0.1, "not finite"),
    (FINE, float("nan"), "not finite"),
]


@pytest.mark.parametrize(("pairs", "step", "message"), BAD)
def test_eigenpairs_that_do_not_fit_are_quoted(lab, pairs, step, message):
    with pytest.raises(ValueError, match=message):
        morphisms.split_op(lab.make([[TANH]]), 0, 0, pairs, step)


def test_places_out_of_range_are_quoted(lab):
    backbone = lab.make([[TANH, RELU], [TANH]])
    for node, op, message in ((0, 2, r"node 0 has ops 0\.\.1, got 2"), (2, 0, r"the backbone has nodes 0\.\.1, got 2")):
        with pytest.raises(ValueError, match=message):
            morphisms.duplicate_op(backbone, node, op)
        with pytest.raises(ValueError, match=message):
            morphisms.split_op(backbone, node, op, FINE, 0.1)
