"""The state machine over shares: scripted epochs, and what must hold of all."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.criteria.threshold import (
    HIGH,
    LOW,
    MIDDLE,
    Move,
    Thresholds,
    Watched,
    begin,
    carry,
    decline,
    moves,
    observe,
)
from grownas.errors import ConfigError

PLAIN = Thresholds(grow_threshold=0.5, prune_threshold=0.1, hysteresis=0.2, smoothing=1.0, min_age=0)


def follow(script, thresholds, state=None):
    """Return the state after each epoch of a script of shares."""
    states = [begin(script[0]) if state is None else state]
    for shares in script:
        states.append(observe(states[-1], shares, thresholds))
    return states[1:]


def of_first(*shares):
    """A script of two ops, by the first one's share."""
    return [(share, 1 - share) for share in shares]


def test_an_op_above_the_threshold_is_duplicated_and_one_below_pruned():
    (state,) = follow([(0.6, 0.35, 0.05)], PLAIN)
    assert moves(state, PLAIN) == [Move("duplicate_op", 0, 0.6)]  # nothing is pruned beside it
    (state,) = follow([(0.5, 0.38, 0.05, 0.07)], PLAIN)
    assert moves(state, PLAIN) == [Move("prune_op", 2, 0.05), Move("prune_op", 3, 0.07)]
    (state,) = follow([(0.5, 0.4, 0.1)], PLAIN)
    assert moves(state, PLAIN) == []


def test_levels_are_left_well_inside():
    levels = [state[0].level for state in follow(of_first(0.45, 0.51, 0.45, 0.41, 0.4, 0.45, 0.51), PLAIN)]
    assert levels == [MIDDLE, HIGH, HIGH, HIGH, MIDDLE, MIDDLE, HIGH]
    levels = [state[0].level for state in follow(of_first(0.11, 0.09, 0.11, 0.12, 0.11, 0.09), PLAIN)]
    assert levels == [MIDDLE, LOW, LOW, MIDDLE, MIDDLE, LOW]


def test_nothing_is_pruned_until_the_high_op_has_come_back():
    script = [(0.52, 0.41, 0.07), (0.45, 0.48, 0.07), (0.4, 0.49, 0.11), (0.4, 0.5, 0.1)]
    kinds = [[move.kind for move in moves(state, PLAIN)] for state in follow(script, PLAIN)]
    assert kinds == [["duplicate_op"], ["duplicate_op"], ["prune_op"], ["prune_op"]]


def test_where_none_is_to_be_duplicated_only_the_largest_is_safe():
    thresholds = Thresholds(math.inf, 0.9, smoothing=1.0, min_age=0)
    (state,) = follow([(0.5, 0.2, 0.3)], thresholds)
    assert moves(state, thresholds) == [Move("prune_op", 1, 0.2), Move("prune_op", 2, 0.3)]
    (state,) = follow([(0.95, 0.05)], thresholds)
    assert moves(state, thresholds) == [Move("prune_op", 1, 0.05)]
    assert moves(begin((1.0,)), thresholds) == []


def test_a_high_op_too_young_to_be_duplicated_shields_the_others():
    thresholds = Thresholds(0.5, 0.1, smoothing=1.0, min_age=2)
    old, young = Watched(0.05, age=5, level=LOW), Watched(0.95, age=0, level=HIGH)
    state = observe((old, young), (0.05, 0.95), thresholds)
    assert moves(state, thresholds) == []
    assert moves(observe(state, (0.05, 0.95), thresholds), thresholds) == [Move("duplicate_op", 1, 0.95)]


def test_a_high_op_whose_duplication_was_declined_shields_no_other():
    thresholds = Thresholds(0.5, 0.1, smoothing=1.0, min_age=0)
    (state,) = follow([(0.93, 0.07)], thresholds)
    assert moves(decline(state, 0), thresholds) == [Move("prune_op", 1, 0.07)]
    (state,) = follow([(0.93, 0.07)], thresholds)
    assert moves(state, thresholds) == [Move("duplicate_op", 0, 0.93)]


def test_only_what_can_be_duplicated_is_high():
    """The others neither are proposed nor shield the small ones; but they stay the largest."""
    (state,) = follow([(0.55, 0.4, 0.05)], PLAIN)
    assert moves(state, PLAIN, {0}) == [Move("duplicate_op", 0, 0.55)]
    assert moves(state, PLAIN, {1, 2}) == [Move("prune_op", 2, 0.05)]
    (state,) = follow([(0.52, 0.51, 0.05, 0.06)], PLAIN)
    assert moves(state, PLAIN, {1}) == [Move("duplicate_op", 1, 0.51)]
    assert moves(state, PLAIN, set()) == [Move("prune_op", 2, 0.05), Move("prune_op", 3, 0.06)]
    (state,) = follow([(0.03, 0.02)], Thresholds(0.9, 0.3, smoothing=1.0, min_age=0))
    assert moves(state, PLAIN, set()) == [Move("prune_op", 1, 0.02)]


def test_shares_are_smoothed_exponentially():
    thresholds = Thresholds(smoothing=0.25)
    states = follow([(1.0,), (0.0,), (0.0,)], thresholds, begin((0.0,)))
    assert [state[0].share for state in states] == [0.25, 0.1875, 0.140625]
    assert [state[0].age for state in states] == [1, 2, 3]


def test_one_epochs_spike_does_nothing():
    thresholds = Thresholds(0.5, 0.1, smoothing=0.3, min_age=0)
    states = follow(of_first(0.3, 0.3, 0.8, 0.3, 0.3), thresholds)
    assert all(state[0].level == MIDDLE for state in states)


def test_the_largest_op_of_a_node_stays():
    thresholds = Thresholds(0.9, 0.3, smoothing=1.0, min_age=0)
    (state,) = follow([(0.25, 0.26, 0.24, 0.25)], thresholds)
    assert [one.level for one in state] == [LOW] * 4
    assert [move.op for move in moves(state, thresholds)] == [2, 0, 3]
    assert moves(begin((1.0,)), Thresholds(1.0, 0.1, min_age=0)) == []


def test_what_was_declined_is_not_proposed_again_until_it_has_left():
    script = of_first(0.6, 0.6, 0.55, 0.39, 0.6)
    (state,) = follow(script[:1], PLAIN)
    state = decline(state, 0)
    assert moves(state, PLAIN) == []
    found = [[move.op for move in moves(one, PLAIN)] for one in follow(script[1:], PLAIN, state)]
    assert found == [[], [], [1], [0]]  # the second op is high in between


def test_copies_are_new_and_share_what_was_smoothed():
    state = (Watched(0.6, 9, HIGH), Watched(0.4, 9, MIDDLE, declined=True))
    carried = carry(state, [0, 1, 0], [0.5, 0.5], [0.25, 0.5, 0.25])
    assert carried == (Watched(0.3), Watched(0.4, 9, MIDDLE, declined=True), Watched(0.3))


def test_what_is_left_after_a_pruning_keeps_its_age():
    state = (Watched(0.6, 9), Watched(0.2, 4, LOW), Watched(0.2, 7))
    first, last = carry(state, [0, 2], [0.6, 0.2, 0.2], [0.75, 0.25])
    assert (first.age, last.age) == (9, 7)
    assert (first.share, last.share) == pytest.approx((0.75, 0.25))


def test_a_replaced_op_is_new():
    state = (Watched(0.6, 9), Watched(0.38, 9), Watched(0.02, 9, LOW, declined=True))
    carried = carry(state, [0, 1, None], [0.5, 0.4, 0.1], [0.25, 0.4, 0.35])  # the first gives the share
    assert carried[1:] == (Watched(pytest.approx(0.38), 9), Watched(0.35))
    assert (carried[0].age, carried[0].share) == (9, pytest.approx(0.3))


def test_a_state_of_another_node_is_refused():
    with pytest.raises(ValueError, match="3 shares for 2 ops"):
        observe(begin((0.5, 0.5)), (0.2, 0.3, 0.5), PLAIN)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hysteresis": 1.0}, "hysteresis must be at least 0 and below 1, got 1.0"),
        ({"smoothing": 0.0}, "smoothing must be above 0 and at most 1, got 0.0"),
        ({"min_age": -1}, "min_age must be at least 0, got -1"),
        ({"grow_threshold": 1.5}, "got 0.05 and 1.5"),
        ({"grow_threshold": -math.inf}, "got 0.05 and -inf"),
        ({"prune_threshold": -0.1}, "got -0.1 and 0.2"),
        ({"prune_threshold": 0.1}, "0.1 is too close to grow_threshold 0.2: .* share of 0.08 and be pruned below 0.12"),
    ],
)
def test_thresholds_are_checked(values, words):
    with pytest.raises(ConfigError, match=words):
        Thresholds(**values)


@st.composite
def rules(draw):
    hysteresis, grow = draw(st.floats(0, 0.6)), draw(st.floats(0.2, 1))
    most = grow * (1 - hysteresis) / 2 / (1 + hysteresis)
    return Thresholds(
        grow, draw(st.floats(0, 0.999)) * most, hysteresis, draw(st.floats(0.1, 1)), draw(st.integers(0, 6))
    )


def shares(count):
    return st.lists(st.floats(0.001, 1), min_size=count, max_size=count).map(lambda raw: [s / sum(raw) for s in raw])


scripts = st.integers(1, 5).flatmap(lambda count: st.lists(shares(count), min_size=1, max_size=40))


@given(scripts, rules())
def test_an_op_returns_to_a_level_only_after_it_was_well_inside(script, thresholds):
    states = follow(script, thresholds)
    for op in range(len(script[0])):
        levels = [state[op].level for state in states]
        for level, inside in ((HIGH, lambda s: s <= thresholds.leave_high), (LOW, lambda s: s >= thresholds.leave_low)):
            entries = [t for t, two in enumerate(itertools.pairwise([MIDDLE, *levels])) if two[1] == level != two[0]]
            for one, next_one in itertools.pairwise(entries):
                assert any(inside(states[t][op].share) for t in range(one, next_one))


@given(scripts, rules())
def test_no_op_is_judged_before_its_age_and_none_beside_a_high_one_is_pruned(script, thresholds):
    for epoch, state in enumerate(follow(script, thresholds), 1):
        found = moves(state, thresholds)
        assert epoch >= thresholds.min_age or not found
        assert len({move.kind for move in found}) <= 1
        assert len(found) < len(state) or found[0].kind == "duplicate_op"
        for move in found:
            assert move.share == state[move.op].share
            if move.kind == "duplicate_op":
                assert move.share > thresholds.leave_high
            else:
                assert move.share < thresholds.leave_low
                assert all(one.share <= thresholds.grow_threshold for one in state)


@given(st.floats(-1, 1).map(lambda shift: 0.5 + 0.05 * shift), st.lists(st.floats(-1, 1), max_size=40))
def test_noise_within_the_hysteresis_flips_nothing_back(centre, noise):
    """Shares within 10 % of either threshold: each op changes its level once at most."""
    for threshold, place in ((0.5, centre), (0.1, centre / 5)):
        width = 0.1 * threshold - abs(place - threshold)
        script = of_first(*(place + width * one for one in noise))
        levels = [state[0].level for state in follow(script, PLAIN)] if script else []
        assert sum(one != other for one, other in itertools.pairwise([MIDDLE, *levels])) <= 1


def apply(state, current, move):
    """Do a move to a node whose shares nobody trains: copies halve a share, what a pruning leaves grows alike."""
    sources = list(range(len(state)))
    if move.kind == "duplicate_op":
        sources.append(move.op)
        new = [
            s / 2 if source == move.op else s for source, s in zip(sources, [*current, current[move.op]], strict=True)
        ]
    else:
        del sources[move.op]
        new = [current[source] / (1 - current[move.op]) for source in sources]
    return carry(state, sources, current, new), new, sources


@given(st.integers(1, 8).flatmap(shares), rules())
def test_in_a_node_that_does_not_change_moves_come_to_an_end_and_no_copy_is_pruned(current, thresholds):
    state, is_copy, quiet, done = begin(current), [False] * len(current), 0, 0
    while quiet < thresholds.min_age + 60:  # by then the smoothed shares are there
        state = observe(state, current, thresholds)
        proposed = moves(state, thresholds)
        quiet = 0 if proposed else quiet + 1
        if proposed:
            move = proposed[0]
            assert not (move.kind == "prune_op" and is_copy[move.op])
            state, current, sources = apply(state, current, move)
            counts = [sources.count(source) for source in sources]
            is_copy = [is_copy[source] or count > 1 for source, count in zip(sources, counts, strict=True)]
            done += 1
        assert done < 200
    assert sum(one.share for one in state) == pytest.approx(1)


@given(st.lists(st.integers(0, 2**16), min_size=1, max_size=60), rules())
def test_whatever_happens_to_the_shares_no_copy_is_judged_before_its_age(seeds, thresholds):
    state = begin([0.25] * 4)
    born = [0] * 4  # the epoch in which each op came to be
    for epoch, seed in enumerate(seeds, 1):
        raw = [1 + (seed * (number + 3) * 2654435761) % 1000 for number in range(len(state))]
        current = [one / sum(raw) for one in raw]
        state = observe(state, current, thresholds)
        again = moves(state, thresholds)
        assert again == moves(state, thresholds)
        for move in again[:1]:
            assert epoch - born[move.op] >= thresholds.min_age
            if len(state) == 12 and move.kind == "duplicate_op":
                state = decline(state, move.op)
                assert move not in moves(state, thresholds)
                continue
            state, current, sources = apply(state, current, move)
            born = [epoch if sources.count(source) > 1 else born[source] for source in sources]
