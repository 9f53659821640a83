"""Reads run folders, finished or not, for the report. Files that do not exist yet become None or empty."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from grownas.errors import GenotypeError, RunError
from grownas.evaluation.models import SEARCH, is_text, lowest, main_of, model_of_fit, rivals_of
from grownas.evaluation.replays import KIND
from grownas.genotype import AnyGenotype, Genotype
from grownas.report import damage

CELLS = {"cell_before", "cell_after"}  # keys of growth.jsonl that hold cells
PARTS = {"study": "study", "walk": "backtest"}  # command of a part -> what it is a part of
Tree = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The content of a run folder.

    Attributes:
        path: the folder.
        config_text, config: the resolved config, as text and parsed.
        command: the command that created the run.
        what: the baseline that `train` trained; None otherwise.
        summary: the content of `summary.json`; None until the run is finished.
        metrics, growth, shares, trials: the lines of the logs; cells in `growth` are genotypes.
        genotype: the cell of the chosen model.
        equations: the text of `equations.txt`.
        data: the content of `data.json`.
        forecasts: model -> forecasts of the validation and test rows, standardised, float64, shape
            `(n_val + n_test, I)`; `actual` holds the actual values.
        figures: the task's own figures, see `protocols.Figure`.
    """

    path: Path
    config_text: str
    config: Tree
    command: str
    summary: Tree | None
    metrics: list[Tree]
    growth: list[Tree]
    shares: list[Tree]
    genotype: AnyGenotype | None
    equations: str | None
    data: Tree
    forecasts: dict[str, np.ndarray]
    what: str | None = None
    trials: list[Tree] = field(default_factory=list)
    figures: list[Tree] = field(default_factory=list)

    @classmethod
    def empty(cls, path: Path) -> Run:
        """Return a run without any content."""
        return cls(path, "", {}, "search", None, [], [], [], None, None, {}, {})

    @property
    def name(self) -> str:
        """The name of the folder, also if the path is `.`."""
        return self.path.resolve().name

    @property
    def scores(self) -> list[Tree]:
        """One entry per model; empty until the run is finished."""
        return list(self.summary.get("scores", [])) if self.summary else []

    @property
    def metric(self) -> str:
        """The task's metric."""
        return str(self.summary.get("metric", "mse")) if self.summary else "mse"

    @property
    def is_text(self) -> bool:
        """Whether the run is on a text."""
        return is_text(self.data)

    def score(self, model: str) -> Tree | None:
        """Return the score entry of a model."""
        return next((entry for entry in self.scores if entry["model"] == model), None)

    @property
    def main(self) -> str:
        """The main model of the run: `chosen`, else `grown`, else the model that was trained."""
        return main_of([entry["model"] for entry in self.scores]) or ""

    @property
    def best_baseline(self) -> str | None:
        """The start or baseline with the lowest test figure, without the main model itself."""
        summary = self.summary or {}
        figures = {entry["model"]: entry["test"] for entry in self.scores}
        rivals = rivals_of(self.main, figures, [summary.get("strategy", "")])
        same = summary.get("chosen")  # the main model may be the start itself
        return lowest({name: figures[name] for name in rivals if name != same})

    @cached_property
    def test(self) -> dict[str, np.ndarray]:
        """Forecasts of the test rows."""
        n_val = int(self.data.get("n_val", 0))
        return {model: values[n_val:] for model, values in self.forecasts.items()}

    @property
    def test_dates(self) -> list[str]:
        """Dates of the test rows."""
        return [str(day) for day in self.data.get("dates", [])[int(self.data.get("n_val", 0)) :]]


@dataclass(frozen=True)
class Comparison:
    """A folder of `grownas compare`: the runs of its seeds, and the `result` (None until it is finished).

    Attributes:
        runs: one run per seed of the first strategy.
        others: name of each other strategy -> its runs, one per seed.
    """

    path: Path
    config_text: str
    config: Tree
    result: Tree | None
    runs: list[Run]
    others: Mapping[str, list[Run]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the folder, also if the path is `.`."""
        return self.path.resolve().name

    @property
    def best_baseline(self) -> str | None:
        """The start or baseline with the lowest mean test figure, among models that differ from the reference."""
        if self.result is None:
            return None
        means = {entry["model"]: entry["test"]["mean"] for entry in self.result["models"]}
        same = {test["baseline"] for test in self.result.get("tests", []) if test.get("equal")}
        rivals = rivals_of(self.result.get("reference", "grown"), means, self.result.get("strategies", ()))
        return lowest({name: means[name] for name in rivals if name not in same})

    @property
    def shown(self) -> Run | None:
        """The finished run with the lowest validation figure; the page shows its details."""
        finished = [run for run in self.runs if run.summary]
        return min(finished, key=lambda run: run.summary["val"] if run.summary else 0.0, default=None)


@dataclass(frozen=True)
class Study:
    """A folder of a finished study; `result` is the content of `study.json`."""

    path: Path
    config_text: str
    config: Tree
    result: Tree

    @property
    def name(self) -> str:
        """The name of the folder, also if the path is `.`."""
        return self.path.resolve().name


class Forecast(NamedTuple):
    """Forecasts of a model in a backtest, in the units of the series.

    Attributes:
        names: of the series.
        actual: shape `(n, O)`.
        forecast: shape `(n, O)`.
        bounds: of the intervals, lower and upper, shape `(2, n, O)`; may be infinite.
    """

    names: list[str]
    actual: np.ndarray
    forecast: np.ndarray
    bounds: np.ndarray


@dataclass(frozen=True)
class Backtest:
    """A folder of a finished backtest.

    Attributes:
        result: the content of `backtest.json`.
        dates: of the rows, ISO.
        losses: by model, one per row, shape `(n,)`.
        forecast: of the reference model; None if there are no intervals.
    """

    path: Path
    config_text: str
    config: Tree
    result: Tree
    dates: list[str]
    losses: dict[str, np.ndarray]
    forecast: Forecast | None

    @property
    def name(self) -> str:
        """The name of the folder, also if the path is `.`."""
        return self.path.resolve().name


def read(path: Path) -> Run | Comparison | Study | Backtest:
    """Read the folder of a run, a comparison, a study or a backtest.

    Raises:
        RunError: the folder is not a run folder, or a file in it is damaged.
    """
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder"
        raise RunError(f"{path}: {what}; give the path of a run folder, such as runs/NAME")
    if panels := sorted(path.glob("panel-*/")):
        raise RunError(
            f"{path}: a comparison over panels has no report; its regrets are in panels.json. Give one or more of its "
            f"runs, such as {panels[0]}"
        )
    if (studied := _json(path / "study.json", {"kind?": str})) is not None:
        form = damage.REPLAYS if studied.get("kind") == KIND else damage.STUDY
        damage.check(studied, form, str(path / "study.json"))
        return Study(path, *_config(path), studied)
    if (walked := _json(path / "backtest.json", damage.BACKTEST)) is not None:
        return Backtest(
            path, *_config(path), walked, *_rows(path / "losses.csv", walked), _reference_forecast(path, walked)
        )
    seeds = sorted(path.glob("seed-*/"), key=lambda folder: (len(folder.name), folder.name))
    if (path / "comparison.json").exists() or seeds:
        runs, others = list[Run](), dict[str, list[Run]]()
        for folder in filter(_is_run, seeds):
            _, _, strategy = folder.name.removeprefix("seed-").partition("-")
            (others.setdefault(strategy, []) if strategy else runs).append(read_run(folder))
        text, config = _config(path)
        return Comparison(path, text, config, _json(path / "comparison.json", damage.COMPARISON), runs, others)
    return read_run(path)


def read_run(path: Path) -> Run:
    """Read the folder of one run."""
    if not _is_run(path):
        raise RunError(
            f"{path}: not a run folder: it holds neither config.yaml nor summary.json; give a folder that `grownas "
            "search`, `train` or `compare` wrote"
        )
    text, config = _config(path)
    mark = _json(path / "run.json", damage.RUN) or {}
    if mark.get("command") == "backtest":
        raise RunError(f"{path}: not finished; continue it with `grownas resume {path}`")
    if (command := mark.get("command")) in PARTS:
        raise RunError(f"{path}: a part of a {PARTS[command]} has no report; give the folder of the {PARTS[command]}")
    data, summary = _data(path / "data.json"), _json(path / "summary.json", damage.SUMMARY)
    return Run(
        path=path,
        config_text=text,
        config=config,
        command=str(mark.get("command", "search")),
        summary=summary,
        metrics=_metrics(path / "metrics.jsonl", [entry["model"] for entry in (summary or {}).get("scores", [])]),
        growth=_growth(path / "growth.jsonl"),
        shares=_shares(path / "shares.jsonl"),
        genotype=_genotype(path / "genotype.json"),
        equations=_text(path / "equations.txt"),
        data=data,
        forecasts=_forecasts(path / "forecasts.safetensors", data),
        what=mark.get("what"),
        trials=_json_lines(path / "trials.jsonl", damage.TRIAL),
        figures=_figures(path / "figures.json"),
    )


def _rows(path: Path, result: Tree) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read the dates and each model's losses from the file of a backtest."""
    names = [one["model"] for one in result["models"]]
    try:
        head, *lines = list(csv.reader((_text(path) or "").splitlines()))
        columns = list(zip(*lines, strict=True))
        if head != ["date", *names] or len(lines) != result["rows"]:
            raise ValueError(f"expected {result['rows']} rows of date, {', '.join(names)}")
        return list(columns[0]), {
            name: np.array(column, dtype=np.float64) for name, column in zip(names, columns[1:], strict=True)
        }
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from error


def _reference_forecast(path: Path, result: Tree) -> Forecast | None:
    """Read the forecasts and the intervals of a backtest's reference model; None if there are no intervals.

    Raises:
        RunError: a file is missing or damaged.
    """
    if not (names := result.get("names")):
        return None
    reference, shape = result["reference"], (result["rows"], len(names))
    forecasts, intervals = (_tensors(path / f"{name}.safetensors") for name in ("forecasts", "intervals"))
    missing = np.empty(0)
    actual, forecast = (forecasts.get(name, missing) for name in ("actual", reference))
    bounds = intervals.get(reference, missing)
    if (actual.shape, forecast.shape, bounds.shape) != (shape, shape, (2, *shape)):
        raise RunError(f"{path}: damaged: forecasts and intervals of {reference} do not fit backtest.json")
    return Forecast(names, actual, forecast, bounds)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.yaml", "summary.json"))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def _config(path: Path) -> tuple[str, Tree]:
    text = _text(path / "config.yaml") or ""
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RunError(f"{path / 'config.yaml'}: not YAML: {error}") from error
    damage.check(tree, damage.CONFIG, str(path / "config.yaml"))
    return text, tree


def _json(path: Path, form: Any) -> Tree | None:
    text = _text(path)
    return None if text is None else _parsed(text, form, str(path))


def _parsed(text: str, form: Any, where: str) -> Tree:
    try:
        tree: Tree = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers with too many digits, lists nested too deeply
        raise RunError(f"{where}: damaged, not JSON: {error}") from error
    damage.check(tree, form, where)
    return tree


def _data(path: Path) -> Tree:
    """Read `data.json` and check the keys for series or for a text."""
    tree = _json(path, damage.DATA) or {}
    for key, form in (("names", damage.SERIES), ("words", damage.WORDS)):
        if key in tree:
            damage.check(tree, form, str(path))
    if "names" in tree:
        rows, series = tree["n_val"] + tree["n_test"], len(tree["names"])
        if len(tree["dates"]) != rows or {len(tree["mean"]), len(tree["sd"])} != {series}:
            raise RunError(f"{path}: damaged: expected {rows} dates, and a mean and an sd for each of {series} series")
    return tree


def _figures(path: Path) -> list[Tree]:
    """Read the task's own figures."""
    found: list[Tree] = (_json(path, damage.FIGURES) or {"figures": []})["figures"]
    for line in [line for figure in found for line in figure["lines"]]:
        if len(line["x"]) != len(line["y"]):
            raise RunError(
                f"{path}: damaged: line {line['label']!r} has {len(line['x'])} x and {len(line['y'])} y, expected as "
                "many"
            )
    return found


def _json_lines(path: Path, form: Any) -> list[Tree]:
    """Read a log; a last line without a line break is still being written, and is ignored."""
    lines = (_text(path) or "").split("\n")[:-1]
    return [_parsed(line, form, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _metrics(path: Path, models: Sequence[str]) -> list[Tree]:
    """Read the log of evaluations; `models` are the names in the scores."""
    lines = _json_lines(path, damage.METRICS)
    for line in lines:
        if "model" not in line:  # written by an earlier version, which named fits after their models
            line["model"] = SEARCH if line["stage"] else model_of_fit(line.get("part", ""), models)
    return lines


def _growth(path: Path) -> list[Tree]:
    """Read the log of moves and turn its cells into genotypes; early versions did not log cells."""
    lines = _json_lines(path, damage.MOVE)
    for number, line in enumerate(lines, start=1):
        for key in CELLS & line.keys():
            try:
                line[key] = Genotype.from_dict(line[key])
            except GenotypeError as error:
                raise RunError(f"{path}, line {number}: damaged: {key}: {error}") from error
    return lines


def _shares(path: Path) -> list[Tree]:
    """Read the log of shares; early versions did not write it."""
    lines = _json_lines(path, damage.SHARES)
    for number, line in enumerate(lines, start=1):
        if len(line["ops"]) != len(line["shares"]):
            raise RunError(
                f"{path}, line {number}: damaged: got {len(line['shares'])} shares for "
                f"{len(line['ops'])} ops, expected one per op"
            )
    return lines


def _genotype(path: Path) -> AnyGenotype | None:
    if not path.exists():
        return None
    try:
        return Genotype.load(path)
    except GenotypeError as error:
        raise RunError(str(error)) from error


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a file as float64; none if there is no such file."""
    if not path.exists():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: np.asarray(values, dtype=np.float64) for name, values in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: damaged: {error}") from error


def _forecasts(path: Path, data: Tree) -> dict[str, np.ndarray]:
    found = _tensors(path)
    shape = (data["n_val"] + data["n_test"], len(data["names"])) if "names" in data else None
    for name, values in found.items():
        if values.ndim != 2 or values.shape != (shape or next(iter(found.values())).shape):
            raise RunError(
                f"{path}: damaged: {name} has shape {values.shape}, expected {shape or 'that of the others'}"
            )
    return found
