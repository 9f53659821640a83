"""A search from two starts: growth is repeated from a second start, and a test chooses between the two cells.

The linear start and nodes with all ops suit series on which a linear model is nearly right. Where the signal is strong
and nonlinear, a cell that grew from one gated node with one op can be much better. The acceptance criterion decides by
the losses on the validation part and on the rows after two earlier origins together; for the latter, both cells are
trained again on the rows before. The validation part alone too often prefers a wrong second cell
(tasks/index_returns/RESULTS.md), but where it prefers the first cell by the same criterion, no more is trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from grownas.criteria.acceptance import Acceptance
from grownas.criteria.early_stop import logged
from grownas.errors import TrainingError
from grownas.experiments.experiment import Experiment
from grownas.protocols import Journal, Origin, Problem, SearchResult
from grownas.starts.random import Ops
from grownas.strategies.growing.strategy import path_of

SECOND = "second-start"  # the second search's branch of the journal


class Searched(NamedTuple):
    """A search and its result.

    Attributes:
        experiment: in which it was done.
        nodes: each node's ops of its start.
        problem: its problem.
        result: its result.
        starts: where there were two starts, an entry of the summary for each: its name, the validation score of its
            cell, whether it was kept, and for the second the verdict.
    """

    experiment: Experiment
    nodes: Sequence[Ops]
    problem: Problem
    result: SearchResult
    starts: Sequence[Mapping[str, Any]] = ()


def search_from_starts(experiment: Experiment, search: Callable[[], Searched], accept: Acceptance) -> Searched:
    """Search from the start and, if there is one, from a second start; return the search with the better cell.

    The logs hold only the lines of that search; its result counts the steps, seconds and settings of both.

    Args:
        experiment: the experiment with the first start.
        search: the search from the first start.
        accept: compares the losses of the two cells. Its guard is left out: the training losses of two cells that did
            not grow from each other say little.
    """
    journal = experiment.journal
    mark, first, second = journal.mark(), search(), experiment.second_start()
    if second is None:
        return first
    growing: Any = experiment.strategy  # only growth has a second start
    nodes = [second.space.ops]
    origins = second.origins(nodes, growing.options.origins - 1)
    if not origins:
        return first
    branches = list[Journal]()

    def branch(name: str) -> Journal:
        branches.append(journal.branch(name, logs=False))
        return branches[-1]

    try:
        tried = search_once(replace(second, journal=branch(SECOND)), nodes)
        lost = tried.result.evaluation.losses - first.result.evaluation.losses
        if accept.of_gains(lost).accepted:  # the first cell is better on the validation part already
            origins = []
        before, steps_before = _losses(first, experiment.origins(first.nodes, len(origins)), "first-start", branch)
        after, steps_after = _losses(tried, origins, SECOND, branch)
    except TrainingError as error:
        warnings.warn(f"the search from the second start is left out: {error}", stacklevel=2)
        return first
    verdict = accept.of_gains(before - after)
    kept = first
    if verdict.accepted:
        journal.rewind(mark)
        again = replace(second, journal=journal.branch(SECOND, logs=True))
        kept = search_once(again, nodes)  # restores the finished work, and writes the logs
    for one in branches:
        add_costs(journal, one)
    result = replace(
        kept.result,
        steps=first.result.steps + tried.result.steps + steps_before + steps_after,
        seconds=first.result.seconds + sum(one.elapsed for one in branches),
        settings=first.result.settings + tried.result.settings,
    )
    starts = (
        {"start": "linear", "val": first.result.evaluation.metric, "kept": kept is first},
        {
            "start": "gated",
            "val": tried.result.evaluation.metric,
            "kept": kept is not first,
            "judge": {**logged(verdict), "origins": 1 + len(origins)},
        },
    )
    return kept._replace(experiment=replace(kept.experiment, journal=journal), result=result, starts=starts)


def search_once(experiment: Experiment, nodes: Sequence[Ops]) -> Searched:
    """Search from a start with these nodes."""
    problem = experiment.problem(nodes)
    return Searched(experiment, nodes, problem, last_of(experiment.strategy.search(problem)))


def add_costs(journal: Journal, branch: Journal) -> None:
    """Count the work of a branch of a journal as work of the journal."""
    journal.elapsed += branch.elapsed
    journal.cpu_seconds += branch.cpu_seconds
    journal.gradients += branch.gradients


def last_of(results: Iterator[SearchResult]) -> SearchResult:
    """Run a search to its end and return its last result."""
    found: SearchResult | None = None
    for result in results:
        found = result
    assert found is not None, "a search yields at least one result"
    return found


def _losses(
    one: Searched, origins: Sequence[Origin], name: str, branch: Callable[[str], Journal]
) -> tuple[np.ndarray[Any, Any], int]:
    """Return a cell's losses on the rows after each origin, in time order, and the steps of its trainings there."""
    losses, steps = [one.result.evaluation.losses], 0
    growing: Any = one.experiment.strategy
    for number, (start, task) in enumerate(origins, 1):
        problem = replace(one.problem, task=task, start=start, journal=branch(f"{name}-origin-{number}"))
        model, _, more = growing.repeated(problem, path_of(one.result.log))
        steps += more
        losses.insert(0, task.evaluate(model, "val").losses)
    return np.concatenate(losses), steps
