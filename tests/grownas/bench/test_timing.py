"""On a clock that only peers move."""

from __future__ import annotations

import time

import pytest
import torch

from grownas.bench import timing
from grownas.bench.timing import Effort


@pytest.fixture
def clock(monkeypatch):
    """A function that makes peers which take given seconds, the last of them for ever; and the order of calls."""
    now, order = [0.0], []

    def peer(name, *seconds):
        left = list(seconds)

        def call():
            order.append(name)
            now[0] += left.pop(0) if len(left) > 1 else left[0]

        return call

    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(time, name, lambda: now[0])
    return peer, order


def test_a_time_is_the_median_and_the_warm_up_does_not_count(clock):
    peer, _ = clock
    slow = peer("slow", 9.0, 0.02, 2.0, 0.02)  # the second of three samples is a hundred times as long
    figures = timing.measure({"slow": slow}, Effort(1e-9, 3, 3), timing.processor_seconds)
    assert figures["slow"].median == pytest.approx(20)  # milliseconds
    assert figures["slow"].samples == 3


def test_a_short_call_is_read_off_several(clock):
    peer, order = clock
    figures = timing.measure({"short": peer("short", 9.0, 0.002)}, Effort(1e-9, 2, 2), timing.processor_seconds)
    assert figures["short"].median == pytest.approx(2)
    assert len(order) == 1 + (1 + 2 + 4) + 4  # warm-up; 8 ms are the first above 5 ms; the second sample


def test_peers_are_timed_in_turn(clock):
    peer, order = clock
    timing.measure({"a": peer("a", 0.01), "b": peer("b", 0.01)}, Effort(1e-9, 9, 9), timing.processor_seconds)
    rounds = [tuple(order[place : place + 2]) for place in range(4, len(order), 2)]
    assert len(rounds) == 8
    assert set(rounds) == {("a", "b"), ("b", "a")}  # each once, and none always after the other


def test_a_slow_peer_takes_fewer_samples_over_the_same_time(clock):
    peer, order = clock
    figures = timing.measure(
        {"slow": peer("slow", 1.0), "quick": peer("quick", 0.01)}, Effort(4.0, 2, 20), timing.processor_seconds
    )
    assert (figures["slow"].samples, figures["quick"].samples) == (4, 20)
    places = [place for place, name in enumerate(order[4:]) if name == "slow"]
    assert places[0] < 10 < places[-1]


def test_a_very_slow_peer_still_takes_the_least_samples(clock):
    peer, _ = clock
    assert (
        timing.measure({"slow": peer("slow", 60.0)}, Effort(1.0, 3, 9), timing.processor_seconds)["slow"].samples == 3
    )


def test_threads_are_set_back_also_after_an_error():
    before = torch.get_num_threads()
    inside = []

    @timing.threads(2)
    def fail():
        inside.append(torch.get_num_threads())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [2]
    assert torch.get_num_threads() == before


def test_quick_is_quicker():
    assert all(quick < full for quick, full in zip(timing.QUICK, timing.FULL, strict=True))


def test_time_in_which_others_had_the_processor_does_not_count():
    assert (
        timing.processor_seconds(lambda: time.sleep(0.05), 2)
        < 0.05
        < 0.1
        <= timing.wall_seconds(lambda: time.sleep(0.05), 2)
    )
