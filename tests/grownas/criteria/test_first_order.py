"""What a new node would bring at first: the gradient's norm, against differences of the loss."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
from grownas.criteria.first_order import blend_gains, first_order_gain
from grownas.morphisms import add_node, blend_node
from grownas.ops import DEFAULT_OPS

I, H, EPS = 2, 3, 1e-6  # noqa: E741 - the field's names


def squared(out, target):
    return (out - target).square().mean()


def drawn(seed, count=2):
    """Batches, the second with a state of its own and another length."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [(randn(5 + n, 2, I), randn(5 + n, 2, H), randn(1, 2, H) if n else None) for n in range(count)]


def mean_loss(core, batches):
    with torch.no_grad():
        return float(torch.stack([squared(core(x, h_0)[0], target) for x, target, h_0 in batches]).mean())


def grown(seed, position, ops=DEFAULT_OPS, **switches):
    """A cell with a node that has no effect, and the cell without it."""
    generator = torch.Generator().manual_seed(seed)
    core = Backbone(I, H, 2, ops, generator=generator, **switches).double()
    return add_node(core, position=position, generator=generator, ops=ops).backbone, core


@given(
    seed=st.integers(0, 99),
    position=st.integers(0, 2),
    ops=st.lists(st.sampled_from(DEFAULT_OPS), min_size=1, max_size=3),
    highway=st.booleans(),
    share=st.booleans(),
)
@settings(max_examples=12)
def test_the_gain_is_the_slope_of_the_loss_in_the_nodes_parameters(seed, position, ops, highway, share):
    core, without = grown(seed, position, ops, highway=highway, share_projection=share)
    batches = drawn(seed)
    assert mean_loss(core, batches) == pytest.approx(mean_loss(without, batches), abs=1e-12)  # zero effect
    slopes = []
    for parameter in core.nodes[position].parameters():
        flat = parameter.detach().view(-1)
        for number in range(flat.numel()):
            value, losses = flat[number].item(), []
            for sign in (1, -1):
                flat[number] = value + sign * EPS
                losses.append(mean_loss(core, batches))
            flat[number] = value
            slopes.append((losses[0] - losses[1]) / (2 * EPS))
    slope = torch.tensor(slopes, dtype=torch.float64)
    gain = first_order_gain(core, squared, batches, position)
    assert gain == pytest.approx(float(slope.norm()), rel=1e-6, abs=1e-9)
    # a first step down the slope lowers the loss by its length times the gain
    length, place = 1e-5, 0
    for parameter in core.nodes[position].parameters():
        part = slope[place : place + parameter.numel()].view_as(parameter)
        parameter.data -= length * part / slope.norm().clamp_min(1e-300)
        place += parameter.numel()
    assert mean_loss(without, batches) - mean_loss(core, batches) == pytest.approx(length * gain, rel=0.02, abs=1e-12)


def test_the_backbone_is_left_untouched():
    core, _ = grown(0, 1)
    before = copy.deepcopy(core.state_dict())
    first = first_order_gain(core, squared, drawn(0), 1)
    assert first == first_order_gain(core, squared, iter(drawn(0)), 1) > 0
    assert all(torch.equal(value, core.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in core.parameters())


def test_gradients_of_batches_that_cancel_bring_nothing():
    core, _ = grown(0, 2)
    (x, target, h_0), *_ = drawn(0)
    with torch.no_grad():
        mirrored = 2 * core(x, h_0)[0] - target
    alone = first_order_gain(core, squared, [(x, target, h_0)], 2)
    assert first_order_gain(core, squared, [(x, target, h_0), (x, mirrored, h_0)], 2) < 1e-12 * alone


def test_no_batch_is_refused():
    core, _ = grown(0, 0)
    with pytest.raises(ValueError, match="batches is empty"):
        first_order_gain(core, squared, [], 0)


# --- blended nodes ---


@given(seed=st.integers(0, 99), highway=st.booleans(), share=st.booleans(), m=st.sampled_from([0.0, 0.5]))
@settings(max_examples=12, deadline=None)
def test_the_gain_of_a_blended_node_is_the_fall_of_the_loss(seed, highway, share, m):
    core = Backbone(I, H, 1, generator=torch.Generator().manual_seed(seed), highway=highway, share_projection=share)
    core = blend_node(core.double(), 0, torch.Generator().manual_seed(seed + 1)).backbone
    core.blend[0] = m
    batches = drawn(seed)
    gains = blend_gains(core, squared, batches)
    other = copy.deepcopy(core)
    other.blend[0] = m + EPS
    assert gains == [pytest.approx((mean_loss(core, batches) - mean_loss(other, batches)) / EPS, rel=1e-3, abs=1e-7)]
    assert core.blend == [m, 1]
    assert not core.mixed_nodes()[0].blend.requires_grad


def test_many_blended_nodes_are_judged_at_once_as_each_is_alone():
    core, batches = Backbone(I, H, 2, generator=torch.Generator().manual_seed(1)).double(), drawn(4)
    alone = [
        blend_gains(blend_node(core, position, torch.Generator().manual_seed(position)).backbone, squared, batches)[0]
        for position in range(3)
    ]
    together = core
    for position in range(3):
        together = blend_node(together, 2 * position, torch.Generator().manual_seed(position), DEFAULT_OPS).backbone
    torch.testing.assert_close(torch.tensor(blend_gains(together, squared, batches)), torch.tensor(alone))


def test_gains_are_of_nodes_that_are_not_mixed_in_fully():
    core = Backbone(I, H, 1).double()
    with pytest.raises(ValueError, match="every node has blend 1"):
        blend_gains(core, squared, drawn(1))
    with pytest.raises(ValueError, match="batches is empty"):
        blend_gains(blend_node(core).backbone, squared, [])
