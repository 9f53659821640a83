"""What growth is made of: a candidate, a stage, a change of the cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from grownas.backbones.chain import Backbone, shares_of
from grownas.criteria import threshold
from grownas.criteria.threshold import Thresholds
from grownas.evaluation.scoring import evaluating
from grownas.morphisms import Morphed
from grownas.protocols import Evaluation, Model, Task
from grownas.strategies.cores import on_cpu, supernet_of, with_core
from grownas.strategies.growing.options import Options
from grownas.training.loop import Fit
from grownas.training.migrate import migrate
from grownas.training.recipe import count_parameters, device_of, make_optimizers

Sources = Callable[[int, int], Sequence[int | None]]
ON, ORIGIN = "-on-", "-origin-"  # what the keys of a first stage's further fits add to its own, see `Growth`


class Candidate(NamedTuple):
    """A model with its optimisers, its evaluation on the validation part, and what was seen of its shares.

    Attributes:
        watched: the threshold's state of each node.
    """

    model: Model
    optimizers: list[torch.optim.Optimizer] | None
    evaluation: Evaluation
    watched: tuple[threshold.State, ...]

    @classmethod
    def start(cls, model: Model, evaluation: Evaluation) -> Candidate:
        """Return a model that was not trained yet."""
        return cls(model, None, evaluation, tuple(threshold.begin(shares) for shares in shares_of(supernet_of(model))))

    def trained(self, fit: Fit, thresholds: Thresholds) -> Candidate:
        """Return what a fit made of this candidate, the shares watched up to the epoch that the model is taken from."""
        watched = list(self.watched)
        for epoch in fit.shares[1 : fit.best_epoch + 1]:
            watched = [threshold.observe(*one, thresholds) for one in zip(watched, epoch, strict=True)]
        return Candidate(fit.model, fit.optimizers, fit.evaluation, tuple(watched))

    @property
    def loss(self) -> float:
        """Mean validation loss."""
        return float(self.evaluation.losses.mean())


class Stage(NamedTuple):
    """What came out of a stage.

    Attributes:
        candidate: the model to judge.
        fits: the training, in two parts where it was cut short and went on; none for the start.
        tunings: the training after each pruning.
        trials: fits by which the stage's move was chosen.
        prunings: growth lines of the pruned or replaced ops; `accepted` is None where it waits for the judge.
        number: of the stage; 0 of the start.
        part: the training's key.
        undone: the candidate's ops that were pruned for their shares in vain.
        is_cut_short: it is a first stage that was given a few epochs only, and might still learn.
    """

    candidate: Candidate
    fits: tuple[Fit, ...] = ()
    tunings: tuple[Fit, ...] = ()
    trials: tuple[Fit, ...] = ()
    prunings: tuple[dict[str, Any], ...] = ()
    number: int = 0
    part: str | None = None
    undone: tuple[tuple[int, int], ...] = ()
    is_cut_short: bool = False

    @property
    def model(self) -> Model:
        """The model to judge."""
        return self.candidate.model

    @property
    def steps(self) -> int:
        """Weight steps of all its fits."""
        return sum(fit.steps for fit in (*self.trials, *self.fits, *self.tunings))

    @property
    def seconds(self) -> float:
        """Seconds of all its fits."""
        return sum(fit.seconds for fit in (*self.trials, *self.fits, *self.tunings))


@torch.no_grad()
def output_drift(before: Model, after: Model, task: Task) -> float:
    """Return the largest change of the output on the first training window, from a zero state."""
    x = next(iter(task.windows("train", seed=0))).x.to(device_of(after))
    with evaluating(before, after):
        return float((after(x)[0] - before(x)[0]).abs().max())


def declined(candidate: Candidate, places: Iterable[tuple[int, int]], level: int) -> Candidate:
    """Return a candidate in which what the shares propose for some ops is declined, for those that are at a level."""
    watched = list(candidate.watched)
    for node, op in places:
        if watched[node][op].level == level:
            watched[node] = threshold.decline(watched[node], op)
    return candidate._replace(watched=tuple(watched))


def traced(cell: Sequence[Sequence[Any]], lines: Iterable[Mapping[str, Any]]) -> list[list[tuple[int, int] | None]]:
    """Return where each op of a cell was before some changes: node and op; None of one that is new, as copies are.

    Args:
        cell: one entry for each op of each node before the changes.
        lines: of the growth log, one a change.
    """
    places: list[list[tuple[int, int] | None]] = [
        [(node, op) for op in range(len(ops))] for node, ops in enumerate(cell)
    ]
    for line in lines:
        node, op = line["node"], line["op"]
        if op is None:
            places.insert(node, [None] * len(line["cell_after"]["nodes"][node]["ops"]))
            continue
        sources = line["sources"]
        kept = [None if source is None or sources.count(source) > 1 else source for source in sources]
        places[node] = [None if source is None else places[node][source] for source in kept]
    return places


class Change(NamedTuple):
    """A morphism that is to be done.

    Attributes:
        kind: its name in the log.
        words: its name for people.
        sources: from the number of ops of the node and the number of the op, the old number of each op afterwards,
            None for a new one; not asked if the change is of a whole node.
        node: number of the node; of one that is added, its number afterwards.
        op: number of the op in its node before the change; None if the change is of a whole node.
        make: does it.
        predicted: change of the loss by theory; None where there is no theory.
        about: what else the log says of it.
    """

    kind: str
    words: str
    sources: Sources
    node: int
    op: int | None
    make: Callable[[Backbone], Morphed]
    predicted: float | None
    about: Mapping[str, Any] = {}

    def saying(self, **about: Any) -> Change:
        """Return the same change, of which the log says more."""
        return self._replace(about={**self.about, **about})


def apply(
    before: Candidate, change: Change, task: Task, options: Options, *, stage: int, step: int
) -> tuple[Candidate, dict[str, Any]]:
    """Change a copy of a candidate; return it and the growth log's line.

    The line's `part` will be the key of the fit that follows, and `trial` that of the fit in which the change was tried
    beside others, where it was.

    Args:
        before: left untouched. Its optimisers are migrated; where it has none, new ones are.
        change: what to do.
        task: tells what the change does to loss and output.
        options: of the growth.
        stage: number of the stage.
        step: weight steps trained in the stage before the change.
    """
    old_core = supernet_of(before.model)
    morphed = change.make(on_cpu(old_core))
    model = with_core(before.model, morphed.backbone)
    core = supernet_of(model)
    old = before.optimizers or make_optimizers(before.model, options.recipe)
    evaluation, watched = task.evaluate(model, "val"), list(before.watched)
    shares, about = shares_of(core)[change.node], dict(change.about)
    if change.op is None:
        watched.insert(change.node, threshold.begin(shares))
    else:
        about["op_name"] = "/".join(old_core.op_names(change.node)[change.op])
        sources = change.sources(len(watched[change.node]), change.op)
        about["sources"] = list(sources)
        earlier = shares_of(old_core)[change.node]
        watched[change.node] = threshold.carry(watched[change.node], sources, earlier, shares)
    after = Candidate(
        model,
        [migrate(optimizer, morphed.origins, before.model, model, prefix="core.") for optimizer in old],
        evaluation,
        tuple(watched),
    )
    return after, {
        "stage": stage,
        "step": step,
        "kind": change.kind,
        "words": change.words,
        "node": change.node,
        "op": change.op,
        "drift": output_drift(before.model, model, task),
        "predicted_change": change.predicted,
        "measured_change": after.loss - before.loss,
        "loss_before": before.loss,
        "loss_after": after.loss,
        "params_before": count_parameters(before.model),
        "params_after": count_parameters(model),
        "cell_before": old_core.genotype(top_k=None).to_dict(),
        "cell_after": core.genotype(top_k=None).to_dict(),
        "accepted": None,
        "judge": None,
        "part": None,
        "trial": None,
        "wall_s": 0.0,
        **about,
    }
