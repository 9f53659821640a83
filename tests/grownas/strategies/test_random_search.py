"""Random search with a scripted journal: what is drawn, counted, accepted, and when it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grownas.backbones.chain import Backbone
from grownas.cells.cell import GrownRNN
from grownas.errors import TrainingError
from grownas.genotype import DagGenotype
from grownas.protocols import Budget
from grownas.strategies.random_search import Options, RandomSearch
from grownas.strategies.sampling import MOST_DIVERGED
from support.sampling import SPACE, START, STEPS, Journal, dag_problem_of, problem_of


def search(copy_task, journal=None, budget=None, seed=1, **options):
    options = Options.model_validate({"accept": "better", "guard": False, "rates": [0.003, 0.01], **options})
    problem = problem_of(copy_task, journal or Journal(), budget=budget or Budget(), seed=seed)
    found = list(RandomSearch(options).search(problem))
    assert [one.reason for one in found[:-1]] == [""] * (len(found) - 1)  # it goes on
    return found


def test_the_lowest_loss_is_kept_and_the_rates_take_turns(copy_task):
    journal = Journal(lambda key: {"random-1": 0.5}.get(key, 1.0))
    found = search(copy_task, journal, genotypes=4)
    assert list(journal.fits) == [f"random-{number}" for number in range(4)]
    assert [recipe.weights.rate for *_, recipe, _ in journal.fits.values()] == [0.003, 0.01, 0.003, 0.01]
    assert [one.evaluation.metric for one in found] == [1.0, 0.5, 0.5, 0.5]
    last = found[-1]
    assert (last.steps, last.seconds, last.settings) == (80, 4.0, 4)
    assert [one["val"] for one in last.scores] == [1.0, 0.5, 1.0, 1.0]
    assert (last.chosen["rate"], last.is_start, last.reason) == (0.01, False, "strategy.genotypes = 4 reached")
    nodes = journal.fits["random-1"][0].core.nodes
    assert len(last.genotype.nodes) == len(nodes) == last.chosen["nodes"]
    assert not isinstance(last.model.core, Backbone)  # alpha is fixed


@pytest.mark.parametrize(
    ("budget", "trained", "reason"),
    [
        (Budget(steps=1), 1, "budget.steps = 1 reached"),
        (Budget(steps=40), 2, "budget.steps = 40 reached"),
        (Budget(steps=41), 3, "budget.steps = 41 reached"),  # the last training is finished
        (Budget(seconds=2.5), 3, "budget.seconds = 2.5 reached"),  # of the search's own work
        (Budget(genotypes=4), 4, "budget.genotypes = 4 reached"),
        (Budget(steps=41, genotypes=2), 2, "budget.genotypes = 2 reached"),
        (Budget(genotypes=12), 12, "budget.genotypes = 12 reached"),  # the budget's number, not the options' 10
        (Budget(), 10, "strategy.genotypes = 10 reached"),
    ],
)
def test_a_budget_is_respected(copy_task, budget, trained, reason):
    journal = Journal()
    assert search(copy_task, journal, budget)[-1].reason == reason
    assert len(journal.fits) == trained


def test_what_diverged_counts_and_is_passed_over(copy_task):
    journal = Journal(lambda key: None if key in ("random-0", "random-2") else 1.0)
    with pytest.warns(UserWarning, match=r"skipped: random-[02] diverged"):
        last = search(copy_task, journal, Budget(steps=41))[-1]
    assert (last.steps, last.settings, len(last.scores)) == (7 + 20 + 7 + 20, 4, 2)


def test_where_many_diverge_the_error_is_raised(copy_task):
    journal = Journal(lambda key: None)
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(TrainingError, match="random-4 diverged"):
        search(copy_task, journal)
    assert len(journal.fits) == MOST_DIVERGED


def test_a_seed_fixes_what_is_drawn(copy_task):
    def drawn(seed):
        journal = Journal()
        search(copy_task, journal, seed=seed)
        cores = [model.core for model, *_ in journal.fits.values()]
        return [[core.op_names(node) for node in range(len(core.nodes))] for core in cores]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({str(one) for one in drawn(1)}) > 1
    assert all(1 <= len(one) <= SPACE.max_nodes for one in drawn(1))


@pytest.mark.parametrize(("loss", "kept"), [(2.5, True), (2.0, True), (1.5, False)])
def test_the_start_is_kept_unless_a_genotype_is_accepted(copy_task, loss, kept):
    last = search(copy_task, Journal(lambda key: loss), genotypes=2)[-1]
    assert last.is_start == kept
    assert last.evaluation.metric == (START if kept else loss)
    assert last.steps == 40


@pytest.mark.parametrize("loss", [1.0, 3.0])
def test_a_refit_trains_the_best_again_and_nothing_where_the_start_is_kept(copy_task, loss):
    options = Options.model_validate({"accept": "better", "guard": False, "rates": [0.003, 0.01], "genotypes": 2})
    journal = Journal(lambda key: loss - 0.5 * (key == "random-1"))
    strategy, problem = RandomSearch(options), problem_of(copy_task, journal)
    *_, found = strategy.search(problem)
    refitted = problem_of(copy_task, journal)
    again = strategy.refit(refitted, found)
    if loss > START:
        assert list(journal.fits) == ["random-0", "random-1"]
        assert again.model.core.genotype == refitted.start.core.derive().genotype
        return
    model, task, recipe, seed = journal.fits["random-refit"]
    assert task is refitted.task
    assert (recipe.weights.rate, recipe.epochs, recipe.patience, seed) == (0.01, 4, None, 1)
    before = journal.fits["random-1"][0]
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        assert one.equal(other)  # the same start, as nothing was trained here
    assert (again.steps, again.seconds) == (found.steps + STEPS, found.seconds + 1.0)
    assert again.evaluation == found.evaluation


def test_it_can_be_given_one_rate(copy_task):
    strategy = RandomSearch(Options()).with_rate(0.5)
    journal = Journal()
    list(strategy.search(replace(problem_of(copy_task, journal), budget=Budget(genotypes=2))))
    assert {recipe.weights.rate for *_, recipe, _ in journal.fits.values()} == {0.5}


# ---- the space of DAGs


def test_of_dags_derived_cells_are_drawn_and_trained(copy_task):
    journal = Journal(lambda key: {"random-1": 0.5}.get(key, 1.0))
    strategy = RandomSearch(Options.model_validate({"accept": "better", "guard": False, "genotypes": 4}))
    problem = dag_problem_of(copy_task, journal)
    *_, last = strategy.search(problem)
    cells = [model.core for model, *_ in journal.fits.values()]
    assert all(isinstance(cell, GrownRNN) and problem.space.contains(cell.genotype) for cell in cells)
    assert len({cell.genotype for cell in cells}) > 1
    assert [one["genotype"] for one in last.scores] == [cell.genotype.to_dict() for cell in cells]
    found = journal.fits["random-1"][0]
    assert all(one.equal(other) for one, other in zip(last.model.parameters(), found.parameters(), strict=True))
    assert last.genotype == cells[1].genotype
    assert (last.chosen["nodes"], last.chosen["ops"]) == (len(cells[1].genotype.nodes),) * 2


@pytest.mark.parametrize("loss", [1.0, 3.0])
def test_of_dags_the_start_is_the_cell_that_is_read_out_and_the_best_is_refitted(copy_task, loss):
    journal = Journal(lambda key: loss - 0.5 * (key == "random-1"))
    strategy = RandomSearch(Options.model_validate({"accept": "better", "guard": False, "genotypes": 2}))
    problem = dag_problem_of(copy_task, journal)
    *_, found = strategy.search(problem)
    assert found.is_start == (loss > START)
    again = strategy.refit(problem, found)
    if found.is_start:
        expected = sum(one.numel() for one in problem.start.core.derive().parameters())
        assert found.params == expected + sum(one.numel() for one in problem.start.readout.parameters())
        assert found.genotype == again.genotype == DagGenotype.from_dict(problem.start.core.genotype().to_dict())
        return
    before, after = (journal.fits[key][0] for key in ("random-1", "random-refit"))
    assert before.core.genotype == after.core.genotype
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert one.equal(other)  # the same start, as nothing was trained here


# ---- successive halving


class Halved(Journal):
    """A journal whose fits have the epochs of their recipe, 10 steps an epoch."""

    def fit(self, key, model, task, recipe, *, seed, after=None, extendable=False):
        fit = super().fit(key, model, task, recipe, seed=seed)
        assert (after is None) or after in self.fits
        assert extendable == ("-to-" in key)
        epochs = min(recipe.epochs, 40)
        return replace(fit, epochs=epochs, best_epoch=epochs if extendable else epochs - 8, steps=10 * epochs)


def halve(copy_task, losses, *, budget=None, genotypes=9, **halving):
    """Search with a loss of each genotype; return what was found and the journal."""
    journal = Halved(lambda key: losses[int(key.split("-")[1])])
    options = {"accept": "better", "guard": False, "genotypes": genotypes, "max_epochs": 1000, "halving": halving}
    problem = problem_of(copy_task, journal, budget=budget or Budget())
    return list(RandomSearch(Options.model_validate(options)).search(problem)), journal


def test_of_a_batch_the_best_third_trains_three_times_as_long_and_the_last_to_its_end(copy_task):
    losses = [1.5, 1.2, 1.9, 1.1, 1.4, 1.8, 1.3, 1.7, 1.6]
    (found,), journal = halve(copy_task, losses)
    first = [f"random-{number}-to-3" for number in range(9)]
    assert list(journal.fits) == [*first, "random-3-to-9", "random-1-to-9", "random-6-to-9", "random-3"]
    assert found.steps == 10 * (6 * 3 + 2 * 9 + 40)  # of each trial its whole training, once
    assert found.evaluation.metric == 1.1
    assert found.settings == 9
    assert {line["number"]: line["reason"] for line in journal.lines} == {3: "patience"} | dict.fromkeys(
        [0, 1, 2, 4, 5, 6, 7, 8], "halving"
    )
    assert [line["number"] for line in journal.lines] == [4, 0, 8, 7, 5, 2, 1, 6, 3]  # as they ended
    assert {line["number"]: line["steps"] for line in journal.lines} == {3: 400, 1: 90, 6: 90} | dict.fromkeys(
        [0, 2, 4, 5, 7, 8], 30
    )
    assert [one["val"] for one in found.scores] == [line["val"] for line in journal.lines]


def test_a_diverged_genotype_leaves_its_batch_and_counts(copy_task):
    with pytest.warns(UserWarning, match="skipped: random-1-to-3 diverged"):
        (found,), journal = halve(copy_task, [1.5, None, 1.2], genotypes=3, candidates=3)
    assert list(journal.fits) == ["random-0-to-3", "random-1-to-3", "random-2-to-3", "random-2"]
    assert found.steps == 30 + 7 + 400
    assert found.settings == 3
    assert {line["number"]: line["reason"] for line in journal.lines} == {1: "diverged", 0: "halving", 2: "patience"}


def test_in_a_batch_only_genotypes_that_diverge_one_after_the_other_stop_the_search(copy_task):
    losses = [None, 1.5, *[None] * 4, 1.2, None, None]
    with pytest.warns(UserWarning, match="skipped"):
        (found,), _ = halve(copy_task, losses)
    assert (found.settings, len(found.scores)) == (9, 2)


def test_batches_follow_until_the_budget_ends_one(copy_task):
    losses = [1.5, 1.2, 1.9, 1.1, 1.4, 1.8]
    found, journal = halve(copy_task, losses, budget=Budget(steps=10 * (6 + 40 + 5)), candidates=3)
    keys = [f"random-{number}-to-3" for number in range(5)]
    assert list(journal.fits) == [*keys[:3], "random-1", *keys[3:]]
    assert [one.reason for one in found] == ["", "budget.steps = 510 reached"]
    assert [line["reason"] for line in journal.lines[3:]] == ["budget"] * 2
    assert [line["rate"] for line in journal.lines] == [0.001] * 3 + [0.003] * 2  # a batch has one rate
    assert found[-1].evaluation.metric == 1.1
    assert found[-1].log[0]["best_epoch"] == 3  # what a refit repeats


def test_a_limit_of_genotypes_shortens_the_last_batch(copy_task):
    found, journal = halve(copy_task, [1.5, 1.2, 1.9, 1.1], budget=Budget(genotypes=4), candidates=3)
    assert [one.settings for one in found] == [3, 4]
    assert list(journal.fits)[-2:] == ["random-3-to-3", "random-3"]


# ---- brief trials


def test_brief_trials_are_compared_and_the_best_is_trained_to_its_end(copy_task):
    journal = Halved(lambda key: {0: 1.4, 1: 1.2, 2: 1.3}[int(key.split("-")[1])])
    options = {"accept": "better", "guard": False, "genotypes": 3, "max_epochs": 1000, "trial_epochs": 5}
    *during, finished = RandomSearch(Options.model_validate(options)).search(problem_of(copy_task, journal))
    assert list(journal.fits) == [*(f"random-{number}-to-5" for number in range(3)), "random-1"]
    assert [one.steps for one in during] == [50, 100, 150]
    assert finished.steps == 2 * 50 + 400  # the best one's steps count once
    assert [line["reason"] for line in journal.lines] == ["trial_epochs"] * 3


@pytest.mark.filterwarnings("ignore:the best genotype keeps its weights after 5 epochs")
def test_a_best_trial_that_diverges_later_keeps_its_brief_training(copy_task):
    journal = Halved(lambda key: 1.2 if key.endswith("-to-5") else None)
    options = {"accept": "better", "guard": False, "genotypes": 1, "max_epochs": 1000, "trial_epochs": 5}
    *_, brief, finished = RandomSearch(Options.model_validate(options)).search(problem_of(copy_task, journal))
    assert finished.evaluation.metric == brief.evaluation.metric == 1.2
    assert list(journal.fits) == ["random-0-to-5", "random-0"]


def test_halving_decides_itself_how_long_a_trial_takes():
    with pytest.raises(ValueError, match="halving has its own epochs"):
        Options.model_validate({"halving": {}, "trial_epochs": 5})
