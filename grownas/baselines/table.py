"""The one table of baselines: what each is, for which kinds of tasks, and where it is computed.

A new baseline is a function that takes an `Experiment` and returns a `Score`, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Baseline(NamedTuple):
    """A model that the cell found by the search is compared with.

    Attributes:
        functions: by kind of task, `module:function` of the function that computes it.
        fitted: its forecasts come out of a fit that does not depend on the seed; else it is trained.
    """

    functions: dict[str, str]
    fitted: bool = False

    @property
    def kinds(self) -> set[str]:
        """The kinds of tasks that it is for."""
        return set(self.functions)

    def function(self, kind: str) -> Callable[[Any], Any]:
        """Import the function for a kind of task."""
        module, _, name = self.functions[kind].partition(":")
        function: Callable[[Any], Any] = getattr(import_module(f"grownas.baselines.{module}"), name)
        return function


BASELINES: dict[str, Baseline] = {
    "zero": Baseline({"series": "series:zero"}, fitted=True),
    "var1": Baseline({"series": "series:var1"}, fitted=True),
    "var": Baseline({"series": "series:var"}, fitted=True),
    "var_robust": Baseline({"series": "series:var_robust"}, fitted=True),
    "har": Baseline({"series": "series:har"}, fitted=True),
    "lstm": Baseline({"series": "series:lstm", "language": "text:lstm", "plain": "plain:lstm"}),
    "gru": Baseline({"series": "series:gru", "language": "text:gru", "plain": "plain:gru"}),
    "gru_var": Baseline({"series": "series:gru_var"}),
    "fixed_size_random": Baseline({"series": "series:fixed_size_random"}),
    "sizes": Baseline({"series": "series:sizes"}),
    "darts_v1": Baseline({"language": "text:darts_v1"}),
    "darts_v2": Baseline({"language": "text:darts_v2"}),
    "enas": Baseline({"language": "text:enas"}),
}


def names(kind: str) -> list[str]:
    """Return the names of the baselines of a kind of task."""
    return [name for name, one in BASELINES.items() if kind in one.functions]
