"""What a stage may begin with: which moves are offered, in which order, and what is said about them."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas import morphisms
from grownas.criteria import splitting, threshold
from grownas.criteria.first_order import first_order_gain
from grownas.criteria.splitting import Splitting, Step
from grownas.criteria.threshold import Thresholds, Watched
from grownas.protocols import Window
from grownas.runs.journal import Journal
from grownas.strategies.growing.batches import Batches
from grownas.strategies.growing.moves import (
    MOVES,
    _groups,
    add_node_at,
    add_nodes,
    duplicate_at,
    duplicate_ops,
    prune_at,
    repeat,
    replace_at,
    resample,
    split_ops,
)
from grownas.strategies.growing.options import MODES, Options
from grownas.strategies.growing.stages import _moves, apply_all, choose
from grownas.strategies.growing.state import apply
from grownas.training.loop import fit
from support.growing import (
    KINDS,
    ONE_STRENGTH,
    QUICK,
    TRAINED,
    TrainingJournal,
    aged,
    but,
    context_of,
    grow,
    model_of,
    set_shares,
    with_problem,
)

OPS = [("add", "identity"), ("add", "tanh"), ("hadamard", "sigmoid")]  # of `make_model`
RANDOM = but(TRAINED, choice="random")


@pytest.fixture(scope="module")
def trained(copy_task, make_model):
    """A model of two nodes after some training: what it could still learn is not zero anywhere."""
    task = copy_task()
    return fit(make_model(task, nodes=2), task, replace(QUICK, epochs=5, patience=None), seed=0).model


@pytest.fixture
def context(copy_task, trained):
    """Return a context around the trained model."""

    def make(options=TRAINED, **more):
        return context_of(copy.deepcopy(trained), copy_task(), options, **more)

    return make


def places(proposed):
    return [proposal.places for proposal in proposed.proposals]


def all_ops(core):
    return [(node, op) for node, alpha in enumerate(core.alpha) for op in range(len(alpha))]


# --- what criteria read ---


def windows_of(flags, seed):
    """Windows of lengths 1 to 3, fresh or warm-up as flags say."""
    generator = torch.Generator().manual_seed(seed)
    for number, (fresh, burn_in) in enumerate(flags):
        x = torch.randn(1 + number % 3, 2, 2, generator=generator, dtype=torch.float64)
        yield Window(x, x + number, fresh=fresh or number == 0, burn_in=burn_in)


@given(flags=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_windows_begin_in_the_state_of_reading_the_stream_in_one_go(copy_task, make_model, flags, seed):
    class Scripted(copy_task):
        def windows(self, part, *, seed):
            assert (part, seed) == ("val", 0)
            return windows_of(flags, number)

    number, task = seed, Scripted()
    model, read = make_model(task), []
    found = list(Batches(model, task, "val"))
    for window in windows_of(flags, seed):
        read = [] if window.fresh else read
        if not window.burn_in:
            x, given_window, hidden = found.pop(0)
            assert torch.equal(x, window.x)
            assert torch.equal(given_window.target, window.target)
            if not read:
                assert hidden is None
            else:
                assert not hidden.requires_grad
                torch.testing.assert_close(hidden, model.core(torch.cat(read))[1].detach(), rtol=0, atol=1e-14)
        read.append(window.x)
    assert found == []


def test_the_task_itself_has_windows_of_all_kinds_and_can_be_read_again(copy_task, make_model, assert_equal):
    task = copy_task()
    batches = Batches(make_model(task), task, "train")
    first, again = (list(map(tuple, batches)) for _ in range(2))
    assert len(first) == len(list(task.windows("train", seed=0))) - 1  # the first is warm-up
    assert all(hidden is not None for _, _, hidden in first)
    assert_equal([[x, h] for x, _, h in first], [[x, h] for x, _, h in again])


def test_the_mean_loss_of_another_core_is_that_of_the_same_states(copy_task, make_model):
    """As theory has it: what is predicted is the change of each window's loss, from where it begins."""
    task = copy_task(dropout=0.5)
    model, other = make_model(task), make_model(task, seed=1)
    batches = Batches(model.train(), task, "val")
    for core in (model.core, other.core):
        out = [(core(x, h_0)[0], window) for x, window, h_0 in batches]
        losses = [batches.loss(one, window).item() for one, window in out]
        assert batches.mean_loss(core) == pytest.approx(sum(losses) / len(losses), rel=1e-14)
    assert batches.mean_loss(model.core) != batches.mean_loss(other.core)


def test_the_states_are_read_once_for_all_other_cores(copy_task, make_model, monkeypatch):
    task, read = copy_task(), []
    model, other = make_model(task), make_model(task, seed=1)
    batches, through = Batches(model, task, "val"), Batches.__iter__
    monkeypatch.setattr(Batches, "__iter__", lambda self: read.append(self) or through(self))
    first = [batches.mean_loss(core) for core in (model.core, other.core, model.core)]
    assert len(read) == 1
    assert first == [Batches(model, task, "val").mean_loss(core) for core in (model.core, other.core, model.core)]


# --- nodes ---


@pytest.mark.parametrize(("position", "place"), [("first", 0), ("middle", 1), ("last", 2)])
def test_a_node_is_offered_where_it_is_asked_for(context, position, place):
    proposed = add_nodes(context(but(TRAINED, position=position)))
    assert places(proposed) == [((place, None),)]
    (change,) = proposed.proposals[0].make()
    assert (change.kind, change.node, change.op, change.predicted) == ("add_node", place, None, 0.0)


def test_the_best_position_is_that_of_the_largest_first_order_gain(context):
    one = context(but(TRAINED, position="best"))
    batches = Batches(one.best.model, one.task, "train")
    gains = []
    for position in range(3):
        core = morphisms.add_node(one.core, position, noise=0.0, generator=one.generator(one.source)).backbone
        assert batches.mean_loss(core) == pytest.approx(batches.mean_loss(one.core), abs=1e-12)
        gains.append(first_order_gain(core, batches.loss, batches, position))
    assert len(set(gains)) == 3
    assert places(add_nodes(one)) == [((place, None),) for place in sorted(range(3), key=lambda p: -gains[p])]
    assert one.journal.work["after-stage-1-positions"]["gains"] == gains
    noisy = context(but(TRAINED, position="best", noise=9.0))
    add_nodes(noisy)
    assert noisy.journal.work == one.journal.work  # judged where the node has no effect, whatever the noise


def test_a_stage_takes_the_best_position_and_then_those_that_were_not_rejected(copy_task, make_model, judge_says):
    judge_says(True)  # the first stage alone
    task, journal = copy_task(), TrainingJournal()
    options = but(TRAINED, position="best", max_nodes=4, outer_patience=4)
    grow(make_model(task, nodes=2), task, journal, options, seed=0)
    gains = journal.work["after-stage-1-positions"]["gains"]
    ranked = sorted(range(3), key=lambda place: -gains[place])
    taken = [line["node"] for line in journal.lines]
    assert taken == [*ranked, ranked[0]]  # all were rejected: with other noise the best again
    assert set(journal.asked) == {"after-stage-1-positions"}  # the cell is the same all the time


def test_only_a_stage_with_few_enough_nodes_is_offered_one(context):
    for most, count in ((3, 1), (2, 0), (1, 0)):
        proposed = add_nodes(context(but(TRAINED, max_nodes=most)))
        assert len(proposed.proposals) == count
        assert count or proposed.reason == f"max_nodes = {most} reached"


CARRIED, BARE = [("add", "identity"), ("add", "tanh")], [("add", "tanh"), ("hadamard", "tanh")]


@pytest.mark.parametrize(
    ("nodes", "changes", "offered", "fewest"),
    [
        ([CARRIED], {"max_ops": 2}, [1], None),
        ([CARRIED], {"max_ops": 1}, [], 2),  # the space has more
        ([BARE], {"max_ops": 2}, [], 3),  # a carrier comes in front of ops that have none
        ([BARE], {"max_ops": 3}, [1], None),
        ([BARE], {"max_ops": None}, [1], None),
        ([CARRIED, BARE], {"max_ops": 2}, [], 3),
        ([CARRIED, BARE], {"max_ops": 2, "position": "middle"}, [1], None),
        ([CARRIED, BARE], {"max_ops": 2, "position": "best"}, [0, 1], None),  # it copies the node before it
        ([BARE, CARRIED], {"max_ops": 2, "position": "best"}, [2], None),
        ([CARRIED, BARE], {"max_ops": 2, "choice": "random"}, [0, 1], None),
        ([BARE, BARE], {"max_ops": 2, "position": "best"}, [], 3),
    ],
)
def test_no_node_is_offered_with_more_than_max_ops(copy_task, nodes, changes, offered, fewest):
    task = copy_task()
    one = context_of(model_of(task, *nodes), task, but(TRAINED, max_nodes=4, **changes))
    proposed = add_nodes(one)
    assert sorted(place for ((place, _),) in places(proposed)) == offered
    if fewest:
        assert proposed.reason == f"a new node would have {fewest} ops, max_ops = {changes['max_ops']}"
        assert one.journal.work == {}
    for proposal in proposed.proposals:
        (change,) = proposal.make()
        assert len(change.make(one.core).backbone.alpha[change.node]) <= (changes["max_ops"] or 3)


# --- copies ---


def test_ops_high_for_long_are_offered_the_largest_first(context):
    thresholds = Thresholds(0.2, min_age=5, smoothing=1.0)
    states = [aged([0.3, 0.3, 0.4], thresholds), aged([0.1, 0.65, 0.25], thresholds)]
    one = context(but(TRAINED, mode="ops_duplicate", thresholds=thresholds), watched=states)
    assert places(duplicate_ops(one)) == [((1, 1),), ((0, 2),), ((0, 1),), ((1, 2),)]  # never the carrier, (0, 0)
    (change,) = duplicate_ops(one).proposals[0].make()
    assert (change.kind, change.node, change.op, change.predicted) == ("duplicate_op", 1, 1, 0.0)


@pytest.mark.parametrize(
    ("changed", "offered"), [({}, True), ({"age": 4}, False), ({"declined": True}, False), ({"level": 0}, False)]
)
def test_what_is_young_declined_or_not_high_is_not_offered(context, changed, offered):
    high = Watched(0.5, 5, threshold.HIGH)._replace(**changed)
    state = (Watched(0.3, 9), high, Watched(0.2, 9))
    options = but(TRAINED, mode="ops_duplicate", thresholds=Thresholds())
    proposed = duplicate_ops(context(options, watched=[state, aged([1.0, 0, 0], options.thresholds)]))
    assert places(proposed) == ([((0, 1),)] if offered else [])
    assert proposed.reason == "no op that can be duplicated has a share above grow_threshold = 0.2"


@pytest.mark.parametrize("choice", ["criteria", "random"])
@pytest.mark.parametrize("proposals_of", [duplicate_ops, split_ops])
def test_full_nodes_and_carriers_are_left_out(copy_task, choice, proposals_of):
    task = copy_task()
    model = model_of(task, OPS, [*OPS, ("add", "relu"), ("add", "identity")], [("add", "identity")])
    options = but(TRAINED, mode="ops_duplicate", choice=choice, thresholds=Thresholds(0.05, 0.0), max_ops=5)
    watched = [aged([1 / len(alpha)] * len(alpha), options.thresholds) for alpha in model.core.alpha]
    found = {place for one in places(proposals_of(context_of(model, task, options, watched=watched))) for place in one}
    assert found == {(0, 1), (0, 2)}
    full = proposals_of(context_of(model, task, but(options, max_ops=3), watched=watched))
    assert full.proposals == []
    assert full.reason == "no node with fewer than max_ops = 3 ops has an op that can be duplicated or split"
    free = proposals_of(context_of(model, task, but(options, max_ops=None), watched=watched))
    most = {(0, 1), (0, 2), (1, 1), (1, 2)} | (
        {(1, 3)} if proposals_of is duplicate_ops or choice == "random" else set()
    )
    assert {place for one in places(free) for place in one} == most  # a relu has no curvature


# --- splits ---


def scripted_eigenvalues(monkeypatch, values):
    """Let the splitting matrices' eigenvalues of each place be these."""
    asked = []

    def judge_ops(backbone, loss_fn, batches, places, *, curvature):
        asked.append((places, batches.part, curvature))
        found = {}
        for place in places:
            size = sum(value[..., 0].numel() for value in backbone.op_parameters(*place).values())
            vectors = torch.eye(size, dtype=torch.float64)[:3]
            found[place] = Splitting(torch.tensor(values[place], dtype=torch.float64), vectors)
        return found

    monkeypatch.setattr(splitting, "judge_ops", judge_ops)
    return asked


VALUES = {(0, 1): [-9.0, 1.0, 1.0], (0, 2): [-1.0, -1.0, -2.0], (1, 1): [-0.5, 1.0, -0.5], (1, 2): [1.0, 1.0, 1.0]}


@pytest.mark.parametrize(
    ("rule", "ranked"), [("neg_sum", [(0, 1), (0, 2), (1, 1)]), ("neg_count", [(0, 2), (1, 1), (0, 1)])]
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_splits_are_offered_by_the_rule_and_several_at_once(context, monkeypatch, rule, ranked, count):
    asked = scripted_eigenvalues(monkeypatch, VALUES)
    one = context(but(TRAINED, splitting={"rule": rule, "count": count, "part": "val", "curvature": "softplus"}))
    groups = [tuple(ranked[first : first + count]) for first in range(0, 3, count)]
    assert places(split_ops(one)) == groups
    assert asked == [(list(VALUES), "val", "softplus")]
    assert list(one.journal.work) == ["after-stage-1-splitting"]


def test_ops_split_at_once_leave_no_node_with_more_than_max_ops(copy_task, make_model):
    task = copy_task()
    options = but(TRAINED, mode="ops_split", max_ops=4, splitting={"count": 3})
    context = context_of(make_model(task, nodes=2), task, options)
    ranked = [(0, 1), (0, 2), (1, 2), (1, 1), (0, 0)]
    assert list(_groups(context, ranked)) == [[(0, 1), (1, 2)], [(0, 2), (1, 1)], [(0, 0)]]


def test_no_split_is_offered_where_none_gains(copy_task):
    """A relu is linear wherever it is differentiable; its curvature may be taken to be a softplus's."""
    task = copy_task()
    model = model_of(task, [("add", "identity"), ("add", "relu")])
    proposed = split_ops(context_of(model, task, TRAINED))
    assert (proposed.proposals, proposed.reason) == ([], "no split of a unit lowers the loss")
    proposed = split_ops(context_of(model, task, but(TRAINED, splitting={"curvature": "softplus"})))
    assert places(proposed) == [((0, 1),)]


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_a_split_is_predicted_to_bring_it_brings(copy_task, make_model, judge_says, monkeypatch, part, count):
    """To 1 % at small steps, in a growth's own log; and the log is what is measured."""
    judge_says(True)
    monkeypatch.setattr(splitting, "find_step", functools.partial(splitting.find_step, first=1e-3, shortest=1e-3))
    task, journal = copy_task(), TrainingJournal()
    options = but(TRAINED, mode="ops_split", splitting={"part": part, "count": count})
    grow(make_model(task, nodes=2), task, journal, options, seed=0)
    best, begun = journal.fits["stage-1-l2_sp-5"]["done"].model, journal.fits["stage-2"]["model"]
    lines = [line for line in journal.lines if line["stage"] == 2]
    assert [line["kind"] for line in lines] == ["split_op"] * count
    assert len({(line["node"], line["op"]) for line in lines}) == count
    batches, losses, core = Batches(best, task, part), [], best.core
    for line in lines:
        assert line["split_step"] == 1e-3
        assert line["change_on"] == part
        assert line["predicted_change"] < 0
        assert line["measured_change"] == pytest.approx(line["predicted_change"], rel=0.01)
        losses.append(batches.mean_loss(core))
        found = journal.work["after-stage-1-splitting"]
        number = all_ops_that_grow(best.core).index((line["node"], line["op"]))
        pair = Splitting(found["values"][number], found["vectors"][number])
        core = morphisms.split_op(core, line["node"], line["op"], pair, 1e-3).backbone
    losses.append(batches.mean_loss(core))
    assert [line["measured_change"] for line in lines] == [b - a for a, b in itertools.pairwise(losses)]
    for name, value in core.state_dict().items():
        assert torch.equal(value, begun.core.state_dict()[name])
    assert sum(line["drift"] for line in lines) > 0


def all_ops_that_grow(core):
    return [(node, op) for node, op in all_ops(core) if core.op_names(node)[op] != ("add", "identity")]


def test_a_split_that_only_a_tiny_step_would_do_is_no_split(copy_task, monkeypatch):
    """It would be as good as a copy without noise. Here every split raises the loss, whatever its step."""
    task, asked = copy_task(), []
    one = context_of(model_of(task, OPS), task, TRAINED)
    monkeypatch.setattr(Batches, "mean_loss", lambda self, core: asked.append(core) or 1.0 * len(core.alpha[0]))
    assert [proposal.make() for proposal in split_ops(one).proposals] == [None, None]
    assert len(asked) == 2 * (1 + 8)  # before, and at steps of 1, 1/2, .., 1/128


def test_a_cell_is_judged_once_however_many_splits_of_it_are_rejected(copy_task, make_model, judge_says):
    """The journal of these tests does the same work again and compares; a real one remembers."""
    judge_says(True, False, False, True)
    task, journal = copy_task(), TrainingJournal()
    options = but(TRAINED, mode="ops_split", outer_patience=3)
    grown = grow(make_model(task, nodes=2), task, journal, options, seed=0)
    assert [line["accepted"] for line in grown.stages] == [True, False, False, True, False, False, False]
    known = {stage: {key for key in journal.work if key.startswith(f"after-stage-{stage}-")} for stage in (1, 4)}
    assert set(journal.work) == known[1] | known[4]
    for stage, stages in ((1, 3), (4, 3)):
        assert journal.asked.count(f"after-stage-{stage}-splitting") == stages
        assert known[stage] >= {f"after-stage-{stage}-splitting", *(f"after-stage-{stage}-step-{n}" for n in (1, 2, 3))}


def test_keys_stay_short_however_many_ops_are_split_at_once(copy_task):
    """They become names of files."""
    task = copy_task()
    one = context_of(model_of(task, [("add", "tanh")] * 60), task, but(TRAINED, max_ops=None, splitting={"count": 60}))
    (proposal,) = split_ops(one).proposals
    assert len(proposal.make()) == len(proposal.places) == 60
    assert max(map(len, one.journal.work)) < 40


def test_the_step_is_the_first_that_brings_half_of_what_is_predicted(context):
    one = context(TRAINED)
    for proposal in split_ops(one).proposals:
        (change,) = proposal.make()
        steps = [1 / 2**number for number in range(8)]
        assert change.about["split_step"] in steps
        batches, known = Batches(one.best.model, one.task, "train"), one.journal.work["after-stage-1-splitting"]
        number = all_ops_that_grow(one.core).index(proposal.places[0])
        pair = Splitting(known["values"][number], known["vectors"][number])

        def share(step, pair=pair, place=proposal.places[0], batches=batches):
            core = morphisms.split_op(one.core, *place, pair, step).backbone
            change = batches.mean_loss(core) - batches.mean_loss(one.core)
            return change / splitting.predicted_change(pair.eigenvalues, step)

        larger = [step for step in steps if step > change.about["split_step"]]
        assert share(change.about["split_step"]) >= 0.5
        assert all(share(step) < 0.5 for step in larger)


def test_where_no_step_helps_the_next_split_is_made(copy_task, make_model, judge_says, monkeypatch):
    judge_says(True)
    task, answers = copy_task(), [None, Step(0.25, -1.0, -1.0)]

    def find_step(loss_at, predicted):
        loss_at(0.25)
        return answers.pop(0)

    monkeypatch.setattr(splitting, "find_step", find_step)
    journal = TrainingJournal()
    grow(make_model(task), task, journal, but(TRAINED, mode="ops_split"), seed=0)
    assert list(journal.work) == ["after-stage-1-splitting", "after-stage-1-step-1", "after-stage-1-step-2"]
    found, best = journal.work["after-stage-1-splitting"], journal.fits["stage-1-l2_sp-5"]["done"].model.core
    gains = {place: splitting.neg_sum(one) for place, one in zip(all_ops_that_grow(best), found["values"], strict=True)}
    (line,) = [line for line in journal.lines if line["stage"] == 2]
    assert (line["node"], line["op"]) == sorted(gains, key=gains.__getitem__)[1]


def test_where_no_split_helps_growth_says_so(copy_task, make_model, monkeypatch):
    monkeypatch.setattr(splitting, "find_step", lambda loss_at, predicted: None)
    task, journal = copy_task(), TrainingJournal()
    grown = grow(make_model(task), task, journal, but(TRAINED, mode="ops_split"), seed=0)
    assert grown.reason == "no split op is possible"
    assert journal.lines == []


# --- at random ---

NODES = {"add_node": lambda core: [(place, None) for place in range(len(core.nodes) + 1)]}
WHERE = {**NODES, "duplicate_op": all_ops_that_grow, "split_op": all_ops_that_grow}


@pytest.mark.parametrize("kind", KINDS)
def test_random_choice_goes_through_all_places_in_an_order_of_its_seed(context, kind):
    orders = set()
    for seed in range(20):
        one, again = (context(RANDOM, seed=seed) for _ in range(2))
        found = [place for (place,) in places(MOVES[kind].propose(one))]
        assert found == [place for (place,) in places(MOVES[kind].propose(again))]
        assert sorted(found, key=str) == sorted(WHERE[kind](one.core), key=str)
        assert one.journal.work == {}  # no criterion is asked
        orders.add(tuple(found))
    assert len(orders) > (3 if kind == "add_node" else 10)
    assert len({order[0] for order in orders}) == len(found)


def test_the_random_choice_of_a_kind_says_nothing_of_the_place(copy_task, make_model):
    """Every kind at every place comes about."""
    task = copy_task()
    one = context_of(make_model(task), task, but(RANDOM, mode="nodes_and_ops", thresholds=Thresholds()))
    found = {choose(with_problem(one, seed=seed), []).proposal.move for seed in range(60)}
    assert found == {(kind, (place,)) for kind in KINDS for place in WHERE[kind](one.core)}


def test_a_random_split_goes_some_way_in_directions_of_its_seed(context):
    """All units, as far as noise would take them on average; nothing is predicted."""
    ways = []
    for seed in (1, 1, 2):
        one = context(RANDOM, seed=seed)
        (proposal,) = [each for each in split_ops(one).proposals if each.places == ((0, 2),)]
        (change,) = proposal.make()
        core = change.make(one.core).backbone
        before = one.core.op_parameters(0, 2)
        halves = [
            torch.cat([(core.op_parameters(0, op)[name] - value).reshape(-1, 3) for name, value in before.items()])
            for op in (2, 3)
        ]
        torch.testing.assert_close(halves[0], -halves[1], rtol=0, atol=1e-14)
        size = len(halves[0])
        assert size == 2 + 1 + 3 + 1
        step = one.noise * math.sqrt(size)
        torch.testing.assert_close(halves[0].norm(dim=0), torch.full((3,), step, dtype=torch.float64))
        assert (change.predicted, change.about) == (None, {"split_step": step})
        ways.append(halves[0].detach())
    assert torch.equal(ways[0], ways[1])
    assert not torch.allclose(ways[0], ways[2])


# --- again ---


@pytest.mark.parametrize("choice", ["criteria", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_that_is_repeated_is_the_same(context, assert_equal, kind, choice):
    options = but(TRAINED, mode="nodes_and_ops", choice=choice, position="best", thresholds=Thresholds(min_age=0))
    one = context(options, watched=[aged([0.3, 0.3, 0.4])] * 2)
    proposals = MOVES[kind].propose(one).proposals[:3]
    assert len(proposals) == 3
    for proposal in proposals:
        (change,) = proposal.make()
        line = {"kind": kind, "node": change.node, "op": change.op, **change.about}
        (again,) = repeat(one, [line])
        assert (again.kind, again.node, again.op) == (change.kind, change.node, change.op)
        first, second = (each.make(one.core).backbone for each in (change, again))
        if kind == "split_op" and choice == "criteria":  # judged alone, to the tolerance of judging
            assert first.op_names(change.node) == second.op_names(change.node)
            assert again.predicted == pytest.approx(change.predicted, rel=0.05)
        else:
            assert_equal(dict(first.state_dict()), dict(second.state_dict()))


def test_resampling_proposes_the_smallest_op_of_each_node_that_has_several(copy_task):
    task = copy_task()
    model = model_of(task, OPS, [("add", "identity")], OPS)
    set_shares(model.core, 0, [0.5, 0.2, 0.3])
    set_shares(model.core, 2, [0.1, 0.2, 0.7])
    one = context_of(model, task, but(ONE_STRENGTH, replace="missing"))
    proposal = resample(one)
    assert proposal.move == ("replace_op", ((0, 1), (2, 0)))
    assert [(change.kind, change.node, change.op) for change in proposal.make()] == [
        ("replace_op", 0, 1), ("replace_op", 2, 0),
    ]  # fmt: skip
    assert resample(context_of(model_of(task, [("add", "tanh")]), task, one.options)).make() == []


def changes_of(context, kind):
    """Changes of a kind, one after another possible."""
    if (propose := MOVES[kind].propose) is not None:
        return [change for proposal in propose(context).proposals for change in proposal.make()]
    change_at = {"prune_op": prune_at, "replace_op": lambda *place: replace_at(context, context.core, *place)}[kind]
    return [change_at(*place) for place in all_ops(context.core)]


@pytest.mark.parametrize("birth", ["blend", "drawn", "carrier"])
@pytest.mark.parametrize("choice", ["criteria", "random"])
@pytest.mark.parametrize("kind", MOVES)
def test_every_move_is_repeated_from_its_line_in_the_log(context, assert_equal, kind, choice, birth):
    options = but(TRAINED, mode="nodes_and_ops", choice=choice, position="best", birth=birth, replace="missing")
    one = context(options, watched=[aged([0.3, 0.3, 0.4])] * 2)
    changes = changes_of(one, kind)
    assert len(changes) > 2
    for change in changes:
        after, line = apply(one.best, change, one.task, options, stage=2, step=0)
        (again,) = repeat(one, _moves([line]))
        repeated, same = apply(one.best, again, one.task, options, stage=2, step=0)
        assert line["words"] == MOVES[kind].words
        if kind == "split_op" and choice == "criteria":  # measured where it is proposed
            line, same = ({key: value for key, value in one.items() if key not in MEASURED} for one in (line, same))
        assert_equal(same, line)
        assert_equal(dict(repeated.model.state_dict()), dict(after.model.state_dict()))


MEASURED = ("measured_change",)


@pytest.mark.parametrize("kind", [kind for kind in MOVES if kind != "add_node"])
def test_the_sources_of_a_move_say_where_each_op_was(context, kind):
    one = context(but(TRAINED, mode="nodes_and_ops", replace="missing"), watched=[aged([0.3, 0.3, 0.4])] * 2)
    for change in changes_of(one, kind):
        before, after = (core.op_names(change.node) for core in (one.core, change.make(one.core).backbone))
        sources = MOVES[kind].sources(len(before), change.op)
        assert len(sources) == len(after)
        assert [before[source] for source in sources if source is not None] == [
            name for name, source in zip(after, sources, strict=True) if source is not None
        ]
        _, line = apply(one.best, change, one.task, one.options, stage=2, step=0)
        assert line["sources"] == list(sources)


def test_modes_and_moves_fit_together():
    """Every kind that a stage may begin with is of a mode, and every mode begins stages with such kinds alone."""
    assert sorted(MODES["nodes_and_ops"]) == sorted(KINDS)
    assert {kind for kinds in MODES.values() for kind in kinds} == set(KINDS)
    assert set(MODES) == set(get_args(Options.model_fields["mode"].annotation))
    assert {kind for kinds in map(set, MODES.values()) if len(kinds) == 1 for kind in kinds} == set(KINDS)
    assert len({move.words for move in MOVES.values()}) == len({move.label for move in MOVES.values()}) == len(MOVES)


@pytest.mark.parametrize(
    ("change_of", "ages"),
    [
        (lambda context: add_node_at(context, 0), [[0] * 3, [5] * 3, [9] * 3]),
        (lambda context: add_node_at(context, 1), [[5] * 3, [0] * 3, [9] * 3]),
        (lambda context: duplicate_at(context, 0, 1), [[5, 0, 5, 0], [9] * 3]),
        (lambda context: prune_at(1, 0), [[5] * 3, [9] * 2]),
        (lambda context: replace_at(context, context.core, 1, 2), [[5] * 3, [9, 9, 0]]),
    ],
    ids=["a node before", "a node between", "a copy", "a removal", "a replacement"],
)
def test_what_is_watched_follows_the_cell(context, change_of, ages):
    """New ops and copies are young, the others stay as old as they were, whatever their numbers are now."""
    one = context(watched=[tuple(Watched(1 / 3, age) for _ in range(3)) for age in (5, 9)])
    candidate, _ = apply_all(one, [change_of(one)])
    assert [[watched.age for watched in node] for node in candidate.watched] == ages
    assert [len(node) for node in candidate.watched] == [len(alpha) for alpha in candidate.model.core.alpha]


def test_making_a_proposal_leaves_the_candidate_alone(context, assert_equal):
    for kind, choice in itertools.product(KINDS, ("criteria", "random")):
        options = but(TRAINED, mode="nodes_and_ops", choice=choice, thresholds=Thresholds(min_age=0))
        one = context(options, watched=[aged([0.3, 0.3, 0.4])] * 2)
        before, random = copy.deepcopy(dict(one.best.model.state_dict())), torch.get_rng_state()
        proposals = MOVES[kind].propose(one).proposals
        assert proposals
        for proposal in proposals:
            for change in proposal.make():
                assert change.make(one.core).backbone is not one.core
        assert_equal(dict(one.best.model.state_dict()), before)
        assert torch.equal(torch.get_rng_state(), random)


# ---- what a ranking takes


@pytest.mark.parametrize(
    ("ranking", "options"),
    [
        ("positions", but(TRAINED, position="best")),
        ("positions", but(TRAINED, position="best", birth="blend", candidates=3, blend_steps=2)),
        ("splitting", but(TRAINED, mode="ops_split")),
    ],
    ids=["carrier", "blend", "split"],
)
def test_gradients_of_a_ranking_are_counted_as_they_are_made(copy_task, make_model, ranking, options):
    class Counting(copy_task):
        gradients = 0

        def loss(self, model, out, window):
            type(self).gradients += torch.is_grad_enabled()
            return super().loss(model, out, window)

    task, journal = Counting(), Journal.in_memory()
    found = grow(make_model(task), task, journal, options, seed=2)
    ranked = [tree["gradients"] for key, tree in journal.store.trees.items() if ranking in key]
    assert ranked
    assert min(ranked) > 0
    assert journal.gradients == Counting.gradients == found.steps + sum(ranked)
