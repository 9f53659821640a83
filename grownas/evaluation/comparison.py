"""Compares the models of several runs that differ only in their seed: computes `comparison.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import RunError
from grownas.evaluation.groups import Group, grouped, rows_of
from grownas.evaluation.models import FITTED, MAIN, kind_of, main_of
from grownas.evaluation.statistics import (
    MEASURED_SIZE,
    ConfidenceSet,
    KindTest,
    diebold_mariano,
    equal_losses,
    holm,
    model_confidence_set,
    two_way_t,
    welch_t,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
Tree = dict[str, Any]

FILE = "comparison.json"  # in the comparison's folder
RANDOM = "random"  # the strategy that every further one must beat
LEVEL = 0.05  # significance level of the tests behind a finding
SIZE = 0.1  # size of the model confidence set
FORECASTS, LOSSES = "forecasts.safetensors", "losses.safetensors"  # FORECASTS for series, LOSSES for other tasks
NO_SET = ConfidenceSet([], {}, SIZE, 0)  # the set if no model can be tested
BLOCK = 100  # tokens of a text per block; the tests use the mean loss of a block


def compare(folders: Sequence[Group]) -> Tree:
    """Compare the models of finished runs: one run folder per seed, or one per seed and strategy.

    If a seed has several folders, all models of the first are compared, and from the others the found models.

    Means and standard deviations (n - 1; None for one seed) are over seeds. Steps are those of the test part:

    - series: a step is a day; its loss is the squared error, averaged over the series;
    - text: a step is a block of 100 tokens; its loss is their mean nll. Tokens at the end that do not fill a block are
      left out of the tests, but not of the means;
    - other tasks: each loss that the task returns is a step.

    The reference is `chosen`, or `grown` if there is no `chosen`. Each other model is tested against the reference:

    - `days_and_seeds`: `two_way_t` of the losses by seed and step, as `statistic, p_value, freedom`;
    - `over_seeds`: `welch_t` of the seeds' mean losses; None if neither model's forecasts depend on the seed;
    - `finding`: the reference is `better` or `worse` if every applicable test of these two has p < .05, else
      `not told apart`; `same` if the losses are equal; `untested` if a trained model has a single seed (both tests are
      then None);
    - `statistic, p_value, p_one_sided`: the Diebold-Mariano test of the losses averaged over the seeds. It compares
      these averages and says nothing about other seeds.

    Statistics and `loss_difference` are above 0 if the reference is better. `mcs.untested` names the trained models
    with one seed. `sizes` says how often each test rejects equal kinds of models (`statistics.MEASURED_SIZE`).

    Where `random` is a further strategy, `tests_against_random` holds the same tests of all other strategies. Their
    `reference` is random search's model of the same kind: `random` for found models, `random_retrained` for retrained
    cells. `p_holm` is the larger p of the two tests behind the finding, corrected by `holm` for the number of models
    with this reference; None if untested.

    Returns:
        The content of `comparison.json` without its verdict: `metric, seeds, strategies, models, reference,
        kept_starts, steps, tests, tests_against_random, mcs, sizes`. `kept_starts` counts the seeds in which the
        reference forecasts the same as the start.

    Raises:
        RunError: a run is not finished or damaged, or the runs have different test data.
    """
    if not folders:
        raise RunError("nothing to compare: no run folder was given; give at least one")
    groups = grouped(folders)
    runs = [read_group(group) for group in groups]
    for (folder, *_), run in zip(groups, runs, strict=True):
        check_target(folder, run, groups[0][0], runs[0])
    names = list(dict.fromkeys(name for run in runs for name in run["entries"]))
    daily = {name: np.stack([run["losses"][name] for run in runs if name in run["entries"]]) for name in names}
    reference = next((name for name in MAIN if name in names), MAIN[-1])
    testable = [name for name in names if _is_testable(name, daily)]
    confidence = model_confidence_set({name: daily[name] for name in testable}, size=SIZE) if testable else NO_SET
    models = [_model(name, runs, name in confidence.members if name in testable else None) for name in names]
    tests = [_test(name, reference, daily) for name in names if name != reference and reference in names]
    strategies = list(dict.fromkeys(name for run in runs for name in run["strategies"]))
    return {
        "metric": runs[0]["summary"]["metric"],
        "seeds": [run["summary"]["seed"] for run in runs],
        "strategies": strategies,
        "models": models,
        "reference": reference,
        "kept_starts": _kept_starts(runs, reference),
        "steps": {"count": daily[names[0]].shape[1], "unit": runs[0]["unit"]},
        "tests": tests,
        "tests_against_random": _tests_against_random(strategies, daily) if RANDOM in strategies[1:] else [],
        "mcs": {**confidence._asdict(), "untested": [name for name in names if name not in testable]},
        "sizes": [one._asdict() for one in MEASURED_SIZE],
    }


def pair_tests(losses: Mapping[str, Array]) -> list[Tree]:
    """Test the forecasts of a run's main model against the forecasts of each other model.

    The Diebold-Mariano test compares two given forecasts and says nothing about other seeds.

    Args:
        losses: model -> its loss at each step of the test part, shape `(n,)`, at least 0.

    Returns:
        For each other model `baseline, statistic, p_value, loss_difference, equal`. Statistic and difference are above
        0 if the main model is better.
    """
    main = main_of(losses)
    found = {name: diebold_mariano(each, losses[main]) for name, each in losses.items() if main and name != main}
    return [
        {
            "baseline": name,
            "statistic": test.statistic,
            "p_value": test.p_value,
            "loss_difference": test.difference,
            "equal": test.equal,
        }
        for name, test in found.items()
    ]


def step_losses(tokens: Array) -> Array:
    """Return the losses of a text's steps: the means of the token losses, shape `(n,)`, over blocks of tokens."""
    return _blocks(tokens, _block_size(len(tokens)))


def read_group(folders: Sequence[Path]) -> Tree:
    """Merge the runs of one seed or panel: all models of the first run, and the models that other strategies found.

    Args:
        folders: the run folders, one per strategy.

    Returns:
        `summary` and `data`, the content of the first run's files; `strategies`; `entries`, `test` and `losses`, which
        hold each model's scores, forecasts `(n, I)` of series, and losses `(n,)` at the steps of the test part;
        `target`, which is equal if the test data are equal; `unit` of the steps.

    Raises:
        RunError: a run is not finished or damaged, or the runs have different test data.
    """
    first, *others = folders
    run = _read(first)
    run["strategies"] = [run["strategy"]]
    for folder in others:
        other = _read(folder)
        check_target(folder, other, first, run)
        run["strategies"].append(other["strategy"])
        for name in rows_of(other["strategy"]):
            for part in ("entries", "test", "losses"):
                if name in other[part]:
                    run[part][name] = other[part][name]
    return run


def check_target(folder: Path, run: Tree, first: Path, known: Tree) -> None:
    """Raise a RunError if two runs have different test data."""
    if not np.array_equal(run["target"], known["target"]):
        raise RunError(f"{folder}: its test data differ from those of {first}; compare runs on the same data")


def _read(folder: Path) -> Tree:
    """Read a run: its summary, the entry of each model, and each model's losses at the steps of the test part.

    `target` identifies the test data: it is equal if the data are equal. `test` holds the forecasts of series and is
    empty for other tasks. `unit` names the steps.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    def existing(name: str) -> Path:
        if not (folder / name).is_file():
            raise RunError(f"{folder}: not a finished run: {name} is missing; resume it")
        return folder / name

    try:
        summary, data = (json.loads(existing(name).read_text("utf-8")) for name in ("summary.json", "data.json"))
        entries, strategy = {entry["model"]: entry for entry in summary["scores"]}, str(summary["strategy"])
        kind = kind_of(data)
        tensors = load_file(existing(FORECASTS if kind == "series" else LOSSES))
        values = {name: tensors[name].astype(np.float64) for name in entries}
        if len({each.shape for each in values.values()}) != 1:
            raise ValueError("its models have losses of different shapes, or it has no models")
        test: dict[str, Array] = {}
        if kind == "plain":
            target, unit, losses = np.array(str(data["checksum"])), "steps", values
        elif kind == "language":
            target = np.array(str(data["checksum"]))
            size = _block_size(len(next(iter(values.values()))))
            unit, losses = f"blocks of {size} tokens", {name: step_losses(each) for name, each in values.items()}
        else:
            first = int(data["n_val"])
            target, test = tensors["actual"][first:].astype(np.float64), {n: v[first:] for n, v in values.items()}
            unit = "days"
            losses = {name: ((target - forecast) ** 2).mean(axis=1) for name, forecast in test.items()}
    except (ValueError, TypeError, SafetensorError, OSError) as error:  # invalid JSON raises ValueError
        raise RunError(f"{folder}: damaged: {error}") from error
    except KeyError as error:
        raise RunError(f"{folder}: damaged: {error} is missing in its files; run it again") from error
    return {
        "summary": summary,
        "data": data,
        "strategy": strategy,
        "entries": entries,
        "target": target,
        "test": test,
        "losses": losses,
        "unit": unit,
    }


def _block_size(tokens: int) -> int:
    """Return the number of tokens per block; smaller if the text is too short for 20 blocks."""
    return max(1, min(BLOCK, tokens // 20))


def _blocks(losses: Array, size: int) -> Array:
    """Return the means of consecutive blocks; tokens after the last full block are left out."""
    means: Array = losses[: len(losses) // size * size].reshape(-1, size).mean(axis=1)
    return means


def _is_testable(name: str, daily: Mapping[str, Array]) -> bool:
    """Return whether a model's variance over seeds is known: it is fitted (variance 0) or has several seeds."""
    return name in FITTED or len(daily[name]) > 1


def _model(name: str, runs: Sequence[Tree], in_mcs: bool | None) -> Tree:
    """Return one model's entry; `in_mcs` is None if the model could not be tested."""
    found = [run for run in runs if name in run["entries"]]
    entries = [run["entries"][name] for run in found]
    speeds = [entry["words_per_s"] for entry in entries if entry.get("words_per_s")]
    return {
        "model": name,
        "n": len(found),
        "params": _mean([entry["params"] for entry in entries]),
        "seconds": _mean([entry["seconds"] for entry in entries]),
        "steps": _mean([entry["steps"] for entry in entries]) if "steps" in entries[0] else None,
        "cpu_seconds": _mean([entry["cpu_seconds"] for entry in entries]) if "cpu_seconds" in entries[0] else None,
        "gradients": _mean([entry["gradients"] for entry in entries]) if "gradients" in entries[0] else None,
        "capped": sum(entry.get("capped", False) for entry in entries),
        "settings": entries[0].get("settings"),
        "words_per_s": _mean(speeds) if speeds else None,
        "val": _spread([entry["val"] for entry in entries]),
        "test": {**_spread([entry["test"] for entry in entries]), "each": [entry["test"] for entry in entries]},
        "averaged_test": _averaged(name, found),
        "in_mcs": in_mcs,
    }


def _averaged(name: str, runs: Sequence[Tree]) -> float | None:
    """Return the mean squared error of the forecasts averaged over the seeds; None without forecasts."""
    if not runs[0]["test"]:
        return None
    forecast = np.mean([run["test"][name] for run in runs], axis=0)
    return float(((runs[0]["target"] - forecast) ** 2).mean())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _spread(values: Sequence[float]) -> Tree:
    return {"mean": _mean(values), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _test(name: str, reference: str, daily: Mapping[str, Array]) -> Tree:
    """Test the reference against a model; see `compare` for the keys."""
    losses, own = daily[name], daily[reference]
    test = diebold_mariano(losses.mean(axis=0), own.mean(axis=0))
    two_way = over_seeds = None
    if _is_testable(name, daily) and _is_testable(reference, daily):
        two_way, over_seeds = two_way_t(losses, own), welch_t(losses.mean(axis=1), own.mean(axis=1))
    return {
        "baseline": name,
        "statistic": test.statistic,
        "p_value": test.p_value,
        "p_one_sided": test.p_one_sided,
        "loss_difference": test.difference,
        "equal": test.equal,
        "seeds": min(len(losses), len(own)),
        "days_and_seeds": _plain(two_way),
        "over_seeds": _plain(over_seeds),
        "finding": "same" if test.equal else _finding([one for one in (two_way, over_seeds) if one is not None]),
    }


def _tests_against_random(strategies: Sequence[str], daily: Mapping[str, Array]) -> list[Tree]:
    """Test each strategy's found model and retrained cell against those of random search; see `compare`."""
    tests = []
    for place in (0, 1):  # of `rows_of`: the found model, the retrained cell
        reference, *names = (rows_of(one)[place] for one in (RANDOM, *(one for one in strategies if one != RANDOM)))
        if reference not in daily:
            continue
        found = [{"reference": reference, **_test(name, reference, daily)} for name in names if name in daily]
        tested = [one for one in found if one["finding"] != "untested"]
        corrected = iter(holm([_larger_p(one) for one in tested]))
        tests += [{**one, "p_holm": next(corrected) if one in tested else None} for one in found]
    return tests


def _larger_p(test: Tree) -> float:
    """Return the larger p of the tests behind a finding; 1 for equal losses."""
    both = [test[key]["p_value"] for key in ("days_and_seeds", "over_seeds") if test[key] is not None]
    return 1.0 if test["equal"] else max(both)


def _plain(test: KindTest | None) -> Tree | None:
    """Return a test in a form for JSON: None means infinitely many degrees of freedom."""
    if test is None:
        return None
    return {**test._asdict(), "freedom": test.freedom if np.isfinite(test.freedom) else None}


def _finding(tests: Sequence[KindTest]) -> str:
    """Return the joint finding of the applicable tests about the reference."""
    if not tests:
        return "untested"
    if max(test.p_value for test in tests) >= LEVEL:
        return "not told apart"
    return "better" if tests[0].statistic > 0 else "worse"


def _kept_starts(runs: Sequence[Tree], reference: str) -> int:
    """Count the seeds in which the reference forecasts the same as the start."""
    both = [run for run in runs if {reference, "start"} <= run["entries"].keys()]
    return sum(equal_losses(run["losses"]["start"], run["losses"][reference]) for run in both)
