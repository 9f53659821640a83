"""What a stage may begin with: nodes to add, ops to duplicate or to split, best first by each kind's criterion.

`MOVES` has a line for each kind of move, `options.MODES` says which of them a stage may begin with. Nothing here trains
or judges.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as cached
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas import morphisms
from grownas.backbones.chain import Backbone, shares_of
from grownas.criteria import splitting, threshold
from grownas.criteria.first_order import blend_gains, first_order_gain
from grownas.criteria.splitting import Splitting
from grownas.genotype import Op
from grownas.morphisms import CARRIER, Morphed
from grownas.protocols import Journal, Model, Problem, Task, Window
from grownas.space import Pair
from grownas.strategies.cores import noise_for, supernet_of
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.state import Candidate, Change, Sources
from grownas.training.loop import Fit, Tree
from grownas.training.recipe import Recipe, device_of

Place = tuple[int, int | None]  # node and op; None for a whole node
Made = tuple[str, tuple[Place, ...]]  # kind and places of a move


@dataclass(frozen=True)
class Context:
    """Where a stage begins.

    Attributes:
        best: the candidate that is to be changed.
        problem: of the search: task, journal, space, seed.
        options: of growth.
        l2_sp: with which the stage will be trained.
        number: of the stage.
        source: number of the stage that `best` came out of.
    """

    best: Candidate
    problem: Problem
    options: Options
    l2_sp: float
    number: int
    source: int

    @property
    def task(self) -> Task:
        """Data, loss and score."""
        return self.problem.task

    @property
    def journal(self) -> Journal:
        """It remembers what criteria found."""
        return self.problem.journal

    @property
    def seed(self) -> int:
        """It fixes noise, random choices and data order."""
        return self.problem.seed

    @property
    def core(self) -> Backbone:
        """The best candidate's supernet."""
        return supernet_of(self.best.model)

    @property
    def recipe(self) -> Recipe:
        """How the stage is trained."""
        return self.options.stage_recipe(self.number, self.l2_sp)

    @property
    def tuning(self) -> Recipe:
        """How the stage's model is trained after a pruning."""
        return replace(self.recipe, epochs=self.options.fine_tune_epochs)

    def fit(self, key: str, begin: Candidate, recipe: Recipe) -> Fit:
        """Train a candidate."""
        recipe = replace(recipe, bf16=self.problem.bf16)
        return self.journal.fit(
            key, begin.model, self.task, recipe, seed=self.seed, optimizers=begin.optimizers, stage=self.number
        )

    def remember(self, what: str, work: Callable[[], Tree]) -> Tree:
        """Return what a criterion finds of the best candidate, found once however many stages begin with it.

        Args:
            what: the criterion.
            work: computes it. Nothing that it uses may differ between stages that begin with the same candidate.
        """
        return self.journal.remember(f"after-stage-{self.source}-{what}", work)

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on what is new."""
        return noise_for(self.options.noise, self.l2_sp, self.core.hidden_size)

    def seed_of(self, stage: int) -> int:
        """Return what fixes a stage's noise and random choices."""
        return self.seed + (1000 * stage if stage > 1 else 0)

    def generator(self, stage: int | None = None, draw: int = 0) -> torch.Generator:
        """Return a new generator of a stage, this one if None; each of a draw has the same numbers to give."""
        return torch.Generator().manual_seed(self.seed_of(self.number if stage is None else stage) + 100 * draw)

    def drawing(self, what: str) -> random.Random:
        """Return a new generator of the stage; what it is for counts, so that one draw says nothing of another."""
        return random.Random(f"{self.seed_of(self.number)} {what}")

    def shuffled(self, what: str, things: Sequence[Any]) -> list[Any]:
        """Return things in random order."""
        return self.drawing(what).sample(things, len(things))


class Proposal(NamedTuple):
    """A way for a stage to begin.

    Attributes:
        kind: of its changes.
        places: where they are made.
        make: works the changes out, in the order in which they are done; None if there is no way after all.
    """

    kind: str
    places: tuple[Place, ...]
    make: Callable[[], list[Change] | None]

    @property
    def move(self) -> Made:
        """What is proposed."""
        return self.kind, self.places


class Proposals(NamedTuple):
    """Proposals of a kind, the best first; where there are none, why."""

    proposals: list[Proposal]
    reason: str


class Batches:
    """A part's windows, each with the state that it begins in, as criteria read them; can be gone through again."""

    def __init__(self, model: Model, task: Task, part: str) -> None:
        """Keep what to go through; nothing is computed yet. The model is copied: criteria see no dropout."""
        self.model, self.task, self.part = copy.deepcopy(model).eval(), task, part

    def __iter__(self) -> Iterator[tuple[Tensor, Window, Tensor | None]]:
        """Yield `(x, window, h_0)`."""
        hidden = None
        for x, window in self._windows():
            if window.fresh:
                hidden = None
            if not window.burn_in:
                yield x, window, hidden
            with torch.no_grad():
                _, hidden = self.model.core(x, hidden)

    def _windows(self) -> Iterator[tuple[Tensor, Window]]:
        for window in (each.to(device_of(self.model)) for each in self.task.windows(self.part, seed=0)):
            with torch.no_grad():
                x = self.model.encode(window.x)
            yield x, window

    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Return the mean loss of a window from the core's output `(T, B, H)`."""
        return self.task.loss(self.model, out, window)

    @torch.no_grad()
    def mean_loss(self, core: Backbone) -> float:
        """Return the mean over the windows with another core, in float64, for the changes that are predicted are small.

        The states that windows begin in stay those of the own core, as the prediction takes them to be.
        """
        core, (exact, states) = copy.deepcopy(core).double(), self._exact
        read = ((x, window) for x, window in exact._windows() if not window.burn_in)
        losses = [exact.loss(core(x, h_0)[0], window) for (x, window), h_0 in zip(read, states, strict=True)]
        return float(torch.stack(losses).mean())

    @cached_property
    def _exact(self) -> tuple[Batches, list[Tensor | None]]:
        """The same in float64, and the state that each window begins in: they are read once for all other cores."""
        exact = Batches(copy.deepcopy(self.model).double(), self.task, self.part)
        return exact, [h_0 for _, _, h_0 in exact]


# --- nodes ---


def add_nodes(context: Context) -> Proposals:
    """Proposals a new node at the position that is asked for, or at every one: by first-order gain, or in random order.

    None where it would have more than `max_ops` ops: it has those of the node before it, and a carrier if it needs one.
    """
    count, options = len(context.core.nodes), context.options
    if count >= options.max_nodes:
        return Proposals([], f"max_nodes = {options.max_nodes} reached")
    places = {"first": [0], "middle": [count // 2], "last": [count]}
    positions = list(range(count + 1))
    if options.choice == "random":
        positions = context.shuffled("add_node", positions)
    elif options.position != "best":
        positions = places[options.position]
    sizes = {position: len(ops_of_new_node(context, position)) for position in positions}
    able = [position for position, size in sizes.items() if options.max_ops is None or size <= options.max_ops]
    if not able:
        return Proposals([], f"a new node would have {min(sizes.values())} ops, max_ops = {options.max_ops}")
    several = options.birth == "blend" and options.candidates > 1
    draws = dict.fromkeys(able, 0)
    if options.choice != "random" and (options.position == "best" or several):
        if options.birth == "carrier":
            judged = context.remember("positions", lambda: _gains(context, able))
        else:  # what is drawn differs from stage to stage
            judged = context.journal.remember(f"stage-{context.number}-positions", lambda: _gains(context, able))
        gains, draws = (dict(zip(able, judged[key], strict=True)) for key in ("gains", "draws"))
        able.sort(key=lambda position: -gains[position])

    most = min(options.nodes_at_once, options.max_nodes - count)

    def propose(position: int, nodes: int) -> Proposal:
        further = [partial(add_node_at, context, position + n, draws[position] + n) for n in range(nodes)]
        return Proposal("add_node", ((position, None),), lambda: [make() for make in further])

    fewer = range(most, 0, -1)  # where so many would be too large
    return Proposals([propose(position, nodes) for position in able for nodes in fewer], "")


def ops_of_new_node(context: Context, position: int) -> Sequence[Op]:
    """Return the ops that a new node would have."""
    if context.options.birth == "carrier":
        return morphisms.ops_for_node(context.core, position)
    return context.core.mixed_nodes()[max(position - 1, 0)].ops


def add_node_at(context: Context, position: int, draw: int = 0) -> Change:
    """Return the change that adds a node, the draw-th that may be drawn there."""
    make = partial(_add_node, context, position, draw, context.noise, context.number)
    predicted = None if context.options.birth == "drawn" else 0.0
    return _change("add_node", position, None, make, predicted, {"draw": draw})


def _add_node(context: Context, position: int, draw: int, noise: float, stage: int, core: Backbone) -> Morphed:
    if context.options.birth == "carrier":
        share, generator = context.options.carrier_share, context.generator(stage, draw)
        return morphisms.add_node(core, position, carrier_share=share, noise=noise, generator=generator)
    morphed = morphisms.blend_node(core, position, context.generator(draw=draw))
    if context.options.birth == "drawn":
        morphed.backbone.blend[position] = 1.0
    return morphed


def _gains(context: Context, positions: Sequence[int]) -> Tree:
    """Return each position's first-order gain on the data that the weights learn from, and the best draw there.

    With a carrier the gain is that of a node that is drawn once for all stages that begin with this candidate.
    """
    batches = Batches(context.best.model, context.task, "train")
    if context.options.birth != "carrier":
        return _blend_gains(context, positions, batches)
    cores = [_add_node(context, position, 0, 0.0, context.source, context.core).backbone for position in positions]
    gains = [first_order_gain(core, batches.loss, batches, place) for place, core in zip(positions, cores, strict=True)]
    return {"gains": gains, "draws": [0] * len(gains)}


def _blend_gains(context: Context, positions: Sequence[int], batches: Batches) -> Tree:
    """See `_gains`: all draws at all positions are put into one chain, at m = 0, and judged by one pass backward."""
    core, tried = context.core, list[tuple[int, int]]()
    for position in sorted(positions):
        for draw in range(context.options.candidates):
            node = context.core.mixed_nodes()[max(position - 1, 0)].ops
            core = morphisms.blend_node(core, position + len(tried), context.generator(draw=draw), node).backbone
            tried.append((position, draw))
    gains = blend_gains(core, batches.loss, batches)
    found = dict(zip(tried, gains, strict=True))
    best = [max(range(context.options.candidates), key=lambda draw: found[position, draw]) for position in positions]
    return {"gains": [found[place] for place in zip(positions, best, strict=True)], "draws": best}


# --- ops ---


def _room(options: Options, ops: int) -> int:
    """Return how many more ops a node of so many may have."""
    return sys.maxsize if options.max_ops is None else max(0, options.max_ops - ops)


def growable_ops(core: Backbone, node: int, options: Options) -> list[int]:
    """Return the numbers of a node's ops that may be duplicated or split; none if the node is full.

    Of an additive identity two can do no more than one: their sum is affine, too.
    """
    names = core.op_names(node)
    return [op for op, name in enumerate(names) if name != CARRIER] if _room(options, len(names)) else []


def _places(context: Context) -> list[tuple[int, int]]:
    """Return the ops that can grow, of the nodes that may have one more."""
    core = context.core
    return [(node, op) for node, alpha in enumerate(core.alpha) for op in growable_ops(core, node, context.options)]


def _full(context: Context) -> Proposals:
    return Proposals([], f"no node with fewer than max_ops = {context.options.max_ops} ops has one that can grow")


def duplicate_ops(context: Context) -> Proposals:
    """Proposals to duplicate ops with a share above the threshold, the largest first; or all ops in random order."""
    thresholds, places = context.options.thresholds, _places(context)
    if not places:
        return _full(context)
    if context.options.choice == "random":
        chosen = context.shuffled("duplicate_op", places)
    else:
        found = [
            (-move.share, node, move.op)
            for node, state in enumerate(context.best.watched)
            for move in threshold.moves(state, thresholds, {op for place, op in places if place == node})
            if move.kind == "duplicate_op"
        ]
        chosen = [(node, op) for _, node, op in sorted(found)]

    def propose(place: tuple[int, int]) -> Proposal:
        return Proposal("duplicate_op", (place,), lambda: [duplicate_at(context, *place)])

    reason = f"no op that can be duplicated keeps a share above grow_threshold = {thresholds.grow_threshold:g}"
    return Proposals([propose(place) for place in chosen], reason)


def duplicate_at(context: Context, node: int, op: int) -> Change:
    """Return the change that duplicates an op."""

    def make(core: Backbone) -> Morphed:
        return morphisms.duplicate_op(core, node, op, noise=context.noise, generator=context.generator())

    return _change("duplicate_op", node, op, make, 0.0)


def split_ops(context: Context) -> Proposals:
    """Proposals to split ops by their splitting matrices; or all ops in random order, in random directions."""
    places, options = _places(context), context.options.splitting
    if not places:
        return _full(context)
    if context.options.choice == "random":
        chosen = context.shuffled("split_op", places)
        return Proposals(
            [Proposal("split_op", (place,), partial(_split_randomly, context, place)) for place in chosen], ""
        )
    known = context.remember("splitting", lambda: _judge_ops(context))
    found = {place: Splitting(*pair) for place, *pair in zip(places, known["values"], known["vectors"], strict=True)}
    ranked = splitting.choose_ops(found, options.rule, count=len(places))

    def propose(rank: int, group: list[tuple[int, int]]) -> Proposal:
        return Proposal("split_op", tuple(group), lambda: _split_by_step(context, rank, {p: found[p] for p in group}))

    proposals = [propose(rank, group) for rank, group in enumerate(_groups(context, ranked), 1)]
    return Proposals(proposals, "no unit of any op gains by a split")


def _groups(context: Context, ranked: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield groups of ops that may be split at once, by rank: so many, and of each node so many as it has room for."""
    left = list(ranked)
    while left:
        room = Counter({node: _room(context.options, len(alpha)) for node, alpha in enumerate(context.core.alpha)})
        group: list[tuple[int, int]] = []
        for place in left:
            if len(group) < context.options.splitting.count and room[place[0]] > 0:
                group.append(place)
                room[place[0]] -= 1
        yield group
        left = [place for place in left if place not in group]


def _judge_ops(context: Context) -> Tree:
    """Return eigenvalues and eigenvectors of all ops that can grow, judged together: last digits depend on that."""
    options, places = context.options.splitting, _places(context)
    batches = Batches(context.best.model, context.task, options.part)
    found = splitting.judge_ops(context.core, batches.loss, batches, places, curvature=options.curvature).values()
    return {"values": [one.eigenvalues for one in found], "vectors": [one.eigenvectors for one in found]}


def _split_by_step(context: Context, rank: int, chosen: dict[tuple[int, int], Splitting]) -> list[Change] | None:
    """Return the splits with the largest step that brings what it predicts; None if there is none.

    The rank of a group is its name: what is offered of a candidate is always the same, in the same order.
    """
    found = context.remember(f"step-{rank}", lambda: _find_step(context, chosen))
    if found["step"] is None:
        return None
    return [
        split_at(context, *place, one, found["step"], measured=measured)
        for (place, one), measured in zip(chosen.items(), found["measured"], strict=True)
    ]


def _find_step(context: Context, chosen: dict[tuple[int, int], Splitting]) -> Tree:
    """Return the step, and by how much each of the splits, one after the other, changes the loss."""
    batches = Batches(context.best.model, context.task, context.options.splitting.part)
    before = batches.mean_loss(context.core)
    changes: dict[float, list[float]] = {0.0: []}

    def loss_at(step: float) -> float:
        if step not in changes:
            core, losses = context.core, [before]
            for place, one in chosen.items():
                core = morphisms.split_op(core, *place, one, step).backbone
                losses.append(batches.mean_loss(core))
            changes[step] = [after - earlier for earlier, after in itertools.pairwise(losses)]
        return before + sum(changes[step])

    def predicted(step: float) -> float:
        return sum(splitting.predicted_change(one.eigenvalues, step) for one in chosen.values())

    found = splitting.find_step(loss_at, predicted)
    return {"step": None} if found is None else {"step": found.step, "measured": changes[found.step]}


def split_at(
    context: Context, node: int, op: int, found: Splitting, step: float, *, measured: float | None = None
) -> Change:
    """Return the change that splits an op."""
    about = {"split_step": step, "change_on": context.options.splitting.part, "measured_change": measured}
    make = partial(morphisms.split_op, node=node, op=op, splitting=found, step=step)
    return _change("split_op", node, op, make, splitting.predicted_change(found.eigenvalues, step), about)


def _split_randomly(context: Context, place: tuple[int, int]) -> list[Change]:
    """Return a split of all units in random directions, in which an op's halves go as far as noise would take them."""
    size = sum(value[..., 0].numel() for value in context.core.op_parameters(*place).values())
    vectors = torch.randn(context.core.hidden_size, size, dtype=torch.float64, generator=context.generator())
    found = Splitting(-torch.ones(len(vectors)), vectors / vectors.norm(dim=1, keepdim=True))
    change = split_at(context, *place, found, context.noise * math.sqrt(size))
    return [change._replace(predicted=None, about={"split_step": change.about["split_step"]})]


def repeat(context: Context, moves: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Return changes of an earlier growth that were made one after the other, on the context's data."""
    splittings = cached(lambda: _splittings(context))
    return [MOVES[move["kind"]].repeat(context, move, splittings) for move in moves]


def _splittings(context: Context) -> dict[Place, Splitting]:
    """Return the splitting of each op that can grow."""
    judged = _judge_ops(context)
    pairs = map(Splitting, judged["values"], judged["vectors"])
    return dict(zip(_places(context), pairs, strict=True))


def _split_again(context: Context, move: Mapping[str, Any], splittings: Callable[[], dict[Place, Splitting]]) -> Change:
    node, op = move["node"], move["op"]
    if context.options.choice == "random":
        return _split_randomly(context, (node, op))[0]
    return split_at(context, node, op, splittings()[node, op], move["split_step"])


def prune_at(node: int, op: int) -> Change:
    """Return the change that removes an op."""
    return _change("prune_op", node, op, partial(morphisms.prune_op, node=node, op=op), None)


def resample(context: Context) -> Proposal:
    """Propose a newly drawn op in the place of each node's smallest."""
    core, shares = context.core, shares_of(context.core)
    places = [(node, min(range(len(one)), key=one.__getitem__)) for node, one in enumerate(shares) if len(one) > 1]
    return Proposal("replace_op", tuple(places), lambda: [replace_at(context, core, *place) for place in places])


def replace_at(context: Context, core: Backbone, node: int, op: int) -> Change:
    """Return the change that puts a newly drawn op in the place of another, at an average share if there is room."""
    draws = {"none": morphisms.draw_uniform, **morphisms.DRAWS}  # a restart replaces ops where prunings do not
    draw = draws[context.options.replace]
    return _replacement(context, node, op, draw(context.problem.space, core, node, context.drawing(f"{node} {op}")))


def _replacement(context: Context, node: int, op: int, candidate: Pair) -> Change:
    """Return the change that puts an op in the place of another. Two that come in alike must not learn alike.

    Each has a generator of its own; one that is equal to an op of its node all the same, as additive ones that are new
    are, is given noise.
    """

    def make(core: Backbone) -> Morphed:
        share = min(1 / len(core.alpha[node]), morphisms.room_for(core, node, op) / 2) or None

        def replaced(what: str, noise: float) -> Morphed:
            generator = torch.Generator().manual_seed(context.drawing(f"{node} {op} {what}").getrandbits(63))
            return morphisms.replace_op(core, node, op, candidate, generator, share, noise)

        silent = replaced("weights", 0.0)
        twin = _has_twin(silent.backbone, node, op)
        return replaced(f"noise of {len(core.alpha[node])}", context.noise) if twin else silent

    return _change("replace_op", node, op, make, None, {"new_op": "/".join(candidate)})


def _has_twin(core: Backbone, node: int, op: int) -> bool:
    """Say whether another op of the node is the same, with the same weights."""
    names, own = core.op_names(node), core.op_parameters(node, op)
    return any(
        all(torch.equal(value, own[key]) for key, value in core.op_parameters(node, other).items())
        for other, name in enumerate(names)
        if other != op and name == names[op]
    )


def _change(
    kind: str,
    node: int,
    op: int | None,
    make: Callable[[Backbone], Morphed],
    predicted: float | None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Change:
    return Change(kind, MOVES[kind].words, MOVES[kind].sources, node, op, make, predicted, about)


class Move(NamedTuple):
    """A kind of move.

    Attributes:
        words: what it does, for the log's readers.
        label: what it has made, for messages.
        sources: see `Change`.
        repeat: returns the change that a line of an earlier growth's log describes; the last argument computes the
            splittings of the present candidate.
        propose: returns the ways to make it, best first; None if no stage begins with it.
        adds: what it adds to a cell.
    """

    words: str
    label: str
    sources: Sources
    repeat: Callable[[Context, Mapping[str, Any], Callable[[], dict[Place, Splitting]]], Change]
    propose: Callable[[Context], Proposals] | None = None
    adds: str = "op"


MOVES: dict[str, Move] = {
    "add_node": Move(
        "add node",
        "added node",
        lambda K, op: range(K),
        lambda context, move, _: add_node_at(context, move["node"], move["draw"]),
        add_nodes,
        adds="node",
    ),
    "duplicate_op": Move(
        "duplicate op",
        "duplicated op",
        lambda K, op: [*range(K), op],
        lambda context, move, _: duplicate_at(context, move["node"], move["op"]),
        duplicate_ops,
    ),
    "split_op": Move("split op", "split op", lambda K, op: [*range(K), op], _split_again, split_ops),
    "prune_op": Move(
        "prune op",
        "pruned op",
        lambda K, op: [number for number in range(K) if number != op],
        lambda context, move, _: prune_at(move["node"], move["op"]),
    ),
    "replace_op": Move(
        "replace op",
        "redrawn op",
        lambda K, op: [number if number != op else None for number in range(K)],
        lambda context, move, _: _replacement(context, move["node"], move["op"], _pair(move["new_op"])),
    ),
}


def _pair(name: str) -> Pair:
    combine, _, activation = name.partition("/")
    return combine, activation
