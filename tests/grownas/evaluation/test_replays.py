"""The figures of a study of replays, against closed forms and scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from grownas.errors import RunError
from grownas.evaluation import replays
from grownas.evaluation.ranks import ranks
from support.tables import table_of


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 1.0, 0.0, 5.0, 1.0]], ids=["distinct", "ties"])
def test_ranks_and_their_correlation_are_those_of_scipy(values):
    one, other = np.array(values), np.arange(len(values), dtype=float) ** 2
    np.testing.assert_array_equal(1 + ranks(one), stats.rankdata(one))
    assert replays.spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert replays.spearman(one, np.ones(len(one))) == 0.0


def test_the_share_of_genotypes_is_that_of_the_variance_components():
    rng = np.random.default_rng(1)
    figures = 3.0 * rng.standard_normal((20000, 1)) + rng.standard_normal((20000, 3))
    assert replays.share_between(figures) == pytest.approx(0.9, abs=0.01)  # 9 / (9 + 1)
    assert replays.share_between(rng.standard_normal((20000, 3))) < 0.02


def test_wins_compare_searches_of_different_seeds():
    ours, others = np.array([[1.0], [2.0], [3.0]]), np.array([[9.0], [1.0], [2.0]])
    np.testing.assert_array_equal(replays.wins(ours, others), [[0.5], [0.5], [1.0]])  # against 1, 2 and 9
    np.testing.assert_array_equal(replays.wins(ours[:2], others), [[0.5], [1.0]])  # of as many: against 1 and 9


def test_the_spread_of_a_table_whose_figures_are_known():
    found = replays.spread_of(table_of(30))  # val 1 + place + seed / 10, test twice that, params grow with the place
    assert (found["genotypes"], found["seeds"]) == (30, 3)
    assert found["val"]["quantiles"][0] == pytest.approx(1.2)
    assert found["test"]["quantiles"][-1] == pytest.approx(60.4)
    assert found["val"]["from_genotypes"]["low"] > 0.99
    for name in ("correlation", "correlation_best", "correlation_single", "of_params"):
        assert found[name] == {"mean": pytest.approx(1), "low": pytest.approx(1), "high": pytest.approx(1)}


def part(folder, name, picks):
    """Write the summary of a part with one search per row of places."""
    folder.mkdir()
    val = [[1.0 + place for place in row] for row in picks]
    test = [[2 * one for one in row] for row in val]
    facts = {"task": "index_returns", "metric": "mse", "strategy": name, "at": [1, 5], "picks": picks}
    (folder / "summary.json").write_text(json.dumps({**facts, "val": val, "test": test}))
    return folder


def test_a_comparison_has_means_ranks_and_chances(tmp_path):
    ours = part(tmp_path / "evolution", "evolution", [[4, 0], [6, 1], [8, 0]])
    control = part(tmp_path / "random", "random", [[4, 2], [6, 3], [8, 2]])
    result = replays.compare([control, ours], table_of(30))
    first, second = result["strategies"]
    assert first["beats_random"] is None
    assert [one["mean"] for one in second["rank"]] == pytest.approx([7.0, 4 / 3])  # place 0 has rank 1
    assert [one["mean"] for one in second["beats_random"]] == pytest.approx([2 / 3, 1.0])
    error = 1.959964 * np.std([5, 7, 9], ddof=1) / 3**0.5
    assert second["val"][0] == pytest.approx({"mean": 7.0, "low": 7.0 - error, "high": 7.0 + error})
    assert replays.compare([ours], table_of(30))["strategies"][0]["beats_random"] is None


def test_a_part_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a finished part"):
        replays.compare([tmp_path], table_of(30))
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="at, metric, picks, strategy, test, val missing"):
        replays.compare([tmp_path], table_of(30))
