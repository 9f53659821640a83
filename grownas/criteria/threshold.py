"""Which ops their shares say to duplicate or to prune (ALGORITHMS 4 and 5), without flipping back and forth.

A node's state is a tuple of `Watched`, one an op. Each epoch `observe` smooths the shares and moves each op between
three levels; `moves` reads the state. Three things keep an op from going to and fro:

- a level is left only where the share is well inside the middle again (hysteresis);
- an op, and each copy of one, is not judged before it has been trained for some epochs;
- a proposal that was declined does not come again until the op has left its level.

Everything here is a pure function of its arguments.
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
    """What governs the judgement. Checked when made.

    Attributes:
        grow_threshold: an op whose smoothed share is above it is to be duplicated; `math.inf` where none is to be.
        prune_threshold: one whose is below it is to be pruned, unless an op of the node is to be duplicated.
        hysteresis: part of a threshold by which the share must come back before the op counts as having left it.
        smoothing: weight of an epoch's shares in the smoothed ones; 1 for none.
        min_age: epochs that an op must have been trained before it is judged.

    Raises:
        ConfigError: a value is out of range, or a copy of an op at the upper threshold would be at the lower one.
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
    """An op as it is watched.

    Attributes:
        share: smoothed.
        age: epochs for which it has been observed.
        level: `LOW`, `MIDDLE` or `HIGH`.
        declined: what its level proposes was declined.
    """

    share: float
    age: int = 0
    level: int = MIDDLE
    declined: bool = False


State = tuple[Watched, ...]  # of a node's ops, in order


class Move(NamedTuple):
    """A proposal: `duplicate_op` or `prune_op`, and the smoothed share that says so."""

    kind: str
    op: int
    share: float


def begin(shares: Sequence[float]) -> State:
    """Return the state of a node whose ops are new."""
    return tuple(Watched(share) for share in shares)


def observe(state: State, shares: Sequence[float], thresholds: Thresholds) -> State:
    """Return the state after one more epoch.

    Args:
        state: the one before.
        shares: at the epoch's end, one an op.
        thresholds: what governs it.

    Raises:
        ValueError: the number of shares is not that of the ops; see `carry`.
    """
    if len(shares) != len(state):
        raise ValueError(f"{len(shares)} shares for {len(state)} ops; carry the state over the change of the node")
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
    """Return what to do with a node's ops, the most pressing first.

    Nothing is pruned while an op is high, old enough or not, unless its duplication was declined. The largest op is
    never to be pruned, so that a node is not emptied.

    Args:
        state: of the node.
        thresholds: what governs it.
        growable: numbers of the ops that may be duplicated; others never count as high. All if None.
    """
    ripe = [(number, one) for number, one in enumerate(state) if one.age >= thresholds.min_age and not one.declined]
    high = {n for n, one in enumerate(state) if one.level == HIGH and (growable is None or n in growable)}
    if any(not state[number].declined for number in high):  # ripe or not
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

    What was smoothed changes as the share itself did. An op that was there stays as old as it is; copies are new, and
    so are ops from elsewhere, which begin with their share.

    Args:
        state: before the change.
        sources: for each op of the new node, the number of the op that it was or is a copy of; None for a new one.
        before: shares before the change, above 0.
        after: shares after it.
    """
    copies = Counter(sources)

    def carried(source: int | None, share: float) -> Watched:
        if source is None:
            return Watched(share)
        smoothed = state[source].share * share / before[source]
        return Watched(smoothed) if copies[source] > 1 else state[source]._replace(share=smoothed)

    return tuple(carried(source, share) for source, share in zip(sources, after, strict=True))
