"""One stage of growth: choose a change, train the changed candidate, accept or reject it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from grownas.criteria import threshold
from grownas.criteria.acceptance import Acceptance
from grownas.criteria.early_stop import ACCEPT, logged
from grownas.protocols import Origin, Verdict
from grownas.strategies.cores import supernet_of, with_noise
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.moves import MOVES, Made, Proposal
from grownas.strategies.growing.options import MODES
from grownas.strategies.growing.pruning import log_prunings, prune_stage
from grownas.strategies.growing.state import ON, ORIGIN, Candidate, Change, Stage, apply, declined, traced
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe, count_parameters, set_rates, split_parameters

Line = dict[str, Any]  # a line of a log


class Prepared(NamedTuple):
    """A changed candidate before training.

    Attributes:
        proposal: the move.
        candidate: the candidate after the move.
        lines: lines of the growth log, one per change.
        trials: fits by which the move was chosen.
        trial: key of the move's own trial; None if there were no trials.
    """

    proposal: Proposal
    candidate: Candidate
    lines: tuple[Line, ...]
    trials: tuple[Fit, ...] = ()
    trial: str | None = None


def choose(context: Context, rejected: Sequence[Made]) -> Prepared | str:
    """Return the best move that the mode allows; if there is none, a message that says why.

    If several kinds are possible, the best move of each kind is trained for a few epochs. The move with the largest
    gain in validation loss per added parameter is chosen. A random choice takes any kind.
    """
    kinds = MODES[context.options.mode]
    random = context.options.choice == "random"
    prepared, reasons = list[Prepared](), list[str]()
    for kind in context.shuffled("kinds", kinds) if random else kinds:
        one = _first_left(context, kind, rejected)
        if isinstance(one, str):
            reasons.append(one)
        else:
            prepared.append(one)
            if random:
                break
    if not prepared:
        return "; ".join(dict.fromkeys(reasons))
    return prepared[0] if len(prepared) == 1 else _try(context, prepared)


def _first_left(context: Context, kind: str, rejected: Sequence[Made]) -> Prepared | str:
    """Return the best possible move of a kind that was not rejected yet; if there is none, a message that says why.

    A node may be tried again at the same place after all other places, since each stage draws new noise.
    """
    times = sum(move[0] == kind for move in rejected)
    if times >= context.options.outer_patience:
        return _no_gain(kind, times)
    propose = MOVES[kind].propose
    assert propose is not None, f"MODES allows {kind}, but no stage can begin with it"
    proposals, reason = propose(context)
    for proposal in sorted(proposals, key=lambda proposal: proposal.move in rejected):
        if proposal.move in rejected and kind != "add_node":
            reason = f"every possible {MOVES[kind].label} was rejected"
            continue
        prepared = prepare(context, proposal)
        if isinstance(prepared, Prepared):
            return prepared
        reason = prepared
    return reason


def prepare(context: Context, proposal: Proposal) -> Prepared | str:
    """Return a changed copy of the best candidate; if that is impossible, a message that says why."""
    changes, kind = proposal.make(), MOVES[proposal.kind]
    if not changes:
        return f"no {kind.label} is possible"
    candidate, lines = apply_all(context, changes)
    count, most = count_parameters(candidate.model), context.options.max_params
    if most is not None and count > most:
        return f"with another {kind.adds} the model would have {count} parameters, max_params = {most}"
    if not math.isfinite(candidate.loss):
        return f"the validation loss with the {kind.label} is {candidate.loss:g} before training; lower strategy.noise"
    return Prepared(proposal, candidate, tuple(lines))


def apply_all(context: Context, changes: Sequence[Change]) -> tuple[Candidate, list[Line]]:
    """Apply changes one by one; set the learning rates of all weights."""
    candidate, lines = context.best, []
    for change in changes:
        candidate, line = apply(candidate, change, context.task, context.options, stage=context.number, step=0)
        lines.append(line)
    assert candidate.optimizers is not None
    weights, _ = split_parameters(candidate.model)
    nodes = supernet_of(candidate.model).nodes
    new = {p for change in changes if change.op is None for p in nodes[change.node].parameters()}
    rate, options = context.options.recipe.weights.rate, context.options
    rates = [([w for w in weights if w not in new], rate * (options.old_rate if new else 1.0))]
    if new:
        rates.append(([w for w in weights if w in new], rate * options.new_rate))
    set_rates(candidate.optimizers[0], rates)
    return candidate, lines


def _try(context: Context, prepared: Sequence[Prepared]) -> Prepared:
    """Train each move for a few epochs; return the one with the largest gain per parameter, log the others."""
    before, fits, gains = context.best, list[Fit](), list[float]()
    keys = [f"stage-{context.number}-try-{one.proposal.kind}" for one in prepared]
    for key, one in zip(keys, prepared, strict=True):
        fit = context.fit(key, one.candidate, context.recipe.first(context.options.trial_epochs))
        added = count_parameters(one.candidate.model) - count_parameters(before.model)
        fits.append(fit)
        gains.append((before.loss - fit.loss) / added)
    winner = max(range(len(prepared)), key=gains.__getitem__)
    for number, (key, one, fit, gain) in enumerate(zip(keys, prepared, fits, gains, strict=True)):
        judge = {"rule": "gain per parameter in a trial", "figure": gain, "threshold": gains[winner]}
        for line in one.lines if number != winner else ():
            trained = _trained(before, fit, key, trial=key)
            context.journal.log_morphism({**line, **trained, "accepted": False, "judge": judge})
    return prepared[winner]._replace(trials=tuple(fits), trial=keys[winner])


def _trained(before: Candidate, fit: Fit, key: str, *, trial: str | None) -> Line:
    """Return the entries of a change's log line about the fit after it."""
    return {
        "part": key,
        "trial": trial,
        "loss_before": before.loss,
        "loss_after": fit.loss,
        "cell_after": supernet_of(fit.model).genotype(top_k=None).to_dict(),
        "wall_s": round(fit.seconds, 3),
    }


def attempt(prepared: Prepared, context: Context, best: Stage, accept: Acceptance) -> tuple[Stage, Line]:
    """Train a changed candidate, accept or reject it, log its changes; return the stage and its line."""
    key = f"stage-{context.number}"
    stage = _train(key, prepared.candidate, context, context.recipe)._replace(trials=prepared.trials)
    verdict = accept(best.candidate, stage.candidate, context.task)
    trained = _trained(context.best, stage.fits[0], key, trial=prepared.trial)
    for line in prepared.lines:
        context.journal.log_morphism({**line, **trained, "accepted": verdict.accepted, "judge": logged(verdict)})
    log_prunings(context.journal, stage, accepted=verdict.accepted)
    return stage, stage_line(context, best, stage, verdict, prepared.lines)


def _train(key: str, begin: Candidate, context: Context, recipe: Recipe) -> Stage:
    """Train a stage; prune it if every stage is pruned."""
    fit, options = context.fit(key, begin, recipe), context.options
    short = context.number == 1 and fit.epochs == recipe.epochs < options.recipe.epochs
    stage = Stage(begin.trained(fit, options.thresholds), (fit,), number=context.number, part=key, is_cut_short=short)
    return stage if short else _pruned(stage, context)


def _pruned(stage: Stage, context: Context) -> Stage:
    return prune_stage(stage, context) if context.options.prune == "each_stage" else stage


def train_first(begin: Candidate, context: Context, best: Stage, origins: Sequence[Origin]) -> tuple[Stage, Verdict]:
    """Train a first stage, a few epochs at a time, until it is accepted or stops improving; test it at all origins."""
    options, accept = context.options, Acceptance.of(context.options)
    stage = _train(f"stage-1-l2_sp-{context.l2_sp:g}", begin, context, context.recipe)
    verdict = accept(best.candidate, stage.candidate, context.task)
    while not verdict.accepted and stage.is_cut_short:
        rest = options.rest_recipe(context.l2_sp, stage.epochs)
        stage = train_on(stage, context, rest.first(min(context.recipe.epochs, rest.epochs)))
        verdict = accept(best.candidate, stage.candidate, context.task)
    return _test_at_origins(stage, context, origins) if verdict.accepted and origins else (stage, verdict)


def train_on(stage: Stage, context: Context, recipe: Recipe) -> Stage:
    """Continue a first stage that was cut short. It is cut short again if it used all epochs and improved."""
    fit = context.fit(f"{stage.part}{ON}{len(stage.fits)}", stage.candidate, recipe)
    candidate = stage.candidate.trained(fit, context.options.thresholds)
    stage = stage._replace(candidate=candidate, fits=(*stage.fits, fit), is_cut_short=False)
    if fit.best_epoch > 0 and fit.epochs == recipe.epochs and stage.epochs < context.options.recipe.epochs:
        return stage._replace(is_cut_short=True)
    return _pruned(stage, context)


def _test_at_origins(stage: Stage, context: Context, origins: Sequence[Origin]) -> tuple[Stage, Verdict]:
    """Accept or reject a first stage by the pooled losses at all origins. The fits at the origins become its trials.

    They have a fixed number of epochs, the best number here: otherwise the test blocks would choose the epoch.
    """
    options, pairs, fits = context.options, [(context.best, stage.candidate)], list[Fit]()
    recipe = options.first_refit(context.l2_sp, sum(fit.best_epoch for fit in stage.fits))
    for number, (start, task) in enumerate(origins, 1):
        begin = Candidate.start(start, task.evaluate(start, "val"))
        ready = begin._replace(model=with_noise(start, options.noise, context.l2_sp, seed=context.seed))
        there = replace(context, problem=replace(context.problem, task=task))
        fits.append(there.fit(f"{stage.part}{ORIGIN}{number}", ready, recipe))
        pairs.insert(0, (begin, begin.trained(fits[-1], options.thresholds)))  # in time order
    before, after = (np.concatenate([one.evaluation.losses for one in ones]) for ones in zip(*pairs, strict=True))
    pooled = ACCEPT[options.accept](before, after, threshold=options.threshold)
    rule = f"{pooled.rule} at {len(pairs)} origins"
    return stage._replace(trials=(*stage.trials, *fits)), pooled._replace(rule=rule)


def with_declined(candidate: Candidate, prepared: Prepared, stage: Stage) -> Candidate:
    """Return the candidate before a rejected stage, with the failed proposals of its shares declined.

    These are the rejected duplication and the undone prunings.
    """
    kind, places = prepared.proposal.move
    copied = [(node, op) for node, op in places if kind == "duplicate_op" and op is not None]
    before = traced(candidate.watched, prepared.lines)
    pruned = [place for node, op in stage.undone if (place := before[node][op]) is not None]
    return declined(declined(candidate, copied, threshold.HIGH), pruned, threshold.LOW)


def _no_gain(kind: str, moves: int) -> str:
    """Return the message that `outer_patience` has run out for a kind of move."""
    what = MOVES[kind].label
    if moves == 1:
        return f"the last {what} was not accepted"
    return f"the last {moves} {what}s were not accepted (outer_patience = {moves})"


def stage_line(context: Context, best: Stage, stage: Stage, verdict: Verdict, changes: Sequence[Line] = ()) -> Line:
    """Return the line of a stage in `summary.json`; `changes` are the growth log's lines of its move."""
    return {
        "stage": context.number,
        "moves": _moves(changes),
        "l2_sp": context.l2_sp,
        "loss_before": best.candidate.loss,
        "accepted": verdict.accepted,
        "judge": logged(verdict),
        **training_of(stage),
        "part": stage.part,
        **outcome_of(stage),
    }


def training_of(stage: Stage) -> Line:
    """Return the entries of a stage's line about its fits, without those after prunings."""
    return {
        "fits": len(stage.fits),
        "epochs": stage.epochs,
        "best_epoch": sum(fit.best_epoch for fit in stage.fits),
        "stopped": stage.fits[-1].reason,
    }


def outcome_of(stage: Stage) -> Line:
    """Return the entries of a stage's line about its result, its prunings that were not undone, and their tuning."""
    core, kept = supernet_of(stage.model), [line for line in stage.prunings if line["accepted"] is None]
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


def _moves(lines: Sequence[Line]) -> list[Line]:
    """Return the entries of log lines that `repeat` needs."""
    keys = ("kind", "node", "op", "draw", "split_step", "new_op")
    return [{key: line[key] for key in keys if key in line} for line in lines]
