"""From a config to a run folder; this module alone wires the parts together.

config -> task -> VAR by blocked folds -> start -> growth -> derived cell -> retrain, baselines -> scores -> folder
"""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grownas import config as configs
from grownas.baselines.var import VAR, Selection, select_by_folds
from grownas.cells.cell import GrownRNN
from grownas.config import Config
from grownas.contest import BASELINES, Contest, score_model, train_and_choose
from grownas.equations import equations
from grownas.errors import ConfigError, DataError, RunError
from grownas.genotype import Genotype
from grownas.journal import Interrupted, Journal
from grownas.progress import Progress
from grownas.recipe import OptimizerRecipe, Recipe, count_parameters
from grownas.report.tables import score_table
from grownas.rundir import RunDir
from grownas.scoring import Score, free_running
from grownas.space import SearchSpace
from grownas.start import Ops, build_start, hidden_size_for
from grownas.strategies.growing import Grown, grow, replay
from grownas.strategies.stage import Growth, with_core

Summary = dict[str, Any]
Program = Callable[[Config, RunDir, Journal, Any], Summary]  # the last is the task

OURS = ("grown", "grown_retrained", "first_stage", "start")


def search(config: Config) -> Path:
    """Grow a cell, retrain it, run the baselines, score all and write a run folder; return its path."""
    task = load_task(config)
    _check_search(config, task)
    return _work(config, new_folder(config, "search", task.checksum), task, _search)


def train(config: Config, what: str) -> Path:
    """Train a genotype, given by its path, or a baseline, given by its name, from scratch; score it."""
    task = load_task(config)
    genotype = None if what in BASELINES else Genotype.load(what)
    rundir = new_folder(config, "train", task.checksum, what=what if genotype is None else None)
    if genotype is not None:
        genotype.save(rundir.path / "genotype.json")
    return _work(config, rundir, task, _train)


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
            f"{path}: only {', '.join(configs.WHERE_AND_HOW)} may change on resuming; start a new run for anything else"
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
    return _work(config, rundir, task, {"search": _search, "train": _train}[rundir.command])


def compare(config: Config) -> Path:
    """Search and run every baseline for each seed, in parallel processes; compare over the seeds."""
    task = load_task(config)
    _check_search(config, task)
    return _compare(config, new_folder(config, "compare", task.checksum))


def _compare(config: Config, rundir: RunDir) -> Path:
    from grownas import comparison, sweep

    with rundir.lock(), Progress(quiet=config.quiet) as progress:
        try:
            folders = sweep.run_seeds(config, rundir, progress)
        except Interrupted as error:
            raise Interrupted(rundir.path) from error
        result = comparison.compare(folders)
        rundir.write_json("comparison.json", result)
    if not config.quiet:
        print(comparison.table(result))
    print(f"report: {_report(rundir.path)}")
    return rundir.path


def new_folder(config: Config, command: str, checksum: str, what: str | None = None) -> RunDir:
    """Make a run folder that holds its config."""
    rundir = RunDir.create(Path(os.path.expanduser(config.runs)), config.folder_name, command, what)
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
    return configs.task_class(config.task.use).load(config.task, architecture_share=config.strategy.architecture_share)


def _check_search(config: Config, task: Any) -> None:
    """Refuse before work begins what a search would meet in the middle of it."""
    if config.refit and config.strategy.prune != "none":
        raise ConfigError("refit=true cannot repeat a growth with pruning; set strategy.prune=none or refit=false")
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
        print(score_table(summary))
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


def _search(config: Config, rundir: RunDir, journal: Journal, task: Any) -> Summary:
    """Do the main job, from data to scores."""
    contest = _contest(config, rundir, journal, task)
    task, growth = contest.task, contest.growth
    nodes = [contest.space.ops] * config.start.nodes
    start = contest.start(nodes, "start")
    grown = grow(start, task, journal, growth, seed=config.seed)
    contest = replace(contest, params=count_parameters(grown.model), steps=grown.steps)
    model, first, more_seconds = _finish(contest, grown, nodes)
    if config.refit:
        start = contest.start(nodes, "start", refitted=True)
    search_seconds = contest.selection_seconds + grown.seconds
    first_seconds = contest.selection_seconds + sum(line["seconds"] for line in grown.stages if line["stage"] == 1)
    chosen = {"pull": grown.pull, "nodes": len(model.core.genotype.nodes), "hidden_size": model.core.hidden_size}
    scores = [
        score_model(task, "grown", model, search_seconds + more_seconds, len(grown.stages), chosen),
        score_model(task, "first_stage", first, first_seconds, len(growth.pulls)),
        score_model(
            task, "start", start, contest.selection_seconds, contest.selection.settings, contest.selection.chosen
        ),
    ]
    retrain_seconds = None
    if config.retrain.grown:
        retrained, _ = _retrain(contest, model.core.genotype, model.core.hidden_size)
        scores.append(retrained)
        retrain_seconds = round(retrained.seconds, 3)
    scores += [BASELINES[name](contest) for name in config.baselines.use]
    found = {
        "search_seconds": round(search_seconds + more_seconds, 3),
        "retrain_seconds": retrain_seconds,
        "stages": len({line["stage"] for line in grown.stages}),
        "stage_log": grown.stages,
        "stopped": grown.reason,
    }
    return _write(config, rundir, task, model, scores, found)


def _train(config: Config, rundir: RunDir, journal: Journal, task: Any) -> Summary:
    """Train the folder's genotype, or a baseline, from random weights and score it."""
    contest = _contest(config, rundir, journal, task)
    if rundir.what is not None:
        score = BASELINES[rundir.what](contest)
        return _write(config, rundir, contest.task, None, [score], {"retrain_seconds": round(score.seconds, 3)})
    genotype = Genotype.load(rundir.path / "genotype.json")
    hidden_size = _hidden_size(config, contest.selection, contest.task)
    score, model = _retrain(contest, genotype, hidden_size)
    return _write(config, rundir, contest.task, model, [score], {"retrain_seconds": round(score.seconds, 3)})


def _contest(config: Config, rundir: RunDir, journal: Journal, task: Any) -> Contest:
    """Choose the VAR, and gather what growth and baselines need."""
    rundir.write_json("data.json", task.describe())
    orders = range(1, config.start.max_order + 1)
    train_rows = task.values[task.rows("train")]
    done = journal.remember("selection", lambda: select_by_folds(train_rows, orders=orders).to_tree())
    selection, at_var = Selection.from_tree(done), config.start.use == "var"
    if task.loss_name == "auto":
        task = task.with_loss(selection.var.loss if at_var else "squared")
    space = SearchSpace(
        combine=config.space.combine,
        activation=config.space.activation,
        max_nodes=config.strategy.max_nodes,
        max_ops=len(config.space.combine) * len(config.space.activation),
        highway=config.space.highway,
        share_projection=config.space.share_projection,
    )
    growth, hidden_size = growth_of(config), _hidden_size(config, selection, task)

    def build(nodes: Sequence[Ops], var: VAR | None, generator: torch.Generator) -> Any:
        return build_start(
            task,
            nodes,
            hidden_size=hidden_size,
            var=var,
            highway=space.highway,
            share_projection=space.share_projection,
            carrier_share=growth.carrier_share,
            generator=generator,
        )

    return Contest(
        task=task,
        journal=journal,
        selection=selection,
        selection_seconds=done["seconds"],
        build=build,
        at_var=at_var,
        growth=growth,
        space=space,
        recipe=retrain_recipe(config),
        hidden_sizes=config.baselines.hidden_sizes,
        losses=config.baselines.losses,
        seed=config.seed,
        refit=config.refit,
    )


def _hidden_size(config: Config, selection: Selection, task: Any) -> int:
    if config.space.hidden_size != "auto":
        return config.space.hidden_size
    return hidden_size_for(selection.order if config.start.use == "var" else 1, task.input_size)


def growth_of(config: Config) -> Growth:
    """Return what governs growth, from the config's `strategy`."""
    strategy = config.strategy.model_dump(exclude={"use", "max_epochs", "patience", "bilevel", "architecture_share"})
    weights, alpha = strategy.pop("weights"), strategy.pop("alpha")
    recipe = Recipe(
        epochs=config.strategy.max_epochs,
        patience=config.strategy.patience,
        clip=weights.pop("clip"),
        bilevel=config.strategy.bilevel,
        weights=OptimizerRecipe(**weights),
        alpha=OptimizerRecipe(**alpha),
    )
    return Growth(recipe=recipe, pulls=tuple(strategy.pop("pull")), **strategy)


def retrain_recipe(config: Config) -> Recipe:
    """Return the budget of every model that is trained from scratch."""
    options = config.retrain
    return Recipe(
        epochs=options.epochs,
        patience=options.patience,
        clip=config.strategy.weights.clip,
        weights=OptimizerRecipe(rate=options.rate),
    )


def _finish(contest: Contest, grown: Grown, nodes: Sequence[Ops]) -> tuple[Any, Any, float]:
    """Derive the cell from the supernet found; fine-tune it where data were held out, refit it where asked for.

    Returns:
        The model around the derived cell, the trained first stage, and the seconds that this took.
    """
    task, growth, journal = contest.task, contest.growth, contest.journal
    before = journal.elapsed
    core, first = grown.model.core, grown.first_stage
    if contest.refit:
        start, both = contest.start(nodes, "start", refitted=True), task.with_refit()
        again = replay(start, both, journal, growth, grown.path(), seed=contest.seed)
        first = replay(start, both, journal, growth, grown.first_path(), seed=contest.seed)
        return with_core(again, again.core.derive()), first, journal.elapsed - before
    model = with_core(grown.model, core.derive())
    if growth.recipe.bilevel != "joint":  # alpha's data have not taught the weights yet
        if grown.pull is not None:
            recipe = replace(growth.recipe, pull=grown.pull)
            model = journal.fit("closing", model, task, recipe, seed=contest.seed).model
        recipe = replace(growth.recipe, pull=grown.first_path()[0]["pull"])
        first = with_core(first, first.core.derive())
        first = journal.fit("closing-first-stage", first, task, recipe, seed=contest.seed).model
    return model, first, journal.elapsed - before


def _retrain(contest: Contest, genotype: Genotype, hidden_size: int) -> tuple[Score, Any]:
    """Train a genotype from random weights under the baselines' budget."""
    task = contest.task

    def build() -> Any:
        generator = contest.draw("grown_retrained")
        core = GrownRNN(genotype, task.input_size, hidden_size)
        core.reset_parameters(generator)
        return task.model(core, generator=generator)

    return train_and_choose(contest, "grown_retrained", [("retrained", {"hidden_size": hidden_size}, build)])


def _write(
    config: Config, rundir: RunDir, task: Any, model: Any | None, scores: list[Score], found: Summary
) -> Summary:
    """Write everything that the run found; `summary.json` last, since it says that the run is complete."""
    actual = np.concatenate([task.values[task.rows(part)] for part in ("val", "test")])
    forecasts = {score.model: torch.from_numpy(score.forecasts()) for score in scores}
    rundir.write_tensors("forecasts.safetensors", {"actual": torch.from_numpy(actual), **forecasts})
    entries = [score.entry(task) for score in scores]
    ours = entries[0]
    about: Summary = {"nodes": None, "ops": None, "free_running": None, "backend": None}
    if model is not None:
        genotype: Genotype = model.core.genotype
        genotype.save(rundir.path / "genotype.json")
        rundir.write_tensors("weights.safetensors", model.state_dict(), {"names": json.dumps(task.names)})
        rundir.write_text("equations.txt", equations(model.core, model.readout, task.names, task.mean, task.sd))
        about = {
            "nodes": len(genotype.nodes),
            "ops": sum(len(node.ops) for node in genotype.nodes),
            "free_running": free_running(model, task.tensor("test")),
            "backend": model.core.backend,
        }
    summary = {
        "task": task.name,
        "strategy": config.strategy.use,
        "seed": config.seed,
        "metric": task.metric,
        "val": ours["val"],
        "test": ours["test"],
        "params": ours["params"],
        "search_seconds": None,
        "retrain_seconds": None,
        "stages": 0,
        "refit": config.refit,
        "loss": task.loss_name,
        **about,
        **found,
        "verdict": verdict(entries, found.get("stopped")),
        "scores": entries,
    }
    rundir.write_json("summary.json", summary)
    return summary


def verdict(entries: list[Summary], stopped: str | None) -> str:
    """Say in words what was found, and which model is best on the test part."""
    words = [f"Growth ended: {stopped}."] if stopped else []
    ours = entries[0]
    simple = [entry for entry in entries if entry["model"] not in OURS]
    if simple and ours["model"] in OURS:
        best = min(simple, key=lambda entry: entry["test"])
        relation = "lower than" if ours["test"] < best["test"] else "not lower than"
        words.append(
            f"The test error of {ours['model']}, {ours['test']:.4f}, is {relation} that of the best baseline, "
            f"{best['model']}, {best['test']:.4f}."
        )
    else:
        words.append(f"The test error of {ours['model']} is {ours['test']:.4f}.")
    return " ".join(words)
