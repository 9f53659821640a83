"""A search that is killed in the middle of a training, and goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from grownas.protocols import Problem, SearchResult
from grownas.runs.journal import LOGS, Journal, MemoryLog, MemoryStore
from grownas.runs.progress import Progress
from support.journals import ALWAYS, NEVER, Killed


def goes_on_after_a_kill(
    search: Callable[[Problem], Iterator[SearchResult]], problem: Problem, *, part: float
) -> tuple[list[Any], list[Any], str]:
    """Kill a search when a part of its losses was computed, and let it go on.

    Returns:
        All results of an unbroken search, those of the one that went on, and the key of the training that was cut off.
    """
    store, computed, last = MemoryStore(), 0, math.inf

    class Mortal(type(problem.task)):  # type: ignore[misc]
        def loss(self, model, out, window):
            nonlocal computed
            computed += 1
            if computed > last:
                raise Killed
            return super().loss(model, out, window)

    task = Mortal()
    vars(task).update(vars(problem.task))

    def run(every_s: float, kept: MemoryStore) -> list[SearchResult]:
        logs = {name: MemoryLog() for name in LOGS}
        journal = Journal(kept, **logs, progress=Progress(quiet=True), every_s=every_s)
        return list(search(replace(problem, task=task, journal=journal)))

    whole = run(NEVER, MemoryStore())
    whole_losses, computed, last = computed, 0, int(part * computed)
    with pytest.raises(Killed):
        run(ALWAYS, store)
    (cut,) = [key.removesuffix(".part") for key in store.trees if key.endswith(".part")]
    computed, last = 0, math.inf
    again = run(NEVER, store)
    assert 0 < computed < whole_losses
    return whole, again, cut
