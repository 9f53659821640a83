"""The time of the first call of a cell that is new to the process, compared with later calls."""

from __future__ import annotations

import statistics

import torch

from grownas.bench.peers import make_call, make_chain
from grownas.bench.settings import EAGER, Setting
from grownas.bench.timing import wall_seconds

LATER = 5  # later calls per cell; their median is used
NEW = 4  # number of further new cells


def first_calls(setting: Setting, backend: str) -> dict[str, list[float]]:
    """Return milliseconds per call: `first` of the process's first cell, `new` of further new cells, and `later` calls.

    Call it in a fresh process. It warms up torch and autograd with plain autograd at other sizes, but not the backend.
    """
    torch.set_num_threads(1)
    other = setting._replace(T=3, B=5, I=setting.I + 1, H=setting.H + 1)
    make_call(make_chain(other, EAGER), other)()
    cells = [setting, *(_new(setting, number) for number in range(1, NEW + 1))]
    first, later = zip(*(_times(cell, backend) for cell in cells), strict=True)
    return {"first": list(first[:1]), "new": list(first[1:]), "later": list(later)}


def _new(setting: Setting, number: int) -> Setting:
    """Return a cell with other ops and sizes but a similar cost: ops are rotated, H and I are larger by `number`."""
    ops = tuple(node[number:] + node[:number] for node in setting.ops)
    turned = ops[number % len(ops) :] + ops[: number % len(ops)]
    return setting._replace(ops=turned, I=setting.I + number, H=setting.H + number)


def _times(setting: Setting, backend: str) -> tuple[float, float]:
    call = make_call(make_chain(setting, backend), setting)
    first, *later = (1e3 * wall_seconds(call, 1) for _ in range(1 + LATER))
    return first, statistics.median(later)
