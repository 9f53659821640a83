"""Growth with real training, compared to the last bit.

What is rejected leaves no trace, what wins the trials is what the mode of that kind alone would do, and a path can be
repeated.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from grownas.criteria.threshold import Thresholds
from grownas.space import SearchSpace
from grownas.strategies.cores import with_noise
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.moves import MOVES
from grownas.strategies.growing.options import MODES
from grownas.strategies.growing.stages import apply_all
from grownas.strategies.growing.state import Candidate
from grownas.training.loop import fit
from support.growing import (
    QUICK,
    TRAINED,
    ScriptedJournal,
    TrainingJournal,
    but,
    grow,
    model_of,
    problem_of,
    replay,
    timeless,
)

SEED = 1
MANY = Thresholds(min_age=1, grow_threshold=0.1, prune_threshold=0.01)  # every op is high


@pytest.fixture
def search(copy_task, make_model, outcome):
    """Grow with real training; return what was found and the journal. PyTorch's own generator stays as it is."""

    def run(options, *, losses=()):
        task, journal = copy_task(dropout=0.1), TrainingJournal(outcome, losses)
        start, before = make_model(task), torch.get_rng_state()
        grown = grow(start, task, journal, options, seed=SEED)
        assert torch.equal(torch.get_rng_state(), before)
        return grown, journal

    return run


@pytest.fixture
def alone(copy_task, make_model):
    """Train the first stage, then one that begins with a move of a kind at some places; return that fit."""

    def run(options, kind, places, number):
        task, (l2_sp,) = copy_task(dropout=0.1), options.l2_sp
        start, recipe = make_model(task), replace(options.recipe, l2_sp=l2_sp)
        first = fit(with_noise(start, options.noise, l2_sp, seed=SEED), task, recipe, seed=SEED)
        best = Candidate.start(start, task.evaluate(start, "val")).trained(first, options.thresholds)
        problem = problem_of(start, task, ScriptedJournal({}), seed=SEED)
        context = Context(best, problem, options, l2_sp, number, source=1)
        (proposal,) = [one for one in MOVES[kind].propose(context).proposals if one.places == places]
        begun, _ = apply_all(context, proposal.make())
        return fit(begun.model, task, recipe, seed=SEED, optimizers=begun.optimizers)

    return run


def places_of(line):
    return tuple((move["node"], move["op"]) for move in line["moves"])


@pytest.mark.parametrize("choice", ["criteria", "random"])
@pytest.mark.parametrize("mode", MODES)
def test_a_rejected_move_leaves_no_trace(search, alone, judge_says, assert_equal, outcome, mode, choice):
    """The best candidate is as it was, and what is accepted next is as if it had been alone."""
    judge_says(True, False, True)
    options = but(
        TRAINED, mode=mode, choice=choice, trial_epochs=2, thresholds=MANY, position="best",
        outer_patience=1 if mode == "nodes_and_ops" else 2, max_nodes=2, max_ops=4,
    )  # fmt: skip
    grown, journal = search(options)
    for key, asked in journal.fits.items():  # no model and no optimiser that came out of a fit was changed later
        assert_equal(outcome(asked["done"]), journal.outcomes[key])
    rejected, accepted = grown.stages[1:3]
    assert [line["accepted"] for line in (rejected, accepted)] == [False, True]
    assert rejected["loss_before"] == accepted["loss_before"] == journal.fits["stage-1-l2_sp-5"]["done"].loss
    assert accepted["moves"] != rejected["moves"] or mode == "nodes"
    assert grown.model is journal.fits["stage-3"]["done"].model
    (move,) = accepted["moves"]
    done = alone(options, move["kind"], places_of(accepted), 3)
    assert_equal(outcome(done), journal.outcomes["stage-3"])


@pytest.mark.parametrize("mode", MODES)
def test_a_rejected_move_is_in_the_log_with_its_figures(search, judge_says, mode):
    judge_says(True, False)
    _, journal = search(but(TRAINED, mode=mode, trial_epochs=2, thresholds=MANY))
    lines, best = [line for line in journal.lines if line["stage"] == 2], journal.fits["stage-1-l2_sp-5"]["done"]
    assert [line["accepted"] for line in lines] == [False] * len(MODES[mode])
    for line in lines:
        lost = line["judge"]["rule"] != "scripted"
        done = journal.fits[f"stage-2-try-{line['kind']}" if lost else "stage-2"]["done"]
        assert (line["loss_before"], line["loss_after"]) == (best.loss, done.loss)
        assert line["cell_before"] == best.model.core.genotype(top_k=None).to_dict()
        assert line["cell_after"] == done.model.core.genotype(top_k=None).to_dict()
        assert line["params_after"] > line["params_before"]
        assert line["drift"] > 0
        assert line["measured_change"] != 0
    assert lines[-1]["judge"] == {"rule": "scripted", "figure": 0.25, "threshold": 0.5}


@pytest.mark.parametrize("replace_by", ["uniform", "missing"])
def test_a_rejected_restart_leaves_no_trace(search, judge_says, assert_equal, outcome, replace_by):
    judge_says(True, False)
    grown, journal = search(but(TRAINED, max_nodes=1, replace=replace_by, restarts=2))
    (line,) = journal.lines
    assert (line["kind"], line["accepted"]) == ("replace_op", False)
    assert grown.model is journal.fits["stage-1-l2_sp-5"]["done"].model
    assert_equal(outcome(journal.fits["stage-1-l2_sp-5"]["done"]), journal.outcomes["stage-1-l2_sp-5"])


@pytest.mark.parametrize(("mode", "kind"), [(mode, *kinds) for mode, kinds in MODES.items() if len(kinds) == 1])
def test_the_winner_of_the_trials_is_what_the_mode_of_its_kind_does(search, judge_says, assert_equal, mode, kind):
    """The loss of the winner's trial is a script, so that each kind wins once."""
    found = []
    for one in (mode, "nodes_and_ops"):
        judge_says(True, True, False)
        options = but(TRAINED, mode=one, trial_epochs=2, thresholds=MANY)
        grown, journal = search(options, losses={f"stage-2-try-{kind}": -100.0})
        lines = [timeless(line) for line in journal.lines if line["stage"] == 2 and line["accepted"]]
        asked = journal.fits["stage-2"]
        trials = [line.pop("trial") for line in lines]
        assert trials == [f"stage-2-try-{kind}" if one == "nodes_and_ops" else None]
        found.append([journal.outcomes["stage-2"], lines, asked["recipe"], dict(asked["model"].state_dict())])
        assert [line["kind"] for line in lines] == [kind]
        assert [move["kind"] for move in grown.stages[1]["moves"]] == [kind]
        tries = [asked["recipe"] for key, asked in journal.fits.items() if key.startswith("stage-2-try-")]
        assert tries == [replace(options.recipe, l2_sp=5.0).first(2)] * (3 if one == "nodes_and_ops" else 0)
    assert_equal(*found)


# --- repeating a growth ---


@pytest.mark.parametrize("choice", ["criteria", "random"])
@pytest.mark.parametrize("mode", ["nodes", "ops_duplicate", "ops_split"])
def test_a_path_repeated_on_the_same_data_ends_at_the_same_bits(
    copy_task, judge_says, assert_equal, outcome, mode, choice
):
    """Each stage is trained for as many epochs as its best took."""
    judge_says(True, True, False)
    task, options = copy_task(dropout=0.1), but(
        TRAINED, mode=mode, choice=choice, max_nodes=2, max_ops=3, position="best",
        recipe=replace(QUICK, epochs=6, patience=6),
    )  # fmt: skip
    start = model_of(task, [("add", "identity"), ("add", "tanh")])
    journal, again = TrainingJournal(outcome), TrainingJournal(outcome)
    grown = grow(start, task, journal, options, seed=SEED)
    path = grown.path()
    assert len(path) == 2
    assert all(line["best_epoch"] > 0 for line in path)
    model = replay(start, task, again, options, path, seed=SEED)
    assert_equal(dict(model.state_dict()), dict(grown.model.state_dict()))
    assert list(again.fits) == ["refit-stage-1-l2_sp-5", "refit-stage-2"]
    for line, asked in zip(path, again.fits.values(), strict=True):
        assert asked["recipe"] == replace(options.recipe, l2_sp=5.0).refit(line["best_epoch"])
    assert again.lines == []


@pytest.mark.parametrize("replaced", ["none", "uniform", "missing"])
@pytest.mark.parametrize("prune", ["each_stage", "at_end"])
def test_prunings_and_restarts_are_repeated_too(copy_task, make_model, judge_says, assert_equal, prune, replaced):
    judge_says(*{"each_stage": [False, True] * 2, "at_end": [True, True, False]}[prune])  # False: no harm was done
    task, options = copy_task(dropout=0.1), but(
        TRAINED, prune=prune, replace=replaced, restarts=1, max_nodes=1, fine_tune_epochs=2,
        thresholds=Thresholds(1.0, 0.33, hysteresis=0.1, smoothing=1.0, min_age=1),
        recipe=replace(QUICK, epochs=3, patience=3),
    )  # fmt: skip
    journal, again = TrainingJournal(), TrainingJournal()
    grown = grow(make_model(task), task, journal, options, seed=SEED)
    path = grown.path()
    pruned = [bool(line["pruned"]) for line in path]
    if (prune, replaced) == ("each_stage", "none"):
        assert pruned == [True]  # one op is left, which no restart can draw anew
    else:
        assert pruned == [prune == "each_stage", True]
        assert path[1]["moves"][0]["kind"] == "replace_op"
    model = replay(make_model(task), task, again, options, path, seed=SEED)
    assert_equal(dict(model.state_dict()), dict(grown.model.state_dict()))


@pytest.mark.parametrize("way", ["none", "uniform", "missing"])
def test_prunings_at_the_end_are_repeated_though_the_last_stage_was_rejected(
    copy_task, make_model, judge_says, assert_equal, way
):
    """What is drawn depends on the stage that is pruned, not on those that came after it in vain."""
    judge_says(True, False, False)  # the restart is rejected, the pruning does no harm
    task, options = copy_task(dropout=0.1), but(
        TRAINED, prune="at_end", replace=way, restarts=1, max_nodes=1, fine_tune_epochs=2,
        thresholds=Thresholds(1.0, 0.33, hysteresis=0.1, smoothing=1.0, min_age=1),
    )  # fmt: skip
    journal, space = TrainingJournal(), SearchSpace(("hadamard",), ("identity", "tanh"))
    grown = grow(make_model(task), task, journal, options, seed=SEED, space=space)
    (line,) = grown.path()
    assert [stage["accepted"] for stage in grown.stages] == [True, False]
    assert line["pruned"]
    assert {one["stage"] for one in journal.lines if one["accepted"]} == {1}
    model = replay(make_model(task), task, TrainingJournal(), options, [line], seed=SEED, space=space)
    assert_equal(dict(model.state_dict()), dict(grown.model.state_dict()))


@pytest.mark.parametrize("choice", ["criteria", "random"])
def test_a_long_path_of_all_kinds_is_repeated_move_by_move(
    search, copy_task, make_model, judge_says, assert_equal, choice
):
    """Past rejected stages, too. The ops of a cell are judged together both times: that fixes the last digits."""
    judge_says(True, False, True, False, True, False, True)
    winners = {3: "add_node", 5: "split_op", 7: "duplicate_op"}
    options = but(
        TRAINED, mode="nodes_and_ops", choice=choice, trial_epochs=1, max_nodes=3, max_ops=6,
        outer_patience=2, thresholds=MANY, splitting={"count": 2}, recipe=replace(QUICK, epochs=1, patience=None),
    )  # fmt: skip
    grown, _ = search(options, losses={f"stage-{number}-try-{kind}": -100.0 for number, kind in winners.items()})
    path, task, again = grown.path(), copy_task(dropout=0.1), TrainingJournal()
    assert [line["stage"] for line in path] == [1, *winners]
    kinds = [[move["kind"] for move in line["moves"]] for line in path[1:]]
    assert kinds == [["add_node"], ["split_op"] * 2, ["duplicate_op"]] or choice == "random"
    model = replay(make_model(task), task, again, options, path, seed=SEED)
    assert list(again.fits) == ["refit-stage-1-l2_sp-5", *[f"refit-stage-{number}" for number in winners]]
    assert [model.core.op_names(node) for node in range(len(model.core.nodes))] == [
        grown.model.core.op_names(node) for node in range(len(grown.model.core.nodes))
    ]
    assert_equal(dict(model.state_dict()), dict(grown.model.state_dict()))


def test_a_split_is_found_anew_on_the_new_data_and_keeps_its_step(copy_task, make_model):
    task, other = copy_task(), copy_task()
    other.values = torch.from_numpy(np.random.default_rng(0).normal(size=task.values.shape))
    path = [
        {"stage": 1, "l2_sp": 0.0, "best_epoch": 1, "moves": [], "pruned": []},
        {"stage": 2, "l2_sp": 0.0, "best_epoch": 1, "pruned": [],
         "moves": [{"kind": "split_op", "node": 0, "op": 1, "split_step": 0.125}]},
    ]  # fmt: skip
    options, ways = but(TRAINED, noise=0.0), []
    for data in (task, other):
        journal = TrainingJournal()
        replay(make_model(data), data, journal, options, path, seed=SEED)
        before = journal.fits["refit-stage-1-l2_sp-0"]["done"].model.core.op_parameters(0, 1)
        core = journal.fits["refit-stage-2"]["model"].core
        halves = [
            torch.cat([(core.op_parameters(0, op)[name] - value).reshape(-1, 3) for name, value in before.items()])
            for op in (1, 3)
        ]
        torch.testing.assert_close(halves[0], -halves[1], rtol=0, atol=1e-15)
        lengths = halves[0].norm(dim=0).tolist()
        assert max(lengths) > 0
        assert all(math.isclose(length, 0.125) for length in lengths if length > 0)
        ways.append(halves[0].detach())
    assert not torch.allclose(*ways, atol=0.01)
