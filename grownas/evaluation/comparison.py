"""Compares the models of several runs that differ in their seed alone: `comparison.json` and its table."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import RunError
from grownas.evaluation.groups import Group, grouped, rows_of
from grownas.evaluation.statistics import (
    MEASURED_SIZE,
    ConfidenceSet,
    KindTest,
    diebold_mariano,
    equal_losses,
    model_confidence_set,
    two_way_t,
    welch_t,
)
from grownas.report.reading import OURS
from grownas.report.tables import WORDS, comparison_table, score, size_words

Array = np.ndarray[Any, np.dtype[np.float64]]
Tree = dict[str, Any]

FILE = "comparison.json"  # in the comparison's folder
REFERENCES = ("chosen", "grown")  # what the others are tested against: the first of these that was compared
SIMPLE = ("zero", "var1", "var", "var_robust", "har")  # fitted, not trained: their forecasts do not depend on the seed
LEVEL = 0.05  # of the tests in the verdict
SIZE = 0.1  # of the model confidence set
FORECASTS, LOSSES = "forecasts.safetensors", "losses.safetensors"  # of a run on series, on anything else
NO_SET = ConfidenceSet([], {}, SIZE, 0)  # of no models
BLOCK = 100  # tokens of a text whose losses are averaged before they are tested


def compare(folders: Sequence[Group]) -> Tree:
    """Compare the models over finished run folders, one a seed, or several of a seed that differ in their strategy.

    Of several, all models of the first are compared, and of the others those that their strategies found.

    Means and sds (n - 1; None for one seed) are over seeds. Steps are those of the test part. A step is a day, its loss
    the mean over series of the squared error; or it is a block of 100 tokens of a text, its loss their mean nll (the
    tokens at the end that do not fill a block are left out of the tests, not of the means); or, for a task of another
    kind, it is one of the losses that the task gives.

    The reference is `chosen`, or `grown` where that is not among the models. Each other model is tested against it:

    - `days_and_seeds`: `two_way_t` of the losses by seed and step, as `statistic, p_value, freedom`;
    - `over_seeds`: `welch_t` of the seeds' mean losses; None where neither forecast depends on the seed;
    - `finding`: `better` or `worse` (the reference) where all of these tests that apply have p < .05, else
      `not told apart`; `same` where the losses are equal; `untested` where a trained model has a single seed, and then
      both tests are None;
    - `statistic, p_value, p_one_sided`: Diebold and Mariano's test of the losses averaged over the seeds, which is of
      these averages and says nothing of other seeds.

    Statistics and `loss_difference` are above 0 where the reference is better. `mcs.untested` names the trained models
    with one seed. `sizes` says how often each test rejects equal kinds of models (`statistics.MEASURED_SIZE`).

    Returns:
        The tree of `comparison.json`: `metric, seeds, models, reference, steps, tests, mcs, sizes, verdict`.

    Raises:
        RunError: a folder is not finished or damaged, or the seeds saw different data.
    """
    if not folders:
        raise RunError("nothing to compare: no run folder was given; give at least one")
    groups = grouped(folders)
    runs = [_read_group(group) for group in groups]
    for (folder, *_), run in zip(groups, runs, strict=True):
        _check_target(folder, run, groups[0][0], runs[0])
    names = list(dict.fromkeys(name for run in runs for name in run["entries"]))
    daily = {name: np.stack([run["losses"][name] for run in runs if name in run["entries"]]) for name in names}
    reference = next((name for name in REFERENCES if name in names), REFERENCES[-1])
    testable = [name for name in names if _is_testable(name, daily)]
    confidence = model_confidence_set({name: daily[name] for name in testable}, size=SIZE) if testable else NO_SET
    models = [_model(name, runs, name in confidence.members if name in testable else None) for name in names]
    tests = [_test(name, reference, daily) for name in names if name != reference and reference in names]
    result = {
        "metric": runs[0]["summary"]["metric"],
        "seeds": [run["summary"]["seed"] for run in runs],
        "models": models,
        "reference": reference,
        "steps": {"count": daily[names[0]].shape[1], "unit": runs[0]["unit"]},
        "tests": tests,
        "mcs": {**confidence._asdict(), "untested": [name for name in names if name not in testable]},
        "sizes": [one._asdict() for one in MEASURED_SIZE],
    }
    return {**result, "verdict": verdict(result, _kept_starts(runs, reference))}


def table(comparison: Tree) -> str:
    """Return a comparison as text for the terminal: a row a model, the verdict, and how often each test is wrong."""
    return f"{comparison_table(comparison)}\n\n{comparison['verdict']}\n\n{size_words(comparison)}"


def _read_group(folders: Sequence[Path]) -> Tree:
    """Read the runs of one seed as one: all of the first, and the models that the others' strategies found."""
    first, *others = folders
    run = _read(first)
    for folder in others:
        other = _read(folder)
        _check_target(folder, other, first, run)
        for name in rows_of(other["strategy"]):
            for part in ("entries", "test", "losses"):
                if name in other[part]:
                    run[part][name] = other[part][name]
    return run


def _check_target(folder: Path, run: Tree, first: Path, known: Tree) -> None:
    if not np.array_equal(run["target"], known["target"]):
        raise RunError(f"{folder}: its test data differ from those of {first}; compare runs on the same data")


def _read(folder: Path) -> Tree:
    """Read a run: its summary, the entry of each model, and each model's losses at the steps of the test part.

    `target` is equal where the test data are; `test` holds the forecasts of series, nothing for other tasks; `unit`
    says what a step is.
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
        kind = data.get("kind", "language" if "words" in data else "series")  # early versions did not write it
        tensors = load_file(existing(FORECASTS if kind == "series" else LOSSES))
        values = {name: tensors[name].astype(np.float64) for name in entries}
        if len({each.shape for each in values.values()}) != 1:
            raise ValueError("its models were not scored on the same steps, or there are none")
        test: dict[str, Array] = {}
        if kind == "plain":
            target, unit, losses = np.array(str(data["checksum"])), "steps", values
        elif kind == "language":
            target = np.array(str(data["checksum"]))
            size = _block_size(len(next(iter(values.values()))))
            unit, losses = f"blocks of {size} tokens", {name: _blocks(each, size) for name, each in values.items()}
        else:
            first = int(data["n_val"])
            target, test = tensors["actual"][first:].astype(np.float64), {n: v[first:] for n, v in values.items()}
            unit = "days"
            losses = {name: ((target - forecast) ** 2).mean(axis=1) for name, forecast in test.items()}
    except (ValueError, TypeError, SafetensorError, OSError) as error:  # text that is no JSON is a ValueError
        raise RunError(f"{folder}: damaged: {error}") from error
    except KeyError as error:
        raise RunError(f"{folder}: damaged: {error} is missing in its files; run it again") from error
    return {
        "summary": summary,
        "strategy": strategy,
        "entries": entries,
        "target": target,
        "test": test,
        "losses": losses,
        "unit": unit,
    }


def _block_size(tokens: int) -> int:
    """Return how many tokens make a block: fewer in a text that is too short for 20 blocks."""
    return max(1, min(BLOCK, tokens // 20))


def _blocks(losses: Array, size: int) -> Array:
    """Return the means of consecutive blocks; the tokens after the last whole one are left out."""
    means: Array = losses[: len(losses) // size * size].reshape(-1, size).mean(axis=1)
    return means


def _is_testable(name: str, daily: Mapping[str, Array]) -> bool:
    """Say whether it is known how a model's losses vary over seeds: it does not depend on them or has several."""
    return name in SIMPLE or len(daily[name]) > 1


def _model(name: str, runs: Sequence[Tree], in_mcs: bool | None) -> Tree:
    """Return one model's entry; `in_mcs` is None where it could not be tested."""
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
        "capped": sum(entry.get("capped", False) for entry in entries),
        "settings": entries[0].get("settings"),
        "words_per_s": _mean(speeds) if speeds else None,
        "val": _spread([entry["val"] for entry in entries]),
        "test": {**_spread([entry["test"] for entry in entries]), "each": [entry["test"] for entry in entries]},
        "averaged_test": _averaged(name, found),
        "in_mcs": in_mcs,
    }


def _averaged(name: str, runs: Sequence[Tree]) -> float | None:
    """Return the error of a model's forecasts averaged over the seeds; None where there are no forecasts."""
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


def _plain(test: KindTest | None) -> Tree | None:
    """Return a test as JSON can hold it: None stands for infinitely many degrees of freedom."""
    if test is None:
        return None
    return {**test._asdict(), "freedom": test.freedom if np.isfinite(test.freedom) else None}


def _finding(tests: Sequence[KindTest]) -> str:
    """Say what the tests that apply find about the reference together."""
    if not tests:
        return "untested"
    if max(test.p_value for test in tests) >= LEVEL:
        return "not told apart"
    return "better" if tests[0].statistic > 0 else "worse"


def _kept_starts(runs: Sequence[Tree], reference: str) -> int:
    """Count the seeds whose reference forecasts as its start does."""
    both = [run for run in runs if {reference, "start"} <= run["entries"].keys()]
    return sum(equal_losses(run["losses"]["start"], run["losses"][reference]) for run in both)


def verdict(comparison: Tree, kept_starts: int) -> str:
    """Say in words which model is best, where simple models win and what the tests find.

    Args:
        comparison: the tree without its verdict.
        kept_starts: in how many seeds the reference is the start.
    """
    means = {entry["model"]: entry["test"]["mean"] for entry in comparison["models"]}
    best, seeds = min(means, key=lambda name: means[name]), len(comparison["seeds"])
    metric = comparison["metric"]
    lowest = f"Lowest mean test {WORDS.get(metric, metric)} over {_count(seeds)}"
    words = [f"{lowest}: {best} ({score(means[best], metric)})."]
    if comparison["reference"] in means:
        words += [_start_words(kept_starts, seeds), *_reference_words(comparison, means)]
    words.append(_set_words(comparison, means))
    return " ".join(word for word in words if word)


def _set_words(comparison: Tree, compared: Container[str]) -> str:
    """Say whether the confidence set holds the reference, and which simple models, or where there are none, which."""
    confidence, reference = comparison["mcs"], comparison["reference"]
    members, the_set = confidence["members"], f"{confidence['size']:.0%} model confidence set"
    if not members:
        return ""
    if reference not in compared or reference in confidence["untested"]:
        among = f" of {_list(list(confidence['p_values']))}" if confidence["untested"] else ""
        return f"The {the_set}{among} holds {_list(members)}."
    lead = f"{reference} is {'in' if reference in members else 'not in'} the {the_set}"
    if any(name in compared for name in SIMPLE):
        simple = [name for name in SIMPLE if name in members]
        return lead + (
            f"; of the simple models it holds {_list(simple)}." if simple else ", which holds no simple model."
        )
    others = [name for name in members if name != reference]
    if reference not in members:
        return f"{lead}, which holds {_list(others)}."
    return lead + (f", with {_list(others)}." if others else ", alone.")


def _start_words(kept: int, seeds: int) -> str:
    if not kept:
        return ""
    return "The start is kept, nothing found" + ("." if kept == seeds else f", in {kept} of {seeds} seeds.")


FINDINGS = {  # of a test -> how the verdict says it of the reference
    "better": "better than",
    "worse": "worse than",
    "not told apart": "not told apart from",
    "same": "the same as",
}


def _reference_words(comparison: Tree, means: Mapping[str, float]) -> list[str]:
    """Compare the reference with the baselines: lower means first, then what the tests of kinds of models find."""
    metric, steps, reference = comparison["metric"], comparison["steps"], comparison["reference"]
    rivals = {test["baseline"]: test for test in comparison["tests"] if test["baseline"] not in OURS}
    ahead = [name for name, test in rivals.items() if not test["equal"] and means[name] < means[reference]]
    words = [
        f"{name} has a lower mean than {reference} "
        f"({score(means[name], metric)} against {score(means[reference], metric)})."
        for name in ahead
    ]
    groups: dict[str, list[str]] = {}
    for name, test in rivals.items():
        groups.setdefault(test["finding"], []).append(name)
    untested = groups.pop("untested", [])
    found = [f"{FINDINGS[finding]} {_list(names)}" for finding, names in groups.items()]
    if found:
        where = f"{steps['count']} {steps['unit']} and {_count(len(comparison['seeds']))}"
        words.append(f"By the tests over {where} at the {LEVEL:.0%} level {reference} is {'; '.join(found)}.")
    if untested:
        words.append(f"{reference} is not tested against {_list(untested)}: a trained model needs at least 2 seeds.")
    return words


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
