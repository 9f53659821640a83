"""Starts an update of a finished run: joins the new data to the run's own and makes the run of the update.

How data are joined is the task's: a new recording of an amplifier, for example, takes the place of the old one. The
folder of an update holds all that it needs: the joined data and, in `parent/`, the files of the run before. So it
is resumed, used and updated again whatever becomes of the run before; but a predistorter in front of the model of a run
(`task.amplifier`) needs that run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from grownas.config import loading as configs
from grownas.config.sections import Config
from grownas.errors import ConfigError, DataError, GrownasError, RunError
from grownas.experiments import updating
from grownas.experiments.search import Summary
from grownas.genotype import Genotype
from grownas.protocols import FRAME, Joined, Task
from grownas.runs import saved
from grownas.runs.commands import (
    Logs,
    check_search,
    kept_notes,
    load_task,
    run_update,
    threads_kept,
    work_in_memory,
    write_config,
)
from grownas.runs.memory import MemoryFolder
from grownas.runs.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd

    Data = pd.DataFrame | str | os.PathLike[str]


class InMemory(NamedTuple):
    """An update that wrote nothing.

    Attributes:
        config: its config.
        summary: its summary.
        files: its files.
        logs: its logs of changes and trials.
        frame: the data: those of the run before and the new ones.
    """

    config: Config
    summary: Summary
    files: MemoryFolder
    logs: Logs
    frame: Any


def update(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    data: Data | None = None,
    own: Any = None,
    folder: Path | None = None,
    where: str | None = None,
) -> Path:
    """Update a finished run and write a new run folder; return its path.

    Args:
        path: folder of the run before.
        overrides: `task.data=NEW` names the new data, if `data` does not give them; `how=` is short for `update.how=`;
            further keys change the config of the run before.
        data: the new data: a data frame, a path, or a name that the task knows.
        own: the run's own data, if the run read a data frame.
        folder: the folder to create; a number is appended if the name is taken. None: beside the run before.
        where: what the update calls the run before; None: its path.

    Raises:
        GrownasError: folder, data or override cannot be used; the message says why and what to do.
    """
    overrides = _spelled_out(overrides, data)
    with threads_kept():
        joined = _joined(path, overrides, data, own)
    place = _place(path, overrides, folder)
    kept = [item for item in overrides if not item.startswith(("runs=", "name="))]
    _config(path, kept, joined, "data", where)  # raises before a folder is made
    rundir = RunDir.create(place.parent, place.name, "update")
    there = [*kept, f"runs={place.parent}", f"name={rundir.path.name}"]
    try:
        _fill(rundir, path, joined)
        config = _config(path, there, joined, str(rundir.path / joined.data), where or str(path.resolve()))
        task = load_task(config)
        _check(config, task, path)
    except GrownasError:
        shutil.rmtree(rundir.path)  # nothing has begun
        raise
    write_config(config, rundir, task.checksum)
    return run_update(config, rundir, task)


def _check(config: Config, task: Task, path: Path) -> None:
    """Check config and data, and the cell of the run before, before any training.

    Raises:
        ConfigError: options contradict each other or do not fit the task.
        DataError: a part of the data is too short.
    """
    if config.update.how == "refit":
        check_search(config, task)
    elif config.update.how != "state":
        if config.update.how == "grow":
            updating.check_can_grow(Genotype.load(path / "genotype.json"))
        task.windows("train", seed=config.seed)


def _fill(rundir: RunDir, path: Path, joined: Joined) -> None:
    """Write the joined data, and copy the files of the run before."""
    for name, text in joined.files.items():
        (rundir.path / name).parent.mkdir(exist_ok=True)
        RunDir((rundir.path / name).parent).write_text(Path(name).name, text)
    (rundir.path / saved.PARENT).mkdir()
    for name in saved.FILES:
        if (path / name).exists():
            shutil.copyfile(path / name, rundir.path / saved.PARENT / name)


def update_in_memory(path: Path, overrides: Sequence[str], *, data: Data, own: Any, where: str | None) -> InMemory:
    """Update a run on series without writing to disk; arguments as of `update`."""
    overrides = _spelled_out(overrides, data)
    with threads_kept():
        joined = _joined(path, overrides, data, own)
    if joined.frame is None:
        raise ConfigError("an update of a text or a recording keeps its data in a folder; give folder=")
    config = _config(path, overrides, joined, FRAME, where)
    task = load_task(config, frame=joined.frame)
    _check(config, task, path)
    parent = partial(saved.parent_of, path, where)
    work = partial(updating.update, parent=parent)
    return InMemory(config, *work_in_memory(config, "update", task, work), joined.frame)


def _spelled_out(overrides: Sequence[str], data: Data | None) -> list[str]:
    """Return overrides with `update.how=` for `how=`, and with `task.data=` if `data` is not a data frame."""
    given = [f"update.{item}" if item.startswith("how=") else item for item in overrides]
    if data is not None:
        name = os.fspath(data) if isinstance(data, str | os.PathLike) else FRAME
        given.append(f"task.data={json.dumps(name)}")
    if not any(item.startswith("task.data=") for item in given):
        raise ConfigError("an update needs the new data: give task.data=NEW, the path of a file or folder")
    return given


def _joined(path: Path, overrides: Sequence[str], data: Any, own: Any) -> Joined:
    """Return the data of a run together with the new data.

    Raises:
        ConfigError: the task cannot be updated.
        DataError: the run's own data have changed, or the new data do not fit them.
        RunError: the run is not finished, or it has no model.
    """
    saved.summary_of(path)  # raises if the run is not finished
    if not (path / "weights.safetensors").exists():
        raise RunError(f"{path}: no saved model; this run trained a baseline, which cannot be updated")
    kept = configs.load(path / "config.yaml")
    wanted = configs.load(path / "config.yaml", overrides)
    task: Any = load_task(kept, frame=own)
    if not hasattr(task, "joined"):
        raise ConfigError(f"{path}: {task.name} cannot be updated: it does not join new data to those of a run")
    if task.checksum != kept_notes(path)["data_checksum"]:
        raise DataError(
            f"{path}: the data have changed since the run ({task.source}); bring them back, or start a new search"
        )
    frame = None if data is None or isinstance(data, str | os.PathLike) else data
    known = task.with_refit() if kept.refit else task
    joined: Joined = known.joined(wanted.task, frame=frame, block=wanted.update.block)
    return joined


def _config(path: Path, overrides: Sequence[str], joined: Joined, data: str, where: str | None) -> Config:
    """Return the config of an update: that of the run before, with the joined data and the overrides.

    Raises:
        ConfigError: an override is wrong.
    """
    before = configs.load(path / "config.yaml")
    if any(item.startswith("refit=") for item in overrides):
        raise ConfigError("refit: an update holds out its validation part, which judges it; leave refit= out")
    where_from = tuple(f"task.{key}=" for key in before.task.WHERE)  # keys that say where the new data come from
    kept = [item for item in overrides if not item.startswith(where_from)]
    items = [f"task.{key}={json.dumps(value)}" for key, value in {**joined.options, "data": data}.items()]
    parent = f"update.parent={json.dumps(where)}"
    return configs.load(path / "config.yaml", [*items, parent, "refit=false", "quiet=false", *kept])


def _place(path: Path, overrides: Sequence[str], folder: Path | None) -> Path:
    """Return where the folder of an update goes: to `folder`, or to `runs=` and `name=`, or beside the run before."""
    if folder is not None:
        return folder
    chosen, given = configs.load(path / "config.yaml", overrides), {item.partition("=")[0] for item in overrides}
    parent = Path(os.path.expanduser(chosen.runs)) if "runs" in given else path.resolve().parent
    name = chosen.name if "name" in given else None
    return parent / (name or f"{path.resolve().name}-{chosen.update.how}")
