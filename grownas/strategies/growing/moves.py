"""Moves: proposals to add nodes and to duplicate or split ops, best first by the criterion of each kind.

`MOVES` has a line for each kind of move; `options.MODES` lists the kinds with which a stage may begin. Nothing here
trains, accepts or rejects.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache as cached
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from grownas import morphisms
from grownas.backbones.chain import Backbone, shares_of
from grownas.backbones.dag import DagBackbone
from grownas.criteria import splitting, threshold
from grownas.criteria.first_order import blend_gains, first_order_gain
from grownas.criteria.readout import AnyBackbone
from grownas.criteria.splitting import Splitting
from grownas.morphisms import CARRIER, Morphed
from grownas.space import Pair
from grownas.strategies.growing.batches import Batches
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.state import Change, Sources
from grownas.training.loop import Tree

Place = tuple[int, int | None]  # node and op; None for a whole node
Made = tuple[str, tuple[Place, ...]]  # kind of a move and its places


class Proposal(NamedTuple):
    """A proposed move for the beginning of a stage.

    Attributes:
        kind: kind of its changes.
        places: places of its changes.
        make: returns the changes in the order of application; None if the move turns out to be impossible.
    """

    kind: str
    places: tuple[Place, ...]
    make: Callable[[], list[Change] | None]

    @property
    def move(self) -> Made:
        """Kind and places."""
        return self.kind, self.places


class Proposals(NamedTuple):
    """Proposals of a kind, best first; `reason` explains an empty list."""

    proposals: list[Proposal]
    reason: str


# --- nodes ---


def add_nodes(context: Context) -> Proposals:
    """Propose a new node at the configured position, or at all positions by first-order gain or in random order.

    The new node has the ops of the node before it, and a carrier if needed. Positions where it would have more than
    `max_ops` ops are left out. The new node of a DAG comes last.
    """
    count, options = len(context.core.nodes), context.options
    if count >= options.max_nodes:
        return Proposals([], f"max_nodes = {options.max_nodes} reached")
    places = {"first": [0], "middle": [count // 2], "last": [count]}
    positions = [count] if isinstance(context.core, DagBackbone) else list(range(count + 1))
    if options.choice == "random":
        positions = context.shuffled("add_node", positions)
    elif options.position != "best":
        positions = places[options.position]
    sizes = {position: size_of_new_node(context, position) for position in positions}
    able = [position for position, size in sizes.items() if options.max_ops is None or size <= options.max_ops]
    if not able:
        return Proposals([], f"a new node would have {min(sizes.values())} ops, max_ops = {options.max_ops}")
    several = options.birth == "blend" and options.candidates > 1
    draws = dict.fromkeys(able, 0)
    if options.choice != "random" and (options.position == "best" or several):
        if options.birth == "carrier":
            judged = context.remember("positions", lambda: _gains(context, able))
        else:  # the drawn nodes differ from stage to stage
            judged = context.journal.remember(f"stage-{context.number}-positions", lambda: _gains(context, able))
        gains, draws = (dict(zip(able, judged[key], strict=True)) for key in ("gains", "draws"))
        able.sort(key=lambda position: -gains[position])

    most = min(options.nodes_at_once, options.max_nodes - count)

    def propose(position: int, nodes: int) -> Proposal:
        further = [partial(add_node_at, context, position + n, draws[position] + n) for n in range(nodes)]
        return Proposal("add_node", ((position, None),), lambda: [make() for make in further])

    fewer = range(most, 0, -1)  # fewer nodes if the cell would become too large
    return Proposals([propose(position, nodes) for position in able for nodes in fewer], "")


def size_of_new_node(context: Context, position: int) -> int:
    """Return the number of ops of a new node; in a DAG, of that of its edges with the most ops."""
    if isinstance(context.core, DagBackbone):
        return max(len(edge.ops) for edge in context.core.mixed_nodes()[-1].mixed_edges())
    if context.options.birth == "carrier":
        return len(morphisms.ops_for_node(context.chain, position))
    return len(context.chain.mixed_nodes()[max(position - 1, 0)].ops)


def add_node_at(context: Context, position: int, draw: int = 0) -> Change:
    """Return the change that adds a node; `draw` is the number of the random draw."""
    make = partial(_add_node, context, position, draw, context.noise, context.number)
    predicted = None if context.options.birth == "drawn" else 0.0
    return _change("add_node", position, None, make, predicted, {"draw": draw})


def _add_node(context: Context, position: int, draw: int, noise: float, stage: int, core: Any) -> Morphed[Any]:
    if context.options.birth == "carrier":
        share, generator = context.options.carrier_share, context.generator(stage, draw)
        return morphisms.add_node(core, position, carrier_share=share, noise=noise, generator=generator)
    morphed = morphisms.blend_node(core, position, context.generator(draw=draw))
    if context.options.birth == "drawn":
        morphed.backbone.blend[position] = 1.0
    return morphed


def _gains(context: Context, positions: Sequence[int]) -> Tree:
    """Return each position's first-order gain on the training data, and its best draw.

    With a carrier the node is drawn once for all stages that begin with this candidate.
    """
    batches = Batches(context.best.model, context.task, "train")
    if context.options.birth != "carrier":
        return _blend_gains(context, positions, batches)
    cores = [_add_node(context, position, 0, 0.0, context.source, context.chain).backbone for position in positions]
    gains = [first_order_gain(core, batches.loss, batches, place) for place, core in zip(positions, cores, strict=True)]
    return {"gains": gains, "draws": [0] * len(gains), "gradients": batches.gradients}


def _blend_gains(context: Context, positions: Sequence[int], batches: Batches) -> Tree:
    """See `_gains`: one chain contains all draws at all positions with m = 0; one backward pass gives all gains."""
    core, tried = context.chain, list[tuple[int, int]]()
    for position in sorted(positions):
        for draw in range(context.options.candidates):
            node = context.chain.mixed_nodes()[max(position - 1, 0)].ops
            core = morphisms.blend_node(core, position + len(tried), context.generator(draw=draw), node).backbone
            tried.append((position, draw))
    gains = blend_gains(core, batches.loss, batches)
    found = dict(zip(tried, gains, strict=True))
    best = [max(range(context.options.candidates), key=lambda draw: found[position, draw]) for position in positions]
    best_gains = [found[place] for place in zip(positions, best, strict=True)]
    return {"gains": best_gains, "draws": best, "gradients": batches.gradients}


# --- ops ---


def _room(options: Options, ops: int) -> int:
    """Return how many ops can be added to a node with `ops` ops."""
    return sys.maxsize if options.max_ops is None else max(0, options.max_ops - ops)


def growable_ops(core: AnyBackbone, node: int, options: Options) -> list[int]:
    """Return the numbers of a node's ops that may be duplicated or split; none if the node is full.

    Additive identity ops are never duplicated or split: the sum of two of them is again affine.
    """
    names = core.op_names(node)
    return [op for op, name in enumerate(names) if name != CARRIER] if _room(options, len(names)) else []


def _places(context: Context) -> list[tuple[int, int]]:
    """Return the places of all ops that may be duplicated or split."""
    core = context.chain
    return [(node, op) for node, alpha in enumerate(core.alpha) for op in growable_ops(core, node, context.options)]


def _full(context: Context) -> Proposals:
    return Proposals(
        [], f"no node with fewer than max_ops = {context.options.max_ops} ops has an op that can be duplicated or split"
    )


def duplicate_ops(context: Context) -> Proposals:
    """Propose to duplicate ops with a share above the threshold, largest first; or all ops in random order."""
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

    reason = f"no op that can be duplicated has a share above grow_threshold = {thresholds.grow_threshold:g}"
    return Proposals([propose(place) for place in chosen], reason)


def duplicate_at(context: Context, node: int, op: int) -> Change:
    """Return the change that duplicates an op."""

    def make(core: Backbone) -> Morphed[Backbone]:
        return morphisms.duplicate_op(core, node, op, noise=context.noise, generator=context.generator())

    return _change("duplicate_op", node, op, make, 0.0)


def split_ops(context: Context) -> Proposals:
    """Propose to split ops by their splitting matrices; or all ops in random order and random directions."""
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
    return Proposals(proposals, "no split of a unit lowers the loss")


def _groups(context: Context, ranked: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield groups of ops to split at once, by rank: at most `splitting.count` ops, and `max_ops` ops per node."""
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
    """Return eigenvalues and eigenvectors of all ops that may be split; a search of fewer ops has other last digits.

    `gradients` counts each pass over all ops once, however many vectors it multiplies.
    """
    options, places = context.options.splitting, _places(context)
    batches = Batches(context.best.model, context.task, options.part)
    found = splitting.judge_ops(context.chain, batches.loss, batches, places, curvature=options.curvature).values()
    values, vectors = [one.eigenvalues for one in found], [one.eigenvectors for one in found]
    return {"values": values, "vectors": vectors, "gradients": batches.gradients}


def _split_by_step(context: Context, rank: int, chosen: dict[tuple[int, int], Splitting]) -> list[Change] | None:
    """Return the splits with the largest step whose measured gain is close enough to the prediction; None if none is.

    The group's rank is its key in the journal: a candidate always has the same groups in the same order.
    """
    found = context.remember(f"step-{rank}", lambda: _find_step(context, chosen))
    if found["step"] is None:
        return None
    return [
        split_at(context, *place, one, found["step"], measured=measured)
        for (place, one), measured in zip(chosen.items(), found["measured"], strict=True)
    ]


def _find_step(context: Context, chosen: dict[tuple[int, int], Splitting]) -> Tree:
    """Return the step, and the change of the loss by each of the splits, applied one after the other."""
    batches = Batches(context.best.model, context.task, context.options.splitting.part)
    before = batches.mean_loss(context.chain)
    changes: dict[float, list[float]] = {0.0: []}

    def loss_at(step: float) -> float:
        if step not in changes:
            core, losses = context.chain, [before]
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
    """Return a split of all units in random directions; the halves move as far as noise would move them."""
    size = sum(value[..., 0].numel() for value in context.chain.op_parameters(*place).values())
    vectors = torch.randn(context.chain.hidden_size, size, dtype=torch.float64, generator=context.generator())
    found = Splitting(-torch.ones(len(vectors)), vectors / vectors.norm(dim=1, keepdim=True))
    change = split_at(context, *place, found, context.noise * math.sqrt(size))
    return [change._replace(predicted=None, about={"split_step": change.about["split_step"]})]


def repeat(context: Context, moves: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Return the consecutive changes of an earlier growth, computed on the context's data."""
    splittings = cached(lambda: _splittings(context))
    return [MOVES[move["kind"]].repeat(context, move, splittings) for move in moves]


def _splittings(context: Context) -> dict[Place, Splitting]:
    """Return the low eigenpairs of each op that may be split."""
    judged = _judge_ops(context)
    pairs = map(Splitting, judged["values"], judged["vectors"])
    return dict(zip(_places(context), pairs, strict=True))


def _split_again(context: Context, move: Mapping[str, Any], splittings: Callable[[], dict[Place, Splitting]]) -> Change:
    node, op = move["node"], move["op"]
    if context.options.choice == "random":
        return _split_randomly(context, (node, op))[0]
    return split_at(context, node, op, splittings()[node, op], move["split_step"])


def prune_at(node: int, op: int) -> Change:
    """Return the change that removes an op; in a DAG, from the edge with this number."""
    return _change("prune_op", node, op, partial(morphisms.prune_op, node=node, op=op), None)


def resample(context: Context) -> Proposal:
    """Propose to replace each node's op of smallest share by a newly drawn op."""
    core, shares = context.chain, shares_of(context.chain)
    places = [(node, min(range(len(one)), key=one.__getitem__)) for node, one in enumerate(shares) if len(one) > 1]
    return Proposal("replace_op", tuple(places), lambda: [replace_at(context, core, *place) for place in places])


def replace_at(context: Context, core: Backbone, node: int, op: int) -> Change:
    """Return the change that replaces an op by a newly drawn op, with an average share if possible."""
    draws = {"none": morphisms.draw_uniform, **morphisms.DRAWS}  # a restart replaces ops even if prunings do not
    draw = draws[context.options.replace]
    return _replacement(context, node, op, draw(context.problem.space, core, node, context.drawing(f"{node} {op}")))


def _replacement(context: Context, node: int, op: int, candidate: Pair) -> Change:
    """Return the change that replaces an op. Two equal new ops would receive identical gradients and never diverge.

    Therefore each new op has its own generator. A new op that still equals an op of its node gets noise; this happens
    to additive ops, whose weights start at zero.
    """

    def make(core: Backbone) -> Morphed[Backbone]:
        share = min(1 / len(core.alpha[node]), morphisms.room_for(core, node, op) / 2) or None

        def replaced(what: str, noise: float) -> Morphed[Backbone]:
            generator = torch.Generator().manual_seed(context.drawing(f"{node} {op} {what}").getrandbits(63))
            return morphisms.replace_op(core, node, op, candidate, generator, share, noise)

        silent = replaced("weights", 0.0)
        twin = _has_twin(silent.backbone, node, op)
        return replaced(f"noise of {len(core.alpha[node])}", context.noise) if twin else silent

    return _change("replace_op", node, op, make, None, {"new_op": "/".join(candidate)})


def _has_twin(core: Backbone, node: int, op: int) -> bool:
    """Return whether the node has another op of the same kind with the same weights."""
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
    make: Callable[[Any], Morphed[Any]],
    predicted: float | None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Change:
    return Change(kind, MOVES[kind].words, MOVES[kind].sources, node, op, make, predicted, about)


class Move(NamedTuple):
    """A kind of move.

    Attributes:
        words: its name in the log.
        label: name of its result, for messages.
        sources: see `Change`.
        repeat: returns the change of a line of an earlier growth's log; the last argument returns the low eigenpairs
            of the present candidate's ops.
        propose: returns proposals, best first; None if no stage begins with this kind.
        adds: what it adds to a cell, for messages.
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
