"""Simulated workers against closed forms: equal lengths, one worker, exponential lengths, the straggler limit."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.bench import trials
from grownas.bench.trials import asynchronous, in_rounds, speed_ups, straggler_limit

LENGTHS = st.lists(st.floats(0.01, 9), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 50), st.integers(1, 9))
def test_nothing_is_faster_than_the_limit_and_waiting_makes_nothing_faster_than_one_worker(lengths, workers, size):
    limit, free = straggler_limit(lengths, workers), asynchronous(lengths, workers)
    assert limit <= free * (1 + 1e-9)
    assert free <= limit + max(lengths) * (1 + 1e-9)  # Graham (1966), list scheduling
    for slower in (asynchronous(lengths, workers, ahead=size), in_rounds(lengths, workers, size)):
        assert limit <= slower * (1 + 1e-9)
        assert slower <= sum(lengths) * (1 + 1e-9)


def test_equal_trials_share_the_workers_equally():
    assert asynchronous([2.0] * 12, 4) == in_rounds([2.0] * 12, 4, 4) == straggler_limit([2.0] * 12, 4) == 6.0
    assert in_rounds([2.0] * 12, 4, 3) == 8.0  # a worker has no trial


def test_a_trial_waits_for_those_that_are_too_far_before_it():
    assert asynchronous([9.0, 1.0, 1.0, 1.0], 2) == 9.0
    assert asynchronous([9.0, 1.0, 1.0, 1.0], 2, ahead=2) == 10.0  # the third begins when the first has ended


def test_the_time_of_the_search_itself_limits_many_workers():
    assert asynchronous([1.0] * 100, 100, each_s=0.5) == pytest.approx(51.0)


@pytest.mark.parametrize("size", [4, 32])
def test_rounds_of_exponential_trials_wait_for_the_longest(size):
    rng = random.Random(1)
    lengths = [rng.expovariate(1.0) for _ in range(1000 * size)]
    longest = sum(1 / number for number in range(1, size + 1))  # its mean: the harmonic number
    assert in_rounds(lengths, size, size) / 1000 == pytest.approx(longest, rel=0.06)  # 3 sd of a mean of four are 5%


def test_a_run_is_simulated(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trials, "TRIALS", 500)
    lines = [{"seconds": seconds} for seconds in (0.5, 1.0, 3.0)]
    (tmp_path / "trials.jsonl").write_text("\n".join(map(json.dumps, lines)))
    trials.main(tmp_path)
    printed = capsys.readouterr().out
    assert "3 trials of 1.50 s on average, 3.00 s at most" in printed
    (first, *_) = speed_ups([0.5, 1.0, 3.0])
    assert first == pytest.approx([1.0] * len(trials.COLUMNS))
    assert f"| {trials.WORKERS[-1]} |" in printed


def test_a_folder_without_trials_ends_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"trials.jsonl: no trials; give the folder of a search"):
        trials.main(tmp_path / "nowhere")
