"""SeqNAS with a scripted journal: rounds, what is predicted and reported, teachers, and that a fitness is climbed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from grownas.encoding import Encoding
from grownas.genotype import Genotype
from grownas.protocols import Budget
from grownas.space import SearchSpace
from grownas.strategies.random_options import Options as RandomOptions
from grownas.strategies.random_search import RandomSearch
from grownas.strategies.seqnas import SeqNas
from grownas.strategies.seqnas_options import Options
from grownas.training.distil import Distilled
from support.sampling import Rigged, problem_of, rigged_problem_of

RULES = {"accept": "better", "guard": False, "patience": 5}
SMALL = {**RULES, "initial": 5, "candidates": 12, "per_round": 3, "predictors": 2}


def search(problem, **options):
    """Search; return the results, and the lines of trials.jsonl."""
    found = list(SeqNas(Options(**{**SMALL, **options})).search(problem))
    return found, problem.journal.lines


@pytest.mark.parametrize("backbone", ["chain", "dag"])
def test_rounds_follow_the_drawn_genotypes_and_report_what_was_predicted(copy_task, backbone):
    problem = rigged_problem_of(copy_task, backbone, 4)
    found, lines = search(problem, genotypes=12)
    assert [line["number"] for line in lines] == list(range(12))
    assert [line["round"] for line in lines] == [0] * 5 + [1] * 3 + [2] * 3 + [3]
    assert [line["predicted"] is None for line in lines] == [True] * 5 + [False] * 7
    for number in (1, 2):
        *before, last = [line for line in lines if line["round"] == number]
        predicted, true = ([line[key] for line in (*before, last)] for key in ("predicted", "val"))
        assert last["rank_correlation"] == pytest.approx(stats.spearmanr(predicted, true).statistic, nan_ok=True)
        assert [line["rank_correlation"] for line in before] == [None] * 2
    assert lines[-1]["rank_correlation"] is None  # of a single value
    scored = [[one[key] for key in ("round", "predicted", "rank_correlation")] for one in found[-1].scores]
    assert scored == [[line[key] for key in ("round", "predicted", "rank_correlation")] for line in lines]
    encoding = Encoding(problem.space)
    codes = [encoding.encode(Genotype.from_dict(line["genotype"])).tobytes() for line in lines]
    assert len(set(codes)) == 12  # none is trained twice


@pytest.mark.parametrize(("backbone", "genotypes"), [("chain", 50), ("dag", 60)])
def test_a_rigged_fitness_is_found_and_predicted(copy_task, backbone, genotypes):
    """SeqNAS ends lower than random search with as many genotypes, or as low, whatever the seed."""
    found, correlations = [], []
    for seed in range(2):
        results, lines = search(
            rigged_problem_of(copy_task, backbone, seed),
            genotypes=genotypes, initial=20, candidates=300, per_round=10, predictors=5, distil=False,
        )  # fmt: skip
        correlations += [line["rank_correlation"] for line in lines if line["rank_correlation"] is not None]
        strategy = RandomSearch(RandomOptions(**RULES, genotypes=genotypes, rates=()))
        *_, drawn = strategy.search(rigged_problem_of(copy_task, backbone, seed))
        found.append([min(one["val"] for one in last.scores) for last in (results[-1], drawn)])
    assert all(one <= other for one, other in found), found
    assert sum(one - other for one, other in found) <= -2, found
    assert np.mean(correlations) > 0.2


def test_the_best_models_of_earlier_rounds_teach(copy_task):
    problem = problem_of(copy_task, Rigged(lambda genotype: 1.5 - 0.01 * ((7 * len(problem.journal.fits)) % 11)))
    _, lines = search(problem, genotypes=11, teachers=2, distillation=0.4, temperature=3.0)
    fits = problem.journal.fits
    assert all(fits[f"seqnas-{number}"][1] is problem.task for number in range(5))
    for number in range(5, 11):
        task = fits[f"seqnas-{number}"][1]
        assert isinstance(task, Distilled)
        assert (task.task, task.part, task.weight, task.temperature) == (problem.task, "train", 0.4, 3.0)
        best = sorted(range(5 if number < 8 else 8), key=lambda one: lines[one]["val"])[:2]
        teachers = [fits[f"seqnas-{one}"][0] for one in best]
        for teacher, model in zip(task.teacher.models, teachers, strict=True):
            assert all(a.equal(b) for a, b in zip(teacher.parameters(), model.parameters(), strict=True))


def test_the_best_genotype_is_trained_to_its_end_without_teachers(copy_task):
    problem = problem_of(copy_task, Rigged(lambda genotype: 1.5 - 0.01 * len(problem.journal.fits)))
    _, lines = search(problem, genotypes=8, trial_epochs=2, patience=50)
    assert min(lines, key=lambda line: line["val"])["number"] == 7  # a taught one
    fits = problem.journal.fits
    assert isinstance(fits["seqnas-7-to-2"][1], Distilled)
    assert fits["seqnas-7"][1] is problem.task


def test_distillation_is_a_switch(copy_task):
    problem = rigged_problem_of(copy_task, "chain", 1)
    search(problem, genotypes=8, distil=False)
    assert all(task is problem.task for _, task, _, _ in problem.journal.fits.values())


def test_a_space_of_two_genotypes_is_searched_on(copy_task):
    problem = problem_of(copy_task, Rigged(lambda genotype: 1.0))
    problem = replace(problem, space=SearchSpace(("add",), ("tanh", "relu"), max_nodes=1, max_ops=1))
    _, lines = search(problem, genotypes=7, initial=9)
    assert [line["round"] for line in lines] == [0, 0, 1, 1, 1, 2, 2]
    assert all(line["predicted"] is line["rank_correlation"] is None for line in lines)  # none is left to predict


def test_a_space_of_one_genotype_is_trained_again_and_again(copy_task):
    problem = problem_of(copy_task, Rigged(lambda genotype: 1.0))
    problem = replace(problem, space=SearchSpace(("add",), ("tanh",), max_nodes=1, max_ops=1))
    _, lines = search(problem, genotypes=5)
    assert [line["round"] for line in lines] == [0, 1, 1, 1, 2]


def test_what_diverged_teaches_nobody_and_the_predictors_still_learn(copy_task):
    problem = problem_of(copy_task, Rigged(lambda genotype: None if len(problem.journal.lines) in (0, 3) else 1.0))
    with pytest.warns(UserWarning, match="skipped: seqnas-[03] diverged"):
        found, lines = search(problem, genotypes=9)
    assert [line["reason"] for line in lines].count("diverged") == 2
    assert all(np.isfinite(line["predicted"]) for line in lines[5:])
    assert len(problem.journal.fits["seqnas-8"][1].teacher.models) == 3
    assert found[-1].steps == 7 * 20 + 2 * 7


def test_a_search_that_ends_before_the_first_round_says_so(copy_task):
    problem = replace(rigged_problem_of(copy_task, "chain", 1), budget=Budget(genotypes=5))
    with pytest.warns(UserWarning, match=r"trained 5 genotypes, all drawn at random: the first strategy.initial=5"):
        search(problem)
