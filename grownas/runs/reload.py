"""Uses the model of a finished run: scores it again, forecasts with it, prints its cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from grownas.cells.cell import GrownRNN
from grownas.config import loading as configs
from grownas.config.sections import Config
from grownas.errors import ConfigError, DataError, RunError
from grownas.genotype import Genotype
from grownas.runs.commands import kept_notes, load_task
from grownas.runs.rundir import RunDir

COMPUTING = ("device", "backend", "threads")  # may change from machine to machine, and last digits with them


def evaluate(path: Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Score the saved model again.

    Args:
        path: a finished run folder.
        overrides: `task.data=NEW` scores it on other data: series of the same columns, standardised as the run's were,
            or a text, read with the run's vocabulary. A task's `EVALUATION` scores it otherwise, `COMPUTING` elsewhere.

    Returns:
        Scores by part: `val` and `test`, or `all` for other data.
    """
    model, task, parts = _reload(path, overrides)
    scores = {}
    for part in parts:
        found = task.evaluate(model, part)
        scores[part] = {task.metric: found.metric, **task.score(found, part)}
    return scores


def predict(path: Path, overrides: Sequence[str] = ()) -> Path:
    """Write `forecasts.csv`: date, series, forecast, actual, in the series' own units; return its path.

    Days of validation and test part (of other data all but the first), then the day ahead: its actual value is
    blank, and its date is the next weekday, holidays not being known.
    """
    model, task, parts = _reload(path, overrides)
    if task.kind != "series":
        raise ConfigError(f"{path}: {task.name} has no series to forecast; `grownas evaluate` scores its model")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["date", "series", "forecast", "actual"])
    for part in parts:
        forecasts = task.in_own_units(task.evaluate(model, part).forecasts)
        actual = task.in_own_units(task.values[task.rows(part)])
        for date, ahead, came in zip(task.dates(part), forecasts.tolist(), actual.tolist(), strict=True):
            writer.writerows(zip([date] * len(ahead), task.names, map(repr, ahead), map(repr, came), strict=True))
    for name, ahead in zip(task.names, task.in_own_units(task.day_ahead(model)).tolist(), strict=True):
        writer.writerow([task.next_day, name, repr(ahead), ""])
    RunDir.open(path).write_text("forecasts.csv", text.getvalue())
    return path / "forecasts.csv"


def show(path: Path) -> str:
    """Return a cell in words, of a run folder, of a genotype.json or by a published name: nodes, ops, parameters."""
    params = None
    if path.is_dir():
        RunDir.open(path)
        summary = _summary(path)
        params, path = summary["params"], path / "genotype.json"
        if not path.exists():
            raise RunError(f"{path.parent}: this run trained a baseline; it has no cell to show")
    genotype = Genotype.load(path)
    count = f", {params:,} parameters with the readout" if params is not None else ""
    return "\n".join([f"{len(genotype.nodes)} node(s), {genotype.op_count} op(s){count}", *genotype.in_words()])


def _reload(path: Path, overrides: Sequence[str]) -> tuple[Any, Any, tuple[str, ...]]:
    """Return a run's model, its task and the parts to score."""
    rundir = RunDir.open(path)
    summary, notes = _summary(path), kept_notes(path)
    kept, config = configs.load(path / "config.yaml"), configs.load(path / "config.yaml", overrides)
    _check_overrides(kept, config)
    torch.set_num_threads(config.threads)
    task = load_task(config)
    if summary["loss"] not in task.losses:
        raise RunError(f"{path / 'summary.json'}: damaged: unknown loss {summary['loss']!r}")
    task = task.with_loss(summary["loss"])
    if not (path / "weights.safetensors").exists():
        raise RunError(f"{path}: no saved model; this run trained a baseline, whose scores are in summary.json")
    tensors, names = _weights(path / "weights.safetensors")
    genotype = Genotype.load(path / "genotype.json")
    same = notes["data_checksum"] == task.checksum
    if not same and all(getattr(config.task, key) == getattr(kept.task, key) for key in kept.task.WHERE):
        raise DataError(
            f"{path}: the data have changed since the run ({task.source}); name them with task.data= to score the "
            "model on them as they are"
        )
    weights = path / "weights.safetensors"
    try:
        task, input_size, hidden_size = task.restored(tensors, names)
    except KeyError as error:
        raise RunError(f"{weights}: damaged: it lacks {error.args[0]}") from error
    except ValueError as error:
        raise RunError(f"{weights}: damaged: {error}") from error
    layers = getattr(config.retrain, "layers", 1) if rundir.command == "train" else 1  # growth has one
    sizes = [input_size, *(layers - 1) * [hidden_size]]
    model = task.model(*(GrownRNN(genotype, size, hidden_size, backend=config.backend) for size in sizes))
    expected = model.state_dict()
    problems = [f"it lacks {key}" for key in expected if key not in tensors]
    problems += [f"{key} belongs to another model" for key in tensors if key not in expected]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(one.shape)}"
        for key, one in expected.items()
        if key in tensors and tensors[key].shape != one.shape
    ]
    if problems:
        raise RunError(f"{weights} does not fit genotype.json: {'; '.join(problems)}")
    model.load_state_dict(tensors)
    return model.eval(), task, ("val", "test") if same else ("all",)


def _check_overrides(kept: Config, config: Config) -> None:
    """Refuse to change anything but where the data come from and what computes: the model is what it is."""
    free = {*kept.task.WHERE, *kept.task.EVALUATION}
    before = {"task": kept.task, **{key: getattr(kept, key) for key in COMPUTING}}
    same_rest = config.model_copy(update=before).fingerprint() == kept.fingerprint()
    if not same_rest or config.task.model_dump(exclude=free) != kept.task.model_dump(exclude=free):
        where, how = (", ".join(f"task.{key}" for key in keys) for keys in (kept.task.WHERE, kept.task.EVALUATION))
        other = f", or be scored otherwise, by {how}" if how else ""
        raise ConfigError(
            f"a finished run can only be given other data, by {where}{other}, or another machine, by "
            f"{', '.join(COMPUTING)}; start a new run for anything else"
        )


def _summary(path: Path) -> dict[str, Any]:
    if RunDir.open(path).command == "compare":
        what, run = ("panels", "panel-1") if (path / "panel-1").is_dir() else ("seeds", "seed-1")
        raise RunError(f"{path}: a comparison over {what}; give one of its runs, such as {path / run}")
    try:
        summary: dict[str, Any] = json.loads((path / "summary.json").read_text("utf-8"))
        if not isinstance(summary["params"], int) or not isinstance(summary["loss"], str):
            raise ValueError(f"params {summary['params']!r} or loss {summary['loss']!r} is not what a run writes")
        return summary
    except FileNotFoundError as error:
        raise RunError(f"{path}: not finished; `grownas resume {path}` goes on with it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / 'summary.json'}: damaged: {error}") from error


def _weights(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors, and the names of series or words."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            names = json.loads((file.metadata() or {}).get("names", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path}: damaged: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{path}: damaged: its metadata need names, a JSON list of strings")
    if len(set(names)) < len(names):
        raise RunError(f"{path}: damaged: a name stands twice in its metadata")
    for key, one in tensors.items():
        if not one.is_floating_point() or not one.isfinite().all():
            raise RunError(f"{path}: damaged: {key} needs floating-point numbers, all of them finite")
    return tensors, names
