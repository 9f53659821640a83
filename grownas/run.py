"""From a config to a run folder; this module alone wires the parts together.

    config -> task -> VAR by blocked folds -> start -> growth -> derived cell -> retrain, baselines -> scores -> folder
"""

from __future__ import annotations

import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from grownas import config as configs
from grownas.baselines.var import Selection, select_by_folds
from grownas.cells.cell import GrownRNN
from grownas.config import Config
from grownas.contest import (
    BASELINES,
    Contest,
    generator_for,
    score_model,
    train_and_choose,
)
from grownas.equations import equations
from grownas.errors import ConfigError
from grownas.genotype import Genotype
from grownas.journal import Interrupted, Journal
from grownas.progress import Progress
from grownas.report.tables import score_table
from grownas.rundir import RunDir
from grownas.scoring import Score, free_running
from grownas.space import SearchSpace
from grownas.start import build_start, hidden_size_for
from grownas.strategies.growing import NOTHING_FOUND, Growth, Grown, grow, with_core
from grownas.train import OptimizerRecipe, Recipe, count_parameters


def search(config: Config, folder: Path | None = None) -> Path:
    """Grow a cell, retrain it, run the baselines, score all and write a run folder; return its path.

    Args:
        config: the whole config.
        folder: an existing run folder to write into; a new one under `config.runs` if None.
    """
    rundir = RunDir.open(folder) if folder else _new_folder(config, "search")
    return _work(config, rundir, _search)


def train(config: Config, genotype: str) -> Path:
    """Train a given genotype from scratch under the baselines' budget, score it and write a run folder."""
    wanted = Genotype.load(genotype)
    rundir = _new_folder(config, "train")
    wanted.save(rundir.path / "genotype.json")
    return _work(config, rundir, _train)


def resume(path: Path) -> Path:
    """Go on with an interrupted run; a finished one comes out the same. The config is the folder's own."""
    rundir = RunDir.open(path)
    config = configs.load(rundir.path / "config.yaml")
    command = rundir.read_json("run.json")["command"]
    if command == "compare":
        return compare(config, rundir.path)
    return _work(config, rundir, {"search": _search, "train": _train}[command])


def compare(config: Config, folder: Path | None = None) -> Path:
    """Search and run every baseline for each seed, in parallel processes; compare over the seeds."""
    from grownas import comparison, sweep

    rundir = RunDir.open(folder) if folder else _new_folder(config, "compare")
    with rundir.lock():
        folders = sweep.run_seeds(config, rundir.path, config.seeds, config.workers)
        result = comparison.compare(folders)
        rundir.write_json("comparison.json", result)
    print(comparison.table(result))
    print(f"\nreport: {_report(rundir.path)}")
    return rundir.path


def _new_folder(config: Config, command: str) -> RunDir:
    rundir = RunDir.create(Path(config.runs), config.name or config.default_name)
    rundir.write_text("config.yaml", config.dump(versions()))
    rundir.write_json("run.json", {"command": command})
    return rundir


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("grownas", "torch", "numpy", "pandas", "statsmodels", "arch")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _work(config: Config, rundir: RunDir, program: Any) -> Path:
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
        with _interrupts(journal):
            summary = program(config, rundir, journal)
    if not config.quiet:
        print(score_table(summary))
    print(f"report: {_report(rundir.path)}")
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


def _search(config: Config, rundir: RunDir, journal: Journal) -> dict[str, Any]:
    """The main job, from data to scores."""
    contest = _grow(config, rundir, journal)
    task, grown = contest.task, contest.grown
    model, extra_seconds = _finish(contest)
    scores = [
        score_model(task, "start", contest.start, contest.selection_seconds),
        score_model(task, "first_stage", grown.first_stage, _seconds(grown, 1), len(contest.growth.pulls)),
        score_model(
            task,
            "grown",
            model,
            contest.selection_seconds + grown.seconds + extra_seconds,
            len(grown.stages),
            {"pull": grown.pull, "nodes": len(model.core.genotype.nodes)},
        ),
    ]
    retrained = _retrain(contest, model.core.genotype)
    scores += [retrained, *(BASELINES[name](contest) for name in config.baselines.use)]
    return _write(config, rundir, contest.task, model, scores, grown, retrained.seconds)


def _train(config: Config, rundir: RunDir, journal: Journal) -> dict[str, Any]:
    """Train the folder's genotype anew and score it."""
    raise NotImplementedError


def load_task(config: Config, **changes: Any) -> Any:
    """Load the config's task with its data."""
    return configs.task_class(config.task.use).load(config.task.options, **changes)


def _grow(config: Config, rundir: RunDir, journal: Journal) -> Contest:
    """Load the data, choose the VAR, build the start and grow."""
    task = load_task(config)
    rundir.write_json("data.json", task.describe())
    train_rows = task.values[task.rows("train")]
    done = journal.remember("selection", lambda: select_by_folds(train_rows, orders=range(1, config.start.max_order + 1)).to_tree())
    selection = Selection.from_tree(done)
    at_var = config.start.use == "var"
    if task.loss_name == "auto":
        task = task.with_loss(selection.var.loss if at_var else "squared")
    space = SearchSpace(
        combine=config.space.combine,
        activation=config.space.activation,
        max_nodes=config.strategy.max_nodes,
        highway=config.space.highway,
        share_projection=config.space.share_projection,
    )
    order = selection.var.order if at_var else 1
    hidden_size = config.space.hidden_size
    if hidden_size == "auto":
        hidden_size = hidden_size_for(order, task.input_size)
    growth = growth_of(config)

    def build(nodes: Sequence[Any], generator: torch.Generator, var: Any = selection.var if at_var else None) -> Any:
        return build_start(
            task,
            nodes,
            hidden_size=hidden_size,
            var=var,
            highway=space.highway,
            share_projection=space.share_projection,
            carrier_share=growth.carrier_share,
            noise=growth.noise,
            generator=generator,
        )

    start = build([space.ops] * config.start.nodes, generator_for(config.seed, "start"))
    grown = grow(start, task, journal, growth, seed=config.seed)
    return Contest(
        task=task,
        journal=journal,
        selection=selection,
        selection_seconds=done["seconds"],
        build=build,
        start=start,
        growth=growth,
        grown=grown,
        space=space,
        recipe=retrain_recipe(config),
        hidden_sizes=config.baselines.hidden_sizes,
        losses=config.baselines.losses,
        seed=config.seed,
        refit=config.refit,
    )


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


def _finish(contest: Contest) -> tuple[Any, float]:
    """Derive the cell from the supernet found; fine-tune it where data were held out, refit it where asked for."""
    task, grown, growth = contest.task, contest.grown, contest.growth
    model, seconds = with_core(grown.model, grown.model.core.derive()), 0.0
    recipe = replace(growth.recipe, pull=grown.pull or 0.0)
    if grown.pull is not None and growth.recipe.bilevel != "joint":
        fit = contest.journal.fit("closing", model, task, recipe, seed=contest.seed)
        model, seconds = fit.model, fit.seconds
    if contest.refit and grown.pull is None:
        return contest.refitted_start(), seconds
    if contest.refit:
        final = replace(recipe, patience=None, epochs=max(1, grown.epochs))
        fit = contest.journal.fit("refit", model, task.with_refit(), final, seed=contest.seed)
        model, seconds = fit.model, seconds + fit.seconds
    return model, seconds


def _retrain(contest: Contest, genotype: Genotype) -> Score:
    """Train the genotype found anew, from random weights, under the baselines' budget."""
    task = contest.task
    generator = contest.draw("grown_retrained")
    core = GrownRNN(genotype, task.input_size, contest.grown.model.core.hidden_size)
    core.reset_parameters(generator)
    model = task.model(core, generator=generator)
    return train_and_choose(contest, "grown_retrained", [("retrained", {}, lambda: model)])


def _seconds(grown: Grown, stage: int) -> float:
    return sum(line["seconds"] for line in grown.stages if line["stage"] == stage)


def _write(
    rundir: RunDir, config: Config, task: Any, model: Any, scores: list[Score], grown: Grown, retrain_seconds: float
) -> dict[str, Any]:
    """Write everything that the run found; `summary.json` last, since it says that the run is complete."""
    genotype: Genotype = model.core.genotype
    genotype.save(rundir.path / "genotype.json")
    rundir.write_tensors("weights.safetensors", model.state_dict(), {"names": json.dumps(task.names)})
    text = equations(model.core, model.readout, task.names, task.mean, task.sd)
    rundir.write_text("equations.txt", text)
    actual = np.concatenate([task.values[task.rows(part)] for part in ("val", "test")])
    forecasts = {score.model: torch.from_numpy(score.forecasts()) for score in scores}
    rundir.write_tensors("forecasts.safetensors", {"actual": torch.from_numpy(actual), **forecasts})
    entries = [score.entry(task) for score in scores]
    found = next(entry for entry in entries if entry["model"] == "grown")
    summary = {
        "task": task.name,
        "strategy": config.strategy.use,
        "seed": config.seed,
        "metric": task.metric,
        "val": found["val"],
        "test": found["test"],
        "nodes": len(genotype.nodes),
        "ops": sum(len(node.ops) for node in genotype.nodes),
        "params": found["params"],
        "search_seconds": round(grown.seconds, 3),
        "retrain_seconds": round(retrain_seconds, 3),
        "stages": len({line["stage"] for line in grown.stages}),
        "stage_log": grown.stages,
        "stopped": grown.reason,
        "verdict": verdict(entries, grown),
        "loss": task.loss_name,
        "backend": model.core.backend,
        "free_running": free_running(model, task.tensor("test")[:, :1]),
        "scores": entries,
    }
    rundir.write_json("summary.json", summary)
    return summary


def verdict(entries: list[dict[str, Any]], grown: Grown) -> str:
    """Say in words what was found, and which model is best on the test part."""
    ours = next(entry for entry in entries if entry["model"] == "grown")
    others = [e for e in entries if e["model"] not in ("grown", "start", "first_stage", "grown_retrained")]
    words = [f"{grown.reason}." if grown.pull is None else f"Growth ended: {grown.reason}."]
    if others:
        best = min(others, key=lambda entry: entry["test"])
        relation = "lower than" if ours["test"] < best["test"] else "not lower than"
        words.append(
            f"The grown cell's test error {ours['test']:.4f} is {relation} that of the best baseline, "
            f"{best['model']} ({best['test']:.4f})."
        )
    return " ".join(words)
