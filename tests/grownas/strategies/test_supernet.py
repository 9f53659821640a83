"""The gradient-based strategies on a small task: what each does to the training of the supernet, and reading out."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.config.loading import strategy_class
from grownas.criteria.alpha_hessian import Eigenvalue
from grownas.genotype import DagGenotype
from grownas.protocols import Budget, Problem
from grownas.runs.journal import Journal
from grownas.space import SearchSpace
from grownas.strategies import following
from grownas.strategies.supernet import SupernetSearch
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, Recipe, make_optimizers
from support.growing import dag_model_of, model_of

CHAIN = SearchSpace(("add", "hadamard"), ("identity", "tanh"), max_nodes=2)
DAG = SearchSpace((), ("none", "tanh", "identity"), max_nodes=2, backbone="dag")
NO_NONE = replace(DAG, activation=("tanh", "relu"))
SMALL = {
    "max_nodes": 2, "max_epochs": 2, "patience": None, "unit_epochs": 1, "fine_tune_epochs": 1, "accept": "better",
    "guard": False, "weights": {"rate": 0.02}, "alpha": {"rate": 0.05}, "alpha_sd": 0.1,
}  # fmt: skip
GRADIENTS = {  # forward and backward passes a step
    "darts": 2, "darts second": 5, "gaea": 2, "sdarts_rs": 2, "sdarts_adv": 9, "darts_minus": 2, "rdarts": 2,
}  # fmt: skip


def problem_of(task, journal, space=CHAIN):
    make = dag_model_of if space.backbone == "dag" else model_of
    start = make(task, [space.ops[-1]], seed=5)
    return Problem(
        task=task, space=space, build=lambda nodes, purpose: make(task, *nodes, seed=3), start=start, journal=journal
    )


def strategy_of(name, **changes):
    name, _, order = name.partition(" ")
    strategy = strategy_class(name)
    return strategy(strategy.section(**{**SMALL, **({"order": order} if order else {}), **changes}))


class Noting(Journal):
    """A journal in memory that keeps what was fitted; it trains nothing under some keys."""

    @classmethod
    def make(cls, *, skipped=()):
        journal = cls.in_memory()
        journal.asked, journal.found, journal.skipped = {}, {}, skipped
        return journal

    def fit(self, key, model, task, recipe, **options):
        self.asked[key] = copy.deepcopy(model), recipe
        epochs = 0 if any(part in key for part in self.skipped) else recipe.epochs
        self.found[key] = super().fit(key, model, task, replace(recipe, epochs=epochs), **options)
        return self.found[key]


# ---- gradients


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_counted_as_they_are_made(copy_task, name):
    class Counting(copy_task):
        calls: ClassVar = Counter()

        def loss(self, model, out, window):
            self.calls[type(model.core)] += torch.is_grad_enabled() and model.training
            return super().loss(model, out, window)

    task = Counting(dropout=0.1)
    journal = Journal.in_memory()
    results = list(strategy_of(name).search(problem_of(task, journal)))
    scores = results[-1].scores
    assert len(scores) == 2
    of_the_hessian = [tree["gradients"] for key, tree in journal.store.trees.items() if "-eigenvalue-" in key]
    assert [number > 0 for number in of_the_hessian] == [True] * 2 * (name == "rdarts")
    for score, beside in itertools.zip_longest(scores, of_the_hessian, fillvalue=0):
        assert score["gradients"] == GRADIENTS[name] * score["steps"] + beside > 0
    assert task.calls[Backbone] == sum(score["gradients"] for score in scores) - sum(of_the_hessian)
    assert journal.gradients == sum(task.calls.values()) + sum(of_the_hessian)


def test_alpha_that_is_frozen_takes_no_gradients(copy_task, make_model):
    task = copy_task()
    recipe = Recipe(epochs=4, patience=None, bilevel="second", alpha_after=3)
    model = make_model(task)
    done = fit(model, task, recipe, seed=0)
    assert done.gradients == done.steps + 4 * done.steps / 4
    assert done.shares[3] == done.shares[0] != done.shares[4]


# ---- DARTS-


def test_the_skip_falls_linearly_to_0_and_no_evaluation_has_it(copy_task, monkeypatch):
    course, present, inner = [], [], Backbone.set_skip

    class Watched(copy_task):
        def evaluate(self, model, part):
            present.append(float(getattr(model.core, "_skip", 0.0)))
            return super().evaluate(model, part)

    def noting(self, beta):
        course.append(beta)
        inner(self, beta)

    monkeypatch.setattr(Backbone, "set_skip", noting)
    task = Watched()
    strategy = strategy_of("darts_minus", skip=0.8, max_epochs=3)
    done = fit(make_supernet(task), task, strategy.recipe(), seed=1)
    windows = 1 + done.steps // 3  # of an epoch; the first carries the state only
    expected = [0.8 * (1 - (epoch + step / windows) / 3) for epoch in range(3) for step in range(windows)]
    assert [beta for beta in course if beta] == pytest.approx([beta for beta in expected if beta], rel=1e-12)
    assert set(present) == {0.0}
    assert done.model.core._skip == 0


def make_supernet(task, *, dag=False):
    space = DAG if dag else CHAIN
    return (dag_model_of if dag else model_of)(task, *[space.ops] * 2, seed=3)


def timeless(scores):
    return [{key: value for key, value in score.items() if key != "seconds"} for score in scores]


@pytest.mark.parametrize("space", [CHAIN, DAG], ids=["chain", "dag"])
def test_without_skip_it_is_darts_to_the_bit(copy_task, assert_equal, space):
    found = []
    for name, changes in (("darts", {}), ("darts_minus", {"skip": 0.0}), ("darts_minus", {"skip": 0.5})):
        problem = problem_of(copy_task(dropout=0.1), Journal.in_memory(), space)
        last = list(strategy_of(name, max_epochs=1, **changes).search(problem))[-1]
        found.append({"model": dict(last.model.state_dict()), "scores": timeless(last.scores)})
    assert_equal(found[1], found[0])
    assert found[2]["scores"][0]["val"] != found[0]["scores"][0]["val"]


def test_a_resumed_search_has_the_skip_in_windows_that_carry_the_state_only(copy_task, outcome, assert_equal):
    """Such a window may come in the middle of an epoch, where a fit may go on."""

    class Carrying(copy_task):
        def windows(self, part, *, seed):
            for number, window in enumerate(super().windows(part, seed=seed)):
                yield window._replace(burn_in=window.burn_in or number % 2 == 0)

    class Keeping:
        kept = None

        def record(self, line):
            pass

        def after_step(self, snapshot):
            if self.kept is None and (tree := snapshot())["step"] == 1:  # the next window carries the state only
                self.kept = tree

    task, recipe, monitor = Carrying(), replace(strategy_of("darts_minus").recipe(), epochs=2), Keeping()
    whole = fit(make_supernet(task), task, recipe, seed=1, monitor=monitor)
    for name in ("train", "weights"):
        assert [w.burn_in for w in task.windows(name, seed=0)][:4] == [True, False, True, False]
    resumed = fit(make_supernet(task), task, recipe, seed=1, resume=monitor.kept)
    assert_equal(outcome(resumed), outcome(whole))


# ---- R-DARTS


def search_with(copy_task, monkeypatch, script, **changes):
    """Search with scripted eigenvalues; return the last result, the journal and the models that were judged."""
    judged, values = [], iter(script)

    def scripted(model, task, *, windows, seed):
        judged.append((copy.deepcopy(model.state_dict()), windows))
        return Eigenvalue(next(values), 40)

    monkeypatch.setattr(following, "counted_eigenvalue", scripted)
    journal = Noting.make()
    strategy = strategy_of("rdarts", max_epochs=12, first_epoch=9, **changes)
    results = list(strategy.search(problem_of(copy_task(dropout=0.1), journal)))
    return results, journal, judged, strategy


def test_a_search_goes_back_4_epochs_from_where_the_eigenvalue_rose(copy_task, monkeypatch, assert_equal):
    script = [1.0] * 9 + [3.0, math.nan]  # in epoch 10 the mean of 5 is 1.4, 4 epochs before it was 1
    results, journal, judged, strategy = search_with(copy_task, monkeypatch, script)
    assert len(judged) == 10
    assert [one.reason for one in results[:-1]] == [""] * 10
    assert results[-1].reason == "the eigenvalue rose 1.3-fold in 4 epochs; went back to epoch 6"
    task = copy_task(dropout=0.1)
    model = strategy_supernet(strategy, task)
    sixth = fit(model, task, strategy.recipe().first(6), seed=1)
    assert_equal(dict(results[-1].others["rdarts_supernet"].model.state_dict()), dict(sixth.model.state_dict()))
    begun, _ = journal.asked["rdarts-fine-tune"]
    assert_equal(dict(begun.core.state_dict()), dict(sixth.model.core.derive(1).state_dict()))
    assert sum(score["steps"] for score in results[-1].scores) == sixth.steps / 6 * 10  # what was spent counts


def strategy_supernet(strategy, task):
    return SupernetSearch("rdarts", problem_of(task, Journal.in_memory()), strategy.options).supernet()


@pytest.mark.parametrize("script", [[1.0] * 12, [3.0] * 5 + [1.0] * 7, [1.0] * 9 + [2.4, 1.0, 1.0]], ids=str)
def test_a_search_whose_eigenvalue_does_not_rise_trains_all_epochs(copy_task, monkeypatch, script):
    results, _, judged, _ = search_with(copy_task, monkeypatch, script)
    assert len(judged) == 12
    assert results[-1].reason == "12 epochs reached"


def test_the_eigenvalue_is_that_of_each_epochs_model_not_of_the_best_one(copy_task, monkeypatch, assert_equal):
    """With patience a fit returns its best epoch; a rise after it must be seen all the same."""
    changes = {"patience": 4, "weights": {"rate": 2.0}, "hessian_windows": 3}  # too fast: validation rises soon
    results, _, judged, strategy = search_with(copy_task, monkeypatch, [1.0] * 12, **changes)
    assert results[-1].reason == "no lower validation loss for 4 epochs"
    assert {windows for _, windows in judged} == {3}
    task = copy_task(dropout=0.1)
    model = strategy_supernet(strategy, task)
    for epoch, (state, _) in enumerate(judged, start=1):
        last = fit(model, task, replace(strategy.recipe(), epochs=epoch, patience=None), seed=1)
        assert_equal(dict(state), dict(last.model.state_dict()))


# ---- reading out by ablation


def masked(model, gone):
    """Return a copy of a model whose supernet computes without some ops, the others' shares divided by their sum."""
    left, shares = copy.deepcopy(model), []
    for mixture, alpha in enumerate(model.core.alpha):
        powers = torch.exp(alpha.detach() - alpha.detach().max())
        powers[[number for place, number in gone if place == mixture]] = 0.0
        shares.append(powers / powers.sum() if powers.sum() > 0 else powers)
    left.core.set_shares(shares)
    return left


def greedy(model, task, top_k, tune):
    """Try each op of a node that has more than `top_k`, remove the one least missed, tune; return which went."""
    core = model.core
    owners = [node for node, _ in core.edges] if hasattr(core, "edges") else range(len(core.alpha))
    ops = [(m, k) for m in range(len(owners)) for k, (_, name) in enumerate(core.op_names(m)) if name != "none"]
    gone = []
    while True:
        left = [op for op in ops if op not in gone]
        counts = Counter(owners[mixture] for mixture, _ in left)
        able = [op for op in left if counts[owners[op[0]]] > top_k]
        if not able:
            return gone, left, model
        losses = {op: task.evaluate(masked(model, [*gone, op]), "val").losses.mean() for op in able}
        gone.append(min(losses, key=losses.get))
        model = tune(masked(model, gone))


@pytest.fixture
def ablated(copy_task):
    """Search by ablation; return the journal, the result, and the supernet's training, done anew."""

    def search(space, *, tuned=True, task=None, **changes):
        task = copy_task(dropout=0.1) if task is None else task
        journal = Noting.make(skipped=() if tuned else ("-tune-",))
        strategy = strategy_of("darts", readout="ablation", max_epochs=1, **changes)
        results = list(strategy.search(problem_of(task, journal, space)))
        supernet = SupernetSearch("darts", problem_of(task, journal, space), strategy.options).supernet()
        return journal, results, fit(supernet, task, strategy.recipe(), seed=1)

    return search


SPACES = {"chain": (CHAIN, 1), "two of a node": (CHAIN, 2), "dag": (DAG, 1), "dag without none": (NO_NONE, 1)}


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("tuned", [False, True])
def test_ablation_is_the_greedy_rule_and_each_tuning_is_used(ablated, copy_task, assert_equal, kind, tuned):
    (space, top_k), task = SPACES[kind], copy_task(dropout=0.1)
    journal, results, supernet = ablated(space, tuned=tuned, top_k=top_k)
    own, optimizers = copy.deepcopy((supernet.model, supernet.optimizers))
    recipe = Recipe(
        epochs=int(tuned), patience=None, bilevel="first", alpha_after=1,
        weights=OptimizerRecipe(rate=0.02, weight_decay=0.5),
    )  # fmt: skip

    def tune(model):
        nonlocal optimizers
        moved = make_optimizers(model, recipe)
        for one, before in zip(moved, optimizers, strict=True):
            one.load_state_dict(copy.deepcopy(before.state_dict()))
        done = fit(model, task, recipe, seed=1, optimizers=moved)
        optimizers = done.optimizers
        return done.model

    gone, stay, left = greedy(own, task, top_k, tune)
    removals = [tree for key, tree in journal.store.trees.items() if "-ablation-" in key]
    assert [(tree["node"], tree["op"]) for tree in removals] == gone
    assert len(gone) > 1
    assert len(results) == 1 + len(gone) + 1
    begun, _ = journal.asked["darts-fine-tune"]
    names = [own.core.op_names(mixture)[number] for mixture, number in stay]
    nodes = begun.core.genotype.nodes
    if isinstance(begun.core.genotype, DagGenotype):
        sources = [own.core.edges[mixture][1] for mixture, _ in stay]
        assert [(node.reads, ("gated", node.activation)) for node in nodes] == list(zip(sources, names, strict=True))
    else:
        assert [len(node.ops) for node in nodes] == [top_k] * 2
        assert [(op.combine, op.activation) for node in nodes for op in node.ops] == names
        x = task.values[:9].unsqueeze(1)
        torch.testing.assert_close(begun.eval()(x)[0], left.eval()(x)[0], rtol=0, atol=1e-12)
    last = dict(journal.found[f"darts-tune-{len(gone)}"].model.named_parameters())
    for name, parameter in left.named_parameters():
        torch.testing.assert_close(parameter, last[name], rtol=0, atol=1e-9)


def test_a_tuning_trains_the_weights_alone_on_their_own_part(ablated, copy_task):
    read = []

    class Noted(copy_task):
        def windows(self, part, *, seed):
            read.append(part)
            return super().windows(part, seed=seed)

    journal, results, supernet = ablated(CHAIN, task=Noted(), tune_epochs=2)
    tunings = [journal.found[f"darts-tune-{number}"] for number in range(1, 7)]
    for before, after in itertools.pairwise([supernet, *tunings]):
        for name, parameter in after.model.named_parameters():
            is_alpha = name.endswith("alpha")
            assert torch.equal(parameter, dict(before.model.named_parameters())[name]) == is_alpha
        assert after.gradients == after.steps
        assert after.epochs == 2
    assert results[-1].settings == 1 + 6 + 1
    assert sum(done.steps for done in tunings) < results[-1].steps
    read.clear()
    model, recipe = journal.asked["darts-tune-1"]
    fit(model, Noted(), recipe, seed=1)
    assert "weights" in read
    assert not {"train", "val"} & set(read)


@pytest.mark.parametrize("space", [CHAIN, DAG], ids=["chain", "dag"])
def test_a_search_by_ablation_that_is_broken_off_between_removals_goes_on(copy_task, assert_equal, space):
    task, found = copy_task(dropout=0.1), []
    strategy = strategy_of("darts", readout="ablation", max_epochs=1)

    def told(result):
        return {"model": dict(result.model.state_dict()), "steps": result.steps, "val": result.evaluation.losses}

    whole = [told(result) for result in strategy.search(problem_of(task, Journal.in_memory(), space))]
    journal = Journal.in_memory()
    for units in (2, 4, len(whole)):
        again = Journal.in_memory()
        again.store = journal.store
        found = [told(one) for one in itertools.islice(strategy.search(problem_of(task, again, space)), units)]
        assert_equal(found, whole[:units])


ONE_EPOCH = 6  # weight steps of the supernet, of the small task


def by_ablation(copy_task, budget=None, space=CHAIN, **changes):
    """Search by ablation; return the journal and the last result."""
    journal = Noting.make()
    problem = replace(problem_of(copy_task(dropout=0.1), journal, space), budget=budget or Budget())
    strategy = strategy_of("darts", **{"readout": "ablation", "max_epochs": 40, **changes})
    return journal, list(strategy.search(problem))[-1]


@pytest.mark.parametrize("space", [CHAIN, DAG], ids=["chain", "dag"])
@pytest.mark.parametrize("tune_epochs", [1, 2])
def test_a_budget_of_steps_holds_for_the_removals_too(copy_task, space, tune_epochs):
    most = 40 * ONE_EPOCH
    journal, last = by_ablation(copy_task, Budget(steps=most), space, tune_epochs=tune_epochs)
    tunings = [done for key, done in journal.found.items() if "-tune-" in key]
    trained = sum(score["steps"] for score in last.scores)
    assert trained / len(last.scores) == ONE_EPOCH
    assert len(tunings) == (6 if space is CHAIN else 4)  # 4 ops a node down to one; 2 edges of 2 ops, and 4 of 2
    spent = trained + sum(done.steps for done in tunings)
    assert most - ONE_EPOCH <= spent <= most  # as many epochs of the supernet as leave room for the removals
    assert last.reason == f"budget.steps = {most} reached, with what is kept for readout=ablation"
    assert last.steps == spent + journal.found["darts-fine-tune"].steps  # the closing comes after the budget


def test_removals_have_at_most_half_of_the_budget_and_the_rest_goes_by_share(copy_task):
    journal, last = by_ablation(copy_task, Budget(steps=36))
    trained = sum(score["steps"] for score in last.scores)
    tunings = [done for key, done in journal.found.items() if "-tune-" in key]
    assert (trained, sum(done.steps for done in tunings)) == (18, 18)
    assert last.reason == (
        "budget.steps = 36 reached, with what is kept for readout=ablation; "
        "budget.steps = 36 reached before the last 3 removals, which went by share"
    )
    left, gone = tunings[-1].model.core, [tree for key, tree in journal.store.trees.items() if "-ablation-" in key]
    begun, _ = journal.asked["darts-fine-tune"]
    for number, (alpha, node) in enumerate(zip(left.alpha, begun.core.genotype.nodes, strict=True)):
        able = [op for op in range(4) if (number, op) not in [(tree["node"], tree["op"]) for tree in gone]]
        combine, activation = left.op_names(number)[max(able, key=alpha.tolist().__getitem__)]
        assert [(op.combine, op.activation) for op in node.ops] == [(combine, activation)]


def test_without_a_budget_the_removals_take_what_they_need(copy_task):
    _, last = by_ablation(copy_task, max_epochs=3)
    assert last.reason == "3 epochs reached"
    assert last.settings == 1 + 6 + 1
    _, last = by_ablation(copy_task, Budget(genotypes=3))  # the removals train no further genotype
    assert last.reason == "budget.genotypes = 3 reached"
    assert last.settings == 1 + 6 + 1


# ---- the epoch limit


@pytest.mark.parametrize(
    ("changes", "limit", "capped"),
    [
        ({"patience": 8, "max_epochs": 2, "fine_tune_epochs": 0}, None, True),
        ({"patience": None, "max_epochs": 2, "fine_tune_epochs": 0}, None, False),  # all epochs were asked for
        ({"patience": 8, "max_epochs": 9, "fine_tune_epochs": 0}, 2 * ONE_EPOCH, False),  # the budget ended it
        ({"patience": None, "max_epochs": 2, "fine_tune_epochs": 3}, None, True),  # the fine-tuning has a patience of 8
        ({"patience": 1, "max_epochs": 500, "fine_tune_epochs": 0}, None, False),
    ],
)
def test_a_search_that_reached_its_epoch_limit_says_so(copy_task, changes, limit, capped):
    problem = replace(problem_of(copy_task(), Journal.in_memory()), budget=Budget(steps=limit))
    last = list(strategy_of("darts", **changes).search(problem))[-1]
    assert last.capped == capped


# ---- options


def test_an_option_of_an_optimiser_leaves_the_strategys_own_defaults_of_the_others():
    minus = strategy_class("darts_minus").section(alpha={"optimizer": "sgd"}).alpha
    assert (minus.optimizer, minus.rate, minus.weight_decay) == ("sgd", 3e-4, 1e-3)
    stronger = strategy_class("rdarts").section(weights={"rate": 0.1}).weights
    assert (stronger.rate, stronger.weight_decay) == (0.1, 1.0)
    darts = strategy_class("darts").section(weights={"rate": 0.1}, alpha={"rate": 0.1})
    assert (darts.weights.weight_decay, darts.alpha.weight_decay) == (0.5, 1e-3)


# ---- the cell that was read out


def test_a_cell_that_is_not_fine_tuned_has_the_weights_that_it_inherits(copy_task, assert_equal):
    journal = Noting.make()
    strategy = strategy_of("darts", fine_tune_epochs=0)
    problem = problem_of(copy_task(), journal)
    last = list(strategy.search(problem))[-1]
    begun, recipe = journal.asked["darts-fine-tune"]
    assert recipe.epochs == 0
    assert_equal(dict(journal.found["darts-fine-tune"].model.state_dict()), dict(begun.state_dict()))
    assert last.steps == sum(score["steps"] for score in last.scores)


def test_a_refit_has_the_rates_of_the_fine_tuning(copy_task):
    journal = Noting.make()
    strategy = strategy_of("darts", fine_tune_epochs=4, weights={"rate": 0.02, "decay": "linear"}, max_epochs=3)
    problem = problem_of(copy_task(), journal)
    last = list(strategy.search(problem))[-1]
    best = journal.found["darts-fine-tune"].best_epoch
    assert best > 0
    strategy.refit(problem, last)
    (_, tuned), (_, again) = journal.asked["darts-fine-tune"], journal.asked["darts-refit"]
    assert again == replace(tuned, epochs=best, decay_span=(0.0, best / 4), patience=None)


@pytest.mark.parametrize("name", ["darts second", "gaea", "sdarts_rs", "sdarts_adv", "darts_minus", "rdarts"])
def test_each_strategy_searches_a_dag(copy_task, name):
    last = list(strategy_of(name).search(problem_of(copy_task(), Journal.in_memory(), DAG)))[-1]
    assert DAG.contains(last.genotype)
    assert not last.is_start


@pytest.mark.parametrize("space", [CHAIN, DAG], ids=["chain", "dag"])
def test_where_nothing_is_accepted_the_starts_cell_is_found(copy_task, assert_equal, space):
    task = copy_task()
    strategy = strategy_of("darts", accept="significant", threshold=1e6, fine_tune_epochs=0)
    problem = problem_of(task, Journal.in_memory(), space)
    last = list(strategy.search(problem))[-1]
    assert last.is_start
    for found in (last, strategy.refit(problem, last)):
        assert_equal(dict(found.model.core.state_dict()), dict(problem.start.core.derive().state_dict()))
    assert_equal(last.evaluation.losses, task.evaluate(last.model, "val").losses)
    assert last.params == sum(p.numel() for p in last.model.parameters())
