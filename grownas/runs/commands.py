"""The commands that write a run folder: create it, lock it, handle signals, run the work, write the report.

The work itself is in `experiments.search`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from grownas.baselines.table import names as baseline_names
from grownas.config import loading as configs
from grownas.config.sections import WHERE_AND_HOW, Config
from grownas.errors import ConfigError, DataError, Interrupted, RunError
from grownas.experiments import backtesting, quantising, replay, updating
from grownas.experiments import search as experiment
from grownas.experiments.experiment import check_backbone, check_inputs, space_of
from grownas.experiments.timeline import Timeline, timeline_of
from grownas.genotype import AnyGenotype, Genotype, published
from grownas.genotype_table import GenotypeTable
from grownas.protocols import Folder, Launcher, Model, Task
from grownas.report import backtest as backtest_report
from grownas.report import tables, verdicts
from grownas.runs import launchers, saved
from grownas.runs.journal import Journal, MemoryLog
from grownas.runs.memory import MemoryFolder
from grownas.runs.progress import Progress
from grownas.runs.rundir import BACKTEST, RunDir, write_file
from grownas.runs.signals import stop_signals
from grownas.runs.trial_processes import LocalWorkers, WorkerOptions
from grownas.runs.trials import Pool, Workers
from grownas.training.uncompiled import optimizers_uncompiled

STUDY = "study.json"  # in a study's folder
Work = Callable[..., tuple[experiment.Summary, Model | None]]  # `experiment.search`, `experiment.train`


def search(config: Config, rundir: RunDir | None = None) -> Path:
    """Search for a cell, retrain it, train the baselines, score all models and write a run folder; return its path.

    Args:
        config: the run's config.
        rundir: an existing new folder for the run; None creates one.
    """
    configs.strategy_of(config.strategy, refit=config.refit)  # raises if options contradict each other
    task = _read_data(config)
    check_search(config, task)
    return _search(config, _begin_folder(config, "search", task, rundir), task)


Logs = Mapping[str, Sequence[Mapping[str, Any]]]


def search_in_memory(config: Config, task: Task) -> tuple[experiment.Summary, MemoryFolder, Logs]:
    """Search without writing to disk; return the summary, the files in memory and the logs of changes and trials."""
    configs.strategy_of(config.strategy, refit=config.refit)  # raises if options contradict each other
    refuse_table(config)
    check_search(config, task)
    if config.trial_workers != 1:
        raise ConfigError(
            f"trial_workers={config.trial_workers}: the workers read and write a run folder, and this search has none; "
            "give a folder, or set trial_workers=1"
        )
    return work_in_memory(config, "search", task, experiment.search)


def work_in_memory(
    config: Config, command: str, task: Task, work: Work
) -> tuple[experiment.Summary, MemoryFolder, Logs]:
    """Do the work of a command without writing to disk; return as `search_in_memory` does."""
    folder = MemoryFolder()
    folder.write_json("run.json", {"command": command, "what": None})
    write_config(config, folder, task.checksum)
    logs = {name: MemoryLog() for name in ("growth", "trials")}
    with Progress(quiet=config.quiet) as progress, _threads(config.threads):
        journal = Journal.in_memory(progress, **logs)
        summary, _ = work(config, folder, journal, task)
    summary["verdict"] = verdicts.of_run(summary)
    folder.write_json("summary.json", summary)
    _show(config, summary)
    return summary, folder, logs


def refuse_table(config: Config) -> None:
    """Refuse a table of trained genotypes where a model is needed.

    Raises:
        ConfigError: the config has a table.
    """
    if config.task.table is not None:
        raise ConfigError(
            f"task.replay={config.task.replay}: a replay trains no model; run it with `grownas search` or `compare`, "
            "or set task.replay=null"
        )


def _show(config: Config, summary: experiment.Summary) -> None:
    if not config.quiet:
        print(f"{tables.score_table(summary)}\n\n{summary['verdict']}")


def train(config: Config, what: str) -> Path:
    """Train a genotype (a path or the name of a published cell) or a baseline from random weights, and score it."""
    refuse_table(config)
    task = _read_data(config)
    check_search(config, task)
    known = baseline_names(task.kind, config.task.BASELINES)
    names = [name for name in known if name not in published()]  # a published cell is saved
    genotype = None if what in names else _genotype(what, names)
    if genotype is not None:
        check_inputs(genotype.to_dict()["backbone"], task)
    rundir = new_folder(config, "train", task.checksum, what=what if genotype is None else None)
    if genotype is not None:
        genotype.save(rundir.path / "genotype.json")
    return _train(config, rundir, task)


def _genotype(what: str, names: Sequence[str]) -> AnyGenotype:
    known, path = [*names, *published()], Path(os.path.expanduser(what))
    near = difflib.get_close_matches(what, known, n=1)
    if near and what not in known and not path.exists():
        raise ConfigError(f"genotype={what}: no such file, baseline or published cell; did you mean {near[0]}?")
    return Genotype.load(path)


def resume(path: Path, changes: Sequence[str] = ()) -> Path:
    """Continue an interrupted run with the config in its folder. Resuming a finished run gives the same result.

    Args:
        path: the run folder.
        changes: overrides of keys that do not affect the result, such as `quiet=true`.

    Raises:
        ConfigError: an override would change the result.
        DataError: the data have changed since the run began.
    """
    rundir = RunDir.open(path)
    notes, kept = kept_notes(path), configs.load(path / "config.yaml")
    config = configs.load(path / "config.yaml", changes)
    if config.fingerprint() != kept.fingerprint():
        raise ConfigError(
            f"{path}: only {', '.join(WHERE_AND_HOW)} may change on resuming; start a new run for anything else"
        )
    if rundir.command == "compare":
        return _compare(config, rundir)
    task = _read_data(config)
    read = _data_of(config, rundir.command, task)
    if notes["data_checksum"] != read.checksum:
        raise DataError(f"{path}: the data have changed since the run began ({read.source}); start a new run")
    _warn_of_versions(path, notes["versions"])
    return RESUMED[rundir.command](config, rundir, task)


def _warn_of_versions(path: Path, before: Mapping[str, str]) -> None:
    """Warn if the versions of packages have changed since a run began."""
    changed = [f"{name} was {old}, is {new}" for name, new in versions().items() if (old := before.get(name)) != new]
    if changed:
        warnings.warn(
            f"{path}: versions have changed, so the last digits may differ: {', '.join(changed)}", stacklevel=3
        )


def _search(config: Config, rundir: RunDir, task: Task) -> Path:
    """Search in a prepared folder: train, or look trained genotypes up in the task's table."""
    return _work(config, rundir, task, experiment.search if config.task.table is None else replay.search)


def _train(config: Config, rundir: RunDir, task: Task) -> Path:
    """Train the genotype of a prepared folder, or the baseline that the folder names."""
    what = rundir.what or Genotype.load(rundir.path / "genotype.json")
    return _work(config, rundir, task, partial(experiment.train, what=what))


def run_update(config: Config, rundir: RunDir, task: Task) -> Path:
    """Do the update of a prepared folder, see `runs.updating`, or continue it."""
    parent = partial(saved.parent_of, rundir.path / saved.PARENT, config.update.parent)
    return _work(config, rundir, task, partial(updating.update, parent=parent))


def backtest(config: Config, rundir: RunDir | None = None) -> Path:
    """Walk through the rows block by block with every model, and write a folder; return its path.

    Args:
        config: the backtest's config.
        rundir: an existing new folder for the backtest; None creates one.
    """
    task = _read_data(config)
    check_backtest(config, task)
    return _backtest(config, _begin_folder(config, "backtest", task, rundir), task)


def check_backtest(config: Config, task: Any) -> None:
    """Check config and data before any work.

    Raises:
        ConfigError: options contradict each other or do not fit the task.
        DataError: the first block begins too early or too late.
    """
    configs.strategy_of(config.strategy, refit=False)
    train, origin = backtesting.check(config, task)
    check_search(config, timeline_of(config, task).until(train, origin, origin))


def backtest_in_memory(config: Config, task: Task) -> tuple[dict[str, Any], MemoryFolder]:
    """Do a backtest without writing to disk; return the content of `backtest.json` and the files with figures."""
    check_backtest(config, task)
    folder = MemoryFolder()
    with Progress(quiet=config.quiet) as progress, _threads(config.threads):
        journal = Journal.in_memory(progress)
        journals: dict[str, Journal] = dict.fromkeys(config.backtest.models, journal)
        result = backtesting.backtest(config, folder, journals, task)
    if not config.quiet:
        print(backtest_report.text(result))
    return result, folder


def _backtest(config: Config, rundir: RunDir, task: Task) -> Path:
    models = config.backtest.models
    is_parallel = (config.workers or 1) > 1 and len(models) > 1
    with _at_work(config, rundir, f"{rundir.path}: backtest of {', '.join(models)}") as journal:
        journals: dict[str, Journal] = dict.fromkeys(models, journal)
        if is_parallel:
            journals = _walked_apart(config, rundir)
        result = backtesting.backtest(config, rundir, journals, task)
        rundir.write_json(BACKTEST, result)  # last: this file marks the backtest as finished
        report = _report(rundir.path)
    if not config.quiet:
        print(f"{backtest_report.text(result)}\nreport: {report}")
    return rundir.path


def _walked_apart(config: Config, rundir: RunDir) -> dict[str, Journal]:
    """Walk with each model of a backtest in a process; return the journals of the finished walks, by model."""
    from grownas.runs import sweep

    with Progress(quiet=config.quiet) as progress:
        folders = sweep.run_parts(config, rundir, progress, _launcher(config, progress))
    return {
        kind: Journal.in_folder(RunDir(folder), config.fingerprint(), progress=Progress(quiet=True), every_s=math.inf)
        for kind, folder in zip(config.backtest.models, folders, strict=True)
    }


def _walk(config: Config, rundir: RunDir, task: Task) -> Path:
    """Walk with one model of a backtest, in a folder of its own."""
    kind = str(rundir.what)
    with _at_work(config, rundir, f"{rundir.path}: backtest of {kind}") as journal:
        _, _, courses = backtesting.courses_of(config, {kind: journal}, task)
        rundir.write_json("summary.json", {"models": list(courses)})  # last: this file marks the walk as finished
    return rundir.path


def compare(config: Config, rundir: RunDir | None = None) -> Path:
    """Search and train every baseline for each seed or sub-panel, in parallel processes; compare the models over them.

    Args:
        config: the comparison's config.
        rundir: an existing new folder for the comparison; None creates one.
    """
    from grownas.runs import sweep

    task = _read_data(config)
    check_search(config, task)
    for section in configs.strategies_of(config):
        configs.strategy_of(section, refit=config.refit)  # raises if options contradict each other
        check_backbone(config.model_copy(update={"strategy": section}))
    if config.is_study:
        check, _ = _study_of(config)
        for changes in sweep.members(config)[0].values():
            check(config.model_copy(update=changes))
    for changes in sweep.panels(config).values():
        own = config.model_copy(update=changes)
        check_search(own, load_task(own))
    return _compare(config, _begin_folder(config, "compare", task, rundir))


def _compare(config: Config, rundir: RunDir) -> Path:
    from grownas.evaluation import comparison, panels
    from grownas.report import regret
    from grownas.runs import sweep

    with rundir.lock(), Progress(quiet=config.quiet) as progress:
        try:
            sweep.run_all(config, rundir, progress, _launcher(config, progress))
        except Interrupted as error:
            raise Interrupted(rundir.path) from error
        runs = sweep.runs_of(config, rundir)
        if config.is_study:
            result, text = _studied(config, [folder for (folder,) in runs])
            file = STUDY
        elif config.panels is None:
            result = comparison.compare(runs)
            result["verdict"] = verdicts.of_comparison(result)
            text, file = tables.comparison_text(result), comparison.FILE
        else:
            result = panels.compare(runs)
            text, file = regret.regret_table(result), panels.FILE
            if not isinstance(config.panels, int):  # many drawn panels would make a long table
                text = f"{regret.metric_table(result)}\n\n{text}"
        rundir.write_json(file, result)
    where = f"regrets: {rundir.path / file}" if file == panels.FILE else f"report: {_report(rundir.path)}"
    if not config.quiet:
        print(text)
        print(where)
    return rundir.path


def _studied(config: Config, folders: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """Return the result of a study, and its text."""
    from grownas.evaluation import replays, studies
    from grownas.report import replays as replays_report
    from grownas.report import study as study_report

    if config.task.table is None:
        result = studies.compare(folders)
        return result, study_report.text(result)
    result = replays.compare(folders, GenotypeTable.read(config.task.table))
    return result, replays_report.text(result)


def _study_of(config: Config) -> tuple[Callable[[Config], None], Callable[[Config, Journal, Task], dict[str, Any]]]:
    """Return the check and the work of the parts of a study."""
    from grownas.experiments import study

    return (study.check, study.run) if config.task.table is None else (replay.check_study, replay.repeat)


def _launcher(config: Config, progress: Progress) -> Launcher:
    """Return the launcher of a comparison's runs."""
    if config.cluster == "in_process":
        return launchers.InProcess(resume)
    if config.cluster == "processes":
        return launchers.Processes(config.workers, threads=config.threads, timeout_s=config.worker_timeout)
    from grownas.runs.cluster import Dask

    return Dask(
        config.cluster, config.workers, threads=config.threads, timeout_s=config.worker_timeout, say=progress.say
    )


def tabulate(config: Config, out: Path, overrides: Sequence[str] = (), name: str = "") -> Path:
    """Train random genotypes with several seeds and write a table of them, for `task.replay`; return its path.

    Args:
        config: the config, see `experiments.tabulate`.
        out: the file to write.
        overrides: the overrides with which the config was loaded, for the table's first line.
        name: the config's name, for the same line.

    Raises:
        ConfigError: the config does not say how a table is made, or the file's folder is missing.
        RunError: the file cannot be written.
    """
    from grownas.experiments import tabulate as making

    refuse_table(config)
    making.check(config)
    if not out.parent.is_dir():
        raise ConfigError(f"out={out}: there is no folder {out.parent}; create it")
    task = _read_data(config)
    check_search(config, task)
    about = {"command": " ".join(("grownas tabulate", name, *overrides, f"out={out.name}")), "versions": versions()}
    with Progress(quiet=config.quiet) as progress, _threads(config.threads):
        table = making.tabulate(config, task, Journal.in_memory(progress), about=about, say=progress.say)
    write_file(out, "".join(f"{line}\n" for line in table.lines()).encode())
    return out


def new_folder(config: Config, command: str, checksum: str, what: str | None = None) -> RunDir:
    """Create a run folder and write the config to it."""
    parent, name = Path(os.path.expanduser(config.runs)), config.folder_name(command, what)
    rundir = RunDir.create(parent, name, command, what)
    write_config(config, rundir, checksum)
    return rundir


def _begin_folder(config: Config, command: str, task: Task, rundir: RunDir | None) -> RunDir:
    """Write the config to the given run folder, or to a new one; return the folder."""
    checksum = _data_of(config, command, task).checksum
    if rundir is None:
        return new_folder(config, command, checksum)
    write_config(config, rundir, checksum)
    return rundir


def _data_of(config: Config, command: str, task: Task) -> Task | Timeline:
    """Return what has source and checksum of all data that a command reads: a backtest may read a further text."""
    return timeline_of(config, task) if command in ("backtest", "walk") else task


def write_config(config: Config, folder: Folder, checksum: str) -> None:
    """Write a run's config, with package versions and the checksum of the data."""
    folder.write_text("config.yaml", config.dump({"versions": versions(), "data_checksum": checksum}))


def kept_notes(path: Path) -> dict[str, Any]:
    """Return the notes in a run folder's config.yaml: package versions and the checksum of the data.

    Raises:
        RunError: the notes are missing, so the file was changed or cut off after the run wrote it.
    """
    notes = configs.notes_of(path / "config.yaml")
    if not isinstance(notes.get("versions"), dict) or not isinstance(notes.get("data_checksum"), str):
        raise RunError(f"{path / 'config.yaml'}: damaged: versions or data_checksum are missing at its end")
    return notes


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that affect results."""
    packages = ("grownas", "torch", "numpy", "pandas", "statsmodels", "arch")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def load_task(
    config: Config, *, frame: Any = None, names: Sequence[str] | None = None, run_dates: Sequence[str] = ()
) -> Task:
    """Load the config's task with its data.

    Args:
        config: a run's config.
        frame: a data frame to read instead of `task.data`, for a task on series.
        names: the series that the model of a finished run reads; the data are then loaded by the task's `load_for`.
        run_dates: the dates of that run's own data, for `load_for`.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: PyTorch finds no GPU here; set device=cpu")
    task_class: Any = configs.task_class(config.task.use)  # `load_for` and data frames are not in `Task`
    given = {} if frame is None else {"frame": frame}
    if given and "frame" not in inspect.signature(task_class.load).parameters:
        raise ConfigError(f"data: {config.task.use} does not read data frames; give a path")
    if names is None:
        task: Task = task_class.load(config.task, architecture_share=config.strategy.architecture_share, **given)
    else:
        task = task_class.load_for(config.task, names, run_dates=run_dates, **given)
    configs.check_task(task)
    try:
        return task.with_device(config.device)
    except NotImplementedError as error:
        raise ConfigError(str(error)) from error


def _read_data(config: Config) -> Task:
    """Load the config's task after printing a progress line, because large data take a while."""
    Progress(quiet=config.quiet).say(f"{config.task.use}: reading the data")
    return load_task(config)


def _plan(config: Config, rundir: RunDir, task: Task) -> str:
    """Return one line that names the run folder and the steps of the run."""
    if rundir.command == "update":
        steps = [f"update.how={config.update.how}: learn from the new data"]
    elif rundir.command == "train":
        steps = [f"train {rundir.what or 'the given cell'}"]
    else:
        by_folds = ["choose a linear start by folds"] if task.kind == "series" and config.start.use == "var" else []
        if config.task.table is not None:
            return f"{rundir.path}: replay {config.strategy.use} on a table of trained genotypes"
        steps = [*by_folds, f"search with {config.strategy.use}"]
        steps += ["retrain"] * config.retrain.grown
        steps += [f"fit {', '.join(config.baselines.use)}"] if config.baselines.use else []
    return f"{rundir.path}: {'; '.join(steps)}"


def check_search(config: Config, task: Task) -> None:
    """Check config and data before any training, so that a search does not fail halfway.

    Raises:
        ConfigError: options contradict each other or do not fit the task.
        DataError: a part of the data is too short.
    """
    space_of(config)  # raises
    if config.task.table is not None:
        replay.check(config)
    configs.check_names([config.strategy])
    check_backbone(config)
    check_inputs(config.space.backbone, task)
    quantising.check(config)
    strategy = configs.strategy_class(config.strategy.use)(config.strategy)
    experiment.EXPERIMENTS[task.kind].check(config, task)
    if strategy.recipe().bilevel != "joint":
        for part in ("weights", "architecture"):
            task.windows(part, seed=config.seed)


def _work(config: Config, rundir: RunDir, task: Task, work: Work) -> Path:
    """Run the work in its folder; then write the report."""
    with _at_work(config, rundir, _plan(config, rundir, task)) as journal:
        summary, _ = work(config, rundir, journal, task)
        summary["verdict"] = verdicts.of_run(summary)
        rundir.write_json("summary.json", summary)  # last: this file marks the run as finished
        report = _report(rundir.path)
    _show(config, summary)
    if not config.quiet:
        print(f"report: {report}")
    return rundir.path


def _study(config: Config, rundir: RunDir, task: Task) -> Path:
    """Run a part of a study in its folder: one strategy, in a study of optimisers on one backbone with one seed."""
    _, run = _study_of(config)
    with _at_work(config, rundir, f"{rundir.path}: study of {config.strategy.use}") as journal:
        rundir.write_json("summary.json", run(config, journal, task))
    return rundir.path


@contextmanager
def _at_work(config: Config, rundir: RunDir, plan: str) -> Iterator[Journal]:
    """Yield the journal of a run folder, with lock, progress, threads and interrupts."""
    with rundir.lock(), Progress(quiet=config.quiet) as progress, _threads(config.threads):
        progress.say(plan)
        journal = Journal.in_folder(rundir, config.fingerprint(), progress=progress, every_s=config.checkpoint_seconds)
        try:
            with _trial_workers(config, rundir, progress) as journal.pool, _interrupts(journal):
                yield journal
        except Interrupted as error:
            raise Interrupted(rundir.path) from error


@contextmanager
def _trial_workers(config: Config, rundir: RunDir, progress: Progress) -> Iterator[Pool | None]:
    """Yield the pool that trains the genotypes of a search in several processes; None if this process does."""
    if config.trial_workers == 1 or config.cluster == "in_process" or rundir.command != "search":
        yield None
        return
    options = WorkerOptions(versions(), config.threads, config.worker_timeout)
    workers: Workers
    if config.cluster == "processes":
        workers = LocalWorkers(rundir.path, config.trial_workers, options)
    else:
        from grownas.runs.trial_cluster import DaskWorkers

        workers = DaskWorkers(rundir.path, config.trial_workers, options, address=config.cluster, say=progress.say)
    with workers:
        yield Pool(workers)


@contextmanager
def threads_kept() -> Iterator[None]:
    """Restore the number of PyTorch threads at the end of the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of PyTorch threads temporarily: the last digits of results depend on it."""
    with threads_kept(), optimizers_uncompiled():
        torch.set_num_threads(count)
        yield


@contextmanager
def _interrupts(journal: Journal) -> Iterator[None]:
    """On the first Ctrl-C finish the current step and save; on the second stop at once."""

    def handle(number: int, frame: Any) -> None:
        if journal.interrupted:
            raise Interrupted
        journal.interrupt()

    with stop_signals(handle):
        yield


def _report(folder: Path) -> Path:
    from grownas.report.page import write_report

    return write_report([folder])


RESUMED: dict[str, Callable[[Config, RunDir, Task], Path]] = {  # command of a run on one task -> how its run goes on
    "search": _search,
    "train": _train,
    "study": _study,
    "update": run_update,
    "backtest": _backtest,
    "walk": _walk,
}
