"""Growth: train, judge, append a node, until the data say stop (Jie & Gao 2021, algorithms 2 and 3; ALGORITHMS 3).

The whole search is the one function `grow`, read from top to bottom. It holds no state between calls: every fit goes
through a `Journal`, which remembers finished ones, so that resuming a search is running it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from grownas import morphisms
from grownas.backbone import Backbone
from grownas.criteria.early_stop import JUDGES, Verdict
from grownas.errors import ConfigError
from grownas.migrate import migrate
from grownas.protocols import Task
from grownas.recipe import Recipe, count_parameters, make_optimizers, set_rates, split_parameters
from grownas.strategies.pruning import log_prunings, prune_stage
from grownas.strategies.stage import Candidate, Growth, Journal, Stage, move_line, output_drift, with_core

NOTHING_FOUND = "the start is kept, nothing found"


@dataclass(frozen=True)
class Grown:
    """What a search found.

    Attributes:
        model: the best model of all stages; its core is a `Backbone`.
        first_stage: the trained first stage with the lowest validation loss, accepted or not.
        stages: one line for each candidate that was judged.
        pull: the one accepted last; None if nothing was accepted.
        seconds: of all fits.
        steps: weight steps of all fits.
        reason: why growth stopped, in words.
    """

    model: Any
    first_stage: Any
    stages: list[dict[str, Any]]
    pull: float | None
    seconds: float
    steps: int
    reason: str

    def path(self) -> list[dict[str, Any]]:
        """Return the lines of the stages that led to the model, in order; empty if the start was kept."""
        accepted = [number for number, line in enumerate(self.stages) if line["accepted"]]
        if not accepted:
            return []
        first = max(number for number in accepted if self.stages[number]["stage"] == 1)
        later = [line for line in self.stages[: accepted[-1] + 1] if line["stage"] > 1]
        return [self.stages[first], *later]

    def first_path(self) -> list[dict[str, Any]]:
        """Return the line of the first stage in `first_stage`."""
        return [min((line for line in self.stages if line["stage"] == 1), key=lambda line: float(line["loss_after"]))]


def grow(start: Any, task: Task, journal: Journal, options: Growth, *, seed: int) -> Grown:
    """Grow a model from a start until the judge, or a limit, says stop.

    Args:
        start: a task's model around a `Backbone`; the first candidate.
        task: data, loss and score; only its training and validation parts are read.
        journal: does and remembers the fits.
        options: what governs growth.
        seed: fixes noise and data order.

    Raises:
        ConfigError: the start has more than `max_params` parameters.
    """
    _check_size(start, options)
    began = journal.elapsed
    origin = Candidate(start, None, task.evaluate(start, "val"))
    best = Stage(origin)
    stages: list[dict[str, Any]] = []
    tried: list[Stage] = []
    pull = reason = None
    for candidate_pull in options.pulls:
        if tried and (reason := _out_of_time(options, journal.elapsed - began)) is not None:
            break
        recipe = replace(options.recipe, pull=candidate_pull)
        key = f"stage-1-pull-{candidate_pull:g}"
        begin = origin._replace(model=stirred(start, options.noise, candidate_pull, seed=seed))
        stage = _train(key, begin, task, journal, options, recipe, seed=seed)
        tried.append(stage)
        verdict = _judge(best, stage, options)
        stages.append(_stage_line(1, candidate_pull, best, stage, verdict))
        log_prunings(journal, stage, accepted=verdict.accepted)
        if verdict.accepted:
            best, pull = stage, candidate_pull
    first = min(tried, key=lambda stage: stage.candidate.loss).model
    if pull is None:
        steps = sum(stage.steps for stage in tried)
        return Grown(start, first, stages, None, journal.elapsed - began, steps, reason or NOTHING_FOUND)

    current, waited, number = best, 0, 1
    recipe = replace(options.recipe, pull=pull)
    while (reason := reason or _limit(current.model, options, journal.elapsed - began)) is None:
        number += 1
        grown, position, drift = _append(current.candidate, task, options, pull, seed=seed + 1000 * number)
        stage = _train(f"stage-{number}", grown, task, journal, options, recipe, seed=seed, number=number)
        tried.append(stage)
        verdict = _judge(best, stage, options)
        stages.append(_stage_line(number, pull, best, stage, verdict))
        journal.grew(_growth_line(number, position, current, grown, stage, drift, verdict))
        log_prunings(journal, stage, accepted=verdict.accepted)
        current = stage
        if verdict.accepted:
            best, waited = stage, 0
        else:
            waited += 1
            if waited >= options.outer_patience:
                reason = _no_gain(waited)
                break
    steps = sum(stage.steps for stage in tried)
    if options.prune == "at_end":
        before, best = best.steps, prune_stage(best, task, journal, options, recipe, seed=seed, number=number)
        log_prunings(journal, best, accepted=True)
        steps += best.steps - before
    return Grown(best.model, first, stages, pull, journal.elapsed - began, steps, reason)


def replay(start: Any, task: Task, journal: Journal, options: Growth, path: list[dict[str, Any]], *, seed: int) -> Any:
    """Repeat a growth without judging, each stage for as many epochs as its best took: for refitting on more data.

    Args:
        start: where the growth begins, refitted itself.
        task: its training part is what the stages are trained on.
        journal: does and remembers the fits.
        options: those of the growth; without pruning.
        path: stages to repeat, see `Grown.path`.
        seed: of the growth.
    """
    current = Candidate(start, None, task.evaluate(start, "val"))
    for line in path:
        stage = line["stage"]
        recipe = replace(options.recipe, pull=line["pull"], patience=None, epochs=max(1, line["best_epoch"]))
        key = f"refit-stage-{stage}" if stage > 1 else f"refit-stage-1-pull-{line['pull']:g}"
        if stage > 1:
            current, *_ = _append(current, task, options, line["pull"], seed=seed + 1000 * stage)
        else:
            current = current._replace(model=stirred(start, options.noise, line["pull"], seed=seed))
        fit = journal.fit(key, current.model, task, recipe, seed=seed, optimizers=current.optimizers)
        current = Candidate(fit.model, fit.optimizers, fit.evaluation)
    return current.model


def _train(
    key: str,
    begin: Candidate,
    task: Task,
    journal: Journal,
    options: Growth,
    recipe: Recipe,
    *,
    seed: int,
    number: int = 1,
) -> Stage:
    """Train a stage; prune it if that is done in each."""
    fit = journal.fit(key, begin.model, task, recipe, seed=seed, optimizers=begin.optimizers, stage=number)
    stage = Stage(Candidate(fit.model, fit.optimizers, fit.evaluation), (fit,))
    if options.prune == "each_stage":
        return prune_stage(stage, task, journal, options, recipe, seed=seed, number=number)
    return stage


def _judge(best: Stage, stage: Stage, options: Growth) -> Verdict:
    losses = best.candidate.evaluation.losses, stage.candidate.evaluation.losses
    return JUDGES[options.judge](*losses, threshold=options.threshold)


def _limit(model: Any, options: Growth, seconds: float) -> str | None:
    """Return the limit that forbids another node, in words; None if there is none."""
    if len(model.core.nodes) >= options.max_nodes:
        return f"max_nodes = {options.max_nodes} reached"
    if (late := _out_of_time(options, seconds)) is not None:
        return late
    if options.max_params is not None:
        larger = count_parameters(with_core(model, _grow_core(model.core, options, pull=0.0, seed=0).backbone))
        if larger > options.max_params:
            return f"another node would make {larger} parameters, max_params = {options.max_params}"
    return None


def _out_of_time(options: Growth, seconds: float) -> str | None:
    """Return in words that no fit may begin any more; None if one may."""
    if options.max_seconds is not None and seconds >= options.max_seconds:
        return f"max_seconds = {options.max_seconds:g} reached"
    return None


def _check_size(start: Any, options: Growth) -> None:
    """Refuse a start that is too large already: nothing that grows from it could be small enough."""
    count = count_parameters(start)
    if options.max_params is not None and count > options.max_params:
        raise ConfigError(
            f"the start has {count} parameters, above max_params = {options.max_params}, so nothing can be grown "
            "from it; raise max_params or make the start smaller"
        )


def _position(core: Backbone, options: Growth) -> int:
    """Return the number that the next node will have."""
    return {"first": 0, "middle": len(core.nodes) // 2, "last": len(core.nodes)}[options.position]


def _noise(noise: float, pull: float, hidden_size: int) -> float:
    scaled = noise / math.sqrt(hidden_size)
    return min(scaled, 1 / pull) if pull else scaled


def stirred(start: Any, noise: float, pull: float, *, seed: int) -> Any:
    """Return a copy of a start that is ready to be trained with a pull: its silent ops are given some noise."""
    core = morphisms.stir(start.core, _noise(noise, pull, start.core.hidden_size), torch.Generator().manual_seed(seed))
    return with_core(start, core)


def _grow_core(core: Backbone, options: Growth, *, pull: float, seed: int) -> morphisms.Morphed:
    return morphisms.add_node(
        core,
        position=_position(core, options),
        carrier_share=options.carrier_share,
        noise=_noise(options.noise, pull, core.hidden_size),
        generator=torch.Generator().manual_seed(seed),
    )


def _no_gain(nodes: int) -> str:
    """Return in words that `outer_patience` has run out."""
    if nodes == 1:
        return "the last added node was not accepted"
    return f"no gain by the last {nodes} added nodes (outer_patience = {nodes})"


def _append(current: Candidate, task: Task, options: Growth, pull: float, *, seed: int) -> tuple[Candidate, int, float]:
    """Add a node to a copy; return it with migrated optimisers, the node's number and the drift of the output."""
    position = _position(current.model.core, options)
    morphed = _grow_core(current.model.core, options, pull=pull, seed=seed)
    model = with_core(current.model, morphed.backbone)
    old = current.optimizers or make_optimizers(current.model, options.recipe)
    optimizers = [migrate(o, morphed.origins, current.model, model, prefix="core.") for o in old]
    weights, _ = split_parameters(model)
    new = set(morphed.backbone.nodes[position].parameters())
    rate = options.recipe.weights.rate
    rates = [
        ([w for w in weights if w not in new], rate * options.old_rate),
        ([w for w in weights if w in new], rate * options.new_rate),
    ]
    set_rates(optimizers[0], rates)
    return Candidate(model, optimizers, current.evaluation), position, output_drift(current.model, model, task)


def _growth_line(
    number: int, position: int, before: Stage, grown: Candidate, stage: Stage, drift: float, verdict: Verdict
) -> dict[str, Any]:
    """Return the line of an appended node; prunings that came after it have lines of their own."""
    fit = stage.fits[0]
    return {
        **move_line("add_node", number, fit.steps, position, None, drift, predicted_change=0.0),
        "loss_before": before.candidate.loss,
        "loss_after": fit.loss,
        "params_before": count_parameters(before.model),
        "params_after": count_parameters(grown.model),
        "accepted": verdict.accepted,
        "judge": verdict.line(),
        "wall_s": round(fit.seconds, 3),
    }


def _stage_line(number: int, pull: float, best: Stage, stage: Stage, verdict: Verdict) -> dict[str, Any]:
    fit = stage.fits[0]
    return {
        "stage": number,
        "nodes": len(stage.model.core.nodes),
        "pull": pull,
        "loss_before": best.candidate.loss,
        "loss_after": stage.candidate.loss,
        "accepted": verdict.accepted,
        "judge": verdict.line(),
        "epochs": fit.epochs,
        "best_epoch": fit.best_epoch,
        "steps": stage.steps,
        "seconds": round(sum(fit.seconds for fit in stage.fits), 3),
        "params": count_parameters(stage.model),
        "stopped": fit.reason,
    }
