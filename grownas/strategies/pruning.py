"""Pruning inside growth: which ops go, and the fine-tuning after it (ALGORITHMS 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from grownas import morphisms
from grownas.backbone import Backbone
from grownas.migrate import migrate
from grownas.protocols import Task
from grownas.recipe import Recipe, count_parameters, make_optimizers
from grownas.strategies.stage import Candidate, Growth, Journal, Stage, move_line, output_drift, with_core


def prune_stage(
    stage: Stage, task: Task, journal: Journal, options: Growth, recipe: Recipe, *, seed: int, number: int
) -> Stage:
    """Remove small ops one by one, then fine-tune; return the same stage if there are none.

    The lines' `wall_s` is the fine-tuning's: in the last line, and 0 in the others, which share it. The removals
    themselves are not timed, for a resumed search does them again.
    """
    model, optimizers = stage.model, stage.candidate.optimizers or make_optimizers(stage.model, recipe)
    loss, lines = stage.candidate.loss, []
    while (target := _prunable(model.core, options)) is not None:
        node, op, judge = target
        name = "/".join(model.core.op_names(node)[op])
        morphed = morphisms.prune_op(model.core, node, op)
        pruned = with_core(model, morphed.backbone)
        optimizers = [migrate(o, morphed.origins, model, pruned, prefix="core.") for o in optimizers]
        after = float(task.evaluate(pruned, "val").losses.mean())
        drift = output_drift(model, pruned, task)
        lines.append(
            {
                **move_line("prune_op", number, stage.steps, node, op, drift, predicted_change=None),
                "op_name": name,
                "loss_before": loss,
                "loss_after": after,
                "params_before": count_parameters(model),
                "params_after": count_parameters(pruned),
                "accepted": None,
                "judge": judge,
                "wall_s": 0.0,
            }
        )
        model, loss = pruned, after
    if not lines:
        return stage
    key = f"stage-{number}-pull-{recipe.pull:g}-pruned-{options.prune}"
    short = replace(recipe, epochs=options.fine_tune_epochs)
    fit = journal.fit(key, model, task, short, seed=seed, optimizers=optimizers, stage=number)
    lines[-1]["wall_s"] = round(fit.seconds, 3)
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


def log_prunings(journal: Journal, stage: Stage, *, accepted: bool) -> None:
    """Log a stage's prunings; they are accepted if the stage is."""
    for line in stage.prunings:
        journal.grew({**line, "accepted": accepted})
