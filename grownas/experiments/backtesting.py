"""A backtest: every model forecasts a block of rows, then learns from it, block by block to the last row.

All models know the same rows at the same time, and the time of all their work is counted. The search for the first
model happens once, on the rows before the first block; so does the choice of all settings. The scaling stays that of
this first fit. A block of a model is a unit of work in the journal, so an interrupted backtest continues with the
first block that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from grownas.config.sections import Config
from grownas.criteria.acceptance import Acceptance
from grownas.criteria.drift import DETECTORS, first_alarm
from grownas.errors import ConfigError, DataError
from grownas.evaluation.backtest import Course, summarise
from grownas.evaluation.intervals import Intervals
from grownas.evaluation.models import SEARCH
from grownas.experiments.linear_walk import LINEAR, Linear
from grownas.experiments.search import EXPERIMENTS
from grownas.experiments.timeline import SeriesTimeline, Timeline, timeline_of
from grownas.experiments.updating import How, Learner, Settings
from grownas.experiments.walking import (
    Array,
    First,
    TaskSetting,
    Trained,
    Tree,
    Walker,
    chosen_setting,
    learner_of,
    searched,
    trained_again,
)
from grownas.protocols import Folder, Journal, Task
from grownas.training.recipe import count_parameters


def blocks(origin: int, rows: int, every: int) -> list[slice]:
    """Cut the rows from `origin` on into blocks of `every` rows; the last block may be shorter."""
    return [slice(first, min(first + every, rows)) for first in range(origin, rows, every)]


def check(config: Config, task: Any) -> tuple[int, int]:
    """Check a backtest before any work; return the first row of the first validation part and the first row forecast.

    Raises:
        ConfigError: the task has no rows in time, or a model cannot learn as it should.
        DataError: the origin is not a row, or leaves too few rows before or after it.
    """
    timeline, own = timeline_of(config, task), config.backtest
    if "grow" in own.how and config.space.backbone != "chain":
        raise ConfigError("backtest.how=grow: only a chain can grow on; set how=continue, or how=refit")
    if getattr(config.retrain, "layers", 1) > 1:
        raise ConfigError(f"retrain.layers={config.retrain.layers}: a backtest has models of one layer; set it to 1")  # type: ignore[attr-defined]
    if own.evidence < own.holdout:
        raise ConfigError(
            f"backtest.evidence={own.evidence}: models are compared on backtest.holdout={own.holdout} rows or more, so "
            "no model that learns would ever be followed; raise evidence or lower holdout"
        )
    train, origin = timeline.origin(config)
    held_out = origin - own.holdout
    shortest = min(own.window or held_out, own.continue_window or held_out)
    for end, since in ((train, 0), (held_out, max(0, held_out - shortest))):
        try:
            known = timeline.until(end, origin, origin, since=since)
            known.windows("train", seed=config.seed)
        except DataError as error:
            raise DataError(f"the first row to forecast is row {origin} of {timeline.length}: {error}") from error
    first = timeline.until(train, origin, origin)
    timeline.read_as(first).until(train, origin, timeline.length)  # raises if the models do not know a later word
    return train, origin


def backtest(config: Config, folder: Folder, journals: Mapping[str, Journal], task: Any) -> Tree:
    """Walk through the rows with all models; write the figures of each row and return the content of `backtest.json`.

    Args:
        config: models, blocks and learning are in the section `backtest`.
        folder: where to write.
        journals: for each of `backtest.models` the journal that runs and stores its work; it may be the same for all.
        task: all rows, see `timeline`.

    Raises:
        GrownasError: see `check`.
        TrainingError: training diverges.
    """
    origin, timeline, courses = courses_of(config, journals, task)
    labels, periods = timeline.labels(origin)
    intervals = _intervals(timeline, courses, origin, config.backtest.coverage)
    _write(folder, timeline, courses, intervals, labels, origin)
    about = {"task": task.name, "metric": task.metric, "seed": config.seed, "source": task.source}
    means = summarise(courses, labels, config.backtest.every, periods=periods, score=timeline.score)
    names = timeline.task.target_names if isinstance(timeline, SeriesTimeline) else []
    about |= {"names": names, "intervals": {name: one.summary for name, one in intervals.items()}}
    return {**about, **config.backtest.model_dump(), "period": timeline.period, **means}


def courses_of(config: Config, journals: Mapping[str, Journal], task: Any) -> tuple[int, Timeline, dict[str, Course]]:
    """Walk through the rows with the models that have a journal; arguments and errors as of `backtest`.

    Returns:
        The first row that is forecast, all rows, and the models' courses by their names in tables.
    """
    train, origin = check(config, task)
    first = timeline_of(config, task).until(train, origin, origin)
    timeline = timeline_of(config, task).read_as(first)
    cuts = blocks(origin, timeline.length, config.backtest.every)
    given = {"when": config.backtest.when, "detector": config.backtest.detector}
    searches = {id(one): cache(partial(_searched, config, first, one)) for one in journals.values()}
    made = {
        name: (make, journal)
        for kind, journal in journals.items()
        for name, make in _walkers(config, kind, journal, timeline, first, origin, searches[id(journal)]).items()
    }
    quick_first = sorted(made, key=lambda name: name not in LINEAR)  # they refuse too few rows before a search begins
    courses = {name: walk(name, made[name][0](), made[name][1], cuts, **given) for name in quick_first}
    return origin, timeline, {name: courses[name] for name in made}


def walk(
    name: str,
    walker: Walker,
    journal: Journal,
    cuts: Sequence[slice],
    *,
    when: str = "always",
    detector: str = "page_hinkley",
) -> Course:
    """Walk through all blocks with one model.

    Args:
        name: the model's name, which begins the keys of its work.
        walker: the model.
        journal: stores the entry of each block.
        cuts: the rows of each block.
        when: `drift`: it learns only if its losses have risen since it last learned because of a rise.
        detector: what finds a rise, a name of `DETECTORS`.
    """
    begun = walker.begin()
    entries, alarms, since = [begun], list[int](), cuts[0].start
    losses = np.zeros(0)
    for number, rows in enumerate(cuts):
        journal.note(f"{name}: block {number + 1} of {len(cuts)}")
        alarm = _alarm(begun["known"], losses[since - cuts[0].start :], detector)
        learns = number > 0 and (when == "always" or alarm is not None)
        work = partial(walker.block, number, rows, entries[-1], learns=learns)
        entries.append(journal.remember(f"{name}-block-{number}", work))
        losses = np.concatenate([losses, entries[-1]["losses"]])
        if alarm is not None:
            alarms.append(since + alarm - cuts[0].start)
            since = rows.start
    return Course(losses, entries[0], entries[1:], alarms)


def _alarm(known: Array | None, losses: Array, detector: str) -> int | None:
    """Return the first of some losses at which a detector alarms; None if there is no alarm or nothing to compare with.

    Losses are standardised by the model's losses `known` before the first block.
    """
    if known is None or not known.std() > 0:
        return None
    return first_alarm(DETECTORS[detector](), ((losses - known.mean()) / known.std()).tolist())


def _walkers(
    config: Config,
    kind: str,
    journal: Journal,
    timeline: Timeline,
    first: Any,
    origin: int,
    grown: Callable[[], First],
) -> Mapping[str, Callable[[], Walker]]:
    """Return what makes each model of a kind, by its name in tables: a grown cell for each `how`, else one model.

    All work of a kind is in its journal, so that kinds can be in journals of their own. An `lstm` or `gru` has the size
    of the cell that `grown` finds, so its journal holds the same search.
    """
    own, judge = config.backtest, Acceptance(config.strategy.accept, config.strategy.threshold, guard=False)

    def linear() -> Linear:
        every, orders = own.refit_every or own.every, range(1, config.start.max_order + 1)
        assert isinstance(timeline, SeriesTimeline), "the section of a text has no linear models"
        branch, task = journal.branch(kind, logs=False), timeline.task
        rows: Tree = {"origin": origin, "every": every, "holdout": own.holdout, "window": own.window}
        return Linear(kind, branch, task.values, len(task.target_names), orders=orders, **rows)

    def trained(how: How, **given: Any) -> Trained:
        window = own.window if how == "refit" else own.continue_window or own.window
        shared = {"timeline": timeline, "origin": origin, **own.model_dump(include={"holdout", "evidence"})}
        return Trained(how=how, window=window, settings=Settings.of(config), backend=config.backend, **shared, **given)

    def recurrent() -> Trained:
        branch = journal.branch(kind, logs=True)
        before = journal.branch(SEARCH, logs=False)  # a linear start is not counted
        of: Any = EXPERIMENTS[first.kind].of(config, before, first)
        params = count_parameters(grown()[0].model) if "grown" in own.models else None
        with branch.of_model(kind):
            choice = chosen_setting(kind, replace(of, journal=branch, params=params))
        setting = choice.setting
        model = learner_of(choice.fit, setting), TaskSetting.of(setting.task, setting.chosen), _costs(branch)
        again = partial(trained_again, setting, config.seed)
        compared = None if own.recurrent == "refit" else judge
        return trained(own.recurrent, first=lambda: model, again=again, judge=compared)

    def found(how: How) -> Trained:
        again = partial(_search_again, config)
        return trained(how, first=grown, again=again, judge=judge)

    if kind == "grown":
        return {f"grown_{how}": partial(found, how) for how in own.how}
    return {kind: linear if kind in LINEAR else recurrent}


def _searched(config: Config, first: Any, journal: Journal) -> First:
    branch = journal.branch(SEARCH, logs=True)
    learner, setting = searched(config, first, branch)
    return learner, setting, _costs(branch)


def _search_again(config: Config, task: Task, journal: Journal) -> Learner:
    return searched(config, task, journal)[0]


def _costs(journal: Journal) -> Tree:
    return {"seconds": journal.elapsed, "cpu_seconds": journal.cpu_seconds, "gradients": journal.gradients}


def _intervals(timeline: Timeline, courses: Mapping[str, Course], origin: int, coverage: float) -> dict[str, Intervals]:
    """Return each model's intervals; none for a text."""
    if not isinstance(timeline, SeriesTimeline):
        return {}
    actual = timeline.task.targets[origin:]
    return {name: Intervals.of(one.begun["errors"], actual - one.forecasts, coverage) for name, one in courses.items()}


def _write(
    folder: Folder,
    timeline: Timeline,
    courses: Mapping[str, Course],
    intervals: Mapping[str, Intervals],
    dates: Sequence[str],
    origin: int,
) -> None:
    """Write the losses of each row, and the forecasts and intervals of series in their own units."""
    axes: Tree = {"names": [], "dates": list(dates)}
    if isinstance(timeline, SeriesTimeline):
        task = timeline.task
        tables = {"actual": task.targets[origin:], **{name: one.forecasts for name, one in courses.items()}}
        bounds = {name: tables[name] + np.stack([-one.half, one.half]) for name, one in intervals.items()}
        axes |= {"names": task.target_names, "zone": task.zone}
        for name, found in {"forecasts": tables, "intervals": bounds}.items():
            own = {model: torch.from_numpy(task.in_own_units(values)) for model, values in found.items()}
            folder.write_tensors(f"{name}.safetensors", own, {"table": json.dumps(axes)})
    losses = {name: torch.from_numpy(one.losses) for name, one in courses.items()}
    folder.write_tensors("losses.safetensors", losses, {"table": json.dumps(axes)})  # one key: a file keeps no order
    columns = [one.losses.tolist() for one in courses.values()]
    lines = [",".join([day, *map(repr, row)]) for day, *row in zip(dates, *columns, strict=True)]
    folder.write_text("losses.csv", "\n".join([",".join(["date", *courses]), *lines]) + "\n")
