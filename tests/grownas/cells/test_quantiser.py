"""The quantiser against closed forms: the grid, straight-through and LSQ gradients, products and mixtures."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from grownas.cells.quantiser import Grid, Mixture, Product, Units, largest, to_whole

VALUES = torch.tensor([-3.0, -1.6, -0.5, -0.1, 0.0, 0.24, 0.75, 1.25, 40.0], dtype=torch.float64)
STEP = 0.5
WIDTHS = (2, 3, 4, 6, 8, 12, 16)
widths = pytest.mark.parametrize("bits", WIDTHS)


def grid(bits, step=STEP):
    made = Grid([[bits]]).double()
    with torch.no_grad():
        made.log_step.fill_(math.log2(step))
    return made


def whole(one, values):
    """Of the only tensor of a grid, for values of any shape."""
    return one.whole()(values.reshape(1, 1, -1)).reshape(values.shape)


@widths
def test_the_grid_is_symmetric_and_even_halves_are_rounded_to_even(bits):
    limit = 2 ** (bits - 1) - 1
    assert largest(bits) == limit
    expected = [max(-limit, min(limit, round(float(v) / STEP))) for v in VALUES]  # Python rounds halves to even too
    assert whole(grid(bits), VALUES).tolist() == expected
    assert whole(grid(bits), -VALUES).tolist() == [-one for one in expected]


@widths
def test_gradients_are_those_of_lsq(bits):
    """Of d q: 1 inside and 0 outside for v; q - v/d inside and the sign times L outside for d (Esser et al., eq. 3)."""
    values, step = VALUES.clone().requires_grad_(), torch.tensor(STEP, dtype=torch.float64, requires_grad=True)
    limit = torch.tensor(float(largest(bits)), dtype=torch.float64)
    weight = torch.arange(1.0, 10.0, dtype=torch.float64)
    (weight * step * to_whole(values, step, limit)).sum().backward()
    inside, scaled = VALUES.abs() <= STEP * limit, VALUES / STEP
    slope = torch.where(inside, scaled.round() - scaled, scaled.sign() * limit)
    torch.testing.assert_close(values.grad, weight * inside, rtol=0, atol=1e-12)
    torch.testing.assert_close(step.grad, (weight * slope).sum(), rtol=0, atol=1e-12)


def test_the_steps_logarithm_has_the_gradient_of_the_chain_rule():
    one, values = grid(4), torch.tensor([0.3, 9.0], dtype=torch.float64)
    (one.step.flatten() * whole(one, values)).sum().backward()
    expected = (round(0.6) - 0.6 + 7) * STEP * torch.log(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(one.log_step.grad[0, 0], expected, rtol=0, atol=1e-12)


def test_the_largest_value_is_on_the_grid_of_every_width():
    made = Grid([WIDTHS], [Mixture(WIDTHS)])
    made.set_largest(3.0)
    torch.testing.assert_close(made.step * made.limit, torch.full((1, len(WIDTHS)), 3.0))


def test_a_product_is_the_product_of_the_dequantised_tensors_and_so_are_its_gradients():
    generator = torch.Generator().manual_seed(0)
    x, W = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (3, 5)))
    product = Product(grid(3, 0.3), grid(6, 0.1))
    plain = (product.inputs.step * whole(product.inputs, x)) @ (product.weights.step * whole(product.weights, W))
    parameters = list(product.parameters())
    (found,) = product.times(W.unsqueeze(0))(x)
    torch.testing.assert_close(found, plain, rtol=1e-14, atol=1e-14)
    weight = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((weight * one).sum(), parameters) for one in (found, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_a_mixture_is_the_weighted_mean_of_its_widths():
    mixture = Mixture((2, 4, 8)).double()
    with torch.no_grad():
        mixture.alpha.copy_(torch.tensor([0.1, -0.4, 0.9]))
    mixed = Grid([mixture.widths], [mixture]).double()
    each = [grid(bits, step) for bits, step in zip(mixed.bits[0], mixed.step[0].tolist(), strict=True)]
    expected = sum(p * one.step[0] * whole(one, VALUES) for p, one in zip(mixture.shares, each, strict=True))
    torch.testing.assert_close(mixed.mixed()(VALUES.view(1, -1))[0, 0], expected, rtol=1e-12, atol=1e-12)
    assert float(mixture.shares.sum().detach()) == pytest.approx(1, abs=1e-12)
    assert mixed.chosen().bits == ((8,),)
    torch.testing.assert_close(mixed.chosen().step, mixed.step[:, 2:])


def test_a_mixed_product_multiplies_every_pair_of_widths_by_both_shares():
    weights, inputs = Mixture((2, 4)).double(), Mixture((3, 8)).double()
    with torch.no_grad():
        weights.alpha.copy_(torch.tensor([0.3, 0.0]))
        inputs.alpha.copy_(torch.tensor([-0.7, 0.2]))
    product = Product(Grid([(2, 4)], [weights]).double(), Grid([(3, 8)], [inputs]).double())
    x, W = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3), torch.linspace(-0.9, 1, 12).double().view(3, 4)
    (weight_steps,), (input_steps,) = product.weights.step.tolist(), product.inputs.step.tolist()
    expected = sum(
        weights.shares[i]
        * inputs.shares[j]
        * Product(grid(wide, weight_steps[i]), grid(bits, input_steps[j])).times(W.unsqueeze(0))(x)[0]
        for (i, wide), (j, bits) in itertools.product(enumerate((2, 4)), enumerate((3, 8)))
    )
    torch.testing.assert_close(product.times(W.unsqueeze(0))(x)[0], expected, rtol=1e-12, atol=1e-12)


def test_equal_shares_choose_the_smallest_width():
    assert Mixture((2, 4)).chosen == 0


def test_units_read_out_their_products():
    mixture = Mixture((2, 8))
    units = Units(None, Product(Grid([(2, 8)], [mixture]), Grid([(2, 8)], [mixture])))
    assert [part.bits for part in units.chosen().modules() if isinstance(part, Grid)] == [((2,),), ((2,),)]
    assert list(Units.of([(4, 8)], reads_x=False).products()) == ["h"]
