"""Growth: train, judge, append a node, until the data say stop (Jie & Gao 2021, algorithms 2 and 3; ALGORITHMS 3).

The whole search is the one function `grow`, read from top to bottom. It holds no state between calls: every fit goes
through a `Journal`, which remembers finished ones, so that resuming a search is running it again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
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
        carrier_share, noise, position: of the appended node, see `morphisms.add_node`; position is `first`,
            `middle` or `last`.
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
    noise: float = 0.01
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


@dataclass(frozen=True)
class Grown:
    """What a search found.

    Attributes:
        model: the best model of all stages; its core is a `Backbone`.
        first_stage: the trained first stage with the lowest validation loss, accepted or not.
        stages: one line for each candidate that was judged.
        pull: the one accepted last; None if nothing was accepted.
        epochs: of the best model's last fit.
        seconds: of all fits.
        steps: weight steps of all fits.
        reason: why growth stopped, in words.
    """

    model: Any
    first_stage: Any
    stages: list[dict[str, Any]]
    pull: float | None
    epochs: int
    seconds: float
    steps: int
    reason: str


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
    best = Candidate(start, None, task.evaluate(start, "val"))
    stages: list[dict[str, Any]] = []
    pull, epochs, steps, first = None, 0, 0, None
    for candidate_pull in options.pulls:
        recipe = replace(options.recipe, pull=candidate_pull)
        fit = journal.fit(f"stage-1-pull-{candidate_pull:g}", start, task, recipe, seed=seed, stage=1)
        candidate, steps = Candidate(fit.model, fit.optimizers, fit.evaluation), steps + fit.steps
        if options.prune == "each_stage":
            candidate, pruned = _prune(candidate, task, journal, options, recipe, seed=seed, stage=1)
            steps += pruned
        if first is None or candidate.loss < first.loss:
            first = candidate
        verdict = _judge(best, candidate, options)
        stages.append(_stage_line(1, candidate_pull, best, candidate, verdict, fit))
        if verdict.accepted:
            best, pull, epochs = candidate, candidate_pull, fit.epochs
    if pull is None:
        return Grown(start, first.model, stages, None, 0, journal.elapsed - began, steps, NOTHING_FOUND)

    current, waited, stage = best, 0, 1
    recipe = replace(options.recipe, pull=pull)
    while (reason := _limit(current, options, journal.elapsed - began)) is None:
        stage += 1
        grown, drift = _append(current, task, options, seed=seed + 1000 * stage)
        fit = journal.fit(f"stage-{stage}", grown.model, task, recipe, seed=seed, optimizers=grown.optimizers, stage=stage)
        candidate, steps = Candidate(fit.model, fit.optimizers, fit.evaluation), steps + fit.steps
        if options.prune == "each_stage":
            candidate, pruned = _prune(candidate, task, journal, options, recipe, seed=seed, stage=stage)
            steps += pruned
        verdict = _judge(best, candidate, options)
        stages.append(_stage_line(stage, pull, best, candidate, verdict, fit))
        journal.grew(_growth_line(stage, fit, current, candidate, grown, drift, verdict))
        current = candidate
        if verdict.accepted:
            best, epochs, waited = candidate, fit.epochs, 0
        else:
            waited += 1
            if waited >= options.outer_patience:
                reason = f"{waited} stage(s) in a row were not accepted (outer_patience)"
                break
    if options.prune == "at_end":
        best, pruned = _prune(best, task, journal, options, recipe, seed=seed, stage=stage)
        steps += pruned
    return Grown(best.model, first.model, stages, pull, epochs, journal.elapsed - began, steps, reason)


def _judge(best: Candidate, candidate: Candidate, options: Growth) -> Verdict:
    return JUDGES[options.judge](best.evaluation.losses, candidate.evaluation.losses, threshold=options.threshold)


def _limit(current: Candidate, options: Growth, seconds: float) -> str | None:
    """Return the limit that forbids another node, in words; None if there is none."""
    nodes = len(current.model.core.nodes)
    if nodes >= options.max_nodes:
        return f"max_nodes = {options.max_nodes} reached"
    if options.max_seconds is not None and seconds >= options.max_seconds:
        return f"max_seconds = {options.max_seconds:g} reached"
    if options.max_params is not None:
        larger = count_parameters(current.model) + count_parameters(current.model.core) // nodes
        if larger > options.max_params:
            return f"another node would make {larger} parameters, max_params = {options.max_params}"
    return None


def _append(current: Candidate, task: Task, options: Growth, *, seed: int) -> tuple[Candidate, float]:
    """Add a node to a copy; return it with migrated optimisers and the drift of its output."""
    core: Backbone = current.model.core
    position = {"first": 0, "middle": len(core.nodes) // 2, "last": None}[options.position]
    generator = torch.Generator().manual_seed(seed)
    morphed = morphisms.add_node(
        core, position=position, carrier_share=options.carrier_share, noise=options.noise, generator=generator
    )
    model = with_core(current.model, morphed.backbone)
    old = current.optimizers or make_optimizers(current.model, options.recipe)
    optimizers = [migrate(o, morphed.origins, current.model, model, prefix="core.") for o in old]
    return Candidate(model, optimizers, current.evaluation), output_drift(current.model, model, task)


def _prune(
    candidate: Candidate, task: Task, journal: Journal, options: Growth, recipe: Recipe, *, seed: int, stage: int
) -> tuple[Candidate, int]:
    """Remove small ops one by one, then fine-tune the weights; return the model and the steps it took."""
    model, optimizers = candidate.model, candidate.optimizers or make_optimizers(candidate.model, recipe)
    loss = candidate.loss
    lines = []
    while (target := next(_prunable(model.core, options), None)) is not None:
        node, op = target
        name = "/".join(model.core.op_names(node)[op])
        morphed = morphisms.prune_op(model.core, node, op)
        pruned = with_core(model, morphed.backbone)
        optimizers = [migrate(o, morphed.origins, model, pruned, prefix="core.") for o in optimizers]
        after = float(task.evaluate(pruned, "val").losses.mean())
        lines.append(
            {
                **_move("prune_op", stage, node, name, output_drift(model, pruned, task)),
                "loss_before": loss,
                "loss_after": after,
                "params_before": count_parameters(model),
                "params_after": count_parameters(pruned),
                "accepted": True,
                "judge": None,
                "wall_s": 0.0,
            }
        )
        model, loss = pruned, after
    for line in lines:
        journal.grew(line)
    if not lines:
        return candidate, 0
    key = f"stage-{stage}-pull-{recipe.pull:g}-pruned-{options.prune}"
    short = replace(recipe, epochs=options.fine_tune_epochs)
    fit = journal.fit(key, model, task, short, seed=seed, optimizers=optimizers, stage=stage)
    return Candidate(fit.model, fit.optimizers, fit.evaluation), fit.steps


def _prunable(core: Backbone, options: Growth) -> Iterator[tuple[int, int]]:
    """Yield the ops to remove next: each node's smallest, while it is below the threshold or beyond the top k."""
    for node, alpha in enumerate(core.alpha):
        shares = torch.softmax(alpha.detach(), 0)
        too_many = options.top_k is not None and len(shares) > options.top_k
        if len(shares) > 1 and (too_many or float(shares.min()) < options.prune_threshold):
            yield node, int(shares.argmin())


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


def _move(kind: str, stage: int, node: int, op: str | None, drift: float) -> dict[str, Any]:
    return {"stage": stage, "kind": kind, "node": node, "op": op, "drift": drift, "predicted_change": 0.0}


def _growth_line(
    stage: int, fit: Fit, before: Candidate, after: Candidate, grown: Candidate, drift: float, verdict: Verdict
) -> dict[str, Any]:
    new_node = next(
        (i for i, (a, b) in enumerate(zip(before.model.core.nodes, after.model.core.nodes, strict=False)) if a is b),
        len(before.model.core.nodes),
    )
    return {
        **_move("add_node", stage, new_node, None, drift),
        "step": fit.steps,
        "loss_before": before.loss,
        "loss_after": after.loss,
        "params_before": count_parameters(before.model),
        "params_after": count_parameters(after.model),
        "accepted": verdict.accepted,
        "judge": {"rule": verdict.rule, "figure": verdict.figure},
        "wall_s": round(fit.seconds, 3),
    }


def _stage_line(
    stage: int, pull: float, best: Candidate, candidate: Candidate, verdict: Verdict, fit: Fit
) -> dict[str, Any]:
    return {
        "stage": stage,
        "nodes": len(candidate.model.core.nodes),
        "pull": pull,
        "loss_before": best.loss,
        "loss_after": candidate.loss,
        "accepted": verdict.accepted,
        "judge": {"rule": verdict.rule, "figure": verdict.figure},
        "epochs": fit.epochs,
        "steps": fit.steps,
        "seconds": round(fit.seconds, 3),
        "params": count_parameters(candidate.model),
        "stopped": fit.reason,
    }
