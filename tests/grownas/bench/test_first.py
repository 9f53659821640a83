from __future__ import annotations

import torch

from grownas.bench import first, peers, timing
from grownas.bench.settings import SMALL_CELL


def test_cells_are_new_each_time(tiny, monkeypatch):
    """Else a backend that compiles for each cell would be found out once only."""
    seen = []
    monkeypatch.setattr(first, "make_chain", lambda setting, backend: seen.append(setting) or backend)
    monkeypatch.setattr(first, "make_call", lambda model, setting: lambda: None)
    found = first.first_calls(tiny["derived"], "torch")
    warm_up, *cells = seen
    assert warm_up.H not in {cell.H for cell in cells[:1]}
    assert len({cell.ops for cell in cells[:3]}) == 3  # three nodes can be turned so often
    assert len({(cell.ops, cell.I, cell.H) for cell in cells}) == 1 + first.NEW
    assert [len(found[key]) for key in ("first", "new", "later")] == [1, first.NEW, 1 + first.NEW]


def test_what_a_first_call_does_more_is_found(tiny, monkeypatch):
    clock = [0.0]

    def slow_at_first(model, setting):
        seconds = [0.3, 0.01]

        def call():
            clock[0] += seconds.pop(0) if len(seconds) > 1 else seconds[0]

        return call

    monkeypatch.setattr(first, "make_call", slow_at_first)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    found = first.first_calls(tiny["derived"], "torch")
    assert {name: [round(ms) for ms in times] for name, times in found.items()} == {
        "first": [300], "new": [300] * first.NEW, "later": [10] * (1 + first.NEW),
    }  # fmt: skip


def test_new_cells_are_about_as_large():
    new = [first._new(SMALL_CELL, number) for number in range(1, first.NEW + 1)]
    assert all(1 < one.operations / SMALL_CELL.operations < 1.3 for one in new)
    assert all(torch.isfinite(peers.make_call(peers.make_chain(one), one)()[0]).all() for one in new)
