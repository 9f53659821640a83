"""What can be measured of a supernet after each unit of its training: its sharpness in alpha, and the cell in it.

Nothing here changes the training: the model of the last epoch is a copy.
"""

from __future__ import annotations

import copy
from typing import Any

from grownas.criteria.alpha_hessian import Eigenvalue, counted_eigenvalue, dominant_eigenvalue
from grownas.errors import TrainingError
from grownas.protocols import Problem
from grownas.strategies.cores import supernet_of, with_core
from grownas.training.loop import Fit, fit
from grownas.training.recipe import Recipe


def at_last_epoch(trained: Fit) -> Any:
    """Return a copy of a fit's model after its last epoch; `Fit.model` is that of its best epoch."""
    assert trained.end is not None, "the state after the last epoch is kept until the next piece is done"
    last = copy.deepcopy(trained.model)
    last.load_state_dict(trained.end["model"])
    return last


def eigenvalue(problem: Problem, key: str, trained: Fit, windows: int) -> Eigenvalue:
    """Return the dominant eigenvalue of the Hessian in alpha after a fit's last epoch, remembered under a key."""

    def compute() -> dict[str, Any]:
        last = at_last_epoch(trained)
        return counted_eigenvalue(last, problem.task, windows=windows, seed=problem.seed)._asdict()

    done = problem.journal.remember(key, compute)
    return Eigenvalue(done["value"], done["gradients"])


def measured(problem: Problem, trained: Fit, *, top_k: int, windows: int, tuning: Recipe | None) -> dict[str, Any]:
    """Measure the supernet after a fit's last epoch.

    Args:
        problem: its task evaluates on the validation part.
        trained: the supernet's training so far.
        top_k: see `Supernet.derive`.
        windows: of alpha's data, over which the Hessian in alpha is averaged; 0: its eigenvalue is not computed.
        tuning: how the cell is trained from the supernet's weights; None: it is not trained.

    Returns:
        `epoch`; `supernet_val`, the metric of the supernet at that epoch; `cell`, the genotype read out there; if asked
        for, `eigenvalue` and `cell_val`, the lowest metric of the cell in its training, or None if it diverges.
    """
    last = at_last_epoch(trained)
    cell = with_core(last, supernet_of(last).derive(top_k))
    found = {
        "epoch": trained.epochs,
        "supernet_val": problem.task.evaluate(last, "val").metric,
        "cell": cell.core.genotype.to_dict(),
    }
    if windows:
        found["eigenvalue"] = dominant_eigenvalue(last, problem.task, windows=windows, seed=problem.seed)
    if tuning is not None:
        try:
            found["cell_val"] = fit(cell, problem.task, tuning, seed=problem.seed).evaluation.metric
        except TrainingError:
            found["cell_val"] = None
    return found
