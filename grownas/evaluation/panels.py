"""Compares models over many panels by their regret: how much worse a model is than the best simple model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import RunError
from grownas.evaluation.groups import Group, grouped, rows_of
from grownas.evaluation.models import FITTED

Tree = dict[str, Any]

FILE = "panels.json"  # in the comparison's folder


def compare(folders: Sequence[Group]) -> Tree:
    """Return every model's regret over finished runs: one run folder per panel, or one per panel and strategy.

    If a panel has several folders, all models of the first are compared, and from the others the found models.

    A model's regret on a panel is 100 * log(its test metric / the lowest test metric of the simple models), roughly the
    difference in per cent. This is a hard comparison, because nobody knows in advance which simple model is best. A
    model wins on a panel if its regret is below 0 and loses if it is above 0; a simple model cannot win.

    Returns:
        The content of `panels.json`: `metric, simple, panels, models`, with the models sorted by mean regret.

    Raises:
        RunError: a run is not finished or damaged, or no simple model is in all runs.
    """
    if not folders:
        raise RunError("nothing to compare: no run folder was given; give at least one")
    groups = grouped(folders)
    runs = [_read_group(group) for group in groups]
    metrics = [run.pop("metric") for run in runs]
    simple = [name for name in FITTED if all(name in run["test"] for run in runs)]
    if not simple:
        raise RunError(
            f"{groups[0][0]}: regret needs one of {', '.join(FITTED)} in every run; add one to baselines.use and run "
            "the comparison again"
        )
    for run in runs:
        lowest = min(run["test"][name] for name in simple)
        run["regret"] = {name: 100 * float(np.log(test / lowest)) for name, test in run["test"].items()}
    names = dict.fromkeys(name for run in runs for name in run["test"])
    models = [_model(name, [run["regret"][name] for run in runs if name in run["regret"]]) for name in names]
    models.sort(key=lambda model: float(model["mean"]))
    return {"metric": metrics[0], "simple": simple, "panels": runs, "models": models}


def _read_group(folders: Sequence[Path]) -> Tree:
    """Merge the runs of one panel: all models of the first run, and the models that the other strategies found."""
    first, *others = map(_read, folders)
    for folder, other in zip(folders[1:], others, strict=True):
        if any(other[key] != first[key] for key in ("series", "days", "metric")):
            raise RunError(f"{folder}: its test data differ from those of {folders[0]}; compare runs on the same data")
        first["test"] |= {name: other["test"][name] for name in rows_of(other["strategy"]) if name in other["test"]}
    del first["strategy"]
    return first


def _read(folder: Path) -> Tree:
    """Return a finished run's panel and its models' test metrics."""
    path = folder / "summary.json"
    if not path.is_file():
        raise RunError(f"{folder}: not a finished run: {path.name} is missing; resume it")
    try:
        summary, data = (json.loads((folder / name).read_text("utf-8")) for name in (path.name, "data.json"))
        test = {entry["model"]: float(entry["test"]) for entry in summary["scores"]}
        about = {"panel": folder.name, "series": data["names"], "days": [data["dates"][0], data["dates"][-1]]}
        metric, strategy = str(summary["metric"]), str(summary["strategy"])
    except (OSError, ValueError, TypeError, LookupError) as error:  # invalid JSON raises ValueError
        raise RunError(f"{folder}: damaged: {error}; run it again") from error
    if not all(value > 0 for value in test.values()):
        raise RunError(f"{folder}: a test metric is not above 0, so it has no logarithm: {test}")
    return {"metric": metric, "strategy": strategy, **about, "test": test}


def _model(name: str, each: Sequence[float]) -> Tree:
    """Return one model's row: its regrets over the panels, in per cent."""
    found = np.array(each)
    return {
        "model": name,
        "n": len(found),
        "mean": float(found.mean()),
        "median": float(np.median(found)),
        "p90": float(np.quantile(found, 0.9)),
        "worst": float(found.max()),
        "wins": int((found < 0).sum()),
        "ties": int((found == 0).sum()),
        "losses": int((found > 0).sum()),
        "each": found.tolist(),
    }
