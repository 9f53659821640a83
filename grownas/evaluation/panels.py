"""Compares models over many panels by their regret: how much worse a model is than the best simple model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import RunError
from grownas.evaluation.comparison import LEVEL, check_target, read_group
from grownas.evaluation.groups import Group, grouped
from grownas.evaluation.models import FITTED
from grownas.evaluation.statistics import diebold_mariano

Tree = dict[str, Any]

FILE = "panels.json"  # in the comparison's folder


def compare(folders: Sequence[Group]) -> Tree:
    """Return every model's regret over finished runs: one run folder per panel and seed, or one per strategy as well.

    If a panel and seed has several folders, all models of the first are compared, and from the others the found models.
    Folders whose names differ only in `-seed-N` at their end are one panel; its test metrics and its losses on each day
    are averaged over the seeds.

    A model's regret on a panel is 100 * log(its test metric / the lowest test metric of the simple models), roughly the
    difference in per cent. This is a hard comparison, because nobody knows in advance which simple model is best. A
    model wins on a panel if its regret is below 0 and loses if it is above 0; a simple model cannot win.

    `dm` counts the panels on which the Diebold-Mariano test of the averaged losses finds a model `better` or `worse`
    than the best simple model at the 5 % level (two-sided, not corrected for the number of tests), or does not tell
    them apart. The test says nothing about other seeds.

    Returns:
        The content of `panels.json`: `metric, level, simple, panels, models`, with the models sorted by mean regret.

    Raises:
        RunError: a run is not finished or damaged, runs of one panel have different test data, or no simple model is in
            all runs.
    """
    if not folders:
        raise RunError("nothing to compare: no run folder was given; give at least one")
    panels: dict[str, list[tuple[Path, Tree]]] = {}
    for folder, *others in grouped(folders):
        run = read_group([folder, *others])
        panels.setdefault(folder.name.removesuffix(f"-seed-{run['summary']['seed']}"), []).append((folder, run))
    runs = [run for seeds in panels.values() for _, run in seeds]
    simple = [name for name in FITTED if all(name in run["entries"] for run in runs)]
    if not simple:
        first = next(iter(panels.values()))[0][0]
        raise RunError(
            f"{first}: regret needs one of {', '.join(FITTED)} in every run; add one to baselines.use and run the "
            "comparison again"
        )
    found = [_panel(name, seeds, simple) for name, seeds in panels.items()]
    names = dict.fromkeys(name for panel in found for name in panel["test"])
    models = sorted((_model(name, found) for name in names), key=lambda model: float(model["mean"]))
    return {
        "metric": runs[0]["summary"]["metric"],
        "level": LEVEL,
        "simple": simple,
        "panels": found,
        "models": models,
    }


def _panel(name: str, seeds: Sequence[tuple[Path, Tree]], simple: Sequence[str]) -> Tree:
    """Return one panel's test metrics, regrets and tests against its best simple model, averaged over the seeds."""
    first_folder, first = seeds[0]
    each: dict[str, list[float]] = {}
    losses: dict[str, list[Any]] = {}
    for folder, run in seeds:
        check_target(folder, run, first_folder, first)
        for model, entry in run["entries"].items():
            if not entry["test"] > 0:
                raise RunError(f"{folder}: the test metric of {model} is {entry['test']}, not above 0: no logarithm")
            each.setdefault(model, []).append(float(entry["test"]))
            losses.setdefault(model, []).append(run["losses"][model])
    test = {model: float(np.mean(values)) for model, values in each.items()}
    daily = {model: np.mean(values, axis=0) for model, values in losses.items()}
    best = min(simple, key=test.__getitem__)
    tests = {model: diebold_mariano(daily[best], values) for model, values in daily.items()}
    return {
        "panel": name,
        **_about(first_folder, first["data"]),
        "seeds": [run["summary"]["seed"] for _, run in seeds],
        "best": best,
        "test": test,
        "sd": {model: float(np.std(values, ddof=1)) if len(values) > 1 else None for model, values in each.items()},
        "regret": {model: 100 * float(np.log(value / test[best])) for model, value in test.items()},
        "p_value": {model: one.p_value for model, one in tests.items()},
        "dm": {model: _finding(one.statistic, one.p_value) for model, one in tests.items()},
    }


def _about(folder: Path, data: Tree) -> Tree:
    """Return the names of the series, and first day, last day and number of rows of the test part."""
    try:
        days = data["dates"][data["n_val"] :]
        return {"series": data["names"], "days": [days[0], days[-1]], "rows": len(days)}
    except (TypeError, LookupError) as error:
        raise RunError(f"{folder}: damaged: data.json: {error!r}; run it again") from error


def _finding(statistic: float, p_value: float) -> str:
    """Return what a test finds about a model; the statistic is above 0 if the model is better."""
    if p_value >= LEVEL:
        return "not told apart"
    return "better" if statistic > 0 else "worse"


def _model(name: str, panels: Sequence[Tree]) -> Tree:
    """Return one model's row: its regrets over the panels, in per cent."""
    own = [panel for panel in panels if name in panel["test"]]
    regrets = np.array([panel["regret"][name] for panel in own])
    return {
        "model": name,
        "n": len(own),
        "mean": float(regrets.mean()),
        "median": float(np.median(regrets)),
        "p90": float(np.quantile(regrets, 0.9)),
        "worst": float(regrets.max()),
        "wins": int((regrets < 0).sum()),
        "ties": int((regrets == 0).sum()),
        "losses": int((regrets > 0).sum()),
        "dm": dict(Counter(panel["dm"][name] for panel in own)),
        "each": regrets.tolist(),
    }
