"""What all tests of growth share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.criteria.early_stop import ACCEPT
from grownas.protocols import Evaluation
from support.growing import (
    CHANGED,
    DAYS,
    PLAIN,
    SPACE,
    START,
    ScriptedJournal,
    grow,
    model_of,
    verdicts,
)


@pytest.fixture
def search(copy_task, make_model):
    """Grow the start by a script, in `limit` seconds; return what was found, the journal and the start."""

    class Judged(copy_task):
        def evaluate(self, model, part):
            assert part == "val"
            self.asked = getattr(self, "asked", 0) + 1
            loss = START if self.asked == 1 else CHANGED
            return Evaluation(loss, np.full(DAYS, loss))

    def run(
        losses, options=PLAIN, *, dtype=torch.float64, nodes=1, ops=None, seed=4, space=SPACE, limit=None, **script
    ):
        task, journal = Judged(dtype=dtype), ScriptedJournal(losses, **script)
        start = make_model(task, nodes=nodes) if ops is None else model_of(task, ops)
        return grow(start, task, journal, options, seed=seed, space=space, seconds=limit), journal, start

    return run


@pytest.fixture
def judge_says(monkeypatch):
    """Let the criterion `better` give these answers, one after the other."""

    def say(*answers):
        monkeypatch.setitem(ACCEPT, "better", verdicts(*answers))

    return say
