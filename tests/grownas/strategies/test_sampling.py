"""The common part of strategies that train each genotype on its own, with a scripted journal: trials and their log."""

from __future__ import annotations

import math
import random
import warnings
from dataclasses import replace
from itertools import count

import pytest

from grownas.errors import TrainingError
from grownas.protocols import Budget
from grownas.strategies.evolution import Evolution
from grownas.strategies.nas_rl import NasRl
from grownas.strategies.random_options import Options
from grownas.strategies.random_search import RandomSearch
from grownas.strategies.sampling import MOST_DIVERGED, Sampling
from grownas.strategies.seqnas import SeqNas
from support.sampling import SPACE, Ahead, Journal, Rigged, problem_of, rigged_problem_of

LOSSES = {"mine-0": 1.5, "mine-1": None, "mine-2": 0.5, "mine-3": 1.0}


def sampling_of(copy_task, journal, **options):
    options = Options.model_validate({"accept": "better", "guard": False, "rates": [0.003, 0.01], **options})
    return Sampling("mine", problem_of(copy_task, journal), options)


def test_each_trial_is_logged_with_its_cost_and_why_it_ended(copy_task):
    journal = Journal(LOSSES.get)
    sampling, rng = sampling_of(copy_task, journal, patience=5), random.Random(3)
    genotypes = [SPACE.sample(rng) for _ in range(4)]
    with pytest.warns(UserWarning, match="skipped: mine-1 diverged"):
        trials = [sampling.train(one, notes={"parent": 7}) for one in genotypes]
    lines = journal.lines
    assert [line["number"] for line in lines] == [0, 1, 2, 3]
    assert [line["part"] for line in lines] == list(journal.fits)
    assert [line["val"] for line in lines] == [1.5, math.inf, 0.5, 1.0]
    assert [line["best"] for line in lines] == [1.5, 1.5, 0.5, 0.5]
    assert [line["steps"] for line in lines] == [20, 7, 20, 20]
    assert [line["reason"] for line in lines] == ["patience", "diverged", "patience", "patience"]  # epoch 9, best 4
    assert [line["rate"] for line in lines] == [0.003, 0.01, 0.003, 0.01]
    assert [line["wall_s"] for line in lines] == [1.0, 2.0, 3.0, 4.0]
    assert [line["genotype"] for line in lines] == [one.to_dict() for one in genotypes]
    for line, trial in zip(lines, trials, strict=True):
        model = journal.fits[trial.key][0]
        assert line["params"] == sum(one.numel() for one in model.parameters())
        assert line["parent"] == 7
        assert trial.genotype == genotypes[trial.number]
    assert sampling.trials == trials
    assert sampling.best is trials[2]


def test_a_trial_that_reaches_its_last_epoch_says_so(copy_task):
    journal = Journal()
    sampling_of(copy_task, journal, patience=6).train(SPACE.sample(random.Random(1)))
    assert journal.lines[0]["reason"] == "epochs"  # of 9 epochs the fourth was the best


def test_only_genotypes_that_diverge_one_after_the_other_stop_a_search(copy_task):
    journal = Journal(lambda key: 1.0 if key == f"mine-{MOST_DIVERGED - 1}" else None)
    sampling, rng = sampling_of(copy_task, journal), random.Random(1)

    def train(count):
        for _ in range(count):
            sampling.train(SPACE.sample(rng))

    with pytest.warns(UserWarning, match="skipped"):
        train(2 * MOST_DIVERGED - 1)
    with pytest.raises(TrainingError, match=f"mine-{2 * MOST_DIVERGED - 1} diverged"):
        train(1)
    assert len(journal.lines) == 2 * MOST_DIVERGED  # the last one, too


def test_another_task_trains_a_genotype_and_the_problems_judges_it(copy_task):
    journal = Journal(lambda key: 1.0)
    sampling, other = sampling_of(copy_task, journal), copy_task()
    sampling.train(SPACE.sample(random.Random(1)), task=other)
    assert journal.fits["mine-0"][1] is other
    assert sampling.result().evaluation.metric == 1.0


def test_several_trials_are_trained_until_the_limit(copy_task):
    sampling, rng = sampling_of(copy_task, Journal(), genotypes=3), random.Random(1)
    drawn = (sampling.begin(SPACE.sample(rng)) for _ in count())
    assert [trial.number for trial in sampling.train_all(drawn)] == [0, 1, 2]
    assert sampling.limit == "strategy.genotypes = 3 reached"
    assert len(sampling.problem.journal.lines) == 3


SEARCHES = {
    "random": (RandomSearch, {"rates": ()}),
    "halving": (RandomSearch, {"rates": (), "halving": {"candidates": 7, "first_epochs": 1, "reduction_factor": 2}}),
    "evolution": (Evolution, {"population": 8, "tournament": 3, "batch": 3}),
    "seqnas": (SeqNas, {"initial": 6, "candidates": 12, "per_round": 4, "predictors": 2, "distil": False}),
    "nas_rl": (NasRl, {"batch": 4, "max_nodes": 3}),
}


@pytest.mark.parametrize("budget", [Budget(steps=19 * 20 - 13), Budget(seconds=18.5)], ids=["steps", "seconds"])
@pytest.mark.parametrize("name", SEARCHES)
def test_how_many_are_trained_at_once_changes_nothing(copy_task, name, budget):
    kind, options = SEARCHES[name]
    strategy = kind(kind.section.model_validate({"accept": "better", "guard": False, "patience": 9, **options}))

    def loss(genotype):
        ops = [op.name for node in genotype.nodes for op in node.ops]
        return 1.0 + ops.count("add/relu") - ops.count("add/tanh") / 4 if len(ops) != 5 else None

    def search(journal):
        problem = replace(rigged_problem_of(copy_task, "chain", 3), journal=journal, budget=budget)
        found = [(one.steps, one.seconds, one.evaluation.metric, one.reason) for one in strategy.search(problem)]
        return found, journal.lines

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of genotypes that diverge
        whole = search(Rigged(loss))
        assert len(whole[1]) >= 19 or name == "halving"  # one that diverges takes few steps
        for ahead in (3, 16):
            assert search(Ahead(loss, ahead)) == whole
