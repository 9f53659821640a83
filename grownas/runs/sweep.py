"""Runs a comparison: each seed or panel is a separate run in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grownas.config import loading as configs
from grownas.config.sections import Config
from grownas.errors import USER_ERROR, ConfigError, RunError, TrainingError
from grownas.runs.journal import Interrupted
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir
from grownas.runs.signals import stop_signals

LOOK_EVERY_S = 0.2


def members(config: Config) -> list[dict[str, dict[str, Any]]]:
    """Return the runs of a comparison, in two groups: folder name -> changes to the config.

    In a study of optimisers the first group holds all runs, one for each backbone, strategy and seed. Otherwise it
    searches with the first strategy and trains the baselines. The second group searches with the other strategies,
    after the first group: without a budget, each gets the number of steps that the first strategy took.

    Raises:
        ConfigError: the task has no sub-panels, or a strategy is unknown.
    """
    if config.study.momentum:
        return [_of_study(config), {}]
    _first, *others = configs.strategies_of(config)
    if config.panels is None:
        changed: dict[str, dict[str, Any]] = {f"seed-{seed}": {"seed": seed} for seed in config.seeds}
    else:
        if "subpanel" not in type(config.task).model_fields:
            raise ConfigError(f"panels={config.panels}: {config.task.use} has no sub-panels; set panels=null")
        changed = {
            f"panel-{number}": {"task": config.task.model_copy(update={"subpanel": number}), "panels": None}
            for number in range(1, config.panels + 1)
        }
    rest = {
        f"{name}-{section.row}": {**own, "strategy": section} for name, own in changed.items() for section in others
    }
    return [changed, rest]


def _of_study(config: Config) -> dict[str, dict[str, Any]]:
    if config.panels is not None:
        raise ConfigError(f"panels={config.panels}: a study of optimisers runs over seeds; set panels=null")
    return {
        f"{backbone}-{section.use}-seed-{seed}": {
            "strategy": section,
            "seed": seed,
            "space": _space_of(config, backbone),
        }
        for backbone in config.study.backbones
        for section in configs.strategies_of(config)
        for seed in config.seeds
    }


def _space_of(config: Config, backbone: str) -> Any:
    """Return the space of a backbone; one that is not the config's own has its default ops, and no norm."""
    space = config.space
    if backbone == space.backbone:
        return space
    kept = space.model_dump(exclude={"combine", "activation", "norm"})
    return type(space)(**{**kept, "backbone": backbone})


def run_all(config: Config, rundir: RunDir, progress: Progress) -> list[Path]:
    """Run or resume every search of a comparison, `workers` at a time; return their folders when all are finished.

    Args:
        config: the comparison's config; each run also trains the baselines in `baselines.compare`.
        rundir: the comparison's folder, which holds the run folders `seed-N`, `panel-N` or `BACKBONE-STRATEGY-seed-N`.
        progress: shows which runs start and end.

    Raises:
        Interrupted: a signal arrived; the runs have saved their state.
        RunError: a run's folder cannot be written to; or a run found its input wrong (the other runs finish first).
        TrainingError: a run failed in another way (the other runs finish first).
    """
    return [folder for group in members(config) for folder in _run_group(config, rundir, group, progress)]


def runs_of(config: Config, rundir: RunDir) -> list[list[Path]]:
    """Return the run folders of a comparison, grouped by seed or panel; the first strategy comes first."""
    first, rest = members(config)
    return [[rundir.path / name, *(rundir.path / one for one in rest if one.startswith(f"{name}-"))] for name in first]


def _run_group(config: Config, rundir: RunDir, group: dict[str, dict[str, Any]], progress: Progress) -> list[Path]:
    folders = [_folder(config, rundir, name, changes) for name, changes in group.items()]
    waiting = [folder for folder in folders if not (folder / "summary.json").exists()]
    for folder in waiting:
        RunDir(folder).is_locked()  # raises before any work begins if the folder cannot be written to
    running: dict[Path, subprocess.Popen[bytes]] = {}
    failed: dict[Path, int] = {}
    workers = config.workers or _cores()
    with _forwarding(running) as stopped:
        while running or (waiting and not stopped):
            while len(running) < workers and not stopped:
                free = next((folder for folder in waiting if not RunDir(folder).is_locked()), None)
                if free is None:  # all are locked, perhaps by runs that outlived a killed comparison: wait for them
                    break
                waiting.remove(free)
                running[free] = _start(free, config.threads)
                if stopped:  # the signal arrived while the process started
                    running[free].send_signal(signal.SIGINT)
                progress.say(f"{free.name}: started")
            time.sleep(LOOK_EVERY_S)
            for folder, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[folder]
                progress.say(f"{folder.name}: {'finished' if code == 0 else f'ended with status {code}'}")
                if code:
                    failed[folder] = code
    if stopped:
        raise Interrupted
    if failed:
        logs = ", ".join(f"{folder} (status {code}; see {folder / 'log.txt'})" for folder, code in failed.items())
        kind = RunError if set(failed.values()) == {USER_ERROR} else TrainingError
        what = "runs" if config.study.momentum else "seeds" if config.panels is None else "panels"
        raise kind(f"{len(failed)} of {len(folders)} {what} failed: {logs}. Resume the comparison to try them again")
    return folders


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _folder(config: Config, rundir: RunDir, name: str, changes: dict[str, Any]) -> Path:
    """Return a run's folder; create it if it does not exist."""
    path = rundir.path / name
    if (path / "config.yaml").exists():
        return path
    fields = {key: getattr(config, key) for key in type(config).model_fields}
    fields |= {"strategies": (), "runs": str(rundir.path), "name": name, **changes}
    fields["seeds"] = (fields["seed"],)
    baselines = () if "strategy" in changes else dict.fromkeys((*config.baselines.use, *config.baselines.compare))
    fields["baselines"] = config.baselines.model_copy(update={"use": tuple(baselines)})
    if "strategy" in changes and not config.study.momentum and config.budget == type(config.budget)():
        first = path.with_name(name.removesuffix(f"-{fields['strategy'].row}"))
        steps = json.loads((first / "summary.json").read_text("utf-8"))["search_steps"]
        fields["budget"] = config.budget.model_copy(update={"steps": steps})
    own = configs.config_class(config.task.use, fields["strategy"].use)(**fields)
    notes = configs.notes_of(rundir.path / "config.yaml")
    if "task" in changes:
        notes["data_checksum"] = configs.task_class(own.task.use).load(own.task).checksum
    path.mkdir(exist_ok=True)
    made = RunDir(path)
    made.write_json("run.json", {"command": "study" if config.study.momentum else "search", "what": None})
    made.write_text("config.yaml", own.dump(notes))
    return path


def _start(folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start a process that resumes the run in a folder; its output goes to `log.txt`."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "grownas", "resume", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **limits},  # NumPy's BLAS would take all cores in every process
            start_new_session=True,  # the terminal sends Ctrl-C only to this process, which forwards it once
        )


@contextmanager
def _forwarding(running: dict[Path, subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Forward SIGINT and SIGTERM to the runs; yield a list that is no longer empty after a signal.

    Outside the main thread no signal arrives. The runs are killed if the caller raises an error.
    """
    stopped: list[int] = []

    def handle(number: int, frame: Any) -> None:
        stopped.append(number)
        for process in running.values():
            process.send_signal(signal.SIGINT)

    try:
        with stop_signals(handle):
            yield stopped
    finally:
        for process in running.values():
            process.kill()
