"""Growth: change the cell, train, accept or reject, until no change is accepted (Jie & Gao 2021).

`Growth` is one search; `Growth.units` shows its whole course. Every fit uses the problem's journal, which stores
finished fits: a resumed search runs again and reads them. A stage begins with a changed copy of the best candidate; a
rejected change is rolled back (the log still records it).

A DAG grows by nodes at its end only, and loses ops of its edges; `options.ON_A_DAG` lists what it does not offer. At
the end a cell is read out of it and fine-tuned.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.backbones.dag import DagBackbone
from grownas.criteria.acceptance import Acceptance, Untrained
from grownas.errors import ConfigError
from grownas.protocols import Evaluation, Found, Model, Problem, SearchResult
from grownas.space import SearchSpace
from grownas.strategies.cores import derived, supernet_of, with_noise
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.moves import Made, repeat, resample
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.pruning import log_prunings, prune_stage
from grownas.strategies.growing.stages import (
    Line,
    Prepared,
    apply_all,
    attempt,
    choose,
    outcome_of,
    prepare,
    stage_line,
    train_first,
    train_on,
    training_of,
    with_declined,
)
from grownas.strategies.growing.state import Candidate, Stage, apply
from grownas.strategies.supernet import closing
from grownas.training.loop import Fit
from grownas.training.moments import moments_of, of_derived
from grownas.training.recipe import Recipe, count_parameters

NOTHING_FOUND = "no first stage was accepted: the start is kept"
SUPERNET = "grown_supernet"  # the grown DAG, before a cell was read out
RESTARTS_ENDED = "the last restart was not accepted"


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
        return self._with(weights={**self.options.weights.model_dump(), "rate": rate})

    def from_random(self, rate: float) -> Growing:
        """Return a copy for a start with random weights, with another learning rate of the weights.

        Its first stage trains until patience runs out, and is not tested at earlier origins: any training improves
        random weights.
        """
        return self.with_rate(rate)._with(first_epochs=None, origins=1)

    def _with(self, **options: Any) -> Growing:
        return Growing(Options(**{**self.options.model_dump(), **options}))  # model_copy would keep the cached recipe

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
        began = problem.journal.elapsed
        model, grown, steps = self.repeated(problem, path_of(result.log))
        seconds = result.seconds + problem.journal.elapsed - began
        if result.is_start:
            model = derived(problem.start)
        first, began = result.others["first_stage"], problem.journal.elapsed
        first_model, _, _ = self.repeated(problem, first.log)
        others = {
            "first_stage": replace(first, model=first_model, seconds=first.seconds + problem.journal.elapsed - began)
        }
        if SUPERNET in result.others:
            others[SUPERNET] = replace(result.others[SUPERNET], model=grown)
        return replace(result, model=model, steps=result.steps + steps, seconds=seconds, others=others)

    def repeated(self, problem: Problem, path: Sequence[Line]) -> tuple[Model, Model, int]:
        """Repeat stages of a log, see `replay`; return the cell, the supernet and the weight steps."""
        grown, steps = replay(problem, self.options, path)
        cell, more = _replay_closing(problem, self.options, grown, path)
        return cell, grown, steps + more


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
            stage, verdict = train_first(self.origin._replace(model=noisy), context, self.best, origins)
            self._log(stage, stage_line(context, self.best, stage, verdict))
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
            prepared = choose(context, self.rejected)
            if isinstance(prepared, str):
                return prepared
            self._train_move(prepared, context)
            yield
        return limit

    def _train_move(self, prepared: Prepared, context: Context) -> bool:
        """Train a changed candidate, accept it or roll it back; return whether it is accepted."""
        stage, line = attempt(prepared, context, self.best, self.accept)
        self._log(stage, line)
        if line["accepted"]:
            self.best, self.rejected = stage, []
        else:
            self.best = self.best._replace(candidate=with_declined(self.best.candidate, prepared, stage))
            self.rejected.append(prepared.proposal.move)
        return bool(line["accepted"])

    def _train_restarts(self) -> Generator[None, None, list[str]]:
        """Redraw each node's smallest op and train, until a restart is rejected; return why the restarts ended."""
        for _ in range(self.options.restarts):
            context = self._context(self.stages[-1]["stage"] + 1)
            limit = self._spent()
            prepared = limit or prepare(context, resample(context))
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
            self.best = train_on(self.best, context, options.rest_recipe(self.l2_sp, self.best.epochs))
            line.update(training_of(self.best), **outcome_of(self.best))
            self.first, self.first_line = self.best, dict(line)
            yield
        if options.prune == "at_end":
            self.best = prune_stage(self.best, self._context(line["stage"]))
            log_prunings(self.problem.journal, self.best, accepted=True)
            line.update(outcome_of(self.best))
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
            current, _ = apply_all(context, repeat(context, line["moves"]))
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


def _check_size(start: Model, options: Options) -> None:
    """Raise ConfigError for a start with more than `max_params` parameters: it cannot grow."""
    count = count_parameters(start)
    if options.max_params is not None and count > options.max_params:
        raise ConfigError(
            f"the start has {count} parameters, above max_params = {options.max_params}, so it cannot grow; raise "
            "max_params or make the start smaller"
        )
