"""Growth: train, judge, append a node, until the data say stop (Jie & Gao 2021, algorithms 2 and 3; ALGORITHMS 3).

The whole search is the one function `grow`, read from top to bottom. It holds no state between calls: every fit goes
through a `Journal`, which remembers finished ones, so that resuming a search is running it again.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch

from grownas import morphisms
from grownas.backbone import Backbone
from grownas.criteria.early_stop import JUDGES, Verdict
from grownas.migrate import migrate
from grownas.protocols import Evaluation, Task
from grownas.train import Fit, Recipe, count_parameters, make_optimizers

NOTHING_FOUND = "the start is kept, nothing found"


class Journal(Protocol):
    """Does fits, remembers them, and takes the growth log's lines."""

    elapsed: float  # seconds of all fits so far

    def fit(
        self,
        key: str,
        model: Any,
        task: Task,
        recipe: Recipe,
        *,
        seed: int,
        optimizers: list[torch.optim.Optimizer] | None = None,
        stage: int = 0,
    ) -> Fit:
        """Train, or give back the fit that was finished under this key."""
        ...

    def grew(self, line: Mapping[str, Any]) -> None:
        """Take one line of the growth log."""
        ...


@dataclass(frozen=True)
class Growth:
    """What governs growth.

    Attributes:
        recipe: how each stage is trained; its `pull` is replaced by those of `pulls`.
        pulls: candidates for the first stage, tried in order from the same start.
        judge: `significant` or `better`, a name of `JUDGES`.
        threshold: least t of `significant`.
        outer_patience: stages in a row without an accepted one before growth ends.
        max_nodes, max_params, max_seconds: limits; None for none.
        carrier_share, position: of the appended node, see `morphisms.add_node`; position is `first`, `middle` or
            `last`.
        noise: standard deviation of what is added to a stage's new parameters (at the start, all but the carriers'),
            in units of 1 / sqrt(H), the bound of drawn weights; but at most 1 / pull, the farthest that a pull lets a
            parameter go.
        prune: `none`, `each_stage` or `at_end`; ops below `prune_threshold` go, and all but the `top_k` largest.
        fine_tune_epochs: most epochs after a pruning.
    """

    recipe: Recipe
    pulls: tuple[float, ...] = (100.0, 0.0)
    judge: str = "significant"
    threshold: float = 1.645
    outer_patience: int = 1
    max_nodes: int = 3
    max_params: int | None = None
    max_seconds: float | None = None
    carrier_share: float = 0.5
    noise: float = 0.4
    position: str = "last"
    prune: str = "none"
    prune_threshold: float = 0.05
    top_k: int | None = None
    fine_tune_epochs: int = 50


class Candidate(NamedTuple):
    """A model with its optimisers and its evaluation on the validation part."""

    model: Any
    optimizers: list[torch.optim.Optimizer] | None
    evaluation: Evaluation

    @property
    def loss(self) -> float:
        """Mean validation loss."""
        return float(self.evaluation.losses.mean())


class Stage(NamedTuple):
    """What came out of a stage.

    Attributes:
        candidate: the model to judge.
        fits: the training, and the fine-tuning if ops were pruned; none for the start.
        prunings: growth lines of the pruned ops; `accepted` waits for the judge.
    """

    candidate: Candidate
    fits: tuple[Fit, ...] = ()
    prunings: tuple[dict[str, Any], ...] = ()

    @property
    def model(self) -> Any:
        """The model to judge."""
        return self.candidate.model

    @property
    def steps(self) -> int:
        """Weight steps of all its fits."""
        return sum(fit.steps for fit in self.fits)


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
    """
    began = journal.elapsed
    origin = Candidate(start, None, task.evaluate(start, "val"))
    best = Stage(origin)
    stages: list[dict[str, Any]] = []
    tried: list[Stage] = []
    pull = None
    for candidate_pull in options.pulls:
        recipe = replace(options.recipe, pull=candidate_pull)
        key = f"stage-1-pull-{candidate_pull:g}"
        begin = origin._replace(model=stirred(start, options.noise, candidate_pull, seed=seed))
        stage = _train(key, begin, task, journal, options, recipe, seed=seed)
        tried.append(stage)
        verdict = _judge(best, stage, options)
        stages.append(_stage_line(1, candidate_pull, best, stage, verdict))
        _log_prunings(journal, stage, accepted=verdict.accepted)
        if verdict.accepted:
            best, pull = stage, candidate_pull
    first = min(tried, key=lambda stage: stage.candidate.loss).model
    if pull is None:
        steps = sum(stage.steps for stage in tried)
        return Grown(start, first, stages, None, journal.elapsed - began, steps, NOTHING_FOUND)

    current, waited, number = best, 0, 1
    recipe = replace(options.recipe, pull=pull)
    while (reason := _limit(current.model, options, journal.elapsed - began)) is None:
        number += 1
        grown, position, drift = _append(current.candidate, task, options, pull, seed=seed + 1000 * number)
        stage = _train(f"stage-{number}", grown, task, journal, options, recipe, seed=seed, number=number)
        tried.append(stage)
        verdict = _judge(best, stage, options)
        stages.append(_stage_line(number, pull, best, stage, verdict))
        journal.grew(_growth_line(number, position, current, grown, stage, drift, verdict))
        _log_prunings(journal, stage, accepted=verdict.accepted)
        current = stage
        if verdict.accepted:
            best, waited = stage, 0
        else:
            waited += 1
            if waited >= options.outer_patience:
                reason = f"{waited} stage(s) in a row were not accepted (outer_patience)"
                break
    steps = sum(stage.steps for stage in tried)
    if options.prune == "at_end":
        before, best = best.steps, _prune(best, task, journal, options, recipe, seed=seed, number=number)
        _log_prunings(journal, best, accepted=True)
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
        return _prune(stage, task, journal, options, recipe, seed=seed, number=number)
    return stage


def _judge(best: Stage, stage: Stage, options: Growth) -> Verdict:
    losses = best.candidate.evaluation.losses, stage.candidate.evaluation.losses
    return JUDGES[options.judge](*losses, threshold=options.threshold)


def _limit(model: Any, options: Growth, seconds: float) -> str | None:
    """Return the limit that forbids another node, in words; None if there is none."""
    if len(model.core.nodes) >= options.max_nodes:
        return f"max_nodes = {options.max_nodes} reached"
    if options.max_seconds is not None and seconds >= options.max_seconds:
        return f"max_seconds = {options.max_seconds:g} reached"
    if options.max_params is not None:
        larger = count_parameters(with_core(model, _grow_core(model.core, options, pull=0.0, seed=0).backbone))
        if larger > options.max_params:
            return f"another node would make {larger} parameters, max_params = {options.max_params}"
    return None


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


def _append(current: Candidate, task: Task, options: Growth, pull: float, *, seed: int) -> tuple[Candidate, int, float]:
    """Add a node to a copy; return it with migrated optimisers, the node's number and the drift of the output."""
    morphed = _grow_core(current.model.core, options, pull=pull, seed=seed)
    model = with_core(current.model, morphed.backbone)
    old = current.optimizers or make_optimizers(current.model, options.recipe)
    optimizers = [migrate(o, morphed.origins, current.model, model, prefix="core.") for o in old]
    drift = output_drift(current.model, model, task)
    return Candidate(model, optimizers, current.evaluation), _position(current.model.core, options), drift


def _prune(
    stage: Stage, task: Task, journal: Journal, options: Growth, recipe: Recipe, *, seed: int, number: int
) -> Stage:
    """Remove small ops one by one, then fine-tune; return the same stage if there are none."""
    model, optimizers = stage.model, stage.candidate.optimizers or make_optimizers(stage.model, recipe)
    loss, lines = stage.candidate.loss, []
    while (target := _prunable(model.core, options)) is not None:
        began = time.perf_counter()
        node, op, judge = target
        name = "/".join(model.core.op_names(node)[op])
        morphed = morphisms.prune_op(model.core, node, op)
        pruned = with_core(model, morphed.backbone)
        optimizers = [migrate(o, morphed.origins, model, pruned, prefix="core.") for o in optimizers]
        after = float(task.evaluate(pruned, "val").losses.mean())
        lines.append(
            {
                **_move("prune_op", number, stage.steps, node, name, output_drift(model, pruned, task)),
                "loss_before": loss,
                "loss_after": after,
                "params_before": count_parameters(model),
                "params_after": count_parameters(pruned),
                "accepted": None,
                "judge": judge,
                "wall_s": round(time.perf_counter() - began, 3),
            }
        )
        model, loss = pruned, after
    if not lines:
        return stage
    key = f"stage-{number}-pull-{recipe.pull:g}-pruned-{options.prune}"
    short = replace(recipe, epochs=options.fine_tune_epochs)
    fit = journal.fit(key, model, task, short, seed=seed, optimizers=optimizers, stage=number)
    return Stage(Candidate(fit.model, fit.optimizers, fit.evaluation), (*stage.fits, fit), tuple(lines))


def _prunable(core: Backbone, options: Growth) -> tuple[int, int, dict[str, Any]] | None:
    """Return node, number and judge of the op to remove next: a node's smallest, if below threshold or beyond top k."""
    for node, alpha in enumerate(core.alpha):
        shares = torch.softmax(alpha.detach(), 0)
        op = int(shares.argmin())
        judge = {"figure": float(shares[op])}
        if len(shares) > 1 and judge["figure"] < options.prune_threshold:
            return node, op, {"rule": "share", **judge, "threshold": options.prune_threshold}
        if options.top_k is not None and len(shares) > options.top_k:
            return node, op, {"rule": "top_k", **judge, "threshold": options.top_k}
    return None


def _log_prunings(journal: Journal, stage: Stage, *, accepted: bool) -> None:
    """Log a stage's prunings; they are accepted if the stage is."""
    for line in stage.prunings:
        journal.grew({**line, "accepted": accepted})


def with_core(model: Any, core: Any) -> Any:
    """Return a copy of a model around another core."""
    kept, model.core = model.core, None
    try:
        new = copy.deepcopy(model)
    finally:
        model.core = kept
    new.core = core
    return new


@torch.no_grad()
def output_drift(before: Any, after: Any, task: Task) -> float:
    """Return the largest change of the output on the first training window, from a zero state."""
    x = next(iter(task.windows("train", seed=0))).x
    return float((after.eval()(x)[0] - before.eval()(x)[0]).abs().max())


def _move(kind: str, stage: int, step: int, node: int, op: str | None, drift: float) -> dict[str, Any]:
    move = {"stage": stage, "step": step, "kind": kind, "node": node, "op": op, "drift": drift}
    return {**move, "predicted_change": 0.0}


def _growth_line(
    number: int, position: int, before: Stage, grown: Candidate, stage: Stage, drift: float, verdict: Verdict
) -> dict[str, Any]:
    """Return the line of an appended node; prunings that came after it have lines of their own."""
    fit = stage.fits[0]
    return {
        **_move("add_node", number, fit.steps, position, None, drift),
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
