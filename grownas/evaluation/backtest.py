"""The result of a backtest: mean losses, time, tests over all blocks, and means per year and per block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grownas.evaluation.statistics import MEASURED_SIZE, diebold_mariano, model_confidence_set

LEAST = 20  # rows; with fewer the tests say nothing
TESTS = ("diebold_mariano", "mcs")
SIZE = 0.1  # level of the model confidence set
Array = np.ndarray[Any, np.dtype[np.float64]]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """One model's way through a backtest.

    Attributes:
        losses: its loss at each row: the squared error, mean over standardised series, or nats per word; shape `(n,)`.
        begun: its entry before the first block.
        entries: its entry for each block; see `experiments.walking.Walker`.
        alarms: rows, counted from the first one forecast, at which its losses had risen.
    """

    losses: Array
    begun: Tree
    entries: Sequence[Tree]
    alarms: Sequence[int]

    @property
    def forecasts(self) -> Array:
        """All forecasts of series, standardised, shape `(n, O)`."""
        return np.concatenate([entry["forecasts"] for entry in self.entries])


def summarise(
    courses: Mapping[str, Course],
    dates: Sequence[str],
    every: int,
    *,
    periods: Sequence[str] | None = None,
    score: Callable[[float], float] = float,
) -> Tree:
    """Return the figures of `backtest.json`.

    The first model is the reference: the Diebold-Mariano test compares its forecasts with those of each other model,
    over all rows. The test says nothing about other seeds: `sizes` says how often it rejects equal kinds of models.
    With fewer than 20 rows there is no test.

    Args:
        courses: by the name of the model.
        dates: of the rows, ISO; of a text the number of words before each row.
        every: rows of a block.
        periods: the period of each row; None: the year of its date.
        score: maps a mean loss to the metric that is shown.
    """
    losses = {name: one.losses for name, one in courses.items()}
    reference, *others = losses
    tested = len(dates) >= LEAST
    tests = [{"baseline": name, **diebold_mariano(losses[name], losses[reference])._asdict()} for name in others]
    confidence = model_confidence_set(losses, size=SIZE)._asdict() if tested else None
    starts = range(0, len(dates), every)
    years = [day[:4] for day in dates] if periods is None else list(periods)
    return {
        "reference": reference,
        "first": dates[0],
        "last": dates[-1],
        "rows": len(dates),
        "models": [_row(name, one, score) for name, one in courses.items()],
        "tests": tests if tested else [],
        "mcs": confidence,
        "sizes": [one._asdict() for one in MEASURED_SIZE if one.test in TESTS],
        "years": [_means(year, losses, [one == year for one in years], score) for year in dict.fromkeys(years)],
        "blocks": [_means(dates[first], losses, slice(first, first + every), score) for first in starts],
        "events": [event for name, one in courses.items() for event in _events(name, one, dates, every)],
    }


def _row(name: str, course: Course, score: Callable[[float], float]) -> Tree:
    parts = [course.begun, *course.entries]
    learned = [entry["accepted"] for entry in course.entries if entry["accepted"] is not None]
    return {
        "model": name,
        "loss": score(float(course.losses.mean())),
        "params": course.entries[-1]["params"],
        "seconds": round(sum(part["seconds"] for part in parts), 3),
        "cpu_seconds": round(sum(part["cpu_seconds"] for part in parts), 3),
        "first_seconds": round(course.begun["seconds"], 3),
        "gradients": sum(part["gradients"] for part in parts),
        "learned": len(learned),
        "accepted": sum(learned),
        "drifts": len(course.alarms),
    }


def _means(name: str, losses: Mapping[str, Array], rows: Any, score: Callable[[float], float]) -> Tree:
    kept = {model: one[rows] for model, one in losses.items()}
    count = len(next(iter(kept.values())))
    return {"name": name, "rows": count, "losses": {model: score(float(one.mean())) for model, one in kept.items()}}


def _events(name: str, course: Course, dates: Sequence[str], every: int) -> list[Tree]:
    """Return drift alarms, moves of growth, and learned weights that forecast the next block, in the order of rows.

    A model that learns may grow some blocks before it is better than the one kept and forecasts in its place.
    """
    found: list[Tree] = [{"row": row, "kind": "drift"} for row in course.alarms]
    for number, entry in enumerate(course.entries):
        moves = [move["kind"] for move in entry["growth"] if move["accepted"]]
        kinds = [*moves, *(["learned"] if entry["accepted"] else [])]
        found += [{"row": number * every, "kind": kind} for kind in kinds]
    return [{"model": name, "date": dates[one["row"]], **one} for one in sorted(found, key=lambda one: one["row"])]
