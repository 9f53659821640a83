"""What each model of a run is, by its name: found by the search, its start, or a baseline. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from grownas.baselines.table import BASELINES

Kind = Literal["found", "start", "fitted", "trained"]


class NamedModel(NamedTuple):
    """What a model's name means.

    Attributes:
        kind: `found` by the search; the `start` of the search; a baseline that is `fitted` in closed form or by folds,
            so that its forecasts do not depend on the seed; a baseline that is `trained` by gradient steps.
        words: what it is.
        tuned: validation chooses its settings.
    """

    kind: Kind
    words: str
    tuned: bool = False


MODELS = {
    "chosen": NamedModel("found", "the model that predict uses: start, first stage, grown or retrained"),
    "grown": NamedModel("found", "the cell found, with the weights it grew with"),
    "grown_retrained": NamedModel("found", "the cell found, trained again from random weights", tuned=True),
    "grown_supernet": NamedModel("found", "the DAG that grew, before a cell was read out"),
    "first_stage": NamedModel("found", "the start after training, before any node was added"),
    "start": NamedModel("start", "where growth starts, before any training"),
    **{
        name: NamedModel("fitted" if one.fitted else "trained", one.words, one.tuned) for name, one in BASELINES.items()
    },
}
FITTED = tuple(name for name, model in MODELS.items() if model.kind == "fitted")
MAIN = ("chosen", "grown")  # what a run is about: the first of these that it scores
SUPERNET = "_supernet"  # ends the name of the supernet that a search trained
RETRAINED = "_retrained"  # ends the name of what a search found, trained again from random weights
SEARCH = "search"  # in `metrics.jsonl`, the model of what the strategy trains to find one
FITS = {"retrained": "grown_retrained"}  # what the names of a model's fits begin with, where that is not its own name


def named(name: str, strategies: Collection[str] = ()) -> NamedModel:
    """Return what a model is.

    Args:
        name: in the scores.
        strategies: names of the strategies that searched; each finds the models `<strategy>` and
            `<strategy>_retrained`. A name that is in neither table is a trained baseline.
    """
    strategy = name.removesuffix(RETRAINED).removesuffix(SUPERNET)
    if name.endswith(SUPERNET) and strategy in strategies:
        return NamedModel("found", f"the supernet that {strategy} trained, before a cell was read out")
    if strategy in strategies and name not in ("grown", "grown_retrained"):
        again = ", trained again from random weights" if name.endswith(RETRAINED) else ""
        return NamedModel("found", f"the cell found by {strategy}{again}", tuned=bool(again))
    return MODELS.get(name, NamedModel("trained", ""))


def main_of(names: Collection[str]) -> str | None:
    """Return the model that a run is about: `chosen`, else `grown`, else the first."""
    return next((name for name in (*MAIN, *names) if name in names), None)


def rivals_of(main: str, names: Iterable[str], strategies: Sequence[str] = ()) -> list[str]:
    """Return what a model is compared with: start, baselines, and what other strategies found.

    Args:
        main: the model, see `main_of`.
        names: all models.
        strategies: as `named` takes them; the first found `main`.
    """

    def is_own(name: str) -> bool:
        if name.removesuffix(RETRAINED).removesuffix(SUPERNET) in strategies[1:]:
            return False
        return name == main or named(name, strategies).kind == "found"

    return [name for name in names if not is_own(name)]


def lowest(figures: Mapping[str, float | None]) -> str | None:
    """Return the name with the lowest finite figure; None where there is none."""
    found = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
    return min(found, key=lambda name: found[name], default=None)


def model_of_fit(part: str, models: Iterable[str]) -> str | None:
    """Return the model that a fit belongs to, by the name of the fit: the model's own name, or one that it begins with.

    Only for folders of early versions, whose `metrics.jsonl` does not name the model.

    Args:
        part: the fit's name, such as `gru-27-huber-rate-0.01`.
        models: names in the scores.
    """
    begins = {**{model: model for model in models}, **FITS}
    found = [begin for begin in begins if part == begin or part.startswith(f"{begin}-")]
    return begins[max(found, key=len)] if found else None


def kind_of(data: Mapping[str, Any]) -> str:
    """Return the kind of a run's task by its `data.json`; folders of early versions do not say it."""
    return str(data.get("kind", "language" if "words" in data else "series"))


def is_text(data: Mapping[str, Any]) -> bool:
    """Say whether a run is on a text, by its `data.json`."""
    return kind_of(data) == "language"
