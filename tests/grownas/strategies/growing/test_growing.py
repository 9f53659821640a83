"""The controller: driven by scripted losses, and with real training where bits are compared."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from grownas.criteria.threshold import Thresholds
from grownas.errors import ConfigError
from grownas.space import SearchSpace
from grownas.strategies.cores import with_core
from grownas.strategies.growing import stages
from grownas.strategies.growing.options import MODES
from grownas.strategies.growing.state import output_drift
from grownas.strategies.growing.strategy import NOTHING_FOUND, Growth
from grownas.training.recipe import OptimizerRecipe, Recipe, count_parameters
from support.growing import (
    BEST,
    CHANGED,
    DAYS,
    KINDS,
    NODE_KEYS,
    ONE_STRENGTH,
    OP_KEYS,
    PLAIN,
    START,
    STEPS,
    TRAINED,
    ScriptedJournal,
    TrainingJournal,
    but,
    grow,
    problem_of,
    replay,
    rounded,
)


def stage_figures(grown):
    keys = ("stage", "l2_sp", "loss_before", "loss_after", "accepted")
    return [tuple(rounded(line)[key] for key in keys) for line in grown.stages]


# --- the first stage ---


def test_the_start_is_kept_if_nothing_beats_it(search):
    grown, journal, start = search({"stage-1-l2_sp-100": 1.01, "stage-1-l2_sp-0": 1.2})
    assert grown.reason == NOTHING_FOUND == "no first stage was accepted: the start is kept"
    assert grown.model is start
    assert grown.l2_sp is None
    assert stage_figures(grown) == [(1, 100.0, START, 1.01, False), (1, 0.0, START, 1.2, False)]
    assert (grown.steps, grown.seconds) == (2 * STEPS, 2.0)
    assert journal.lines == []
    assert grown.path() == []
    assert grown.first_line == grown.stages[0]
    assert grown.first_stage is not start


def test_an_equal_loss_does_not_beat_the_start(search):
    assert search({"stage-1-l2_sp-100": START, "stage-1-l2_sp-0": START})[0].reason == NOTHING_FOUND


def test_strengths_are_tried_in_order_from_the_same_start(search, assert_equal):
    options = but(PLAIN, l2_sp=(7.0, 100.0, 0.0), max_nodes=1, noise=0.0)
    losses = {"stage-1-l2_sp-7": 0.9, "stage-1-l2_sp-100": 0.95, "stage-1-l2_sp-0": 0.8}
    grown, journal, start = search(losses, options)
    assert list(journal.fits) == list(losses)
    for asked, l2_sp in zip(journal.fits.values(), options.l2_sp, strict=True):
        assert_equal(dict(asked["model"].state_dict()), dict(start.state_dict()))
        assert asked["optimizers"] is None
        assert asked["recipe"] == replace(options.recipe, l2_sp=l2_sp)
    # each is judged against the best so far
    assert stage_figures(grown) == [
        (1, 7.0, START, 0.9, True), (1, 100.0, 0.9, 0.95, False), (1, 0.0, 0.9, 0.8, True),
    ]  # fmt: skip
    assert grown.l2_sp == 0.0


def test_the_first_stage_begins_at_the_start_with_noise_on_all_but_the_carrier(search):
    options = but(PLAIN, l2_sp=(1000.0, 0.0), max_nodes=1, noise=0.02)
    _, journal, start = search({"stage-1-l2_sp-1000": 0.9, "stage-1-l2_sp-0": 0.8}, options)
    old = start.core.nodes[0]
    scaled = 0.02 / math.sqrt(start.core.hidden_size)
    for asked, noise in zip(journal.fits.values(), (1 / 1000, scaled), strict=True):  # no more than a l2_sp allows
        new = asked["model"].core.nodes[0]
        assert torch.equal(asked["model"].readout.weight, start.readout.weight)
        assert torch.equal(new.W_h[:, 0], old.W_h[:, 0])  # op 0 carries
        moved = torch.cat([(new.W_h - old.W_h)[:, 1:].flatten(), (new.W_x - old.W_x)[:, 1:].flatten()])
        assert 0.6 * noise < float(moved.detach().std()) < 1.4 * noise


@pytest.mark.parametrize(("second", "l2_sp"), [(0.8, 0.0), (0.95, 100.0)])
def test_later_nodes_are_trained_with_the_strength_accepted_last(search, second, l2_sp):
    losses = {"stage-1-l2_sp-100": 0.9, "stage-1-l2_sp-0": second, "stage-2": 0.5, "stage-3": 0.6}
    grown, journal, _ = search(losses)
    assert [journal.fits[key]["recipe"].l2_sp for key in ("stage-2", "stage-3")] == [l2_sp, l2_sp]
    assert grown.l2_sp == l2_sp


def test_the_first_stage_is_the_lowest_whether_accepted_or_not(search):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, DAYS)
    noisy = 0.98 + noise - noise.mean()
    options = but(PLAIN, accept="significant", threshold=1.645)
    losses = {"stage-1-l2_sp-100": 0.99, "stage-1-l2_sp-0": noisy, "stage-2": 1.5}
    grown, _, _ = search(losses, options, shares={"stage-1-l2_sp-0": (0, [0.5, 0.3, 0.2])})
    assert [line["accepted"] for line in grown.stages] == [True, False, False]
    torch.testing.assert_close(torch.softmax(grown.first_stage.core.alpha[0], 0).tolist(), [0.5, 0.3, 0.2])
    assert grown.first_line["l2_sp"] == 0.0
    assert grown.path()[0]["l2_sp"] == 100.0


def test_the_judge_is_the_one_asked_for(search):
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, DAYS)
    lower = START + noise - noise.mean() - 0.01  # lower by luck
    losses = {"stage-1-l2_sp-0": lower, "stage-2": 9.0}
    better, _, _ = search(losses, but(PLAIN, l2_sp=(0.0,)))
    significant, _, _ = search(losses, but(PLAIN, l2_sp=(0.0,), accept="significant"))
    assert better.l2_sp == 0.0
    assert significant.reason == NOTHING_FOUND
    assert better.stages[0]["judge"] == {"rule": "better", "figure": pytest.approx(0.01), "threshold": 0.0}
    judge = significant.stages[0]["judge"]
    assert (judge["rule"], judge["threshold"]) == ("significant", 1.645)
    assert judge["figure"] < 1.645


# --- growth, and why it ends ---


def test_growth_goes_on_while_it_is_accepted(search):
    grown, journal, _ = search({"stage-1-l2_sp-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}, ONE_STRENGTH)
    assert grown.reason == "max_nodes = 3 reached"
    assert len(grown.model.core.nodes) == 3
    assert [line["accepted"] for line in journal.lines] == [True, True]
    assert [len(asked["model"].core.nodes) for asked in journal.fits.values()] == [1, 2, 3]
    assert [asked["stage"] for asked in journal.fits.values()] == [1, 2, 3]
    assert [line["nodes"] for line in grown.stages] == [1, 2, 3]
    assert grown.path() == grown.stages
    assert (grown.steps, grown.seconds) == (3 * STEPS, 3.0)


def test_the_first_rejected_stage_ends_growth(search):
    grown, journal, _ = search({"stage-1-l2_sp-0": 0.9, "stage-2": 0.95}, ONE_STRENGTH)
    assert grown.reason == "the last added node was not accepted"
    assert len(grown.model.core.nodes) == 1
    assert [line["accepted"] for line in journal.lines] == [False]
    assert grown.path() == grown.stages[:1]


def test_outer_patience_lets_growth_pass_a_rejected_stage(search):
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.95, "stage-3": 0.8, "stage-4": 0.85, "stage-5": 0.81}
    grown, journal, _ = search(losses, but(ONE_STRENGTH, outer_patience=2, max_nodes=9))
    assert grown.reason == "the last 2 added nodes were not accepted (outer_patience = 2)"
    # each begins from the best, and is judged against it
    assert [rounded(line)["loss_before"] for line in grown.stages] == [START, 0.9, 0.9, 0.8, 0.8]
    assert [line["loss_before"] for line in journal.lines] == [0.9, 0.9, 0.8, 0.8]
    assert [line["accepted"] for line in journal.lines] == [False, True, False, False]
    assert [len(asked["model"].core.nodes) for asked in journal.fits.values()] == [1, 2, 2, 3, 3]
    assert grown.model is journal.fits["stage-3"]["done"].model
    assert grown.path() == [grown.stages[0], grown.stages[2]]
    # a place is tried again with other noise
    second, third = (journal.fits[key]["model"].core.nodes[1].W_x for key in ("stage-2", "stage-3"))
    assert not torch.equal(second, third)


def test_an_accepted_stage_gives_all_patience_back(search):
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.95, "stage-3": 0.8, "stage-4": 0.85, "stage-5": 0.7, "stage-6": 0.8}
    grown, _, _ = search({**losses, "stage-7": 0.8}, but(ONE_STRENGTH, outer_patience=2, max_nodes=9))
    assert [line["accepted"] for line in grown.stages] == [True, False, True, False, True, False, False]


def test_max_nodes_of_the_start_allows_no_growth(search):
    grown, journal, _ = search({"stage-1-l2_sp-0": 0.9}, but(ONE_STRENGTH, max_nodes=1))
    assert grown.reason == "max_nodes = 1 reached"
    assert journal.lines == []


def test_the_budget_of_seconds(search):
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    grown, _, _ = search(losses, but(ONE_STRENGTH, max_nodes=9), limit=25.0, seconds=10.0)
    assert grown.reason == "budget.seconds = 25 reached"
    assert len(grown.model.core.nodes) == 3


@pytest.mark.parametrize("room", [0, -1])
def test_max_params(search, make_model, copy_task, room):
    two = count_parameters(make_model(copy_task(), nodes=2))
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.8}
    grown, _, _ = search(losses, but(ONE_STRENGTH, max_nodes=9, max_params=two + room))
    assert len(grown.model.core.nodes) == (2 if room == 0 else 1)
    assert count_parameters(grown.model) <= two + room
    three = count_parameters(make_model(copy_task(), nodes=3))
    assert grown.reason == (
        f"with another node the model would have {three if room == 0 else two} parameters, max_params = {two + room}"
    )


def test_a_node_whose_noise_spoils_the_loss_at_once_is_not_trained(copy_task, make_model):
    class Steep(copy_task):
        def evaluate(self, model, part):
            found = super().evaluate(model, part)
            return found if len(model.core.nodes) == 1 else found._replace(losses=found.losses * np.nan)

    journal = ScriptedJournal({"stage-1-l2_sp-0": 0.0})
    grown = grow(make_model(Steep()), Steep(), journal, ONE_STRENGTH, seed=0)
    assert grown.reason == "the validation loss with the added node is nan before training; lower strategy.noise"
    assert (list(journal.fits), journal.lines) == (["stage-1-l2_sp-0"], [])


@pytest.mark.parametrize("prune", ["none", "at_end"])
def test_units_are_advanced_one_by_one(copy_task, make_model, prune):
    """After each, all of what was found so far can be read, and nothing that comes later was done."""
    options = but(ONE_STRENGTH, l2_sp=(5.0, 0.0), outer_patience=2, prune=prune, restarts=1, recipe=Recipe(epochs=2))
    task, journal = copy_task(), TrainingJournal()
    growth = Growth(problem_of(make_model(task), task, journal), but(options, prune_threshold=0.3, min_age=0))
    assert (journal.fits, growth.result().is_start, growth.result().model) == ({}, True, growth.problem.start)
    units, fits, losses = growth.units(), [], [growth.result().evaluation.losses.mean()]
    for number, _ in enumerate(units, 1):
        found = growth.result()
        assert (found.reason, found.settings, found.steps) == ("", len(growth.stages), growth.steps)
        assert len(growth.stages) == len(found.scores) <= number
        assert found.steps == sum(score["steps"] for score in found.scores) or number > len(growth.stages)
        assert task.evaluate(found.model, "val").losses.mean() == found.evaluation.losses.mean()
        fits.append(len(journal.fits))
        losses.append(found.evaluation.losses.mean())
    assert growth.result().reason != ""
    assert fits == sorted(set(fits))  # each unit trains
    assert fits[0] == 1
    accepted = losses[: len(growth.stages) + 1]
    assert accepted == sorted(accepted, reverse=True)


@pytest.mark.parametrize(("first", "l2_sp"), [(1.2, None), (0.9, 100.0)])
def test_the_budget_of_seconds_ends_the_strengths_of_the_first_stage(search, first, l2_sp):
    options = but(PLAIN, l2_sp=(100.0, 10.0, 0.0))
    losses = {"stage-1-l2_sp-100": first, "stage-1-l2_sp-10": 1.3}
    grown, journal, start = search(losses, options, limit=20.0, seconds=10.0)
    assert list(journal.fits) == list(losses)
    assert (grown.reason, grown.l2_sp) == ("budget.seconds = 20 reached", l2_sp)
    assert (grown.model is start) == (l2_sp is None)


def test_the_first_strength_is_tried_however_short_the_time(search):
    grown, journal, _ = search({"stage-1-l2_sp-100": 1.2}, PLAIN, limit=1e-9)
    assert list(journal.fits) == ["stage-1-l2_sp-100"]
    assert grown.reason == "budget.seconds = 1e-09 reached"


def test_time_that_runs_out_with_the_last_strength_hides_no_verdict(search):
    losses = {"stage-1-l2_sp-100": 1.2, "stage-1-l2_sp-0": 1.2}
    assert search(losses, PLAIN, limit=20.0, seconds=10.0)[0].reason == NOTHING_FOUND


def test_a_start_above_max_params_is_refused_before_work(make_model, copy_task):
    start, journal = make_model(copy_task()), ScriptedJournal({})
    count = count_parameters(start)
    with pytest.raises(ConfigError, match=f"start has {count} parameters, above max_params = {count - 1}"):
        grow(start, copy_task(), journal, but(PLAIN, max_params=count - 1), seed=0)
    assert journal.fits == {}


def test_a_start_of_max_params_is_trained(search, make_model, copy_task):
    count = count_parameters(make_model(copy_task()))
    grown, journal, _ = search({"stage-1-l2_sp-0": 0.9}, but(ONE_STRENGTH, max_params=count))
    assert list(journal.fits) == ["stage-1-l2_sp-0"]
    assert grown.reason.endswith(f"max_params = {count}")


# --- the log ---


def test_a_growth_line_holds_what_the_contract_says(search, make_model, copy_task):
    grown, journal, start = search({"stage-1-l2_sp-0": 0.9, "stage-2": 0.95}, ONE_STRENGTH, seconds=2.5)
    (line,) = journal.lines
    assert set(line) == NODE_KEYS
    drift = line.pop("drift")
    assert drift > 0
    before, after = line.pop("cell_before"), line.pop("cell_after")
    assert before == start.core.genotype(top_k=None).to_dict()
    assert after == journal.fits["stage-2"]["done"].model.core.genotype(top_k=None).to_dict()
    assert line == {
        "stage": 2, "step": 0, "kind": "add_node", "node": 1, "op": None, "loss_before": 0.9, "loss_after": 0.95,
        "predicted_change": 0.0, "measured_change": pytest.approx(CHANGED - 0.9), "accepted": False,
        "params_before": count_parameters(start), "params_after": count_parameters(make_model(copy_task(), nodes=2)),
        "judge": {"rule": "better", "figure": pytest.approx(-0.05), "threshold": 0.0}, "wall_s": 2.5,
        "part": "stage-2", "trial": None, "draw": 0, "words": "add node",
    }  # fmt: skip
    assert count_parameters(grown.model) == line["params_before"]


@pytest.mark.parametrize(("second", "figure"), [(0.5, 1e6), (1.0, -1e6)])
def test_an_infinite_t_is_logged_as_a_number(search, second, figure):
    """A constant gain has error 0; the judge still sees infinity."""
    options = but(ONE_STRENGTH, accept="significant", threshold=1e7, max_nodes=2)
    grown, journal, _ = search({"stage-1-l2_sp-0": 0.75, "stage-2": second}, options)
    (line,) = journal.lines[:1]
    assert line["judge"] == {"rule": "significant", "figure": figure, "threshold": 1e7}
    assert grown.stages[1]["judge"] == line["judge"]
    assert line["accepted"] == (figure > 0)


@pytest.mark.parametrize(("position", "numbers"), [("first", [0, 0]), ("middle", [0, 1]), ("last", [1, 2])])
def test_the_log_says_where_the_node_was_put(search, position, numbers):
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    _, journal, _ = search(losses, but(ONE_STRENGTH, position=position))
    assert [line["node"] for line in journal.lines] == numbers
    old = journal.fits["stage-1-l2_sp-0"]["model"].core.nodes[0].W_h  # the script trains nothing
    for asked, number in zip(list(journal.fits.values())[1:], numbers, strict=True):
        nodes = [node.W_h for node in asked["model"].core.nodes]
        assert not torch.equal(nodes[number], old)  # the number is that of the new node
    first_grown = [torch.equal(node.W_h, old) for node in journal.fits["stage-2"]["model"].core.nodes]
    assert first_grown == [number != numbers[0] for number in range(2)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_without_noise_the_drift_is_rounding(search, dtype, limit):
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    _, journal, _ = search(losses, but(ONE_STRENGTH, noise=0.0), dtype=dtype)
    assert all(0 <= line["drift"] <= limit for line in journal.lines)
    assert len(journal.lines) == 2


def test_with_noise_the_measured_drift_is_logged(search, copy_task):
    losses = {"stage-1-l2_sp-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    _, journal, _ = search(losses, but(ONE_STRENGTH, noise=0.05))
    start, asked = (journal.fits[key]["model"] for key in ("stage-1-l2_sp-0", "stage-2"))
    x = next(iter(copy_task().windows("train", seed=0))).x
    assert journal.lines[0]["drift"] == float((asked(x)[0] - start(x)[0]).detach().abs().max()) > 1e-4
    assert journal.lines[0]["drift"] != journal.lines[1]["drift"]


def test_a_stage_begins_with_the_migrated_optimizers(copy_task, make_model):
    """The moments of the surviving weights are those that the stage before ended with."""
    task, journal = copy_task(), TrainingJournal()
    options = but(ONE_STRENGTH, recipe=Recipe(epochs=3, patience=None, weights=OptimizerRecipe(rate=0.01)), max_nodes=2)
    grow(make_model(task), task, journal, options, seed=0)
    before = journal.fits["stage-1-l2_sp-0"]["done"].optimizers[0].state_dict()["state"]
    after = journal.fits["stage-2"]["optimizers"][0].state_dict()["state"]
    names = ["W_x", "b_x", "W_h", "b_h"]
    for number, _ in enumerate(names):
        assert torch.equal(after[number]["exp_avg"], before[number]["exp_avg"])
    assert len(after) == len(before)  # the new node's weights start clean


SHORT = Recipe(epochs=1, patience=None, weights=OptimizerRecipe(rate=0.01), alpha=OptimizerRecipe(rate=0.02))
GROWN = but(ONE_STRENGTH, recipe=SHORT, new_rate=2.0, old_rate=0.5)


def rates_after(done):
    """Name and rate of every parameter of a finished fit that is not empty, as b_h is without a Hadamard op."""
    names = {parameter: name for name, parameter in done.model.named_parameters() if parameter.numel()}
    rates = {
        p: group["lr"] for optimizer in done.optimizers for group in optimizer.param_groups for p in group["params"]
    }
    return {name: rates[parameter] for parameter, name in names.items()}


def rates_wanted(names, new):
    """Rates by `GROWN` of a stage in which the node with number `new` is new; None stands for the first stage."""

    def rate(name):
        if name.endswith("alpha"):
            return 0.02
        if name.startswith(f"core.nodes.{new}."):
            return 2.0 * 0.01
        return 0.01 if new is None else 0.5 * 0.01

    return {name: rate(name) for name in names}


@pytest.mark.parametrize(("position", "numbers"), [("first", [0, 0]), ("middle", [0, 1]), ("last", [1, 2])])
def test_new_and_old_weights_have_rates_of_their_own_which_do_not_compound(
    copy_task, make_model, judge_says, position, numbers
):
    judge_says(True, True, True)
    task, journal = copy_task(), TrainingJournal()
    grow(make_model(task), task, journal, but(GROWN, position=position), seed=0)
    assert list(journal.fits) == ["stage-1-l2_sp-0", "stage-2", "stage-3"]
    for asked, new in zip(journal.fits.values(), [None, *numbers], strict=True):
        found = rates_after(asked["done"])
        assert found == rates_wanted(found, new)


def test_equal_rates_train_as_one_group_does(copy_task, make_model, judge_says, assert_equal, monkeypatch):
    """To the last bit, weight decay and l2_sp included."""
    recipe = replace(SHORT, epochs=3, weights=OptimizerRecipe(rate=0.01, weight_decay=0.1))
    options = but(GROWN, recipe=recipe, l2_sp=(5.0,), new_rate=1.0, old_rate=1.0)

    def last_model():
        judge_says(True, True, True)
        task, journal = copy_task(dropout=0.1), TrainingJournal()
        grow(make_model(task), task, journal, options, seed=0)
        done = journal.fits["stage-3"]["done"]
        return dict(done.model.state_dict()), [len(o.param_groups) for o in done.optimizers]

    divided, groups = last_model()
    assert groups == [2, 1]
    monkeypatch.setattr(stages, "set_rates", lambda optimizer, rates: None)
    whole, groups = last_model()
    assert groups == [1, 1]
    assert_equal(divided, whole)


@pytest.mark.parametrize("kind", ["duplicate_op", "split_op"])
@pytest.mark.parametrize("l2_sp", [0.0, 5.0])
def test_a_stage_that_begins_with_a_change_of_ops_has_one_rate_again(copy_task, make_model, kind, l2_sp):
    task, journal = copy_task(), TrainingJournal()
    path = [
        {"stage": number, "l2_sp": l2_sp, "best_epoch": 1, "moves": moves, "pruned": []}
        for number, moves in enumerate(
            (
                [],
                [{"kind": "add_node", "node": 1, "op": None, "draw": 0}],
                [{"kind": kind, "node": 0, "op": 1, "split_step": 0.1}],
            ),
            1,
        )
    ]
    replay(make_model(task), task, journal, GROWN, path, seed=0)
    assert list(journal.fits) == [f"refit-stage-1-l2_sp-{l2_sp:g}", "refit-stage-2", "refit-stage-3"]
    for asked, new in zip(journal.fits.values(), (None, 1, None), strict=True):
        found = rates_after(asked["done"])
        assert found == rates_wanted(found, new)


# --- which move ---

BOTH = but(ONE_STRENGTH, mode="nodes_and_ops", max_nodes=2, max_ops=4)
FIRST = {"stage-1-l2_sp-0": 0.9}
THIRDS = {"stage-1-l2_sp-0": (0, [0.3, 0.3, 0.4])}
TRIES = {"stage-2-try-add_node": 0.6, "stage-2-try-duplicate_op": 0.78, "stage-2-try-split_op": 0.89}
NODE, ADD, HADAMARD = 3 * 18 + 3 + 3, 18 + 1, 18 + 3 + 1  # parameters; an op's with its alpha


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_begins_stages_with_its_kinds_alone(copy_task, make_model, mode):
    task, journal = copy_task(), TrainingJournal()
    options = but(TRAINED, mode=mode, max_nodes=3, max_ops=5, outer_patience=2)
    grown = grow(make_model(task), task, journal, options, seed=1)
    assert {line["kind"] for line in journal.lines} == set(MODES[mode])
    begun = [move["kind"] for line in grown.stages[1:] for move in line["moves"]]
    assert begun
    assert set(begun) <= set(MODES[mode])
    assert set(KINDS) == set(MODES["nodes_and_ops"])


def test_each_kind_is_tried_and_the_largest_gain_a_parameter_wins(search):
    """The node lowers the loss most, the copy most for each parameter."""
    options = but(BOTH, trial_epochs=3)
    losses = {**FIRST, **TRIES, "stage-2": 0.7, "stage-3": 0.8}
    _, journal, _ = search(losses, options, shares=THIRDS, seconds=2.5)
    assert list(journal.fits) == list(losses)
    for key in TRIES:
        asked = journal.fits[key]
        assert asked["recipe"] == replace(options.recipe, l2_sp=0.0).first(3)
        assert (asked["seed"], asked["stage"]) == (4, 2)
    assert journal.fits["stage-2"]["recipe"] == replace(options.recipe, l2_sp=0.0)
    *lost, won = journal.lines[:3]
    assert [(line["kind"], line["node"], line["op"]) for line in lost] == [("add_node", 1, None), ("split_op", 0, 1)]
    assert (won["kind"], won["op"], won["op_name"], won["accepted"]) == ("duplicate_op", 2, "hadamard/sigmoid", True)
    assert [line["accepted"] for line in lost] == [False, False]
    for line, loss, count in zip(lost, (0.6, 0.89), (NODE, ADD), strict=True):
        assert (line["loss_before"], line["loss_after"], line["wall_s"]) == (0.9, loss, 2.5)
        assert line["params_after"] - line["params_before"] == count
        assert line["judge"] == {
            "rule": "gain per parameter in a trial",
            "figure": pytest.approx((0.9 - loss) / count),
            "threshold": pytest.approx(0.12 / HADAMARD),
        }
    assert (won["loss_before"], won["loss_after"], won["judge"]["rule"]) == (0.9, 0.7, "better")
    assert set(lost[0]) == NODE_KEYS
    assert set(won) == OP_KEYS
    # the copies made the node full, so that one kind is left: nothing is to be compared
    assert [line["kind"] for line in journal.lines[3:]] == ["add_node"]


def test_the_trials_count_as_steps_and_seconds_of_the_stage(search):
    grown, _, _ = search({**FIRST, **TRIES, "stage-2": 1.5}, BOTH, limit=4.5, shares=THIRDS)
    assert [(line["steps"], line["seconds"]) for line in grown.stages] == [(STEPS, 1.0), (4 * STEPS, 4.0)]
    assert (grown.steps, grown.seconds) == (5 * STEPS, 5.0)


def test_a_random_choice_takes_any_kind_and_asks_no_criterion(search):
    options, losses = but(BOTH, choice="random", position="best"), {f"stage-{number}": 0.95 for number in (2, 3, 4)}

    def kinds(seed):
        _, journal, _ = search({**FIRST, **losses}, options, seed=seed)
        assert journal.work == {}
        return [line["kind"] for line in journal.lines]

    found = [kinds(seed) for seed in range(9)]
    assert {one[0] for one in found} == set(KINDS)
    assert all(sorted(one) == sorted(KINDS) for one in found)  # a kind that was rejected is given up
    assert [kinds(seed) for seed in range(9)] == found


# --- limits of each kind ---

TWO = [("add", "identity"), ("add", "tanh")]  # the second can grow, by 19 parameters; a start of 46, a node of 38
FULL = "no node with fewer than max_ops = 2 ops has an op that can be duplicated or split"
NODE_TOO_LARGE = "with another node the model would have 84 parameters, max_params = 64"
OP_TOO_LARGE = "with another op the model would have 65 parameters, max_params = 64"


@pytest.mark.parametrize("choice", ["criteria", "random"])
@pytest.mark.parametrize(
    ("mode", "limits", "reason"),
    [
        ("nodes", {"max_nodes": 1}, "max_nodes = 1 reached"),
        ("ops_duplicate", {"max_ops": 2}, FULL),
        ("ops_split", {"max_ops": 2}, FULL),
        ("nodes_and_ops", {"max_nodes": 1, "max_ops": 2}, f"max_nodes = 1 reached; {FULL}"),
        ("nodes", {"max_params": 64}, NODE_TOO_LARGE),
        ("ops_duplicate", {"max_params": 64}, OP_TOO_LARGE),
        ("ops_split", {"max_params": 64}, OP_TOO_LARGE),
        *[(mode, {"limit": 1.0}, "budget.seconds = 1 reached") for mode in MODES],
    ],
)
def test_limits_end_growth_and_the_reason_says_which(search, choice, mode, limits, reason):
    limit = limits.get("limit")
    options = but(ONE_STRENGTH, mode=mode, choice=choice, **({} if limit else limits))
    grown, journal, _ = search(FIRST, options, ops=TWO, limit=limit)
    assert sorted(grown.reason.split("; ")) == sorted(reason.split("; "))  # a random choice looks in any order
    assert list(journal.fits) == list(FIRST)
    assert journal.lines == []
    assert limit is None or journal.work == {}


def test_all_kinds_too_large_are_said_together(search):
    grown, _, _ = search(FIRST, but(ONE_STRENGTH, mode="nodes_and_ops", max_params=64), ops=TWO)
    assert grown.reason == f"{NODE_TOO_LARGE}; {OP_TOO_LARGE}"


@pytest.mark.parametrize("mode", ["nodes", "ops_duplicate", "ops_split"])
@pytest.mark.parametrize("choice", ["criteria", "random"])
def test_a_move_up_to_the_limits_is_made(search, mode, choice):
    limits = {"max_nodes": 2, "max_ops": 3, "max_params": 84 if mode == "nodes" else 65}
    options = but(ONE_STRENGTH, mode=mode, choice=choice, **limits)
    grown, _, _ = search({**FIRST, "stage-2": 0.8}, options, ops=TWO, limit=1.001)
    assert [line["accepted"] for line in grown.stages] == [True, True]
    assert count_parameters(grown.model) == limits["max_params"]


def test_what_is_too_large_gives_way_to_the_next(search):
    """The Hadamard op has the larger share, but only a copy of the additive one fits."""
    options = but(ONE_STRENGTH, mode="ops_duplicate", max_params=68 + ADD)
    _, journal, _ = search({**FIRST, "stage-2": 0.95}, options, shares=THIRDS)
    assert [(line["op"], line["params_after"]) for line in journal.lines] == [(1, 68 + ADD)]


def test_kinds_that_are_not_possible_are_not_tried(search):
    options = but(BOTH, max_ops=3)
    _, journal, _ = search({**FIRST, "stage-2": 0.95}, options, shares=THIRDS)
    assert [line["kind"] for line in journal.lines] == ["add_node"]


def test_time_that_runs_out_in_trials_lets_the_stage_be_trained(search):
    grown, journal, _ = search({**FIRST, **TRIES, "stage-2": 0.7}, BOTH, limit=2.0, shares=THIRDS)
    assert list(journal.fits)[-1] == "stage-2"
    assert grown.reason == "budget.seconds = 2 reached"
    assert len(grown.path()) == 2


NONE_HIGH = "no op that can be duplicated has a share above grow_threshold = 0.2"


@pytest.mark.parametrize(
    ("epochs", "best_epoch", "high"),
    [(20, BEST, True), (7, BEST, True), (6, BEST, False), (20, 5, True), (20, 4, False)],
    ids=["always", "for two epochs", "for one epoch", "old enough", "too young"],
)
def test_an_op_is_duplicated_that_was_above_the_threshold_for_long(search, epochs, best_epoch, high):
    """The shares that count are smoothed, and those up to the epoch that the model is taken from."""
    script = [[0.8, 0.1, 0.1]] * (20 - epochs) + [[0.5, 0.1, 0.4]] * epochs
    options, shares = but(ONE_STRENGTH, mode="ops_duplicate"), {"stage-1-l2_sp-0": (0, script)}
    grown, journal, _ = search({**FIRST, "stage-2": 0.95}, options, shares=shares, best_epoch=best_epoch)
    assert grown.reason == ("the last duplicated op was not accepted" if high else NONE_HIGH)
    assert [line["op"] for line in journal.lines] == ([2] if high else [])


# --- rejected moves ---


@pytest.mark.parametrize("mode", ["ops_duplicate", "ops_split"])
def test_a_rejected_op_is_not_taken_again(search, mode):
    losses = {**FIRST, "stage-2": 0.95, "stage-3": 0.96}
    grown, journal, _ = search(losses, but(ONE_STRENGTH, mode=mode, outer_patience=9), shares=THIRDS)
    assert list(journal.fits) == list(losses)
    assert {line["op"] for line in journal.lines} == {1, 2}
    assert [line["loss_before"] for line in journal.lines] == [0.9, 0.9]
    assert (
        grown.reason
        == {
            "ops_duplicate": NONE_HIGH,
            "ops_split": "every possible split op was rejected",
        }[mode]
    )


def test_a_kind_whose_patience_is_over_is_given_up_and_the_others_go_on(search):
    losses = {
        **FIRST, **TRIES, "stage-2": 0.95, "stage-3-try-add_node": 0.6, "stage-3-try-split_op": 0.89, "stage-3": 0.95,
        "stage-4": 0.95,
    }  # fmt: skip
    grown, journal, _ = search(losses, BOTH, shares=THIRDS)
    assert list(journal.fits) == list(losses)
    begun = [[move["kind"] for move in line["moves"]] for line in grown.stages[1:]]
    assert begun == [["duplicate_op"], ["add_node"], ["split_op"]]
    assert grown.reason.split("; ") == [
        f"the last {what} was not accepted" for what in ("added node", "duplicated op", "split op")
    ]


def test_a_kind_has_all_its_patience_again_after_a_move_that_was_accepted(search):
    losses = {
        **FIRST, **TRIES, "stage-2": 0.95, "stage-3-try-add_node": 0.6, "stage-3-try-split_op": 0.89, "stage-3": 0.8,
        "stage-4-try-duplicate_op": 0.7, "stage-4-try-split_op": 0.79, "stage-4": 0.85, "stage-5": 0.85,
    }  # fmt: skip
    _, journal, _ = search(losses, BOTH, shares=THIRDS)
    assert list(journal.fits) == list(losses)
    copies = [(line["stage"], line["op"]) for line in journal.lines if line["kind"] == "duplicate_op"]
    assert copies == [(2, 2), (4, 1)]  # but what was declined is not proposed again


def test_outer_patience_is_that_of_each_kind(search):
    losses = {
        **FIRST, **TRIES, "stage-2": 0.95,
        **{f"stage-3{key[7:]}": loss for key, loss in TRIES.items()}, "stage-3": 0.95,
        "stage-4-try-add_node": 0.6, "stage-4-try-split_op": 0.89, "stage-4": 0.95,
        "stage-5-try-add_node": 0.6, "stage-5-try-split_op": 0.89, "stage-5": 0.95,
        "stage-6": 0.95, "stage-7": 0.95,
    }  # fmt: skip
    grown, journal, _ = search(losses, but(BOTH, outer_patience=2), shares=THIRDS)
    assert list(journal.fits) == list(losses)
    places = [(move["kind"], move["op"]) for line in grown.stages[1:] for move in line["moves"]]
    assert places[:4] == [("duplicate_op", 2), ("duplicate_op", 1), ("add_node", None), ("add_node", None)]
    assert sorted(places[4:]) == [("split_op", 1), ("split_op", 2)]
    assert "the last 2 split ops were not accepted (outer_patience = 2)" in grown.reason


@pytest.mark.parametrize(("between", "again"), [(0.4, False), (0.17, False), (0.1, True)])
def test_a_declined_copy_comes_back_once_its_share_has_left_the_level(search, between, again):
    """0.17 is below the threshold of 0.2, but not by a fifth."""
    thresholds = Thresholds(smoothing=1.0, min_age=2)
    options = but(ONE_STRENGTH, mode="ops_duplicate", outer_patience=2, thresholds=thresholds)
    rest = [[0.3, (0.7 - share) / 2, share, (0.7 - share) / 2] for share in (between, 0.4)]
    shares = {**THIRDS, "stage-3": (0, [rest[0]] * 5 + [rest[1]] * 15)}
    losses = {**FIRST, "stage-2": 0.95, "stage-3": 0.8, "stage-4": 0.85}
    grown, journal, _ = search({**losses, "stage-5": 0.85}, options, shares=shares)
    places = [(line["stage"], line["op"]) for line in journal.lines]
    assert places == [(2, 2), (3, 1), *([(4, 2)] if again else [])]
    assert grown.reason == NONE_HIGH


def test_a_random_copy_that_is_rejected_says_nothing_about_a_low_share(search):
    """What was declined was not the share's proposal: both low ops are still to be pruned."""
    options = but(ONE_STRENGTH, mode="ops_duplicate", choice="random", prune="at_end")
    losses = {**FIRST, "stage-2": 0.95, "stage-1-l2_sp-0-pruned-at_end": 0.9}
    grown, journal, _ = search(losses, options, shares={"stage-1-l2_sp-0": (0, [0.92, 0.04, 0.04])})
    assert [line["kind"] for line in journal.lines] == ["duplicate_op", "prune_op", "prune_op"]
    assert grown.model.core.op_names(0) == [("add", "identity")]


# --- restarts ---

AGAIN = but(ONE_STRENGTH, max_nodes=1, replace="uniform", restarts=3)
MOST_68 = "max_params = 68"
OP_OF_71 = f"with another op the model would have 71 parameters, {MOST_68}"
NODE_OF_68 = f"with another node the model would have 128 parameters, {MOST_68}"
LOWEST = {"stage-1-l2_sp-0": (0, [0.5, 0.2, 0.3]), "stage-3": (0, [0.2, 0.5, 0.3])}


def restarted(search, options, *losses, **script):
    """Restart after a growth that ended with a rejected stage 2."""
    stages = {f"stage-{number}": loss for number, loss in enumerate((0.95, *losses), 2)}
    return search({**FIRST, **stages}, but(options, max_nodes=2), shares=LOWEST, **script)


def test_restarts_go_on_while_they_are_accepted(search):
    grown, journal, _ = restarted(search, AGAIN, 0.8, 0.85, 0.1)
    assert list(journal.fits) == ["stage-1-l2_sp-0", "stage-2", "stage-3", "stage-4"]
    assert [line["accepted"] for line in grown.stages] == [True, False, True, False]
    lines = journal.lines[1:]
    assert [(line["kind"], line["op"], line["accepted"]) for line in lines] == [
        ("replace_op", 1, True), ("replace_op", 0, False),
    ]  # fmt: skip
    assert [line["op_name"] for line in lines] == ["add/tanh", "add/identity"]
    assert all(set(line) == OP_KEYS | {"new_op"} for line in lines)
    asked = journal.fits["stage-3"]["model"].core.op_names(0)
    assert ["/".join(op) for op in asked] == ["add/identity", lines[0]["new_op"], "hadamard/sigmoid"]
    assert [line["loss_before"] for line in lines] == [0.9, 0.8]
    assert grown.model is journal.fits["stage-3"]["done"].model
    assert grown.reason == "the last added node was not accepted; the last restart was not accepted"
    assert grown.steps == 4 * STEPS


def test_restarts_draw_uniformly_where_no_draw_is_named(search):
    lines = [restarted(search, but(AGAIN, replace=draw), 0.8, 0.85)[1].lines for draw in ("none", "uniform")]
    assert lines[0] == lines[1]
    assert lines[0][-1]["kind"] == "replace_op"


@pytest.mark.parametrize("restarts", [0, 1, 2])
def test_there_are_no_more_restarts_than_allowed(search, restarts):
    grown, _, _ = restarted(search, but(AGAIN, restarts=restarts), 0.8, 0.7, 0.6)
    assert [line["accepted"] for line in grown.stages] == [True, False, *[True] * restarts]
    end = [f"restarts = {restarts} made"] if restarts else []
    assert grown.reason.split("; ") == ["the last added node was not accepted", *end]


def test_a_restart_draws_the_smallest_op_of_every_node_anew(search):
    options = but(AGAIN, max_nodes=2)
    losses = {**FIRST, "stage-2": 0.8, "stage-3": 0.95}
    grown, journal, _ = search(losses, options, nodes=2, shares={"stage-1-l2_sp-0": (1, [0.4, 0.5, 0.1])})
    first = [(line["node"], line["op"]) for line in journal.lines if line["stage"] == 2]
    assert first == [(0, 0), (1, 2)]
    assert [move["node"] for move in grown.stages[1]["moves"]] == [0, 1]


@pytest.mark.parametrize(
    ("limits", "limit", "restarts", "reason"),
    [
        ({}, 2.0, 0, "budget.seconds = 2 reached"),  # said once, though it ended the growth before, too
        (
            {"max_params": 68},
            None,
            0,
            f"{NODE_OF_68}; no further restart: with another op the model would have 71 parameters, {MOST_68}",
        ),
        ({}, None, 1, "the last added node was not accepted; restarts = 1 made"),
    ],
)
def test_restarts_heed_time_and_size_and_say_so(search, limits, limit, restarts, reason):
    """The smallest op is additive, one that is drawn for it is larger."""
    space = SearchSpace(("hadamard",), ("tanh",))
    grown, _, _ = restarted(search, but(AGAIN, **limits, restarts=1), 0.1, space=space, limit=limit)
    assert grown.reason == reason
    assert sum(line["stage"] > 2 for line in grown.stages) == restarts


def test_a_start_that_nothing_beats_is_not_restarted(search):
    grown, journal, _ = search({"stage-1-l2_sp-0": 1.2}, AGAIN)
    assert grown.reason == NOTHING_FOUND
    assert list(journal.fits) == ["stage-1-l2_sp-0"]


# --- parts ---


def test_with_core_copies_all_but_the_core(copy_task, make_model):
    model, core = make_model(copy_task()), torch.nn.Identity()
    kept = model.core
    new = with_core(model, core)
    assert new.core is core
    assert model.core is kept
    assert new.readout is not model.readout
    assert torch.equal(new.readout.weight, model.readout.weight)


def test_output_drift_is_the_largest_change(copy_task, make_model):
    task = copy_task(dropout=0.5)
    before = make_model(task)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.readout.bias[1] -= 0.25
    assert output_drift(before, after, task) == pytest.approx(0.25, rel=1e-12)


def test_a_search_is_the_same_twice_and_leaves_the_start_alone(copy_task, make_model, assert_equal):
    recipe = Recipe(epochs=6, patience=2, weights=OptimizerRecipe(rate=0.02))
    options = but(PLAIN, recipe=recipe, l2_sp=(10.0, 0.0), max_nodes=2)
    found = []
    for number in range(2):
        torch.manual_seed(number)
        task, journal = copy_task(dropout=0.1), TrainingJournal()
        start = make_model(task, hidden=4)
        before = copy.deepcopy(dict(start.state_dict()))
        grown = grow(start, task, journal, options, seed=1)
        assert_equal(dict(start.state_dict()), before)
        lines = [{**line, "wall_s": 0, "seconds": 0} for line in (*grown.stages, *journal.lines)]
        found.append((dict(grown.model.state_dict()), lines, grown.reason))
        best = min([line["loss_after"] for line in grown.stages if line["accepted"]])
        assert task.evaluate(grown.model, "val").losses.mean() == best
    assert_equal(*found)
