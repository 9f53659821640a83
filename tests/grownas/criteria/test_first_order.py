"""What a new node would bring at first: the gradient's norm, against differences of the loss."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.backbone import Backbone
from grownas.criteria.first_order import first_order_gain
from grownas.morphisms import add_node
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
