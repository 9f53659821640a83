"""Reads the model of a finished run from its folder, and what the next update of the model needs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from grownas.cells.derived import derived_cell
from grownas.config import loading as configs
from grownas.config.sections import Config
from grownas.errors import ConfigError, RunError
from grownas.experiments.experiment import OPTIMIZER
from grownas.experiments.updating import Learner, Parent
from grownas.genotype import Genotype
from grownas.protocols import Model, Starting, Task
from grownas.runs.rundir import RunDir
from grownas.training.recipe import OptimizerRecipe, Recipe

PARENT = "parent"  # folder in the folder of an update: the files of the run before that the update needs
FILES = ("run.json", "summary.json", "genotype.json", "weights.safetensors", OPTIMIZER, "config.yaml")


def summary_of(path: Path) -> dict[str, Any]:
    """Return the summary of a finished run.

    Raises:
        RunError: the summary is missing or damaged.
    """
    if RunDir.open(path).command == "study" or (path / "study.json").exists():
        raise RunError(f"{path}: a study keeps no model; give the folder of a search")
    if RunDir.open(path).command in ("backtest", "walk"):
        raise RunError(f"{path}: a backtest keeps forecasts and losses, but no model; give the folder of a search")
    if RunDir.open(path).command == "compare":
        panels = sorted(folder.name for folder in path.glob("panel-*/"))
        what, run = ("panels", panels[0]) if panels else ("seeds", "seed-1")
        raise RunError(f"{path}: this is a comparison over {what}; give one of its runs, such as {path / run}")
    try:
        summary: dict[str, Any] = json.loads((path / "summary.json").read_text("utf-8"))
        if "replay" in summary:
            raise RunError(f"{path}: a replay on a table keeps no model; give the folder of a search that trains")
        if not isinstance(summary["params"], int) or not isinstance(summary["loss"], str):
            raise ValueError(
                f"expected params as int and loss as text, got {summary['params']!r} and {summary['loss']!r}"
            )
        return summary
    except FileNotFoundError as error:
        raise RunError(f"{path}: not finished; continue it with `grownas resume {path}`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / 'summary.json'}: damaged: {error}") from error


def weights_of(path: Path) -> tuple[dict[str, torch.Tensor], list[str], tuple[int, int] | None]:
    """Return the tensors, the names of series or words, and the core's input and hidden size if the file has them."""
    tensors, notes = _content(path)
    try:
        names = json.loads(notes.get("names", "null"))
        sizes = (int(notes["input_size"]), int(notes["hidden_size"])) if "input_size" in notes else None
    except KeyError as error:
        raise RunError(f"{path}: damaged: its metadata lack {error}") from error
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{path}: damaged: its metadata need names, a JSON list of strings")
    if len(set(names)) < len(names):
        raise RunError(f"{path}: damaged: a name is repeated in its metadata")
    for key, one in tensors.items():
        if not one.is_floating_point() or not one.isfinite().all():
            raise RunError(f"{path}: damaged: {key} needs floating-point numbers, all of them finite")
    return tensors, names, sizes


def _content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the notes of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: damaged: {error}") from error


def model_from(
    path: Path,
    task: Any,
    tensors: dict[str, torch.Tensor],
    names: list[str],
    sizes: tuple[int, int] | None,
    layers: int,
    backend: str,
) -> tuple[Model, Any]:
    """Return the saved model, and the task with the run's scaling.

    `sizes` are input and hidden size of the core; None if the task derives them from the weights.
    """
    weights = path / "weights.safetensors"
    genotype = Genotype.load(path / "genotype.json")
    try:
        task, input_size, hidden_size = task.restored(tensors, names) if sizes is None else (task, *sizes)
        inputs = [input_size, *(layers - 1) * [hidden_size]]
        cores = [derived_cell(genotype, size, hidden_size, backend=backend) for size in inputs]
        model: Model = task.rebuilt(cores[0], tensors) if isinstance(task, Starting) else task.model(*cores)
    except KeyError as error:
        raise RunError(f"{weights}: damaged: it lacks {error.args[0]}") from error
    except ValueError as error:
        raise RunError(f"{weights}: damaged: {error}") from error
    expected = model.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in tensors]
    problems += [f"{key} belongs to another model" for key in tensors if key not in expected]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(one.shape)}"
        for key, one in expected.items()
        if key in tensors and tensors[key].shape != one.shape
    ]
    if problems:
        raise RunError(f"{weights} does not fit genotype.json: {'; '.join(problems)}")
    model.load_state_dict(tensors)
    return model.eval(), task


def layers_of(path: Path, config: Config) -> int:
    """Return the number of layers of a run's model; a grown model has one."""
    return int(getattr(config.retrain, "layers", 1)) if _was_trained(path) else 1


def _was_trained(path: Path) -> bool:
    """Return whether `grownas train` made the run, or the first run of a chain of updates."""
    return bool(summary_of(path).get("made_by", RunDir.open(path).command) == "train")


def parent_of(path: Path, where: str | None, task: Task) -> Parent:
    """Return the run before an update, with the new data in its scaling or vocabulary.

    Args:
        path: folder with the `FILES` of the run.
        where: the run's own folder, for the summary; None if it was in memory.
        task: the data with the new rows.

    Raises:
        RunError: a file is missing or damaged.
    """
    config, weights = configs.load(path / "config.yaml"), path / "weights.safetensors"
    tensors, names, sizes = weights_of(weights)
    known = task.with_loss(summary_of(path)["loss"])
    model, known = model_from(path, known, tensors, names, sizes, layers_of(path, config), config.backend)
    note = {"folder": where, "weights": f"sha256:{hashlib.sha256(weights.read_bytes()).hexdigest()}"}
    trained = Genotype.load(path / "genotype.json") if _was_trained(path) else None
    return Parent(_learner(path, model, config), known, note, trained)


def _learner(path: Path, model: Model, config: Config) -> Learner:
    """Return a model with its optimiser's state; a run of an earlier version has none, so the state starts empty."""
    place = path / OPTIMIZER
    if not place.exists():
        return Learner(model, configs.strategy_class(config.strategy.use)(config.strategy).recipe())
    moments, notes = _content(place)
    try:
        how = json.loads(notes["recipe"])
        recipe = Recipe(weights=OptimizerRecipe(**how["weights"]), clip=float(how["clip"]))
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise RunError(f"{place}: damaged: {error}") from error
    return Learner(model, recipe, moments)
