"""Compares optimisers over the parts of a study: computes `study.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import RunError
from grownas.evaluation.groups import read_part
from grownas.evaluation.statistics import welch_t

Tree = dict[str, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]

MEASURES = ("supernet", "eigenvalue", "cell", "anew")  # of a unit of training, see `experiments.study.run`
CELLS = ("cell", "anew")
JUDGED = ("supernet", *CELLS)
PLACE = ("backbone", "strategy")
WAY = ("weights", "alpha", "momentum")


def compare(folders: Sequence[Path]) -> Tree:
    """Compare the combinations of a study over its seeds, and answer its questions for each backbone and strategy.

    All figures are of the validation part, lower is better. An early cell is judged without choosing its epoch by its
    own figure: the epoch is the one with the lowest mean over the other seeds. With one seed it is chosen by its own
    figure, which makes an early cell look better than it is. A cell that diverged counts as the worst cell of its
    combination.

    Returns:
        The content of `study.json`: `metric, seeds, rows, answers`. A row is a combination on a backbone, with
        `rates` (the chosen rate of each seed), `diverged` (number of trainings), `epochs`, `curves` (measure -> seed ->
        figure after each unit, None where a training diverged), and these means with sd over the seeds: `supernet` (its
        lowest), `eigenvalue` (the last), and for `cell` and `anew` the `early` cell, the `last` one, and the `gain` of
        the early cell over it (above 0 if the early one is better). An answer has `backbone, strategy, question, other`
        and for each measure a difference in per cent with `mean, sd, p_value` over seeds (t-test). It is 100 * the
        difference of mean logarithms, in which one cell that nearly diverged does not outweigh all others.

    Raises:
        RunError: a part is not finished or damaged, or a figure is not above 0, so that it has no logarithm.
    """
    parts = [_read(folder) for folder in folders]
    grouped: dict[tuple[Any, ...], list[Tree]] = {}
    for part in parts:
        for curve in part["curves"]:
            key = (*(part[name] for name in PLACE), *(curve[name] for name in WAY))
            grouped.setdefault(key, []).append(curve)
    rows = [_row(key, curves) for key, curves in grouped.items()]
    places = list(dict.fromkeys(tuple(row[name] for name in PLACE) for row in rows))
    answers = [
        {"backbone": place[0], "strategy": place[1], **answer}
        for place in places
        for answer in _answers([row for row in rows if tuple(row[name] for name in PLACE) == place])
    ]
    for row in rows:
        for measure in ("supernet", "eigenvalue"):
            row[measure] = spread(row[measure])
        for measure in CELLS:
            row[measure] = {name: spread(each) for name, each in row[measure].items()}
    return {
        "metric": parts[0]["metric"],
        "seeds": list(dict.fromkeys(part["seed"] for part in parts)),
        "rows": rows,
        "answers": answers,
    }


def spread(values: Array) -> Tree:
    """Return mean, standard deviation (n - 1) and number of the values that are not nan; None where there are none."""
    kept = values[np.isfinite(values)]
    return {
        "mean": float(kept.mean()) if len(kept) else None,
        "sd": float(kept.std(ddof=1)) if len(kept) > 1 else None,
        "n": len(kept),
    }


def early_units(figures: Array) -> list[int]:
    """Return for each seed the unit with the lowest mean over the other seeds; for a single seed, over itself.

    Args:
        figures: shape `(seeds, units)`; rows of nan are left out.
    """
    known: np.ndarray[Any, np.dtype[np.bool_]] = np.array(np.isfinite(figures).all(axis=1))
    chosen = []
    for seed in range(len(figures)):
        others = known.copy()
        others[seed] = False
        chosen.append(int(figures[others if others.any() else known].mean(axis=0).argmin()) if known.any() else 0)
    return chosen


def _row(key: tuple[Any, ...], curves: Sequence[Tree]) -> Tree:
    """Return a row whose figures are arrays over the seeds, nan where every rate diverged."""
    trained = [[unit["epoch"] for unit in curve["units"]] for curve in curves]
    epochs = max(trained, key=len)
    if any(own not in ([], epochs) for own in trained):
        raise RunError(f"{' '.join(map(str, key))}: trainings of different epochs cannot be compared: {trained}")
    figures = {
        measure: np.array(
            [[unit[measure] for unit in curve["units"]] or [None] * len(epochs) for curve in curves], dtype=np.float64
        )
        for measure in MEASURES
    }
    shown = {
        measure: [[None if np.isnan(x) else float(x) for x in seed] for seed in each]
        for measure, each in figures.items()
    }
    row = {
        **dict(zip((*PLACE, *WAY), key, strict=True)),
        "rates": [curve["rate"] for curve in curves],
        "diverged": sum(len(curve["diverged"]) for curve in curves),
        "epochs": epochs,
        "curves": shown,
    }
    if not epochs:
        nothing = np.full(len(curves), np.nan)
        none = {"early": nothing, "last": nothing, "gain": nothing}
        return {**row, "supernet": nothing, "eigenvalue": nothing, **dict.fromkeys(CELLS, none)}
    for measure in CELLS:
        each = figures[measure]
        each[np.isnan(each) & np.array([bool(own) for own in trained])[:, None]] = (
            np.nanmax(each) if np.isfinite(each).any() else np.nan
        )
        early = each[np.arange(len(each)), early_units(each)]
        row[measure] = {"early": early, "last": each[:, -1], "gain": each[:, -1] - early}
    return {**row, "supernet": figures["supernet"].min(axis=1), "eigenvalue": figures["eigenvalue"][:, -1]}


def _answers(rows: Sequence[Tree]) -> list[Tree]:
    """Answer the questions for one strategy on one backbone."""
    found: dict[str, Tree] = {}
    for measure in JUDGED:
        for question, difference, other in _differences(rows, measure):
            known = difference[np.isfinite(difference)]
            test = welch_t(known, np.zeros(1)) if len(known) > 1 else None
            found.setdefault(question, {"question": question})[measure] = {
                **spread(difference),
                "p_value": None if test is None else test.p_value,
                "other": other,
            }
    return list(found.values())


def _differences(rows: Sequence[Tree], measure: str) -> Iterator[tuple[str, Array, str | None]]:
    """Yield each question with a difference for each seed, in per cent; below 0 the first is better.

    With the question about the best other pair, yield that pair: the one with the lowest mean.
    """

    def mean(**wanted: str) -> Array:
        kept = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
        return _mean_log([row[measure] if measure == "supernet" else row[measure]["last"] for row in kept])

    for which in ("weights", "alpha"):
        if {row[which] for row in rows} == {"sgd", "adam"}:
            yield f"sgd - adam for {which}", mean(**{which: "sgd"}) - mean(**{which: "adam"}), None
    pairs = list(dict.fromkeys((row["weights"], row["alpha"]) for row in rows))
    others = {pair: mean(weights=pair[0], alpha=pair[1]) for pair in pairs if pair != ("adam", "adam")}
    if others and ("adam", "adam") in pairs:
        best = min(others, key=lambda pair: np.inf if (mean := spread(others[pair])["mean"]) is None else mean)
        yield "adam + adam - best other pair", mean(weights="adam", alpha="adam") - others[best], " + ".join(best)
    if measure in CELLS:
        early, last = (_mean_log([row[measure][which] for row in rows]) for which in ("early", "last"))
        yield "early - last cell", early - last, None


def _mean_log(each: Sequence[Array]) -> Array:
    """Return 100 * the mean logarithm of arrays without their nan; nan where all are."""
    values = 100 * np.log(np.stack(each))
    counts = np.isfinite(values).sum(axis=0)
    means: Array = np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)
    return means


def _read(folder: Path) -> Tree:
    part = read_part(folder, {"metric", "seed", "curves", *PLACE})
    figures = [unit[measure] for curve in part["curves"] for unit in curve["units"] for measure in JUDGED]
    if not all(figure is None or figure > 0 for figure in figures):
        raise RunError(f"{folder}: a {part['metric']} is not above 0, so it has no logarithm")
    return part
