"""The table of baselines: what each is, its kinds of tasks, and the function that computes it.

A new baseline is a function from an `Experiment` to a `Score`, and one line here; one for a single task is a line in
`BASELINES` of the task's options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Baseline(NamedTuple):
    """A model to compare the found cell with.

    Attributes:
        words: a short description.
        functions: the function that computes it, as `package.module:function`, by kind of task.
        fitted: it is fitted, and does not depend on the seed; otherwise it is trained, or has weights drawn at random.
        tuned: validation chooses its settings.
    """

    words: str
    functions: dict[str, str]
    fitted: bool = False
    tuned: bool = False

    def function(self, kind: str) -> Callable[[Any], Any]:
        """Import the function for a kind of task."""
        module, _, name = self.functions[kind].partition(":")
        function: Callable[[Any], Any] = getattr(import_module(module), name)
        return function


def _series(function: str) -> dict[str, str]:
    return {"series": f"grownas.baselines.series:{function}"}


def _any(function: str) -> dict[str, str]:
    return {**_series(function), **_text(function), "plain": f"grownas.baselines.plain:{function}"}


def _text(function: str) -> dict[str, str]:
    return {"language": f"grownas.baselines.text:{function}"}


BASELINES: dict[str, Baseline] = {
    "zero": Baseline("forecasts the mean of the training part", _series("zero"), fitted=True),
    "var1": Baseline("VAR(1), least squares", _series("var1"), fitted=True),
    "var": Baseline("VAR, least squares, order chosen on validation", _series("var"), fitted=True),
    "var_robust": Baseline("VAR; loss, ridge and order chosen by blocked folds", _series("var_robust"), fitted=True),
    "har": Baseline(
        "last value and means of 5 and 22 days, ridge chosen by blocked folds", _series("har"), fitted=True
    ),
    "lstm": Baseline("long short-term memory", _any("lstm"), tuned=True),
    "gru": Baseline("gated recurrent units", _any("gru"), tuned=True),
    "min_gru": Baseline("a GRU whose gate and candidate read the input alone", _series("min_gru"), tuned=True),
    "lru": Baseline("linear recurrent unit: diagonal and complex, in its nonlinear block", _series("lru"), tuned=True),
    "tsmixer": Baseline("TSMixer: mixes the last rows along time, then series", _series("tsmixer"), tuned=True),
    "dlinear": Baseline("DLinear: linear in trend and remainder of the last rows", _series("dlinear"), tuned=True),
    "esn": Baseline("echo state network, readout fitted; reservoir and ridge chosen by blocked folds", _series("esn")),
    "gru_var": Baseline("GRU added to the same start", _series("gru_var"), tuned=True),
    "fixed_size_random": Baseline(
        "a cell of the largest size that growth can reach, from random weights",
        _series("fixed_size_random"),
        tuned=True,
    ),
    "sizes": Baseline(
        "cells of 1, 2, ... nodes from random weights; the search's criterion chooses the size", _series("sizes")
    ),
    "darts_v1": Baseline("published cell, found by first-order DARTS", _text("darts_v1"), tuned=True),
    "darts_v2": Baseline("published cell, found by second-order DARTS", _text("darts_v2"), tuned=True),
    "enas": Baseline("published cell, found by ENAS", _text("enas"), tuned=True),
}


def baselines_for(kind: str, own: Mapping[str, Baseline] | None = None) -> dict[str, Baseline]:
    """Return the baselines of a kind of task, with a task's `own`, which `BASELINES` of its options holds."""
    return {name: one for name, one in {**BASELINES, **(own or {})}.items() if kind in one.functions}


def names(kind: str, own: Mapping[str, Baseline] | None = None) -> list[str]:
    """Return the names of `baselines_for`."""
    return list(baselines_for(kind, own))
