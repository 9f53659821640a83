"""A part's ids in windows: for training as the field cuts them, for evaluation without losing a token.

`task.py`'s `windows` returns `training(...)`, which refuses a part that is too short when it is called, so that `load`
can call it for each training part and drop the result. Its `evaluate` makes a `Reading` of the part, runs the model
over `reading.windows(bptt)` from a zero state, joins each window's losses `(T, B)` along T, and takes
`reading.in_order` of them: their mean is the nll, exp of it the perplexity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grownas.errors import DataError
from grownas.protocols import Window

BASE_PROBABILITY, SPREAD, SHORTEST = 0.95, 5.0, 5  # of random windows, as AWD-LSTM (Merity et al., 2018)


def training(
    ids: Tensor, *, streams: int, bptt: int, what: str, random_bptt: bool = False, seed: int = 0
) -> Iterator[Window]:
    """Cut a part into equal streams that are read in step; return an epoch of windows, the state carried on.

    The n mod `streams` tokens at the end of the part are dropped, as the field does. Each window is `bptt` long, the
    last one shorter where they do not fill a stream.

    Args:
        ids: of the part, int64, shape `(n,)`.
        streams: B.
        bptt: T.
        what: how a message calls the part.
        random_bptt: draw each T by AWD-LSTM's rule, with `rate` T / bptt. AWD-LSTM scales by the length it drew, also
            in the last window, which may be shorter; we by the window's own.
        seed: fixes what is drawn.

    Raises:
        DataError: a stream would not fill a window.
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
    """Return a random window's length: normal around `bptt`, sometimes around its half, so that cuts fall anywhere."""
    base = bptt if rng.random() < BASE_PROBABILITY else bptt / 2
    return max(SHORTEST, int(rng.normal(base, SPREAD)))


@dataclass(frozen=True, eq=False)
class Reading:
    """How a part of n tokens is read so that each but its first is scored exactly once.

    One stream is what published perplexities are of (AWD-LSTM, DARTS; Zaremba's, too): the state is zero before the
    part, its first token is read but not scored, and nothing is carried in from the part before it, so that n - 1
    tokens count. Several streams are faster and come close: each but the first begins some tokens before its own and
    is not scored on them. The first has nothing before it and scores all that it reads, so all are equally long without
    padding. Unscored and scored steps share windows; `in_order` takes them apart.

    Attributes:
        ids: of the part, int64, shape `(n,)`.
        starts: the place of each stream's first input, int64, shape `(B,)`.
        unscored: steps at the head of each stream whose losses do not count.
        steps: number of tokens each stream reads.
    """

    ids: Tensor
    starts: Tensor
    unscored: tuple[int, ...]
    steps: int

    @classmethod
    def of(cls, ids: Tensor, *, streams: int = 1, context: int = 0, what: str) -> Reading:
        """Share a part out among streams.

        Args:
            ids: of the part, int64, shape `(n,)`.
            streams: B.
            context: tokens at least that each stream but the first reads before its first scored one.
            what: how a message calls the part.

        Raises:
            DataError: there is not a token to score for each stream.
        """
        head = context if streams > 1 else 0  # scored by the first stream beside its share
        rest = len(ids) - 1 - head
        if rest < streams:
            raise DataError(
                f"{what} has {len(ids):,} tokens; {streams} evaluation streams with {head} tokens before them need at "
                f"least {streams + head + 1:,}. Give more text, or lower task.eval_streams or task.context"
            )
        shares = np.array([rest // streams + (stream < rest % streams) for stream in range(streams)])
        steps = head + int(shares[0])  # the first share is the largest
        starts = np.cumsum(shares) - shares[0]  # so that each ends where its share does
        unscored = (0, *(steps - int(share) for share in shares[1:]))
        return cls(ids, torch.from_numpy(starts), unscored, steps)

    def windows(self, bptt: int) -> Iterator[Window]:
        """Yield windows of `bptt` steps, the last one shorter, the state carried on."""
        for first in range(0, self.steps, bptt):
            places = torch.arange(first, min(first + bptt, self.steps))[:, None] + self.starts  # (T, B)
            yield Window(self.ids[places], self.ids[places + 1], fresh=first == 0)

    def in_order(self, values: Tensor) -> Tensor:
        """Return the scored of all steps' values `(steps, B, ...)` in the text's order, `(n - 1, ...)`."""
        return torch.cat([values[first:, stream] for stream, first in enumerate(self.unscored)])
