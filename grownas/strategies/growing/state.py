"""What growth is made of: its options, a stage and what came out of it, a change of the cell, and who trains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch

from grownas.backbones.chain import Backbone, shares_of
from grownas.criteria import threshold
from grownas.criteria.threshold import Thresholds
from grownas.evaluation.scoring import evaluating
from grownas.morphisms import Morphed
from grownas.protocols import Evaluation, Task
from grownas.space import SearchSpace
from grownas.training.loop import Fit, Tree
from grownas.training.migrate import migrate
from grownas.training.recipe import Recipe, count_parameters, device_of, make_optimizers


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

    def remember(self, key: str, work: Callable[[], Tree]) -> Tree:
        """Do a piece of work, or give back what was done under this key."""
        ...

    def grew(self, line: Mapping[str, Any]) -> None:
        """Take one line of the growth log."""
        ...


ON, ORIGIN = "-on-", "-origin-"  # what the keys of a first stage's further fits add to its own, see `Growth`
DEFAULT_SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid", "relu"))


@dataclass(frozen=True)
class Splits:
    """How ops are chosen to be split, see `criteria.splitting`.

    Attributes:
        rule: what ranks them, a name of `splitting.RULES`.
        count: most ops that a stage splits at once.
        part: data of which the loss is to fall, `train` or `val`. On `val` the eigenvectors are fitted to the same
            days that then judge the stage.
        curvature: a name of `curvature.CURVATURE`.
    """

    rule: str = "neg_sum"
    count: int = 1
    part: str = "train"
    curvature: str = "exact"


@dataclass(frozen=True)
class Growth:
    """What governs growth.

    Attributes:
        recipe: how each stage is trained; its `l2_sp` is replaced by those of `pulls`.
        later_epochs: most epochs of a stage that begins with a change; None for as many as the recipe's. A decay of the
            rates then runs over the first and a later stage together.
        first_epochs: most epochs of the first stage; None for as many as the recipe's. Where it is not accepted after
            these, it is trained on, as many epochs at a time, as long as these lower its validation loss. If no node is
            accepted after it, it is trained to the end of its patience at last.
        pulls: candidates for the first stage, tried in order from the same start.
        mode: which moves a stage may begin with, a name of `moves.MODES`.
        choice: `criteria` or `random`: how the move is chosen among those.
        trial_epochs: for which each kind of move is tried where there are several, before the best is trained.
        judge: `significant` or `better`, a name of `JUDGES`.
        threshold: least t of `significant`.
        origins: validation blocks by which the first stage is judged, for whether anything beyond the start holds at
            other times, too. 1 is the validation part alone; with more, its training is repeated at earlier points in
            time for as many epochs, see `Origin`, and must be accepted by the losses on all blocks together as well.
        guard: accept a model only if its mean training loss is not higher than the best's either.
        outer_patience: moves of a kind that are not accepted, with none accepted between, before it is given up;
            growth ends when every kind is.
        max_nodes, max_ops, max_params, max_seconds: limits; None for none. `max_ops` is of each node.
        nodes_at_once: nodes that a stage adds, one behind the other, as far as `max_nodes` and `max_params` allow.
        birth: how a node is added: `blend` draws it and mixes it in from 0 to 1 over `blend_steps` weight steps,
            `drawn` draws it and changes the function at once, `carrier` keeps an identity in it for good.
        blend_steps: of training in which a blended node is mixed in.
        candidates: nodes that are drawn at each position for `blend`; the one with the steepest descent is taken.
        carrier_share: of a node added by a carrier, see `morphisms.add_node`.
        position: where a node is added: `first`, `middle`, `last`, or `best` by first-order gain.
        noise: standard deviation of what is added to a stage's new parameters (at the start, all but the carriers'),
            in units of 1 / sqrt(H), the bound of drawn weights; but at most 1 / pull, the farthest that a pull lets a
            parameter go.
        new_rate, old_rate: factors on the recipe's rate of the weights in a stage that begins with a new node: of the
            node's weights, and of all others. Every other stage has the recipe's rate throughout, alpha keeps its
            own. A stage's rates hold in the fine-tuning after a pruning, too: it
            goes on with the stage's training.
        thresholds: of the shares by which ops are duplicated and pruned.
        splits: how ops are chosen to be split.
        prune: `none`, `each_stage` or `at_end`; ops below the lower threshold go, and all but `top_k`.
        top_k: most ops of a node after a pruning; None for no such limit.
        readout: which ops `top_k` keeps, a name of `readout.CHOICES`.
        replace: `none`, or how to draw the op that takes a pruned one's place, a name of `morphisms.DRAWS`.
        restarts: most stages at the end of growth that begin with each node's smallest op drawn anew (uniformly if
            `replace` is none); they end with the first that is not accepted.
        fine_tune_epochs: most epochs after a pruning.
        space: what ops are drawn from.
    """

    recipe: Recipe
    first_epochs: int | None = 10
    later_epochs: int | None = None
    pulls: tuple[float, ...] = (0.0,)
    mode: str = "nodes"
    choice: str = "criteria"
    trial_epochs: int = 5
    judge: str = "significant"
    threshold: float = 1.645
    origins: int = 3
    guard: bool = True
    outer_patience: int = 1
    max_nodes: int = 3
    max_ops: int | None = 16
    max_params: int | None = None
    max_seconds: float | None = None
    nodes_at_once: int = 2
    birth: str = "blend"
    blend_steps: int = 90
    candidates: int = 1
    carrier_share: float = 0.5
    noise: float = 0.4
    new_rate: float = 1.0
    old_rate: float = 1.0
    position: str = "last"
    thresholds: Thresholds = field(default_factory=Thresholds)
    splits: Splits = field(default_factory=Splits)
    prune: str = "at_end"
    top_k: int | None = None
    readout: str = "share"
    replace: str = "none"
    restarts: int = 0
    fine_tune_epochs: int = 50
    space: SearchSpace = field(default_factory=lambda: DEFAULT_SPACE)

    def stage_recipe(self, number: int, pull: float) -> Recipe:
        """Return how a stage is trained, the first being number 1."""
        recipe = replace(self.recipe, l2_sp=pull, blend_steps=self.blend_steps)
        first = recipe.epochs if self.first_epochs is None else min(self.first_epochs, recipe.epochs)
        if self.later_epochs is None:
            return recipe.first(first) if number == 1 else recipe
        cut = first / (first + self.later_epochs)
        if number == 1:
            return replace(recipe, decay_span=(0.0, cut), epochs=first)
        return replace(recipe, decay_span=(cut, 1.0), epochs=self.later_epochs)

    def rest_recipe(self, pull: float, done: int) -> Recipe:
        """Return how a first stage that was cut short after so many epochs is trained on, to the end of all epochs."""
        begun = self.stage_recipe(1, pull)
        cut, left = begun.decay_span[1], self.recipe.epochs - done
        at = 1 - (1 - cut) * left / max(1, self.recipe.epochs - begun.epochs)
        return replace(begun, epochs=left, decay_span=(at, 1.0))

    def first_refit(self, pull: float, epochs: int) -> Recipe:
        """Return how to repeat the first stage for so many epochs, those after it was cut short included."""
        begun = self.stage_recipe(1, pull)
        if epochs > begun.epochs:
            begun = replace(begun, epochs=self.recipe.epochs, decay_span=(0.0, 1.0))
        return begun.refit(epochs)


class Candidate(NamedTuple):
    """A model with its optimisers, its evaluation on the validation part, and what was seen of its shares.

    Attributes:
        watched: the threshold's state of each node.
    """

    model: Any
    optimizers: list[torch.optim.Optimizer] | None
    evaluation: Evaluation
    watched: tuple[threshold.State, ...]

    @classmethod
    def start(cls, model: Any, evaluation: Evaluation) -> Candidate:
        """Return a model that was not trained yet."""
        return cls(model, None, evaluation, tuple(threshold.begin(shares) for shares in shares_of(model.core)))

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


class Origin(NamedTuple):
    """An earlier point in time, at which growth is repeated to judge it by the rows that came next.

    Attributes:
        start: where growth would have begun then.
        task: the rows up to then as its training part, those after it as its validation part.
    """

    start: Any
    task: Task


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
    def model(self) -> Any:
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


def with_core(model: Any, core: Any) -> Any:
    """Return a copy of a model around another core, which comes to where the model is."""
    return copy.deepcopy(model, {id(model.core): core.to(device_of(model))})  # the copy of the one core is the other


def on_cpu(core: Backbone) -> Backbone:
    """Return a core as morphisms take it, which draw on the CPU: itself if it lies there, else a copy."""
    return core if device_of(core).type == "cpu" else copy.deepcopy(core).cpu()


@torch.no_grad()
def output_drift(before: Any, after: Any, task: Task) -> float:
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
        sources = threshold.SOURCES[line["kind"]](len(places[node]), op)
        kept = [None if source is None or sources.count(source) > 1 else source for source in sources]
        places[node] = [None if source is None else places[node][source] for source in kept]
    return places


class Change(NamedTuple):
    """A morphism that is to be done.

    Attributes:
        kind: its name.
        node: number of the node; of one that is added, its number afterwards.
        op: number of the op in its node before the change; None if the change is of a whole node.
        make: does it.
        predicted: change of the loss by theory; None where there is no theory.
        about: what else the log says of it.
    """

    kind: str
    node: int
    op: int | None
    make: Callable[[Backbone], Morphed]
    predicted: float | None
    about: Mapping[str, Any] = {}

    def saying(self, **about: Any) -> Change:
        """Return the same change, of which the log says more."""
        return self._replace(about={**self.about, **about})


def apply(
    before: Candidate, change: Change, task: Task, options: Growth, *, stage: int, step: int
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
    morphed = change.make(on_cpu(before.model.core))
    model = with_core(before.model, morphed.backbone)
    old = before.optimizers or make_optimizers(before.model, options.recipe)
    evaluation, watched = task.evaluate(model, "val"), list(before.watched)
    shares, about = shares_of(model.core)[change.node], dict(change.about)
    if change.op is None:
        watched.insert(change.node, threshold.begin(shares))
    else:
        about["op_name"] = "/".join(before.model.core.op_names(change.node)[change.op])
        sources = threshold.SOURCES[change.kind](len(watched[change.node]), change.op)
        earlier = shares_of(before.model.core)[change.node]
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
        "node": change.node,
        "op": change.op,
        "drift": output_drift(before.model, model, task),
        "predicted_change": change.predicted,
        "measured_change": after.loss - before.loss,
        "loss_before": before.loss,
        "loss_after": after.loss,
        "params_before": count_parameters(before.model),
        "params_after": count_parameters(model),
        "cell_before": before.model.core.genotype(top_k=None).to_dict(),
        "cell_after": model.core.genotype(top_k=None).to_dict(),
        "accepted": None,
        "judge": None,
        "part": None,
        "trial": None,
        "wall_s": 0.0,
        **about,
    }
