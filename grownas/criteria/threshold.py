"""Chooses the ops to duplicate or to prune by their shares.

A node's state is a tuple of `Watched`, one per op. Each epoch `observe` smooths the shares and updates each op's level:
low, middle or high. `moves` proposes changes from the state. Three rules prevent alternating changes of an op:

- an op leaves a level only when its share is well inside the middle again (hysteresis);
- no change is proposed for an op, or a copy, before it has been trained for some epochs;
- a declined proposal is not repeated until the op has left its level.

All functions here are pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grownas.errors import ConfigError

LOW, MIDDLE, HIGH = -1, 0, 1


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of shares. Checked on construction.

    Attributes:
        grow_threshold: an op with a larger smoothed share is duplicated; `math.inf` for no duplication.
        prune_threshold: an op with a smaller smoothed share is pruned, unless an op of the node is to be duplicated.
        hysteresis: an op leaves a level when its share is back past the threshold by this fraction of it.
        smoothing: weight of the latest epoch in the smoothed shares; 1 for no smoothing.
        min_age: epochs of training before a change of an op is proposed.

    Raises:
        ConfigError: a value is out of range, or a copy of an op at the upper threshold could be pruned at once.
    """

    grow_threshold: float = 0.2
    prune_threshold: float = 0.05
    hysteresis: float = 0.2
    smoothing: float = 0.3
    min_age: int = 5

    def __post_init__(self) -> None:
        """Check everything."""
        if not 0 <= self.hysteresis < 1:
            raise ConfigError(f"hysteresis must be at least 0 and below 1, got {self.hysteresis}")
        if not 0 < self.smoothing <= 1:
            raise ConfigError(f"smoothing must be above 0 and at most 1, got {self.smoothing}")
        if self.min_age < 0:
            raise ConfigError(f"min_age must be at least 0, got {self.min_age}")
        if not (self.prune_threshold >= 0 and (0 < self.grow_threshold <= 1 or self.grow_threshold == math.inf)):
            raise ConfigError(
                "prune_threshold must be at least 0, grow_threshold above 0 and at most 1 (or infinite), got "
                f"{self.prune_threshold} and {self.grow_threshold}"
            )
        if self.leave_low > self.leave_high / 2:
            raise ConfigError(
                f"prune_threshold {self.prune_threshold} is too close to grow_threshold {self.grow_threshold}: with "
                f"hysteresis {self.hysteresis} a copy may begin at a share of {self.leave_high / 2:g} and be pruned "
                f"below {self.leave_low:g}"
            )

    @property
    def leave_low(self) -> float:
        """The share at which an op stops being low."""
        return self.prune_threshold * (1 + self.hysteresis)

    @property
    def leave_high(self) -> float:
        """The share at which an op stops being high."""
        return self.grow_threshold * (1 - self.hysteresis)


class Watched(NamedTuple):
    """The state of an op.

    Attributes:
        share: smoothed share.
        age: number of epochs observed.
        level: `LOW`, `MIDDLE` or `HIGH`.
        declined: the proposal of this level was declined.
    """

    share: float
    age: int = 0
    level: int = MIDDLE
    declined: bool = False


State = tuple[Watched, ...]  # one per op of a node, in order


class Move(NamedTuple):
    """A proposal: `duplicate_op` or `prune_op`, the op, and its smoothed share."""

    kind: str
    op: int
    share: float


def begin(shares: Sequence[float]) -> State:
    """Return the state of a node whose ops are new."""
    return tuple(Watched(share) for share in shares)


def observe(state: State, shares: Sequence[float], thresholds: Thresholds) -> State:
    """Return the state after one more epoch.

    Args:
        state: the state before the epoch.
        shares: shares of the ops at the end of the epoch.
        thresholds: the thresholds.

    Raises:
        ValueError: the numbers of shares and ops differ; see `carry`.
    """
    if len(shares) != len(state):
        raise ValueError(f"{len(shares)} shares for {len(state)} ops; call `carry` after a change of the node")
    return tuple(_observe(one, share, thresholds) for one, share in zip(state, shares, strict=True))


def _observe(before: Watched, share: float, thresholds: Thresholds) -> Watched:
    smoothed = before.share + thresholds.smoothing * (share - before.share)
    level = _level(before.level, smoothed, thresholds)
    return Watched(smoothed, before.age + 1, level, before.declined and level == before.level)


def _level(before: int, share: float, thresholds: Thresholds) -> int:
    if share > (thresholds.leave_high if before == HIGH else thresholds.grow_threshold):
        return HIGH
    if share < (thresholds.leave_low if before == LOW else thresholds.prune_threshold):
        return LOW
    return MIDDLE


def moves(state: State, thresholds: Thresholds, growable: Container[int] | None = None) -> list[Move]:
    """Return the proposed changes of a node's ops, the most extreme share first.

    No op is pruned while an op is high, whatever its age, unless its duplication was declined. The op with the largest
    share is never pruned, so that a node is never empty.

    Args:
        state: state of the node.
        thresholds: the thresholds.
        growable: numbers of the ops that may be duplicated; other ops never count as high. All if None.
    """
    ripe = [(number, one) for number, one in enumerate(state) if one.age >= thresholds.min_age and not one.declined]
    high = {n for n, one in enumerate(state) if one.level == HIGH and (growable is None or n in growable)}
    if any(not state[number].declined for number in high):  # whatever their age
        found = [Move("duplicate_op", number, one.share) for number, one in ripe if number in high]
        return sorted(found, key=lambda move: -move.share)
    largest = max(range(len(state)), key=lambda number: state[number].share)
    found = [Move("prune_op", number, one.share) for number, one in ripe if one.level == LOW and number != largest]
    return sorted(found, key=lambda move: move.share)


def decline(state: State, op: int) -> State:
    """Return the state after the proposal for an op was declined."""
    return (*state[:op], state[op]._replace(declined=True), *state[op + 1 :])


def carry(state: State, sources: Sequence[int | None], before: Sequence[float], after: Sequence[float]) -> State:
    """Return the state of a node after a change of its ops.

    A smoothed share changes by the same factor as the share. A kept op keeps its age; copies and new ops have age 0.
    The smoothed share of a new op is its share.

    Args:
        state: state before the change.
        sources: for each op after the change, its number before, or the number of the op that it copies; None if new.
        before: shares before the change, above 0.
        after: shares after the change.
    """
    copies = Counter(sources)

    def carried(source: int | None, share: float) -> Watched:
        if source is None:
            return Watched(share)
        smoothed = state[source].share * share / before[source]
        return Watched(smoothed) if copies[source] > 1 else state[source]._replace(share=smoothed)

    return tuple(carried(source, share) for source, share in zip(sources, after, strict=True))
