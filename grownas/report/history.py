"""The history of a growth, combined from its logs: fits, moves, cells and shares, in order.

An `Event` groups the moves that were made together before a fit. The logs do not identify ops across moves: `follow`
repeats each move on a list of ops, so that an op can be traced from its first epoch to its last.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from grownas.evaluation.models import SEARCH
from grownas.genotype import AnyGenotype, DagGenotype, Genotype
from grownas.report.growth_log import move

ON, ORIGIN = "-on-", "-origin-"  # as in `strategies.growing.state`, which imports PyTorch
Line = Mapping[str, Any]
Points = list[tuple[float, float]]


class Fit(NamedTuple):
    """A fit of the growth: its first and last step on the common axis of weight steps, and its curves."""

    part: str
    begin: int
    end: int
    train: Points
    val: Points
    is_trial: bool = False  # the fit only served to choose a move


class Event(NamedTuple):
    """Moves that were made together; `part` is the name of the fit that followed, None if it is not logged."""

    stage: int
    part: str | None
    lines: tuple[Line, ...]
    accepted: bool | None


class Mark(NamedTuple):
    """A short label of the moves before a fit, and whether they were accepted; None if nothing was tested."""

    step: int
    label: str
    accepted: bool | None
    is_trial: bool


class Chapter(NamedTuple):
    """An accepted event: the cell before and after it, and the removed and new ops, each as `(node, op)`."""

    stage: int
    moves: tuple[str, ...]
    before: AnyGenotype
    after: AnyGenotype
    gone: frozenset[tuple[int, int]]
    new: frozenset[tuple[int, int]]
    losses: tuple[float | None, float | None]


class Curve(NamedTuple):
    """The training curve of a model: weight steps, seconds and validation metric after each epoch."""

    model: str
    points: list[tuple[float, float, float]]


class Prediction(NamedTuple):
    """The predicted and the measured change of the loss by a move, and the part of the data they refer to."""

    kind: str
    predicted: float
    measured: float
    accepted: bool | None
    part: str


@dataclass(eq=False)
class Track:
    """An op over time: its name, and its `(epoch, share)` points."""

    name: str | None = None
    points: Points = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """A node over time: `ops` are its present ops (empty if not known yet), `tracks` all ops that it ever had."""

    ops: list[Track] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)


class Shares(NamedTuple):
    """The nodes of the final cell; `(first epoch, stage)` of each fit that led to the cell; the last epoch."""

    nodes: list[Node]
    begins: list[tuple[int, int]]
    end: int


def fits(metrics: Iterable[Line], growth: Iterable[Line]) -> tuple[str, list[Fit]]:
    """Return the logged metric and the growth's fits in order.

    A fit at an earlier origin has no curve, because its losses are from other days; its steps still count.

    Args:
        metrics: lines of `metrics.jsonl`; lines of stage 0, the fits of baselines, are ignored.
        growth: lines of `growth.jsonl`, which name the trials.
    """
    trials = {line.get("trial") for line in growth}
    lines = [line for line in metrics if line.get("stage")]
    wanted = "loss" if any(line["metric"] == "loss" for line in lines) else next((x["metric"] for x in lines), "loss")
    grouped: dict[str, list[Line]] = {}
    for line in lines:
        if line["metric"] == wanted and line["value"] is not None:
            grouped.setdefault(str(line.get("part", f"stage-{line['stage']}")), []).append(line)
    found, begin = list[Fit](), 0
    for part, evaluations in grouped.items():
        end = begin + max(line["step"] for line in evaluations)
        train, val = (
            [(begin + line["step"], line["value"]) for line in evaluations if line["split"] == split]
            for split in ("train", "val")
        )
        if ORIGIN in part:
            found.append(Fit(part, begin, end, [], [], is_trial=True))
        else:
            found.append(Fit(part, begin, end, train, val, part in trials))
        begin = end
    return str(wanted), found


def events(growth: Iterable[Line]) -> list[Event]:
    """Group the lines of `growth.jsonl` by the fit that followed; a line without a fit is a group of its own."""
    groups = list[list[Line]]()
    for line in growth:
        part = line.get("part")
        if groups and part is not None and groups[-1][0].get("part") == part:
            groups[-1].append(line)
        else:
            groups.append([line])
    return [
        Event(int(lines[0].get("stage", 0)), lines[0].get("part"), tuple(lines), lines[0].get("accepted"))
        for lines in groups
    ]


def marks(all_fits: Iterable[Fit], found: Iterable[Event], stages: Iterable[Line]) -> list[Mark]:
    """Return for each fit a mark with the moves before it.

    Args:
        all_fits: see `fits`.
        found: see `events`.
        stages: the summary's `stage_log`; it holds the candidates of the first stage, which are not events.
    """
    answers = {event.part: (in_few_words(event.lines), event.accepted) for event in found}
    for line in stages:
        if line["stage"] == 1 and line.get("l2_sp") is not None:
            label = f"start, L2-SP {line['l2_sp']:g}" if line["l2_sp"] else "start"
            answers[line.get("part")] = (label, line["accepted"])
            answers |= dict.fromkeys(_later_parts(line), ("train further", line["accepted"]))
    marked = []
    for fit in all_fits:
        if fit.part in answers:
            marked.append(Mark(fit.begin, *answers[fit.part], fit.is_trial))
        elif not fit.is_trial:  # the winner of trials is marked where its full training begins
            marked.append(Mark(fit.begin, fit.part.replace("-", " "), None, is_trial=False))
    return marked


def in_few_words(lines: Sequence[Line]) -> str:
    """Return moves as a label, such as `split ⊗ tanh of node 1`, `split 3 ops` or `add 2 nodes`."""
    if len(lines) > 1:
        kinds = Counter(str(line.get("kind", "")).partition("_") for line in lines)
        return ", ".join(
            f"{verb} {count} {what or 'op'}{'s' * (count > 1)}" for (verb, _, what), count in kinds.items()
        )
    return move({key: value for key, value in lines[0].items() if key != "new_op"})


# --- who an op is ---


def follow(cell: list[Node], line: Line) -> None:
    """Repeat a move on the list of nodes (in a DAG: of edges) and their ops."""
    place, sources = line.get("node"), line.get("sources")
    if place is None:
        return
    if line.get("op") is None and isinstance(line.get("edges"), list):  # a DAG's new node comes last
        cell += [Node() for _ in line["edges"]]
    elif line.get("op") is None:
        cell.insert(place, Node())
    elif isinstance(sources, list) and place < len(cell) and _is_op(line.get("op"), cell[place]):
        ops = cell[place].ops
        if not all(source is None or (isinstance(source, int) and 0 <= source < len(ops)) for source in sources):
            return  # a damaged line
        cell[place].ops = [  # the first copy of an op continues its track; other copies are new ops
            Track() if source is None or source in sources[:number] else ops[source]
            for number, source in enumerate(sources)
        ]


def _is_op(op: Any, node: Node) -> bool:
    return isinstance(op, int) and op < len(node.ops)


def _settled(cell: list[Node], names: Sequence[Sequence[str]]) -> list[Node]:
    """Give the ops of a cell their names; if the moves do not lead to these names, return a cell of new ops.

    The names do not match at the first fit, and if the log of moves is missing.
    """
    fits_in = len(cell) == len(names) and all(
        not node.ops or [track.name or name for track, name in zip(node.ops, ops, strict=False)] == list(ops)
        for node, ops in zip(cell, names, strict=True)
    )
    cell = cell if fits_in else [Node() for _ in names]
    for node, ops in zip(cell, names, strict=True):
        node.ops = node.ops or [Track() for _ in ops]
        for track, name in zip(node.ops, ops, strict=True):
            track.name = name
        node.tracks += [track for track in node.ops if track not in node.tracks]
    return cell


# --- cells ---


def chapters(found: Iterable[Event]) -> list[Chapter]:
    """Return the accepted events whose log lines hold the cell before and after, in order."""
    return [_chapter(event) for event in found if event.accepted and _has_cells(event)]


def _has_cells(event: Event) -> bool:
    return "cell_before" in event.lines[0] and "cell_after" in event.lines[-1]


def _chapter(event: Event) -> Chapter:
    first, last = event.lines[0], event.lines[-1]
    before, after = first["cell_before"], last["cell_after"]
    moves, losses = tuple(move(line) for line in event.lines), (first.get("loss_before"), last.get("loss_after"))
    if isinstance(after, DagGenotype):  # what is read out of a DAG may change everywhere by any move
        return Chapter(event.stage, moves, before, after, frozenset(), frozenset(), losses)
    cell = _settled([], _names(before))
    old = _places(cell)
    for line in event.lines:
        follow(cell, line)
    settled = _settled(cell, _names(after))
    new = _places(settled)
    known = settled is cell
    return Chapter(
        event.stage,
        moves,
        before,
        after,
        frozenset(old[track] for track in old.keys() - new.keys()) if known else frozenset(),
        frozenset(new[track] for track in new.keys() - old.keys()) if known else frozenset(),
        losses,
    )


def _names(genotype: Genotype) -> list[list[str]]:
    return [[op.name for op in node.ops] for node in genotype.nodes]


def _places(cell: Iterable[Node]) -> dict[Track, tuple[int, int]]:
    return {track: (place, number) for place, node in enumerate(cell) for number, track in enumerate(node.ops)}


# --- shares ---


def shares(lines: Iterable[Line], metrics: Iterable[Line], found: Iterable[Event], stages: Iterable[Line]) -> Shares:
    """Trace the ops of the final cell through the fits that led to it, each fit up to its best epoch.

    Args:
        lines: lines of `shares.jsonl`.
        metrics: lines of `metrics.jsonl`, which give the best epochs.
        found: see `events`.
        stages: the summary's `stage_log`.
    """
    logged: dict[str, dict[int, list[Line]]] = {}
    for line in lines:
        logged.setdefault(line["part"], {}).setdefault(line["epoch"], []).append(line)
    best, cell, begins, at = _best_epochs(metrics), list[Node](), list[tuple[int, int]](), 0
    ahead = list[Line]()  # moves before the next fit whose shares are known
    for stage, part, moves in _path(found, stages):
        ahead += moves
        epochs = logged.get(part or "", {})
        if not epochs:
            continue
        for line in ahead:
            follow(cell, line)
        ahead = []
        last = min(best.get(part or "", max(epochs)), max(epochs))
        for epoch in range(last + 1):
            nodes = sorted(epochs.get(epoch, []), key=lambda line: int(line["node"]))
            cell = _settled(cell, [line["ops"] for line in nodes]) if nodes else cell
            for node, line in zip(cell if nodes else (), nodes, strict=True):
                for track, share in zip(node.ops, line["shares"], strict=True):
                    track.points.append((at + epoch, share))
        begins.append((at, stage))
        at += last
    return Shares(cell, begins, at)


def _path(found: Iterable[Event], stages: Iterable[Line]) -> Iterator[tuple[int, str | None, tuple[Line, ...]]]:
    """Yield stage, fit and moves on the way to the final cell; nothing if it is the start, or not found yet."""
    begun = [line for line in stages if line["stage"] == 1 and line["accepted"] and line.get("part") is not None]
    if not begun:
        return
    yield 1, begun[-1]["part"], ()
    yield from ((1, part, ()) for part in _later_parts(begun[-1]))
    for event in found:
        if event.accepted and (event.stage > 1 or event.part == begun[-1].get("part_pruned")):
            yield event.stage, event.part, event.lines


def _later_parts(line: Line) -> list[str]:
    """Return the fits that trained the first stage further, after its first fit."""
    return [f"{line.get('part')}{ON}{number}" for number in range(1, line.get("fits", 1))]


def _best_epochs(metrics: Iterable[Line]) -> dict[str, int]:
    """Return for each fit the first epoch with the lowest validation loss, among epochs without blending."""
    best: dict[str, tuple[float, int]] = {}
    for line in metrics:
        if line["split"] == "val" and line["metric"] == "loss" and _is_plain(line) and "part" in line:
            here = (line["value"], line["epoch"])
            best[line["part"]] = min(best.get(line["part"], here), here)
    return {part: epoch for part, (_, epoch) in best.items()}


def _is_plain(line: Line) -> bool:
    """Return whether a line has a finite value of a model that could be kept: no node was being blended in."""
    return line["value"] is not None and "blend" not in line


# --- curves ---

NO_CURVE = re.compile(r"-refit$|-to-\d+$")  # refits on more data, and fits of settings that were dropped early


def curves(
    metrics: Iterable[Line],
    metric: str,
    models: Sequence[str],
    found: Iterable[Event],
    stages: Iterable[Line],
    searched: str = "grown",
) -> list[Curve]:
    """Return a curve of each trained model, in the order of `models`; from several fits the one with the lowest value.

    The curve of the grown cell joins the fits that led to the cell, each up to its best epoch. Its steps and seconds
    include rejected fits.

    Args:
        metrics: lines of `metrics.jsonl`, each with its `model`.
        metric: the task's metric.
        models: names of the models in the scores.
        found: see `events`.
        stages: the summary's `stage_log`.
        searched: name in the scores of the model that the search found.
    """
    logged: dict[str, list[Line]] = {}
    for line in metrics:
        if line["split"] == "val" and line["metric"] == metric and line["value"] is not None and "part" in line:
            logged.setdefault(line["part"], []).append(line)
    path, grown, steps, seconds = {part for _, part, _ in _path(found, stages)}, list[Any](), 0.0, 0.0
    fitted: dict[str, list[Any]] = {}
    for part, lines in logged.items():
        after = [line for line in lines if line["epoch"]]
        points = [(line["step"], line["wall_s"], line["value"]) for line in after]
        if not points:
            continue
        plain = [number for number, line in enumerate(after) if _is_plain(line)]
        lowest = min(plain or range(len(points)), key=lambda i: points[i][2])
        if lines[0].get("stage"):
            if part in path:
                grown += [(steps + step, seconds + wall_s, value) for step, wall_s, value in points[: lowest + 1]]
            steps, seconds = steps + points[-1][0], seconds + points[-1][1]
        elif not NO_CURVE.search(part):
            fitted.setdefault(lines[0]["model"], []).append((points[lowest][2], points))
    fitted[searched] = [(0.0, grown)] if steps else fitted.get(searched, []) + fitted.get(SEARCH, [])
    best = {model: min(several, key=lambda one: one[0])[1] for model, several in fitted.items() if several}
    return [Curve(model, best[model]) for model in models if best.get(model)]


# --- predictions ---


def predictions(growth: Iterable[Line]) -> list[Prediction]:
    """Return the moves that have both a predicted and a measured change of the loss."""
    found = []
    for line in growth:
        predicted, measured = line.get("predicted_change"), line.get("measured_change")
        if predicted and measured is not None and math.isfinite(predicted) and math.isfinite(measured):
            part = {"train": "training", "val": "validation"}.get(str(line.get("change_on")), "")
            found.append(Prediction(str(line.get("kind")), predicted, measured, line.get("accepted"), part))
    return found


class Course(NamedTuple):
    """The lowest validation score of a search over time.

    Attributes:
        seconds: time at which each genotype was scored, since the start of the search.
        lowest: the lowest score up to that time.
        accepted: times at which a change was accepted, in seconds; empty if the strategy does not log them.
    """

    seconds: tuple[float, ...]
    lowest: tuple[float, ...]
    accepted: tuple[float, ...]


def course(summary: Mapping[str, Any]) -> Course | None:
    """Return the course of a run's search; None if the run did not log when it scored each genotype.

    Genotypes whose score is not finite, which is stored as None, are left out.
    """
    scored = [one for one in summary.get("genotypes", ()) if None not in (one.get("seconds"), one["val"])]
    if not scored:
        return None
    seconds = tuple(float(one["seconds"]) for one in scored)
    lowest = tuple(itertools.accumulate((float(one["val"]) for one in scored), min))
    accepted = tuple(float(one["seconds"]) for one in scored if one.get("accepted"))
    return Course(seconds, lowest, accepted)
