"""How long the first call of a cell takes that this process has not seen yet, beside its later calls."""

from __future__ import annotations

import statistics

import torch

from grownas.bench.peers import make_call, make_chain
from grownas.bench.settings import EAGER, Setting
from grownas.bench.timing import wall_seconds

LATER = 5  # calls, of which the median counts
NEW = 4  # further cells


def first_calls(setting: Setting, backend: str) -> dict[str, list[float]]:
    """Return milliseconds: of the process's first cell, of further new cells and of the later calls.

    Meant for a fresh process: torch and autograd are warmed up on plain autograd at other sizes, the backend is not.
    """
    torch.set_num_threads(1)
    other = setting._replace(T=3, B=5, I=setting.I + 1, H=setting.H + 1)
    make_call(make_chain(other, EAGER), other)()
    cells = [setting, *(_new(setting, number) for number in range(1, NEW + 1))]
    first, later = zip(*(_times(cell, backend) for cell in cells), strict=True)
    return {"first": list(first[:1]), "new": list(first[1:]), "later": list(later)}


def _new(setting: Setting, number: int) -> Setting:
    """Return a cell of other ops and sizes that costs about the same: ops are turned, H and I grow by one each."""
    ops = tuple(node[number:] + node[:number] for node in setting.ops)
    turned = ops[number % len(ops) :] + ops[: number % len(ops)]
    return setting._replace(ops=turned, I=setting.I + number, H=setting.H + number)


def _times(setting: Setting, backend: str) -> tuple[float, float]:
    call = make_call(make_chain(setting, backend), setting)
    first, *later = (1e3 * wall_seconds(call, 1) for _ in range(1 + LATER))
    return first, statistics.median(later)
