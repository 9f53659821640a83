"""Many runs at once: each seed or panel of a comparison is a run of its own, in its own process."""

from __future__ import annotations

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


def members(config: Config) -> dict[str, dict[str, Any]]:
    """Return the folder of each run of a comparison, and what its config changes: the seed, or the sub-panel.

    Raises:
        ConfigError: the task has no sub-panels.
    """
    if config.panels is None:
        return {f"seed-{seed}": {"seed": seed} for seed in config.seeds}
    if "subpanel" not in type(config.task).model_fields:
        raise ConfigError(f"panels={config.panels}: {config.task.use} has no sub-panels; set panels=null")
    return {
        f"panel-{number}": {"task": config.task.model_copy(update={"subpanel": number}), "panels": None}
        for number in range(1, config.panels + 1)
    }


def run_all(config: Config, rundir: RunDir, progress: Progress) -> list[Path]:
    """Run or resume every search of a comparison, a few at a time; return their folders once all are finished.

    Args:
        config: of the comparison; each run also has the baselines of `baselines.compare`.
        rundir: the comparison's folder; the runs lie in it, `seed-N` or `panel-N`.
        progress: told of each run that ends.

    Raises:
        Interrupted: a signal came; the runs have saved their state.
        RunError: a run's folder cannot be written to; or a run refused its input, and the others are finished first.
        TrainingError: a run failed in another way; likewise.
    """
    folders = [_folder(config, rundir, name, changes) for name, changes in members(config).items()]
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
                if free is None:  # all are taken, perhaps by runs that outlived a killed comparison: let them end
                    break
                waiting.remove(free)
                running[free] = _start(free, config.threads)
                if stopped:  # the signal came while it was being started
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
        what = "seeds" if config.panels is None else "panels"
        raise kind(f"{len(failed)} of {len(folders)} {what} failed: {logs}. Resume the comparison to try them again")
    return folders


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _folder(config: Config, rundir: RunDir, name: str, changes: dict[str, Any]) -> Path:
    """Make a run's folder, or take the one that is there."""
    path = rundir.path / name
    if (path / "config.yaml").exists():
        return path
    own = config.model_copy(
        update={
            **changes,
            "seeds": (changes.get("seed", config.seed),),
            "runs": str(rundir.path),
            "name": name,
            "baselines": config.baselines.model_copy(
                update={"use": tuple(dict.fromkeys((*config.baselines.use, *config.baselines.compare)))}
            ),
        }
    )
    notes = configs.notes_of(rundir.path / "config.yaml")
    if "task" in changes:
        notes["data_checksum"] = configs.task_class(own.task.use).load(own.task).checksum
    path.mkdir(exist_ok=True)
    made = RunDir(path)
    made.write_json("run.json", {"command": "search", "what": None})
    made.write_text("config.yaml", own.dump(notes))
    return path


def _start(folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start a process that does a folder's run; what it prints goes to `log.txt`."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "grownas", "resume", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **limits},  # NumPy's BLAS would take all cores in every process
            start_new_session=True,  # the terminal's Ctrl-C reaches us alone, and we pass it on once
        )


@contextmanager
def _forwarding(running: dict[Path, subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to the runs; yield a list that is not empty once a signal came.

    In another thread than the main one no signal comes; the runs are killed if the caller stops with an error.
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
