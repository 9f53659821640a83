"""A fitted polynomial as a module: its output, its gradients, its directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.tasks.predistortion.model import as_complex, delayed
from grownas.tasks.predistortion.polynomial import Shape, basis
from grownas.tasks.predistortion.polynomial_path import PolynomialPath, path_of
from grownas.tasks.predistortion.simulated import simulated
from support.polynomials import fit

SHAPES = [Shape(1, 4), Shape(4, 3), Shape(3, 3, 4, 2, 2)]
MEMORY = 6


@pytest.fixture(scope="module")
def signals():
    recording = simulated(1)
    return recording.x["train"][:2000], recording.y["train"][:2000]


def read(x: np.ndarray) -> torch.Tensor:
    """Return a signal as a model reads it, in float64."""
    return delayed(torch.view_as_real(torch.from_numpy(x))[:, None], MEMORY)


@pytest.mark.parametrize("shape", SHAPES, ids=["fir", "mp", "gmp"])
def test_it_computes_the_polynomial(signals, shape):
    polynomial = fit(*signals, shape)
    path, _ = path_of(polynomial, *signals)
    found = as_complex(path(read(signals[0]))[:, 0].detach().numpy())
    np.testing.assert_allclose(found, polynomial.predict(signals[0])[MEMORY:], rtol=0, atol=1e-13)
    assert path.multiplications == polynomial.multiplications


@pytest.mark.parametrize("shape", SHAPES, ids=["fir", "mp", "gmp"])
def test_its_directions_do_not_correlate_but_for_the_ridge_and_have_the_power_of_what_is_left(signals, shape):
    x, y = signals
    polynomial = fit(x, y, shape)
    path, left = path_of(polynomial, x, y)
    first = polynomial.context
    assert left == pytest.approx(np.sqrt(np.mean(np.abs(y - polynomial.predict(x))[first:] ** 2)))
    columns, directions = basis(x, shape.terms)[first:], path.directions.numpy() @ [1, 1j]
    outputs = columns @ directions
    scaled = np.sqrt(np.mean(np.abs(columns) ** 2, axis=0))[:, None] * directions
    power = outputs.conj().T @ outputs / len(outputs) + polynomial.ridge * scaled.conj().T @ scaled
    np.testing.assert_allclose(power, left**2 * np.eye(len(power)), rtol=0, atol=1e-6 * left**2)


def test_a_change_moves_the_output_along_the_directions(signals):
    path, _ = path_of(fit(*signals, SHAPES[2]), *signals)
    x = read(signals[0][:50])
    before = path(x)
    assert torch.equal(path.coefficients, path.fitted)
    step = torch.randn(path.change.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(before.square().sum() / 2, path.change)
    with torch.no_grad():
        path.change.copy_(1e-6 * step)
        after = path(x)
    slope = (after.square().sum() - before.square().sum()) / 2e-6
    assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=1e-4)


def test_large_terms_cancel_in_float32_too():
    """In float32 a product of 3,333 and a sample is only known to 2e-4."""
    terms, fitted = torch.tensor([[0.0, 0, 0], [1, 1, 0]]), torch.tensor([[3333.0, 0], [-3333.0, 0]])
    path = PolynomialPath(terms, fitted, torch.zeros(2, 2, 2))
    now = torch.linspace(0.1, 0.9, 50).view(-1, 1, 1).expand(50, 1, 2)
    x = torch.cat([now, now - 1e-3], dim=-1)
    expected = (3333 * (x[..., :2].double() - x[..., 2:].double())).float()
    torch.testing.assert_close(path(x), expected, rtol=1e-6, atol=0)
