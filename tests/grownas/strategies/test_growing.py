"""The controller, driven without training: a scripted journal gives back fits with the losses that a test names."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from grownas.errors import ConfigError
from grownas.protocols import Evaluation
from grownas.recipe import OptimizerRecipe, Recipe, count_parameters, make_optimizers
from grownas.strategies import growing
from grownas.strategies.growing import NOTHING_FOUND, grow, replay
from grownas.strategies.stage import Growth, output_drift, with_core
from grownas.train import Fit, fit

CONTRACT_KEYS = {
    "stage", "step", "kind", "node", "op", "drift", "loss_before", "loss_after", "predicted_change", "params_before",
    "params_after", "accepted", "judge", "wall_s",
}  # fmt: skip
PLAIN = Growth(recipe=Recipe(epochs=7), pulls=(100.0, 0.0), judge="better", max_nodes=3)
START = 1.0  # the start's validation loss
PRUNED = 0.97  # that of a model which was just pruned
STEPS = 10  # of each scripted fit
DAYS = 64


class ScriptedJournal:
    """Gives each key's fit the loss of the script; `shares` sets the mixture that the training ended with."""

    def __init__(self, losses, *, shares=None, seconds=1.0):
        self.losses, self.shares, self.seconds_each, self.elapsed = losses, shares or {}, seconds, 0.0
        self.fits, self.lines = {}, []

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0):
        assert key not in self.fits, f"{key} was asked for twice"
        self.fits[key] = {"model": model, "recipe": recipe, "optimizers": optimizers, "stage": stage, "seed": seed}
        trained = copy.deepcopy(model)
        if key in self.shares:
            node, shares = self.shares[key]
            with torch.no_grad():
                trained.core.alpha[node].copy_(torch.tensor(shares).log())
        self.elapsed += self.seconds_each
        loss = self.losses[key]
        losses = loss if isinstance(loss, np.ndarray) else np.full(DAYS, loss)
        return Fit(
            model=trained,
            optimizers=make_optimizers(trained, recipe),
            evaluation=Evaluation(float(losses.mean()), losses),
            epochs=5,
            best_epoch=3,
            steps=STEPS,
            seconds=self.seconds_each,
            reason="the script says so",
        )

    def grew(self, line):
        self.lines.append(rounded(line))


class TrainingJournal(ScriptedJournal):
    """Does the fits; keeps the optimisers that each was given, and what came out."""

    def __init__(self):
        super().__init__({})

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0):
        done = fit(model, task, recipe, seed=seed, optimizers=optimizers)
        self.fits[key] = {"optimizers": optimizers, "done": done}
        return done


def rounded(line):
    """A line whose losses are those of the script again: the mean of equal figures is not exactly that figure."""
    return {key: round(value, 12) if key.startswith("loss") else value for key, value in line.items()}


@pytest.fixture
def search(copy_task, make_model):
    """Grow the start by a script; return what was found, the journal and the start."""

    class Judged(copy_task):
        def evaluate(self, model, part):
            assert part == "val"
            self.asked = getattr(self, "asked", 0) + 1
            loss = START if self.asked == 1 else PRUNED
            return Evaluation(loss, np.full(DAYS, loss))

    def run(losses, options=PLAIN, *, dtype=torch.float64, nodes=1, **script):
        task, journal = Judged(dtype=dtype), ScriptedJournal(losses, **script)
        start = make_model(task, nodes=nodes)
        return grow(start, task, journal, options, seed=4), journal, start

    return run


def stage_figures(grown):
    keys = ("stage", "pull", "loss_before", "loss_after", "accepted")
    return [tuple(rounded(line)[key] for key in keys) for line in grown.stages]


# --- the first stage ---


def test_the_start_is_kept_if_nothing_beats_it(search):
    grown, journal, start = search({"stage-1-pull-100": 1.01, "stage-1-pull-0": 1.2})
    assert grown.reason == NOTHING_FOUND == "the start is kept, nothing found"
    assert grown.model is start
    assert grown.pull is None
    assert stage_figures(grown) == [(1, 100.0, START, 1.01, False), (1, 0.0, START, 1.2, False)]
    assert (grown.steps, grown.seconds) == (2 * STEPS, 2.0)
    assert journal.lines == []
    assert grown.path() == []
    assert grown.first_path() == [grown.stages[0]]
    assert grown.first_stage is not start


def test_an_equal_loss_does_not_beat_the_start(search):
    assert search({"stage-1-pull-100": START, "stage-1-pull-0": START})[0].reason == NOTHING_FOUND


def test_pulls_are_tried_in_order_from_the_same_start(search, assert_equal):
    options = replace(PLAIN, pulls=(7.0, 100.0, 0.0), max_nodes=1, noise=0.0)
    losses = {"stage-1-pull-7": 0.9, "stage-1-pull-100": 0.95, "stage-1-pull-0": 0.8}
    grown, journal, start = search(losses, options)
    assert list(journal.fits) == list(losses)
    for asked, pull in zip(journal.fits.values(), options.pulls, strict=True):
        assert_equal(dict(asked["model"].state_dict()), dict(start.state_dict()))
        assert asked["optimizers"] is None
        assert asked["recipe"] == replace(options.recipe, pull=pull)
    # each is judged against the best so far
    assert stage_figures(grown) == [
        (1, 7.0, START, 0.9, True), (1, 100.0, 0.9, 0.95, False), (1, 0.0, 0.9, 0.8, True),
    ]  # fmt: skip
    assert grown.pull == 0.0


def test_the_first_stage_begins_at_the_start_with_noise_on_all_but_the_carrier(search):
    options = replace(PLAIN, pulls=(1000.0, 0.0), max_nodes=1, noise=0.02)
    _, journal, start = search({"stage-1-pull-1000": 0.9, "stage-1-pull-0": 0.8}, options)
    old = start.core.nodes[0]
    scaled = 0.02 / math.sqrt(start.core.hidden_size)
    for asked, noise in zip(journal.fits.values(), (1 / 1000, scaled), strict=True):  # no more than a pull allows
        new = asked["model"].core.nodes[0]
        assert torch.equal(asked["model"].readout.weight, start.readout.weight)
        assert torch.equal(new.W_h[:, 0], old.W_h[:, 0])  # op 0 carries
        moved = torch.cat([(new.W_h - old.W_h)[:, 1:].flatten(), (new.W_x - old.W_x)[:, 1:].flatten()])
        assert 0.6 * noise < float(moved.detach().std()) < 1.4 * noise


@pytest.mark.parametrize(("second", "pull"), [(0.8, 0.0), (0.95, 100.0)])
def test_later_nodes_are_trained_with_the_pull_accepted_last(search, second, pull):
    losses = {"stage-1-pull-100": 0.9, "stage-1-pull-0": second, "stage-2": 0.5, "stage-3": 0.6}
    grown, journal, _ = search(losses)
    assert [journal.fits[key]["recipe"].pull for key in ("stage-2", "stage-3")] == [pull, pull]
    assert grown.pull == pull


def test_the_first_stage_is_the_lowest_whether_accepted_or_not(search):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, DAYS)
    noisy = 0.98 + noise - noise.mean()
    options = replace(PLAIN, judge="significant", threshold=1.645)
    losses = {"stage-1-pull-100": 0.99, "stage-1-pull-0": noisy, "stage-2": 1.5}
    grown, _, _ = search(losses, options, shares={"stage-1-pull-0": (0, [0.5, 0.3, 0.2])})
    assert [line["accepted"] for line in grown.stages] == [True, False, False]
    torch.testing.assert_close(torch.softmax(grown.first_stage.core.alpha[0], 0).tolist(), [0.5, 0.3, 0.2])
    assert grown.first_path()[0]["pull"] == 0.0
    assert grown.path()[0]["pull"] == 100.0


def test_the_judge_is_the_one_asked_for(search):
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, DAYS)
    lower = START + noise - noise.mean() - 0.01  # lower by luck
    losses = {"stage-1-pull-0": lower, "stage-2": 9.0}
    better, _, _ = search(losses, replace(PLAIN, pulls=(0.0,)))
    significant, _, _ = search(losses, replace(PLAIN, pulls=(0.0,), judge="significant"))
    assert better.pull == 0.0
    assert significant.reason == NOTHING_FOUND
    assert better.stages[0]["judge"] == {"rule": "better", "figure": pytest.approx(0.01), "threshold": 0.0}
    judge = significant.stages[0]["judge"]
    assert (judge["rule"], judge["threshold"]) == ("significant", 1.645)
    assert judge["figure"] < 1.645


# --- growth, and why it ends ---

ONE_PULL = replace(PLAIN, pulls=(0.0,))


def test_growth_goes_on_while_it_is_accepted(search):
    grown, journal, _ = search({"stage-1-pull-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}, ONE_PULL)
    assert grown.reason == "max_nodes = 3 reached"
    assert len(grown.model.core.nodes) == 3
    assert [line["accepted"] for line in journal.lines] == [True, True]
    assert [len(asked["model"].core.nodes) for asked in journal.fits.values()] == [1, 2, 3]
    assert [asked["stage"] for asked in journal.fits.values()] == [1, 2, 3]
    assert [line["nodes"] for line in grown.stages] == [1, 2, 3]
    assert grown.path() == grown.stages
    assert (grown.steps, grown.seconds) == (3 * STEPS, 3.0)


def test_the_first_rejected_stage_ends_growth(search):
    grown, journal, _ = search({"stage-1-pull-0": 0.9, "stage-2": 0.95}, ONE_PULL)
    assert grown.reason == "the last added node was not accepted"
    assert len(grown.model.core.nodes) == 1
    assert [line["accepted"] for line in journal.lines] == [False]
    assert grown.path() == grown.stages[:1]


def test_outer_patience_lets_growth_pass_a_rejected_stage(search):
    losses = {"stage-1-pull-0": 0.9, "stage-2": 0.95, "stage-3": 0.8, "stage-4": 0.85, "stage-5": 0.81}
    grown, journal, _ = search(losses, replace(ONE_PULL, outer_patience=2, max_nodes=9))
    assert grown.reason == "no gain by the last 2 added nodes (outer_patience = 2)"
    # judged against the best, grown from the last
    assert [rounded(line)["loss_before"] for line in grown.stages] == [START, 0.9, 0.9, 0.8, 0.8]
    assert [line["loss_before"] for line in journal.lines] == [0.9, 0.95, 0.8, 0.85]
    assert [line["accepted"] for line in journal.lines] == [False, True, False, False]
    assert len(grown.model.core.nodes) == 3  # the best of all stages, not the last
    assert grown.path() == grown.stages[:3]


def test_max_nodes_of_the_start_allows_no_growth(search):
    grown, journal, _ = search({"stage-1-pull-0": 0.9}, replace(ONE_PULL, max_nodes=1))
    assert grown.reason == "max_nodes = 1 reached"
    assert journal.lines == []


def test_max_seconds(search):
    losses = {"stage-1-pull-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    grown, _, _ = search(losses, replace(ONE_PULL, max_nodes=9, max_seconds=25.0), seconds=10.0)
    assert grown.reason == "max_seconds = 25 reached"
    assert len(grown.model.core.nodes) == 3


@pytest.mark.parametrize("room", [0, -1])
def test_max_params(search, make_model, copy_task, room):
    two = count_parameters(make_model(copy_task(), nodes=2))
    losses = {"stage-1-pull-0": 0.9, "stage-2": 0.8}
    grown, _, _ = search(losses, replace(ONE_PULL, max_nodes=9, max_params=two + room))
    assert len(grown.model.core.nodes) == (2 if room == 0 else 1)
    assert count_parameters(grown.model) <= two + room
    three = count_parameters(make_model(copy_task(), nodes=3))
    assert grown.reason == (
        f"another node would make {three if room == 0 else two} parameters, max_params = {two + room}"
    )


@pytest.mark.parametrize(("first", "pull"), [(1.2, None), (0.9, 100.0)])
def test_max_seconds_ends_the_pulls_of_the_first_stage(search, first, pull):
    options = replace(PLAIN, pulls=(100.0, 10.0, 0.0), max_seconds=20.0)
    losses = {"stage-1-pull-100": first, "stage-1-pull-10": 1.3}
    grown, journal, start = search(losses, options, seconds=10.0)
    assert list(journal.fits) == list(losses)
    assert (grown.reason, grown.pull) == ("max_seconds = 20 reached", pull)
    assert (grown.model is start) == (pull is None)


def test_the_first_pull_is_tried_however_short_the_time(search):
    grown, journal, _ = search({"stage-1-pull-100": 1.2}, replace(PLAIN, max_seconds=1e-9))
    assert list(journal.fits) == ["stage-1-pull-100"]
    assert grown.reason == "max_seconds = 1e-09 reached"


def test_time_that_runs_out_with_the_last_pull_hides_no_verdict(search):
    losses = {"stage-1-pull-100": 1.2, "stage-1-pull-0": 1.2}
    assert search(losses, replace(PLAIN, max_seconds=20.0), seconds=10.0)[0].reason == NOTHING_FOUND


def test_a_start_above_max_params_is_refused_before_work(make_model, copy_task):
    start, journal = make_model(copy_task()), ScriptedJournal({})
    count = count_parameters(start)
    with pytest.raises(ConfigError, match=f"start has {count} parameters, above max_params = {count - 1}"):
        grow(start, copy_task(), journal, replace(PLAIN, max_params=count - 1), seed=0)
    assert journal.fits == {}


def test_a_start_of_max_params_is_trained(search, make_model, copy_task):
    count = count_parameters(make_model(copy_task()))
    grown, journal, _ = search({"stage-1-pull-0": 0.9}, replace(ONE_PULL, max_params=count))
    assert list(journal.fits) == ["stage-1-pull-0"]
    assert grown.reason.endswith(f"max_params = {count}")


# --- the log ---


def test_a_growth_line_holds_what_the_contract_says(search, make_model, copy_task):
    grown, journal, start = search({"stage-1-pull-0": 0.9, "stage-2": 0.95}, ONE_PULL, seconds=2.5)
    (line,) = journal.lines
    assert set(line) == CONTRACT_KEYS
    drift = line.pop("drift")
    assert drift > 0
    assert line == {
        "stage": 2, "step": STEPS, "kind": "add_node", "node": 1, "op": None, "loss_before": 0.9, "loss_after": 0.95,
        "predicted_change": 0.0, "params_before": count_parameters(start),
        "params_after": count_parameters(make_model(copy_task(), nodes=2)), "accepted": False,
        "judge": {"rule": "better", "figure": pytest.approx(-0.05), "threshold": 0.0}, "wall_s": 2.5,
    }  # fmt: skip
    assert count_parameters(grown.model) == line["params_before"]


@pytest.mark.parametrize(("second", "figure"), [(0.5, 1e6), (1.0, -1e6)])
def test_an_infinite_t_is_logged_as_a_number(search, second, figure):
    """A constant gain has error 0; the judge still sees infinity."""
    options = replace(ONE_PULL, judge="significant", threshold=1e7, max_nodes=2)
    grown, journal, _ = search({"stage-1-pull-0": 0.75, "stage-2": second}, options)
    (line,) = journal.lines[:1]
    assert line["judge"] == {"rule": "significant", "figure": figure, "threshold": 1e7}
    assert grown.stages[1]["judge"] == line["judge"]
    assert line["accepted"] == (figure > 0)


@pytest.mark.parametrize(("position", "numbers"), [("first", [0, 0]), ("middle", [0, 1]), ("last", [1, 2])])
def test_the_log_says_where_the_node_was_put(search, position, numbers):
    losses = {"stage-1-pull-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    _, journal, _ = search(losses, replace(ONE_PULL, position=position))
    assert [line["node"] for line in journal.lines] == numbers
    old = journal.fits["stage-1-pull-0"]["model"].core.nodes[0].W_h  # the script trains nothing
    for asked, number in zip(list(journal.fits.values())[1:], numbers, strict=True):
        nodes = [node.W_h for node in asked["model"].core.nodes]
        assert not torch.equal(nodes[number], old)  # the number is that of the new node
    first_grown = [torch.equal(node.W_h, old) for node in journal.fits["stage-2"]["model"].core.nodes]
    assert first_grown == [number != numbers[0] for number in range(2)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_without_noise_the_drift_is_rounding(search, dtype, limit):
    losses = {"stage-1-pull-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    _, journal, _ = search(losses, replace(ONE_PULL, noise=0.0), dtype=dtype)
    assert all(0 <= line["drift"] <= limit for line in journal.lines)
    assert len(journal.lines) == 2


def test_with_noise_the_measured_drift_is_logged(search, copy_task):
    losses = {"stage-1-pull-0": 0.9, "stage-2": 0.8, "stage-3": 0.7}
    _, journal, _ = search(losses, replace(ONE_PULL, noise=0.05))
    start, asked = (journal.fits[key]["model"] for key in ("stage-1-pull-0", "stage-2"))
    x = next(iter(copy_task().windows("train", seed=0))).x
    assert journal.lines[0]["drift"] == float((asked(x)[0] - start(x)[0]).detach().abs().max()) > 1e-4
    assert journal.lines[0]["drift"] != journal.lines[1]["drift"]


def test_a_stage_begins_with_the_migrated_optimizers(copy_task, make_model):
    """The moments of the surviving weights are those that the stage before ended with."""
    task, journal = copy_task(), TrainingJournal()
    options = replace(ONE_PULL, recipe=Recipe(epochs=3, patience=None, weights=OptimizerRecipe(rate=0.01)), max_nodes=2)
    grow(make_model(task), task, journal, options, seed=0)
    before = journal.fits["stage-1-pull-0"]["done"].optimizers[0].state_dict()["state"]
    after = journal.fits["stage-2"]["optimizers"][0].state_dict()["state"]
    names = ["W_x", "b_x", "W_h", "b_h"]
    for number, _ in enumerate(names):
        assert torch.equal(after[number]["exp_avg"], before[number]["exp_avg"])
    assert len(after) == len(before)  # the new node's weights start clean


SHORT = Recipe(epochs=1, patience=None, weights=OptimizerRecipe(rate=0.01), alpha=OptimizerRecipe(rate=0.02))
GROWN = replace(ONE_PULL, recipe=SHORT, outer_patience=9, new_rate=2.0, old_rate=0.5)


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
def test_new_and_old_weights_have_rates_of_their_own_which_do_not_compound(copy_task, make_model, position, numbers):
    task, journal = copy_task(), TrainingJournal()
    grow(make_model(task), task, journal, replace(GROWN, position=position), seed=0)
    assert list(journal.fits) == ["stage-1-pull-0", "stage-2", "stage-3"]
    for asked, new in zip(journal.fits.values(), [None, *numbers], strict=True):
        found = rates_after(asked["done"])
        assert found == rates_wanted(found, new)


def test_equal_rates_train_as_one_group_does(copy_task, make_model, assert_equal, monkeypatch):
    """To the last bit, weight decay and pull included."""
    recipe = replace(SHORT, epochs=3, weights=OptimizerRecipe(rate=0.01, weight_decay=0.1))
    options = replace(GROWN, recipe=recipe, pulls=(5.0,), new_rate=1.0, old_rate=1.0)

    def last_model():
        task, journal = copy_task(dropout=0.1), TrainingJournal()
        grow(make_model(task), task, journal, options, seed=0)
        done = journal.fits["stage-3"]["done"]
        return dict(done.model.state_dict()), [len(o.param_groups) for o in done.optimizers]

    divided, groups = last_model()
    assert groups == [2, 1]
    monkeypatch.setattr(growing, "set_rates", lambda optimizer, rates: None)
    whole, groups = last_model()
    assert groups == [1, 1]
    assert_equal(divided, whole)


@pytest.mark.parametrize("prune", ["each_stage", "at_end"])
def test_the_fine_tuning_after_a_pruning_keeps_the_rates_of_its_stage(copy_task, make_model, prune):
    task, journal = copy_task(), TrainingJournal()
    options = replace(GROWN, judge="better", max_nodes=2, prune=prune, prune_threshold=0.3)
    grow(make_model(task), task, journal, options, seed=0)
    found = rates_after(journal.fits[f"stage-2-pull-0-pruned-{prune}"]["done"])
    assert found == rates_wanted(found, 1)


# --- pruning ---

SMALL = {"stage-2": (1, [0.90, 0.06, 0.04])}
LOSSES = {"stage-1-pull-0": 0.9, "stage-2": 0.8, "stage-3": 0.95}


def prune_lines(journal):
    return [line for line in journal.lines if line["kind"] == "prune_op"]


def test_nothing_is_pruned_without_pruning(search):
    grown, journal, _ = search(LOSSES, ONE_PULL, shares=SMALL)
    assert prune_lines(journal) == []
    assert [len(alpha) for alpha in grown.model.core.alpha] == [3, 3]


def test_pruning_in_each_stage(search):
    options = replace(ONE_PULL, prune="each_stage", fine_tune_epochs=6)
    losses = {**LOSSES, "stage-2-pull-0-pruned-each_stage": 0.75}
    grown, journal, _ = search(losses, options, shares=SMALL)
    add, prune, last = journal.lines
    assert set(prune) == CONTRACT_KEYS | {"op_name"}
    assert (add["kind"], last["kind"]) == ("add_node", "add_node")
    assert (prune["stage"], prune["step"], prune["node"]) == (2, STEPS, 1)
    assert (prune["op"], prune["op_name"]) == (2, "hadamard/sigmoid")
    assert (add["predicted_change"], prune["predicted_change"]) == (0.0, None)  # nothing predicts a pruning's change
    assert (add["loss_after"], prune["loss_before"], prune["loss_after"]) == (0.8, 0.8, PRUNED)
    assert prune["judge"] == {"rule": "share", "figure": pytest.approx(0.04), "threshold": 0.05}
    assert add["params_after"] == prune["params_before"] == prune["params_after"] + (2 * 3 + 3 + 9 + 3 + 1)
    assert prune["accepted"] is True
    assert last["loss_before"] == 0.75
    assert [len(alpha) for alpha in grown.model.core.alpha] == [3, 2]
    tuned = journal.fits["stage-2-pull-0-pruned-each_stage"]
    assert tuned["recipe"] == replace(options.recipe, pull=0.0, epochs=6)
    assert [p.shape for g in tuned["optimizers"][1].param_groups for p in g["params"]] == [(3,), (2,)]
    line = rounded(grown.stages[1])
    assert (line["loss_after"], line["steps"], line["seconds"]) == (0.75, 2 * STEPS, 2.0)
    assert grown.steps == 4 * STEPS


def test_prunings_of_a_rejected_stage_are_logged_as_rejected(search):
    losses = {**LOSSES, "stage-2-pull-0-pruned-each_stage": 0.95}
    grown, journal, _ = search(losses, replace(ONE_PULL, prune="each_stage"), shares=SMALL)
    assert [line["accepted"] for line in journal.lines] == [False, False]
    assert len(grown.model.core.nodes) == 1


def test_pruning_at_the_end_prunes_the_best_stage(search):
    losses = {**LOSSES, "stage-3-pull-0-pruned-at_end": 0.79}
    shares = {**SMALL, "stage-3": (2, [0.98, 0.01, 0.01])}
    grown, journal, _ = search(losses, replace(ONE_PULL, prune="at_end"), shares=shares)
    assert [line["kind"] for line in journal.lines] == ["add_node", "add_node", "prune_op"]
    prune = journal.lines[-1]
    assert set(prune) == CONTRACT_KEYS | {"op_name"}
    assert (prune["node"], prune["loss_before"], prune["loss_after"], prune["accepted"]) == (1, 0.8, PRUNED, True)
    assert [len(alpha) for alpha in grown.model.core.alpha] == [3, 2]
    assert grown.steps == 4 * STEPS


def test_top_k_prunes_the_smallest_shares_of_each_node(search):
    losses = {"stage-1-pull-0": 0.9, "stage-1-pull-0-pruned-each_stage": 0.89}
    options = replace(ONE_PULL, prune="each_stage", prune_threshold=0.0, top_k=1, max_nodes=1)
    shares = {"stage-1-pull-0": (0, [0.3, 0.25, 0.45])}
    grown, journal, _ = search(losses, options, shares=shares, seconds=2.5)
    names = [line["op_name"] for line in journal.lines]
    assert names == ["add/tanh", "hadamard/sigmoid"]  # the heir's share grew to 0.55
    assert [line["op"] for line in journal.lines] == [1, 1]  # as the node was before each
    assert [line["wall_s"] for line in journal.lines] == [0.0, 2.5]  # the fine-tuning, from the journal
    assert journal.lines[0]["judge"] == {"rule": "top_k", "figure": pytest.approx(0.25), "threshold": 1}
    assert [line["loss_before"] for line in journal.lines] == [0.9, PRUNED]
    assert grown.model.core.op_names(0) == [("add", "identity")]


@pytest.mark.parametrize("prune", ["each_stage", "at_end"])
def test_shares_at_the_threshold_stay(search, prune):
    options = replace(ONE_PULL, prune=prune, prune_threshold=0.2, max_nodes=1)
    grown, journal, _ = search(LOSSES, options, shares={"stage-1-pull-0": (0, [0.55, 0.2001, 0.2499])})
    assert journal.lines == []
    assert len(grown.model.core.alpha[0]) == 3


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


def test_replay_repeats_the_path_for_as_many_epochs(search, copy_task):
    losses = {"stage-1-pull-100": 1.2, "stage-1-pull-0": 0.9, "stage-2": 0.95, "stage-3": 0.8}
    options = replace(PLAIN, outer_patience=2)
    grown, _, start = search(losses, options)
    again = ScriptedJournal({"refit-stage-1-pull-0": 0.9, "refit-stage-2": 0.9, "refit-stage-3": 0.9})
    model = replay(start, copy_task(), again, options, grown.path(), seed=4)
    assert list(again.fits) == ["refit-stage-1-pull-0", "refit-stage-2", "refit-stage-3"]
    for asked in again.fits.values():
        assert asked["recipe"] == replace(options.recipe, pull=0.0, patience=None, epochs=3)
    for key in ("refit-stage-2", "refit-stage-3"):  # at the rates that the growth had
        rates = [group["lr"] for group in again.fits[key]["optimizers"][0].param_groups]
        assert rates == [0.3 * options.recipe.weights.rate, 3 * options.recipe.weights.rate]
    assert len(model.core.nodes) == 3


def test_a_search_is_the_same_twice_and_leaves_the_start_alone(copy_task, make_model, assert_equal):
    recipe = Recipe(epochs=6, patience=2, weights=OptimizerRecipe(rate=0.02))
    options = replace(PLAIN, recipe=recipe, pulls=(10.0, 0.0), max_nodes=2)
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
