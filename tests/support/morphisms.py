"""What all tests of morphisms draw from, backbones to operate on, and the checks that every morphism must pass."""

from __future__ import annotations

import copy

import torch
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
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


def with_biases(backbone, seed):
    """Draw all biases from a wider distribution, so that constants are large."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for node in backbone.mixed_nodes():
            for op in range(len(node.ops)):
                for name in {"b_x", "b_h"} & set(node.op_parameters(op)):
                    value = node.op_parameters(op)[name]
                    value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return backbone


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(backbone, x):
    weight = randn(*x.shape[:2], backbone.hidden_size, seed=5)
    out, _ = backbone(x)
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad((weight * out).sum(), parameters), strict=True))


def value_of(node, op, x, s):
    """An op's value by the table and the definition, with none of the code's own paths."""
    p = node.op_parameters(op)
    from_x, from_s = x @ p["W_x"] + p["b_x"], s @ p["W_h"]
    z = from_x + from_s if node.ops[op].combine == "add" else from_x * (from_s + p["b_h"])
    return ACTIVATION[node.ops[op].activation].f(z)


def constant_part(node, op):
    """An op's value at zero input and zero state, each unit's."""
    return value_of(node, op, torch.zeros(1, I).double(), torch.zeros(1, node.hidden_size).double())


def assert_same(after, before, tolerance=1e-12):
    torch.testing.assert_close(after, before, rtol=0, atol=tolerance * max(1.0, before.abs().max().item()))


def snapshot(backbone):
    return copy.deepcopy(backbone.state_dict()), [node.ops for node in backbone.mixed_nodes()]


def assert_untouched(backbone, before):
    weights, ops = before
    assert [node.ops for node in backbone.mixed_nodes()] == ops
    assert list(backbone.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())


def assert_apart(a, b):
    """No storage in common: training one never moves the other."""
    pointers = [{p.data_ptr() for p in one.parameters() if p.numel()} for one in (a, b)]
    assert not pointers[0] & pointers[1]


def assert_origins(morphed, old, x, *, new_node=None, new_parts=(), same_function=True, inexact=(), added=()):
    """Every parameter is covered once, by shapes that fit; values are `stretch`, gradients `scale` times the old ones.

    Args:
        morphed: what the morphism returned.
        old: what it was given.
        x: input at which gradients are compared.
        new_node: number of a node that has no origins.
        new_parts: (name, index) of parts that have no origins.
        same_function: whether gradients are to be compared.
        inexact: names of parameters whose gradients are only roughly `scale` times the old ones.
        added: names of parameters to whose values something was added.
    """
    before, after = gradients(old, x), gradients(morphed.backbone, x)
    known, missing = dict(old.named_parameters()), list(new_parts)
    for name, parameter in morphed.backbone.named_parameters():
        if new_node is not None and name.startswith(f"nodes.{new_node}."):
            assert name not in morphed.origins
            continue
        covered = torch.zeros(parameter.shape)
        for part, index in missing:
            if part == name:
                covered[index] += 1
        for piece in morphed.origins[name]:
            source = known[piece.source][piece.index]
            assert parameter[piece.into].shape == source.shape
            covered[piece.into] += 1
            if name not in added:
                torch.testing.assert_close(parameter[piece.into], source * piece.stretch, rtol=1e-14, atol=0)
            if same_function and name not in inexact and piece.scale is not None:
                wanted = before[piece.source][piece.index] * piece.scale
                torch.testing.assert_close(after[name][piece.into], wanted, rtol=1e-9, atol=1e-11)
        assert torch.equal(covered, torch.ones(parameter.shape)), name
    assert set(morphed.origins) <= {name for name, _ in morphed.backbone.named_parameters()}


def folded(node):
    """Names of what a removal in a node may add to: the heir's alpha, a bias here or those of the next node."""
    return {f"nodes.{node}.alpha", f"nodes.{node}.b_x", f"nodes.{node + 1}.b_x", f"nodes.{node + 1}.b_h"}
