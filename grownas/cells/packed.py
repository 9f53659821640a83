"""Packed sequences of several lengths, as in `nn.GRU`: no steps are computed for padding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Run = Callable[[Tensor, Tensor], Tensor]  # x (T, B, I), h_0 (B, H) -> states (T, B, H)


def run(layer: Run, data: Tensor, batch_sizes: Sequence[int], h_0: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Run a layer over packed sequences, with one call for consecutive steps of the same batch size.

    Args:
        layer: returns the states over sequences of equal length.
        data: the rows of all steps, `(sum of batch_sizes, I)`.
        batch_sizes: number of sequences at each step, descending: the longest sequences come first.
        h_0: first state of each sequence, `(B, H)`.
        reverse: read each sequence from its own last step to its first.

    Returns:
        States in the layout of `data`, `(sum of batch_sizes, H)`, and the last state of each sequence, `(B, H)`; with
        `reverse` the last state is that at the first step.
    """
    parts = [(B, len(list(steps))) for B, steps in itertools.groupby(batch_sizes)]
    rows = [
        part.view(T, B, -1) for part, (B, T) in zip(torch.split(data, [B * T for B, T in parts]), parts, strict=True)
    ]
    return _backwards(layer, rows, h_0) if reverse else _forwards(layer, rows, h_0)


def _forwards(layer: Run, rows: Sequence[Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
    out, ended = [], []
    for x in rows:
        ended.append(h[x.shape[1] :])
        states = layer(x, h[: x.shape[1]])
        h = states[-1]
        out.append(states.flatten(0, 1))
    return torch.cat(out), torch.cat([h, *reversed(ended)])


def _backwards(layer: Run, rows: Sequence[Tensor], h_0: Tensor) -> tuple[Tensor, Tensor]:
    out, h = [], h_0[:0]
    for x in reversed(rows):
        h = torch.cat([h, h_0[len(h) : x.shape[1]]])  # sequences that end at this step start here
        states = layer(x.flip(0), h)
        h = states[-1]
        out.append(states.flip(0).flatten(0, 1))
    return torch.cat(out[::-1]), h
