"""Growth: change the cell, train, accept or reject, until no change is accepted (Jie & Gao 2021).

`Growth` is one search; `Growth.units` shows its whole course. Every fit uses the problem's journal, which stores
finished fits: a resumed search runs again and reads them. A stage begins with a changed copy of the best candidate; a
rejected change is rolled back (the log still records it).

A DAG grows by nodes at its end only, and loses ops of its edges; `options.ON_A_DAG` lists what it does not offer. At
the end a cell is read out of it and fine-tuned.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from grownas.backbones.dag import DagBackbone
from grownas.criteria import threshold
from grownas.criteria.acceptance import Acceptance, Untrained
from grownas.criteria.early_stop import ACCEPT, logged
from grownas.errors import ConfigError
from grownas.protocols import Evaluation, Found, Model, Origin, Problem, SearchResult, Verdict
from grownas.space import SearchSpace
from grownas.strategies.cores import derived, supernet_of, with_noise
from grownas.strategies.growing.moves import MOVES, Context, Made, Proposal, repeat, resample
from grownas.strategies.growing.options import MODES, Options
from grownas.strategies.growing.pruning import log_prunings, prune_stage
from grownas.strategies.growing.state import (
    ON,
    ORIGIN,
    Candidate,
    Change,
    Stage,
    apply,
    declined,
    traced,
)
from grownas.strategies.supernet import closing
from grownas.training.loop import Fit
from grownas.training.moments import moments_of, of_derived
from grownas.training.recipe import Recipe, count_parameters, set_rates, split_parameters

NOTHING_FOUND = "no first stage was accepted: the start is kept"
SUPERNET = "grown_supernet"  # the grown DAG, before a cell was read out
RESTARTS_ENDED = "the last restart was not accepted"
Line = dict[str, Any]  # a line of a log


class Growing:
    """The strategy `growing` (see `grownas.protocols.Strategy`)."""

    section = Options
    backbones = ("chain", "dag")

    def __init__(self, options: Options) -> None:
        """Store the options.

        Raises:
            ConfigError: the thresholds of shares contradict each other.
        """
        self.options = options
        _ = options.thresholds  # raises

    def check_space(self, space: SearchSpace) -> None:
        """Check that growth can do in this space what its options ask for.

        Raises:
            ConfigError: it cannot.
        """
        if space.backbone == "dag":
            self.options.check_dag()

    def recipe(self) -> Recipe:
        """Return the recipe that all stages share."""
        return self.options.recipe

    def tuning_recipe(self) -> Recipe:
        """Return the recipe of the first stage."""
        return self.options.stage_recipe(1, 0.0)

    def with_rate(self, rate: float) -> Growing:
        """Return a copy of the strategy with another learning rate of the weights."""
        given = self.options.model_dump()  # not model_copy, which keeps the cached recipe
        return Growing(Options(**{**given, "weights": {**given["weights"], "rate": rate}}))

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Grow; yield the best result so far after each unit of work, then the result with the derived cell.

        Raises:
            ConfigError: see `check_space`.
        """
        self.check_space(problem.space)
        growth = Growth(problem, self.options)
        for _ in growth.units():
            result = growth.result()
            yield replace(result, model=copy.deepcopy(result.model))  # the search continues with its own model
        yield _closed(growth)

    def refit(self, problem: Problem, result: SearchResult) -> SearchResult:
        """Repeat the accepted stages without acceptance tests, each up to its best epoch."""

        def again(log: Sequence[Line]) -> tuple[Model, Model, int, float]:
            before = problem.journal.elapsed
            grown, steps = replay(problem, self.options, log)
            cell, more = _replay_closing(problem, self.options, grown, log)
            return cell, grown, steps + more, problem.journal.elapsed - before

        model, grown, steps, seconds = again(path_of(result.log))
        if result.is_start:
            model = derived(problem.start)
        first = result.others["first_stage"]
        first_model, _, _, first_seconds = again(first.log)
        others = {"first_stage": replace(first, model=first_model, seconds=first.seconds + first_seconds)}
        if SUPERNET in result.others:
            others[SUPERNET] = replace(result.others[SUPERNET], model=grown)
        steps, seconds = result.steps + steps, result.seconds + seconds
        return replace(result, model=model, steps=steps, seconds=seconds, others=others)


class Growth:
    """One search by growth: its state and its units of work.

    Attributes:
        stages: one log line per trained candidate.
        best: the stage of the best model so far.
        l2_sp: strength of the accepted first stage; None if no first stage was accepted.
        first: the first stage with the lowest validation loss, accepted or not.
        first_line: its log line before any pruning at the end.
        rejected: kinds and places of the moves rejected since the last accepted move.
        trained: one entry of `SearchResult.scores` per trained candidate.
        reason: why growth stopped; empty while it runs.
    """

    def __init__(self, problem: Problem, options: Options) -> None:
        """Evaluate the start.

        Raises:
            ConfigError: the start has more than `max_params` parameters.
        """
        _check_size(problem.start, options)
        self.problem, self.options, self.accept = problem, options, Acceptance.of(options)
        self.began, self.cpu_began = problem.journal.elapsed, problem.journal.cpu_seconds
        self.origin = Candidate.start(problem.start, problem.task.evaluate(problem.start, "val"))
        self.best, self.stages = Stage(self.origin), list[Line]()
        self.l2_sp: float | None = None
        self.first: Stage | None = None
        self.first_line: Line = {}
        self.rejected = list[Made]()  # since the last move that was accepted
        self.trained = list[Mapping[str, Any]]()
        self.reason = ""

    def units(self) -> Iterator[None]:
        """Do the units of work one by one: each trains a candidate, or finishes the best candidate."""
        limit = yield from self._train_first_stages()
        if self.l2_sp is None:
            self.reason = limit or NOTHING_FOUND
            return
        reasons = [limit or (yield from self._train_moves())]
        reasons += yield from self._train_restarts()
        yield from self._finish()
        self.reason = "; ".join(dict.fromkeys(reasons))

    def go_on(self, l2_sp: float, optimizers: list[torch.optim.Optimizer] | None) -> None:
        """Try moves on the start, which is a trained model here, and prune the result; no first stage is trained.

        Args:
            l2_sp: strength of the L2-SP penalty in all stages.
            optimizers: optimisers of the start; None for new ones.
        """
        self.l2_sp, self.best = l2_sp, Stage(self.origin._replace(optimizers=optimizers), number=1)

        def moves() -> Iterator[None]:
            self.reason = yield from self._train_moves()

        for _ in moves():
            pass
        if self.options.prune == "at_end":
            self.best = prune_stage(self.best, self._context(self.best.number))
            log_prunings(self.problem.journal, self.best, accepted=True)

    @property
    def _next_number(self) -> int:
        """Number of the next stage."""
        return int(self.stages[-1]["stage"] if self.stages else self.best.number) + 1

    def result(self) -> SearchResult:
        """Return the best result so far; the core of its model is the supernet."""
        core = supernet_of(self.best.model)
        return SearchResult(
            model=self.best.model,
            evaluation=self.best.candidate.evaluation,
            is_start=self.l2_sp is None,
            params=count_parameters(self.best.model),
            steps=self.steps,
            seconds=self.problem.journal.elapsed - self.began,
            settings=len(self.stages),
            reason=self.reason,
            scores=tuple(self.trained),
            log=tuple(self.stages),
            chosen={"l2_sp": self.l2_sp, "nodes": len(core.nodes), "hidden_size": core.hidden_size},
            speed=self.best.fits[0].speed if self.best.fits else None,
            capped=any(
                self.options.recipe.is_capped(line["epochs"], line["best_epoch"]) for line in path_of(self.stages)[-1:]
            ),
        )

    @property
    def steps(self) -> int:
        """Weight steps of all fits."""
        return sum(line["steps"] for line in self.stages)

    def _spent(self) -> str | None:
        """Return a message that names the limit reached; None if another fit may begin."""
        journal = self.problem.journal
        return self.problem.budget.spent(
            steps=self.steps,
            seconds=journal.elapsed - self.began,
            cpu_seconds=journal.cpu_seconds - self.cpu_began,
            genotypes=len(self.stages),
        )

    def _context(self, number: int, *, l2_sp: float | None = None, best: Stage | None = None) -> Context:
        best, l2_sp = best or self.best, self.l2_sp if l2_sp is None else l2_sp
        assert l2_sp is not None
        return Context(best.candidate, self.problem, self.options, l2_sp, number, best.number)

    def _log(self, stage: Stage, line: Line) -> None:
        self.stages.append(line)
        genotype, val = supernet_of(stage.model).genotype(top_k=None).to_dict(), stage.candidate.evaluation.metric
        self.trained.append(
            {
                "genotype": genotype,
                "val": val,
                "steps": line["steps"],
                "seconds": self.problem.journal.elapsed - self.began,
                "accepted": line["accepted"],
            }
        )

    def _train_first_stages(self) -> Generator[None, None, str | None]:
        """Train the start with each strength of L2-SP; return the limit reached, if any."""
        origins = self.problem.origins(self.options.origins - 1)
        start = Stage(self.origin)
        for l2_sp in self.options.l2_sp:
            if self.stages and (limit := self._spent()) is not None:
                return limit
            context = self._context(1, l2_sp=l2_sp, best=start)
            noisy = with_noise(self.problem.start, self.options.noise, l2_sp, seed=self.problem.seed)
            stage, verdict = _train_first(self.origin._replace(model=noisy), context, self.best, origins)
            self._log(stage, _stage_line(context, self.best, stage, verdict))
            log_prunings(self.problem.journal, stage, accepted=verdict.accepted)
            if verdict.accepted:
                self.best, self.l2_sp = stage, l2_sp
            if self.first is None or stage.candidate.loss < self.first.candidate.loss:
                self.first, self.first_line = stage, dict(self.stages[-1])
            yield
        return None

    def _train_moves(self) -> Generator[None, None, str]:
        """Try moves on the best candidate one by one; return why no further move is tried."""
        while (limit := self._spent()) is None:
            context = self._context(self._next_number)
            prepared = _choose(context, self.rejected)
            if isinstance(prepared, str):
                return prepared
            self._train_move(prepared, context)
            yield
        return limit

    def _train_move(self, prepared: Prepared, context: Context) -> bool:
        """Train a changed candidate, accept it or roll it back; return whether it is accepted."""
        stage, line = _attempt(prepared, context, self.best, self.accept)
        self._log(stage, line)
        if line["accepted"]:
            self.best, self.rejected = stage, []
        else:
            self.best = self.best._replace(candidate=_declined(self.best.candidate, prepared, stage))
            self.rejected.append(prepared.proposal.move)
        return bool(line["accepted"])

    def _train_restarts(self) -> Generator[None, None, list[str]]:
        """Redraw each node's smallest op and train, until a restart is rejected; return why the restarts ended."""
        for _ in range(self.options.restarts):
            context = self._context(self.stages[-1]["stage"] + 1)
            limit = self._spent()
            prepared = limit or _prepare(context, resample(context))
            if isinstance(prepared, str):
                return [limit or f"no further restart: {prepared}"]
            best = self.best
            if not self._train_move(prepared, context):
                self.best = best
                yield
                return [RESTARTS_ENDED]
            yield
        return [f"restarts = {self.options.restarts} made"] if self.options.restarts else []

    def _finish(self) -> Iterator[None]:
        """Continue a first stage that was cut short; prune the best candidate."""
        options, line = self.options, next(line for line in reversed(self.stages) if line["accepted"])
        if self.best.is_cut_short and self._spent() is None:
            context = self._context(self.best.number)
            assert self.l2_sp is not None
            self.best = _train_on(self.best, context, options.rest_recipe(self.l2_sp, _epochs(self.best.fits)))
            line.update(_training(self.best), **_outcome(self.best))
            self.first, self.first_line = self.best, dict(line)
            yield
        if options.prune == "at_end":
            self.best = prune_stage(self.best, self._context(line["stage"]))
            log_prunings(self.problem.journal, self.best, accepted=True)
            line.update(_outcome(self.best))
            yield


def path_of(log: Sequence[Line]) -> list[Line]:
    """Return the lines of the accepted stages in order; empty if the start was kept."""
    first = [line for line in log if line["stage"] == 1 and line["accepted"]]
    return first[-1:] + [line for line in log if line["stage"] > 1 and line["accepted"]]


class Closed(NamedTuple):
    """A derived cell after its fine-tuning, if it had one.

    Attributes:
        model: the task's model around the cell.
        evaluation: its evaluation on the validation part.
        fit: the fine-tuning.
        moments: state of the optimiser of the cell's weights, see `training.moments`.
    """

    model: Model
    evaluation: Evaluation
    fit: Fit | None = None
    moments: Mapping[str, Tensor] = MappingProxyType({})

    @property
    def seconds(self) -> float:
        """Seconds of the fine-tuning."""
        return 0.0 if self.fit is None else self.fit.seconds

    @property
    def steps(self) -> int:
        """Weight steps of the fine-tuning."""
        return 0 if self.fit is None else self.fit.steps


def _closed(growth: Growth) -> SearchResult:
    """Return the result with a derived cell.

    A chain becomes the cell that it computes; the cell is fine-tuned on all training data if alpha had its own part of
    the data. A cell read out of a DAG computes something else than the DAG: it is always fine-tuned, and the start is
    kept if the cell is no better than the start's. The DAG itself is a further model.
    """
    problem, path = growth.problem, path_of(growth.stages)
    assert growth.first is not None
    result, line, tried = growth.result(), growth.first_line, growth.first.candidate
    is_whole = path == [line]
    closed = _close(growth, growth.best.candidate, path[-1] if path else None, "closing")
    first = closed if is_whole else _close(growth, tried, line, "closing-first-stage")
    if is_whole:
        line.update(path[-1])
    lines = [line for line in growth.stages if line["stage"] == 1]
    others = {
        "first_stage": Found(
            model=first.model,
            seconds=sum(line["seconds"] for line in lines) + first.seconds,
            settings=len(lines),
            speed=growth.first.fits[0].speed,
            log=(line,),
        )
    }
    seconds = result.seconds  # of the growth alone
    result = replace(result, seconds=seconds + closed.seconds, steps=result.steps + closed.steps)
    result = replace(
        result, model=closed.model, evaluation=closed.evaluation, others=others, moments=dict(closed.moments)
    )
    if not isinstance(supernet_of(problem.start), DagBackbone):
        return result
    supernet = Found(
        model=copy.deepcopy(growth.best.model), seconds=seconds, settings=result.settings, speed=result.speed
    )
    begin = derived(problem.start)
    start = Untrained(begin, problem.task.evaluate(begin, "val"))
    is_start = result.is_start or not growth.accept(start, closed, problem.task).accepted
    model, evaluation = (start.model, start.evaluation) if is_start else (result.model, result.evaluation)
    return replace(
        result,
        model=model,
        evaluation=evaluation,
        is_start=is_start,
        params=count_parameters(model),
        others={**others, SUPERNET: supernet},
        moments={} if is_start else result.moments,
    )


def _close(growth: Growth, candidate: Candidate, line: Line | None, key: str) -> Closed:
    """Derive a cell, and fine-tune it where `_closed` says so; note the epochs of a DAG's cell in its stage's line."""
    problem, options, model = growth.problem, growth.options, derived(candidate.model)
    is_dag = isinstance(supernet_of(candidate.model), DagBackbone)
    if line is None:
        return Closed(model, problem.task.evaluate(model, "val") if is_dag else candidate.evaluation)
    if not is_dag and options.recipe.bilevel == "joint":
        moments = of_derived(moments_of(candidate.model, candidate.optimizers or []))
        return Closed(model, candidate.evaluation, moments=moments)
    recipe = closing(options.recipe, options.fine_tune_epochs) if is_dag else options.recipe
    recipe = replace(recipe, l2_sp=line["l2_sp"], bf16=problem.bf16)
    fit = problem.journal.fit(key, model, problem.task, recipe, seed=problem.seed)
    if is_dag:
        line["best_epoch_closed"] = fit.best_epoch
    return Closed(fit.model, fit.evaluation, fit, moments_of(fit.model, fit.optimizers))


def _replay_closing(problem: Problem, options: Options, grown: Model, path: Sequence[Line]) -> tuple[Model, int]:
    """Return the cell derived from a repeated growth, and the weight steps of its fine-tuning; a chain's has none."""
    model, line = derived(grown), path[-1] if path else {}
    if "best_epoch_closed" not in line:
        return model, 0
    recipe = closing(options.recipe, options.fine_tune_epochs).refit(line["best_epoch_closed"])
    recipe = replace(recipe, l2_sp=line["l2_sp"], bf16=problem.bf16)
    key = f"refit-closing-stage-{line['stage']}{'-pruned' if line['pruned'] else ''}"
    fit = problem.journal.fit(key, model, problem.task, recipe, seed=problem.seed)
    return fit.model, fit.steps


def replay(problem: Problem, options: Options, path: Sequence[Line]) -> tuple[Model, int]:
    """Repeat a growth on more data without acceptance tests, each stage up to its best epoch.

    Args:
        problem: the problem with a refitted start and a task with a longer training part.
        options: options of the growth.
        path: stages to repeat, see `path_of`.

    Returns:
        The model, and the weight steps of all its fits.
    """
    start, task, seed = problem.start, problem.task, problem.seed
    current = Candidate.start(start, task.evaluate(start, "val"))

    steps = 0

    def train(key: str, begin: Candidate, recipe: Recipe) -> Candidate:
        nonlocal steps
        recipe = replace(recipe, bf16=problem.bf16)
        fit = problem.journal.fit(key, begin.model, task, recipe, seed=seed, optimizers=begin.optimizers)
        steps += fit.steps
        return begin.trained(fit, options.thresholds)

    source = 0
    for line in path:
        stage, l2_sp = line["stage"], line["l2_sp"]
        context, source = Context(current, problem, options, l2_sp, stage, source), stage
        if stage > 1:
            key = f"refit-stage-{stage}"
            current, _ = _change(context, repeat(context, line["moves"]))
        else:
            key = f"refit-stage-1-l2_sp-{l2_sp:g}"
            current = current._replace(model=with_noise(start, options.noise, l2_sp, seed=seed))
        epochs = line["best_epoch"]
        recipe = context.recipe.refit(epochs) if stage > 1 else options.first_refit(l2_sp, epochs)
        current = train(key, current, recipe)
        for change in repeat(context, line["pruned"]):
            current, _ = apply(current, change, task, options, stage=stage, step=0)
        if line["pruned"]:
            current = train(f"{key}-pruned", current, context.tuning.refit(line["best_epoch_pruned"]))
    return current.model, steps


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


def _choose(context: Context, rejected: Sequence[Made]) -> Prepared | str:
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
        prepared = _prepare(context, proposal)
        if isinstance(prepared, Prepared):
            return prepared
        reason = prepared
    return reason


def _prepare(context: Context, proposal: Proposal) -> Prepared | str:
    """Return a changed copy of the best candidate; if that is impossible, a message that says why."""
    changes, kind = proposal.make(), MOVES[proposal.kind]
    if not changes:
        return f"no {kind.label} is possible"
    candidate, lines = _change(context, changes)
    count, most = count_parameters(candidate.model), context.options.max_params
    if most is not None and count > most:
        return f"with another {kind.adds} the model would have {count} parameters, max_params = {most}"
    if not math.isfinite(candidate.loss):
        return f"the validation loss with the {kind.label} is {candidate.loss:g} before training; lower strategy.noise"
    return Prepared(proposal, candidate, tuple(lines))


def _change(context: Context, changes: Sequence[Change]) -> tuple[Candidate, list[Line]]:
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


def _attempt(prepared: Prepared, context: Context, best: Stage, accept: Acceptance) -> tuple[Stage, Line]:
    """Train a changed candidate, accept or reject it, log its changes; return the stage and its line."""
    key = f"stage-{context.number}"
    stage = _train(key, prepared.candidate, context, context.recipe)._replace(trials=prepared.trials)
    verdict = accept(best.candidate, stage.candidate, context.task)
    trained = _trained(context.best, stage.fits[0], key, trial=prepared.trial)
    for line in prepared.lines:
        context.journal.log_morphism({**line, **trained, "accepted": verdict.accepted, "judge": logged(verdict)})
    log_prunings(context.journal, stage, accepted=verdict.accepted)
    return stage, _stage_line(context, best, stage, verdict, prepared.lines)


def _train(key: str, begin: Candidate, context: Context, recipe: Recipe) -> Stage:
    """Train a stage; prune it if every stage is pruned."""
    fit, options = context.fit(key, begin, recipe), context.options
    short = context.number == 1 and fit.epochs == recipe.epochs < options.recipe.epochs
    stage = Stage(begin.trained(fit, options.thresholds), (fit,), number=context.number, part=key, is_cut_short=short)
    return stage if short else _pruned(stage, context)


def _pruned(stage: Stage, context: Context) -> Stage:
    return prune_stage(stage, context) if context.options.prune == "each_stage" else stage


def _train_first(begin: Candidate, context: Context, best: Stage, origins: Sequence[Origin]) -> tuple[Stage, Verdict]:
    """Train a first stage, a few epochs at a time, until it is accepted or stops improving; test it at all origins."""
    options, accept = context.options, Acceptance.of(context.options)
    stage = _train(f"stage-1-l2_sp-{context.l2_sp:g}", begin, context, context.recipe)
    verdict = accept(best.candidate, stage.candidate, context.task)
    while not verdict.accepted and stage.is_cut_short:
        rest = options.rest_recipe(context.l2_sp, _epochs(stage.fits))
        stage = _train_on(stage, context, rest.first(min(context.recipe.epochs, rest.epochs)))
        verdict = accept(best.candidate, stage.candidate, context.task)
    return _test_at_origins(stage, context, origins) if verdict.accepted and origins else (stage, verdict)


def _train_on(stage: Stage, context: Context, recipe: Recipe) -> Stage:
    """Continue a first stage that was cut short. It is cut short again if it used all epochs and improved."""
    fit = context.fit(f"{stage.part}{ON}{len(stage.fits)}", stage.candidate, recipe)
    candidate, fits = stage.candidate.trained(fit, context.options.thresholds), (*stage.fits, fit)
    short = fit.best_epoch > 0 and fit.epochs == recipe.epochs and _epochs(fits) < context.options.recipe.epochs
    stage = stage._replace(candidate=candidate, fits=fits, is_cut_short=short)
    return stage if short else _pruned(stage, context)


def _epochs(fits: Iterable[Fit]) -> int:
    return sum(fit.epochs for fit in fits)


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


def _declined(candidate: Candidate, prepared: Prepared, stage: Stage) -> Candidate:
    """Return the candidate before a rejected stage, with the failed proposals of its shares declined.

    These are the rejected duplication and the undone prunings.
    """
    kind, places = prepared.proposal.move
    copied = [(node, op) for node, op in places if kind == "duplicate_op" and op is not None]
    before = traced(candidate.watched, prepared.lines)
    pruned = [place for node, op in stage.undone if (place := before[node][op]) is not None]
    return declined(declined(candidate, copied, threshold.HIGH), pruned, threshold.LOW)


def _check_size(start: Model, options: Options) -> None:
    """Raise ConfigError for a start with more than `max_params` parameters: it cannot grow."""
    count = count_parameters(start)
    if options.max_params is not None and count > options.max_params:
        raise ConfigError(
            f"the start has {count} parameters, above max_params = {options.max_params}, so it cannot grow; raise "
            "max_params or make the start smaller"
        )


def _no_gain(kind: str, moves: int) -> str:
    """Return the message that `outer_patience` has run out for a kind of move."""
    what = MOVES[kind].label
    if moves == 1:
        return f"the last {what} was not accepted"
    return f"the last {moves} {what}s were not accepted (outer_patience = {moves})"


def _stage_line(context: Context, best: Stage, stage: Stage, verdict: Verdict, changes: Sequence[Line] = ()) -> Line:
    return {
        "stage": context.number,
        "moves": _moves(changes),
        "l2_sp": context.l2_sp,
        "loss_before": best.candidate.loss,
        "accepted": verdict.accepted,
        "judge": logged(verdict),
        **_training(stage),
        "part": stage.part,
        **_outcome(stage),
    }


def _training(stage: Stage) -> Line:
    """Return the entries of a stage's line about its fits, without those after prunings."""
    return {
        "fits": len(stage.fits),
        "epochs": _epochs(stage.fits),
        "best_epoch": sum(fit.best_epoch for fit in stage.fits),
        "stopped": stage.fits[-1].reason,
    }


def _outcome(stage: Stage) -> Line:
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
