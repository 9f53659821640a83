"""Pruning inside growth: removes or replaces ops, then fine-tunes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.criteria import threshold
from grownas.criteria.early_stop import ACCEPT, LARGEST, logged
from grownas.criteria.readout import CHOICES, AnyBackbone
from grownas.protocols import Journal
from grownas.strategies.cores import supernet_of, with_core
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.moves import growable_ops, prune_at, replace_at
from grownas.strategies.growing.state import Candidate, Change, Stage, apply, declined, traced
from grownas.training.loop import Tree
from grownas.training.recipe import count_parameters

SHARE = "share"  # the rule that removes ops with a small share


def prune_stage(stage: Stage, context: Context) -> Stage:
    """Remove or replace ops with a small share one by one, then fine-tune; return the same stage if there are none.

    All changes are undone if the acceptance rule prefers the unpruned candidate. The proposals by share are then
    declined; they are not repeated until the op has left its level.

    The last line's `wall_s` is the time of the fine-tuning in seconds; it is 0 in the other lines. The removals
    themselves are not timed, since a resumed search repeats them.

    Args:
        stage: the stage to prune.
        context: the context of the stage.
    """
    options, candidate, lines = context.options, stage.candidate, list[dict[str, Any]]()
    steps = sum(fit.steps for fit in stage.fits)
    while (change := _small(candidate, context)) is not None:
        candidate, line = apply(candidate, change, context.task, options, stage=context.number, step=steps)
        lines.append(line)
    for change in _surplus(candidate, context):
        candidate, line = apply(candidate, change, context.task, options, stage=context.number, step=steps)
        lines.append(line)
    if not lines:
        return stage
    key = f"stage-{context.number}-l2_sp-{context.l2_sp:g}-pruned-{options.prune}"
    fit = context.fit(key, candidate, context.tuning)
    lines = [{**line, "part": key} for line in lines]
    lines[-1]["wall_s"] = round(fit.seconds, 3)
    tuned, tunings = candidate.trained(fit, options.thresholds), (*stage.tunings, fit)
    losses = tuned.evaluation.losses, stage.candidate.evaluation.losses
    harm = ACCEPT[options.accept](*losses, threshold=options.threshold)
    if harm.accepted:
        judge = {**logged(harm), "rule": f"harm, {options.accept}"}
        undone = [{**line, "accepted": False, "judge": judge} for line in lines]
        places = tuple(_proposed(stage.candidate, lines))
        kept = declined(stage.candidate, places, threshold.LOW)
        return stage._replace(candidate=kept, tunings=tunings, prunings=tuple(undone), undone=places)
    return stage._replace(candidate=tuned, tunings=tunings, prunings=tuple(lines))


def _proposed(before: Candidate, lines: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Yield the places, before all prunings, of the ops that were pruned by share."""
    for number, line in enumerate(lines):
        place = traced(before.watched, lines[:number])[line["node"]][line["op"]]
        if place is not None and line["judge"]["rule"] == SHARE:
            yield place


def _small(candidate: Candidate, context: Context) -> Change | None:
    """Return the removal or replacement of an op whose smoothed share is below the threshold; None if there is none."""
    thresholds, core = context.options.thresholds, supernet_of(candidate.model)
    for node, state in enumerate(candidate.watched):
        growing = context.options.prune == "each_stage"  # no op is duplicated after the end
        growable = growable_ops(core, node, context.options) if growing else ()
        for move in threshold.moves(state, thresholds, growable):
            if move.kind != "prune_op" or not _can_prune(core, node, move.op):
                continue
            judge = {"rule": SHARE, "figure": move.share, "threshold": thresholds.prune_threshold}
            change = prune_at(node, move.op)
            if context.options.replace != "none":
                assert isinstance(core, Backbone), "options that need a chain are refused on a dag"
                drawn = replace_at(context, core, node, move.op)
                change = drawn if _fits(candidate, drawn, context) else change
            return change.saying(judge=judge)
    return None


def _can_prune(core: AnyBackbone, mixture: int, op: int) -> bool:
    """Return whether an op may go; in a DAG, whether its node keeps another op than "none". In a chain one stays."""
    return not isinstance(core, DagBackbone) or morphisms.can_prune_edge(core, mixture, op)


def _fits(candidate: Candidate, change: Change, context: Context) -> bool:
    """Return whether a candidate has at most `max_params` parameters after a change."""
    most = context.options.max_params
    if most is None:
        return True
    return count_parameters(with_core(candidate.model, change.make(supernet_of(candidate.model)).backbone)) <= most


def _surplus(candidate: Candidate, context: Context) -> list[Change]:
    """Return the removals of all ops that are not among the `top_k` ops of their nodes, last op first.

    They are chosen once, before any removal: an op that takes over a removed op's share is not more important by it.
    """
    top_k, core = context.options.top_k, supernet_of(candidate.model)
    if top_k is None or not isinstance(core, Backbone) or all(len(alpha) <= top_k for alpha in core.alpha):
        return []

    def score(core: Backbone) -> float:
        return float(context.task.evaluate(with_core(candidate.model, core), "val").losses.mean())

    def choose() -> Tree:
        return {"gone": [tuple(one) for one in CHOICES[context.options.readout](core, top_k, score).gone]}

    gone = context.journal.remember(f"stage-{context.number}-l2_sp-{context.l2_sp:g}-readout", choose)["gone"]
    rule = f"top_k by {context.options.readout}"
    return [
        prune_at(node, op).saying(judge={"rule": rule, "figure": min(figure, LARGEST), "threshold": top_k})
        for node, op, figure in sorted(gone, reverse=True)  # from the last: op numbers before it stay valid
    ]


def log_prunings(journal: Journal, stage: Stage, *, accepted: bool) -> None:
    """Log a stage's prunings; prunings that were not undone are accepted if the stage is accepted."""
    for line in stage.prunings:
        journal.log_morphism({**line, "accepted": accepted and line["accepted"] is None})
