"""The commands that fill a run folder: make it, lock it, watch for signals, run the program, write the report.

What a program does stands in `programs.py`; these two modules alone wire the parts together.
"""

from __future__ import annotations

import difflib
import os
import platform
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from grownas.baselines import NAMES
from grownas.config import loading as configs
from grownas.config.sections import WHERE_AND_HOW, Config
from grownas.errors import ConfigError, DataError, RunError
from grownas.experiments.programs import CONTESTS, Summary, growth_of, search_program, space_of, train_program
from grownas.genotype import AnyGenotype, Genotype, published
from grownas.report import tables, verdicts
from grownas.runs.journal import Interrupted, Journal
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir

Program = Callable[[Config, RunDir, Journal, Any], Summary]  # the last is the task

PROGRAMS: dict[str, Program] = {"search": search_program, "train": train_program}


def search(config: Config) -> Path:
    """Grow a cell, retrain it, run the baselines, score all and write a run folder; return its path."""
    task = load_task(config)
    _check_search(config, task)
    return _work(config, new_folder(config, "search", task.checksum), task, search_program)


def train(config: Config, what: str) -> Path:
    """Train a genotype, given by its path or a published cell's name, or a baseline from scratch; score it."""
    task = load_task(config)
    _check_search(config, task)
    names = [name for name in NAMES[task.kind] if name not in published()]  # those have a cell to keep
    genotype = None if what in names else _genotype(what, names)
    rundir = new_folder(config, "train", task.checksum, what=what if genotype is None else None)
    if genotype is not None:
        genotype.save(rundir.path / "genotype.json")
    return _work(config, rundir, task, train_program)


def _genotype(what: str, names: Sequence[str]) -> AnyGenotype:
    known, path = [*names, *published()], Path(os.path.expanduser(what))
    near = difflib.get_close_matches(what, known, n=1)
    if near and what not in known and not path.exists():
        raise ConfigError(f"genotype={what}: no such file, baseline or published cell; did you mean {near[0]}?")
    return Genotype.load(path)


def resume(path: Path, changes: Sequence[str] = ()) -> Path:
    """Go on with an interrupted run; a finished one comes out the same. The config is the folder's own.

    Args:
        path: the run folder.
        changes: overrides of what does not govern the result, such as `quiet=true`.

    Raises:
        ConfigError: a change would alter the result.
        DataError: the data are not those that the run began with.
    """
    rundir = RunDir.open(path)
    before = kept_notes(path)
    kept = configs.load(path / "config.yaml")
    config = configs.load(path / "config.yaml", changes)
    if config.fingerprint() != kept.fingerprint():
        raise ConfigError(
            f"{path}: only {', '.join(WHERE_AND_HOW)} may change on resuming; start a new run for anything else"
        )
    if rundir.command == "compare":
        return _compare(config, rundir)
    task = load_task(config)
    if before["data_checksum"] != task.checksum:
        raise DataError(f"{path}: the data have changed since the run began ({task.source}); start a new run")
    then = before["versions"]
    changed = {name: (old, new) for name, new in versions().items() if (old := then.get(name)) != new}
    if changed:
        words = ", ".join(f"{name} {old} then, {new} now" for name, (old, new) in changed.items())
        warnings.warn(f"{path}: versions have changed, so the last digits may: {words}", stacklevel=2)
    return _work(config, rundir, task, PROGRAMS[rundir.command])


def compare(config: Config) -> Path:
    """Search and run every baseline for each seed or sub-panel, in parallel processes; compare over them."""
    from grownas.runs import sweep

    task = load_task(config)
    _check_search(config, task)
    if config.panels is not None:
        load_task(config.model_copy(update=next(iter(sweep.members(config).values()))))  # raises if none can be drawn
    return _compare(config, new_folder(config, "compare", task.checksum))


def _compare(config: Config, rundir: RunDir) -> Path:
    from grownas.evaluation import comparison, panels
    from grownas.runs import sweep

    with rundir.lock(), Progress(quiet=config.quiet) as progress:
        try:
            folders = sweep.run_all(config, rundir, progress)
        except Interrupted as error:
            raise Interrupted(rundir.path) from error
        if config.panels is None:
            result = comparison.compare(folders)
            result["verdict"] = verdicts.of_comparison(result)
            text, file = tables.comparison_text(result), comparison.FILE
        else:
            result = panels.compare(folders)
            text, file = tables.regret_table(result), panels.FILE
        rundir.write_json(file, result)
    if not config.quiet:
        print(text)
    if config.panels is None:
        print(f"report: {_report(rundir.path)}")
    else:
        print(f"regrets: {rundir.path / file}")
    return rundir.path


def new_folder(config: Config, command: str, checksum: str, what: str | None = None) -> RunDir:
    """Make a run folder that holds its config."""
    parent, name = Path(os.path.expanduser(config.runs)), config.folder_name(command, what)
    rundir = RunDir.create(parent, name, command, what)
    rundir.write_text("config.yaml", config.dump({"versions": versions(), "data_checksum": checksum}))
    return rundir


def kept_notes(path: Path) -> dict[str, Any]:
    """Return what a run folder's config.yaml says beside the config: versions and the data's checksum.

    Raises:
        RunError: it does not, so it is not what the run wrote; read as a config it would start another run.
    """
    notes = configs.notes_of(path / "config.yaml")
    if not isinstance(notes.get("versions"), dict) or not isinstance(notes.get("data_checksum"), str):
        raise RunError(f"{path / 'config.yaml'}: damaged: versions or data_checksum, which end it, are missing")
    return notes


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("grownas", "torch", "numpy", "pandas", "statsmodels", "arch")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def load_task(config: Config) -> Any:
    """Load the config's task with its data."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: PyTorch finds no GPU here; set device=cpu")
    task = configs.task_class(config.task.use).load(config.task, architecture_share=config.strategy.architecture_share)
    return task.with_device(config.device)


def _check_search(config: Config, task: Any) -> None:
    """Refuse before work begins what a search would meet in the middle of it."""
    growth_of(config, space_of(config))  # raises if its keys contradict each other
    CONTESTS[task.kind].check(config, task)
    if config.strategy.bilevel != "joint":
        for part in ("weights", "architecture"):
            task.windows(part, seed=config.seed)  # raises if the part is too short


def _work(config: Config, rundir: RunDir, task: Any, program: Program) -> Path:
    """Run a program in a run folder: lock, threads, journal, interrupts, and at the end the report."""
    with rundir.lock(), Progress(quiet=config.quiet) as progress:
        torch.set_num_threads(config.threads)
        journal = Journal(
            rundir.path / "checkpoint",
            config.fingerprint(),
            metrics=rundir.log("metrics.jsonl"),
            growth=rundir.log("growth.jsonl"),
            shares=rundir.log("shares.jsonl"),
            progress=progress,
            every_s=config.checkpoint_seconds,
        )
        try:
            with _interrupts(journal):
                summary = program(config, rundir, journal, task)
                report = _report(rundir.path)
        except Interrupted as error:
            raise Interrupted(rundir.path) from error
    if not config.quiet:
        print(tables.score_table(summary))
        print(f"\n{summary['verdict']}")
    print(f"report: {report}")
    return rundir.path


@contextmanager
def _interrupts(journal: Journal) -> Iterator[None]:
    """Let the first Ctrl-C finish the step and save; the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if journal.interrupted:
            raise Interrupted
        journal.interrupt()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(folder: Path) -> Path:
    from grownas.report.page import write_report

    return write_report([folder])
