"""What growth is made of: its options, a stage and what came out of it, and who trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from grownas.protocols import Evaluation, Task
from grownas.recipe import Recipe
from grownas.train import Fit


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
        outer_patience: added nodes in a row that are not accepted before growth ends.
        max_nodes, max_params, max_seconds: limits; None for none.
        carrier_share, position: of the appended node, see `morphisms.add_node`; position is `first`, `middle` or
            `last`.
        noise: standard deviation of what is added to a stage's new parameters (at the start, all but the carriers'),
            in units of 1 / sqrt(H), the bound of drawn weights; but at most 1 / pull, the farthest that a pull lets a
            parameter go.
        new_rate, old_rate: factors on the recipe's rate of the weights in each stage after a growth: of the new node's
            weights, and of all others. The first stage has the recipe's rate throughout, alpha and the look-ahead
            of `second` order keep theirs. A stage's rates hold in the fine-tuning after a pruning, too: it goes on
            with the stage's training.
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
    new_rate: float = 3.0
    old_rate: float = 0.3
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


def move_line(
    kind: str, stage: int, step: int, node: int, op: int | None, drift: float, *, predicted_change: float | None
) -> dict[str, Any]:
    """Return the part of a growth log's line that every morphism has.

    Args:
        kind: of the morphism.
        stage: number of the stage.
        step: weight steps trained in the stage before the morphism.
        node: number of the node, from 0.
        op: number of the op in its node as it was before the morphism, from 0; None if the move is of a whole node.
        drift: largest change of the output by the morphism itself.
        predicted_change: of the loss, by theory; None where there is no theory.
    """
    move = {"stage": stage, "step": step, "kind": kind, "node": node, "op": op, "drift": drift}
    return {**move, "predicted_change": predicted_change}
