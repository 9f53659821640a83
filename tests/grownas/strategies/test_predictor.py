"""Predictors of ranks: what they compute, that they learn, and Thompson sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grownas.evaluation.ranks import rank_correlation, ranks
from grownas.strategies.predictor import fit_ensemble, thompson_sample

numbers = st.integers(-3, 3).map(float)


def rigged(count, seed):
    """Codes of 20 zeros and ones, and losses that a sum over the code and one product make."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, (count, 20)).astype(float)
    return codes, codes @ np.linspace(-1, 1, 20) + codes[:, 0] * codes[:, 19]


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20))
def test_ranks_and_their_correlation_are_scipys(pairs):
    one, other = np.array(pairs).T
    assert ranks(one).tolist() == (stats.rankdata(one) - 1).tolist()
    found = rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)


def test_an_infinite_loss_has_the_highest_rank():
    assert ranks(np.array([1.0, math.inf, 0.5, math.inf])).tolist() == [1, 2.5, 0, 2.5]


def test_each_member_is_a_network_of_its_own():
    codes, losses = rigged(12, 0)
    ensemble = fit_ensemble(codes, losses, members=3, seed=1)
    found = ensemble.predict(codes)
    w_1, b_1, w_2, b_2 = (one.detach().numpy() for one in ensemble.parameters)
    for member in range(3):
        columns = slice(32 * member, 32 * (member + 1))
        hidden = np.maximum(codes @ w_1[:, columns] + b_1[columns], 0)
        assert found[member] == pytest.approx(hidden @ w_2[member] + b_2[member], abs=1e-12)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_members_predict_the_ranks_of_genotypes_that_they_have_not_seen():
    codes, losses = rigged(260, 3)
    losses[:2] = math.inf  # two diverged
    predictions = fit_ensemble(codes[:60], losses[:60], members=5, seed=2).predict(codes[60:])
    assert predictions.shape == (5, 200)
    assert rank_correlation(predictions.mean(0), losses[60:]) > 0.75
    assert all(rank_correlation(one, losses[60:]) > 0.5 for one in predictions)
    noise = np.random.default_rng(5).normal(size=60)
    blind = fit_ensemble(codes[:60], noise, members=5, seed=2).predict(codes[60:])
    assert abs(rank_correlation(blind.mean(0), losses[60:])) < 0.4


def test_a_seed_fixes_the_bits_of_an_ensemble():
    codes, losses = rigged(15, 0)
    one, again, other = (fit_ensemble(codes, losses, members=2, seed=seed).predict(codes) for seed in (4, 4, 5))
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_where_members_agree_the_lowest_are_chosen():
    predictions = np.array([[0.3, -0.2, 0.9, -0.5]] * 3)
    assert thompson_sample(predictions, 2, seed=0) == [3, 1]
    assert thompson_sample(predictions, 9, seed=0) == [3, 1, 0, 2]


def test_a_candidate_is_chosen_as_often_as_its_uncertainty_says():
    predictions = np.array([[-1.0, 0.0], [1.0, 1.0]])  # means 0 and 0.5, standard deviations sqrt(2) and sqrt(1/2)
    first = [thompson_sample(predictions, 1, seed=seed) == [0] for seed in range(4000)]
    assert np.mean(first) == pytest.approx(stats.norm.cdf(0.5 / math.sqrt(2 + 0.5)), abs=0.03)
