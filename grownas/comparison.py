"""Compares the models of several runs that differ in their seed alone: `comparison.json` and its table."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import RunError
from grownas.report.reading import OURS
from grownas.report.tables import WORDS, comparison_table, score
from grownas.statistics import diebold_mariano, equal_losses, model_confidence_set

Array = np.ndarray[Any, np.dtype[np.float64]]
Tree = dict[str, Any]

REFERENCE = "grown"
SIMPLE = ("zero", "var1", "var", "var_robust")  # fitted, not trained
LEVEL = 0.05  # of the Diebold-Mariano tests in the verdict
SIZE = 0.1  # of the model confidence set
FORECASTS, LOSSES = "forecasts.safetensors", "losses.safetensors"  # of a run on series, on a text
BLOCK = 100  # tokens of a text whose losses are averaged before they are tested


def compare(folders: Sequence[Path]) -> Tree:
    """Compare the models over finished run folders, one a seed.

    Means and sds (n - 1; None for one seed) are over seeds. The tests read each model's loss at each step of the test
    part, averaged over the seeds; so they speak of the steps, not of the seeds. A step is a day, its loss the mean over
    series of the squared error; or it is a block of 100 tokens of a text, its loss their mean nll. The tokens at the
    end that do not fill a block are left out of the tests, not of the means.

    Returns:
        The tree of `comparison.json`: `metric, seeds, models, reference, steps, tests, mcs, verdict`.

    Raises:
        RunError: a folder is not finished or damaged, or the seeds saw different data.
    """
    if not folders:
        raise RunError("nothing to compare: no run folder was given; give at least one")
    runs = [_read(Path(folder)) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if not np.array_equal(run["target"], runs[0]["target"]):
            raise RunError(f"{folder}: its test data differ from those of {folders[0]}; compare runs on the same data")
    names = list(dict.fromkeys(name for run in runs for name in run["entries"]))
    daily = {name: np.stack([run["losses"][name] for run in runs if name in run["entries"]]) for name in names}
    losses = {name: each.mean(axis=0) for name, each in daily.items()}
    confidence = model_confidence_set(losses, size=SIZE)
    models = [_model(name, runs, name in confidence.members) for name in names]
    tests = [_test(name, daily, losses) for name in names if name != REFERENCE and REFERENCE in names]
    result = {
        "metric": runs[0]["summary"]["metric"],
        "seeds": [run["summary"]["seed"] for run in runs],
        "models": models,
        "reference": REFERENCE,
        "steps": {"count": len(losses[names[0]]), "unit": runs[0]["unit"]},
        "tests": tests,
        "mcs": confidence._asdict(),
    }
    return {**result, "verdict": verdict(result, _kept_starts(runs))}


def table(comparison: Tree) -> str:
    """Return a comparison as text for the terminal: a row a model, then the verdict."""
    return f"{comparison_table(comparison)}\n\n{comparison['verdict']}"


def _read(folder: Path) -> Tree:
    """Read a run: its summary, the entry of each model, and each model's losses at the steps of the test part.

    `target` is equal where the test data are; `test` holds the forecasts of series, nothing for a text; `unit` says
    what a step is.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    def existing(name: str) -> Path:
        if not (folder / name).is_file():
            raise RunError(f"{folder}: not a finished run: {name} is missing; resume it")
        return folder / name

    try:
        summary, data = (json.loads(existing(name).read_text("utf-8")) for name in ("summary.json", "data.json"))
        entries = {entry["model"]: entry for entry in summary["scores"]}
        is_text = "words" in data
        tensors = load_file(existing(LOSSES if is_text else FORECASTS))
        values = {name: tensors[name].astype(np.float64) for name in entries}
        if len({each.shape for each in values.values()}) != 1:
            raise ValueError("its models were not scored on the same steps, or there are none")
        if is_text:
            target, test = np.array(str(data["checksum"])), {}
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
    return {"summary": summary, "entries": entries, "target": target, "test": test, "losses": losses, "unit": unit}


def _block_size(tokens: int) -> int:
    """Return how many tokens make a block: fewer in a text that is too short for 20 blocks."""
    return max(1, min(BLOCK, tokens // 20))


def _blocks(losses: Array, size: int) -> Array:
    """Return the means of consecutive blocks; the tokens after the last whole one are left out."""
    means: Array = losses[: len(losses) // size * size].reshape(-1, size).mean(axis=1)
    return means


def _model(name: str, runs: Sequence[Tree], in_mcs: bool) -> Tree:
    """Return one model's entry."""
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


def _test(name: str, daily: Mapping[str, Array], losses: Mapping[str, Array]) -> Tree:
    """Test the reference against a model; statistic and difference are above 0 where the reference is better."""
    test = diebold_mariano(losses[name], losses[REFERENCE])
    return {
        "baseline": name,
        "statistic": test.statistic,
        "p_value": test.p_value,
        "p_one_sided": test.p_one_sided,
        "loss_difference": test.difference,
        "equal": test.equal,
        "seeds": min(len(daily[name]), len(daily[REFERENCE])),
    }


def _kept_starts(runs: Sequence[Tree]) -> int:
    """Count the seeds whose grown cell forecasts as its start does."""
    both = [run for run in runs if {REFERENCE, "start"} <= run["entries"].keys()]
    return sum(equal_losses(run["losses"]["start"], run["losses"][REFERENCE]) for run in both)


def verdict(comparison: Tree, kept_starts: int) -> str:
    """Say in words which model is best, where simple models win and what the tests find.

    Args:
        comparison: the tree without its verdict.
        kept_starts: in how many seeds the grown cell is the start.
    """
    means = {entry["model"]: entry["test"]["mean"] for entry in comparison["models"]}
    best, seeds = min(means, key=lambda name: means[name]), len(comparison["seeds"])
    metric = comparison["metric"]
    lowest = f"Lowest mean test {WORDS.get(metric, metric)} over {seeds} seed{'s' * (seeds > 1)}"
    words = [f"{lowest}: {best} ({score(means[best], metric)})."]
    if REFERENCE in means:
        words += [_start_words(kept_starts, seeds), *_reference_words(comparison, means)]
    words.append(_set_words(comparison["mcs"], means))
    return " ".join(word for word in words if word)


def _set_words(confidence: Mapping[str, Any], compared: Container[str]) -> str:
    """Say whether the confidence set holds the reference, and which simple models, or where there are none, which."""
    members, the_set = confidence["members"], f"{confidence['size']:.0%} model confidence set"
    if REFERENCE not in compared:
        return f"The {the_set} holds {_list(members)}."
    lead = f"{REFERENCE} is {'in' if REFERENCE in members else 'not in'} the {the_set}"
    if any(name in compared for name in SIMPLE):
        simple = [name for name in SIMPLE if name in members]
        return lead + (
            f"; of the simple models it holds {_list(simple)}." if simple else ", which holds no simple model."
        )
    others = [name for name in members if name != REFERENCE]
    if REFERENCE not in members:
        return f"{lead}, which holds {_list(others)}."
    return lead + (f", with {_list(others)}." if others else ", alone.")


def _start_words(kept: int, seeds: int) -> str:
    if not kept:
        return ""
    return "The start is kept, nothing found" + ("." if kept == seeds else f", in {kept} of {seeds} seeds.")


def _reference_words(comparison: Tree, means: Mapping[str, float]) -> list[str]:
    """Compare the reference with the baselines: lower means first, then what Diebold and Mariano's test says."""
    metric, steps = comparison["metric"], comparison["steps"]
    rivals = {test["baseline"]: test for test in comparison["tests"] if test["baseline"] not in OURS}
    ahead = [name for name, test in rivals.items() if not test["equal"] and means[name] < means[REFERENCE]]
    words = [
        f"{name} has a lower mean than {REFERENCE} "
        f"({score(means[name], metric)} against {score(means[REFERENCE], metric)})."
        for name in ahead
    ]
    groups: dict[str, list[str]] = {}
    for name, test in rivals.items():
        groups.setdefault(_finding(test), []).append(name)
    found = [f"{finding} {_list(names)}" for finding, names in groups.items()]
    if found:
        where = f"at {LEVEL:.0%} on {steps['count']} {steps['unit']}"
        words.append(f"By the Diebold-Mariano test {where} {REFERENCE} is {'; '.join(found)}.")
    return words


def _finding(test: Mapping[str, Any]) -> str:
    if test["equal"]:
        return "the same as"
    if test["p_value"] > LEVEL:
        return "not told apart from"
    return "better than" if test["statistic"] > 0 else "worse than"


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
