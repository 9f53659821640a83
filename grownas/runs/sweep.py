"""Runs a comparison or a backtest: each seed, panel or model is a separate run, which a launcher runs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grownas.config import loading as configs
from grownas.config.sections import Config, panel_name, with_data
from grownas.errors import USER_ERROR, ConfigError, Interrupted, RunError, TrainingError
from grownas.protocols import Ended, Launcher
from grownas.runs.launchers import LOG
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir
from grownas.runs.signals import stop_signals

LOOK_EVERY_S = 0.2
ATTEMPTS = 3  # of a run that fails; wrong input is not tried again
LOG_OF_RUNS = "runs.jsonl"  # in the comparison's folder


def members(config: Config) -> list[dict[str, dict[str, Any]]]:
    """Return the runs of a comparison, in two groups: folder name -> changes to the config.

    In a study the first group holds all runs: on a table one for each strategy, of optimisers one for each backbone,
    strategy and seed. Otherwise it searches with the first strategy and trains the baselines, for each seed, each drawn
    panel, or each seed and listed panel. The second group searches with the other strategies, after the first group:
    without a budget, each gets the number of steps that the first strategy took.

    Raises:
        ConfigError: the task has no sub-panels, or a strategy is unknown.
    """
    if config.is_study:
        return [_of_study(config), {}]
    _first, *others = configs.strategies_of(config)
    seeds: dict[str, dict[str, Any]] = {f"seed-{seed}": {"seed": seed} for seed in config.seeds}
    drawn = panels(config)
    if isinstance(config.panels, int):
        changed = drawn
    elif config.panels is None:
        changed = seeds
    else:
        changed = {f"{one}-{seed}": {**drawn[one], **seeds[seed]} for seed in seeds for one in drawn}
    rest = {
        f"{name}-{section.row}": {**own, "strategy": section} for name, own in changed.items() for section in others
    }
    return [changed, rest]


def panels(config: Config) -> dict[str, dict[str, Any]]:
    """Return the panels of a comparison, drawn or listed: name -> changes to the config.

    Raises:
        ConfigError: the task has no sub-panels.
    """
    if isinstance(config.panels, int):
        if "subpanel" not in type(config.task).model_fields:
            raise ConfigError(f"panels={config.panels}: {config.task.use} has no sub-panels; set panels=null")
        numbers = range(1, config.panels + 1)
        tasks = {str(number): config.task.model_copy(update={"subpanel": number}) for number in numbers}
    else:
        tasks = {panel_name(data): with_data(config.task, data) for data in config.panels or ()}
    return {f"panel-{name}": {"task": task, "panels": None} for name, task in tasks.items()}


def _of_study(config: Config) -> dict[str, dict[str, Any]]:
    if config.panels is not None:
        raise ConfigError(f"panels={config.panels}: a study runs on one panel; set panels=null")
    if config.task.table is not None:
        return {section.row: {"strategy": section} for section in configs.strategies_of(config)}
    return {
        f"{backbone}-{section.row}-seed-{seed}": {
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


def run_all(config: Config, rundir: RunDir, progress: Progress, launcher: Launcher) -> list[Path]:
    """Run or resume every search of a comparison; return their folders when all are finished.

    A run that fails is tried again, `ATTEMPTS` times in all, unless its input is wrong; then the others go on without
    it. `runs.jsonl` in the comparison's folder logs what starts and ends.

    Args:
        config: the comparison's config; each run also trains the baselines in `baselines.compare`.
        rundir: the comparison's folder, which holds the run folders `seed-N`, `panel-N`, `panel-NAME-seed-N` or those
            of a study.
        progress: shows which runs start and end.
        launcher: runs the runs.

    Raises:
        Interrupted: a signal arrived; the runs have saved their state.
        RunError: a run's folder cannot be written to; or a run found its input wrong (the other runs finish first).
        TrainingError: a run failed in another way (the other runs finish first).
    """
    folders: list[Path] = []
    failed: dict[Path, Ended] = {}
    missing: list[str] = []
    with launcher:
        for group in members(config):
            lacking = _lacking_steps(config, group, failed)
            missing += lacking
            made = [_folder(config, rundir, name, group[name]) for name in group if name not in lacking]
            folders += made
            failed |= _Group(made, rundir, progress, launcher).run()
    if failed:
        raise _failure(config, folders, failed, missing)
    return folders


def run_parts(config: Config, rundir: RunDir, progress: Progress, launcher: Launcher) -> list[Path]:
    """Walk with each model of a backtest in a run of its own, or go on; return their folders when all are finished.

    Args:
        config: the backtest's config.
        rundir: the backtest's folder, which gets a folder for each model.
        progress: shows which runs start and end.
        launcher: runs the runs.

    Raises:
        Interrupted: a signal arrived; the runs have saved their state.
        RunError: a run's folder cannot be written to; or a run found its input wrong (the other runs finish first).
        TrainingError: a run failed in another way (the other runs finish first).
    """
    folders = [_part(config, rundir, kind) for kind in config.backtest.models]
    with launcher:
        failed = _Group(folders, rundir, progress, launcher).run()
    if failed:
        raise _error_of(failed)(
            f"{len(failed)} of {len(folders)} models failed: {_logs_of(failed)}. Resume the backtest to try them again"
        )
    return folders


def _part(config: Config, rundir: RunDir, kind: str) -> Path:
    """Return the folder of a model in a backtest; create it if it does not exist."""
    path = rundir.path / kind
    if not (path / "config.yaml").exists():
        own = config.model_copy(update={"runs": str(rundir.path), "name": kind})
        path.mkdir(exist_ok=True)
        made = RunDir(path)
        made.write_json("run.json", {"command": "walk", "what": kind})
        made.write_text("config.yaml", own.dump(configs.notes_of(rundir.path / "config.yaml")))
    return path


def runs_of(config: Config, rundir: RunDir) -> list[list[Path]]:
    """Return the run folders of a comparison, grouped by seed or panel; the first strategy comes first."""
    first, rest = members(config)
    return [[rundir.path / name, *(rundir.path / one for one in rest if one.startswith(f"{name}-"))] for name in first]


class _Group:
    """Runs that do not depend on each other.

    Attributes:
        waiting: folders of the runs to start.
        running: folders of the runs that the launcher runs.
        attempts: how often each run has ended.
        failed: how the runs ended that are not tried again.
    """

    def __init__(self, folders: list[Path], rundir: RunDir, progress: Progress, launcher: Launcher) -> None:
        """Let all runs that are not finished wait.

        Raises:
            RunError: a run's folder cannot be written to.
        """
        self.log, self.progress, self.launcher = rundir.log(LOG_OF_RUNS), progress, launcher
        self.waiting = [folder for folder in folders if not (folder / "summary.json").exists()]
        for folder in self.waiting:
            RunDir(folder).is_locked()  # raises
        self.running = set[Path]()
        self.attempts = Counter[Path]()
        self.failed = dict[Path, Ended]()

    def run(self) -> dict[Path, Ended]:
        """Run all; return `failed`.

        Raises:
            Interrupted: a signal arrived, and all runs have ended.
        """
        passed_on = 0  # number of signals
        with _signals() as signals:
            while self.running or (self.waiting and not signals):
                while passed_on < len(signals):
                    self.launcher.stop()
                    passed_on += 1
                self._start(signals)
                end = time.monotonic() + LOOK_EVERY_S
                while time.monotonic() < end and passed_on == len(signals):  # a signal is passed on at once
                    time.sleep(0.01)
                for ended in self.launcher.poll():
                    self._take(ended, is_stopped=bool(signals))
        if signals:
            raise Interrupted
        return self.failed

    def _start(self, signals: list[int]) -> None:
        """Start runs while the launcher has room and no signal has arrived."""
        while self.waiting and not signals and self.launcher.has_room():
            free = next((folder for folder in self.waiting if not RunDir(folder).is_locked()), None)
            if free is None:  # all are locked, perhaps by runs that outlived a killed comparison: wait for them
                return
            self.waiting.remove(free)
            self.running.add(free)
            self._note(free, "started")
            self.launcher.submit(free)

    def _take(self, ended: Ended, *, is_stopped: bool) -> None:
        """Decide whether a run that has ended is finished, is tried again or has failed."""
        folder = ended.folder
        self.running.discard(folder)
        self.attempts[folder] += 1
        if ended.status == 0:
            self._note(folder, "finished")
        elif is_stopped:
            self._note(folder, "stopped", ended)
        elif ended.status == USER_ERROR or self.attempts[folder] >= ATTEMPTS:
            self._note(folder, "failed", ended)
            self.failed[folder] = ended
        else:
            self._note(folder, "tried again", ended)
            self.waiting.append(folder)

    def _note(self, folder: Path, event: str, ended: Ended | None = None) -> None:
        """Log and show what happens to a run."""
        how = {} if ended is None else {"status": ended.status, "words": ended.words}
        self.log.append({"time": time.time(), "run": folder.name, "event": event, **how})
        self.progress.say(f"{folder.name}: {event}{'' if ended is None else f', {_words(ended)}'}")


def _words(ended: Ended) -> str:
    return f"status {ended.status}" + (f", {ended.words}" if ended.words else "")


def _failure(
    config: Config, folders: list[Path], failed: dict[Path, Ended], missing: list[str]
) -> RunError | TrainingError:
    """Return the error that says which runs of a comparison are missing."""
    what = "runs" if config.is_study else "seeds" if config.panels is None else "panels"
    if any(len(group) for group in members(config)[1:]):
        what = "runs"
    lacking = f"; not run, because they take their number of steps from these: {', '.join(missing)}" if missing else ""
    return _error_of(failed)(
        f"{len(failed)} of {len(folders) + len(missing)} {what} failed: {_logs_of(failed)}{lacking}. Nothing was "
        "compared; resume the comparison to try them again"
    )


def _logs_of(failed: dict[Path, Ended]) -> str:
    return ", ".join(f"{folder} ({_words(ended)}; see {folder / LOG})" for folder, ended in failed.items())


def _error_of(failed: dict[Path, Ended]) -> type[RunError] | type[TrainingError]:
    return RunError if {ended.status for ended in failed.values()} == {USER_ERROR} else TrainingError


def _lacking_steps(config: Config, names: Iterable[str], failed: Iterable[Path]) -> list[str]:
    """Return the runs that take their number of steps from a failed run."""
    if not _takes_steps(config):
        return []
    return [name for name in names if any(name.startswith(f"{folder.name}-") for folder in failed)]


def _takes_steps(config: Config) -> bool:
    """Return whether a further strategy's budget is the number of steps that the first strategy took."""
    return not config.is_study and config.budget == type(config.budget)()


def _folder(config: Config, rundir: RunDir, name: str, changes: dict[str, Any]) -> Path:
    """Return a run's folder; create it if it does not exist."""
    path = rundir.path / name
    if (path / "config.yaml").exists():
        return path
    fields = {key: getattr(config, key) for key in type(config).model_fields}
    fields |= {"strategies": (), "runs": str(rundir.path), "name": name, **changes}
    fields["cluster"] = "processes"  # of its own trials: on the cluster, runs would wait for each other's workers
    fields["seeds"] = (fields["seed"],)
    baselines = () if "strategy" in changes else dict.fromkeys((*config.baselines.use, *config.baselines.compare))
    fields["baselines"] = config.baselines.model_copy(update={"use": tuple(baselines)})
    if "strategy" in changes and _takes_steps(config):
        first = path.with_name(name.removesuffix(f"-{fields['strategy'].row}"))
        steps = json.loads((first / "summary.json").read_text("utf-8"))["search_steps"]
        fields["budget"] = config.budget.model_copy(update={"steps": steps})
    own = configs.config_class(config.task.use, fields["strategy"].use)(**fields)
    notes = configs.notes_of(rundir.path / "config.yaml")
    if "task" in changes:
        notes["data_checksum"] = configs.task_class(own.task.use).load(own.task).checksum
    path.mkdir(exist_ok=True)
    made = RunDir(path)
    made.write_json("run.json", {"command": "study" if config.is_study else "search", "what": None})
    made.write_text("config.yaml", own.dump(notes))
    return path


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield a list to which each SIGINT and SIGTERM is added. Outside the main thread no signal arrives."""
    stopped: list[int] = []
    with stop_signals(lambda number, frame: stopped.append(number)):
        yield stopped
