"""Growth: train, judge, change the cell, until the data say stop (Jie & Gao 2021, algorithms 2 to 4; ALGORITHMS 3, 4).

The whole search is the one function `grow`, read from top to bottom. It holds no state between calls: every fit goes
through a `Journal`, which remembers finished ones, so that resuming a search is running it again. A stage begins with a
changed copy of the best candidate, so that a move that is rejected leaves nothing behind but its lines in the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from grownas import morphisms
from grownas.criteria import threshold
from grownas.criteria.early_stop import JUDGES, Verdict
from grownas.errors import ConfigError
from grownas.protocols import Evaluation, Task
from grownas.strategies.growing.moves import KINDS, MODES, Move, Proposal, Scene, noise_for, repeat, resample
from grownas.strategies.growing.pruning import log_prunings, prune_stage
from grownas.strategies.growing.state import (
    ON,
    ORIGIN,
    Candidate,
    Change,
    Growth,
    Journal,
    Origin,
    Stage,
    apply,
    declined,
    on_cpu,
    traced,
    with_core,
)
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe, count_parameters, set_rates, split_parameters

GUARD = "training loss"  # the rule that refuses what is better on the validation part alone
NOTHING_FOUND = "the start is kept, nothing found"
RESTARTS_ENDED = "the last restart was not accepted"
WORDS = {"add_node": "added node", "duplicate_op": "duplicated op", "split_op": "split op", "replace_op": "redrawn op"}


@dataclass(frozen=True)
class Grown:
    """What a search found.

    Attributes:
        model: the best model of all stages; its core is a `Backbone`.
        evaluation: its, on the validation part.
        first_stage: the trained first stage with the lowest validation loss, accepted or not.
        stages: one line for each candidate that was judged.
        pull: the one accepted last; None if nothing was accepted.
        seconds: of all fits.
        reason: why growth stopped, in words.
        first_line: the line of `first_stage`, as it was before any pruning at the end.
        speed: of the training that the model came out of, see `Fit`; None if nothing was accepted.
        first_speed: of the first stage's.
    """

    model: Any
    evaluation: Evaluation
    first_stage: Any
    stages: list[dict[str, Any]]
    pull: float | None
    seconds: float
    reason: str
    first_line: dict[str, Any]
    speed: float | None
    first_speed: float | None

    @property
    def steps(self) -> int:
        """Weight steps of all fits."""
        return sum(line["steps"] for line in self.stages)

    def path(self) -> list[dict[str, Any]]:
        """Return the lines of the stages that led to the model, in order; empty if the start was kept."""
        first = [line for line in self.stages if line["stage"] == 1 and line["accepted"]]
        return first[-1:] + [line for line in self.stages if line["stage"] > 1 and line["accepted"]]


def grow(
    start: Any, task: Task, journal: Journal, options: Growth, *, seed: int, origins: Sequence[Origin] = ()
) -> Grown:
    """Grow a model from a start until the judge, or a limit, says stop.

    Args:
        start: a task's model around a `Backbone`; the first candidate.
        task: data, loss and score; only its training and validation parts are read.
        journal: does and remembers the fits.
        options: what governs growth.
        seed: fixes noise, random choices and data order.
        origins: earlier points in time at which the first stage is judged, see `Growth.origins`.

    Raises:
        ConfigError: the start has more than `max_params` parameters.
    """
    _check_size(start, options)
    began, stages, firsts = journal.elapsed, list[dict[str, Any]](), list[Stage]()
    origin = Candidate.start(start, task.evaluate(start, "val"))
    best = Stage(origin)
    pull = reason = None
    for candidate_pull in options.pulls:
        if firsts and (reason := _out_of_time(options, journal.elapsed - began)) is not None:
            break
        scene = Scene(origin, task, journal, options, candidate_pull, seed, number=1, source=0)
        begin = origin._replace(model=stirred(start, options.noise, candidate_pull, seed=seed))
        stage, verdict = _train_first(begin, scene, best, origins)
        firsts.append(stage)
        stages.append(_stage_line(scene, best, stage, verdict))
        log_prunings(journal, stage, accepted=verdict.accepted)
        if verdict.accepted:
            best, pull = stage, candidate_pull
    first, first_line = min(zip(firsts, stages, strict=True), key=lambda one: one[0].candidate.loss)
    first_line = dict(first_line)
    if pull is None:
        seconds, reason = journal.elapsed - began, reason or NOTHING_FOUND
        return Grown(
            start, origin.evaluation, first.model, stages, None, seconds, reason, first_line, None, first.fits[0].speed
        )

    number, rejected = 1, list[Move]()  # since the last that was accepted
    while (reason := reason or _out_of_time(options, journal.elapsed - began)) is None:
        scene = Scene(best.candidate, task, journal, options, pull, seed, number + 1, best.number)
        begun = _choose(scene, rejected)
        if isinstance(begun, str):
            reason = begun
            break
        number += 1
        stage, line = _attempt(begun, scene, best)
        stages.append(line)
        if line["accepted"]:
            best, rejected = stage, []
        else:
            best = best._replace(candidate=_declined(best.candidate, begun, stage))
            rejected.append(begun.proposal.move)
    reasons = [reason]
    for _ in range(options.restarts):
        scene = Scene(best.candidate, task, journal, options, pull, seed, number + 1, best.number)
        late = _out_of_time(options, journal.elapsed - began)
        begun = late or _begin(scene, resample(scene))
        if isinstance(begun, str):
            reasons.append(late or f"no further restart: {begun}")
            break
        number += 1
        stage, line = _attempt(begun, scene, best)
        stages.append(line)
        if not line["accepted"]:
            reasons.append(RESTARTS_ENDED)
            break
        best = stage
    else:
        reasons += [f"restarts = {options.restarts} made"] if options.restarts else []
    if best.is_cut_short and _out_of_time(options, journal.elapsed - began) is None:
        scene = Scene(best.candidate, task, journal, options, pull, seed, best.number, best.number)
        line = next(line for line in reversed(stages) if line["accepted"])
        best = _train_on(best, scene, options.rest_recipe(pull, _epochs(best.fits)))
        line.update(_training(best), **_outcome(best))
        first, first_line = best, dict(line)
    if options.prune == "at_end":
        line = next(line for line in reversed(stages) if line["accepted"])
        scene = Scene(best.candidate, task, journal, options, pull, seed, line["stage"], best.number)
        best = prune_stage(best, scene)
        log_prunings(journal, best, accepted=True)
        line.update(_outcome(best))
    seconds, reason = journal.elapsed - began, "; ".join(dict.fromkeys(reasons))
    speeds = best.fits[0].speed, first.fits[0].speed
    return Grown(best.model, best.candidate.evaluation, first.model, stages, pull, seconds, reason, first_line, *speeds)


def replay(start: Any, task: Task, journal: Journal, options: Growth, path: list[dict[str, Any]], *, seed: int) -> Any:
    """Repeat a growth without judging, each stage for as many epochs as its best took: for refitting on more data.

    Args:
        start: where the growth begins, refitted itself.
        task: its training part is what the stages are trained on.
        journal: does and remembers the fits.
        options: those of the growth.
        path: stages to repeat, see `Grown.path`.
        seed: of the growth.
    """
    current = Candidate.start(start, task.evaluate(start, "val"))

    def train(key: str, begin: Candidate, recipe: Recipe) -> Candidate:
        fit = journal.fit(key, begin.model, task, recipe, seed=seed, optimizers=begin.optimizers)
        return begin.trained(fit, options.thresholds)

    source = 0
    for line in path:
        stage, pull = line["stage"], line["pull"]
        scene, source = Scene(current, task, journal, options, pull, seed, stage, source), stage
        if stage > 1:
            key = f"refit-stage-{stage}"
            current, _ = _change(scene, repeat(scene, line["moves"]))
        else:
            key = f"refit-stage-1-pull-{pull:g}"
            current = current._replace(model=stirred(start, options.noise, pull, seed=seed))
        epochs = line["best_epoch"]
        recipe = scene.recipe.refit(epochs) if stage > 1 else options.first_refit(pull, epochs)
        current = train(key, current, recipe)
        for change in repeat(scene, line["pruned"]):
            current, _ = apply(current, change, task, options, stage=stage, step=0)
        if line["pruned"]:
            current = train(f"{key}-pruned", current, scene.tuning.refit(line["best_epoch_pruned"]))
    return current.model


class Judged(Protocol):
    """A model and its evaluation on the validation part: a `Candidate`, a `Fit`."""

    @property
    def model(self) -> Any:
        """The model."""
        ...

    @property
    def evaluation(self) -> Evaluation:
        """Its evaluation on the validation part."""
        ...


class Evaluated(NamedTuple):
    """A model that was not trained, and its evaluation on the validation part."""

    model: Any
    evaluation: Evaluation


class Begun(NamedTuple):
    """What a stage begins with.

    Attributes:
        proposal: the move.
        candidate: after it, before training.
        lines: of the growth log, one a change.
        trials: fits by which it was chosen.
        trial: key of its own among those; None if it was not tried.
    """

    proposal: Proposal
    candidate: Candidate
    lines: tuple[dict[str, Any], ...]
    trials: tuple[Fit, ...] = ()
    trial: str | None = None


def _choose(scene: Scene, rejected: Sequence[Move]) -> Begun | str:
    """Return the best move of those that the mode allows; in words, why there is none.

    Where several kinds are possible, the first of each is trained for a few epochs, and the one with the largest gain
    in validation loss for each parameter that it adds is chosen; a random choice takes any kind.
    """
    kinds = MODES[scene.options.mode]
    random = scene.options.choice == "random"
    begun, reasons = list[Begun](), list[str]()
    for kind in scene.shuffled("kinds", kinds) if random else kinds:
        one = _first_left(scene, kind, rejected)
        if isinstance(one, str):
            reasons.append(one)
        else:
            begun.append(one)
            if random:
                break
    if not begun:
        return "; ".join(dict.fromkeys(reasons))
    return begun[0] if len(begun) == 1 else _try(scene, begun)


def _first_left(scene: Scene, kind: str, rejected: Sequence[Move]) -> Begun | str:
    """Return the best move of a kind that is possible and was not rejected yet; in words, why there is none.

    A node's noise is drawn anew for each stage, so that a place may be tried again when all others were.
    """
    times = sum(move[0] == kind for move in rejected)
    if times >= scene.options.outer_patience:
        return _no_gain(kind, times)
    offer = KINDS[kind](scene)
    reason = offer.reason
    for proposal in sorted(offer.proposals, key=lambda proposal: proposal.move in rejected):
        if proposal.move in rejected and kind != "add_node":
            reason = f"every {WORDS[kind]} that is possible was rejected"
            continue
        begun = _begin(scene, proposal)
        if isinstance(begun, Begun):
            return begun
        reason = begun
    return reason


def _begin(scene: Scene, proposal: Proposal) -> Begun | str:
    """Change a copy of the best candidate; in words, why that is not possible."""
    changes = proposal.make()
    if not changes:
        return f"no {WORDS[proposal.kind]} is possible"
    candidate, lines = _change(scene, changes)
    count, most = count_parameters(candidate.model), scene.options.max_params
    if most is not None and count > most:
        what = "node" if proposal.kind == "add_node" else "op"
        return f"another {what} would make {count} parameters, max_params = {most}"
    if not math.isfinite(candidate.loss):
        return f"the {WORDS[proposal.kind]} made a validation loss of {candidate.loss:g} at once; lower strategy.noise"
    return Begun(proposal, candidate, tuple(lines))


def _change(scene: Scene, changes: Sequence[Change]) -> tuple[Candidate, list[dict[str, Any]]]:
    """Do changes one after the other; give all weights their rates."""
    candidate, lines = scene.best, []
    for change in changes:
        candidate, line = apply(candidate, change, scene.task, scene.options, stage=scene.number, step=0)
        lines.append(line)
    assert candidate.optimizers is not None
    weights, _ = split_parameters(candidate.model)
    nodes = candidate.model.core.nodes
    new = {p for change in changes if change.op is None for p in nodes[change.node].parameters()}
    rate, options = scene.options.recipe.weights.rate, scene.options
    rates = [([w for w in weights if w not in new], rate * (options.old_rate if new else 1.0))]
    if new:
        rates.append(([w for w in weights if w in new], rate * options.new_rate))
    set_rates(candidate.optimizers[0], rates)
    return candidate, lines


def _try(scene: Scene, begun: Sequence[Begun]) -> Begun:
    """Train each for a few epochs; log the others and return the one with the largest gain a parameter."""
    before, fits, gains = scene.best, list[Fit](), list[float]()
    keys = [f"stage-{scene.number}-try-{one.proposal.kind}" for one in begun]
    for key, one in zip(keys, begun, strict=True):
        fit = scene.fit(key, one.candidate, scene.recipe.first(scene.options.trial_epochs))
        added = count_parameters(one.candidate.model) - count_parameters(before.model)
        fits.append(fit)
        gains.append((before.loss - fit.loss) / added)
    winner = max(range(len(begun)), key=gains.__getitem__)
    for number, (key, one, fit, gain) in enumerate(zip(keys, begun, fits, gains, strict=True)):
        judge = {"rule": "gain per parameter in a trial", "figure": gain, "threshold": gains[winner]}
        for line in one.lines if number != winner else ():
            trained = _trained(before, fit, key, trial=key)
            scene.journal.grew({**line, **trained, "accepted": False, "judge": judge})
    return begun[winner]._replace(trials=tuple(fits), trial=keys[winner])


def _trained(before: Candidate, fit: Fit, key: str, *, trial: str | None) -> dict[str, Any]:
    """Return what a change's line says of the training after it."""
    return {
        "part": key,
        "trial": trial,
        "loss_before": before.loss,
        "loss_after": fit.loss,
        "cell_after": fit.model.core.genotype(top_k=None).to_dict(),
        "wall_s": round(fit.seconds, 3),
    }


def _attempt(begun: Begun, scene: Scene, best: Stage) -> tuple[Stage, dict[str, Any]]:
    """Train and judge what a stage begins with; log its moves; return the stage and its line."""
    key = f"stage-{scene.number}"
    stage = _train(key, begun.candidate, scene, scene.recipe)._replace(trials=begun.trials)
    verdict = judge(best.candidate, stage.candidate, scene.task, scene.options)
    trained = _trained(scene.best, stage.fits[0], key, trial=begun.trial)
    for line in begun.lines:
        scene.journal.grew({**line, **trained, "accepted": verdict.accepted, "judge": verdict.line()})
    log_prunings(scene.journal, stage, accepted=verdict.accepted)
    return stage, _stage_line(scene, best, stage, verdict, begun.lines)


def _train(key: str, begin: Candidate, scene: Scene, recipe: Recipe) -> Stage:
    """Train a stage; prune it if that is done in each."""
    fit, options = scene.fit(key, begin, recipe), scene.options
    short = scene.number == 1 and fit.epochs == recipe.epochs < options.recipe.epochs
    stage = Stage(begin.trained(fit, options.thresholds), (fit,), number=scene.number, part=key, is_cut_short=short)
    return stage if short else _pruned(stage, scene)


def _pruned(stage: Stage, scene: Scene) -> Stage:
    return prune_stage(stage, scene) if scene.options.prune == "each_stage" else stage


def _train_first(begin: Candidate, scene: Scene, best: Stage, origins: Sequence[Origin]) -> tuple[Stage, Verdict]:
    """Train a first stage until it is accepted or learns no more, a few epochs at a time; judge it at all origins."""
    options = scene.options
    stage = _train(f"stage-1-pull-{scene.pull:g}", begin, scene, scene.recipe)
    verdict = judge(best.candidate, stage.candidate, scene.task, options)
    while not verdict.accepted and stage.is_cut_short:
        rest = options.rest_recipe(scene.pull, _epochs(stage.fits))
        stage = _train_on(stage, scene, rest.first(min(scene.recipe.epochs, rest.epochs)))
        verdict = judge(best.candidate, stage.candidate, scene.task, options)
    return _judge_at_origins(stage, scene, origins) if verdict.accepted and origins else (stage, verdict)


def _train_on(stage: Stage, scene: Scene, recipe: Recipe) -> Stage:
    """Train a first stage that was cut short on; it is cut short again if it ended with the recipe and still learns."""
    fit = scene.fit(f"{stage.part}{ON}{len(stage.fits)}", stage.candidate, recipe)
    candidate, fits = stage.candidate.trained(fit, scene.options.thresholds), (*stage.fits, fit)
    short = fit.best_epoch > 0 and fit.epochs == recipe.epochs and _epochs(fits) < scene.options.recipe.epochs
    stage = stage._replace(candidate=candidate, fits=fits, is_cut_short=short)
    return stage if short else _pruned(stage, scene)


def _epochs(fits: Iterable[Fit]) -> int:
    return sum(fit.epochs for fit in fits)


def judge(best: Judged, candidate: Judged, task: Task, options: Growth) -> Verdict:
    """Judge a model by its validation losses, then by its training loss where there is a guard.

    Args:
        best: the best model so far.
        candidate: what may take its place.
        task: data and loss.
        options: `judge`, `threshold` and `guard` of these count.
    """
    losses = best.evaluation.losses, candidate.evaluation.losses
    verdict = JUDGES[options.judge](*losses, threshold=options.threshold)
    if not (verdict.accepted and options.guard):
        return verdict
    before, after = (float(task.evaluate(one.model, "train").losses.mean()) for one in (best, candidate))
    return verdict if after <= before else Verdict(False, before - after, GUARD, 0.0)


def _judge_at_origins(stage: Stage, scene: Scene, origins: Sequence[Origin]) -> tuple[Stage, Verdict]:
    """Judge a first stage by the losses at all origins together. The fits that this takes are its trials.

    It is trained there for as many epochs as were best here, so that those blocks do not choose what they judge.
    """
    options, pairs, fits = scene.options, [(scene.best, stage.candidate)], list[Fit]()
    recipe = options.first_refit(scene.pull, sum(fit.best_epoch for fit in stage.fits))
    for number, (start, task) in enumerate(origins, 1):
        begin = Candidate.start(start, task.evaluate(start, "val"))
        ready = begin._replace(model=stirred(start, options.noise, scene.pull, seed=scene.seed))
        fits.append(replace(scene, task=task).fit(f"{stage.part}{ORIGIN}{number}", ready, recipe))
        pairs.insert(0, (begin, begin.trained(fits[-1], options.thresholds)))  # in the order of time
    before, after = (np.concatenate([one.evaluation.losses for one in ones]) for ones in zip(*pairs, strict=True))
    pooled = JUDGES[options.judge](before, after, threshold=options.threshold)
    rule = f"{pooled.rule} at {len(pairs)} origins"
    return stage._replace(trials=(*stage.trials, *fits)), pooled._replace(rule=rule)


def _declined(candidate: Candidate, begun: Begun, stage: Stage) -> Candidate:
    """Return the candidate that a rejected stage began with, in which what its shares proposed in vain is declined.

    That is the duplicate that was rejected, and prunings that were undone.
    """
    kind, places = begun.proposal.move
    copied = [(node, op) for node, op in places if kind == "duplicate_op" and op is not None]
    before = traced(candidate.watched, begun.lines)
    pruned = [place for node, op in stage.undone if (place := before[node][op]) is not None]
    return declined(declined(candidate, copied, threshold.HIGH), pruned, threshold.LOW)


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


def stirred(start: Any, noise: float, pull: float, *, seed: int) -> Any:
    """Return a copy of a start that is ready to be trained with a pull: its silent ops are given some noise."""
    sd = noise_for(noise, pull, start.core.hidden_size)
    return with_core(start, morphisms.stir(on_cpu(start.core), sd, torch.Generator().manual_seed(seed)))


def _no_gain(kind: str, moves: int) -> str:
    """Return in words that `outer_patience` has run out for a kind of move."""
    what = WORDS[kind]
    if moves == 1:
        return f"the last {what} was not accepted"
    return f"no gain by the last {moves} {what}s (outer_patience = {moves})"


def _stage_line(
    scene: Scene, best: Stage, stage: Stage, verdict: Verdict, changes: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    return {
        "stage": scene.number,
        "moves": _moves(changes),
        "pull": scene.pull,
        "loss_before": best.candidate.loss,
        "accepted": verdict.accepted,
        "judge": verdict.line(),
        **_training(stage),
        "part": stage.part,
        **_outcome(stage),
    }


def _training(stage: Stage) -> dict[str, Any]:
    """Return what a stage's line says of its training, but for that after a pruning."""
    return {
        "fits": len(stage.fits),
        "epochs": _epochs(stage.fits),
        "best_epoch": sum(fit.best_epoch for fit in stage.fits),
        "stopped": stage.fits[-1].reason,
    }


def _outcome(stage: Stage) -> dict[str, Any]:
    """Return what a stage's line says of what came out: with the prunings that were not undone, and their tuning."""
    core, kept = stage.model.core, [line for line in stage.prunings if line["accepted"] is None]
    return {
        "nodes": len(core.nodes),
        "ops": sum(len(alpha) for alpha in core.alpha),
        "loss_after": stage.candidate.loss,
        "steps": stage.steps,
        "seconds": round(stage.seconds, 3),
        "params": count_parameters(stage.model),
        "pruned": _moves(kept),
        "best_epoch_pruned": stage.tunings[-1].best_epoch if kept else None,
        "part_pruned": kept[-1]["part"] if kept else None,
    }


def _moves(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is needed to repeat changes."""
    keys = ("kind", "node", "op", "draw", "split_step", "new_op")
    return [{key: line[key] for key in keys if key in line} for line in lines]
