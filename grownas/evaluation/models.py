"""The kinds of models in a run, by name: found by the search, its start, or a baseline. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from grownas.baselines.table import BASELINES

Kind = Literal["found", "start", "fitted", "trained"]


class NamedModel(NamedTuple):
    """The meaning of a model's name.

    Attributes:
        kind: `found`: found by the search; `start`: the start of the search; `fitted`: a baseline fitted in closed form
            or by folds, whose forecasts do not depend on the seed; `trained`: a baseline whose forecasts do, mostly
            one trained by gradient steps.
        words: short description.
        tuned: whether validation chooses the model's settings.
    """

    kind: Kind
    words: str
    tuned: bool = False


MODELS = {
    "chosen": NamedModel("found", "the model that predict uses: start, first stage, grown or retrained"),
    "grown": NamedModel("found", "the grown cell, with the weights learned during growth"),
    "grown_retrained": NamedModel("found", "the grown cell, retrained from random weights", tuned=True),
    "grown_supernet": NamedModel("found", "the grown supernet of a DAG, before a cell is derived from it"),
    "first_stage": NamedModel("found", "the start after training, before any node was added"),
    "updated": NamedModel("found", "the model after an update, whether accepted or not"),
    "not_updated": NamedModel("start", "the model before an update"),
    "start": NamedModel("start", "the model from which growth starts, before any training"),
    **{
        name: NamedModel("fitted" if one.fitted else "trained", one.words, one.tuned) for name, one in BASELINES.items()
    },
}
QUANTISED, UNIFORM, UNTRAINED = "quantised", "uniform_", "ptq_"  # names, or their beginnings, of cells with bit widths
FITTED = tuple(name for name, model in MODELS.items() if model.kind == "fitted")
MAIN = ("chosen", "grown")  # the main model of a run is the first of these that the run scores
WITH_BITS = {  # beginning of a name -> words
    QUANTISED: "the chosen cell at bit widths found by a search",
    UNIFORM: "the chosen cell at one bit width, trained on",
    UNTRAINED: "the chosen cell at one bit width, not trained (post-training quantisation)",
}
SUPERNET = "_supernet"  # suffix of the name of the supernet that a search trained
RETRAINED = "_retrained"  # suffix of the name of a found cell that was retrained from random weights
SEARCH = "search"  # `model` in `metrics.jsonl` for all models that a strategy trains during the search
FITS = {"retrained": "grown_retrained"}  # prefix of a fit's name -> model, where the prefix is not the model's name


def named(name: str, strategies: Collection[str] = ()) -> NamedModel:
    """Return the meaning of a model's name; an unknown name is a trained baseline.

    Args:
        name: the model's name in the scores.
        strategies: names of the strategies that searched; each finds the models `<strategy>` and
            `<strategy>_retrained`.
    """
    for beginning, words in WITH_BITS.items():
        if name.startswith(beginning) and name not in MODELS:
            return NamedModel("found", words)
    strategy = name.removesuffix(RETRAINED).removesuffix(SUPERNET)
    if name.endswith(SUPERNET) and strategy in strategies:
        return NamedModel("found", f"the supernet that {strategy} trained, before the cell was derived")
    if strategy in strategies and name not in ("grown", "grown_retrained"):
        again = ", retrained from random weights" if name.endswith(RETRAINED) else ""
        return NamedModel("found", f"the cell found by {strategy}{again}", tuned=bool(again))
    return MODELS.get(name, NamedModel("trained", ""))


def main_of(names: Collection[str]) -> str | None:
    """Return the main model of a run: `chosen`, else `grown`, else the first; None if there are no models."""
    return next((name for name in (*MAIN, *names) if name in names), None)


def rivals_of(main: str, names: Iterable[str], strategies: Sequence[str] = ()) -> list[str]:
    """Return the models that `main` is compared with: start, baselines, and the models that other strategies found.

    Args:
        main: the main model, see `main_of`.
        names: all models.
        strategies: see `named`; the first strategy found `main`.
    """

    def is_own(name: str) -> bool:
        if name.removesuffix(RETRAINED).removesuffix(SUPERNET) in strategies[1:]:
            return False
        return name == main or named(name, strategies).kind == "found"

    return [name for name in names if not is_own(name)]


def lowest(figures: Mapping[str, float | None]) -> str | None:
    """Return the name with the lowest finite figure; None if no figure is finite."""
    found = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
    return min(found, key=lambda name: found[name], default=None)


def model_of_fit(part: str, models: Iterable[str]) -> str | None:
    """Return the model that a fit belongs to: the longest model name that is the fit's name or its prefix.

    Only for folders of earlier versions, in which `metrics.jsonl` lacks the field `model`.

    Args:
        part: name of the fit, such as `gru-27-huber-rate-0.01`.
        models: names of the models in the scores.
    """
    begins = {**{model: model for model in models}, **FITS}
    found = [begin for begin in begins if part == begin or part.startswith(f"{begin}-")]
    return begins[max(found, key=len)] if found else None


def kind_of(data: Mapping[str, Any]) -> str:
    """Return the kind of a run's task from its `data.json`; early versions did not write the kind."""
    return str(data.get("kind", "language" if "words" in data else "series"))


def is_text(data: Mapping[str, Any]) -> bool:
    """Return whether a run is on a text, from its `data.json`."""
    return kind_of(data) == "language"
