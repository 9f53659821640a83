"""The journal: finished work is remembered, broken work goes on, and the logs read as if nothing had happened."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from grownas.criteria.threshold import Thresholds
from grownas.errors import Interrupted, RunError, TrainingError
from grownas.protocols import FitRequest
from grownas.runs import checkpoint
from grownas.runs.journal import LOGS, FolderStore, Journal, MemoryStore
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.moves import add_node_at
from grownas.strategies.growing.options import MODES
from grownas.strategies.growing.stages import apply_all
from grownas.strategies.growing.state import Candidate
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, Recipe
from support.growing import grow, growing, problem_of
from support.journals import ALWAYS, NEVER, Folder, Killed
from support.slow import mostly_slow

RECIPE = Recipe(epochs=3, patience=2, weights=OptimizerRecipe(rate=0.02), alpha=OptimizerRecipe(rate=0.05))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "checkpoint")


@pytest.fixture
def other_folder(tmp_path):
    return Folder(tmp_path / "other")


@pytest.fixture
def stopping(copy_task):
    """Return a task that does something at its n-th loss, such as being killed."""

    def build(at, action, **options):
        class Stopping(copy_task):
            calls = 0

            def loss(self, model, out, window):
                self.calls += 1
                if self.calls == at:
                    action()
                return super().loss(model, out, window)

        return Stopping(**options)

    return build


@pytest.fixture
def unusable(copy_task):
    """A task on which nothing can be trained: what is remembered does not need it."""

    class Unusable(copy_task):
        def windows(self, part, *, seed):
            raise AssertionError("nothing is to be trained")

        def evaluate(self, model, part):
            raise AssertionError("nothing is to be evaluated")

    return Unusable()


def kill():
    raise Killed


# --- what is finished ---


def test_a_fit_is_that_of_the_trainer_and_its_lines_are_logged(folder, copy_task, make_model, assert_equal, outcome):
    task = copy_task()
    start = make_model(task)
    done = folder.journal().fit("stage-1", start, task, RECIPE, seed=3, stage=1)
    assert_equal(outcome(done), outcome(fit(start, task, RECIPE, seed=3)))
    assert {(line["stage"], line["part"]) for line in folder.metrics} == {(1, "stage-1")}
    assert set(folder.metrics[0]) == {"stage", "part", "model", "epoch", "step", "wall_s", "split", "metric", "value"}
    assert folder.names() == ["stage-1.done"]
    values = [line["value"] for line in folder.metrics if (line["split"], line["metric"]) == ("val", "mse")]
    assert [shown["best"] for shown in folder.progress.shown] == [min(values[: i + 1]) for i in range(len(values))]
    assert {shown["nodes"] for shown in folder.progress.shown} == {1}


def test_several_fits_are_those_of_fit_or_their_errors_and_each_is_done_when_it_is_asked_for(
    folder, copy_task, stopping, make_model, assert_equal, outcome
):
    task = copy_task()
    starts = [make_model(task, seed=seed) for seed in (1, 2)]
    nan = stopping(2, lambda: (_ for _ in ()).throw(TrainingError("the loss is nan", steps=1)))
    requests = [
        FitRequest(key="a", model=starts[0], task=task, recipe=RECIPE, seed=3),
        FitRequest(key="b", model=starts[0], task=nan, recipe=RECIPE, seed=3),
        FitRequest(key="c", model=starts[1], task=task, recipe=RECIPE.first(1), seed=4, extendable=True),
    ]
    results = folder.journal().fit_all(iter(requests))
    assert_equal(outcome(next(results)), outcome(fit(starts[0], task, RECIPE, seed=3)))
    assert folder.names() == ["a.done"]
    error, third = results
    assert isinstance(error, TrainingError)
    assert "b (stage 0), the loss is nan" in str(error)
    assert_equal(outcome(third), outcome(fit(starts[1], task, RECIPE.first(1), seed=4)))
    longer = folder.journal().fit("d", starts[1], task, RECIPE, seed=4, after="c")
    assert_equal(outcome(longer), outcome(fit(starts[1], task, RECIPE, seed=4)))


def test_lines_name_the_model_that_the_fit_is_of(folder, copy_task, make_model):
    task, journal = copy_task(), folder.journal()
    with journal.of_model("gru"):
        journal.fit("a", make_model(task), task, RECIPE, seed=3)
    journal.fit("b", make_model(task), task, RECIPE, seed=3)
    assert {(line["part"], line["model"]) for line in folder.metrics} == {("a", "gru"), ("b", "search")}


def test_a_finished_fit_is_remembered(folder, copy_task, unusable, make_model, assert_equal, outcome):
    task = copy_task()
    start = make_model(task)
    done = folder.journal().fit("a", start, task, RECIPE, seed=3)
    lines = list(folder.metrics)
    journal = folder.journal()
    assert folder.metrics == []
    again = journal.fit("a", start, unusable, RECIPE, seed=3)
    assert_equal(outcome(again), outcome(done))
    assert again.seconds == done.seconds == journal.elapsed
    assert folder.metrics == lines
    assert {id(p) for o in again.optimizers for g in o.param_groups for p in g["params"]} == {
        id(p) for p in again.model.parameters()
    }


def test_the_shares_of_a_fit_are_logged_when_it_is_finished(folder, copy_task, stopping, unusable, make_model):
    task = copy_task()
    start = make_model(task, nodes=2)
    with pytest.raises(Killed):
        folder.journal().fit("stage-2", start, stopping(15, kill), RECIPE, seed=3, stage=2)
    assert folder.shares == []
    done = folder.journal().fit("stage-2", start, task, RECIPE, seed=3, stage=2)
    lines = list(folder.shares)
    assert [(line["epoch"], line["node"]) for line in lines] == [
        (epoch, node) for epoch in range(done.epochs + 1) for node in range(2)
    ]
    for line in lines:
        assert (line["stage"], line["part"]) == (2, "stage-2")
        assert line["ops"] == ["add/identity", "add/tanh", "hadamard/sigmoid"]
        assert line["shares"] == pytest.approx(done.shares[line["epoch"]][line["node"]], abs=1e-6)
    journal = folder.journal()
    assert folder.shares == []
    assert journal.fit("stage-2", start, unusable, RECIPE, seed=3, stage=2).shares == done.shares
    assert folder.shares == lines


def test_a_remembered_fit_leaves_the_model_and_its_optimizers_alone(
    folder, copy_task, make_model, assert_equal, outcome
):
    task = copy_task()
    before = fit(make_model(task), task, RECIPE, seed=0)
    kept = copy.deepcopy(outcome(before))
    for _ in range(2):
        done = folder.journal().fit("a", before.model, task, RECIPE, seed=3, optimizers=before.optimizers)
        assert_equal(outcome(before), kept)
        assert done.model is not before.model


def in_folder(folder):
    return folder.journal


def in_memory(folder):
    store = MemoryStore()
    logs = {name: getattr(folder, name) for name in LOGS}
    return lambda: Journal(store, progress=folder.progress, **logs)


@pytest.mark.parametrize("kept_in", [in_folder, in_memory])
def test_what_becomes_of_a_fit_or_of_other_work_does_not_change_what_is_remembered(
    folder, copy_task, unusable, make_model, assert_equal, outcome, kept_in
):
    journal, task = kept_in(folder), copy_task()
    start = make_model(task)
    done = journal().fit("a", start, task, RECIPE, seed=3)
    first, tree = copy.deepcopy(outcome(done)), {"found": np.ones(2), "list": [1]}
    journal().remember("b", lambda: tree)
    for _ in range(2):
        with torch.no_grad():
            for parameter in done.model.parameters():
                parameter.add_(1)
        for state in done.optimizers[0].state.values():
            state["exp_avg"].add_(1)
        done.evaluation.losses[:] = 0
        tree["found"][:] = 9
        tree["list"].append(2)
        done = journal().fit("a", start, unusable, RECIPE, seed=3)
        assert_equal(outcome(done), first)
        tree = journal().remember("b", kill)
        assert_equal([tree["found"], tree["list"]], [np.ones(2), [1]])


def test_fits_under_several_keys_stand_apart(folder, copy_task, make_model):
    task, journal = copy_task(), folder.journal()
    start = make_model(task)
    one, two = (
        journal.fit(f"l2_sp-{l2_sp}", start, task, replace(RECIPE, l2_sp=l2_sp), seed=3) for l2_sp in (0.0, 40.0)
    )
    assert not torch.equal(one.model.readout.weight, two.model.readout.weight)
    assert journal.elapsed == one.seconds + two.seconds


def test_work_is_remembered_with_its_seconds(folder, assert_equal):
    tree = {"order": 3, "coefficients": np.ones((2, 2)), "loss": "huber", "ridge": math.inf}
    first = folder.journal().remember("selection", lambda: tree)
    journal = folder.journal()
    again = journal.remember("selection", kill)
    assert_equal(again, first)
    assert again["seconds"] == journal.elapsed >= 0
    assert again["cpu_seconds"] == journal.cpu_seconds >= 0
    assert_equal({key: value for key, value in again.items() if key not in ("seconds", "cpu_seconds")}, tree)


def test_work_that_is_asked_for_again_is_done_and_counted_once(folder):
    journal, times = folder.journal(), []
    found = [journal.remember("a", lambda: times.append(1) or {"times": len(times), "gradients": 7}) for _ in range(3)]
    assert [one["times"] for one in found] == [1] * 3
    assert journal.elapsed == found[0]["seconds"]
    other = journal.remember("b", dict)
    assert journal.elapsed == found[0]["seconds"] + other["seconds"]
    assert journal.cpu_seconds == found[0]["cpu_seconds"] + other["cpu_seconds"]
    assert journal.gradients == 7


def test_work_that_was_cut_off_is_not_remembered(folder):
    with pytest.raises(Killed):
        folder.journal().remember("selection", kill)
    assert folder.names() == []


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    store = FolderStore(tmp_path / "checkpoint", "x")
    with pytest.raises(RunError, match="missing/a: cannot be written: No such file or directory"):
        store.save("missing/a", {})
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file: cannot be written: File exists"):
        FolderStore(tmp_path / "file", "x")


def test_the_work_of_another_config_is_refused(folder, copy_task, make_model):
    task = copy_task()
    folder.journal().fit("a", make_model(task), task, RECIPE, seed=3)
    other = make_model(task, seed=1)
    with pytest.warns(UserWarning, match=r"a\.done: checkpoint refused: it belongs to 'config', not to 'changed'"):
        done = folder.journal(identity="changed").fit("a", other, task, RECIPE, seed=3)
    assert torch.equal(done.model.readout.weight, fit(other, task, RECIPE, seed=3).model.readout.weight)


def test_damaged_work_is_done_anew(folder, copy_task, make_model, assert_equal, outcome):
    task = copy_task()
    start = make_model(task)
    done = folder.journal().fit("a", start, task, RECIPE, seed=3)
    path = folder.path / "a.done"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"a\.done: checkpoint refused: its checksum"):
        again = folder.journal().fit("a", start, task, RECIPE, seed=3)
    assert_equal(outcome(again), outcome(done))


# --- a fit that continues a shorter fit ---


def rungs(journal, start, task, recipe, *, seed=3):
    """Train for 1, then 2, then all epochs, each after the fit before."""
    journal.fit("a-to-1", start, task, recipe.first(1), seed=seed, extendable=True)
    journal.fit("a-to-2", start, task, recipe.first(2), seed=seed, after="a-to-1", extendable=True)
    return journal.fit("a", start, task, recipe, seed=seed, after="a-to-2")


@pytest.mark.parametrize(("patience", "nodes", "bilevel"), [(9, 1, "joint"), (1, 2, "first"), (2, 1, "second")])
def test_a_fit_after_shorter_ones_equals_one_long_fit(
    folder, other_folder, copy_task, unusable, make_model, assert_equal, outcome, patience, nodes, bilevel
):
    recipe, task = replace(RECIPE, epochs=7, patience=patience, bilevel=bilevel, l2_sp=5.0), copy_task(dropout=0.2)
    start = make_model(task, nodes=nodes)
    whole = other_folder.journal().fit("a", start, task, recipe, seed=3)
    assert whole.epochs > 2
    journal = folder.journal()
    extended = rungs(journal, start, task, recipe)
    assert_equal(outcome(extended), outcome(whole))
    assert [line for line in folder.metrics.timeless if line["part"] == "a"] == other_folder.metrics.timeless
    assert extended.seconds == pytest.approx(journal.elapsed)  # an epoch that several fits share counts once
    again = folder.journal()
    assert_equal(outcome(rungs(again, start, unusable, recipe)), outcome(whole))  # remembered
    assert again.elapsed == pytest.approx(journal.elapsed, rel=1e-9)


@pytest.mark.parametrize("every_s", [ALWAYS, NEVER])
@pytest.mark.parametrize("at", mostly_slow(range(4, 60, 5), keep=(4, 29, 54)))
def test_a_kill_in_any_of_the_shorter_fits_changes_nothing(
    folder, other_folder, copy_task, stopping, make_model, assert_equal, outcome, at, every_s
):
    recipe, task = replace(RECIPE, epochs=6, patience=9), copy_task(dropout=0.2)
    start = make_model(task)
    whole = rungs(other_folder.journal(), start, task, recipe)
    assert whole.steps > 55
    with pytest.raises(Killed):
        rungs(folder.journal(every_s=every_s), start, stopping(at, kill, dropout=0.2), recipe)
    assert_equal(outcome(rungs(folder.journal(), start, task, recipe)), outcome(whole))
    assert folder.metrics.timeless == other_folder.metrics.timeless
    assert folder.names() == ["a-to-1.done", "a-to-2.done", "a.done"]


def test_a_fit_whose_patience_has_run_out_does_not_go_on(folder, copy_task, make_model, assert_equal, outcome):
    class Flat(copy_task):
        def evaluate(self, model, part):
            return super().evaluate(model, part)._replace(losses=np.ones(24))

    recipe, task, journal = replace(RECIPE, epochs=9, patience=2), Flat(), folder.journal()
    start = make_model(task)
    short = journal.fit("a-to-5", start, task, recipe.first(5), seed=3, extendable=True)
    long = journal.fit("a", start, task, recipe, seed=3, after="a-to-5")
    assert (short.epochs, short.best_epoch) == (2, 0)
    assert_equal(outcome(long), outcome(short))


def test_an_extended_fit_that_diverges_says_what_was_spent_and_counts_it_once(folder, copy_task, make_model):
    class Exploding(copy_task):
        def loss(self, model, out, window):
            self.calls = getattr(self, "calls", 0) + 1
            return super().loss(model, out, window) * (math.nan if self.calls == 14 else 1.0)

    task, journal = Exploding(), folder.journal()
    start = make_model(task)
    journal.fit("a-to-1", start, task, RECIPE.first(1), seed=3, extendable=True)
    with pytest.raises(TrainingError, match=r"^a \(stage 0\), step 13, epoch 1") as caught:
        journal.fit("a", start, task, RECIPE, seed=3, after="a-to-1")
    assert caught.value.steps == 13
    assert journal.elapsed == pytest.approx(caught.value.seconds)


def test_what_was_not_trained_cannot_go_on(folder, copy_task, make_model):
    task, journal = copy_task(), folder.journal()
    start = make_model(task)
    with pytest.raises(AssertionError, match="b continues a, which was not trained yet"):
        journal.fit("b", start, task, RECIPE, seed=3, after="a")
    assert journal.fit("a", start, task, RECIPE, seed=3).end is None
    with pytest.raises(AssertionError, match="b continues a, which is not extendable"):
        journal.fit("b", start, task, RECIPE, seed=3, after="a")


# --- what was broken off ---


@pytest.mark.parametrize("every_s", [ALWAYS, NEVER])
@pytest.mark.parametrize("bilevel", ["joint", "first"])
@pytest.mark.parametrize("at", [1, 2, 14, 15, 20])
def test_a_fit_after_a_kill_equals_an_unbroken_one(
    folder, other_folder, copy_task, stopping, make_model, assert_equal, outcome, at, bilevel, every_s
):
    recipe, task = replace(RECIPE, bilevel=bilevel, l2_sp=5.0), copy_task(dropout=0.2)
    start = make_model(task)
    whole = other_folder.journal(every_s=NEVER).fit("a", start, task, recipe, seed=3, stage=1)
    with pytest.raises(Killed):
        folder.journal(every_s=every_s).fit("a", start, stopping(at, kill, dropout=0.2), recipe, seed=3, stage=1)
    assert ("a.part" in folder.names()) == (every_s == ALWAYS)
    again = folder.journal().fit("a", start, task, recipe, seed=3, stage=1)
    assert_equal(outcome(again), outcome(whole))
    assert folder.metrics.timeless == other_folder.metrics.timeless
    assert folder.names() == ["a.done"]
    assert folder.progress.shown[-1]["best"] == other_folder.progress.shown[-1]["best"]


def test_a_damaged_snapshot_gives_way_to_the_one_before(
    folder, other_folder, copy_task, stopping, make_model, assert_equal, outcome
):
    task = copy_task()
    start = make_model(task)
    whole = other_folder.journal().fit("a", start, task, RECIPE, seed=3)
    with pytest.raises(Killed):
        folder.journal().fit("a", start, stopping(15, kill), RECIPE, seed=3)
    path = folder.path / "a.part"
    path.write_bytes(b"junk" + path.read_bytes())
    with pytest.warns(UserWarning, match=r"a\.part: checkpoint refused: .*; a\.part\.old is used instead"):
        again = folder.journal().fit("a", start, task, RECIPE, seed=3)
    assert_equal(outcome(again), outcome(whole))
    assert folder.metrics.timeless == other_folder.metrics.timeless


def test_an_interrupt_finishes_the_step_saves_and_stops(
    folder, other_folder, copy_task, stopping, make_model, assert_equal, outcome
):
    task = copy_task()
    start = make_model(task)
    whole = other_folder.journal().fit("a", start, task, RECIPE, seed=3)
    journal = folder.journal(every_s=NEVER)
    with pytest.raises(Interrupted):
        journal.fit("a", start, stopping(14, journal.interrupt), RECIPE, seed=3)
    assert checkpoint.load(folder.path / "a.part", "config")["trainer"]["step"] == 14
    with pytest.raises(Interrupted):
        journal.fit("b", start, task, RECIPE, seed=3)
    with pytest.raises(Interrupted):
        journal.remember("c", dict)
    assert isinstance(Interrupted(), KeyboardInterrupt)
    again = folder.journal(every_s=NEVER).fit("a", start, task, RECIPE, seed=3)
    assert_equal(outcome(again), outcome(whole))
    assert folder.metrics.timeless == other_folder.metrics.timeless


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(folder, copy_task, make_model):
    class Exploding(copy_task):
        def loss(self, model, out, window):
            self.calls = getattr(self, "calls", 0) + 1
            return super().loss(model, out, window) * (math.nan if self.calls == 14 else 1.0)

    task = copy_task()
    start = make_model(task)
    with pytest.raises(TrainingError) as caught:
        folder.journal(every_s=NEVER).fit("stage-2", start, Exploding(), RECIPE, seed=3, stage=2)
    assert caught.value.seconds > 0
    words = str(caught.value)
    assert words.startswith("stage-2 (stage 2), step 13, epoch 1: the loss is nan")
    assert words.endswith("the last good state is saved as stage-2.part")
    kept = checkpoint.load(folder.path / "stage-2.part", "config")
    assert kept["trainer"]["step"] == 13
    assert all(bool(torch.isfinite(value).all()) for value in kept["trainer"]["model"].values())
    assert [line["epoch"] for line in kept["lines"] if line["split"] == "train"] == [1]
    # Were the cause gone, training would go on as if nothing had happened.
    whole = fit(start, task, RECIPE, seed=3)
    again = folder.journal().fit("stage-2", start, task, RECIPE, seed=3, stage=2)
    assert torch.equal(again.model.readout.weight, whole.model.readout.weight)


@pytest.mark.parametrize("at", [1, 14])
@pytest.mark.parametrize("bilevel", ["joint", "second"])
def test_a_stage_after_a_growth_goes_on_with_the_rates_of_its_groups(
    folder, other_folder, copy_task, stopping, unusable, make_model, assert_equal, outcome, at, bilevel
):
    recipe, task = replace(RECIPE, bilevel=bilevel, l2_sp=5.0), copy_task(dropout=0.2)
    before = fit(make_model(task), task, recipe, seed=0)
    options = growing(
        recipe=replace(recipe, l2_sp=0.0), mode="nodes", prune="none", restarts=0, new_rate=2.0, old_rate=0.5
    )
    best = Candidate.start(before.model, before.evaluation)._replace(optimizers=before.optimizers)
    problem = problem_of(before.model, task, folder.journal(), seed=0)
    context = Context(best, problem, options, 5.0, number=2, source=1)
    begin, _ = apply_all(context, [add_node_at(context, 1)])
    whole = other_folder.journal(every_s=NEVER).fit("a", begin.model, task, recipe, seed=3, optimizers=begin.optimizers)
    assert [group["lr"] for group in whole.optimizers[0].param_groups] == [0.01, 0.04]
    broken = stopping(at, kill, dropout=0.2)
    with pytest.raises(Killed):
        folder.journal().fit("a", begin.model, broken, recipe, seed=3, optimizers=begin.optimizers)
    for then in (task, unusable):  # goes on; is remembered
        again = folder.journal().fit("a", begin.model, then, recipe, seed=3, optimizers=begin.optimizers)
        assert_equal(outcome(again), outcome(whole))


# --- a whole search ---


def timeless(line):
    return {key: value for key, value in line.items() if key not in ("wall_s", "seconds")}


AT_ONCE = {"hysteresis": 0.1, "smoothing": 1.0, "min_age": 1}
EVENLY = Thresholds(0.9, 0.32, **AT_ONCE)  # of three ops one falls below it
WAYS = {  # forms of growth, and kinds of moves that they make on the small task
    "nodes": ({}, {"add_node"}),
    "nodes, pruned in each stage": ({"prune": "each_stage"}, {"add_node", "prune_op"}),
    "nodes, pruned at the end": ({"prune": "at_end"}, {"add_node", "prune_op"}),
    "nodes at the best position, and restarts": (
        {"position": "best", "replace": "uniform", "restarts": 2}, {"add_node", "replace_op"},
    ),
    "splits": ({"mode": "ops_split", "splitting": {"count": 2, "part": "val"}}, {"split_op"}),
    "all kinds, replaced in each stage": (
        {"mode": "nodes_and_ops", "prune": "each_stage", "replace": "missing", "outer_patience": 1,
         "thresholds": Thresholds(0.35, 0.11, **AT_ONCE)},
        {*MODES["nodes_and_ops"], "replace_op"},
    ),
    "all kinds at random, the most missed kept": (
        {"mode": "nodes_and_ops", "choice": "random", "prune": "at_end", "top_k": 2, "readout": "ablation"},
        {"prune_op"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "way", mostly_slow(WAYS, keep=("nodes, pruned in each stage", "all kinds, replaced in each stage"))
)
def test_a_search_killed_again_and_again_equals_an_unbroken_one(
    folder, other_folder, copy_task, stopping, make_model, assert_equal, way
):
    changes, kinds = WAYS[way]
    defaults = {
        "recipe": replace(RECIPE, bilevel="first"), "l2_sp": (20.0, 0.0), "accept": "better", "max_nodes": 3,
        "mode": "nodes", "prune": "none", "restarts": 0,
        "max_ops": 5, "outer_patience": 2, "trial_epochs": 1, "fine_tune_epochs": 2, "thresholds": EVENLY,
    }  # fmt: skip
    options = growing(**{**defaults, **changes})

    def search(journal, task):
        return grow(make_model(task), task, journal, options, seed=2)

    whole = search(other_folder.journal(every_s=NEVER), copy_task(dropout=0.1))
    kills = 0
    while True:
        try:
            again = search(folder.journal(), stopping(25 + 14 * kills, kill, dropout=0.1))  # some work is undivided
            break
        except Killed:
            kills += 1
    assert kills >= 3
    assert_equal(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    assert_equal(dict(again.first_stage.state_dict()), dict(whole.first_stage.state_dict()))
    assert [timeless(line) for line in again.stages] == [timeless(line) for line in whole.stages]
    assert (again.reason, again.l2_sp, again.steps) == (whole.reason, whole.l2_sp, whole.steps)
    assert folder.metrics.timeless == other_folder.metrics.timeless
    assert folder.growth.timeless == other_folder.growth.timeless
    assert folder.shares == other_folder.shares
    assert {line["kind"] for line in folder.growth} >= kinds
    assert not [name for name in folder.names() if not name.endswith(".done")]


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_branch_that_forgets_leaves_the_work_of_others(folder, kind):
    journal = folder.journal() if kind == "folder" else Journal.in_memory()
    branch, other = journal.branch("rate-0.1", logs=False), journal.branch("rate-0.10", logs=False)
    for one in (journal, branch, other):
        for _ in range(2):
            one.remember("a", lambda: {"value": 1})
    branch.branch("inner", logs=False).remember("b", lambda: {"value": 1})
    branch.forget()
    for one in (journal, other):
        assert one.remember("a", lambda: {"value": 2})["value"] == 1
    assert branch.remember("a", lambda: {"value": 2})["value"] == 2
    assert branch.branch("inner", logs=False).remember("b", lambda: {"value": 2})["value"] == 2
    with pytest.raises(AssertionError, match="only a branch"):
        journal.forget()
