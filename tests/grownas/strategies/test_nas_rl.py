"""NAS-RL with rigged losses: the policy finds the best genotype, diverged ones count, and a killed search goes on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from grownas.genotype import Genotype
from grownas.space import SearchSpace
from grownas.strategies import nas_rl
from grownas.strategies.nas_rl import NasRl
from grownas.strategies.policy import Learner
from support.growing import dag_model_of, model_of
from support.growing import problem_of as trained_problem_of
from support.mortal import goes_on_after_a_kill
from support.sampling import Rigged, dag_problem_of, problem_of

SPACES = {  # of 16 and of 18 genotypes for the policy
    "chain": SearchSpace(("add", "hadamard"), ("identity", "tanh"), max_nodes=2),
    "dag": SearchSpace((), ("none", "tanh", "relu", "identity"), max_nodes=2, backbone="dag"),
}
BEST = {"chain": ["hadamard/tanh", "add/identity"], "dag": ["0/relu", "1/identity"]}
RULES = {"accept": "better", "guard": False, "max_nodes": 2}


def names_of(genotype):
    if genotype.to_dict()["backbone"] == "dag":
        return [f"{node.reads}/{node.activation}" for node in genotype.nodes]
    return [op.name for node in genotype.nodes for op in node.ops]


def rigged(copy_task, kind, loss, **options):
    make = dag_problem_of if kind == "dag" else problem_of
    problem = replace(make(copy_task, Rigged(loss)), space=SPACES[kind])
    strategy = NasRl(NasRl.section(**RULES, **options))
    return problem, list(strategy.search(problem))


@pytest.mark.parametrize("kind", SPACES)
def test_the_policy_finds_the_genotype_that_is_rigged_to_be_best(copy_task, kind):
    def loss(genotype):
        return 1.75 - sum(one == other for one, other in zip(names_of(genotype), BEST[kind], strict=True)) / 2

    problem, results = rigged(copy_task, kind, loss, genotypes=80 if kind == "chain" else 160)
    lines = problem.journal.lines
    is_best = [names_of(Genotype.from_dict(line["genotype"])) == BEST[kind] for line in lines]
    assert names_of(results[-1].genotype) == BEST[kind]
    assert sum(is_best[:20]) < 10 < 20 < sum(is_best[-30:])
    assert lines[0]["log_prob"] == pytest.approx(-math.log({"chain": 16, "dag": 18}[kind]), abs=0.01)
    assert lines[-1]["log_prob"] > -1


def test_each_genotype_teaches_the_policy_once_and_one_that_diverged_has_no_reward(copy_task, monkeypatch):
    taught = []

    class Noting(Learner):
        def learn(self, picks, losses):
            taught.append((picks.tolist(), losses, self.lowest))
            super().learn(picks, losses)

    monkeypatch.setattr(nas_rl, "Learner", Noting)
    diverging = {"hadamard/tanh", "hadamard/identity"}
    with pytest.warns(UserWarning, match="diverged"):
        problem, results = rigged(
            copy_task, "chain", lambda g: None if diverging & {names_of(g)[1]} else 1.0, genotypes=8
        )
    assert len(taught) == len(problem.journal.lines) == 8
    assert results[-1].settings == 8
    for (picks, losses, _), line in zip(taught, problem.journal.lines, strict=True):
        names = [problem.space.ops[number] for number in picks[0]]
        assert [(op["combine"], op["activation"]) for node in line["genotype"]["nodes"] for op in node["ops"]] == names
        assert losses == [math.inf if line["reason"] == "diverged" else 1.0]
    assert {line["reason"] for line in problem.journal.lines} > {"diverged"}


def test_a_batch_of_children_teaches_the_policy_once(copy_task, monkeypatch):
    taught = []

    class Noting(Learner):
        def learn(self, picks, losses):
            taught.append((len(picks), losses))
            super().learn(picks, losses)

    monkeypatch.setattr(nas_rl, "Learner", Noting)
    rigged(copy_task, "chain", lambda genotype: 1.0, genotypes=7, batch=3)
    assert taught == [(3, [1.0] * 3), (3, [1.0] * 3), (1, [1.0])]  # the limit cuts off the last batch


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("part", [0.2, 0.7])
def test_a_killed_search_goes_on_to_the_same_bits(copy_task, assert_equal, kind, part):
    task, space = copy_task(dropout=0.1), SPACES[kind]
    start = (dag_model_of if kind == "dag" else model_of)(task, [space.ops[-1]], seed=5)
    problem = trained_problem_of(start, task, None, space=space)
    options = {**RULES, "genotypes": 5, "max_epochs": 2, "patience": 2, "policy": {"rate": 0.05}}
    whole, again, cut = goes_on_after_a_kill(NasRl(NasRl.section(**options)).search, problem, part=part)
    assert cut.startswith("nas_rl-")
    for one, other in zip(whole, again, strict=True):
        assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))
        assert [score["genotype"] for score in one.scores] == [score["genotype"] for score in other.scores]


def test_a_seed_fixes_what_is_sampled_whatever_others_draw(copy_task):
    def found():
        problem, _ = rigged(copy_task, "chain", lambda genotype: 1.0, genotypes=6)
        return [line["genotype"] for line in problem.journal.lines]

    one = found()
    torch.manual_seed(77)
    assert found() == one
