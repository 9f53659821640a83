"""Cuts the ids of a part into windows: for training in the usual way, for evaluation so that each token is scored once.

`training` checks the length of the part when it is called, not when it is iterated, so `load` can call it as a check.
For evaluation, run the model over `Reading.windows(bptt)` from a zero state, concatenate the losses `(T, B)` of all
windows along T, and sort them with `Reading.in_order`. Their mean is the nll; exp of it is the perplexity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grownas.errors import DataError
from grownas.protocols import Window

BASE_PROBABILITY, SPREAD, SHORTEST = 0.95, 5.0, 5  # random lengths of windows, as in AWD-LSTM (Merity et al., 2018)


def training(
    ids: Tensor, *, streams: int, bptt: int, what: str, random_bptt: bool = False, seed: int = 0
) -> Iterator[Window]:
    """Cut a part into parallel streams of equal length; return an epoch of windows that carry the state.

    The last n mod `streams` tokens of the part are dropped, as is usual. Each window has `bptt` steps; the last window
    may be shorter.

    Args:
        ids: ids of the part, int64, shape `(n,)`.
        streams: number of streams, B.
        bptt: length of a window, T.
        what: name of the part in messages.
        random_bptt: draw each T by AWD-LSTM's rule, with `rate` T / bptt. AWD-LSTM scales by the drawn length even if
            the last window is shorter; we scale by the window's actual length.
        seed: seed of the random lengths.

    Raises:
        DataError: a stream is shorter than a window.
    """
    length = len(ids) // streams
    if length <= bptt:
        raise DataError(
            f"{what} has {len(ids):,} tokens; {streams} streams of windows of {bptt} need at least "
            f"{streams * (bptt + 1):,}. Give more text, or lower task.streams or task.bptt"
        )
    columns = ids[: length * streams].view(streams, length).t().contiguous()  # (L, B)
    return _training(columns, bptt, np.random.default_rng(seed) if random_bptt else None)


def _training(columns: Tensor, bptt: int, rng: np.random.Generator | None) -> Iterator[Window]:
    first, last = 0, len(columns) - 1
    while first < last:
        T = min(bptt if rng is None else drawn_length(bptt, rng), last - first)
        rate = 1.0 if rng is None else T / bptt
        yield Window(columns[first : first + T], columns[first + 1 : first + T + 1], fresh=first == 0, rate=rate)
        first += T


def drawn_length(bptt: int, rng: np.random.Generator) -> int:
    """Draw a window's length: normal around `bptt`, sometimes around `bptt` / 2, so that cuts vary between epochs."""
    base = bptt if rng.random() < BASE_PROBABILITY else bptt / 2
    return max(SHORTEST, int(rng.normal(base, SPREAD)))


@dataclass(frozen=True, eq=False)
class Reading:
    """An order of reading a part of n tokens that scores each token except the first exactly once.

    Published perplexities use one stream (Zaremba, AWD-LSTM, DARTS): the state is zero before the part, the first token
    is read but not scored, and no state is carried over from the part before, so n - 1 tokens are scored. Several
    streams are faster and approximate this result: each stream except the first starts some tokens early and is not
    scored on these tokens. The first stream is scored on a longer share instead, so that all streams have the same
    length without padding. Windows contain both unscored and scored steps; `in_order` separates them.

    Attributes:
        ids: ids of the part, int64, shape `(n,)`.
        starts: position of each stream's first input, int64, shape `(B,)`.
        unscored: number of steps at the start of each stream that are not scored.
        steps: number of tokens that each stream reads.
    """

    ids: Tensor
    starts: Tensor
    unscored: tuple[int, ...]
    steps: int

    @classmethod
    def of(cls, ids: Tensor, *, streams: int = 1, context: int = 0, what: str) -> Reading:
        """Divide a part among streams.

        Args:
            ids: ids of the part, int64, shape `(n,)`.
            streams: number of streams, B.
            context: least number of tokens that each stream except the first reads before its first scored token.
            what: name of the part in messages.

        Raises:
            DataError: there are too few tokens for each stream to score one.
        """
        head = context if streams > 1 else 0  # tokens that the first stream scores in addition to its share
        rest = len(ids) - 1 - head
        if rest < streams:
            raise DataError(
                f"{what} has {len(ids):,} tokens; {streams} evaluation streams with {head} tokens of context need at "
                f"least {streams + head + 1:,}. Give more text, or lower task.eval_streams or task.context"
            )
        shares = np.array([rest // streams + (stream < rest % streams) for stream in range(streams)])
        steps = head + int(shares[0])  # the first share is the largest
        starts = np.cumsum(shares) - shares[0]  # each stream ends at the end of its share
        unscored = (0, *(steps - int(share) for share in shares[1:]))
        return cls(ids, torch.from_numpy(starts), unscored, steps)

    def windows(self, bptt: int) -> Iterator[Window]:
        """Yield windows of `bptt` steps that carry the state; the last window may be shorter."""
        for first in range(0, self.steps, bptt):
            places = torch.arange(first, min(first + bptt, self.steps))[:, None] + self.starts  # (T, B)
            yield Window(self.ids[places], self.ids[places + 1], fresh=first == 0)

    def in_order(self, values: Tensor) -> Tensor:
        """Return the values of the scored steps in the order of the text: `(steps, B, ...)` -> `(n - 1, ...)`."""
        return torch.cat([values[first:, stream] for stream, first in enumerate(self.unscored)])
