"""How a node is added: blended in, drawn, several at once, the best of several draws; and that it can be repeated."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from grownas import morphisms
from grownas.criteria.first_order import blend_gains
from grownas.strategies.growing import moves
from grownas.strategies.growing.batches import Batches
from grownas.strategies.growing.moves import add_nodes
from grownas.strategies.growing.state import apply
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, count_parameters
from support.growing import (
    QUICK,
    TRAINED,
    TrainingJournal,
    but,
    context_of,
    grow,
    replay,
)

BLENDED = but(TRAINED, birth="blend", blend_steps=5, recipe=replace(QUICK, epochs=6, patience=6))
DRAWN = but(BLENDED, birth="drawn")


def trained_context(task, make_model, options, *, nodes=2, **more):
    """A context around a model after some training: what it could still learn is not zero anywhere."""
    model = fit(make_model(task, nodes=nodes), task, replace(QUICK, epochs=3, patience=None), seed=0).model
    return context_of(model, task, options, **more)


def made(context, number=0):
    """The changes of a proposal, and the candidates and lines that they lead to, one after the other."""
    candidate, found = context.best, []
    for change in add_nodes(context).proposals[number].make():
        candidate, line = apply(candidate, change, context.task, context.options, stage=2, step=0)
        found.append((candidate, line))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("position", "place"), [("first", 0), ("middle", 1), ("last", 2)])
def test_a_blended_node_begins_at_0_and_changes_no_bit(copy_task, make_model, dtype, position, place):
    options = but(BLENDED, position=position, max_nodes=4, nodes_at_once=2)
    context = trained_context(copy_task(dtype=dtype), make_model, options)
    blends = [1.0, 1.0]
    for number, (candidate, line) in enumerate(made(context)):
        blends.insert(place + number, 0.0)
        assert candidate.model.core.blend == blends
        assert (line["node"], line["draw"]) == (place + number, number)
        assert (line["drift"], line["measured_change"], line["predicted_change"]) == (0.0, 0.0, 0.0)
        assert line["loss_after"] == line["loss_before"]
        assert line["params_after"] > line["params_before"]


def test_a_drawn_node_changes_the_function_and_nothing_is_predicted(copy_task, make_model):
    ((candidate, line),) = made(trained_context(copy_task(), make_model, DRAWN))
    assert candidate.model.core.blend == [1.0, 1.0, 1.0]
    assert line["predicted_change"] is None
    assert line["drift"] > 1e-3
    assert line["measured_change"] != 0


def test_blended_and_drawn_nodes_are_the_same_nodes(copy_task, make_model, assert_equal):
    nodes = []
    for options in (BLENDED, DRAWN):
        ((candidate, _),) = made(trained_context(copy_task(), make_model, options))
        nodes.append(dict(candidate.model.core.nodes[2].named_parameters()))
    assert_equal(*({name: value.detach() for name, value in node.items()} for node in nodes))


@pytest.mark.parametrize("birth", ["blend", "drawn", "carrier"])
@pytest.mark.parametrize(("most", "at_once", "added"), [(3, 1, 1), (3, 2, 1), (4, 2, 2), (5, 2, 2), (5, 3, 3)])
def test_as_many_nodes_at_once_as_max_nodes_allows(copy_task, make_model, birth, most, at_once, added):
    options = but(BLENDED, birth=birth, max_nodes=most, nodes_at_once=at_once)
    found = made(trained_context(copy_task(), make_model, options))
    assert [line["node"] for _, line in found] == list(range(2, 2 + added))
    core = found[-1][0].model.core
    assert len(core.nodes) == 2 + added
    weights = [core.nodes[place].W_x for place in range(2, 2 + added)]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(weights))


@pytest.mark.parametrize(("room", "added"), [(2, 2), (1, 1), (0, 0)])
def test_as_many_nodes_at_once_as_max_params_allows(copy_task, make_model, judge_says, room, added):
    judge_says(True, True)
    task = copy_task()
    one, two = (count_parameters(make_model(task, nodes=nodes)) for nodes in (1, 2))
    options = but(BLENDED, nodes_at_once=2, max_params=one + room * (two - one))
    journal = TrainingJournal()
    grown = grow(make_model(task), task, journal, options, seed=0)
    assert len(grown.model.core.nodes) == 1 + added
    if added < 2:
        size = one + (added + 1) * (two - one)
        assert (
            grown.reason
            == f"with another node the model would have {size} parameters, max_params = {options.max_params}"
        )


def test_a_line_for_each_node_and_one_stage_for_all(copy_task, make_model, judge_says):
    judge_says(True, True)
    task, journal = copy_task(), TrainingJournal()
    grown = grow(make_model(task), task, journal, but(BLENDED, nodes_at_once=2), seed=0)
    assert [(line["stage"], line["node"], line["draw"]) for line in journal.lines] == [(2, 1, 0), (2, 2, 1)]
    assert {(line["part"], line["accepted"]) for line in journal.lines} == {("stage-2", True)}
    assert [(move["node"], move["draw"]) for move in grown.stages[1]["moves"]] == [(1, 0), (2, 1)]
    assert journal.fits["stage-2"]["model"].core.blend == [1.0, 0.0, 0.0]
    assert grown.model.core.blend == [1.0, 1.0, 1.0]
    assert grown.reason == "max_nodes = 3 reached"


# --- candidates ---


def gain_alone(context, position, draw):
    """-dL/dm of a draw, judged with no other beside it."""
    core = morphisms.blend_node(context.core, position, context.generator(draw=draw)).backbone
    batches = Batches(context.best.model, context.task, "train")
    return blend_gains(core, batches.loss, batches)[0]


def test_the_draw_with_the_steepest_descent_is_taken(copy_task, make_model):
    context = trained_context(copy_task(), make_model, but(BLENDED, candidates=5, max_nodes=3))
    gains = [gain_alone(context, 2, draw) for draw in range(5)]
    best = max(range(5), key=gains.__getitem__)
    assert best > 0  # else the first draw would do
    ((candidate, line),) = made(context)
    assert line["draw"] == best
    known = context.journal.work["stage-2-positions"]
    assert known["draws"] == [best]
    assert known["gains"] == pytest.approx([gains[best]], rel=1e-9)
    alone = morphisms.blend_node(context.core, 2, context.generator(draw=best)).backbone
    assert torch.equal(candidate.model.core.nodes[2].W_x, alone.nodes[2].W_x)


def test_positions_and_draws_are_ranked_together(copy_task, make_model):
    context = trained_context(copy_task(), make_model, but(BLENDED, candidates=3, max_nodes=3, position="best"))
    gains = {(place, draw): gain_alone(context, place, draw) for place in range(3) for draw in range(3)}
    best = {place: max(range(3), key=lambda draw: gains[place, draw]) for place in range(3)}
    ranked = sorted(range(3), key=lambda place: -gains[place, best[place]])
    found = [made(context, number)[0][1] for number in range(3)]
    assert [(line["node"], line["draw"]) for line in found] == [(place, best[place]) for place in ranked]


def test_a_script_of_gains_decides(copy_task, make_model, judge_says, monkeypatch):
    judge_says(True, False)
    monkeypatch.setattr(moves, "blend_gains", lambda core, loss, batches: [0.1, -0.5, 0.7, 0.3])
    task, journal = copy_task(), TrainingJournal()
    options = but(BLENDED, candidates=4, nodes_at_once=2)
    grown = grow(make_model(task), task, journal, options, seed=0)
    assert [line["draw"] for line in journal.lines] == [2, 3]  # the node behind it is drawn as well
    assert [move["draw"] for move in grown.stages[1]["moves"]] == [2, 3]


def test_each_stage_draws_anew(copy_task, make_model, judge_says):
    judge_says(True, False, False)
    task, journal = copy_task(), TrainingJournal()
    grow(make_model(task), task, journal, but(BLENDED, outer_patience=2, max_nodes=2), seed=0)
    drawn = [journal.fits[key]["model"].core.nodes[1].W_x for key in ("stage-2", "stage-3")]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("birth", ["blend", "drawn"])
@pytest.mark.parametrize(("at_once", "candidates", "position"), [(1, 1, "last"), (2, 4, "last"), (1, 3, "best")])
def test_a_path_repeated_on_the_same_data_ends_at_the_same_bits(
    copy_task, make_model, judge_says, assert_equal, birth, at_once, candidates, position
):
    judge_says(True, False, True, False)
    task = copy_task(dropout=0.1)
    options = but(
        BLENDED, birth=birth, nodes_at_once=at_once, candidates=candidates, position=position,
        max_nodes=1 + at_once, outer_patience=2,
        recipe=replace(BLENDED.recipe, weights=OptimizerRecipe(rate=0.004), alpha=OptimizerRecipe(rate=0.004)),
    )  # fmt: skip
    journal, again = TrainingJournal(), TrainingJournal()
    grown = grow(make_model(task), task, journal, options, seed=1)
    path = grown.path()
    assert [line["stage"] for line in path] == [1, 3]  # past a rejected stage, whose draws are others
    assert path[1]["best_epoch"] > 1  # the blend of 5 steps ends in the first epoch
    model = replay(make_model(task), task, again, options, path, seed=1)
    begun = [one.fits[key]["model"].core for one, key in ((journal, "stage-3"), (again, "refit-stage-3"))]
    assert begun[0].blend == begun[1].blend
    assert_equal(*(dict(core.state_dict()) for core in begun))
    assert_equal(dict(model.state_dict()), dict(grown.model.state_dict()))
