"""Lowest eigenpairs by products alone, against LAPACK's of the matrices themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.criteria import lanczos
from grownas.criteria.lanczos import LowestEigenpairs


def solve(matrices, **options):
    """Return the search when it is done, and how many products it took."""
    search, products = LowestEigenpairs(len(matrices), matrices.shape[1], **options), 0
    while not search.is_done:
        assert search.block.shape[0] == len(search.open)
        search.take(matrices[search.open] @ search.block)
        products += 1
    return search, products


def check(search, matrices, tolerance=1e-7):
    every = torch.linalg.eigvalsh(matrices)
    lowest, scale = every[:, 0], every.abs().amax(1)
    error = (search.eigenvalues - lowest).abs()
    rounding = 1e-13 * scale
    assert (error <= 10 * tolerance * torch.maximum(lowest.abs(), lanczos.FLOOR * scale) + rounding).all()
    vectors = search.eigenvectors.unsqueeze(2)
    torch.testing.assert_close(vectors.norm(dim=1).squeeze(1), torch.ones_like(lowest), rtol=0, atol=1e-12)
    quotient = (vectors.mT @ matrices @ vectors)[:, 0, 0]
    assert ((quotient - search.eigenvalues).abs() <= rounding * matrices.shape[1]).all()


def symmetric(problems, size, seed, kind):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(problems, size, size, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(drawn).Q
    spectra = {
        "random": torch.randn(problems, size, generator=generator, dtype=torch.float64),
        "repeated": torch.arange(size, dtype=torch.float64).div(3).floor().sub(2).expand(problems, size),
        "positive of low rank": torch.arange(size, dtype=torch.float64)
        .sub(size // 2)
        .clamp_min(0)
        .expand(problems, -1),
        "one value": torch.full((problems, size), -2.0, dtype=torch.float64),
        "zero": torch.zeros(problems, size, dtype=torch.float64),
        "decaying": -torch.logspace(0, -12, size, dtype=torch.float64).expand(problems, size),
        "of all sizes": torch.logspace(-9, 9, problems, dtype=torch.float64).unsqueeze(1)
        * torch.randn(problems, size, generator=generator, dtype=torch.float64),
    }
    made = vectors @ (spectra[kind].unsqueeze(2) * vectors.mT)
    return (made + made.mT) / 2


KINDS = ["random", "repeated", "positive of low rank", "one value", "zero", "decaying", "of all sizes"]


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 10), st.sampled_from(KINDS), st.integers(1, 9))
@settings(max_examples=150)
def test_eigenpairs_are_those_of_the_matrices(problems, size, seed, kind, block):
    matrices = symmetric(problems, size, seed, kind)
    search, products = solve(matrices, block=block)
    check(search, matrices)
    assert products <= -(-size // block)  # by then the basis is the whole space


@pytest.mark.parametrize("kind", ["random", "repeated", "of all sizes"])
def test_a_restart_bounds_the_basis_and_finds_the_same(kind):
    matrices = symmetric(3, 150, 0, kind)
    search, products = solve(matrices, basis=32)
    assert products * 4 > 32
    check(search, matrices)


def test_the_basis_stays_orthonormal_past_convergence_and_restarts():
    matrices = symmetric(4, 90, 1, "decaying")
    search = LowestEigenpairs(4, 90, basis=40, tolerance=0.0)
    for _ in range(30):
        search.take(matrices[search.open] @ search.block)
        basis = torch.cat([search._Q, search.block], 2)
        assert basis.shape[2] <= 40
        eye = torch.eye(basis.shape[2], dtype=torch.float64).expand(len(basis), -1, -1)
        torch.testing.assert_close(basis.mT @ basis, eye, rtol=0, atol=1e-12)


def test_a_looser_tolerance_takes_fewer_products_and_stays_an_upper_bound():
    matrices = symmetric(8, 60, 2, "random")
    exact, many = solve(matrices)
    loose, few = solve(matrices, tolerance=1e-2)
    assert few < many
    assert (loose.eigenvalues >= exact.eigenvalues - 1e-12).all()
    check(loose, matrices, 1e-2)


def test_done_problems_are_left_alone():
    easy, hard = torch.diag(torch.tensor([-9.0, *[1.0] * 29])).double(), symmetric(1, 30, 3, "random")[0]
    search = LowestEigenpairs(2, 30)
    search.take(torch.stack([easy, hard]) @ search.block)
    search.take(torch.stack([easy, hard]) @ search.block)
    assert search.open.tolist() == [1]
    found = search.eigenvalues[0].clone()
    while not search.is_done:
        search.take(hard.unsqueeze(0) @ search.block)
    assert search.eigenvalues[0] == found
    check(search, torch.stack([easy, hard]))


def test_the_sign_of_rounding_is_not_told():
    vector = torch.linspace(-1, 1, 12, dtype=torch.float64)
    search, _ = solve(torch.outer(vector, vector).unsqueeze(0))
    assert search.eigenvalues.tolist() == [0.0]


def test_same_products_same_result():
    matrices = symmetric(4, 33, 4, "random")
    torch.manual_seed(1)
    one, _ = solve(matrices)
    torch.manual_seed(2)
    other, _ = solve(matrices)
    assert torch.equal(one.eigenvalues, other.eigenvalues)
    assert torch.equal(one.eigenvectors, other.eigenvectors)


def test_what_does_not_converge_is_given_up():
    matrices = symmetric(3, 50, 5, "random")
    search, products = solve(matrices, most=2)
    assert (products, search.given_up) == (2, 3)
    assert (search.eigenvalues > torch.linalg.eigvalsh(matrices)[:, 0]).all()
    assert solve(matrices)[0].given_up == 0


def test_a_sum_takes_no_more_of_small_eigenvalues_than_of_large_ones():
    matrices = symmetric(6, 60, 6, "random")
    matrices[1:3] *= 1e-9  # beside one that counts
    alone, many = solve(matrices)
    summed, few = solve(matrices, tolerance=1e-7, summed=3)
    assert few <= many
    assert summed.eigenvalues[1] > alone.eigenvalues[1] * (1 - 1e-7)
    both = torch.linalg.eigvalsh(matrices)[:, 0].view(2, 3).sum(1)
    torch.testing.assert_close(summed.eigenvalues.view(2, 3).sum(1), both, rtol=1e-6, atol=0)


def test_blocks_widen_for_the_few_that_are_left():
    easy = torch.diag(torch.tensor([-9.0, *[1.0] * 79])).double().expand(15, -1, -1)
    matrices = torch.cat([easy, symmetric(1, 80, 3, "random")])
    search = LowestEigenpairs(16, 80, basis=64)
    widths = []
    while not search.is_done:
        widths.append(search.block.shape[2])
        search.take(matrices[search.open] @ search.block)
    assert widths[:3] == [4, 4, 16]
    assert max(widths) <= 32
    check(search, matrices)
