"""Aging evolution with a scripted journal: who is drawn, who is a parent, who dies, and that a fitness is climbed."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.errors import ConfigError
from grownas.genotype import Genotype
from grownas.protocols import Budget
from grownas.space import SearchSpace
from grownas.strategies.evolution import Evolution, Population
from grownas.strategies.evolution_options import Options
from grownas.strategies.random_options import Options as RandomOptions
from grownas.strategies.random_search import RandomSearch
from support.sampling import DAG, SPACE, Rigged, dag_problem_of, problem_of, rigged_problem_of

RULES = {"accept": "better", "guard": False, "patience": 5}


@given(st.lists(st.floats(0, 9), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_a_population_keeps_its_size_its_oldest_dies_and_the_best_of_a_tournament_is_the_parent(
    losses, size, tournament, seed
):
    population = Population(size, tournament)
    for number, loss in enumerate(losses):
        assert population.room == max(0, size - number)
        population.add(SimpleNamespace(number=number, loss=loss))
        living = [one.number for one in population.living]
        assert living == list(range(max(0, number - size + 1), number + 1))
    parent = population.parent(random.Random(seed))
    drawn = random.Random(seed).choices(list(population.living), k=tournament)
    assert parent in drawn
    assert parent.loss == min(one.loss for one in drawn)


class Recording(SearchSpace):
    """A space that keeps the mutations that it made."""

    made = ()

    def mutate(self, genotype, rng):
        child = super().mutate(genotype, rng)
        type(self).made += ((genotype, child),)
        return child


def names_of(genotype):
    """A genotype without shares."""
    nodes = genotype.to_dict()["nodes"]
    return [[op["combine"] + op["activation"] for op in node["ops"]] if "ops" in node else node for node in nodes]


@pytest.mark.parametrize("make", [problem_of, dag_problem_of])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**20), size=st.integers(1, 4), tournament=st.integers(1, 4))
def test_a_child_is_a_mutation_of_a_living_parent(copy_task, make, seed, size, tournament):
    journal = Rigged(lambda genotype: float(len(genotype.nodes)) + 0.01 * len(journal.lines))
    options = Options(**RULES, population=size, tournament=tournament, genotypes=8)
    problem = make(copy_task, journal, seed=seed)
    problem, Recording.made = replace(problem, space=Recording(**asdict(problem.space))), ()
    *_, last = Evolution(options).search(problem)
    lines, cells = journal.lines, [Genotype.from_dict(line["genotype"]) for line in journal.lines]
    assert [line["number"] for line in lines] == list(range(8))
    assert all(problem.space.contains(cell) for cell in cells)
    assert [line["parent"] for line in lines[:size]] == [None] * size
    for number, (parent, child) in enumerate(Recording.made, size):
        mother = lines[number]["parent"]
        assert number - size <= mother < number  # it is one of the last `size`
        assert names_of(cells[mother]) == names_of(parent)
        assert names_of(cells[number]) == names_of(child)
    assert len(Recording.made) == 8 - size
    assert [one["parent"] for one in last.scores] == [line["parent"] for line in lines]


def test_the_children_of_a_batch_have_parents_from_one_population(copy_task):
    journal = Rigged(lambda genotype: 2.0 - 0.1 * len(journal.lines))  # the latest is the best
    options = Options(**RULES, population=3, tournament=200, genotypes=11, batch=4)
    list(Evolution(options).search(problem_of(copy_task, journal)))
    assert [line["parent"] for line in journal.lines] == [None] * 3 + [2] * 4 + [6] * 4


def test_a_genotype_that_diverged_is_no_parent_beside_another(copy_task):
    journal = Rigged(lambda genotype: None if len(journal.lines) in (1, 2) else 1.0)
    options = Options(**RULES, population=3, tournament=200, genotypes=5)
    with pytest.warns(UserWarning, match="skipped: evolution-[12] diverged"):
        *_, last = Evolution(options).search(problem_of(copy_task, journal))
    assert [line["parent"] for line in journal.lines] == [None, None, None, 0, 3]
    assert (last.settings, len(last.scores)) == (5, 3)


@pytest.mark.parametrize(("backbone", "genotypes"), [("chain", 50), ("dag", 100)])
def test_a_rigged_fitness_is_climbed(copy_task, backbone, genotypes):
    """Evolution ends lower than random search with as many genotypes, whatever the seed."""

    def lowest(strategy, seed):
        *_, last = strategy.search(rigged_problem_of(copy_task, backbone, seed))
        return min(one["val"] for one in last.scores)

    evolution = Evolution(Options(**RULES, population=10, tournament=4, genotypes=genotypes))
    drawn = RandomSearch(RandomOptions(**RULES, genotypes=genotypes, rates=()))
    found = [(lowest(evolution, seed), lowest(drawn, seed)) for seed in range(3)]
    assert all(one < other for one, other in found), found


def test_a_search_that_ends_before_its_population_is_full_says_so(copy_task):
    strategy = Evolution(Options(**RULES, population=4))
    with pytest.warns(UserWarning, match="trained 4 genotypes, all drawn at random: the first strategy.population=4"):
        list(strategy.search(problem_of(copy_task, Rigged(lambda genotype: 1.0), budget=Budget(genotypes=4))))


def test_a_space_of_one_genotype_is_refused():
    Evolution(Options()).check_space(SPACE)
    Evolution(Options()).check_space(DAG)
    with pytest.raises(ConfigError, match="nothing can be mutated"):
        Evolution(Options()).check_space(SearchSpace(("add",), ("tanh",), max_nodes=1, max_ops=1))
