"""Windows: put together again they are the text; nothing is lost, seen early or scored twice."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.penn_treebank.windows import Reading, drawn_length, training


def ids_of(n):
    return torch.arange(n) * 7 + 3  # all different, so that a token says where it stood


def windows(n, **options):
    return list(training(ids_of(n), what="the part train", **options))


# ---- training


@given(
    n=st.integers(4, 300),
    streams=st.integers(1, 8),
    bptt=st.integers(1, 20),
    random_bptt=st.booleans(),
    seed=st.integers(0, 3),
)
def test_windows_put_together_are_equal_streams_of_the_text(n, streams, bptt, random_bptt, seed):
    length = n // streams
    assume(length > bptt)
    found = windows(n, streams=streams, bptt=bptt, random_bptt=random_bptt, seed=seed)
    x, target = (torch.cat([getattr(window, name) for window in found]) for name in ("x", "target"))
    assert x.shape == target.shape == (length - 1, streams)
    for stream in range(streams):  # the tail of fewer than `streams` tokens is dropped
        own = ids_of(n)[stream * length : (stream + 1) * length]
        assert torch.equal(x[:, stream], own[:-1])
        assert torch.equal(target[:, stream], own[1:])
    assert x.dtype == target.dtype == torch.int64
    assert [window.fresh for window in found] == [True] + [False] * (len(found) - 1)
    assert not any(window.burn_in for window in found)
    assert all(window.weight is None for window in found)


def test_windows_are_bptt_long_but_the_last():
    found = windows(3 * 25 + 2, streams=3, bptt=7)
    assert [len(window.x) for window in found] == [7, 7, 7, 3]
    assert [window.rate for window in found] == [1.0] * 4


def lengths(seed=0, bptt=35, n=400_000):
    return [len(window.x) for window in windows(n, streams=2, bptt=bptt, random_bptt=True, seed=seed)]


def test_random_lengths_follow_the_published_rule():
    """Merity et al. (2018), section 5: N(bptt, 5) with probability .95, else N(bptt / 2, 5); bptt 70."""
    drawn = np.array(lengths(bptt=70)[:-1])
    halves = drawn < 52  # 3.5 standard deviations from either mean
    count = len(drawn)
    assert count > 2_500
    assert abs(halves.mean() - 0.05) < 4 * math.sqrt(0.05 * 0.95 / count)
    for some, mean in ((drawn[~halves], 69.5), (drawn[halves], 34.5)):  # the fraction is cut off
        assert abs(some.mean() - mean) < 4 * 5 / math.sqrt(len(some))
        assert abs(some.std() - 5) < 4 * 5 / math.sqrt(2 * len(some))


class Scripted:
    """A generator that says what it is told to, and notes what it is asked for."""

    def __init__(self, uniform, normal):
        self.uniform, self.answer, self.asked = uniform, normal, []

    def random(self):
        return self.uniform

    def normal(self, mean, sd):
        self.asked.append((mean, sd))
        return self.answer


@pytest.mark.parametrize(
    ("uniform", "normal", "asked", "length"),
    [
        (0.0, 40.9, (35, 5), 40),
        (0.949, 35.0, (35, 5), 35),
        (0.951, 17.2, (17.5, 5), 17),
        (0.999, 4.9, (17.5, 5), 5),
        (0.999, -3.0, (17.5, 5), 5),
    ],
)
def test_a_length_is_drawn_around_bptt_or_its_half_and_never_below_five(uniform, normal, asked, length):
    rng = Scripted(uniform, normal)
    assert drawn_length(35, rng) == length
    assert rng.asked == [asked]


def test_the_seed_fixes_random_lengths():
    assert lengths(seed=1) == lengths(seed=1)
    assert lengths(seed=1) != lengths(seed=2)


def test_the_seed_moves_nothing_where_lengths_are_not_random():
    one, two = (windows(500, streams=4, bptt=9, seed=seed) for seed in (1, 2))
    assert all(torch.equal(a.x, b.x) for a, b in zip(one, two, strict=True))


def test_the_rate_follows_the_length():
    found = windows(4_000, streams=2, bptt=35, random_bptt=True)
    assert [window.rate for window in found] == [len(window.x) / 35 for window in found]
    assert len({window.rate for window in found}) > 5


@pytest.mark.parametrize(
    ("n", "streams", "bptt", "words"),
    [
        (1_234, 1, 1_234, "has 1,234 tokens; 1 streams of windows of 1234 need at least 1,235."),
        (40, 41, 1, "has 40 tokens; 41 streams of windows of 1 need at least 82."),
        (40, 40, 1, "has 40 tokens; 40 streams of windows of 1 need at least 80."),
        (71, 2, 35, "has 71 tokens; 2 streams of windows of 35 need at least 72."),
    ],
)
def test_too_short_a_part_is_refused_at_once(n, streams, bptt, words):
    with pytest.raises(DataError, match=f"the part train {re.escape(words)} Give more text, or lower task.streams or"):
        training(ids_of(n), streams=streams, bptt=bptt, what="the part train")


def test_what_the_message_asks_for_is_enough():
    (window,) = windows(72, streams=2, bptt=35)
    assert window.x.shape == (35, 2)


# ---- evaluation


def reading_of(n, streams=1, context=0):
    return Reading.of(ids_of(n), streams=streams, context=context, what="the part val")


CASES = {
    "n": st.integers(2, 200),
    "streams": st.integers(1, 9),
    "context": st.integers(0, 30),
    "bptt": st.integers(1, 50),
}


@given(**CASES)
def test_every_token_but_the_first_is_scored_once_in_order(n, streams, context, bptt):
    assume(n > streams + (context if streams > 1 else 0))
    reading = reading_of(n, streams, context)
    found = list(reading.windows(bptt))
    x, target = (torch.cat([getattr(window, name) for window in found]) for name in ("x", "target"))
    assert x.shape == target.shape == (reading.steps, streams)
    assert torch.equal(reading.in_order(target), ids_of(n)[1:])
    assert torch.equal(reading.in_order(x), ids_of(n)[:-1])
    assert torch.equal(x[1:], target[:-1])  # each stream reads on without a gap
    assert [window.fresh for window in found] == [True] + [False] * (len(found) - 1)
    assert all(len(window.x) == bptt for window in found[:-1])


@given(**CASES)
def test_a_stream_reads_its_context_first_and_the_first_scores_all(n, streams, context, bptt):
    assume(n > streams + (context if streams > 1 else 0))
    reading = reading_of(n, streams, context)
    assert reading.unscored[0] == 0
    assert reading.starts[0] == 0
    assert all(context <= first <= context + 1 for first in reading.unscored[1:])  # one more where shares are uneven
    assert all(first < reading.steps for first in reading.unscored)


def test_one_stream_reads_the_part_from_its_first_token_as_the_field_does():
    """n - 1 tokens count, nothing is read twice, whatever context is set."""
    reading = reading_of(100, streams=1, context=30)
    (window,) = reading.windows(1_000)
    assert torch.equal(window.x[:, 0], ids_of(100)[:-1])
    assert torch.equal(window.target[:, 0], ids_of(100)[1:])
    assert reading.unscored == (0,)


def test_losses_of_a_model_that_forgets_are_the_same_for_all_streams_and_windows():
    """A table of trigrams remembers one token beside the one it reads, so one token of context makes it exact."""
    table = torch.rand(50, 50, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    ids = torch.randint(50, (300,), generator=torch.Generator().manual_seed(1))
    before = torch.cat([torch.tensor([0]), ids[:-2]])
    expected = -table[before, ids[:-1], ids[1:]]  # straight from the definition

    for streams, context, bptt in ((1, 0, 300), (1, 0, 7), (5, 1, 35), (7, 3, 10), (60, 1, 2)):
        reading = Reading.of(ids, streams=streams, context=context, what="the part val")
        state, losses = torch.zeros(streams, dtype=torch.int64), []
        for window in reading.windows(bptt):
            before = torch.cat([state[None], window.x[:-1]])
            losses.append(-table[before, window.x, window.target])
            state = window.x[-1]
        torch.testing.assert_close(reading.in_order(torch.cat(losses)), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("n", "streams", "context", "words"),
    [
        (10, 10, 0, "has 10 tokens; 10 evaluation streams with 0 tokens of context need at least 11."),
        (10, 2, 200, "has 10 tokens; 2 evaluation streams with 200 tokens of context need at least 203."),
        (1, 1, 5, "has 1 tokens; 1 evaluation streams with 0 tokens of context need at least 2."),
    ],
)
def test_more_streams_than_tokens_are_refused(n, streams, context, words):
    with pytest.raises(DataError, match=f"the part val {re.escape(words)} Give more text, or lower task.eval_streams"):
        reading_of(n, streams, context)


def test_what_the_message_asks_for_is_enough_to_score():
    assert len(reading_of(11, 10).in_order(torch.zeros(1, 10))) == 10
    assert reading_of(203, 2, 200).steps == 201
