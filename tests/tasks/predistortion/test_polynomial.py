"""Polynomials with memory against their definition, one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.tasks.predistortion.polynomial import Polynomial, Shape, Term, basis, context_of

SHAPES = {
    "fir": Shape(1, 4),
    "memory": Shape(3, 2),
    "generalised": Shape(3, 2, cross_order=3, cross_taps=4, lags=2),
    "static": Shape(4, 1),
}
EVERY = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def noise(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2)).view(complex)[:, 0]


def of(shape):
    return Polynomial(shape, noise(len(shape.terms), 1), ridge=0.0, fold_nmse=0.0)


def test_terms_by_hand():
    assert Shape(2, 2).terms == [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)]
    cross = set(Shape(1, 1, cross_order=3, cross_taps=2, lags=1).terms) - set(Shape(1, 1).terms)
    assert cross == {(0, 1, 1), (0, 1, 2), (1, 0, 1), (1, 0, 2), (1, 2, 1), (1, 2, 2)}


@EVERY
def test_no_term_appears_twice_or_looks_ahead(shape):
    assert len(set(shape.terms)) == len(shape.terms)
    assert min(min(term) for term in shape.terms) == 0
    assert context_of(shape.terms) == max(max(term.delay, term.envelope) for term in shape.terms)


@EVERY
def test_the_basis_is_its_definition(shape):
    x = noise(12)
    at = lambda t: x[t] if t >= 0 else 0.0  # noqa: E731
    expected = [[at(t - d) * abs(at(t - e)) ** p for d, e, p in shape.terms] for t in range(12)]
    np.testing.assert_allclose(basis(x, shape.terms), expected, rtol=1e-13)


@EVERY
def test_the_output_is_the_basis_times_the_coefficients(shape):
    x, found = noise(50), of(shape)
    np.testing.assert_allclose(found.predict(x), basis(x, shape.terms) @ found.coefficients, rtol=1e-12)


@EVERY
@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_signal_in_two_parts_gives_the_same_output(shape, cut):
    x, found = noise(50), of(shape)
    parts = np.concatenate([found.predict(x[:cut]), found.predict(x[cut:], x[:cut])])
    assert np.array_equal(parts, found.predict(x))


@EVERY
def test_later_samples_change_nothing(shape):
    x, found = noise(50), of(shape)
    other = np.concatenate([x[:20], noise(30, 2)])
    assert np.array_equal(found.predict(other)[:20], found.predict(x)[:20])
    assert found.predict(other)[20] != found.predict(x)[20]


@EVERY
def test_the_context_is_all_that_is_read(shape):
    x, found = noise(50), of(shape)
    enough = found.predict(x[20:], x[20 - found.context : 20])
    assert np.array_equal(enough, found.predict(x)[20:])
    if found.context:
        assert found.predict(x[20:], x[21 - found.context : 20])[0] != enough[0]


@pytest.mark.parametrize(
    ("shape", "params", "multiplications"),
    [
        (Shape(1, 4), 8, 4 * 4),
        (Shape(2, 1), 4, 2 + 2 + 4),  # |x|² for |x|, one coefficient with an envelope, one complex product
        (Shape(5, 3), 30, 2 + 2 + 3 * 4 * 2 + 3 * 4),  # also |x|³ and |x|⁴
        (Shape(1, 2, cross_order=2, cross_taps=2, lags=1), 10, 2 + 3 * 2 + 2 * 4),
    ],
)
def test_parameters_and_multiplications_by_hand(shape, params, multiplications):
    found = of(shape)
    assert (found.params, found.multiplications) == (params, multiplications)


def test_a_filter_is_a_convolution():
    x, found = noise(50), of(Shape(1, 4))
    np.testing.assert_allclose(found.predict(x), np.convolve(x, found.coefficients)[:50], rtol=1e-12)


def test_a_memory_of_no_samples_is_a_curve_of_the_magnitude():
    x, found = noise(50), of(Shape(4, 1))
    curve = np.polynomial.Polynomial(found.coefficients)
    np.testing.assert_allclose(found.predict(x), x * curve(np.abs(x)), rtol=1e-12)
    assert Term(0, 0, 3) in found.shape.terms
