"""The data types of growth: a candidate, a stage, a change of the cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from grownas.backbones.chain import shares_of
from grownas.backbones.dag import DagBackbone
from grownas.criteria import threshold
from grownas.criteria.threshold import Thresholds
from grownas.evaluation.scoring import evaluating
from grownas.morphisms import Morphed
from grownas.protocols import Evaluation, Model, Task
from grownas.strategies.cores import mixtures_of, on_cpu, supernet_of, with_core
from grownas.strategies.growing.options import Options
from grownas.training.loop import Fit
from grownas.training.migrate import migrate
from grownas.training.recipe import count_parameters, device_of, make_optimizers

Sources = Callable[[int, int], Sequence[int | None]]
ON, ORIGIN = "-on-", "-origin-"  # suffixes of the key of a first stage for its further fits, see `Growth`


class Candidate(NamedTuple):
    """A model with its optimisers, its evaluation on the validation part and its smoothed shares.

    Attributes:
        model: the task's model.
        optimizers: its optimisers; None if it was never trained.
        evaluation: evaluation on the validation part.
        watched: state of each mixture's shares, see `criteria.threshold`.
    """

    model: Model
    optimizers: list[torch.optim.Optimizer] | None
    evaluation: Evaluation
    watched: tuple[threshold.State, ...]

    @classmethod
    def start(cls, model: Model, evaluation: Evaluation) -> Candidate:
        """Return the candidate of an untrained model."""
        return cls(model, None, evaluation, tuple(threshold.begin(shares) for shares in shares_of(supernet_of(model))))

    def trained(self, fit: Fit, thresholds: Thresholds) -> Candidate:
        """Return the candidate after a fit; its shares are observed up to the fit's best epoch."""
        watched = list(self.watched)
        for epoch in fit.shares[1 : fit.best_epoch + 1]:
            watched = [threshold.observe(*one, thresholds) for one in zip(watched, epoch, strict=True)]
        return Candidate(fit.model, fit.optimizers, fit.evaluation, tuple(watched))

    @property
    def loss(self) -> float:
        """Mean validation loss."""
        return float(self.evaluation.losses.mean())


class Stage(NamedTuple):
    """The outcome of a stage.

    Attributes:
        candidate: the trained candidate, to be accepted or rejected.
        fits: the fits of the stage; several if a first stage was continued; none for the start.
        tunings: the fits after prunings.
        trials: fits that chose the stage's move, or that tested a first stage at earlier origins.
        prunings: growth lines of the pruned or replaced ops; `accepted` is None until the stage is accepted or
            rejected, and False if the pruning was undone.
        number: number of the stage; 0 for the start.
        part: key of the stage's fit.
        undone: the candidate's ops whose pruning by share was undone.
        is_cut_short: a first stage that had only a few epochs and may still improve.
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
        """The candidate's model."""
        return self.candidate.model

    @property
    def epochs(self) -> int:
        """Epochs of `fits`."""
        return sum(fit.epochs for fit in self.fits)

    @property
    def steps(self) -> int:
        """Weight steps of all fits of the stage."""
        return sum(fit.steps for fit in (*self.trials, *self.fits, *self.tunings))

    @property
    def seconds(self) -> float:
        """Seconds of all fits of the stage."""
        return sum(fit.seconds for fit in (*self.trials, *self.fits, *self.tunings))


@torch.no_grad()
def output_drift(before: Model, after: Model, task: Task) -> float:
    """Return the largest absolute change of the output on the first training window, from a zero state."""
    x = next(iter(task.windows("train", seed=0))).x.to(device_of(after))
    with evaluating(before, after):
        return float((after(x)[0] - before(x)[0]).abs().max())


def declined(candidate: Candidate, places: Iterable[tuple[int, int]], level: int) -> Candidate:
    """Return a candidate with the share-based proposals declined for the given ops that are at `level`."""
    watched = list(candidate.watched)
    for node, op in places:
        if watched[node][op].level == level:
            watched[node] = threshold.decline(watched[node], op)
    return candidate._replace(watched=tuple(watched))


def traced(cell: Sequence[Sequence[Any]], lines: Iterable[Mapping[str, Any]]) -> list[list[tuple[int, int] | None]]:
    """Return the place of each op of a cell before some changes, `(node, op)`; None for new ops and copies.

    In a DAG the places are `(edge, op)`.

    Args:
        cell: one entry per op of each mixture before the changes.
        lines: lines of the growth log, one per change.
    """
    places: list[list[tuple[int, int] | None]] = [
        [(node, op) for op in range(len(ops))] for node, ops in enumerate(cell)
    ]
    for line in lines:
        node, op = line["node"], line["op"]
        if op is None and "edges" in line:  # a DAG's new node comes last, and so do its edges
            places += [[None] * count for count in line["edges"]]
            continue
        if op is None:
            places.insert(node, [None] * len(line["cell_after"]["nodes"][node]["ops"]))
            continue
        sources = line["sources"]
        kept = [None if source is None or sources.count(source) > 1 else source for source in sources]
        places[node] = [None if source is None else places[node][source] for source in kept]
    return places


class Change(NamedTuple):
    """A morphism to be applied.

    Attributes:
        kind: its name in the log.
        words: its name for people.
        sources: maps the node's number of ops and the number of the op to the old number of each op after the change,
            None for a new op; not called if the change adds a node.
        node: number of the node; the new number of an added node. If an op of a DAG is changed, number of its edge.
        op: number of the op in its node before the change; None if the change adds a node.
        make: applies the morphism.
        predicted: predicted change of the loss; None if there is no prediction.
        about: further entries of the log line.
    """

    kind: str
    words: str
    sources: Sources
    node: int
    op: int | None
    make: Callable[[Any], Morphed[Any]]
    predicted: float | None
    about: Mapping[str, Any] = {}

    def saying(self, **about: Any) -> Change:
        """Return the same change with further entries of the log line."""
        return self._replace(about={**self.about, **about})


def apply(
    before: Candidate, change: Change, task: Task, options: Options, *, stage: int, step: int
) -> tuple[Candidate, dict[str, Any]]:
    """Change a copy of a candidate; return the copy and the line of the growth log.

    Callers later set the line's `part`, the key of the fit that follows, and `trial`, the key of the fit in which the
    change was tried beside others, if any.

    Args:
        before: left untouched. Its optimisers are migrated, or new ones if it has none.
        change: the change.
        task: measures the change of loss and output.
        options: options of growth.
        stage: number of the stage.
        step: weight steps of the stage before the change.
    """
    old_core = supernet_of(before.model)
    morphed = change.make(on_cpu(old_core))
    model = with_core(before.model, morphed.backbone)
    core = supernet_of(model)
    old = before.optimizers or make_optimizers(before.model, options.recipe)
    evaluation, watched = task.evaluate(model, "val"), list(before.watched)
    shares, about = shares_of(core), dict(change.about)
    if change.op is None:
        new = mixtures_of(core, change.node)
        watched[new.start : new.start] = [threshold.begin(shares[mixture]) for mixture in new]
        if isinstance(core, DagBackbone):
            about["edges"] = [len(shares[edge]) for edge in new]
    else:
        about["op_name"] = "/".join(old_core.op_names(change.node)[change.op])
        sources = change.sources(len(watched[change.node]), change.op)
        about["sources"] = list(sources)
        earlier = shares_of(old_core)[change.node]
        watched[change.node] = threshold.carry(watched[change.node], sources, earlier, shares[change.node])
        if isinstance(core, DagBackbone):
            about["edge"] = list(core.edges[change.node])
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
