"""Pruning inside growth: what goes, what comes in its place, and when all of it is undone."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.backbones.chain import shares_of
from grownas.criteria import threshold
from grownas.criteria.readout import CHOICES, Readout, Removal
from grownas.criteria.threshold import Thresholds, Watched
from grownas.ops import DEFAULT_OPS
from grownas.protocols import Evaluation
from grownas.space import SearchSpace
from grownas.strategies.cores import with_core
from grownas.strategies.growing.moves import prune_at, replace_at
from grownas.strategies.growing.pruning import log_prunings, prune_stage
from grownas.strategies.growing.state import Stage
from grownas.training.recipe import OptimizerRecipe, Recipe, count_parameters
from support.growing import (
    BEST,
    CHANGED,
    DAYS,
    KINDS,
    ONE_STRENGTH,
    OP_KEYS,
    SPACE,
    STEPS,
    TRAINED,
    ScriptedJournal,
    TrainingJournal,
    aged,
    but,
    context_of,
    grow,
    model_of,
    rounded,
    set_shares,
    with_problem,
)

OPS = [("add", "identity"), ("add", "tanh"), ("hadamard", "sigmoid")]  # of `make_model`
LOSSES = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.8, "stage-3": 0.95}
SMALL = {"stage-2": (1, [0.90, 0.06, 0.04])}
EACH, END = "stage-2-l2_sp-0-pruned-each_stage", "stage-2-l2_sp-0-pruned-at_end"


def prune_lines(journal):
    return [line for line in journal.lines if line["kind"] in ("prune_op", "replace_op")]


# --- within a growth ---


def test_nothing_is_pruned_without_pruning(search):
    grown, journal, _ = search(LOSSES, but(ONE_STRENGTH, top_k=1), shares=SMALL)
    assert prune_lines(journal) == []
    assert [len(alpha) for alpha in grown.model.core.alpha] == [3, 3]


def test_pruning_in_each_stage(search):
    options = but(ONE_STRENGTH, prune="each_stage", fine_tune_epochs=6)
    grown, journal, _ = search({**LOSSES, EACH: 0.75}, options, shares=SMALL)
    add, prune, last = journal.lines
    assert set(prune) == OP_KEYS
    assert (add["kind"], last["kind"]) == ("add_node", "add_node")
    assert (prune["stage"], prune["step"], prune["node"]) == (2, STEPS, 1)
    assert (prune["op"], prune["op_name"]) == (2, "hadamard/sigmoid")
    assert [line["part"] for line in journal.lines] == ["stage-2", EACH, "stage-3"]
    assert [(line["part"], line["part_pruned"]) for line in grown.stages] == [
        ("stage-1-l2_sp-0", None), ("stage-2", EACH), ("stage-3", None),
    ]  # fmt: skip
    assert (add["predicted_change"], prune["predicted_change"]) == (0.0, None)  # nothing predicts a pruning's change
    assert (add["loss_after"], prune["loss_before"], prune["loss_after"]) == (0.8, 0.8, CHANGED)
    assert prune["measured_change"] == pytest.approx(CHANGED - 0.8)
    assert [len(node["ops"]) for node in prune["cell_before"]["nodes"]] == [3, 3]
    assert [len(node["ops"]) for node in prune["cell_after"]["nodes"]] == [3, 2]
    smoothed = 0.04 + (0.25 - 0.04) * 0.7**BEST  # from the new node's share on
    assert prune["judge"] == {"rule": "share", "figure": pytest.approx(smoothed), "threshold": 0.05}
    assert add["params_after"] == prune["params_before"] == prune["params_after"] + (2 * 3 + 3 + 9 + 3 + 1)
    assert prune["accepted"] is True
    assert last["loss_before"] == 0.75
    assert [len(alpha) for alpha in grown.model.core.alpha] == [3, 2]
    tuned = journal.fits[EACH]
    assert tuned["recipe"] == replace(options.recipe, l2_sp=0.0, epochs=6)
    assert [p.shape for g in tuned["optimizers"][1].param_groups for p in g["params"]] == [(3,), (2,)]
    line = rounded(grown.stages[1])
    assert (line["loss_after"], line["steps"], line["seconds"]) == (0.75, 2 * STEPS, 2.0)
    assert grown.steps == 4 * STEPS


def test_prunings_of_a_rejected_stage_are_logged_as_rejected(search):
    grown, journal, _ = search(
        {**LOSSES, "stage-2": 0.99, EACH: 0.95}, but(ONE_STRENGTH, prune="each_stage"), shares=SMALL
    )
    assert [line["accepted"] for line in journal.lines] == [False, False]
    assert len(grown.model.core.nodes) == 1


def test_pruning_at_the_end_prunes_the_best_stage(search):
    shares = {**SMALL, "stage-3": (2, [0.98, 0.01, 0.01])}
    grown, journal, _ = search({**LOSSES, END: 0.79}, but(ONE_STRENGTH, prune="at_end"), shares=shares)
    assert [line["kind"] for line in journal.lines] == ["add_node", "add_node", "prune_op"]
    prune = journal.lines[-1]
    assert set(prune) == OP_KEYS
    assert prune["stage"] == 2  # that of the model, not the last that was tried
    assert (prune["node"], prune["loss_before"], prune["loss_after"], prune["accepted"]) == (1, 0.8, CHANGED, True)
    assert [len(alpha) for alpha in grown.model.core.alpha] == [3, 2]
    assert grown.steps == 4 * STEPS


def test_top_k_prunes_the_smallest_shares_of_each_node(search):
    losses = {"stage-1-l2_sp-0": 0.9, "stage-1-l2_sp-0-pruned-each_stage": 0.89}
    options = but(ONE_STRENGTH, prune="each_stage", thresholds=Thresholds(prune_threshold=0.0), top_k=1, max_nodes=1)
    shares = {"stage-1-l2_sp-0": (0, [0.3, 0.25, 0.45])}
    grown, journal, _ = search(losses, options, shares=shares, seconds=2.5)
    assert [line["op_name"] for line in journal.lines] == ["add/tanh", "add/identity"]
    assert [line["op"] for line in journal.lines] == [1, 0]  # as the node was before each
    assert [line["wall_s"] for line in journal.lines] == [0.0, 2.5]  # the fine-tuning, from the journal
    assert [line["judge"] for line in journal.lines] == [
        {"rule": "top_k by share", "figure": pytest.approx(figure), "threshold": 1} for figure in (0.25, 0.3)
    ]
    assert [line["loss_before"] for line in journal.lines] == [0.9, CHANGED]
    assert grown.model.core.op_names(0) == [("hadamard", "sigmoid")]


@pytest.mark.parametrize("prune", ["each_stage", "at_end"])
@pytest.mark.parametrize(
    ("shares", "best_epoch", "pruned"),
    [
        ([0.55, 0.2001, 0.2499], BEST, False),  # just above the threshold
        ([0.55, 0.19, 0.26], BEST, True),
        ([0.55, 0.0, 0.45], 4, False),  # younger than min_age
        ([0.55, 0.0, 0.45], 5, True),
        ([[0.4, 0.3, 0.3]] * (BEST - 1) + [[0.5, 0.05, 0.45]] * 6, BEST, False),  # new: smoothed, 0.23
        ([[0.4, 0.3, 0.3]] * (BEST - 2) + [[0.5, 0.05, 0.45]] * 7, BEST, True),  # for two epochs, 0.17
        ([[0.5, 0.05, 0.45]] * (BEST - 5) + [[0.4, 0.3, 0.3]] * 10, BEST, False),  # was low, came back: 0.25
        ([[0.5, 0.05, 0.45]] * (BEST - 2) + [[0.4, 0.3, 0.3]] * 7, BEST, True),  # not by a fifth yet: 0.18
    ],
)
def test_an_op_goes_whose_smoothed_share_was_low_for_long(search, prune, shares, best_epoch, pruned):
    options = but(ONE_STRENGTH, prune=prune, thresholds=Thresholds(1.0, 0.2, min_age=5), max_nodes=1)
    losses = {"stage-1-l2_sp-0": 0.9, f"stage-1-l2_sp-0-pruned-{prune}": 0.9}
    _, journal, _ = search(losses, options, shares={"stage-1-l2_sp-0": (0, shares)}, best_epoch=best_epoch)
    assert [line["op"] for line in journal.lines] == ([1] if pruned else [])


@pytest.mark.parametrize(("largest", "pruned"), [(("add", "identity"), True), (("add", "tanh"), False)])
def test_nothing_goes_beside_a_high_op_that_can_be_duplicated(search, largest, pruned):
    """A second carrier would bring nothing: its share shields no other."""
    place = OPS.index(largest)
    shares = [0.96 if number == place else 0.02 for number in range(3)]
    options = but(ONE_STRENGTH, mode="ops_duplicate", prune="each_stage")
    losses = {"stage-1-l2_sp-0": 0.9, "stage-1-l2_sp-0-pruned-each_stage": 0.9}
    _, journal, _ = search(losses, options, limit=0.1, shares={"stage-1-l2_sp-0": (0, shares)})
    assert len(journal.lines) == (2 if pruned else 0)


@pytest.mark.parametrize("prune", ["each_stage", "at_end"])
def test_the_fine_tuning_after_a_pruning_keeps_the_rates_of_its_stage(copy_task, make_model, judge_says, prune):
    """The readout is old, the node is new."""
    judge_says(*[True] * 9)
    recipe = Recipe(epochs=2, patience=None, weights=OptimizerRecipe(rate=0.01), alpha=OptimizerRecipe(rate=0.02))
    task, journal = copy_task(), TrainingJournal()
    options = but(
        ONE_STRENGTH, recipe=recipe, new_rate=2.0, old_rate=0.5, max_nodes=2,
        prune=prune, top_k=2, thresholds=Thresholds(1.0, 0.0),
    )  # fmt: skip
    grow(make_model(task), task, journal, options, seed=0)
    groups = journal.fits[f"stage-2-l2_sp-0-pruned-{prune}"]["done"].optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [0.5 * 0.01, 2.0 * 0.01]
    model = journal.fits[f"stage-2-l2_sp-0-pruned-{prune}"]["done"].model
    new = set(model.core.nodes[1].parameters()) - {model.core.alpha[1]}
    assert {p for p in groups[1]["params"] if p.numel()} == {p for p in new if p.numel()}


# --- undone ---


@pytest.mark.parametrize("prune", ["each_stage", "at_end"])
@pytest.mark.parametrize("replaced", ["none", "missing"])
def test_a_harmful_pruning_is_undone(search, prune, replaced):
    """The judge takes the unpruned for better: its figure stands in the line."""
    options, key = but(ONE_STRENGTH, prune=prune, replace=replaced, max_nodes=2), f"stage-2-l2_sp-0-pruned-{prune}"
    grown, journal, _ = search({**LOSSES, key: 0.85}, options, shares=SMALL)
    (line,) = prune_lines(journal)
    assert line["kind"] == ("prune_op" if replaced == "none" else "replace_op")
    assert line["accepted"] is False
    assert line["judge"] == {"rule": "harm, better", "figure": pytest.approx(0.05), "threshold": 0.0}
    assert line["wall_s"] == 1.0
    assert grown.model is journal.fits["stage-2"]["done"].model
    assert [line["accepted"] for line in grown.stages] == [True, True]
    assert rounded(grown.stages[1])["loss_after"] == 0.8
    assert (grown.stages[1]["pruned"], grown.stages[1]["best_epoch_pruned"]) == ([], None)  # nothing to repeat
    assert (grown.steps, grown.seconds) == (3 * STEPS, 3.0)  # the fine-tuning was work all the same


FOUR = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.8, "stage-3": 0.7, "stage-4": 0.75}
BACK = [[0.9, 0.06, 0.04]] * 5 + [[0.6, 0.2, 0.2]] * 5 + [[0.9, 0.06, 0.04]] * 10  # of one epoch each


@pytest.mark.parametrize(
    ("between", "again"), [(SMALL["stage-2"][1], []), (BACK, [2])], ids=["it stays low", "it came back between"]
)
def test_a_pruning_that_was_undone_comes_again_only_when_its_share_had_left_the_level(search, between, again):
    """The stage was accepted as it was before the pruning; growth goes on from there."""
    thresholds = Thresholds(smoothing=1.0, min_age=2)
    options = but(ONE_STRENGTH, prune="each_stage", max_nodes=4, thresholds=thresholds)
    tuned = {EACH: 0.85, **{f"stage-{number}-l2_sp-0-pruned-each_stage": 0.9 for number in (3, 4) if again}}
    shares = {**SMALL, **{f"stage-{number}": (1, between) for number in (3, 4)}}
    _, journal, _ = search({**FOUR, **tuned}, options, shares=shares)
    assert [(line["stage"], line["op"], line["accepted"]) for line in prune_lines(journal)] == [
        (stage, op, False) for stage, ops in ((2, [2]), (3, again), (4, again)) for op in ops
    ]


@pytest.mark.parametrize(("tuned", "stages"), [(0.99, [2]), (0.93, [2, 3])], ids=["harmful", "harmless"])
def test_a_pruning_that_was_undone_in_a_rejected_stage_is_not_tried_on_the_best_again(search, tuned, stages):
    """In the first stage a high op shields the low one; in those that follow, which put a node before it, none does."""
    thresholds = Thresholds(0.4, 0.05, smoothing=1.0, min_age=2)
    options = but(
        ONE_STRENGTH, mode="nodes_and_ops", prune="each_stage", position="first", outer_patience=2, max_nodes=2,
        thresholds=thresholds,
    )  # fmt: skip
    shares = {"stage-1-l2_sp-0": (0, [0.28, 0.7, 0.02])}
    shares |= {f"stage-{number}": (1, [0.68, 0.3, 0.02]) for number in (2, 3)}
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.95, "stage-3": 0.95}
    losses |= {f"stage-{number}-l2_sp-0-pruned-each_stage": tuned for number in stages}
    losses |= {f"stage-{number}-try-{kind}": 0.1 if kind == "add_node" else 1.0 for number in (2, 3) for kind in KINDS}
    grown, journal, _ = search(losses, options, shares=shares, limit=10.0)  # in seconds of one fit each
    assert [line["accepted"] for line in grown.stages] == [True, False, False]
    assert [(line["stage"], line["node"], line["op"]) for line in prune_lines(journal)] == [
        (stage, 1, 2) for stage in stages
    ]


@pytest.mark.parametrize(("harm", "rule", "ops"), [(0.01, "share", 2), (1.0, "harm, significant", 3)])
def test_a_harm_that_is_not_significant_stays(search, harm, rule, ops):
    noise = np.random.default_rng(0).normal(0, 1, DAYS)
    losses = {"stage-1-l2_sp-0": 0.5, "stage-1-l2_sp-0-pruned-at_end": 0.5 + harm + noise - noise.mean()}
    options = but(ONE_STRENGTH, prune="at_end", accept="significant", max_nodes=1)
    grown, journal, _ = search(losses, options, shares={"stage-1-l2_sp-0": (0, [0.9, 0.06, 0.04])})
    (line,) = journal.lines
    assert (line["judge"]["rule"], line["accepted"]) == (rule, rule == "share")
    assert (line["judge"]["figure"] > line["judge"]["threshold"]) == (rule != "share")
    assert len(grown.model.core.alpha[0]) == ops


@pytest.mark.parametrize("replaced", ["none", "uniform"])
def test_what_was_undone_is_as_it_was_to_the_last_bit(
    copy_task, make_model, judge_says, assert_equal, outcome, replaced
):
    judge_says(True, True)  # stage 1; the unpruned is better
    task, journal = copy_task(dropout=0.1), TrainingJournal(outcome)
    options = but(
        TRAINED, prune="each_stage", replace=replaced, max_nodes=1, fine_tune_epochs=2,
        thresholds=Thresholds(1.0, 0.33, hysteresis=0.1, min_age=1),
    )  # fmt: skip
    before = torch.get_rng_state()
    start = make_model(task)
    torch.set_rng_state(before)
    grown = grow(start, task, journal, options, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(journal.fits) == ["stage-1-l2_sp-5", "stage-1-l2_sp-5-pruned-each_stage"]
    assert [line["accepted"] for line in journal.lines] == [False] * len(journal.lines)
    assert journal.lines
    done = journal.fits["stage-1-l2_sp-5"]["done"]
    assert_equal(outcome(done), journal.outcomes["stage-1-l2_sp-5"])
    assert grown.model is done.model


@pytest.mark.parametrize(("prune", "kept"), [("each_stage", 3), ("at_end", 2)])
def test_an_op_that_may_be_duplicated_shields_others_only_while_the_cell_grows(search, prune, kept):
    """There is no time for more than the first stage."""
    options = but(ONE_STRENGTH, mode="ops_duplicate", prune=prune, thresholds=Thresholds(0.6, 0.05))
    losses = {"stage-1-l2_sp-0": 0.9, f"stage-1-l2_sp-0-pruned-{prune}": 0.85}
    grown, _, _ = search(losses, options, limit=0.1, shares={"stage-1-l2_sp-0": (0, [0.04, 0.92, 0.04])})
    assert len(grown.model.core.alpha[0]) == kept - (prune == "at_end")


@pytest.mark.parametrize(("room", "kind"), [(3, "replace_op"), (2, "prune_op")])
def test_an_op_whose_replacement_would_be_too_large_is_removed(search, make_model, copy_task, room, kind):
    """The op is additive; what is drawn has a bias of three units more."""
    options = but(
        ONE_STRENGTH, prune="each_stage", replace="uniform", max_nodes=1,
        thresholds=Thresholds(1.0, 0.1), max_params=count_parameters(make_model(copy_task())) + room,
    )  # fmt: skip
    losses = {"stage-1-l2_sp-0": 0.9, "stage-1-l2_sp-0-pruned-each_stage": 0.85}
    shares, space = {"stage-1-l2_sp-0": (0, [0.48, 0.04, 0.48])}, SearchSpace(("hadamard",), ("tanh",))
    _, journal, _ = search(losses, options, shares=shares, space=space)
    assert [line["kind"] for line in journal.lines] == [kind]


def test_in_a_full_node_no_op_shields_the_small_ones(search):
    """Until there is room for a copy again."""
    options = but(ONE_STRENGTH, mode="ops_duplicate", prune="each_stage", max_ops=3, thresholds=Thresholds(0.6, 0.05))
    losses = {"stage-1-l2_sp-0": 0.9, "stage-1-l2_sp-0-pruned-each_stage": 0.85}
    grown, _, _ = search(losses, options, limit=0.1, shares={"stage-1-l2_sp-0": (0, [0.04, 0.92, 0.04])})
    assert len(grown.model.core.alpha[0]) == 2


# --- in its place ---


def pruned(context, *, losses=-1.0):
    """Prune a context's best candidate, without harm; return the stage and the journal."""
    key = f"stage-{context.number}-l2_sp-0-pruned-{context.options.prune}"
    journal = ScriptedJournal({key: losses})
    context = with_problem(context, journal=journal)
    return prune_stage(Stage(context.best), context), journal


def replacing(**changes):
    return but(ONE_STRENGTH, prune="each_stage", thresholds=Thresholds(1.0), replace="missing", **changes)


def context_with(task, shares, options, ops=OPS, **more):
    """A context of one node whose ops have had these shares for long."""
    model = model_of(task, ops)
    set_shares(model.core, 0, shares)
    return context_of(model, task, options, watched=[aged(shares, options.thresholds)], **more)


def test_a_small_op_makes_room_for_one_at_an_average_share(copy_task):
    task = copy_task()
    space = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid"))
    stage, journal = pruned(context_with(task, [0.7, 0.27, 0.03], replacing(), space=space))
    (line,) = stage.prunings
    assert (line["kind"], line["op"], line["op_name"]) == ("replace_op", 2, "hadamard/sigmoid")
    assert line["judge"] == {"rule": "share", "figure": pytest.approx(0.03), "threshold": 0.05}
    core = journal.fits["stage-2-l2_sp-0-pruned-each_stage"]["model"].core
    assert line["new_op"] == "/".join(core.op_names(0)[2])
    assert core.op_names(0)[:2] == OPS[:2]
    assert shares_of(core)[0] == pytest.approx([0.73 - 1 / 3, 0.27, 1 / 3])
    assert [len(alpha) for alpha in stage.model.core.alpha] == [3]


@pytest.mark.parametrize(
    ("ops", "shares", "share"),
    [
        ([("add", "identity"), ("add", "tanh"), ("hadamard", "tanh")], [0.2, 0.77, 0.03], 0.115),  # half of the room
        ([("add", "sigmoid"), ("add", "tanh"), ("hadamard", "tanh")], [0.2, 0.77, 0.03], 0.03),  # none can give
    ],
)
def test_where_there_is_less_room_the_share_is_smaller(copy_task, ops, shares, share):
    context = context_with(copy_task(), shares, replacing(), ops)
    _, journal = pruned(context)
    found = shares_of(journal.fits["stage-2-l2_sp-0-pruned-each_stage"]["model"].core)[0]
    assert found[2] == pytest.approx(share)
    assert found[1] == pytest.approx(0.77)
    assert sum(found) == pytest.approx(1)


@given(seed=st.integers(0, 10**6), way=st.sampled_from(["uniform", "missing"]), count=st.integers(1, 6))
def test_what_is_drawn_is_of_the_space_and_depends_on_the_seed_alone(copy_task, seed, way, count):
    rng = random.Random(seed)
    ops = [rng.choice(DEFAULT_OPS) for _ in range(count)]
    task = copy_task()
    options = but(ONE_STRENGTH, replace=way)
    context = context_of(model_of(task, ops), task, options, seed=seed)
    one, again = (replace_at(context, context.core, 0, count - 1) for _ in range(2))
    assert one.about == again.about
    drawn = tuple(one.about["new_op"].split("/"))
    assert drawn in SPACE.ops
    assert way == "uniform" or drawn not in ops
    weights = [one.make(context.core).backbone.state_dict() for one in (one, again, again)]
    for others in weights[1:]:  # made again, it is the same again
        assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), others.values(), strict=True))


@pytest.mark.parametrize("way", ["uniform", "missing"])
def test_other_seeds_and_places_draw_others(copy_task, way):
    task, options = copy_task(), but(ONE_STRENGTH, replace=way)
    context = context_of(model_of(task, OPS), task, options)
    drawn = {replace_at(with_problem(context, seed=seed), context.core, 0, 1).about["new_op"] for seed in range(60)}
    assert len(drawn) == (8 if way == "uniform" else 5)
    assert len({replace_at(context, context.core, 0, op).about["new_op"] for op in range(3)}) > 1


def test_a_new_op_is_not_judged_before_its_age(copy_task):
    """However small its share: it was drawn a few epochs ago."""
    task, options = copy_task(), replacing()
    stage, _ = pruned(context_with(task, [0.7, 0.27, 0.03], options))
    node = stage.candidate.watched[0]
    assert [one.age for one in node] == [99 + BEST, 99 + BEST, BEST]
    for epochs, again in ((4, False), (5, True)):
        young = (*aged([0.7, 0.27]), Watched(0.03))
        for _ in range(epochs):
            young = threshold.observe(young, [0.7, 0.27, 0.03], options.thresholds)
        context = context_of(stage.model, task, options, watched=[young])
        after, _ = pruned(context)
        assert len(after.prunings) == again


TWINS = [("add", "tanh"), ("add", "relu"), ("hadamard", "tanh")]


@pytest.mark.parametrize("candidate", TWINS, ids="/".join)
@pytest.mark.parametrize("removed", [False, True])
def test_ops_of_a_kind_that_come_in_at_once_have_different_weights(copy_task, candidate, removed):
    """Three of them; where an op before them goes in between, the next has the number that the last one had."""
    options, space = replacing(), SearchSpace(candidate[:1], candidate[1:])
    task = copy_task()
    model = model_of(task, [OPS[0], *[("add", "sigmoid")] * 5])
    context, core = context_of(model, task, options, space=space), model.core
    for op in (3, 3, 3) if removed else (3, 4, 5):
        core = replace_at(context, core, 0, op).make(core).backbone
        core = prune_at(0, 1).make(core).backbone if removed and len(core.alpha[0]) > 4 else core
    new = [op for op, name in enumerate(core.op_names(0)) if name == candidate]
    assert len(new) == 3
    for name in ("W_x", "W_h"):
        values = [core.op_parameters(0, op)[name] for op in new]
        different = [not torch.equal(one, other) for one, other in itertools.combinations(values, 2)]
        assert all(different) or (name == "W_x" and candidate[0] == "hadamard")
    again = replace_at(context, model.core, 0, 2).make(model.core).backbone.op_parameters(0, 2)  # alone: silent
    assert again["W_x"].abs().max() == 0


def test_the_lines_of_what_stays_are_accepted_with_the_stage(copy_task):
    stage, _ = pruned(context_with(copy_task(), [0.7, 0.27, 0.03], replacing()))
    for accepted in (True, False):
        journal = ScriptedJournal({})
        log_prunings(journal, stage, accepted=accepted)
        assert [line["accepted"] for line in journal.lines] == [accepted]


def test_a_stage_without_small_ops_is_left_as_it_is(copy_task):
    context = context_with(copy_task(), [0.5, 0.3, 0.2], replacing())
    stage, journal = pruned(context)
    assert stage.candidate is context.best
    assert stage.prunings == ()
    assert journal.fits == {}


# --- the most that a node keeps ---


@pytest.mark.parametrize(("readout", "name"), [("share", ("add", "tanh")), ("ablation", ("add", "identity"))])
def test_top_k_by_ablation_keeps_what_the_score_misses_most(copy_task, readout, name):
    """Two ops hold nearly all of the mixture and give nothing, the third says the input again, which is asked for."""

    class Echo(copy_task):
        def evaluate(self, model, part):
            x = self.values[80:104].unsqueeze(1)
            with torch.no_grad():
                losses = (model.eval()(x)[0] - x).square().mean((1, 2)).numpy()
            return Evaluation(float(losses.mean()), losses)

    ops = [("add", "tanh"), ("add", "relu"), ("add", "identity"), ("hadamard", "identity")]
    options = but(
        ONE_STRENGTH, prune="each_stage", thresholds=Thresholds(1.0, 0.0), top_k=1, readout=readout
    )  # fmt: skip
    context = context_with(Echo(), [0.5, 0.3, 0.15, 0.05], options, ops)
    with torch.no_grad():
        for parameter in (*context.core.nodes[0].parameters(), *context.best.model.readout.parameters()):
            parameter.mul_(0 if parameter is not context.core.alpha[0] else 1)
        context.core.op_parameters(0, 2)["W_x"].copy_(torch.eye(2, 3))
        context.best.model.readout.weight.copy_(torch.eye(2, 3))
    stage, _ = pruned(context)
    assert stage.model.core.op_names(0) == [name]
    assert [line["judge"]["rule"] for line in stage.prunings] == [f"top_k by {readout}"] * 3
    assert [line["judge"]["threshold"] for line in stage.prunings] == [1] * 3


@given(seed=st.integers(0, 10**6), top_k=st.integers(1, 4), readout=st.sampled_from(["share", "ablation"]))
@settings(max_examples=25)
def test_what_is_kept_is_decided_once(copy_task, seed, top_k, readout):
    """An op that took over the share of one that went is not kept for that."""
    rng, task = random.Random(seed), copy_task()
    model = model_of(task, *([rng.choice(DEFAULT_OPS) for _ in range(rng.randint(1, 5))] for _ in range(2)), seed=seed)
    for node, alpha in enumerate(model.core.alpha):
        set_shares(model.core, node, np.random.default_rng(seed).dirichlet(np.full(len(alpha), 2.0)).tolist())
    options = but(
        ONE_STRENGTH, prune="each_stage", thresholds=Thresholds(1.0, 0.0), top_k=top_k, readout=readout
    )  # fmt: skip
    context = context_of(model, task, options)

    def score(core):
        return float(task.evaluate(with_core(model, core), "val").losses.mean())

    kept, gone = CHOICES[readout](model.core, top_k, score)
    stage, _ = pruned(context)
    assert [stage.model.core.op_names(node) for node in range(2)] == [
        [model.core.op_names(node)[op] for op in ops] for node, ops in enumerate(kept)
    ]
    # what decided: the share, or the loss without it
    assert {(line["node"], line["op"], line["judge"]["figure"]) for line in stage.prunings} == set(map(tuple, gone))


def test_a_score_that_is_not_a_number_is_logged_as_a_large_one(copy_task, monkeypatch):
    """JSON has no infinity."""
    gone = Readout([[0, 1]], [Removal(0, 2, math.inf)])
    monkeypatch.setitem(CHOICES, "ablation", lambda backbone, top_k, score: gone)
    options = but(ONE_STRENGTH, prune="each_stage", thresholds=Thresholds(1.0, 0.0), top_k=2, readout="ablation")
    stage, _ = pruned(context_with(copy_task(), [0.5, 0.2, 0.3], options))
    assert [line["judge"]["figure"] for line in stage.prunings] == [1e6]


def test_small_ops_go_first_and_then_what_is_too_many(copy_task):
    options = but(ONE_STRENGTH, prune="each_stage", thresholds=Thresholds(1.0), top_k=2)
    ops = [*OPS, ("add", "sigmoid")]
    stage, _ = pruned(context_with(copy_task(), [0.5, 0.02, 0.3, 0.18], options, ops))
    assert [(line["op_name"], line["judge"]["rule"]) for line in stage.prunings] == [
        ("add/tanh", "share"), ("add/sigmoid", "top_k by share"),
    ]  # fmt: skip
